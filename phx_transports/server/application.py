"""A Phoenix server on asyncio, for tests, demos and tools: channels in Python, with the semantics of `Phoenix.Channel`.

    server = Server()

    @server.channel("room:*")
    class Room(ServerChannel):
        async def join(self, topic, params):
            if params.get("token") != "sekret":
                raise Refuse({"reason": "unauthorized"})

        @on("shout")
        async def shout(self, payload):
            self.broadcast("shout", payload)
            return {}

    async with server.serve() as running:
        await running.run()  # clients connect to running.url, until SIGTERM

A `Server` is the application: its channels, its sockets by id, its broadcasts. A `RunningServer` is one listener with
its connections. After closing it, the application may be served again, also on the same port.
"""

import ssl as tls
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, Final, TypeVar

from phx_proto.errors import InvalidHandler
from phx_proto.handlers.handler import handler_name, topic_problem
from phx_proto.handlers.router import decorator
from phx_proto.server.events import HOSTS, ServerOptions
from phx_proto.server.tracker import Tracker

from ..asyncio.workers import WorkerPool
from .channel import ServerChannel, claim
from .hub import Hub
from .mount import CheckOrigin, Connect, Mount, origin_rule
from .reports import OnError, log_callback_error
from .runner import ChannelRunner, Context, Definition
from .running import RunningServer
from .socket import ServerSocket
from .wire import ServerWire, WireOptions

#: Makes the channel of a join: a class, or another callable that returns a new object at each call.
MakeChannel = TypeVar("MakeChannel", bound=Callable[[], ServerChannel])
F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS: Final = ServerOptions()


