"""Long polling on one mount: the HTTP around `Polls`, and a wire for each session in place of a WebSocket.

No protocol decision is made here. As in `Phoenix.Transports.LongPoll`, any page may ask (CORS); the origin is checked.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from secrets import token_urlsafe
from typing import Final, Protocol

from phx_proto.formats import ServerSerializer
from phx_proto.server.longpoll import PollRequest, Polls, PollSession
from phx_proto.server.protocol import ServerProtocol

from ..asyncio.alarm import Alarm
from .driver import SocketDriver
from .handshake import RefuseConnect, read_params
from .http import HttpRequest
from .mount import CRASHED, Mount, serializer_of
from .socket import ConnectInfo, ServerSocket
from .wire import WRITE_LIMIT, WireEvents, WireOptions

_HEADERS: Final[Mapping[str, str]] = {
    "access-control-allow-origin": "*",
    "cache-control": "max-age=0, private, must-revalidate",
    "content-type": "application/json; charset=utf-8",
}

_PREFLIGHT: Final[Mapping[str, str]] = {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "get, post, options",
    "access-control-max-age": "3600",
}

_TOKEN_BYTES: Final = 32


class PollingWire:
    """The counterpart of a WebSocket's wire: what is sent waits for a poll. All methods are called on its loop."""

    def __init__(self, session: PollSession, polling: "Polling") -> None:
        self.session = session
        self.events: WireEvents | None = None
        self.ready = True  # whether the socket may send
        self._polling = polling
        self._room = asyncio.Event()
        self._room.set()

    def begin(self, events: WireEvents) -> None:
        self.events = events

    def put(self, data: str | bytes) -> None:
        """Queues one message for the next poll."""
        self.session.put(data)
        if self.session.buffered >= WRITE_LIMIT:
            self._room.clear()
        self._polling.soon(self)

    def end(self, code: int, reason: str = "") -> None:
        """Ends the session; the client learns it from its next requests, which have no session then."""
        self.drop()

    def drop(self) -> None:
        self.session.end()
        self._polling.ended(self)
        self._room.set()

    def settled(self, protocol: ServerProtocol) -> None:
        self.ready = protocol.ready
        self._polling.soon(self)

    @property
    def full(self) -> bool:
        """Whether much waits for polls, so that the application should wait for `writable`."""
        return not self._room.is_set()

    async def writable(self) -> None:
        """Waits until a poll has taken enough, or the session is over."""
        await self._room.wait()

    def work(self, now: float) -> None:
        """Passes posted messages to the socket, as long as it takes more, and sent ones to the client."""
        session = self.session
        while self.ready and (frame := session.take(now)) is not None:
            assert self.events is not None, "a session has its driver from the start"
            self.events.received([frame])
        session.flush()
        if session.buffered < WRITE_LIMIT:
            self._room.set()
        elif session.buffered > self._polling.max_buffered:
            self.lost("the client reads too slowly")

    def lost(self, reason: str) -> None:
        if self.events is not None and not self.session.over:
            self.drop()
            self.events.closed(None, reason)


class PollingServer(Protocol):
    """The server's part in opening a session; see `RunningServer`."""

    async def ask(self, mount: Mount, socket: ServerSocket, /) -> RefuseConnect | None: ...
    def drive(
        self, mount: Mount, socket: ServerSocket, serializer: ServerSerializer, wire: PollingWire, /
    ) -> SocketDriver: ...
    def admits_origin(self, mount: Mount, origins: Sequence[str], host: str, /) -> bool | None: ...


