"""One listener of a server, and its connected clients."""

import asyncio
import contextlib
import inspect
import logging
import ssl as tls
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from itertools import islice
from typing import Any, Final, cast

from msgspec.structs import replace
from websockets.asyncio.server import Server as Listener
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen
from websockets.http11 import Request, Response

from phx_proto.checks import check_seconds, checked_timeout
from phx_proto.server.events import HOSTS, ServerOptions
from phx_proto.shown import NO_SECRETS

from ..asyncio.signals import signals_to
from ..client.signals import SignalPolicy
from .deflate import Deflate
from .driver import SocketDriver, SocketWire
from .handshake import NO_OFFER, BadToken, Offer, RefuseConnect, refusal
from .http import HttpConnection, HttpRequest
from .mount import CRASHED, NOT_FOUND, Mount, serializer_of
from .polling import Polling, PollingWire
from .reports import raise_if_ended
from .runner import ChannelRunner, Context
from .socket import ConnectInfo, ServerSocket
from .wire import WRITE_LIMIT, Outbox, ServerWire, WireOptions


@dataclass(slots=True, eq=False)
class _Client:
    """A connection, from its TCP accept to its end, as far as it is known."""

    mount: Mount | None = None
    offer: Offer = NO_OFFER
    params: dict[str, Any] = field(default_factory=dict[str, Any])
    connecting: asyncio.Task[Any] | None = None
    socket: ServerSocket | None = None
    driver: SocketDriver | None = None


