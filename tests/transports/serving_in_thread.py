"""The test's own server (`peer.py`) and the embedded one, on an event loop in a thread, for clients without one."""

import asyncio
import contextlib
import faulthandler
import inspect
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

import peer as on_loop
from peer import LONG, ONCE, QUICK

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


class OnLoop:
    """What lives on a loop, used from another thread: each call is made there and waited for."""

    def __init__(self, loop: Loop, there: Any) -> None:
        self.loop = loop
        self.on_loop = there

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.on_loop, name)
        if inspect.iscoroutinefunction(value):
            return lambda *arguments, **options: self.loop(value(*arguments, **options))
        if inspect.ismethod(value):
            return lambda *arguments, **options: self.loop.do(lambda: value(*arguments, **options))
        return value


class Wire(OnLoop):
    """The server's side of one connection: a `peer.Wire`."""


class Peer(OnLoop):
    """The server: a `peer.Peer`."""

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


def dial(peer: Peer, **options: Any) -> Client:
    return connect(peer.url, **{"proxy": None, "options": QUICK} | options)


@contextmanager
def connected(dial: Callable[..., Client] = dial, **options: Any) -> Iterator[tuple[Client, Wire]]:
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
