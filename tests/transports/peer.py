"""A Phoenix server of which the test writes every frame, on a real socket; and a check that nothing is left behind.

By itself it only answers heartbeats, and that can be switched off. A test takes the connections in the order in which
they come, reads the frames that the client sent, and answers or does not.
"""

import asyncio
import contextlib
import gc
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from phx_proto.backoff import Attempt, Backoff, ReconnectPolicy
from phx_proto.errors import ConnectError
from phx_proto.options import ClientOptions, JoinPolicy
from phx_transports.asyncio import Channel, Client, connect

LONG = 10  # seconds after which a test that should be quick fails

#: Retries without waits worth the name.
QUICK = ClientOptions(
    reconnect=ReconnectPolicy(schedule=Backoff((0.01,))), join=JoinPolicy(backoff=Backoff((0.01,)), timeout=5)
)


class Once(ReconnectPolicy):
    """One attempt, and no other: `connect` raises what kept it from opening."""

    def after_failure(self, error: ConnectError, attempt: Attempt, rng: Any = None) -> float | None:
        return None


ONCE = ClientOptions(reconnect=Once())


class Frame(NamedTuple):
    join_ref: str | None
    ref: str | None
    topic: str
    event: str
    payload: Any


class Wire:
    """The server's side of one connection."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self._frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self.answers_heartbeats = True
        self.heartbeats = 0
        self.reading = asyncio.Event()
        self.reading.set()
        self.code: int | None = None  # of the client's close frame
        self.gone = asyncio.Event()
        self._heartbeat = asyncio.Event()
        assert socket.request is not None
        self.path = socket.request.path
        self.headers = socket.request.headers

    @property
    def params(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    async def run(self) -> None:
        try:
            while True:
                await self.reading.wait()
                data = await self._socket.recv()
                frame = Frame(*json.loads(data)) if isinstance(data, str) else _binary(data)
                if frame.event == "heartbeat" and frame.topic == "phoenix":
                    self.heartbeats += 1
                    self._heartbeat.set()
                    if self.answers_heartbeats:  # without waiting behind a flood, so that the next is seen
                        await self.burst(answer(frame))
                    continue
                self._frames.put_nowait(frame)
        except ConnectionClosed as closed:
            self.code = closed.rcvd.code if closed.rcvd else None
        finally:
            self._frames.put_nowait(None)
            self.gone.set()

    async def receive(self) -> Frame:
        """The next frame that is no heartbeat."""
        frame = await self._frames.get()
        assert frame is not None, "the client is gone"
        return frame

    async def rest(self) -> list[Frame]:
        """What the client sent until it was gone."""
        await self.gone.wait()
        frames: list[Frame] = []
        while (frame := self._frames.get_nowait()) is not None:
            frames.append(frame)
        return frames

    async def expect(self, event: str, topic: str | None = None) -> Frame:
        frame = await self.receive()
        assert frame.event == event, frame
        assert topic is None or frame.topic == topic, frame
        return frame

    async def accept(self, topic: str | None = None, response: Any = None) -> Frame:
        """Answer a join with ok."""
        join = await self.expect("phx_join", topic)
        await self.reply(join, response)
        return join

    async def let_go(self, topic: str | None = None) -> Frame:
        """Answer a leave."""
        leave = await self.expect("phx_leave", topic)
        await self.reply(leave)
        await self.push(leave.topic, "phx_close", {}, join_ref=leave.join_ref, ref=leave.join_ref)
        return leave

    async def send(self, *data: str | bytes) -> None:
        with contextlib.suppress(ConnectionClosed):
            for one in data:
                await self._socket.send(one)

    async def reply(self, to: Frame, response: Any = None, status: str = "ok") -> None:
        await self.send(answer(to, response, status))

    async def push(
        self, topic: str, event: str, payload: Any = None, *, join_ref: str | None = None, ref: str | None = None
    ) -> None:
        await self.send(push(topic, event, payload, join_ref=join_ref, ref=ref))

    async def burst(self, *frames: str) -> None:
        """Send them so that they come in one read, if the loopback likes."""
        assert self._socket.protocol.state.name == "OPEN"
        for frame in frames:
            self._socket.protocol.send_text(frame.encode())
        self._socket.transport.write(b"".join(self._socket.protocol.data_to_send()))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        await self._socket.close(code, reason)

    def cut(self) -> None:
        """End it as a killed server does."""
        self._socket.transport.abort()

    def write(self, data: bytes) -> None:
        """Bytes that need not be a frame."""
        self._socket.transport.write(data)

    @property
    def socket(self) -> Any:
        """The socket itself, for its options."""
        return self._socket.transport.get_extra_info("socket")

    def unsent(self) -> int:
        """Bytes that were written, and that the client's end has no room for."""
        return self._socket.transport.get_write_buffer_size()

    def stop_reading(self) -> None:
        """What comes stays in the socket's buffer, which no longer grows, and soon in the client's."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._socket.transport.pause_reading()

    def read_on(self) -> None:
        self._socket.transport.resume_reading()

    def fall_silent(self) -> None:
        """Heartbeats are no longer answered."""
        self.answers_heartbeats = False

    async def heartbeat(self) -> None:
        """Wait for the next."""
        self._heartbeat.clear()
        await self._heartbeat.wait()

    async def ended(self) -> int | None:
        """Wait for the end; gives the code of the client's close frame."""
        await self.gone.wait()
        return self.code