class RunningServer:
    """One listener with its connections; made by `Server.serve`.

    Attributes:
        url: The URL for clients, e.g. `ws://127.0.0.1:4000/socket`, of the first mount.
        port: The port it listens on.
    """

    def __init__(self, context: Context, mounts: Collection[Mount]) -> None:
        self.url = ""
        self.port = 0
        self._context = context
        self._mounts = mounts
        self._clients: dict[ServerWire, _Client] = {}
        self._listener: Listener | None = None
        self._polling: dict[Mount, Polling] = {}
        self._closing = False
        self._options: WireOptions  # set when it listens
        self._closed = asyncio.Event()

    @property
    def sockets(self) -> tuple[ServerSocket, ...]:
        """The clients connected here."""
        return tuple(driver.socket for driver in self._drivers() if driver.socket.ended is None)

    async def run(self, *, drain_timeout: float = 30.0, signals: SignalPolicy = "unclaimed") -> None:
        """Serve until `close`, SIGINT or SIGTERM: a first signal closes gracefully, a second one aborts.

        Args:
            drain_timeout: The `timeout` of that `close`.
            signals: Which of the two it handles, as for `Client.run`.
        """
        check_seconds("drain_timeout", drain_timeout, zero=True, endless=True)
        ends = iter((partial(self.close, timeout=drain_timeout), self.abort))
        ending: list[asyncio.Task[None]] = []

        def end(number: int) -> None:
            ending.extend(asyncio.create_task(how()) for how in islice(ends, 1))

        with signals_to(end, signals):
            await self._closed.wait()
        await asyncio.gather(*ending)

    def cut(self) -> None:
        """Drop every connection without a close frame, and go on listening: simulates a broken network."""
        for driver in self._drivers():
            driver.abort()
        for wire in self._clients:
            wire.drop()

    async def close(self, *, timeout: float = 5.0) -> None:
        """Stop listening, close every connection like a server that restarts, and wait until everything is released.

        Args:
            timeout: Seconds for the clients to end their connections, and for handlers and `terminate`s to end. Then
                connections are dropped and tasks cancelled.
        """
        await self._end(SocketDriver.shutdown, checked_timeout("close", timeout))

    async def abort(self, *, timeout: float = 5.0) -> None:
        """Stop listening, drop every connection without a close frame, and wait until everything is released.

        Args:
            timeout: Seconds for handlers and `terminate`s to end. Then they are cancelled.
        """
        checked_timeout("abort", timeout)
        self.cut()
        await self._end(SocketDriver.abort, timeout)

    async def listen(
        self, host: str, port: int, ssl: tls.SSLContext | None, options: WireOptions, make: Callable[..., ServerWire]
    ) -> None:
        """Start listening; called by `Server.serve`."""
        wire = partial(make, made=self._made, lost=self._lost, speaks=self._speaks, outbox=Outbox(), limits=options)
        self._polling = {mount: Polling(mount, self, options) for mount in self._mounts if mount.longpoll}
        self._options = options
        self._listener = await listen(
            cast("Any", self._open),
            host,
            port,
            ssl=ssl,
            create_connection=cast("type[ServerConnection]", wire),
            process_request=cast("Any", self._request),
            process_response=cast("Any", self._response),
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
        first = next(iter(self._mounts))
        self.url = f"{'ws' if ssl is None else 'wss'}://{name}:{self.port}{first.path}"

    # ---- a connection ------------------------------------------------------------------------------------------------

    def _made(self, wire: ServerWire) -> None:
        self._clients[wire] = _Client()
        limit = self._options.max_connections
        if self._closing or (limit is not None and len(self._clients) > limit):  # closing: it was accepted just before
            wire.drop()

    def _lost(self, wire: ServerWire) -> None:
        client = self._clients.pop(wire)
        if client.connecting is not None:
            client.connecting.cancel()

    def _speaks(self, wire: ServerWire) -> HttpConnection | None:
        """The HTTP connection if it is one of long polling, by its request line."""
        if all(mount.match_polls(wire.request_line.path) is None for mount in self._mounts):
            return None
        return HttpConnection(
            wire.transport,
            on_request=partial(self._polled, wire),
            want=lambda more: wire.want(more=more),
            head_timeout=self._options.handshake_timeout,
        )

    def _polled(self, wire: ServerWire, request: HttpRequest) -> None:
        if "host" not in request.headers:
            request.connection.answer(request, 400, {}, b"")
            return
        for mount, polling in self._polling.items():
            variables = mount.match_polls(request.path)
            if variables is not None:
                polling.request(request, variables, _info(wire, "http", request.path, request.headers))
                return
        request.connection.answer(request, NOT_FOUND.status, NOT_FOUND.headers, NOT_FOUND.body)

    def _request(self, connection: ServerWire, request: Request) -> Response | None:
        """Refuse a request without calling the application, and hide from the library what it must not see."""
        client, line = self._client(connection), connection.request_line
        if "Host" not in request.headers:
            return refusal(RefuseConnect(400))
        places = ((mount, found) for mount in self._mounts if (found := mount.match(line.path)) is not None)
        place = next(places, None)
        if place is None:
            return refusal(NOT_FOUND)
        mount, variables = place
        client.mount = mount
        try:
            client.offer, client.params = mount.admit(line, variables, request.headers)
        except RefuseConnect as refused:
            return refusal(refused)
        except BadToken:
            return refusal(CRASHED)
        except BaseException as error:
            self._context.report("check_origin", error, secrets=lambda: NO_SECRETS)
            return refusal(CRASHED)
        if mount.compress:
            connection.protocol.available_extensions = [Deflate(HOSTS[mount.options.host].max_inflation)]
        return None

    async def _response(self, connection: ServerWire, request: Request, response: Response) -> Response | None:
        """Call the application for an otherwise valid handshake."""
        client = self._client(connection)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS or client.mount is None:
            return None
        headers = {name.lower(): value for name, value in request.headers.raw_items()}
        info = _info(connection, "ws", connection.request_line.path, headers)
        socket = ServerSocket(params=client.params, headers=headers, auth_token=client.offer.token, connect_info=info)
        client.connecting = asyncio.current_task()
        try:
            refused = await self.ask(client.mount, socket)
        finally:
            client.connecting = None
        if refused is not None:
            return refusal(refused, NO_OFFER if refused is CRASHED else client.offer)
        client.socket = socket
        client.offer.put_answer(response.headers)
        return None

    async def _open(self, connection: ServerWire) -> None:
        """The handshake is over."""
        client = self._client(connection)
        assert client.mount is not None, "the library opens what was accepted"
        assert client.socket is not None, "the application was asked"
        client.driver = self._driven(client.socket, connection, client.mount.options)
        await connection.wait_closed()

    # ---- what long polling asks for (see `polling.py`) ---------------------------------------------------------------

    async def ask(self, mount: Mount, socket: ServerSocket) -> RefuseConnect | None:
        """Ask the application about a client; returns the refusal, if there is one."""
        try:
            if mount.connect is not None and inspect.isawaitable(asked := mount.connect(socket)):
                await asked
        except RefuseConnect as refused:
            return refused
        except BaseException as error:
            raise_if_ended(error)
            self._context.report("connect", error, secrets=socket.secrets)
            return CRASHED
        return None

    def admits_origin(self, mount: Mount, origins: Sequence[str], host: str) -> bool | None:
        """Whether a page of this origin may connect; `None` if the application's check fails."""
        try:
            return mount.admits(origins, host)
        except BaseException as error:
            self._context.report("check_origin", error, secrets=lambda: NO_SECRETS)
            return None

    def drive(self, mount: Mount, socket: ServerSocket, wire: PollingWire) -> SocketDriver:
        """Begin the socket of a session, which has a timeout of its own."""
        return self._driven(socket, wire, replace(mount.options, timeout=None))

    def _driven(self, socket: ServerSocket, wire: SocketWire, options: ServerOptions) -> SocketDriver:
        serializer = serializer_of(socket.params)
        assert serializer is not None, "the version was looked at in the request"
        return SocketDriver(
            socket,
            serializer,
            wire,
            options,
            topics=tuple(self._context.definitions),
            begin_join=lambda driver, request: ChannelRunner(self._context, driver, request).put,
        )

    def _client(self, connection: ServerWire) -> _Client:
        return self._clients.get(connection) or _Client()  # if it is gone, a placeholder

    def _drivers(self) -> list[SocketDriver]:
        drivers = [client.driver for client in self._clients.values() if client.driver is not None]
        return drivers + [driver for polling in self._polling.values() for driver in polling.drivers.values()]

    # ---- the end -----------------------------------------------------------------------------------------------------

    async def _end(self, farewell: Callable[[SocketDriver], None], timeout: float) -> None:
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
            for runner in self._context.runners:  # else each would get the presence diffs of all that end before it
                runner.unsubscribe()
            for driver in self._drivers():
                farewell(driver)
            for wire, client in self._clients.items():
                if client.driver is None:
                    wire.drop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):  # first for the connections, then for the application's tasks
                    for wire in tuple(self._clients):
                        await wire.wait_closed()
                    for runner in tuple(self._context.runners):
                        await runner.retired.wait()
        finally:
            self.cut()
            for polling in self._polling.values():
                await polling.close()
            await self._context.pool.close()
            for runner in tuple(self._context.runners):
                await runner.retire()
            await self._listener.wait_closed()
            self._closed.set()

    async def _stop_accepting(self, listener: Listener) -> None:
        """Let asyncio finish the connections that it has accepted: it leaks one that is added to a closing listener."""
        loop = asyncio.get_running_loop()
        for sock in listener.sockets:
            with contextlib.suppress(NotImplementedError):  # a loop without `remove_reader`
                loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)


def _info(wire: ServerWire, scheme: str, path: str, headers: Mapping[str, str]) -> ConnectInfo:
    secure = "" if wire.transport.get_extra_info("ssl_object") is None else "s"
    return ConnectInfo.of(wire.remote_address, f"{scheme}{secure}://{headers['host']}{path}", headers)


_silent: Final = logging.Logger("phx_transports.silent")  # outside the tree of loggers, which would show tokens
_silent.disabled = True
