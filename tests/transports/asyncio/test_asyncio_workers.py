import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from phx_transports.asyncio.workers import WorkerPool

pytestmark = pytest.mark.asyncio


def each(drain: Callable[[str], Awaitable[None]]) -> Callable[[deque[str]], Awaitable[None]]:
    async def drain_each(queue: deque[str]) -> None:
        while queue:
            await drain(queue.popleft())

    return drain_each


@asynccontextmanager
async def pool_of(drain: Callable[[str], Awaitable[None]]) -> AsyncIterator[WorkerPool[str]]:
    pool = WorkerPool(each(drain))
    try:
        yield pool
    finally:
        await pool.close()
    assert pool.size == 0


class Drain:
    """Writes down what it drained; some channels stop at a gate."""

    def __init__(self, *gated: str) -> None:
        self.log: list[str] = []
        self.workers: set[object] = set()
        self.gates = {channel: asyncio.Event() for channel in gated}
        self.done: dict[str, asyncio.Event] = {}

    async def __call__(self, channel: str) -> None:
        self.workers.add(asyncio.current_task())
        self.log.append(channel)
        if channel in self.gates:
            await self.gates[channel].wait()
            self.log.append(f"{channel} after")
        self.finished(channel).set()

    def finished(self, channel: str) -> asyncio.Event:
        return self.done.setdefault(channel, asyncio.Event())


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 5)


async def test_channels_are_drained_in_the_order_of_adding() -> None:
    drain = Drain()
    async with pool_of(drain) as pool:
        for channel in "abc":
            pool.add([channel])
        await wait(drain.finished("c"))
    assert drain.log == ["a", "b", "c"]


async def test_nothing_runs_inside_add() -> None:
    drain = Drain()
    async with pool_of(drain) as pool:
        pool.add(["a"])
        assert drain.log == []
        await wait(drain.finished("a"))


async def test_handlers_that_do_not_suspend_need_one_worker() -> None:
    drain = Drain()
    async with pool_of(drain) as pool:
        for channel in "abc":
            pool.add([channel])
        await wait(drain.finished("c"))
        pool.add(["d"])
        await wait(drain.finished("d"))
        assert len(drain.workers) == 1


async def test_a_suspended_handler_is_relieved() -> None:
    drain = Drain("a")
    async with pool_of(drain) as pool:
        pool.add(["a"])
        pool.add(["b"])
        pool.add(["c"])
        await wait(drain.finished("c"))
        assert drain.log == ["a", "b", "c"]
        drain.gates["a"].set()
        await wait(drain.finished("a"))
    assert drain.log == ["a", "b", "c", "a after"]


async def test_a_channel_added_while_all_are_suspended_is_drained() -> None:
    drain = Drain("a")
    async with pool_of(drain) as pool:
        pool.add(["a"])
        pool.add(["b"])
        await wait(drain.finished("b"))
        pool.add(["c"])
        await wait(drain.finished("c"))


async def test_all_may_be_suspended_at_once() -> None:
    names = [f"t{n}" for n in range(50)]
    drain = Drain(*names)
    async with pool_of(drain) as pool:
        for channel in names:
            pool.add([channel])
        pool.add(["last"])
        await wait(drain.finished("last"))
        for gate in drain.gates.values():
            gate.set()
        for channel in names:
            await wait(drain.finished(channel))


async def test_one_idle_worker_stays_parked() -> None:
    drain = Drain("a", "b")
    async with pool_of(drain) as pool:
        for channel in "abc":
            pool.add([channel])
        await wait(drain.finished("c"))
        assert pool.size == 3
        for channel in "ab":
            drain.gates[channel].set()
            await wait(drain.finished(channel))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert pool.size == 1


async def test_a_channel_may_add_itself_again() -> None:
    left = 3
    done = asyncio.Event()

    async def drain(channel: str) -> None:
        nonlocal left
        left -= 1
        if left:
            pool.add([channel])
        else:
            done.set()

    async with pool_of(drain) as pool:
        pool.add(["a"])
        await wait(done)


