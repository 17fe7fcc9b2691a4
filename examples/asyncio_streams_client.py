"""Phoenix Channels on the standard library's streams: the byte-level machine of `phx_transports.wsproto` in asyncio.

    python examples/asyncio_streams_client.py ws://localhost:4000/socket room:lobby shout

joins the topic, pushes the event, prints its reply and every message, and closes. It shows how little a runtime needs,
beside its twin examples/trio_client.py; for asyncio itself `phx_transports.asyncio` is faster and does more.
"""

import asyncio
import contextlib
import random
import ssl
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable
from typing import Any

from phx_proto import ClientProtocol, Handler, Message, Router, SocketState
from phx_proto.errors import ConnectError
from phx_transports.wsproto import Machine, Stream, StreamState


class Client:
    def __init__(self, proto: ClientProtocol) -> None:
        self.proto = proto
        self.machine = Machine(proto)
        self.now = asyncio.get_running_loop().time
        self.calls: dict[str | None, asyncio.Future[Any]] = {}  # that wait, by their refs
        self.turn: asyncio.Timeout | None = None  # the wait under way
        self.woken = False  # something is to be written

    async def ask(self, call: Callable[[float], str]) -> Any:
        """Make a call of the core, and wait for the event that ends it."""
        ref = call(self.now())
        answer = self.calls[ref] = asyncio.get_running_loop().create_future()
        self.wake()
        return await answer

    def close(self) -> None:
        self.proto.drain(self.now())
        self.wake()

    def wake(self) -> None:
        self.woken = True
        if self.turn is not None:
            self.turn.reschedule(0.0)

    async def run(self) -> None:
        """Connect, and stay connected until closed."""
        self.proto.connect(self.now())
        while self.proto.state is not SocketState.CLOSED:
            stream = self.machine.stream()
            if stream is None:
                await self.wait(forever)
                continue
            try:
                await self.attend(stream)
            except OSError as error:
                stream.failed(ConnectError(str(error)), self.now())
            self.tell()

    async def attend(self, stream: Stream) -> None:
        """Open a stream, and carry its bytes until it is no longer wanted."""
        context = None if stream.server_hostname is None else ssl.create_default_context()
        try:
            async with asyncio.timeout_at(self.proto.next_timeout()):
                reader, writer = await asyncio.open_connection(stream.host, stream.port, ssl=context)
        except TimeoutError:
            return  # to try it again, if it is still wanted
        stream.connected(self.now())
        try:
            while stream.state is StreamState.WANTED:
                await send(writer, stream)
                await self.wait(lambda: receive(reader, stream, self.now))
            await send(writer, stream)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def wait(self, action: Callable[[], Any]) -> None:
        """Until it is done, the core's time has come, or something is to be written; then tell what happened."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(0.0 if self.woken else self.proto.next_timeout()) as self.turn:
                await action()
        self.turn, self.woken = None, False
        self.tell()

    def tell(self) -> None:
        """Tell the core the time, calls how they ended, and handlers their messages."""
        self.proto.handle_timeout(self.now())
        for event in self.proto.events():
            if call := self.calls.pop(getattr(event, "ref", None), None):
                call.set_result(event)
        for inbox in self.proto.runnable():
            while deliveries := inbox.take():
                for handlers, message in deliveries:
                    for handler in handlers:
                        if isinstance(handler, Handler) and isinstance(message, Message):
                            handler.call(message, inbox.channel)
                self.proto.handled(len(deliveries), self.now())


async def send(writer: StreamWriter, stream: Stream) -> None:
    writer.write(stream.data_to_send())
    await writer.drain()


async def receive(reader: StreamReader, stream: Stream, now: Callable[[], float]) -> None:
    if not stream.reading:
        await forever()
    if data := await reader.read(1 << 16):
        stream.receive_data(data, now())
    else:
        stream.receive_eof(now())


async def forever() -> None:
    await asyncio.Event().wait()


async def main(url: str, topic: str, event: str) -> None:
    router = Router()
    router.add(lambda message: print(message.event, message.payload), "*")
    client = Client(ClientProtocol(url, router=router, rng=random.Random()))
    channel = client.proto.channel(topic)
    async with asyncio.TaskGroup() as group:
        group.create_task(client.run())
        print(await client.ask(channel.join))
        print(await client.ask(lambda now: channel.push(event, {"body": "hi"}, now)))
        client.close()


if __name__ == "__main__":
    _, url, topic, event = sys.argv
    asyncio.run(main(url, topic, event))
