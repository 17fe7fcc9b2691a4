from sys import getsizeof

from phx_proto.joins import JoinQueue


class Asker:
    """Somebody who wants to join, and remembers when it was let."""

    def __init__(self) -> None:
        self.starts: list[float] = []

    def start_join(self, now: float) -> None:
        self.starts.append(now)


def askers(count: int) -> list[Asker]:
    return [Asker() for _ in range(count)]


def starts(askers: list[Asker]) -> list[list[float]]:
    return [asker.starts for asker in askers]


def opened(limit: int) -> JoinQueue[Asker]:
    queue = JoinQueue[Asker](limit)
    queue.open([], 0.0)
    return queue


def test_below_the_limit_a_join_starts_at_once() -> None:
    asker = Asker()
    opened(1).ask(asker, 3.0)
    assert asker.starts == [3.0]


def test_the_opening_starts_as_many_as_the_limit_allows_in_their_order() -> None:
    first, second, third = waiting = askers(3)
    JoinQueue[Asker](2).open([first, second, third], 5.0)
    assert starts(waiting) == [[5.0], [5.0], []]


def test_each_one_that_is_done_lets_the_next_start() -> None:
    first, second, third = waiting = askers(3)
    queue = opened(1)
    for asker in waiting:
        queue.ask(asker, 1.0)
    queue.done(first, 2.0)
    assert starts(waiting) == [[1.0], [2.0], []]
    queue.done(second, 4.0)
    assert third.starts == [4.0]


def test_one_that_gives_up_while_it_waits_never_starts() -> None:
    first, second, _ = waiting = askers(3)
    queue = opened(1)
    for asker in waiting:
        queue.ask(asker, 1.0)
    queue.done(second, 2.0)
    queue.done(first, 3.0)
    assert starts(waiting) == [[1.0], [], [3.0]]


def test_one_that_was_never_there_may_be_done() -> None:
    queue = opened(1)
    queue.done(Asker(), 1.0)
    asker = Asker()
    queue.ask(asker, 2.0)
    assert asker.starts == [2.0]


def test_one_that_asks_again_after_it_was_done_goes_to_the_end() -> None:
    first, second = waiting = askers(2)
    queue = opened(1)
    for asker in waiting:
        queue.ask(asker, 1.0)
    queue.done(first, 2.0)
    queue.ask(first, 2.0)
    assert starts(waiting) == [[1.0], [2.0]]
    queue.done(second, 3.0)
    assert first.starts == [1.0, 3.0]


def test_once_it_is_stopped_nothing_starts() -> None:
    first, second, third = waiting = askers(3)
    queue = opened(1)
    queue.ask(first, 1.0)
    queue.ask(second, 1.0)
    queue.stopped = True
    queue.done(first, 2.0)
    queue.ask(third, 2.0)
    assert starts(waiting) == [[1.0], [], []]


def test_the_suspects_of_a_message_that_was_too_big_join_first_and_one_by_one() -> None:
    first, second, third = waiting = askers(3)
    queue = opened(2)
    queue.ask(second, 1.0)
    queue.ask(third, 1.0)
    queue = JoinQueue(2, queue.suspects(too_big=True))
    queue.open([first, second, third], 2.0)
    assert starts(waiting) == [[], [1.0, 2.0], [1.0]]
    queue.done(second, 3.0)
    queue.done(third, 4.0)
    assert starts(waiting) == [[4.0], [1.0, 2.0], [1.0, 3.0]]


def test_suspects_are_kept_over_a_connection_that_ends_for_another_reason() -> None:
    suspect = Asker()
    assert list(JoinQueue(2, {suspect: None}).suspects(too_big=False)) == [suspect]


def test_joins_that_end_while_they_start_let_the_next_ones_start_however_many_they_are() -> None:
    queue = JoinQueue[Asker](1)

    class EndsAtOnce(Asker):
        def start_join(self, now: float) -> None:
            super().start_join(now)
            queue.done(self, now)

    waiting: list[Asker] = [EndsAtOnce() for _ in range(10_000)]
    queue.open([*waiting], 1.0)
    assert starts(waiting) == [[1.0]] * 10_000


def test_a_queue_that_is_empty_again_returns_its_memory() -> None:
    queue = JoinQueue[Asker](10_000)
    empty = getsizeof(queue._waiting)
    queue.open(askers(10_000), 1.0)
    assert getsizeof(queue._waiting) <= empty


def test_those_that_wait_can_be_sent_away_and_the_next_to_ask_gets_the_next_turn() -> None:
    first, second, third, fourth = waiting = askers(4)
    queue = JoinQueue[Asker](1)
    queue.open([first, second, third], 1.0)
    assert queue.dismiss() == [second, third]
    queue.ask(fourth, 2.0)
    queue.done(first, 3.0)
    assert starts(waiting) == [[1.0], [], [], [3.0]]
