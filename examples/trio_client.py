"""Phoenix Channels in trio: the engine of `phx_transports.wsproto` on trio's streams.

    python examples/trio_client.py ws://localhost:4000/socket room:lobby shout

joins the topic, pushes the event, prints every message and both answers, and closes. Any other runtime that has streams
of bytes is served in the same way: examples/asyncio_streams_client.py is the twin.
"""

import random
import ssl
import sys
from typing import Any, TypeVar

import trio

from phx_proto import ClientProtocol, Message, Router
from phx_transports.client import calls
from phx_transports.wsproto import Engine, Stream, StreamState

R = TypeVar("R")


class Client:
    def __init__(self, proto: ClientProtocol) -> None:
        self.turned = trio.lowlevel.ParkingLot()  # where all wait for the engine's next turn
        self.engine = Engine(proto, now=trio.current_time, turned=self.turned.unpark_all)

    async def ask(self, call: calls.Call[R]) -> R:
        """Make a call and wait for its end; cancelled, it is given up."""
        answered = trio.Event()
        with self.engine.ask(call, done=answered.set) as answer:
            await answered.wait()
        return answer.result()

    async def run(self) -> None:
        """Connect, and stay connected until closed; raises what ended it."""
        self.engine.connect()
        async with trio.open_nursery() as nursery:
            while not self.engine.closed:
                for stream in self.engine.streams():
                    nursery.start_soon(self.keep, stream)
                with trio.move_on_at(self.engine.deadline):
                    await self.turned.park()
                self.engine.turn()
        if self.engine.error is not None:
            raise self.engine.error

    async def keep(self, stream: Stream) -> None:
        """Carry a stream for as long as it is wanted, and give it a second to write what is left."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.carry, stream)
            while stream.state is StreamState.WANTED:
                await self.turned.park()
            nursery.cancel_scope.deadline = trio.current_time() + 1

    async def carry(self, stream: Stream) -> None:
        """Connect a stream, and carry its bytes until it is no longer wanted."""
        try:
            async with await connect(stream) as tcp, trio.open_nursery() as nursery:
                self.engine.connected(stream)
                nursery.start_soon(self.read, tcp, stream)
                while (data := stream.data_to_send()) or stream.state is StreamState.WANTED:
                    await (tcp.send_all(data) if data else self.turned.park())
                nursery.cancel_scope.cancel()
        except* (OSError, trio.BrokenResourceError) as errors:
            self.engine.failed(stream, errors.exceptions[0])

    async def read(self, tcp: trio.abc.Stream, stream: Stream) -> None:
        while stream.state is StreamState.WANTED:
            if stream.reading:
                self.engine.received(stream, bytes(await tcp.receive_some()))
            else:
                await self.turned.park()


async def connect(stream: Stream) -> trio.abc.Stream:
    tcp = await trio.open_tcp_stream(stream.host, stream.port)
    if stream.server_hostname is None:
        return tcp
    return trio.SSLStream(tcp, ssl.create_default_context(), server_hostname=stream.server_hostname)


async def main(url: str, topic: str, event: str) -> None:
    router = Router()

    @router.on("*")
    def show(message: Message[Any]) -> None:
        print(message.event, message.payload)

    client = Client(ClientProtocol(url, router=router, rng=random.Random()))
    channel = client.engine.proto.channel(topic)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        joined = await client.ask(calls.join(channel))
        print("joined:", joined)
        reply = await client.ask(calls.push(channel, event, {"body": "hi"}))
        print("answered:", reply)
        client.engine.close()


if __name__ == "__main__":
    _, url, topic, event = sys.argv
    trio.run(main, url, topic, event)
