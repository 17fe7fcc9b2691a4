"""`serve`: a real server on a free port of this machine, for tests that need a real socket.

    with serve({"room:*": Room}) as server:          # `async with` on an event loop
        with connect(server.url) as client:
            …
            server.cut()                             # `await server.restart()` where it was entered with `async with`

The application is a `phx_transports.server.Server`. Its channels run on an event loop: with `async with` the test's
own, otherwise one in a thread. Faults are set on `server.faults`.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import partial
from ssl import SSLContext
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
        ssl: For `wss://`; the certificate must be for 127.0.0.1.
        **options: For the `Server` made for the channels: `connect`, `options`, …

    Raises:
        TypeError: There are options, and `channels` is a `Server`.
    """

    def __init__(self, channels: Channels, *, ssl: SSLContext | None = None, **options: Any) -> None:
        self._ssl = ssl
        if isinstance(channels, Server):
            if options:
                raise TypeError(f"options of an application that is made already: {', '.join(options)}")
            self._app = channels
        else:
            self._app = Server(**options)
            for pattern, make in channels.items():
                self._app.channel(pattern)(make)
        self._server: Any = None

    def __enter__(self) -> "TestServer":
        self._server = server = TestServer(self._app, self._ssl)
        try:
            server.start()
        except BaseException:
            self.__exit__()
            raise
        return server

    def __exit__(self, *exception: object) -> None:
        try:
            self._server.stop()
        finally:
            self._server.end()

    async def __aenter__(self) -> "AsyncTestServer":
        self._server = server = AsyncTestServer(self._app, self._ssl)
        await server.start()
        return server

    async def __aexit__(self, *exception: object) -> None:
        await self._server.stop()


class _Server:
    """What both servers have in common.

    Attributes:
        app: The application: its sockets, its broadcasts. Call its methods on its loop: see `call`.
        faults: The faults.
        url: The URL for clients; restarts keep it.
        port: The port it listens on.
    """

    __test__ = False  # for pytest

    def __init__(self, app: Server, ssl: SSLContext | None) -> None:
        self.app = app
        self._ssl = ssl
        self.faults = Faults()
        self.url = ""
        self.port = 0
        self._tap = Wiretap()
        self._running: RunningServer | None = None
        self._context = AsyncExitStack()

    @property
    def sockets(self) -> tuple[ServerSocket, ...]:
        """The connected clients."""
        return self.call(lambda: self.app.sockets)

    @property
    def transcript(self) -> Transcript:
        """The latest 500 frames and ends of its connections; `print` shows it."""
        return self._tap.transcript()

    def call(self, function: Callable[[], T]) -> T:
        """Call something on the server's loop, and wait for its result or error."""
        return function()

    def broadcast(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event to every client that has joined the topic."""
        self.call(lambda: self.app.broadcast(topic, event, {} if payload is None else payload))

    def cut(self) -> None:
        """Drop every connection without a close frame, and go on listening."""
        if self._running is not None:
            self.call(self._running.cut)

    def disconnect(self) -> None:
        """Close every connection with 1001, and go on listening."""
        for socket in self.sockets:
            self.call(socket.disconnect)

    async def _start(self) -> None:
        if self._running is None:
            wire = partial(FaultyWire, faults=self.faults, tap=self._tap)
            serving = self.app.serve(port=self.port, ssl=self._ssl, wire=wire)
            self._running = await self._context.enter_async_context(serving)
            self.port, self.url = int(self._running.port), self._running.url

    async def _stop(self) -> None:
        self._running = None
        await self._context.aclose()


class AsyncTestServer(_Server):
    """A server on the test's own event loop."""

    async def start(self) -> None:
        """Listen, on the same port as before if there was one; does nothing if it listens."""
        await self._start()

    async def stop(self) -> None:
        """Close every connection like a server that restarts (1012), and stop listening."""
        await self._stop()

    async def restart(self) -> None:
        """Stop, and start again on the same port."""
        await self.stop()
        await self.start()


class TestServer(_Server):
    """A server whose event loop runs in a thread. Any thread may use it."""

    def __init__(self, app: Server, ssl: SSLContext | None) -> None:
        super().__init__(app, ssl)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="phx-test-server", daemon=True)
        self._thread.start()

    def call(self, function: Callable[[], T]) -> T:

        async def call() -> T:
            return function()

        return self._run(call())

    def start(self) -> None:
        """Listen, on the same port as before if there was one; does nothing if it listens."""
        self._run(self._start())

    def stop(self) -> None:
        """Close every connection like a server that restarts (1012), and stop listening."""
        self._run(self._stop())

    def restart(self) -> None:
        """Stop, and start again on the same port."""
        self.stop()
        self.start()

    def end(self) -> None:
        """End the event loop; called by `serve`."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()
