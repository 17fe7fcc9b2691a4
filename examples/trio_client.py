"""Phoenix Channels in trio: the byte-level machine of `phx_transports.wsproto` on trio's streams.

    python examples/trio_client.py ws://localhost:4000/socket room:lobby shout

joins the topic, pushes the event, prints its reply and every message, and closes. Any other runtime that has streams of
bytes is served in the same way: examples/asyncio_streams_client.py is the twin.
"""

import math
import random
import ssl
import sys
from collections.abc import Callable
from typing import Any

import trio

from phx_proto import ClientProtocol, Handler, Message, Router, SocketState
from phx_proto.errors import ConnectError
from phx_transports.wsproto import Machine, Stream, StreamState


class Client:
    def __init__(self, proto: ClientProtocol) -> None:
        self.proto = proto
        self.machine = Machine(proto)
        self.calls: dict[str | None, trio.MemorySendChannel[Any]] = {}  # that wait, by their refs
        self.turn = trio.CancelScope()  # the next wait; cancelled where something is to be written

    async def ask(self, call: Callable[[float], str]) -> Any:
        """Make a call of the core, and wait for the event that ends it."""
        ref = call(trio.current_time())
        self.calls[ref], answer = trio.open_memory_channel[Any](1)
        self.turn.cancel()
        return await answer.receive()

    def close(self) -> None:
        self.proto.drain(trio.current_time())
        self.turn.cancel()

    async def run(self) -> None:
        """Connect, and stay connected until closed."""
        self.proto.connect(trio.current_time())
        while self.proto.state is not SocketState.CLOSED:
            stream = self.machine.stream()
            if stream is None:
                await self.wait(trio.sleep_forever)
                continue
            try:
                await self.attend(stream)
            except (OSError, trio.BrokenResourceError) as error:
                stream.failed(ConnectError(str(error)), trio.current_time())
            self.tell()

    async def attend(self, stream: Stream) -> None:
        """Open a stream, and carry its bytes until it is no longer wanted."""
        with trio.move_on_at(self.deadline) as opening:
            tcp = await connect(stream)
        if opening.cancelled_caught:
            return  # to try it again, if it is still wanted
        stream.connected(trio.current_time())
        async with tcp:
            while stream.state is StreamState.WANTED:
                await tcp.send_all(stream.data_to_send())
                await self.wait(lambda: receive(tcp, stream))
            await tcp.send_all(stream.data_to_send())

    async def wait(self, action: Callable[[], Any]) -> None:
        """Until it is done, the core's time has come, or something is to be written; then tell what happened."""
        self.turn.deadline = self.deadline
        with self.turn:
            await action()
        self.turn = trio.CancelScope()
        self.tell()

    @property
    def deadline(self) -> float:
        return self.proto.next_timeout() or math.inf

    def tell(self) -> None:
        """Tell the core the time, calls how they ended, and handlers their messages."""
        self.proto.handle_timeout(trio.current_time())
        for event in self.proto.events():
            if call := self.calls.pop(getattr(event, "ref", None), None):
                call.send_nowait(event)
        for inbox in self.proto.runnable():
            while deliveries := inbox.take():
                for handlers, message in deliveries:
                    for handler in handlers:
                        if isinstance(handler, Handler) and isinstance(message, Message):
                            handler.call(message, inbox.channel)
                self.proto.handled(len(deliveries), trio.current_time())


async def connect(stream: Stream) -> trio.abc.Stream:
    tcp = await trio.open_tcp_stream(stream.host, stream.port)
    if stream.server_hostname is None:
        return tcp
    return trio.SSLStream(tcp, ssl.create_default_context(), server_hostname=stream.server_hostname)


async def receive(tcp: trio.abc.Stream, stream: Stream) -> None:
    if not stream.reading:
        await trio.sleep_forever()
    if data := await tcp.receive_some():
        stream.receive_data(bytes(data), trio.current_time())
    else:
        stream.receive_eof(trio.current_time())


async def main(url: str, topic: str, event: str) -> None:
    router = Router()
    router.add(lambda message: print(message.event, message.payload), "*")
    client = Client(ClientProtocol(url, router=router, rng=random.Random()))
    channel = client.proto.channel(topic)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        print(await client.ask(channel.join))
        print(await client.ask(lambda now: channel.push(event, {"body": "hi"}, now)))
        client.close()


if __name__ == "__main__":
    _, url, topic, event = sys.argv
    trio.run(main, url, topic, event)
