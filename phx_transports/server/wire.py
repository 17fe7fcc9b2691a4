"""A WebSocket for the server: one call to its driver for each read, one write for all sent in a loop iteration.

A connection begins with HTTP (`http.py`), and stays there if the client polls. Once its handshake is accepted, the
Sans-I/O protocol of `websockets` parses input and implements RFC 6455. Nothing here decides about Phoenix. The driver
decides which code answers a client's close frame; it gets the messages before that frame first, so that their answers
are sent before it.

A client waits for a slow application: it is not read while the driver wants no more.

No call waits for a client that reads slowly. While its write buffer is full, the client is not read, as on a real
server, and its messages already read wait too (see `full`). It is dropped when the buffer exceeds `max_buffered`, or
has been full for `send_timeout`.
"""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, cast

from websockets.extensions import Extension
from websockets.frames import Close, CloseCode, Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.server import ServerProtocol as WebSocketProtocol

from phx_proto.checks import check_count, check_seconds
from phx_proto.server.events import HostRules
from phx_proto.server.protocol import ServerProtocol

from ..websocket.cutter import Assembler, Received
from ..websocket.tls import RECORD
from .http import HttpConnection, HttpRequest

#: Seconds for a client to end the connection after a close frame of either side.
LINGER: Final = 5.0

#: Bytes in the write buffer above which the client is not read.
WRITE_LIMIT: Final = 2**20

#: Bytes of one read: a client that sends many messages gets so many handled, then other clients are served.
READ: Final = 2**15


@dataclass(frozen=True, slots=True)
class WireOptions:
    """How much a client may send and leave unread, and the number of clients; see `Server`."""

    max_connections: int | None
    handshake_timeout: float
    max_size: int | None
    max_buffered: int
    send_timeout: float
    host: HostRules

    def __post_init__(self) -> None:
        check_count("max_connections", self.max_connections, optional=True)
        check_count("max_size", self.max_size, optional=True)
        check_count("max_buffered", self.max_buffered)
        for name in ("handshake_timeout", "send_timeout"):
            check_seconds(name, getattr(self, name), endless=True)


class WireEvents(Protocol):
    """The driver's callbacks for a wire. They may call the wire's methods."""

    def received(self, messages: list[Received], /) -> None:
        """One read brought these messages; none if it brought a ping, or part of a message."""

    def closed(self, code: int | None, reason: str, /) -> None:
        """The client ended the connection, or it broke; called at most once, and not after `drop`.

        Args:
            code: Of the client's close frame (1005 if that was empty): answer with `end`, now or later. `None` if there
                was none, or if the connection broke before the answer: then this is a second call.
            reason: Of that frame; without one, a description of what happened.
        """


class Outbox:
    """Writes for all wires of a server, once in a loop iteration; a broadcast is framed once."""

    def __init__(self) -> None:
        # All wires read into it, as each read is taken out at once; a view: TLS reads into slices of it.
        self.buffer = memoryview(bytearray(READ))
        self._loop = asyncio.get_running_loop()
        self._wires: list[ServerWire] = []  # wires with something to write
        self._data: str | bytes = b""
        self._frame = _frame(self._data)

    def reserve(self, size: int) -> None:
        """The next read may have so many bytes."""
        if size > len(self.buffer):
            self.buffer = memoryview(bytearray(size))

    def frame(self, data: str | bytes) -> bytes:
        """The frame of a message; reused while the message is the same object."""
        if data is not self._data:
            self._data, self._frame = data, _frame(data)
        return self._frame

    def add(self, wire: "ServerWire") -> None:
        """Flush the wire in the next iteration."""
        if not self._wires:
            self._loop.call_soon(self._flush)
        self._wires.append(wire)

    def _flush(self) -> None:
        wires, self._wires = self._wires, []
        for wire in wires:
            wire.flush()


def _frame(data: str | bytes, extensions: Sequence[Extension] = ()) -> bytes:
    opcode, payload = (Opcode.TEXT, data.encode()) if isinstance(data, str) else (Opcode.BINARY, data)
    return Frame(opcode, payload).serialize(mask=False, extensions=extensions)


