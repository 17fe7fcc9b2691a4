"""Client and server on uvloop, whose transports are no subclasses of asyncio's."""

import asyncio
from typing import Any

import uvloop

from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.asyncio import connect
from phx_transports.server import Server, ServerChannel, on


def test_messages_pushes_and_the_end() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_exchange())


async def _exchange() -> None:
    server, router = Server(), Router()
    got: asyncio.Queue[Any] = asyncio.Queue()

    @server.channel("room:*")
    class Room(ServerChannel):
        @on("echo")
        async def echo(self, payload: Any) -> Any:
            self.push("echoed", payload)
            return payload

    @router.on("echoed")
    async def echoed(message: Message[Any]) -> None:
        await got.put(message.payload)

    async with server.serve() as running, connect(running.url, router=router) as client:
        channel = await client.join("room:lobby")
        assert (await channel.push("echo", {"n": 1})).response == {"n": 1}
        assert await got.get() == {"n": 1}
        await channel.leave()
