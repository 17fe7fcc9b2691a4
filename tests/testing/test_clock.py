"""The clock of a test."""

from math import inf, nan
from typing import Any

import pytest

from phx_transports.testing import Clock


def test_what_is_due_is_called_in_order_each_at_its_time() -> None:
    clock, called = Clock(), list[tuple[str, float]]()
    clock.call_at(3.0, lambda: called.append(("third", clock.now())))
    clock.call_at(1.0, lambda: called.append(("first", clock.now())))
    clock.call_at(1.0, lambda: called.append(("second", clock.now())))
    clock.advance(10.0)
    assert called == [("first", 1.0), ("second", 1.0), ("third", 3.0)]
    assert clock.now() == 10.0


def test_what_is_not_due_waits() -> None:
    clock, called = Clock(), list[int]()
    clock.call_at(1.0, lambda: called.append(1))
    clock.advance(0.999)
    assert not called


def test_what_a_timer_sets_off_is_due_within_the_same_advance() -> None:
    clock, called = Clock(), list[float]()
    clock.call_at(1.0, lambda: clock.call_at(2.0, lambda: called.append(clock.now())))
    clock.advance(2.0)
    assert called == [2.0]


def test_a_cancelled_timer_is_not_called() -> None:
    clock, called = Clock(), list[int]()
    clock.call_at(1.0, lambda: called.append(1)).cancel()
    clock.advance(2.0)
    assert not called


def test_things_come_to_rest_between_one_due_time_and_the_next() -> None:
    clock, rests = Clock(), list[float]()
    clock.between(lambda: rests.append(clock.now()))
    clock.call_at(1.0, lambda: None)
    clock.advance(2.0)
    assert rests == [0.0, 1.0, 2.0]


def test_timers_without_end_are_an_error() -> None:
    clock = Clock()

    def again() -> None:
        clock.call_at(clock.now(), again)

    again()
    with pytest.raises(RuntimeError, match="timers set each other anew without end"):
        clock.advance(1.0)


@pytest.mark.parametrize("seconds", [nan, inf, True, "1"])
def test_time_that_is_none_does_not_pass(seconds: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="the time that passes is"):
        Clock().advance(seconds)


def test_time_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="the time that passes is zero or positive, finite seconds, not -1"):
        Clock().advance(-1)
