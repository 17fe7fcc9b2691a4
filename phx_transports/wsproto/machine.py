"""The byte-level machine: `phx_proto` over wsproto, for any runtime that has streams of bytes. As pure as the core.

The machine takes over the core's commands, and offers in their place the byte streams that are wanted. Everything else
(calls, events, messages, the timer) is between the embedder and the core. A stream is an object, like the core's links:
one for each attempt to connect. One that is no longer wanted ignores its inputs. So an embedder does two things:

    proto = ClientProtocol("wss://example.com/socket", router=router)
    machine = Machine(proto)
    proto.connect(now)

    machine.streams() ──▶ new `Stream`s: connect each to its host and port, with TLS if it names a `server_hostname`
        stream.connected(now)                  # or stream.failed(error, now)
        stream.receive_data(data, now)         # whatever a read brought; while stream.reading
        stream.receive_eof(now)
        stream.data_to_send() ──▶ bytes        # after every input, until stream.state is no longer WANTED
    proto.events(), proto.runnable(), proto.next_timeout()   # after every input too, as `phx_proto.client` tells
    machine.requests() ──▶ callables for params and token: call them, and tell `proto.resolved`

wsproto makes frames, answers pings and does the closing handshake. Incoming text frames are sliced out of the read by
the cutter, at a tenth of wsproto's cost. The handshake's key and the frames' masks are random, as RFC 6455 requires,
and come from wsproto; all else depends only on the inputs. What most embedders also need (calls, handlers, deadlines)
is in `engine.py`.
"""

import enum
from typing import Any, Final
from urllib.parse import urlsplit

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, TextMessage
from wsproto.events import Event as Outgoing

from phx_proto.checks import check_count
from phx_proto.client import ClientProtocol
from phx_proto.commands import (
    AbortTransport,
    CloseTransport,
    Command,
    OpenTransport,
    PauseReading,
    PauseSending,
    Resolve,
    ResumeReading,
    ResumeSending,
    SendBinary,
    SendRequest,
    SendText,
)
from phx_proto.errors import ConnectError
from phx_proto.link import Link

from ..longpoll.http import HttpDialogue
from ..websocket.answer import USE_NO_TLS
from ..websocket.cutter import Cutter, over_limit
from ..websocket.handshake import Handshake
from ..websocket.options import MAX_SIZE, NetworkOptions
from ..websocket.reaching import place_of, tls_name
from .assembler import Assembler

_PORTS: Final = {"ws": 80, "wss": 443, "http": 80, "https": 443}


class Machine:
    """Connects one client's core to streams of bytes.

    Args:
        proto: The core; only the machine may call its `commands()` from now on.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one. `None`
            for no limit.

    Attributes:
        max_size: As given.
        held: Links for which senders must wait, because much is queued in the core.
    """

    def __init__(self, proto: ClientProtocol, *, max_size: int | None = MAX_SIZE) -> None:
        check_count("max_size", max_size, optional=True)
        self.held: set[Link] = set()
        self._proto = proto
        self.max_size = max_size
        self._streams: dict[Link, Stream] = {}
        self._polls: dict[Link, list[PollStream]] = {}
        self._new: list[Stream] = []
        self._requests: list[Resolve] = []

    def streams(self) -> "list[Stream]":
        """Streams to open, each returned once; several if the client has several sockets."""
        self.perform()
        new, self._new = self._new, []
        return [stream for stream in new if stream.wanted]

    def requests(self) -> list[Resolve]:
        """Callables to call now, each returned once; pass their results to the core."""
        self.perform()
        requests, self._requests = self._requests, []
        return requests

    def perform(self) -> None:
        """Carry out the core's commands. Every input does that first, so there is no need to call it."""
        for command in self._proto.commands():
            self.obey(command)

    def obey(self, command: Command) -> None:
        """Carry out one command."""
        match command:
            case OpenTransport(link=link):
                self._streams = {link: stream for link, stream in self._streams.items() if stream.wanted}
                self._streams[link] = stream = Stream(command, self)
                self._new.append(stream)
            case Resolve():
                self._requests.append(command)
            case SendRequest(link=link):
                self._ask(command, self._polls.setdefault(link, []))
            case PauseSending(link=link):
                self.held.add(link)
            case ResumeSending(link=link):
                self.held.discard(link)
            case AbortTransport(link=link) if link in self._polls:
                self.held.discard(link)
                for stream in self._polls.pop(link):
                    stream.obey(command)
            case _:
                if command.link in self._streams:  # else it was over earlier
                    self._streams[command.link].obey(command)

    def _ask(self, command: SendRequest, streams: "list[PollStream]") -> None:
        """Send a request on an open stream, or on a new one."""
        streams[:] = [stream for stream in streams if stream.wanted]
        latest = max((stream.used_at for stream in streams), default=0.0)  # roughly the current time
        if any(stream.request(command, latest) for stream in streams):
            return
        stream = PollStream(command, self)
        streams.append(stream)
        self._new.append(stream)