class Server:
    """An application that can be served.

    It has one mount from the start: for the arguments from `path` to `longpoll` see `mount`.

    Args:
        options: The semantics of its first mount, and the default for others: among them the web server to imitate.
        max_connections: The number of clients at once, including those in their handshake; further ones are dropped
            when they connect. `None` for any number.
        handshake_timeout: Seconds for a client to send the headers of a request (a body has 15 s), and for `connect`.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one. In
            fragments, Bandit accepts at most 8,000,000 bytes.
        max_buffered: Bytes that may wait for a slow reader before its connection is dropped.
        send_timeout: Seconds for which a client may read nothing while its write buffer is full.
        on_error: Called with what the application's own code raised; by default it is logged with its traceback.
    """

    def __init__(
        self,
        *,
        path: str = "/socket",
        websocket: str = "/websocket",
        connect: Connect | None = None,
        options: ServerOptions = _DEFAULTS,
        check_origin: CheckOrigin = False,
        subprotocols: Sequence[str] = (),
        auth_token: bool = True,
        compress: bool = False,
        longpoll: bool = True,
        max_connections: int | None = 16_384,
        handshake_timeout: float = 10.0,
        max_size: int | None = 10_000_000,
        max_buffered: int = 16 * 2**20,
        send_timeout: float = 30.0,
        on_error: OnError = log_callback_error,
    ) -> None:
        self.options = options
        self._mounts: dict[str, Mount] = {}
        host = HOSTS[options.host]
        self._wires = WireOptions(max_connections, handshake_timeout, max_size, max_buffered, send_timeout, host)
        self._on_error = on_error
        self._definitions: dict[str, Definition] = {}
        self._hub = Hub()
        self._tracker = Tracker(Random())
        self._running: set[RunningServer] = set()
        self.mount(
            path,
            websocket=websocket,
            connect=connect,
            check_origin=check_origin,
            subprotocols=subprotocols,
            auth_token=auth_token,
            compress=compress,
            longpoll=longpoll,
        )

    # ---- its mounts --------------------------------------------------------------------------------------------------

    def mount(
        self,
        path: str,
        *,
        websocket: str = "/websocket",
        connect: Connect | None = None,
        options: ServerOptions | None = None,
        check_origin: CheckOrigin = False,
        subprotocols: Sequence[str] = (),
        auth_token: bool = True,
        compress: bool = False,
        longpoll: bool = True,
    ) -> None:
        """Add a path for clients to connect to, with the same channels. Call it before serving.

        Args:
            path: Clients connect to it with `websocket` appended. Both may have variables, which are added to the
                socket's params: `/:tenant/socket`. The first mount that matches is used.
            websocket: The rest of the path; as in Phoenix, it may be another one: `"/:key"`.
            connect: Accepts or refuses each client; by default all are accepted.
            options: The semantics: idle timeout, number of channels, Phoenix release and web server to imitate. By
                default the server's.
            check_origin: The origins from which browsers may connect: `//example.com`, `https://example.com:8080`,
                `//*.example.com` (as in Phoenix also `example.com`); `True` for the request's own host, on any port;
                `False` for any; or a plain function that gets each origin and returns `True` if it is allowed. A client
                without an origin is not a browser, and is accepted.
            subprotocols: The supported ones; a client that offers only others is refused. Without any, and without
                `auth_token`, offered ones are ignored.
            auth_token: Whether to read a token from the subprotocols, and to accept `phoenix` as one. Off by default,
                as in Phoenix.
            compress: Whether to accept permessage-deflate. As on Bandit, a message that inflates to more than 25 times
                its size closes the connection with 1009.
            longpoll: Whether clients may use long polling, at `path` with `/longpoll` appended. Off by default, as in
                Phoenix.

        Raises:
            InvalidHandler: The path is taken, or `check_origin` is a coroutine function.
            ValueError: `check_origin` has an invalid origin, or the path has a variable twice.
        """
        mount = Mount(
            path=path.rstrip("/"),
            websocket=websocket,
            connect=connect,
            options=self.options if options is None else options,
            is_allowed=origin_rule(check_origin),
            subprotocols=tuple(subprotocols),
            auth_token=auth_token,
            compress=compress,
            longpoll=longpoll,
        )
        if mount.address in self._mounts:
            raise InvalidHandler(repr(path), "the path is taken by another mount")
        self._mounts[mount.address] = mount

    # ---- its channels ------------------------------------------------------------------------------------------------

    def channel(self, pattern: str) -> Callable[[MakeChannel], MakeChannel]:
        """Register the decorated class for topics: a whole topic, or a prefix and `*`. The first match is used.

        Raises:
            InvalidHandler: The pattern is taken, left out, empty, or has a `*` before its end, as Phoenix refuses too.
        """
        if callable(pattern):
            raise InvalidHandler(handler_name(pattern), "name its topics: @….channel('room:*')")

        def register(make: MakeChannel) -> MakeChannel:
            problem = f"the pattern {pattern!r} is taken" if pattern in self._definitions else topic_problem(pattern)
            if problem is not None:
                raise InvalidHandler(getattr(make, "__qualname__", repr(make)), problem)
            self._definitions[pattern] = Definition(make)
            return make

        return register

    def on(self, event: str, *, topic: str) -> Callable[[F], F]:
        """Register the decorated function for an event, instead of a class. It gets a `ServerChannel` and a payload.

        If no class is registered for exactly this topic pattern, every join is accepted with an empty response.

        Raises:
            InvalidHandler: The event is left out or has a function already, or the topic is no pattern, see `channel`.
        """

        def add(function: Callable[..., Any], event: str) -> None:
            if problem := topic_problem(topic):
                raise InvalidHandler(handler_name(function), problem)
            claim(self._definitions.setdefault(topic, Definition(ServerChannel)).handlers, event, function)

        return decorator(add, event)

    # ---- its clients -------------------------------------------------------------------------------------------------

    @property
    def sockets(self) -> tuple[ServerSocket, ...]:
        """The connected clients."""
        return tuple(socket for running in self._running for socket in running.sockets)

    def broadcast(self, topic: str, event: str, payload: Any) -> None:
        """Send an event to every client that has joined the topic; encoded once for each version of the wire format.

        Raises:
            LocalError: The payload cannot be encoded for one of them; it was sent to none.
            OtherLoop: It is called on another thread: use `loop.call_soon_threadsafe(server.broadcast, …)`.
        """
        self._hub.broadcast(topic, event, payload)

    def disconnect(self, socket_id: str) -> None:
        """Close the connections of every socket with this id; their clients will reconnect."""
        for socket in self.sockets:
            if socket.id == socket_id:
                socket.disconnect()

    # ---- serving -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def serve(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        ssl: tls.SSLContext | None = None,
        wire: Callable[..., ServerWire] = ServerWire,
    ) -> AsyncGenerator[RunningServer]:
        """Serve while in the context; leaving it closes the server as `RunningServer.close` does.

        Args:
            host: The address to listen on.
            port: 0 for any free one; see `RunningServer.url`.
            ssl: For `wss://`.
            wire: Makes each connection; for the test kit, which adds faults.

        Raises:
            OSError: It cannot listen there.
        """
        pool = WorkerPool(ChannelRunner.work)
        context = Context(self._definitions, self._hub, self._tracker, self._on_error, pool)
        running = RunningServer(context, self._mounts.values())
        await running.listen(host, port, ssl, self._wires, wire)
        self._running.add(running)
        try:
            yield running
        finally:
            try:
                await running.close()
            finally:
                self._running.discard(running)
