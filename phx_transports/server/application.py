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
its connections; an application may be served again after it was closed, on the same port too. The pieces stand beside
this file: the channel and its runner, the socket and its pump, the wire, the handshake, the hub of broadcasts.
"""

import asyncio
import contextlib
import inspect
import logging
import ssl as tls
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from itertools import islice
from random import Random
from typing import Any, Final, TypeVar, cast

from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.http11 import Request, Response

from phx_proto.errors import InvalidHandler
from phx_proto.message import Reply
from phx_proto.server.events import HOSTS, Host, Release, ServerOptions, Termination
from phx_proto.server.tracker import Tracker

from ..asyncio.signals import signals_to
from ..asyncio.workers import WorkerPool
from ..client.signals import SignalPolicy
from .channel import (
    CallbackError,
    Context,
    Definition,
    OnError,
    Refuse,
    Runner,
    ServerChannel,
    log_callback_error,
    on,
    raise_if_ended,
)
from .handshake import NO_OFFER, BadToken, Offer, RefuseConnect, answer_offer, refusal
from .hub import Hub
from .mount import CRASHED, NOT_FOUND, Connect, Mount, Origin, serializer_of
from .socket import Driver, ServerSocket
from .wire import WRITE_LIMIT, Outbox, Wire, WireOptions

__all__ = [
    "CallbackError",
    "Connect",
    "Host",
    "Refuse",
    "RefuseConnect",
    "Release",
    "Reply",
    "RunningServer",
    "Server",
    "ServerChannel",
    "ServerOptions",
    "ServerSocket",
    "Termination",
    "on",
]

#: Makes the channel of a join: a class, or anything else that gives a new object at each call.
MakeChannel = TypeVar("MakeChannel", bound=Callable[[], ServerChannel])
F = TypeVar("F", bound=Callable[..., Any])

_DEFAULTS: Final = ServerOptions()


class Server:
    """An application that can be served.

    It has one mount from the start; see `mount` for what the first six arguments mean.

    Args:
        path: Of its mount.
        connect: Of its mount.
        options: Of its mount, and by default of others; its host is the web server to be.
        check_origin: Of its mount.
        subprotocols: Of its mount.
        auth_token: Of its mount.
        max_connections: How many clients there may be at once, those whose handshake is not over included; one more is
            dropped when it comes. `None` for any number.
        handshake_timeout: Seconds that a client and `connect` have for the handshake.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one.
        max_buffered: Bytes that may wait for a slow reader before its connection is dropped.
        send_timeout: Seconds for which a client may read nothing while much waits for it.
        on_error: Told what the application's own code raised; by default it is logged with its traceback.
    """

    def __init__(
        self,
        *,
        path: str = "/socket",
        connect: Connect | None = None,
        options: ServerOptions = _DEFAULTS,
        check_origin: Sequence[str] | None = None,
        subprotocols: Sequence[str] = (),
        auth_token: bool = True,
        max_connections: int | None = 16_384,
        handshake_timeout: float = 10.0,
        max_size: int | None = 10_000_000,
        max_buffered: int = 16 * 2**20,
        send_timeout: float = 30.0,
        on_error: OnError = log_callback_error,
    ) -> None:
        self.options = options
        self._mounts: dict[str, Mount] = {}
        limit = HOSTS[options.host].max_request_line
        self._wires = WireOptions(max_connections, handshake_timeout, max_size, max_buffered, send_timeout, limit)
        self._on_error = on_error
        self._definitions: dict[str, Definition] = {}
        self._hub = Hub()
        self._tracker = Tracker(Random())
        self._running: set[RunningServer] = set()
        self.mount(path, connect=connect, check_origin=check_origin, subprotocols=subprotocols, auth_token=auth_token)

    # ---- its mounts --------------------------------------------------------------------------------------------------

    def mount(
        self,
        path: str,
        *,
        connect: Connect | None = None,
        options: ServerOptions | None = None,
        check_origin: Sequence[str] | None = None,
        subprotocols: Sequence[str] = (),
        auth_token: bool = True,
    ) -> None:
        """Let clients connect at one more path, to the same channels. To be called before serving.

        Args:
            path: Clients connect to it with `/websocket` behind.
            connect: Asked about each client; by default everyone is welcome.
            options: The semantics: idle timeout, number of channels, which Phoenix release and web server to be. By
                default those of the server.
            check_origin: From which origins browsers may connect: `//example.com`, `https://example.com:8080`,
                `//*.example.com` (as in Phoenix `example.com` too). `None` for any. A client that is no browser sends
                none, and is welcome.
            subprotocols: To choose from; a client that offers others alone is refused. Without any, and without
                `auth_token`, what is offered is ignored.
            auth_token: Whether a token is read from the subprotocols, and `phoenix` accepted as one. Phoenix does so
                only where it is asked to.

        Raises:
            InvalidHandler: The path is taken.
            ValueError: What stands in `check_origin` is no origin.
        """
        mount = Mount(
            path=path.rstrip("/"),
            connect=connect,
            options=self.options if options is None else options,
            check_origin=None if check_origin is None else tuple(map(Origin.allowed, check_origin)),
            subprotocols=tuple(subprotocols),
            auth_token=auth_token,
        )
        if mount.address in self._mounts:
            raise InvalidHandler(repr(path), "the path is taken by another mount")
        self._mounts[mount.address] = mount

    # ---- its channels ------------------------------------------------------------------------------------------------

    def channel(self, pattern: str) -> Callable[[MakeChannel], MakeChannel]:
        """Register the decorated class for topics: a whole topic, or a beginning and `*`. The first that matches wins.

        Raises:
            InvalidHandler: The pattern is taken.
        """

        def register(make: MakeChannel) -> MakeChannel:
            if pattern in self._definitions:
                raise InvalidHandler(getattr(make, "__qualname__", repr(make)), f"the pattern {pattern!r} is taken")
            self._definitions[pattern] = Definition(make)
            return make

        return register

    def on(self, event: str, *, topic: str) -> Callable[[F], F]:
        """Register the decorated function, of a `ServerChannel` and a payload, for an event; a class is not needed.

        Args:
            event: The event's name.
            topic: A pattern; if no class is registered for exactly it, every join is accepted with an empty response.
        """

        def register(function: F) -> F:
            self._definitions.setdefault(topic, Definition(ServerChannel)).handlers[event] = function
            return function

        return register

    # ---- its clients -------------------------------------------------------------------------------------------------

    @property
    def sockets(self) -> tuple[ServerSocket, ...]:
        """The clients that are connected."""
        return tuple(socket for running in self._running for socket in running.sockets)

    def broadcast(self, topic: str, event: str, payload: Any) -> None:
        """Send an event to everyone who has the topic joined; encoded once for all who speak a version.

        Raises:
            LocalError: The payload cannot be encoded for one of them; nobody got it.
        """
        self._hub.broadcast(topic, event, payload)

    def disconnect(self, socket_id: str) -> None:
        """Close the connections of every socket with this id; their clients are meant to come back."""
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
        wire: Callable[..., Wire] = Wire,
    ) -> AsyncGenerator["RunningServer"]:
        """Serve while in the context; leaving it closes the server as `RunningServer.close` does.

        Args:
            host: The address to listen on.
            port: 0 for any free one; see `RunningServer.url`.
            ssl: For `wss://`.
            wire: Makes each connection; for the test kit, whose connections have faults.

        Raises:
            OSError: It cannot listen there.
        """
        running = RunningServer(self._context(), self._mounts)
        await running.listen(host, port, ssl, self._wires, wire)
        self._running.add(running)
        try:
            yield running
        finally:
            try:
                await running.close()
            finally:
                self._running.discard(running)

    def _context(self) -> Context:
        pool = WorkerPool(Runner.work)
        return Context(self._definitions, self._hub, self._tracker, self._on_error, pool)


@dataclass(slots=True, eq=False)
class _Guest:
    """A connection, from its acceptance by TCP to its end: as much as is known of it."""

    mount: Mount | None = None
    offer: Offer = NO_OFFER
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    connecting: asyncio.Task[Any] | None = None
    socket: ServerSocket | None = None
    driver: Driver | None = None


class RunningServer:
    """One listener with its connections; made by `Server.serve`.

    Attributes:
        url: What clients connect to, e.g. `ws://127.0.0.1:4000/socket`, for the first mount.
        port: Where it listens.
    """

    def __init__(self, context: Context, mounts: Mapping[str, Mount]) -> None:
        self.url = ""
        self.port = 0
        self._context = context
        self._mounts = mounts
        self._guests: dict[Wire, _Guest] = {}
        self._listener: Listener | None = None
        self._closing = False
        self._max_connections: int | None = None
        self._closed = asyncio.Event()

    @property
    def sockets(self) -> tuple[ServerSocket, ...]:
        """The clients that are connected here."""
        return tuple(driver.socket for driver in self._drivers() if driver.socket.ended is None)

    async def run(self, *, drain_timeout: float = 30.0, signals: SignalPolicy = "unclaimed") -> None:
        """Serve until `close`, SIGINT or SIGTERM: a first signal closes gracefully, a second one aborts.

        Args:
            drain_timeout: The `timeout` of that `close`.
            signals: Which of the two it takes, as for `Client.run`.
        """
        ends = iter((partial(self.close, timeout=drain_timeout), self.abort))
        ending: list[asyncio.Task[None]] = []

        def end(number: int) -> None:
            ending.extend(asyncio.create_task(how()) for how in islice(ends, 1))

        with signals_to(end, signals):
            await self._closed.wait()
        await asyncio.gather(*ending)

    def cut(self) -> None:
        """Drop every connection without a close frame, and go on listening: what a broken network does."""
        for driver in self._drivers():
            driver.abort()
        for wire in self._guests:
            wire.drop()

    async def close(self, *, timeout: float = 5.0) -> None:
        """Stop listening, close every connection as a server that restarts does, and wait until nothing is left.

        Args:
            timeout: Seconds for the clients to end their connections and for the application's handlers and
                `terminate`s to end. Then they are dropped and cancelled.
        """
        await self._end(Driver.shutdown, timeout)

    async def abort(self, *, timeout: float = 5.0) -> None:
        """Stop listening, drop every connection without a close frame, and wait until nothing is left.

        Args:
            timeout: Seconds for the application's handlers and `terminate`s to end. Then they are cancelled.
        """
        self.cut()
        await self._end(Driver.abort, timeout)

    async def listen(
        self, host: str, port: int, ssl: tls.SSLContext | None, options: WireOptions, make: Callable[..., Wire]
    ) -> None:
        """Start; done by `Server.serve`."""
        wire = partial(
            make,
            made=self._made,
            lost=self._lost,
            outbox=Outbox(),
            max_buffered=options.max_buffered,
            send_timeout=options.send_timeout,
            max_request_line=options.max_request_line,
        )
        self._max_connections = options.max_connections
        self._listener = await listen(
            self._open,
            host,
            port,
            ssl=ssl,
            create_connection=cast("type[ServerConnection]", wire),
            process_request=self._request,
            process_response=self._response,
            server_header=None,
            compression=None,
            ping_interval=None,
            open_timeout=options.handshake_timeout,
            max_size=options.max_size,
            max_queue=None,
            write_limit=WRITE_LIMIT,
            logger=_silent,
            ssl_handshake_timeout=None if ssl is None else options.handshake_timeout,
        )
        self.port = self._listener.sockets[0].getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        first = next(iter(self._mounts.values()))
        self.url = f"{'ws' if ssl is None else 'wss'}://{name}:{self.port}{first.path}"

    # ---- a connection ------------------------------------------------------------------------------------------------

    def _made(self, wire: Wire) -> None:
        self._guests[wire] = _Guest()
        limit = self._max_connections
        if self._closing or (limit is not None and len(self._guests) > limit):  # closing: it was accepted just before
            wire.drop()

    def _lost(self, wire: Wire) -> None:
        guest = self._guests.pop(wire)
        if guest.connecting is not None:
            guest.connecting.cancel()

    def _request(self, connection: ServerConnection, request: Request) -> Response | None:
        """What can be refused without asking the application, and what the library must not see."""
        assert isinstance(connection, Wire)
        guest, door = self._guest(connection), connection.door
        if "Host" not in request.headers:
            return refusal(RefuseConnect(400))
        guest.mount = self._mounts.get(door.path.removesuffix("/"))
        if guest.mount is None:
            return refusal(NOT_FOUND)
        try:
            guest.offer, guest.params = guest.mount.admit(door, request.headers)
        except RefuseConnect as refused:
            return refusal(refused)
        except BadToken:
            return refusal(CRASHED)
        return None

    async def _response(self, connection: ServerConnection, request: Request, response: Response) -> Response | None:
        """Asks the application about a handshake that is right otherwise."""
        guest = self._guest(connection)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS or guest.mount is None:
            return None
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        socket = ServerSocket(params=guest.params, headers=headers, auth_token=guest.offer.token)
        guest.connecting = asyncio.current_task()
        try:
            if guest.mount.connect is not None and inspect.isawaitable(asked := guest.mount.connect(socket)):
                await asked
        except RefuseConnect as refused:
            return refusal(refused, guest.offer)
        except BaseException as error:
            raise_if_ended(error)
            self._context.report("connect", error)
            return refusal(CRASHED)
        finally:
            guest.connecting = None
        guest.socket = socket
        answer_offer(response, guest.offer)
        return None

    async def _open(self, connection: ServerConnection) -> None:
        """The handshake is over."""
        assert isinstance(connection, Wire)
        guest = self._guest(connection)
        assert guest.mount is not None, "the library opens what was accepted"
        assert guest.socket is not None, "the application was asked"
        serializer = serializer_of(guest.params)
        assert serializer is not None, "the version was looked at in the request"
        guest.driver = Driver(self._context, guest.socket, serializer, connection, guest.mount.options)
        await connection.wait_closed()

    def _guest(self, connection: ServerConnection) -> _Guest:
        assert isinstance(connection, Wire)
        return self._guests.get(connection) or _Guest()  # one that is gone already: what is written there is lost

    def _drivers(self) -> list[Driver]:
        return [guest.driver for guest in self._guests.values() if guest.driver is not None]

    # ---- the end -----------------------------------------------------------------------------------------------------

    async def _end(self, farewell: Callable[[Driver], None], timeout: float) -> None:
        assert self._listener is not None, "it listens before anybody gets it"
        if self._closing:
            await self._closed.wait()
            return
        self._closing = True
        try:
            try:
                await self._stop_accepting(self._listener)
            finally:
                self._listener.close(close_connections=False)
            for runner in self._context.runners:  # or each would be told of the end of all who go before it
                runner.unsubscribe()
            for driver in self._drivers():
                farewell(driver)
            for wire, guest in self._guests.items():
                if guest.driver is None:
                    wire.drop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._settled()
        finally:
            self.cut()
            await self._context.pool.close()
            for runner in tuple(self._context.runners):
                await runner.retire()
            await self._listener.wait_closed()
            self._closed.set()

    async def _stop_accepting(self, listener: Listener) -> None:
        """Lets asyncio finish what it has accepted: a connection that meets a closing listener there is leaked."""
        loop = asyncio.get_running_loop()
        for sock in listener.sockets:
            with contextlib.suppress(NotImplementedError):  # a loop without readers
                loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)

    async def _settled(self) -> None:
        """Waits until no connection is left, and then until the application is done with their channels."""
        for wire in tuple(self._guests):
            await wire.wait_closed()
        for runner in tuple(self._context.runners):
            await runner.retired.wait()


_silent: Final = logging.Logger("phx_transports.silent")  # outside the tree of loggers, which would show tokens
_silent.disabled = True
