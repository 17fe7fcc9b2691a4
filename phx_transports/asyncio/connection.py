"""A WebSocket on an event loop: one call to its receiver for each read, one write for the frames of a loop iteration.

Cancelling an opening bounds it; for the connection's other timeouts see `websocket/connection.py`.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final, Protocol

from phx_proto.errors import ConnectError

from ..websocket.connection import COMPRESSED, DROPPED, LINGER, NO_CLOSE_FRAME, WRITE_LIMIT, WebSocket
from ..websocket.cutter import Received
from ..websocket.handshake import Handshake, Progress
from ..websocket.options import AsyncFactory, NetworkOptions
from ..websocket.tls import RECORD
from .dialing import Dialogue, dial

#: Frames that wait for the end of the loop iteration; so many are written at once, so that the server works on them
#: while the client makes the next ones. Otherwise each would wait for the other.
_MOST_WAITING: Final = 16

#: Bytes that one read takes: at first the least, twice as many after a read that filled the buffer, and so on.
#: More than the most would bring more messages than a processor's cache holds until their handlers run.
_LEAST_READ: Final = 2**12
_MOST_READ: Final = 2**16


class Receiver(Progress, Protocol):
    """A connection's callbacks, on its loop: first the opening's progress, later its messages and its end.

    Called between the connection's own steps; may call its methods. It must not raise: that drops the connection.
    """

    def frames(self, frames: list[Received]) -> None:
        """One read brought these messages, in the order of the wire: `str` from text frames, `bytes` from binary."""

    def progress(self) -> None:
        """A read brought part of a message: the peer is alive."""

    def closed(self, code: int | None, reason: str) -> None:
        """The connection is over. Called exactly once, as the last callback.

        Args:
            code: Of the peer's close frame (1005 if that was empty); `None` if there was none.
            reason: Of that frame; without one, a description of what happened.
        """

    def blocked(self) -> None:
        """The write buffer is full. Further messages are still queued."""

    def writable(self) -> None:
        """The write buffer has drained."""


class Connection(WebSocket, asyncio.BufferedProtocol):
    """An open WebSocket, used on its loop. Made by `open_connection`.

    What is sent is written at the end of this loop iteration, or earlier once there are `_MOST_WAITING` frames. The
    first frame after a read is written at once: most often it is the next request after a reply, and the only frame.
    Only `wait_closed` waits.
    """

    def __init__(self, transport: asyncio.Transport, handshake: Handshake, rest: bytes, receiver: Receiver) -> None:
        super().__init__(handshake)
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._receiver = receiver
        self._gone = self._loop.create_future()
        self._most = COMPRESSED if handshake.protocol.extensions else _MOST_READ
        self._tls = transport.get_extra_info("ssl_object") is not None
        self._buffer = memoryview(bytearray(_LEAST_READ))  # a view: TLS reads into slices of it
        self._flushing = False  # a flush is due in the next iteration
        self._has_read = False  # something was read since the last frame was sent
        self._linger: asyncio.TimerHandle | None = None
        self._wanted = True  # whether the client wants to read
        self._blocked = False  # the write buffer is full
        self._ended_by_peer = False
        transport.set_write_buffer_limits(WRITE_LIMIT)
        transport.set_protocol(self)
        self._loop.call_soon(self._begin, rest)

    @property
    def full(self) -> bool:
        """Whether the write buffer is full."""
        return self._blocked

    def abort(self) -> None:
        """Drops the connection without a handshake. Nothing more is received.

        Queued bytes, a leave for instance, are written as far as the socket takes them at once.
        """
        self._flush()
        self._transport.abort()

    def pause_reading(self) -> None:
        """Stops reading; a second call does nothing.

        What has been read is passed on first: with TLS, or just after the handshake, that may be in some more calls.
        Then no callback follows until `resume_reading`, not even for a close or a lost connection.
        """
        self._wanted = False
        self._read_or_not()

    def resume_reading(self) -> None:
        """Continues reading."""
        self._wanted = True
        self._read_or_not()

    async def wait_closed(self) -> None:
        """Waits until the connection is released, including its socket: soon after `abort`, and at most `LINGER`
        seconds after the receiver's `closed`.
        """
        await asyncio.shield(self._gone)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _begin(self, rest: bytes) -> None:
        self._read_parts(rest)
        self._read_or_not()

    def get_buffer(self, sizehint: int) -> memoryview:
        """The buffer for the next read.

        Args:
            sizehint: With TLS, the bytes that wait, but for a part of a record. The buffer takes them all: once the
                peer has ended the connection, one more buffer is filled, and what does not fit is lost.
        """
        if self._tls and sizehint + RECORD > len(self._buffer):
            self._buffer = memoryview(bytearray(sizehint + RECORD))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """A read brought this many bytes."""
        self._read_parts(bytes(self._buffer[:nbytes]))
        if nbytes == len(self._buffer) < self._most:
            self._buffer = memoryview(bytearray(2 * nbytes))

    def _read_parts(self, data: bytes) -> None:
        for at in range(0, len(data), self._most):
            self._read(data[at : at + self._most])

    def _read(self, data: bytes) -> None:
        over = self.ending is not None
        answered = self._assembler.answered
        messages = self._cut(data)
        if messages:
            self._receiver.frames(messages)
        elif self.unfinished:
            self._receiver.progress()
        self._flush()
        self._has_read = True
        if self._blocked and answered != self._assembler.answered:
            self._read_or_not()
        if self.ending is not None and not over:
            self._linger = self._loop.call_later(LINGER, self._transport.abort)
            self._receiver.closed(*self.ending)

    def eof_received(self) -> None:
        """The peer has ended the connection."""
        self._ended_by_peer = True

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is released."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None  # it would keep the transport alive
        self._forget()
        self._gone.set_result(None)
        if self.ending is not None:
            return
        problem = NO_CLOSE_FRAME if self._ended_by_peer else DROPPED
        self.ending = (None, problem if exc is None else f"the connection broke: {exc}")
        self._receiver.closed(*self.ending)

    def _read_or_not(self) -> None:
        if self._wanted and self._may_be_read:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    # ---- writing ----------------------------------------------------------------------------------------------------

    def _write_soon(self) -> None:
        if self._has_read or len(self._protocol.writes) >= _MOST_WAITING:
            self._has_read = False
            self._flush()
        elif not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush_due)

    def _flush_due(self) -> None:
        self._flushing = False
        self._flush()

    def _flush(self) -> None:
        writes = self._protocol.data_to_send()
        if not writes or self._transport.is_closing():
            return
        if data := b"".join(writes):
            self._transport.write(data)
        if writes[-1]:
            return
        # The protocol's mark for the end of our side.
        if self._transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self._transport.write_eof()
        else:
            self._transport.close()

    def pause_writing(self) -> None:
        """The write buffer is full."""
        self._blocked = True
        if self.ending is None:
            self._receiver.blocked()

    def resume_writing(self) -> None:
        """The write buffer has room again."""
        self._blocked = False
        self._read_or_not()
        if self.ending is None:
            self._receiver.writable()


async def open_connection(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    network: NetworkOptions[AsyncFactory],
    receiver: Receiver,
) -> Connection:
    """Opens a WebSocket. Cancelling it drops the attempt; there is no timeout of its own.

    The receiver gets nothing but progress before the loop iteration after the return: code that follows
    `await open_connection(…)` without awaiting runs first.

    Raises:
        ConnectError: What `Handshake` and `dial` raise.
    """
    handshake = Handshake(url, subprotocols=subprotocols, headers=headers, network=network)

    def receive(data: bytes) -> bytes | None:
        rest = handshake.receive(data)
        if handshake.refusal is not None:
            receiver.refusing(handshake.refusal)
        return rest

    opening = Dialogue(handshake.request(), receive)
    transport = await dial(handshake.address, network, receiver, opening)
    try:
        rest = await opening.answer
        if transport.is_closing():
            raise ConnectError(f"{handshake.place} ended the connection before it was open")
    except BaseException:
        transport.abort()
        raise
    return Connection(transport, handshake, rest, receiver)