def answer(to: Frame, response: Any = None, status: str = "ok") -> str:
    payload = {"status": status, "response": {} if response is None else response}
    return json.dumps([to.join_ref, to.ref, to.topic, "phx_reply", payload])


def push(topic: str, event: str, payload: Any = None, *, join_ref: str | None = None, ref: str | None = None) -> str:
    return json.dumps([join_ref, ref, topic, event, {} if payload is None else payload])


def _binary(data: bytes) -> Frame:
    kind, *sizes = data[:5]
    assert kind == 0
    fields: list[str] = []
    at = 5
    for size in sizes:
        fields.append(data[at : at + size].decode())
        at += size
    join_ref, ref, topic, event = fields
    return Frame(join_ref, ref, topic, event, data[at:])


@dataclass
class Peer:
    """The server.

    Attributes:
        refuse: Gives an HTTP status and body to refuse a handshake with, or `None`.
    """

    url: str = ""
    refuse: Callable[[], tuple[int, str] | None] = lambda: None
    attempts: int = 0
    wires: list[Wire] = field(default_factory=list[Wire])
    _new: "asyncio.Queue[Wire]" = field(default_factory=asyncio.Queue)

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    async def wire(self) -> Wire:
        """The next connection."""
        return await self._new.get()

    async def serve(self, socket: ServerConnection) -> None:
        wire = Wire(socket)
        self.wires.append(wire)
        self._new.put_nowait(wire)
        await wire.run()

    def process_request(self, socket: ServerConnection, request: Request) -> Response | None:
        self.attempts += 1
        refusal = self.refuse()
        if refusal is None:
            return None
        status, body = refusal
        return socket.respond(HTTPStatus(status), body)


@asynccontextmanager
async def serving(*, port: int = 0, compression: str | None = None, **options: Any) -> AsyncIterator[Peer]:
    """A server for one test, which also bounds the test."""
    peer = Peer()
    async with (
        asyncio.timeout(LONG),
        serve(
            peer.serve,
            "127.0.0.1",
            port,
            process_request=peer.process_request,
            ping_interval=None,
            close_timeout=1,
            compression=compression,
            max_size=None,
            **options,
        ) as server,
    ):
        port = server.sockets[0].getsockname()[1]
        peer.url = f"{'wss' if 'ssl' in options else 'ws'}://127.0.0.1:{port}/socket"
        try:
            yield peer
        finally:
            for wire in peer.wires:
                wire.reading.set()


@asynccontextmanager
async def connected(**options: Any) -> AsyncIterator[tuple[Client, Wire]]:
    """A client, and the wire at the server's end. It ends without ceremony."""
    async with serving() as peer:
        client = await dial(peer, **options)
        try:
            yield client, await peer.wire()
        finally:
            await client.abort()


@asynccontextmanager
async def joined(topic: str = "room:lobby", **options: Any) -> AsyncIterator[tuple[Channel, Wire, str]]:
    """A client with one channel, and the join's ref."""
    async with connected(**options) as (client, wire):
        channel, frame = await asyncio.gather(client.join(topic), wire.accept(topic))
        assert frame.join_ref is not None
        yield channel, wire, frame.join_ref


async def dial(peer: Peer, **options: Any) -> Client:
    options.setdefault("proxy", None)
    options.setdefault("options", QUICK)
    return await connect(peer.url, **options)


async def until(condition: Callable[[], Any]) -> None:
    """Let the loop go on until something holds; whoever calls is bounded by `serving`."""
    while not condition():
        await asyncio.sleep(0.001)


async def turns(count: int = 50) -> None:
    """Let the loop do what it has: on the loopback, reads that are ready are among it."""
    for _ in range(count):
        await asyncio.sleep(0)


@contextlib.contextmanager
def tidy() -> Iterator[None]:
    """No exception reaches the loop, no task stays, no thread of ours, nothing is collected open."""
    loop = asyncio.get_running_loop()
    contexts: list[dict[str, Any]] = []
    before = set(threading.enumerate())
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    with collected():
        yield
    assert asyncio.all_tasks() == {asyncio.current_task()}
    # The threads of the loop's own executor end with the loop.
    ours = [thread for thread in threading.enumerate() if not thread.name.startswith("asyncio_")]
    for thread in set(ours) - before:
        thread.join(LONG)  # idle ones end by themselves
        assert not thread.is_alive(), thread
    assert contexts == []


def timers() -> set[asyncio.TimerHandle]:
    """What is to be called later, on the running loop; not uvloop's, which does not tell."""
    scheduled: list[asyncio.TimerHandle] = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
    return {timer for timer in scheduled if not timer.cancelled()}


@contextlib.contextmanager
def collected() -> Iterator[None]:
    """What becomes garbage meanwhile is collected at the end, and nothing else is looked at: it takes no time."""
    gc.freeze()
    try:
        yield
        gc.collect()
    finally:
        gc.unfreeze()
