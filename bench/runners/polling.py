"""Our clients over long polling, on asyncio or, with the option `threads`, on threads."""

import asyncio
from typing import Any

import phx_transports.threads
from bench.meter import Meter, Result, Task, report, task
from bench.runners import ours, threads
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.asyncio import connect

TOPIC = "sim:polled"


def of(task: Task) -> Result:
    """What comes of it."""
    return _on_threads(task) if task.options.get("threads") else asyncio.run(_on_asyncio(task))


async def _on_asyncio(task: Task) -> Result:
    meter, router = Meter(task.n), Router()

    @router.on("balance")
    async def balance(message: Message[Any]) -> None:
        meter.balance(message.payload)

    @router.on("done")
    async def done(message: Message[Any]) -> None:
        meter.done(message.payload)

    async with connect(task.socket, transport="longpoll", router=router) as client:
        channel = await client.join(TOPIC)
        if task.work == "messages":
            await channel.cast("go", {"n": task.n})
            return await meter.wait()
        return await ours.pushes_over(channel, task)


def _on_threads(task: Task) -> Result:
    meter, router = Meter(task.n), Router()
    router.add(lambda message: meter.balance(message.payload), "balance")
    router.add(lambda message: meter.done(message.payload), "done")
    with phx_transports.threads.connect(task.socket, transport="longpoll", router=router) as client:
        channel = client.join(TOPIC)
        if task.work == "messages":
            channel.cast("go", {"n": task.n})
            return meter.wait_blocking()
        return threads.pushes_over(channel, task)


if __name__ == "__main__":
    report(of(task()))