class ServerWire(asyncio.BufferedProtocol):
    """One client's connection, from its TCP accept on. All methods are called on its loop; none waits.

    Attributes:
        transport: Asyncio's.
        protocol: The library's, once it is a WebSocket.
    """

    transport: asyncio.Transport
    protocol: WebSocketProtocol

    def __init__(
        self,
        *,
        made: "Callable[[ServerWire], None]",
        lost: "Callable[[ServerWire], None]",
        asked: "Callable[[ServerWire, HttpRequest], None]",
        outbox: Outbox,
        limits: WireOptions,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._accepting: asyncio.Task[None] | None = None  # asyncio's, during the TLS handshake
        self._made = made
        self._asked_for = asked
        self._lost = lost
        self._http: HttpConnection | None = None  # before it is a WebSocket
        self._early = b""  # what came after the handshake's request
        self._events: WireEvents | None = None
        self._assembler: Assembler
        self._outbox = outbox
        self._limits = limits
        self._out: list[bytes] = []
        self._size = 0  # of its messages, in bytes
        self._over = False  # no more will be received
        self._wanted = True  # whether the driver wants more
        self._close_sent = False
        self._asked = False  # the client's close frame is not answered yet
        self._linger: asyncio.TimerHandle | None = None
        self._stuck: asyncio.TimerHandle | None = None
        self._room = asyncio.Event()  # in the write buffer
        self._room.set()
        self._gone = asyncio.Event()

    def shake_hands(self) -> None:
        """It is accepted by asyncio's current task, for TLS: asyncio itself is silent about a handshake that fails.

        On a loop that has no such task (uvloop) the connection counts from the end of the handshake.
        """
        self._accepting = asyncio.current_task()
        if self._accepting is not None:
            self._accepting.add_done_callback(self._shaken)
            self._made(self)

    def open(self, protocol: WebSocketProtocol, response: Response) -> None:
        """It is a WebSocket from now on: answers the handshake. `begin` follows."""
        assert self._http is not None, "it has spoken HTTP"
        self._early, self._http = self._http.leave(), None
        self.protocol = protocol
        self._assembler = Assembler(protocol, max_fragmented=self._limits.host.max_fragmented)
        self.transport.write(response.serialize())

    def begin(self, events: WireEvents) -> None:
        """Starts to report to the driver, first what followed the request; the handshake is over."""
        self._events = events
        self.want(more=True)
        early, self._early = self._early, b""
        self.data_received(early)

    def want(self, *, more: bool) -> None:
        """Starts or stops reading, as the driver wants."""
        if more is not self._wanted:
            self._wanted = more
            self._regulate()

    def settled(self, protocol: ServerProtocol) -> None:
        """The driver has carried out the core's commands: continue reading, or stop."""
        self.want(more=not protocol.full)

    @property
    def full(self) -> bool:
        """Whether much waits to be written, so that the application should wait for `writable`."""
        return self._stuck is not None or self._size > WRITE_LIMIT

    def put(self, data: str | bytes) -> None:
        """Queues one message; written with all others of this loop iteration."""
        if not self._out:
            self._outbox.add(self)
        extensions = self.protocol.extensions
        frame = _frame(data, extensions) if extensions else self._outbox.frame(data)
        self._out.append(frame)
        self._size += len(frame)

    def end(self, code: int, reason: str = "") -> None:
        """Sends a close frame after what is queued, or the answer to the client's. 1005: a frame without a code."""
        if self.protocol.state is State.OPEN:
            self._close_sent = True
            self.protocol.send_close(None if code == CloseCode.NO_STATUS_RCVD else code, reason)
            self._out += self.protocol.data_to_send()
            self._start_linger()
            self.flush()
        else:
            data = b"" if code == CloseCode.NO_STATUS_RCVD else Close(code, reason).serialize()
            self._part(Frame(Opcode.CLOSE, data).serialize(mask=False))

    def drop(self) -> None:
        """Drops the connection without a close frame, and what is queued with it."""
        self._over = True
        self._asked = False
        self._out.clear()
        self._size = 0
        if self._accepting is None:
            self.transport.abort()
        else:
            self._accepting.cancel()

    def flush(self) -> None:
        out, self._out, self._size = self._out, [], 0
        if not out or self.transport.is_closing():
            return
        if self.transport.get_write_buffer_size() > self._limits.max_buffered:
            self._too_slow()
        else:
            self.transport.write(out[0] if len(out) == 1 else b"".join(out))

    async def writable(self) -> None:
        """Waits until the write buffer is no longer full, or the connection is over."""
        self.flush()
        await self._room.wait()

    async def wait_closed(self) -> None:
        """Waits until the connection is released."""
        await self._gone.wait()

    # ---- from the transport ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        accepting, self._accepting = self._accepting, None
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._tls = transport.get_extra_info("ssl_object") is not None
        if self._over:
            self.transport.abort()
            return
        self.transport.set_write_buffer_limits(WRITE_LIMIT)
        self._http = HttpConnection(
            self.transport,
            on_request=self.requested,
            want=lambda more: self.want(more=more),
            head_timeout=self._limits.handshake_timeout,
            longest_line=self._limits.host.max_request_line,
        )
        if accepting is None:
            self._made(self)

    def requested(self, request: HttpRequest) -> None:
        """A request of HTTP came."""
        self._asked_for(self, request)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._tls:  # all that waits: once the client has ended the connection, what does not fit is lost
            self._outbox.reserve(sizehint + RECORD)
        return self._outbox.buffer

    def buffer_updated(self, nbytes: int) -> None:
        data = bytes(self._outbox.buffer[:nbytes])
        for at in range(0, nbytes, READ):
            self.data_received(data[at : at + READ])

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        if self._http is not None:
            self._http.receive(data)
            return
        assert self._events is not None, "a WebSocket is opened and begun in one step"
        messages: list[Received] = []
        last = self._assembler.parse(data, messages)
        writes = self.protocol.data_to_send()
        farewell = _split_farewell(writes) if last else b""
        self._out += writes
        self._events.received(messages)
        if last and not self._over:
            self._finish(self._events, farewell)
        else:
            self.flush()

    def eof_received(self) -> None:
        if self._http is None:
            self._broken("the client ended the connection without a close frame")
        self._start_linger()
        self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._linger, self._stuck):
            if timer is not None:
                timer.cancel()
        self._linger = self._stuck = None
        if self._http is not None:
            self._http.lost()
        self._room.set()
        self._gone.set()
        self._broken("the connection was dropped" if exc is None else f"the connection broke: {exc}")
        self._lost(self)

    def pause_writing(self) -> None:
        self._room.clear()
        self._stuck = self.loop.call_later(self._limits.send_timeout, self._too_slow)
        self._regulate()

    def resume_writing(self) -> None:
        self._room.set()
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None
        self._regulate()

    # ---- private -----------------------------------------------------------------------------------------------------

    def _shaken(self, accepting: asyncio.Task[None]) -> None:
        if self._accepting is not None:  # it failed
            self._gone.set()
            self._lost(self)

    def _regulate(self) -> None:
        if self._wanted and self._stuck is None:
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def _finish(self, events: WireEvents, farewell: bytes) -> None:
        """The client's close frame came, or it broke a rule of WebSocket: this was the last read."""
        self._over = True
        close = self.protocol.close_rcvd
        if self._assembler.problem or close is None:
            events.closed(None, self._assembler.problem)
            self._part(farewell)  # the library's close frame for a broken rule
        elif self._close_sent:
            self._part(b"")
        else:
            self._asked = True
            self.flush()
            events.closed(int(close.code), close.reason)

    def _part(self, farewell: bytes) -> None:
        """Send the last bytes; neither side sends anything after them."""
        self._asked = False
        if not self._close_sent:
            self._close_sent = True
            self._out.append(farewell)
        self.flush()
        self._start_linger()
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self.transport.write_eof()
        else:
            self.transport.close()

    def _broken(self, reason: str) -> None:
        if not self._over or self._asked:
            self._over = True
            self._asked = False
            if self._events is not None:
                self._events.closed(None, reason)

    def _too_slow(self) -> None:
        self._broken("the client reads too slowly")
        self.drop()

    def _start_linger(self) -> None:
        if self._linger is None:
            self._linger = self.loop.call_later(LINGER, self.transport.abort)


def _split_farewell(writes: list[bytes]) -> bytes:
    """Takes the library's close frame, if it sent one, and its end marker off the end of `writes`.

    Returns the frame with its code alone, as a real server sends it.
    """
    if writes and not writes[-1]:
        writes.pop()
    if not (writes and writes[-1][0] & 0x0F == Opcode.CLOSE):
        return b""
    return Frame(Opcode.CLOSE, writes.pop()[2:4]).serialize(mask=False)