class StreamState(enum.Enum):
    """What the embedder does with a stream."""

    WANTED = "open it, and keep it open"
    FINISHED = "write what is left, then close it"
    DROPPED = "close it at once"


class Stream:
    """One stream of bytes: an attempt to connect and, if it succeeds, the connection. Made by `Machine.stream`.

    No method raises because of what the peer did, or because the stream is over: such an input is ignored.

    Attributes:
        host: The host to connect to.
        port: The port.
        server_hostname: The name for TLS to verify; `None` for no TLS.
    """

    def __init__(self, command: OpenTransport | SendRequest, machine: Machine) -> None:
        parts = urlsplit(command.url)
        self.host = parts.hostname or ""
        self.port = parts.port or _PORTS[parts.scheme]
        self.server_hostname = tls_name(self.host) if parts.scheme in ("wss", "https") else None
        self._command = command
        self._machine = machine
        self._state = StreamState.WANTED
        self._reading = True
        self._out = bytearray()
        self._handshake: Handshake | None = None  # while it goes on
        self._connection: Connection | None = None  # once it has succeeded
        self._assembler: Assembler
        self._cutter: Cutter

    def __repr__(self) -> str:
        return f"Stream({self.host!r}, {self.port}, {self._state.name})"

    # ---- outputs ----------------------------------------------------------------------------------------------------

    @property
    def state(self) -> StreamState:
        """What to do with the stream."""
        self._machine.perform()
        return self._state

    @property
    def wanted(self) -> bool:
        """Whether it was to be opened, or kept open, when the core last decided."""
        return self._state is StreamState.WANTED

    @property
    def reading(self) -> bool:
        """Whether to read it: not while too many messages wait for their handlers."""
        self._machine.perform()
        return self._reading

    @property
    def link(self) -> Link:
        """The core's link for it."""
        return self._command.link

    @property
    def open(self) -> bool:
        """Whether its WebSocket is open."""
        return self._connection is not None

    @property
    def answered(self) -> int:
        """Bytes of all pongs. Do not read a peer that does not read them: they would queue."""
        return 0 if self._connection is None else self._assembler.answered

    def data_to_send(self) -> bytes:
        """The bytes to write now; each is returned once."""
        self._machine.perform()
        data = bytes(self._out)
        self._out.clear()
        return data

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def waits(self, missing: str) -> None:
        """Says what the connecting stream still waits for: the error's text if the time runs out.

        For example `example.com:443 did not accept a TCP connection`. Calling this is optional.
        """
        self._command.link.waits(missing)

    def connected(self, now: float) -> None:
        """The stream is open, including TLS; the WebSocket request is to be written."""
        if self.state is not StreamState.WANTED:
            return
        command = self._command
        assert isinstance(command, OpenTransport)
        network: NetworkOptions[Any] = NetworkOptions(max_size=self._machine.max_size)
        try:
            self._handshake = Handshake(
                command.url, subprotocols=command.subprotocols, headers=command.headers, network=network
            )
        except ConnectError as error:
            self.failed(error, now)
        else:
            self._out += self._handshake.request()

    def failed(self, error: ConnectError, now: float) -> None:
        """The stream could not be opened, or broke."""
        if self.state is StreamState.WANTED:
            self._drop()
            self._command.link.failed(error, now)

    def receive_data(self, data: bytes, now: float) -> None:
        """Passes in the bytes of a read."""
        if self.state is not StreamState.WANTED or not data:
            return
        if self._connection is None:
            data = self._shake(data, now) if self._handshake is not None else b""
            if not data:
                return
        link = self._command.link
        messages = self._cutter.cut(data)
        if messages:
            link.receive_all(messages, now)
        elif self._cutter.unfinished:
            link.progressed(now)
        if self._assembler.ending is not None:
            self._state = StreamState.FINISHED
            code, reason = self._assembler.ending
            if self._assembler.too_big:
                reason = over_limit(self._cutter.size, self._machine.max_size or 0)
            link.closed(code, reason, now)

    def receive_eof(self, now: float) -> None:
        """The peer has ended the stream."""
        if self.state is not StreamState.WANTED:
            return
        if self._connection is None:
            self._shake(b"", now)
            return
        self._state = StreamState.FINISHED
        self._forget()
        self._command.link.closed(None, "the server ended the connection without a close frame", now)

    # ---- for the machine --------------------------------------------------------------------------------------------

    def obey(self, command: Command) -> None:
        """Carry out a command for this stream."""
        match command:
            case SendText(data=data):
                self._send(TextMessage(data))
            case SendBinary(data=data):
                self._send(BytesMessage(data))
            case CloseTransport(code=code, reason=reason):
                self._send(CloseConnection(code, reason))
            case AbortTransport():
                self._drop()
            case PauseReading():
                self._reading = False
            case ResumeReading():
                self._reading = True
            case _:
                pass  # the machine's own

    def _send(self, message: Outgoing) -> None:
        if self._connection is not None and self._connection.state is ConnectionState.OPEN:
            self._out += self._connection.send(message)

    def _drop(self) -> None:
        self._state = StreamState.DROPPED
        self._out.clear()
        self._forget()

    def _forget(self) -> None:
        """Release the memory of an incomplete message."""
        if self._connection is not None:
            self._cutter.drop()
            self._assembler.drop()

    # ---- private ----------------------------------------------------------------------------------------------------

    def _shake(self, data: bytes, now: float) -> bytes:
        """Take a read of the handshake; returns the bytes after its end."""
        link, handshake = self._command.link, self._handshake
        try:
            if handshake is None:
                advice = "" if self.server_hostname is None else f" ({USE_NO_TLS})"
                raise ConnectError(f"{place_of(self.host, self.port)} ended the connection before it was open{advice}")
            rest = handshake.receive(data)
        except ConnectError as error:
            self.failed(error, now)
            return b""
        if rest is None:
            if handshake.refusal is not None:
                link.refusing(handshake.refusal, now)
            return b""
        self._handshake = None
        self._connection = Connection(ConnectionType.CLIENT)
        self._assembler = Assembler(self._connection, self._out, max_size=self._machine.max_size)
        self._cutter = Cutter(self._assembler.parse, max_size=self._machine.max_size)
        link.opened(handshake.protocol.subprotocol, now)
        return rest