class Polling:
    """The sessions of one mount, while a server runs, and the drivers of the open ones."""

    def __init__(self, mount: Mount, server: PollingServer, options: WireOptions) -> None:
        self.drivers: dict[PollingWire, SocketDriver] = {}
        self.max_buffered = options.max_buffered
        self._mount = mount
        self._server = server
        self._options = options
        window = mount.options.poll_window
        self._polls = Polls(window=window, patience=window / 5)
        self._asked: dict[PollRequest, tuple[HttpRequest, ServerSocket]] = {}  # unanswered requests, and their clients
        self._wires: dict[PollSession, PollingWire] = {}
        self._opening: dict[PollRequest, asyncio.Task[None]] = {}
        self._touched: dict[PollingWire, None] = {}  # a set that keeps the order
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop.call_at, self._due)

    def request(self, http: HttpRequest, variables: Mapping[str, str], info: ConnectInfo) -> None:
        """A request for this mount has come; `info` is of its connection."""
        headers = http.headers
        origins = [headers["origin"]] if "origin" in headers else []
        admitted = self._server.admits_origin(self._mount, origins, headers["host"])
        if not admitted:
            status, body = (200, b'{"status":403}') if admitted is False else (CRASHED.status, CRASHED.body)
            http.connection.answer(http, status, _HEADERS, body)
        elif http.method == "OPTIONS":
            asked = {"access-control-allow-headers": headers.get("access-control-request-headers", "")}
            http.connection.answer(http, 200, {**_PREFLIGHT, **asked}, b"")
        elif http.body is None:
            http.connection.answer(http, 400, _HEADERS, b'{"errors":{"detail":"Bad Request"}}')
        else:
            self._poll(http, http.body, variables, info)

    def soon(self, wire: PollingWire) -> None:
        """Schedule the work for a session at the end of this loop iteration."""
        if not self._touched:
            self._loop.call_soon(self._work)
        self._touched[wire] = None

    def ended(self, wire: PollingWire) -> None:
        self.drivers.pop(wire, None)
        self._wires.pop(wire.session, None)

    async def close(self) -> None:
        self._alarm.stop()
        for task in self._opening.values():
            task.cancel()
        await asyncio.gather(*self._opening.values(), return_exceptions=True)

    # ---- private ----------------------------------------------------------------------------------------------------

    def _poll(self, http: HttpRequest, body: bytes, variables: Mapping[str, str], info: ConnectInfo) -> None:
        headers, params = http.headers, read_params(http.query)
        token = headers.get("x-phoenix-longpoll-token") or params.get("token")
        request = PollRequest(
            http.method, token if isinstance(token, str) else None, headers.get("content-type", ""), body
        )
        auth_token = headers.get("x-phoenix-authtoken") if self._mount.auth_token else None
        if auth_token is not None:
            auth_token = auth_token.encode("latin-1").decode(errors="replace")
        socket = ServerSocket(params={**params, **variables}, headers=headers, auth_token=auth_token, connect_info=info)
        self._asked[request] = http, socket
        http.connection.on_lost = partial(self._lost, request)
        session = self._polls.request(request, self._loop.time())
        if session in self._wires:
            self.soon(self._wires[session])
        self._settle()

    def _lost(self, request: PollRequest) -> None:
        """The connection of a request is gone before its answer."""
        self._asked.pop(request, None)
        session = self._polls.sessions.get(request.token or "")
        if session is not None:
            session.forget(request)
        if request in self._opening:
            self._opening[request].cancel()

    def _work(self) -> None:
        while self._touched:  # work may add others, and the same one again
            wire = next(iter(self._touched))
            del self._touched[wire]
            wire.work(self._loop.time())
        self._settle()

    def _due(self, at: float) -> None:
        self._polls.timers.fire(max(at, self._loop.time()))
        while self._polls.expired:
            wire = self._wires.get(self._polls.expired.pop())
            if wire is not None:
                wire.lost("the client polls no more")
        self._settle()

    def _settle(self) -> None:
        """Send answers that are ready, open new sessions, and set the timer."""
        polls = self._polls
        for request in polls.openings:
            self._opening[request] = opening = asyncio.Task(self._open(request), loop=self._loop)
            opening.add_done_callback(partial(self._opened, request))
        polls.openings.clear()
        answers, polls.answers = polls.answers, []
        for answer in answers:
            if answer.request in self._asked:
                http, _ = self._asked.pop(answer.request)
                http.connection.answer(http, answer.status, _HEADERS, answer.body)
        deadline = polls.timers.next()
        if deadline is None:
            self._alarm.stop()
        elif deadline < self._alarm.armed:
            self._alarm.arm(deadline)

    async def _open(self, request: PollRequest) -> None:
        """Ask the application whether to accept a client that opens a session."""
        polls, mount = self._polls, self._mount
        if request not in self._asked:  # its connection is gone
            return
        _, socket = self._asked[request]
        serializer = serializer_of(socket.params)  # before `connect`, which may change them
        if serializer is None:
            polls.refuse(request)
            return
        if self._full:
            polls.crash(request)
            return
        refused = await self._server.ask(mount, socket)
        if refused is None and self._full:  # others have been opened meanwhile
            refused = CRASHED
        if refused is not None:
            (polls.crash if refused is CRASHED else polls.refuse)(request)
            return
        session = polls.open(request, token_urlsafe(_TOKEN_BYTES), self._loop.time())
        wire = self._wires[session] = PollingWire(session, self)
        self.drivers[wire] = self._server.drive(mount, socket, serializer, wire)

    @property
    def _full(self) -> bool:
        limit = self._options.max_connections
        return limit is not None and len(self.drivers) >= limit

    def _opened(self, request: PollRequest, opening: asyncio.Task[None]) -> None:
        """Also if it was cancelled before it began."""
        del self._opening[request]
        self._settle()
