"""What an open WebSocket is on asyncio and on threads: messages from reads, bytes from messages, and its end.

`websockets`' Sans-I/O protocol keeps RFC 6455; reads go through the `Cutter`, and messages that are not compressed
through the `framer`. Nothing here decides about Phoenix, and time is the core's: a closing handshake is bounded by
dropping the connection. The one exception is the TCP connection of a WebSocket that is over and was told so: the peer
gets `LINGER` to end it, so that our close frame is not lost in a reset, and then it is dropped.
"""

from abc import ABC, abstractmethod
from typing import Final

from websockets.protocol import State

from .cutter import ANSWERS, Assembler, Cutter, Received
from .framer import BINARY, TEXT, frame
from .handshake import Handshake

#: Seconds that the peer has to end the TCP connection once the WebSocket is over.
LINGER: Final = 1.0

#: Bytes that may wait for the socket until senders have to wait.
WRITE_LIMIT: Final = 2**16

#: Bytes that are taken at once where messages are compressed. They may inflate a thousandfold: so one read brings at
#: most some 16 MB, and what follows waits until the core has seen them.
COMPRESSED: Final = 2**14

#: What is told of an end without a close frame.
NO_CLOSE_FRAME: Final = "the server ended the connection without a close frame"
DROPPED: Final = "the connection was dropped from this side"


class WebSocket(ABC):
    """An open WebSocket. An adapter extends it by its socket.

    None of its methods fails because the connection is over: what is sent then goes nowhere.

    Attributes:
        ending: Once it is over: the code of the peer's close frame (1005 if that was empty, `None` if none came) and
            its reason, or what happened in words.
    """

    def __init__(self, handshake: Handshake) -> None:
        self.ending: tuple[int | None, str] | None = None
        self._protocol = handshake.protocol
        self._assembler = Assembler(handshake.protocol)
        self._cutter = Cutter(self._parse, max_size=handshake.network.max_size)
        self._answered = 0  # bytes of answers to pings, up to when there was room to write

    @property
    def subprotocol(self) -> str | None:
        """What the server chose of the subprotocols offered."""
        return self._protocol.subprotocol

    @property
    def unfinished(self) -> bool:
        """Whether a message has begun whose end has not come."""
        return self._cutter.unfinished

    def send_text(self, data: str) -> None:
        """Queues one text message."""
        self._send(TEXT, data.encode())

    def send_binary(self, data: bytes) -> None:
        """Queues one binary message."""
        self._send(BINARY, data)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Starts the closing handshake, behind what is queued; messages are received until the peer's close frame.

        Args:
            code: 1000, or another that an endpoint may send (RFC 6455 §7.4).
            reason: Cut to the 123 bytes that a close frame holds.
        """
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason.encode()[:123].decode("utf-8", "ignore"))
            self._write_soon()

    # ---- for adapters -----------------------------------------------------------------------------------------------

    @abstractmethod
    def _write_soon(self) -> None:
        """The protocol has data to send."""

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether so much waits to be written that senders should wait too."""

    def _send(self, head: int, data: bytes) -> None:
        if self._protocol.state is not State.OPEN:
            return
        if not self._protocol.extensions:
            self._protocol.writes.append(frame(head, data))  # its own list, so that all is written in its order
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
        """A peer who reads none of our answers to pings is not read either: they would queue without bound.

        Only these count, not all that is to be written: a server that waits for us to read reads nothing meanwhile.
        """
        return self._assembler.answered - self._answered <= ANSWERS or not self.full

    def _lost(self, problem: str) -> None:
        """The connection is gone; if it was not over yet, that is why."""
        if self.ending is None:
            self.ending = (None, problem)

    def _forget(self) -> None:
        """The connection is over, and its last byte was read: holds nothing of the message that was coming."""
        self._cutter.drop()
        self._assembler.drop()