async def test_a_worker_that_fails_is_told_to_the_loop_and_work_goes_on() -> None:
    done = asyncio.Event()
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

    async def drain(channel: str) -> None:
        if channel == "bad":
            raise ValueError(channel)
        done.set()

    async with pool_of(drain) as pool:
        pool.add(["bad", "good"])
        await wait(done)
        assert pool.size == 1
    assert [str(context["exception"]) for context in told] == ["bad"]


@pytest.mark.parametrize("suspended", [True, False])
async def test_a_handler_that_cancels_its_worker_does_not_stop_the_pool(suspended: bool) -> None:
    done = asyncio.Event()

    async def drain(channel: str) -> None:
        if channel == "good":
            done.set()
            return
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        if suspended:
            await asyncio.Event().wait()
        raise asyncio.CancelledError

    async with pool_of(drain) as pool:
        pool.add(["bad", "good"])
        await wait(done)


async def test_what_a_cancelled_worker_puts_back_goes_to_another() -> None:
    begun, done = asyncio.Event(), asyncio.Event()
    log: list[str] = []

    async def work(queue: deque[str]) -> None:
        while queue:
            log.append(queue.popleft())
            if len(log) > 1:
                done.set()
                continue
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                queue.appendleft("the rest of a")

    pool = WorkerPool(work)
    pool.add(["a"])
    await wait(begun)
    (worker,) = workers()
    worker.cancel()
    await wait(done)
    await pool.close()
    assert log == ["a", "the rest of a"]


def workers() -> set[asyncio.Task[Any]]:
    return asyncio.all_tasks() - {task for task in [asyncio.current_task()] if task is not None}


async def test_a_worker_cancelled_before_it_began_is_replaced() -> None:
    drain = Drain()
    async with pool_of(drain) as pool:
        pool.add(["a"])
        (worker,) = workers()
        worker.cancel()
        await wait(drain.finished("a"))


@pytest.mark.parametrize("when", ["it has ended", "it was cancelled", "it was called"])
async def test_a_parked_worker_that_is_cancelled_is_replaced(when: str) -> None:
    drain = Drain()
    async with pool_of(drain) as pool:
        pool.add(["a"])
        await wait(drain.finished("a"))
        (worker,) = workers()
        if when == "it was called":
            pool.add(["b"])
        worker.cancel()
        if when == "it has ended":
            await asyncio.wait([worker])
        if when != "it was called":
            pool.add(["b"])
        await wait(drain.finished("b"))


async def test_close_cancels_what_is_suspended_and_waits_for_it() -> None:
    drain = Drain("a", "b")
    async with pool_of(drain) as pool:
        for channel in "abc":
            pool.add([channel])
        await wait(drain.finished("c"))
        await pool.close()
        assert pool.size == 0
    assert workers() == set()
    assert drain.log == ["a", "b", "c"]


async def test_an_error_on_the_way_out_is_told_to_the_loop() -> None:
    begun = asyncio.Event()
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))

    async def drain(channel: str) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError(channel)

    async with pool_of(drain) as pool:
        pool.add(["a"])
        await wait(begun)
        await pool.close()
    assert [str(context["exception"]) for context in told] == ["a"]


async def test_a_closed_pool_takes_nothing() -> None:
    drain = Drain()
    async with pool_of(drain) as pool:
        pool.add(["a"])
        await pool.close()
        pool.add(["b"])
        await pool.close()
    assert workers() == set()
    assert drain.log == []


async def test_a_handler_may_close_its_pool() -> None:
    log: list[str] = []
    closed = asyncio.Event()

    async def drain(channel: str) -> None:
        log.append(channel)
        await pool.close()
        closed.set()

    pool = WorkerPool(each(drain))
    pool.add(["a"])
    pool.add(["b"])
    await wait(closed)
    await asyncio.sleep(0)
    assert pool.size == 0
    assert log == ["a"]
