"""Our asyncio client with a handler that computes, on the loop or in an executor.

The handler is a loop of pure Python, of as many steps as the task's option `steps` says; `where` says who runs it, and
`measure` what the seconds are: the `"time"` that passed, or what the `"client"`'s process took of a processor's. The
burst goes round robin over the topics, each of which has one batch under way at a time. Of the work `"batches"`, the
batches alone go there and back, one after another, with no client.
"""

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Generator
from concurrent.futures import Executor, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import msgspec

from bench.cluster import WORKERS, running
from bench.feed import example
from bench.meter import PATIENCE, Meter, Result, Task, report, task
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.asyncio import Client, connect
from phx_transports.client.batches import Batch


def compute(steps: int) -> int:
    total = 0
    for number in range(steps):
        total += number
    return total


def balance(steps: int, message: Message[Any]) -> None:
    """The handler."""
    payload = message.payload
    assert payload["id"]
    assert payload["balance"] > 0
    compute(steps)


async def run(task: Task) -> Result:
    handler = partial(balance, task.options["steps"])
    meter = Meter(task.n)
    router = Router()

    @router.on("done")
    async def done(message: Message[Any]) -> None:
        meter.done(message.payload)

    with EXECUTORS[task.options["where"]]() as executor:
        router.add(_on_the_loop(handler) if task.options["where"] == "loop" else handler, "balance")
        async with connect(task.socket, params={"plan": task.plan}, router=router, executor=executor) as client:
            used = time.process_time()  # the burst begins with the last join
            await asyncio.gather(*(client.join(topic, timeout=60.0) for topic in task.names))
            result = await _handled(client, meter)
            used = time.process_time() - used
            return replace(result, seconds=used) if result.seconds and task.options["measure"] == "client" else result


async def _handled(client: Client, meter: Meter) -> Result:
    """Until all is handled, or nothing was for a while; other processes cannot count for us."""
    loop = asyncio.get_running_loop()
    handled, since = 0, loop.time()
    while loop.time() - since < PATIENCE:
        await asyncio.sleep(0.02)
        if client.stats.handled != handled:
            handled, since = client.stats.handled, loop.time()
        if handled > meter.n:  # `done` is one more
            return Result(meter.n, since - meter.started)
    return Result(handled)


def there_and_back(task: Task) -> Result:
    handler = Handler(partial(balance, task.options["steps"]), "balance")
    size = task.options["size"]
    payloads = (msgspec.Raw(msgspec.json.encode(example(number))) for number in range(size))
    batch = Batch(handler, [Message(topic=task.names[0], event="balance", payload=payload) for payload in payloads])
    clock = time.process_time if task.options["measure"] == "client" else time.monotonic
    with EXECUTORS[task.options["where"]]() as executor:
        began = clock()
        for _ in range(task.n):
            assert executor.submit(Batch.run, batch).result() == []
        return Result(task.n, clock() - began)


def _on_the_loop(handler: Callable[[Message[Any]], None]) -> Callable[[Message[Any]], Any]:
    async def balance(message: Message[Any]) -> None:
        handler(message)

    return balance


# ---- executors, ready to work ---------------------------------------------------------------------------------------


@contextmanager
def _own() -> Generator[None]:
    yield None


@contextmanager
def _processes() -> Generator[Executor]:
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as pool:
        _warm(pool)
        yield pool


@contextmanager
def _dask() -> Generator[Executor]:
    from distributed import Client

    with running() as cluster, Client(cluster.address) as client:  # type: ignore[no-untyped-call]
        executor = client.get_executor()
        _warm(executor)
        yield executor


def _warm(executor: Executor) -> None:
    """Long enough for every worker to have started."""
    wait([executor.submit(compute, 1_000_000) for _ in range(4 * WORKERS)])


EXECUTORS: Final[dict[str, Callable[[], Any]]] = {
    "loop": _own,
    "threads": _own,
    "processes": _processes,
    "dask": _dask,
}


if __name__ == "__main__":
    report(there_and_back(task()) if task().work == "batches" else asyncio.run(run(task())))
