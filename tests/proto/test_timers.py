import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.timers import Action, Timer, Timers


def nothing(now: float) -> None:
    pass


def note(value: int, ran: list[int]) -> Action:
    return lambda _: ran.append(value)


def test_without_timers_there_is_no_next_deadline() -> None:
    timers = Timers()
    assert timers.next() is None
    assert len(timers) == 0


def test_next_is_the_earliest_deadline() -> None:
    timers = Timers()
    for deadline in (3.0, 1.0, 2.0):
        timers.at(deadline, nothing)
    assert timers.next() == 1.0
    assert len(timers) == 3


def test_next_skips_cancelled_timers() -> None:
    timers = Timers()
    first, second, _third = (timers.at(deadline, nothing) for deadline in (1.0, 2.0, 3.0))
    second.cancel()
    assert timers.next() == 1.0
    first.cancel()
    assert timers.next() == 3.0
    assert len(timers) == 1


def test_cancelling_twice_is_cancelling_once() -> None:
    timers = Timers()
    timer = timers.at(1.0, nothing)
    timers.at(2.0, nothing)
    timer.cancel()
    timer.cancel()
    assert len(timers) == 1


def test_cancelling_a_timer_that_ran_does_nothing() -> None:
    timers = Timers()
    timer = timers.at(1.0, nothing)
    timers.at(2.0, nothing)
    timers.fire(1.0)
    timer.cancel()
    assert len(timers) == 1
    assert timers.next() == 2.0


def test_an_action_gets_the_time_of_the_call() -> None:
    timers = Timers()
    ran: list[float] = []
    timers.at(1.0, ran.append)
    timers.fire(1.5)
    assert ran == [1.5]


def test_fire_runs_what_is_due_and_leaves_the_rest() -> None:
    timers = Timers()
    ran: list[int] = []
    for deadline in (2, 1, 3):
        timers.at(deadline, note(deadline, ran))
    timers.fire(2)
    assert ran == [1, 2]
    assert timers.next() == 3
    assert len(timers) == 1


def test_timers_of_one_deadline_run_in_the_order_in_which_they_were_set() -> None:
    timers = Timers()
    ran: list[int] = []
    for number in range(20):
        timers.at(1.0, note(number, ran))
    timers.fire(1.0)
    assert ran == list(range(20))


def test_a_timer_runs_once() -> None:
    timers = Timers()
    ran: list[float] = []
    timers.at(1.0, ran.append)
    timers.fire(1.0)
    timers.fire(2.0)
    assert ran == [1.0]


def test_firing_early_does_nothing() -> None:
    timers = Timers()
    ran: list[float] = []
    timers.at(1.0, ran.append)
    timers.fire(0.999)
    assert ran == []
    assert len(timers) == 1


def test_an_action_may_cancel_one_that_is_due_too() -> None:
    timers = Timers()
    ran: list[float] = []
    timers.at(1.0, lambda _: second.cancel())
    second = timers.at(2.0, ran.append)
    timers.fire(3.0)
    assert ran == []
    assert len(timers) == 0
    assert timers.next() is None


def test_an_action_may_cancel_one_that_is_not_due() -> None:
    timers = Timers()
    timers.at(1.0, lambda _: later.cancel())
    later = timers.at(9.0, nothing)
    timers.fire(1.0)
    assert timers.next() is None


def test_an_action_that_sets_itself_anew_in_the_past_waits_for_the_next_fire() -> None:
    timers = Timers()
    ran: list[float] = []

    def again(now: float) -> None:
        ran.append(now)
        timers.at(0.0, again)

    timers.at(1.0, again)
    timers.fire(1.0)
    assert ran == [1.0]
    assert timers.next() == 0.0
    timers.fire(2.0)
    assert ran == [1.0, 2.0]


def test_an_action_that_raises_leaves_those_behind_it_set() -> None:
    timers = Timers()
    ran: list[float] = []

    def broken(now: float) -> None:
        cancelled.cancel()
        raise RuntimeError

    timers.at(1.0, broken)
    cancelled = timers.at(2.0, ran.append)
    timers.at(3.0, ran.append)
    with pytest.raises(RuntimeError):
        timers.fire(3.0)
    assert timers.next() == 3.0
    assert len(timers) == 1
    timers.fire(4.0)
    assert ran == [4.0]


def test_answered_pushes_do_not_pile_up_behind_an_earlier_deadline() -> None:
    timers = Timers()
    timers.at(5.0, nothing)
    most = 0
    for number in range(10_000):
        timers.at(10.0 + number / 50_000, nothing).cancel()
        most = max(most, held(timers))
    assert most < 100
    assert timers.next() == 5.0


def test_the_dead_never_outnumber_the_living_by_more_than_a_few() -> None:
    timers = Timers()
    pushes = [timers.at(10.0 + number, nothing) for number in range(1_000)]
    for number, push in enumerate(reversed(pushes)):  # the last first, so that none is at the top
        push.cancel()
        assert len(timers) == 999 - number
        assert held(timers) <= 2 * len(timers) + 65


def held(timers: Timers) -> int:
    """How many entries are kept, dead ones included."""
    return len(timers._heap)


steps = st.lists(
    st.tuples(st.sampled_from(["at", "cancel", "fire"]), st.integers(0, 12)),
    max_size=200,
)


@given(steps)
def test_timers_behave_like_a_sorted_list(script: list[tuple[str, int]]) -> None:
    timers = Timers()
    made: list[Timer] = []
    model: list[tuple[int, int]] = []  # (deadline, number), live ones
    ran: list[int] = []
    expected: list[int] = []
    for what, value in script:
        if what == "at":
            number = len(made)
            made.append(timers.at(value, note(number, ran)))
            model.append((value, number))
        elif what == "cancel" and made:
            number = value * 7919 % len(made)
            made[number].cancel()
            model = [entry for entry in model if entry[1] != number]
        elif what == "fire":
            expected += [number for deadline, number in sorted(model) if deadline <= value]
            model = [entry for entry in model if entry[0] > value]
            timers.fire(value)
        assert ran == expected
        assert len(timers) == len(model)
        assert timers.next() == min((deadline for deadline, _ in model), default=None)
