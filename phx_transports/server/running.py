"""One listener of a server, and its connected clients."""

import asyncio
import contextlib
import inspect
import ssl as tls
from collections.abc import Callable, Collection, Sequence
from functools import partial
from http import HTTPStatus
from itertools import islice

from msgspec.structs import replace
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol as WebSocketProtocol

from phx_proto.checks import check_seconds, checked_timeout
from phx_proto.formats import ServerSerializer
from phx_proto.server.events import HOSTS, ServerOptions
from phx_proto.shown import NO_SECRETS

from ..asyncio.signals import signals_to
from ..client.signals import SignalPolicy
from ..websocket.handshake import silent
from .deflate import Deflate
from .driver import SocketDriver, SocketWire
from .handshake import NO_OFFER, BadToken, Offer, RefuseConnect, refuse
from .http import HttpRequest
from .mount import CRASHED, NOT_FOUND, Mount, serializer_of
from .polling import Polling, PollingWire
from .reports import raise_if_ended
from .runner import ChannelRunner, Context
from .socket import ConnectInfo, ServerSocket
from .wire import Outbox, ServerWire, WireOptions


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
        self._clients: dict[ServerWire, SocketDriver | None] = {}  # no driver before the WebSocket is open
        self._openings: set[asyncio.Task[None]] = set()  # handshakes that the application is asked about
        self._listener: asyncio.Server | None = None
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
        self._silence()
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
        new = partial(make, made=self._made, lost=self._lost, asked=self._asked, outbox=Outbox(), limits=options)
        self._polling = {mount: Polling(mount, self, options) for mount in self._mounts if mount.longpoll}
        self._options = options

        def encrypted() -> ServerWire:
            wire = new()
            wire.shake_hands()
            return wire

        wire = new if ssl is None else encrypted
        patience = None if ssl is None else options.handshake_timeout
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(wire, host, port, ssl=ssl, ssl_handshake_timeout=patience)
        self.port = self._listener.sockets[0].getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        first = next(iter(self._mounts))
        self.url = f"{'ws' if ssl is None else 'wss'}://{name}:{self.port}{first.path}"

    # ---- a connection ------------------------------------------------------------------------------------------------

    def _made(self, wire: ServerWire) -> None:
        self._clients[wire] = None
        limit = self._options.max_connections
        if self._closing or (limit is not None and len(self._clients) > limit):  # closing: it was accepted just before
            wire.drop()

    def _lost(self, wire: ServerWire) -> None:
        del self._clients[wire]

    def _asked(self, wire: ServerWire, request: HttpRequest) -> None:
        """Pass a request on to its mount: a poll, or a handshake. What need not be asked is refused at once."""
        if "host" not in request.fields:
            refuse(request, RefuseConnect(400))
            return
        for mount, polling in self._polling.items():
            if (variables := mount.match_polls(request.path)) is not None:
                polling.request(request, variables, _info(wire, "http", request))
                return
        for mount in self._mounts:
            if (variables := mount.match(request.path)) is not None:
                self._shake_hands(wire, request, mount, variables)
                return
        if "upgrade" in request.fields:
            refuse(request, NOT_FOUND)
        else:
            request.connection.answer(request, NOT_FOUND.status, NOT_FOUND.headers, NOT_FOUND.body)

    def _shake_hands(self, wire: ServerWire, request: HttpRequest, mount: Mount, variables: dict[str, str]) -> None:
        """Refuse a handshake without calling the application, or begin to open its WebSocket."""
        try:
            offer, params = mount.admit(request, variables)
        except RefuseConnect as refused:
            refuse(request, refused)
        except BadToken:
            refuse(request, CRASHED)
        except BaseException as error:
            self._context.report("check_origin", error, secrets=lambda: NO_SECRETS)
            refuse(request, CRASHED)
        else:
            info = _info(wire, "ws", request)
            socket = ServerSocket(params=params, headers=request.headers, auth_token=offer.token, connect_info=info)
            opening = asyncio.Task(self._open(wire, request, mount, socket, offer), loop=wire.loop)
            request.connection.on_lost = opening.cancel
            self._openings.add(opening)
            opening.add_done_callback(self._openings.discard)

    async def _open(
        self, wire: ServerWire, request: HttpRequest, mount: Mount, socket: ServerSocket, offer: Offer
    ) -> None:
        """Ask the application about an otherwise valid handshake, and answer it."""
        deflate = [Deflate(HOSTS[mount.options.host].max_inflation)] if mount.compress else None
        protocol = WebSocketProtocol(
            extensions=deflate, state=State.OPEN, max_size=self._options.max_size, logger=silent
        )
        response = protocol.accept(Request(request.path, request.fields))
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            refuse(request, RefuseConnect(response.status_code, bytes(response.body)))
            return
        serializer = serializer_of(socket.params)  # before `connect`, which may change them
        assert serializer is not None, "the version was looked at in the request"
        refused = await self.ask(mount, socket)
        if refused is not None:
            refuse(request, refused, NO_OFFER if refused is CRASHED else offer)
        elif not wire.transport.is_closing():
            response.headers.update(offer.headers)
            wire.open(protocol, response)
            self._clients[wire] = self._driven(socket, serializer, wire, mount.options)

    # ---- what long polling asks for (see `polling.py`) ---------------------------------------------------------------

    async def ask(self, mount: Mount, socket: ServerSocket) -> RefuseConnect | None:
        """Ask the application about a client, in limited time; returns the refusal, if there is one."""
        seconds = self._options.handshake_timeout
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                if mount.connect is not None and inspect.isawaitable(asked := mount.connect(socket)):
                    await asked
        except RefuseConnect as refused:
            return refused
        except BaseException as error:
            raise_if_ended(error)
            if limit.expired():
                error = TimeoutError(f"it took longer than the server's handshake_timeout ({seconds} s)")
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

    def drive(
        self, mount: Mount, socket: ServerSocket, serializer: ServerSerializer, wire: PollingWire
    ) -> SocketDriver:
        """Begin the socket of a session, which has a timeout of its own."""
        return self._driven(socket, serializer, wire, replace(mount.options, timeout=None))

    def _driven(
        self, socket: ServerSocket, serializer: ServerSerializer, wire: SocketWire, options: ServerOptions
    ) -> SocketDriver:
        return SocketDriver(
            socket,
            serializer,
            wire,
            options,
            topics=tuple(self._context.definitions),
            begin_join=lambda driver, request: ChannelRunner(self._context, driver, request).put,
        )

    def _drivers(self) -> list[SocketDriver]:
        drivers = [driver for driver in self._clients.values() if driver is not None]
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
                self._listener.close()
            self._silence()
            for driver in self._drivers():
                farewell(driver)
            for wire, opened in self._clients.items():
                if opened is None:
                    wire.drop()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):  # first for the connections, then for the application's tasks
                    for wire in tuple(self._clients):
                        await wire.wait_closed()
                    for runner in tuple(self._context.runners):
                        await runner.retired.wait()
        finally:
            try:
                await self._release()
            finally:  # also if this is cancelled: other calls wait for it
                self._closed.set()

    def _silence(self) -> None:
        """All clients end now: else each would get the presence diffs of all that end before it."""
        for runner in self._context.runners:
            runner.unsubscribe()

    async def _release(self) -> None:
        """Drop what is left, and wait until it is released."""
        self.cut()
        for polling in self._polling.values():
            await polling.close()
        await self._context.pool.close()
        for runner in tuple(self._context.runners):
            await runner.retire()
        for wire in tuple(self._clients):
            await wire.wait_closed()
        others = self._openings - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    async def _stop_accepting(self, listener: asyncio.Server) -> None:
        """Let asyncio finish the connections that it has accepted: it leaks one that is added to a closing listener."""
        loop = asyncio.get_running_loop()
        for sock in listener.sockets:
            with contextlib.suppress(NotImplementedError):  # a loop without `remove_reader`
                loop.remove_reader(sock.fileno())
        await asyncio.sleep(0)


def _info(wire: ServerWire, scheme: str, request: HttpRequest) -> ConnectInfo:
    peer, tls = map(wire.transport.get_extra_info, ("peername", "ssl_object"))
    address = f"{scheme}{'' if tls is None else 's'}://{request.fields['host']}{request.path}"
    return ConnectInfo.of(peer, address, request.headers)
