"""A stream without `await`: its calls of the driver, and what its reader gets."""

from time import monotonic
from typing import Any

import pytest

from phx_transports.blocking.streams import EventStream, MessageStream
from phx_transports.client.queues import Queue


class Driver:
    """Gives what waits, and writes down what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def open(self, queue: Queue[Any]) -> None:
        self.asked.append(("open", queue))

    def close(self, queue: Queue[Any]) -> None:
        self.asked.append(("close", queue))

    def take(self, queue: Queue[Any], deadline: float) -> Any:
        self.asked.append(deadline - monotonic())
        if not queue.waiting:
            raise TimeoutError
        return queue.take()


def test_it_is_open_in_its_block_and_gives_what_is_accepted_of_what_comes() -> None:
    driver: Any = Driver()
    queue: Queue[int] = Queue("numbers", lambda number: number * 10 if number % 2 else None)
    queue.waiting += [1, 2, 3]
    with MessageStream(queue, driver, timeout=None) as stream:
        assert [next(iter(stream)), stream.next()] == [10, 30]
    assert (driver.asked[0], driver.asked[-1]) == (("open", queue), ("close", queue))
    assert driver.asked[1:-1] == [float("inf")] * 3
    plain: Queue[int] = Queue("numbers")
    plain.waiting.append(0)
    assert MessageStream(plain, driver, timeout=None).next() == 0


@pytest.mark.parametrize("of_the_call", [False, True])
def test_the_wait_for_an_item_has_an_end(of_the_call: bool) -> None:
    driver: Any = Driver()
    stream = EventStream(Queue("events"), driver, timeout=None if of_the_call else 5.0)
    with pytest.raises(TimeoutError):
        stream.next(timeout=5.0) if of_the_call else next(stream)
    assert driver.asked == [pytest.approx(5.0, abs=1.0)]
    assert stream.dropped == 0
