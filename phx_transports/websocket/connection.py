"""An open WebSocket on asyncio and on threads: messages from reads, bytes from messages, and its end.

`websockets`' Sans-I/O protocol implements RFC 6455; reads go through the `Cutter`, and uncompressed messages through
the `framer`. Nothing here decides about Phoenix. Time belongs to the core: it bounds a closing handshake by dropping
the connection. One exception: after the WebSocket's end, the peer has `LINGER` seconds to end the TCP connection before
it is dropped, so that our close frame is not lost in a reset.
"""

from abc import ABC, abstractmethod
from typing import Final

from websockets.protocol import State

from .cutter import ANSWERS, Assembler, Cutter, Received
from .framer import BINARY, TEXT, frame, mask_keys
from .handshake import Handshake

#: Seconds for the peer to end the TCP connection after the WebSocket's end.
LINGER: Final = 1.0

#: Bytes that may wait for the socket before senders must wait.
WRITE_LIMIT: Final = 2**16

#: Bytes taken at once if messages are compressed. They may inflate a thousandfold: so one read brings at most some
#: 16 MB, and the rest waits until the core has seen them.
COMPRESSED: Final = 2**14

#: The reason of an end without a close frame.
NO_CLOSE_FRAME: Final = "the server ended the connection without a close frame"
DROPPED: Final = "the connection was dropped from this side"


class WebSocket(ABC):
    """An open WebSocket. An adapter adds the socket.

    No method fails because the connection is over: what is sent then is dropped.

    Attributes:
        ending: Set at the end: the code of the peer's close frame (1005 if that was empty, `None` if there was none)
            and its reason, or a description of what happened.
    """

    def __init__(self, handshake: Handshake) -> None:
        self.ending: tuple[int | None, str] | None = None
        self._protocol = handshake.protocol
        self._assembler = Assembler(handshake.protocol)
        self._cutter = Cutter(self._parse, max_size=handshake.network.max_size)
        self._mask_keys = mask_keys()
        self._answered = 0  # bytes of pongs, up to the last time there was room to write

    @property
    def subprotocol(self) -> str | None:
        """The subprotocol chosen by the server."""
        return self._protocol.subprotocol

    @property
    def unfinished(self) -> bool:
        """Whether part of a message has arrived."""
        return self._cutter.unfinished

    def send_text(self, data: str) -> None:
        """Queues one text message."""
        self._send(TEXT, data.encode())

    def send_binary(self, data: bytes) -> None:
        """Queues one binary message."""
        self._send(BINARY, data)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Starts the closing handshake, after what is queued; messages are received until the peer's close frame.

        Args:
            code: 1000, or another that an endpoint may send (RFC 6455 §7.4).
            reason: Cut to the 123 bytes that a close frame holds.
        """
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason.encode()[:123].decode(errors="ignore"))
            self._write_soon()

    # ---- for adapters -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _write_soon(self) -> None:
        """Schedules a write of the protocol's data."""

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether so much waits to be written that senders must wait."""

    def _send(self, head: int, data: bytes) -> None:
        if self._protocol.state is not State.OPEN:
            return
        if not self._protocol.extensions:
            message = frame(head, data, next(self._mask_keys))
            self._protocol.writes.append(message)  # its own list keeps the order of writes
        elif head == TEXT:
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        self._write_soon()

    def _parse(self, data: bytes, messages: list[Received]) -> bool:
        return self._assembler.parse(data, messages)

    def _cut(self, data: bytes) -> list[Received]:
        """Takes a read, and returns the messages completed by it. Sets `ending` when it was the last."""
        messages = self._cutter.cut(data)
        answered = self._assembler.answered
        if answered != self._answered and not self.full:
            self._answered = answered
        if self._cutter.ended and self.ending is None:
            close = self._protocol.close_rcvd
            self.ending = (None, self._assembler.problem) if close is None else (int(close.code), close.reason)
        return messages

    @property
    def _may_be_read(self) -> bool:
        """Whether the pongs waiting to be written are few: a peer that does not read them is not read either.

        Only pongs count, not all bytes to write: a server that waits for us to read may itself not read.
        """
        return self._assembler.answered - self._answered <= ANSWERS or not self.full

    def _lost(self, problem: str) -> None:
        """The connection is gone; the reason counts if it was not over yet."""
        if self.ending is None:
            self.ending = (None, problem)

    def _forget(self) -> None:
        """The connection is over and fully read: release the memory of an incomplete message."""
        self._cutter.drop()
        self._assembler.drop()
