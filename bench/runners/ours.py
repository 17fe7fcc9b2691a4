"""Our asyncio client, with the same work as the others; with the option `typed` its handler declares a type."""

import asyncio
import time
from dataclasses import replace
from typing import Any

from bench.feed import Balance
from bench.loops import run_on
from bench.meter import Memory, Meter, Result, Task, report, task
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.asyncio import Channel, connect


async def run(task: Task) -> Result:
    meter = Meter(task.n)
    router = Router()

    async def balance(message: Message[Any]) -> None:
        meter.balance(message.payload)

    async def typed(message: Message[Balance]) -> None:
        meter.typed(message.payload)

    router.add(typed if task.options.get("typed") else balance, "balance")

    @router.on("done")
    async def done(message: Message[Any]) -> None:
        meter.done(message.payload)

    async with connect(task.socket, params={"plan": task.plan}, router=router) as client:
        memory = Memory() if task.work == "memory" else None
        await asyncio.gather(*(client.join(topic, timeout=60.0) for topic in task.names))
        if task.work == "pushes":
            channel = client.channel("sim:pushes")
            await channel.join()
            return await pushes_over(channel, task)
        result = await meter.wait()
        return result if memory is None else replace(result, bytes_a_topic=memory.a_topic(task.topics))


async def pushes_over(channel: Channel, task: Task) -> Result:
    """Pushes to their replies, so many in flight at a time."""

    async def work(pushes: int) -> None:
        for number in range(pushes):
            reply = await channel.push("echo", {"number": number})
            assert reply.response["number"] == number

    await work(1)
    started = time.monotonic()
    await asyncio.gather(*(work(task.n // task.in_flight) for _ in range(task.in_flight)))
    return Result(task.n // task.in_flight * task.in_flight, time.monotonic() - started)


if __name__ == "__main__":
    report(run_on(task(), run))
