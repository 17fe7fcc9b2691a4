"""Phoenix Channels on the standard library's streams: the engine of `phx_transports.wsproto` in asyncio.

    python examples/asyncio_streams_client.py ws://localhost:4000/socket room:lobby shout

joins the topic, pushes the event, prints every message and both answers, and closes. It shows how little a runtime
needs, beside its twin examples/trio_client.py; for asyncio itself `phx_transports.asyncio` is faster and does more.
"""

import asyncio
import contextlib
import random
import ssl
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from phx_proto import ClientProtocol, Message, Router
from phx_transports.client import calls
from phx_transports.wsproto import Engine, Stream, StreamState

R = TypeVar("R")


class Client:
    def __init__(self, proto: ClientProtocol) -> None:
        self.turned = asyncio.Event()  # never left set: it wakes all who wait for the engine's next turn
        self.engine = Engine(proto, now=asyncio.get_running_loop().time, turned=self.wake)

    def wake(self) -> None:
        self.turned.set()
        self.turned.clear()

    async def ask(self, call: calls.Call[R]) -> R:
        """Make a call and wait for its end; cancelled, it is given up."""
        answered = asyncio.Event()
        with self.engine.ask(call, done=answered.set) as answer:
            await answered.wait()
        return answer.result()

    async def run(self) -> None:
        """Connect, and stay connected until closed; raises what ended it."""
        self.engine.connect()
        async with asyncio.TaskGroup() as group:
            while not self.engine.closed:
                for stream in self.engine.streams():
                    group.create_task(self.keep(stream))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self.engine.deadline):
                        await self.turned.wait()
                self.engine.turn()
        if self.engine.error is not None:
            raise self.engine.error

    async def keep(self, stream: Stream) -> None:
        """Carry a stream for as long as it is wanted, and give it a second to write what is left."""
        async with asyncio.TaskGroup() as group:
            carrying = group.create_task(self.carry(stream))
            while stream.state is StreamState.WANTED:
                await self.turned.wait()
            asyncio.get_running_loop().call_later(1, carrying.cancel)

    async def carry(self, stream: Stream) -> None:
        """Connect a stream, and carry its bytes until it is no longer wanted."""
        try:
            async with connection(stream) as (reader, writer), asyncio.TaskGroup() as group:
                self.engine.connected(stream)
                reading = group.create_task(self.read(reader, stream))
                while (data := stream.data_to_send()) or stream.state is StreamState.WANTED:
                    writer.write(data)
                    await (writer.drain() if data else self.turned.wait())
                reading.cancel()
        except* OSError as errors:
            self.engine.failed(stream, errors.exceptions[0])

    async def read(self, reader: StreamReader, stream: Stream) -> None:
        while stream.state is StreamState.WANTED:
            if stream.reading:
                self.engine.received(stream, await reader.read(1 << 16))
            else:
                await self.turned.wait()


@contextlib.asynccontextmanager
async def connection(stream: Stream) -> AsyncIterator[tuple[StreamReader, StreamWriter]]:
    context = None if stream.server_hostname is None else ssl.create_default_context()
    reader, writer = await asyncio.open_connection(stream.host, stream.port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.close()
        asyncio.get_running_loop().call_later(1, writer.transport.abort)  # where the peer does not take the rest
        await writer.wait_closed()


async def main(url: str, topic: str, event: str) -> None:
    router = Router()

    @router.on("*")
    def show(message: Message[Any]) -> None:
        print(message.event, message.payload)

    client = Client(ClientProtocol(url, router=router, rng=random.Random()))
    channel = client.engine.proto.channel(topic)
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        joined = await client.ask(calls.join(channel))
        print("joined:", joined)
        reply = await client.ask(calls.push(channel, event, {"body": "hi"}))
        print("answered:", reply)
        client.engine.close()


if __name__ == "__main__":
    _, url, topic, event = sys.argv
    asyncio.run(main(url, topic, event))
