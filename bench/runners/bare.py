"""The baseline: a bare `websockets` `async for` with `orjson.loads`, and just enough Phoenix to be fed."""

import asyncio
import itertools
import time
from typing import Any

import orjson
from websockets.asyncio.client import ClientConnection, connect

from bench.loops import run_on
from bench.meter import Meter, Result, Task, report, task


async def run(task: Task) -> Result:
    async with connect(f"{task.socket}/websocket?vsn=2.0.0&{task.query}") as websocket:
        for number, topic in enumerate(task.names):
            await websocket.send(_encode(f"j{number}", f"j{number}", topic, "phx_join", {}))
        if task.work == "messages":
            return await _messages(websocket, task.n)
        return await _pushes(websocket, task)


async def _messages(websocket: ClientConnection, n: int) -> Result:
    meter = Meter(n)

    async def handler(payload: Any) -> None:
        meter.balance(payload)

    async for frame in websocket:
        _join_ref, _ref, _topic, event, payload = orjson.loads(frame)
        if event == "balance":
            await handler(payload)
        elif event == "done":
            meter.done(payload)
            break
    return meter.result


async def _pushes(websocket: ClientConnection, task: Task) -> Result:
    loop = asyncio.get_running_loop()
    refs = itertools.count(1)
    waiting: dict[str, asyncio.Future[Any]] = {}
    topic = task.names[0]

    async def read() -> None:
        async for frame in websocket:
            _join_ref, ref, _topic, event, payload = orjson.loads(frame)
            if event == "phx_reply" and ref in waiting:
                waiting.pop(ref).set_result(payload)

    async def push(payload: Any) -> Any:
        ref = str(next(refs))
        reply = waiting[ref] = loop.create_future()
        await websocket.send(_encode("j0", ref, topic, "echo", payload))
        return (await reply)["response"]

    async def work(pushes: int) -> None:
        for number in range(pushes):
            response = await push({"number": number})
            assert response["number"] == number

    reader = asyncio.create_task(read())
    await work(1)  # the join is answered before this is
    started = time.monotonic()
    await asyncio.gather(*(work(task.n // task.in_flight) for _ in range(task.in_flight)))
    seconds = time.monotonic() - started
    reader.cancel()
    return Result(task.n // task.in_flight * task.in_flight, seconds)


def _encode(join_ref: str, ref: str, topic: str, event: str, payload: Any) -> str:
    return orjson.dumps([join_ref, ref, topic, event, payload]).decode()


if __name__ == "__main__":
    report(run_on(task(), run))