class PollStream(Stream):
    """A stream for the HTTP requests of a long-polling link, one after the other."""

    def __init__(self, command: SendRequest, machine: Machine) -> None:
        super().__init__(command, machine)
        self._first = command
        self._http: HttpDialogue | None = None  # once it is connected

    @property
    def open(self) -> bool:
        return self._http is not None

    @property
    def used_at(self) -> float:
        """The time of the latest answer."""
        return 0.0 if self._http is None else self._http.used_at

    def request(self, command: SendRequest, now: float) -> bool:
        """Send another request, if that is possible now; returns whether it was."""
        if self._http is None or not self._http.may_be_used(now):
            return False
        self._out += self._http.request(command)
        return True

    def connected(self, now: float) -> None:
        if self.state is not StreamState.WANTED:
            return
        try:
            self._http = HttpDialogue(self._first, NetworkOptions(max_size=self._machine.max_size))
            self._out += self._http.request(self._first)
        except ConnectError as error:
            self._drop()
            self._first.exchange.failed(error, now)

    def failed(self, error: ConnectError, now: float) -> None:
        if self.state is StreamState.WANTED:
            self._drop()
            (self._first.exchange if self._http is None else self._http).failed(error, now)

    def receive_data(self, data: bytes, now: float) -> None:
        if data:
            self._take(data, now)

    def receive_eof(self, now: float) -> None:
        self._take(b"", now)

    def _take(self, data: bytes, now: float) -> None:
        if self.state is StreamState.WANTED:
            if self._http is not None:
                self._http.receive(data, now)
            if self._http is None or self._http.over:
                self._drop()
