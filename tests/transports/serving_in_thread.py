"""The test's own server (`peer.py`) and the embedded one, on an event loop in a thread, for clients without one."""

import asyncio
import contextlib
import faulthandler
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

import peer as on_loop
from peer import LONG, ONCE, QUICK, Frame

from phx_transports.server import Server
from phx_transports.testing import background as start
from phx_transports.threads import Channel, Client, connect

__all__ = [
    "LONG",
    "ONCE",
    "QUICK",
    "Flag",
    "Loop",
    "Peer",
    "Wire",
    "connected",
    "dial",
    "embedded",
    "joined",
    "reserved_port",
    "serving",
    "start",
    "tidy",
    "until",
]

T = TypeVar("T")


class Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="test-server", daemon=True)
        self._thread.start()

    def __call__(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LONG)

    def do(self, function: Callable[[], T]) -> T:
        async def run() -> T:
            return function()

        return self(run())

    @contextmanager
    def entered(self, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """One task enters and leaves: timeouts and task groups want it so."""
        inside: Future[T] = Future()
        leave = asyncio.Event()

        async def live() -> None:
            try:
                async with context as value:
                    inside.set_result(value)
                    await leave.wait()
            except BaseException as error:
                if inside.done():
                    raise
                inside.set_exception(error)

        done = asyncio.run_coroutine_threadsafe(live(), self.loop)
        try:
            yield inside.result(LONG)
        finally:
            self.loop.call_soon_threadsafe(leave.set)
            done.result(LONG)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(LONG)
        self.loop.close()


class Wire:
    """The server's side of one connection, see `peer.Wire`."""

    def __init__(self, loop: Loop, wire: on_loop.Wire) -> None:
        self._loop = loop
        self.on_loop = wire

    @property
    def params(self) -> dict[str, str]:
        return self.on_loop.params

    @property
    def headers(self) -> Any:
        return self.on_loop.headers

    def receive(self) -> Frame:
        return self._loop(self.on_loop.receive())

    def expect(self, event: str, topic: str | None = None) -> Frame:
        return self._loop(self.on_loop.expect(event, topic))

    def accept(self, topic: str | None = None, response: Any = None) -> Frame:
        return self._loop(self.on_loop.accept(topic, response))

    def let_go(self, topic: str | None = None) -> Frame:
        return self._loop(self.on_loop.let_go(topic))

    def reply(self, to: Frame, response: Any = None, status: str = "ok") -> None:
        self._loop(self.on_loop.reply(to, response, status))

    def push(self, topic: str, event: str, payload: Any = None, **refs: Any) -> None:
        self._loop(self.on_loop.push(topic, event, payload, **refs))

    def send(self, *data: str | bytes) -> None:
        self._loop(self.on_loop.send(*data))

    def close(self, code: int = 1000, reason: str = "") -> None:
        self._loop(self.on_loop.close(code, reason))

    def cut(self) -> None:
        self._loop.do(self.on_loop.cut)

    def burst(self, *frames: str) -> None:
        """Send them so that they come in one read, if the loopback likes."""
        self._loop(self.on_loop.burst(*frames))

    def write(self, data: bytes) -> None:
        """Bytes that need not be a frame."""
        self._loop.do(lambda: self.on_loop._socket.transport.write(data))

    def unsent(self) -> int:
        """Bytes that were written, and that the client's end has no room for."""
        sizes: list[int] = []
        self._loop.do(lambda: sizes.append(self.on_loop._socket.transport.get_write_buffer_size()))
        return sizes[0]

    def stop_reading(self) -> None:
        """What comes stays in the socket's buffer, and soon in the client's."""
        self._loop.do(self.on_loop._socket.transport.pause_reading)

    def read_on(self) -> None:
        self._loop.do(self.on_loop._socket.transport.resume_reading)

    def ended(self) -> int | None:
        """Waits for the end; gives the code of the client's close frame."""
        self._loop(wait(self.on_loop.gone))
        return self.on_loop.code

    @property
    def heartbeats(self) -> int:
        return self.on_loop.heartbeats

    def fall_silent(self) -> None:
        """Heartbeats are no longer answered."""
        self.on_loop.answers_heartbeats = False

    def heartbeat(self) -> None:
        """Waits for the next."""
        self._loop.do(self.on_loop.heartbeat.clear)
        self._loop(wait(self.on_loop.heartbeat))

    def rest(self) -> list[Frame]:
        return self._loop(self.on_loop.rest())


async def wait(event: asyncio.Event) -> None:
    await event.wait()


class Peer:
    """The server, see `peer.Peer`."""

    def __init__(self, loop: Loop, peer: on_loop.Peer) -> None:
        self.loop = loop
        self.on_loop = peer

    @property
    def url(self) -> str:
        return self.on_loop.url

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2].partition("/")[0])

    @property
    def attempts(self) -> int:
        return self.on_loop.attempts

    def refuse(self, refuse: Callable[[], tuple[int, str] | None]) -> None:
        self.on_loop.refuse = refuse

    def wire(self) -> Wire:
        return Wire(self.loop, self.loop(self.on_loop.wire()))


@contextmanager
def looping() -> Iterator[Loop]:
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()


@contextmanager
def serving(**options: Any) -> Iterator[Peer]:
    with looping() as loop, loop.entered(on_loop.serving(**options)) as peer:
        yield Peer(loop, peer)


@contextmanager
def reserved_port() -> Iterator[int]:
    """A port where nobody listens until the test does, and that nobody else gets: not a client's own end either."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@contextmanager
def embedded(server: Server) -> Iterator[str]:
    """The embedded server; gives its URL."""
    with looping() as loop, loop.entered(server.serve()) as running:
        yield running.url


def dial(peer: Peer, **options: Any) -> Client:
    return connect(peer.url, **{"proxy": None, "options": QUICK} | options)


@contextmanager
def connected(**options: Any) -> Iterator[tuple[Client, Wire]]:
    """A client, and the wire at the server's end. It ends without ceremony."""
    with serving() as peer:
        client = dial(peer, **options)
        try:
            yield client, peer.wire()
        finally:
            client.abort()


@contextmanager
def joined(topic: str = "room:lobby", **options: Any) -> Iterator[tuple[Channel, Wire, str]]:
    """A client with one channel, and the join's ref."""
    with connected(**options) as (client, wire):
        joining = start(client.join, topic)
        frame = wire.accept(topic)
        assert frame.join_ref is not None
        yield joining.result(LONG), wire, frame.join_ref


class Flag(threading.Event):
    """An event that is not waited for for ever."""

    def wait(self, timeout: float | None = LONG) -> bool:
        assert super().wait(timeout), "it never came"
        return True


def until(condition: Callable[[], Any]) -> None:
    """Wait until something holds that nobody tells of."""
    pause = threading.Event()
    for _ in range(LONG * 1000):
        if condition():
            return
        pause.wait(0.001)
    raise AssertionError("it never held")


@contextlib.contextmanager
def tidy() -> Iterator[None]:
    """No thread stays, nothing is collected open, and nothing hangs for ever."""
    faulthandler.dump_traceback_later(3 * LONG, exit=True)
    before = set(threading.enumerate())
    try:
        with on_loop.collected():
            yield
        for thread in set(threading.enumerate()) - before:
            thread.join(LONG)
            assert not thread.is_alive(), thread
    finally:
        faulthandler.cancel_dump_traceback_later()
