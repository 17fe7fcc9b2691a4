"""`serve`: a real server on a free port of this machine, for tests in which the real socket is the point.

    with serve({"room:*": Room}) as server:          # `async with` on an event loop
        with connect(server.url) as client:
            …
            server.cut()                             # `await server.restart()` where it was entered with `async with`

The application is a `phx_transports.server.Server`; its channels run on an event loop, the test's own with
`async with`, else one in a thread. What is to go wrong is ordered from `server.faults`.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from ..server import RunningServer, Server, ServerChannel, ServerSocket
from .faults import Faults, FaultyWire
from .transcript import Transcript
from .wiretap import Wiretap

T = TypeVar("T")

#: An application, or its channels by the pattern of their topics.
Channels: TypeAlias = Server | Mapping[str, Callable[[], ServerChannel]]


class serve:  # noqa: N801 - used like a function
    """Serve while in the context, on a free port of 127.0.0.1.

    Args:
        channels: A `phx_transports.server.Server`; or channels by topic: `{"room:*": Room}`.
        **options: For the `Server` that is made of channels: `connect`, `options`, …

    Raises:
        TypeError: There are options for an application that is made already.
    """

    def __init__(self, channels: Channels, **options: Any) -> None:
        self._app = _application(channels, options)
        self._entered: Any = None

    def __enter__(self) -> "TestServer":
        self._entered = _serving(self._app)
        server: TestServer = self._entered.__enter__()
        return server

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._entered.__exit__(kind, error, traceback)

    async def __aenter__(self) -> "AsyncTestServer":
        self._entered = _serving_async(self._app)
        server: AsyncTestServer = await self._entered.__aenter__()
        return server

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._entered.__aexit__(kind, error, traceback)


class AsyncTestServer:
    """A server on the test's own event loop.

    Attributes:
        app: The application: its sockets, its broadcasts.
        faults: What goes wrong.
    """

    __test__ = False  # for pytest

    def __init__(self, app: Server) -> None:
        self.app = app
        self.faults = Faults()
        self._tap = Wiretap()
        self._port: int = 0
        self._url = ""
        self._running: RunningServer | None = None
        self._context: AbstractAsyncContextManager[RunningServer] | None = None

    @property
    def url(self) -> str:
        """What clients connect to; it stays the same over restarts."""
        return self._url

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._port

    @property
    def sockets(self) -> tuple[ServerSocket, ...]:
        """The clients that are connected."""
        return self.app.sockets

    @property
    def transcript(self) -> Transcript:
        """What its connections have carried, the latest 500 frames and ends; `print` shows it."""
        return self._tap.transcript()

    def broadcast(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event to every client that has joined the topic."""
        self.app.broadcast(topic, event, {} if payload is None else payload)

    def cut(self) -> None:
        """Drop every connection without a close frame, and go on listening."""
        if self._running is not None:
            self._running.cut()

    def disconnect(self) -> None:
        """Close every connection with 1001, and go on listening."""
        for socket in self.sockets:
            socket.disconnect()

    async def start(self) -> None:
        """Listen, on the same port as before if there was one; does nothing while it does."""
        if self._context is None:
            self._context = self.app.serve(port=self._port, wire=partial(FaultyWire, faults=self.faults, tap=self._tap))
            self._running = await self._context.__aenter__()
            self._port, self._url = int(self._running.port), self._running.url

    async def stop(self) -> None:
        """Close every connection as a server that restarts does (1012), and stop listening."""
        context, self._context, self._running = self._context, None, None
        if context is not None:
            await context.__aexit__(None, None, None)

    async def restart(self) -> None:
        """Stop, and start again on the same port."""
        await self.stop()
        await self.start()


class TestServer:
    """A server whose event loop runs in a thread. Any thread may use it.

    Attributes:
        app: The application. Its methods belong on its loop: see `call`.
        faults: What goes wrong.
    """

    __test__ = False  # for pytest

    def __init__(self, server: AsyncTestServer, loop: "_Loop") -> None:
        self.app = server.app
        self.faults = server.faults
        self._server = server
        self._loop = loop

    @property
    def url(self) -> str:
        """What clients connect to; it stays the same over restarts."""
        return self._server.url

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._server.port

    @property
    def sockets(self) -> tuple[ServerSocket, ...]:
        """The clients that are connected."""
        return self.call(lambda: self._server.sockets)

    @property
    def transcript(self) -> Transcript:
        """What its connections have carried, the latest 500 frames and ends; `print` shows it."""
        return self._server.transcript

    def call(self, function: Callable[[], T]) -> T:
        """Call something on the server's loop, and wait for what it returns or raises."""
        return self._loop.call(function)

    def broadcast(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event to every client that has joined the topic."""
        self.call(lambda: self._server.broadcast(topic, event, payload))

    def cut(self) -> None:
        """Drop every connection without a close frame, and go on listening."""
        self.call(self._server.cut)

    def disconnect(self) -> None:
        """Close every connection with 1001, and go on listening."""
        self.call(self._server.disconnect)

    def start(self) -> None:
        """Listen, on the same port as before if there was one; does nothing while it does."""
        self._loop.run(self._server.start())

    def stop(self) -> None:
        """Close every connection as a server that restarts does (1012), and stop listening."""
        self._loop.run(self._server.stop())

    def restart(self) -> None:
        """Stop, and start again on the same port."""
        self._loop.run(self._server.restart())


# ---- private --------------------------------------------------------------------------------------------------------


def _application(channels: Channels, options: dict[str, Any]) -> Server:
    if isinstance(channels, Server):
        if options:
            raise TypeError(f"options of an application that is made already: {', '.join(options)}")
        return channels
    app = Server(**options)
    for pattern, make in channels.items():
        app.channel(pattern)(make)
    return app


@asynccontextmanager
async def _serving_async(app: Server) -> AsyncGenerator[AsyncTestServer]:
    server = AsyncTestServer(app)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@contextmanager
def _serving(app: Server) -> Generator[TestServer]:
    with _looping() as loop:
        server = AsyncTestServer(app)
        loop.run(server.start())
        try:
            yield TestServer(server, loop)
        finally:
            loop.run(server.stop())


class _Loop:
    """An event loop in a thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="phx-test-server", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function there, and wait for it."""
        outcome: Future[T] = Future()

        def call() -> None:
            try:
                outcome.set_result(function())
            except BaseException as error:
                outcome.set_exception(error)

        self._loop.call_soon_threadsafe(call)
        return outcome.result()

    def close(self) -> None:
        """End it with everything on it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@contextmanager
def _looping() -> Generator[_Loop]:
    loop = _Loop()
    try:
        yield loop
    finally:
        loop.close()
