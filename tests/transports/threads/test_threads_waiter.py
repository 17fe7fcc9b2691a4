"""What a thread waits on: it ends once, and then wakes the thread."""

from collections.abc import Callable

import pytest

from phx_transports.threads.waiter import BlockedThread


def at_once(call: Callable[[], None]) -> None:
    call()


def test_it_gives_what_the_call_ended_with() -> None:
    waiter = BlockedThread(at_once)
    assert not waiter.done()
    waiter.set_result(5)
    assert waiter.done()
    waiter.wait(0.0)
    assert waiter.result() == 5


def test_it_raises_what_the_call_ended_with() -> None:
    waiter = BlockedThread(at_once)
    waiter.set_exception(KeyError("no"))
    assert waiter.done()
    waiter.wait(None)
    with pytest.raises(KeyError, match="no"):
        waiter.result()


def test_a_thread_is_woken_later_than_its_call_ends() -> None:
    later: list[Callable[[], None]] = []
    waiter = BlockedThread(later.append)
    waiter.set_result(None)
    with pytest.raises(TimeoutError):
        waiter.wait(0.01)
    later.pop()()
    waiter.wait(0.0)
    assert later == []
