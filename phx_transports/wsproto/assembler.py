"""The parser behind the cutter: wsproto's connection, and messages made of the pieces that it returns. Pure.

It does what `cutter.Assembler` does, and what wsproto leaves to its user: it answers pings and closes, refuses messages
over `max_size` with 1009, and ends the connection with wsproto's code for the peer's faults. Each piece is counted when
it arrives, so at most `max_size` and one read are held.
"""

from typing import Final

from wsproto.connection import Connection, ConnectionState
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from ..websocket.cutter import Received, in_fragments, too_many

#: Until the connection has read the peer's close frame.
_RUNNING: Final = (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING)


class Assembler:
    """One connection's messages.

    Args:
        answers: Gets the bytes to send in answer.

    Attributes:
        ending: Set once the connection is over: the code of the peer's close frame (1005 if that was empty) and its
            reason; after a fault of the peer, `None` and a description.
        too_big: Whether that fault was a message over `max_size`.
        answered: Bytes of all pongs.
    """

    __slots__ = ("_answers", "_connection", "_fragments", "_limit", "_parts", "answered", "ending", "too_big")

    def __init__(self, connection: Connection, answers: bytearray, *, max_size: int | None) -> None:
        self.ending: tuple[int | None, str] | None = None
        self.too_big = False
        self.answered = 0
        self._connection = connection
        self._answers = answers
        self._limit = max_size
        self._parts = bytearray()  # of the current message
        self._fragments = 0

    def parse(self, data: bytes, messages: list[Received]) -> bool:
        """Takes bytes of the stream, as `cutter.Parse` says."""
        if self.ending is not None:
            return True
        self._connection.receive_data(data)
        for event in self._connection.events():
            match event:
                case TextMessage(data=text):
                    self._add(text.encode())
                case BytesMessage(data=part):
                    self._add(part)
                case Ping() if self._connection.state is ConnectionState.OPEN:
                    answer = self._connection.send(event.response())
                    self._answers += answer
                    self.answered += len(answer)
                case CloseConnection():
                    self._closed(event)
                case _:
                    continue
            if self.ending is not None:
                return True
            if not isinstance(event, TextMessage | BytesMessage):
                continue
            if event.message_finished:
                whole = self._parts
                self.drop()
                messages.append(whole.decode() if isinstance(event, TextMessage) else bytes(whole))
            elif event.frame_finished:
                self._fragments += 1
                if too_many(self._fragments, len(self._parts)):
                    self._fail(CloseReason.POLICY_VIOLATION, in_fragments(self._fragments, len(self._parts)))
                    return True
        return False

    def drop(self) -> None:
        """Release the memory of an incomplete message."""
        self._parts = bytearray()
        self._fragments = 0

    def _add(self, part: bytes | bytearray) -> None:
        self._parts += part
        if self._limit is not None and len(self._parts) > self._limit:
            self.too_big = True
            self._fail(CloseReason.MESSAGE_TOO_BIG, f"a message of more than {self._limit} bytes")

    def _closed(self, event: CloseConnection) -> None:
        """The peer closed; or it broke a rule, which wsproto reports by the same event."""
        if self._connection.state in _RUNNING:
            # wsproto's own text has a position that depends on how the stream was split.
            invalid = event.code == CloseReason.INVALID_FRAME_PAYLOAD_DATA
            self._fail(event.code, "invalid UTF-8" if invalid else event.reason or "")
            return
        if self._connection.state is ConnectionState.REMOTE_CLOSING:
            self._answers += self._connection.send(event.response())
        self.ending = (int(event.code), event.reason or "")

    def _fail(self, code: int, problem: str) -> None:
        if self._connection.state is ConnectionState.OPEN:
            self._answers += self._connection.send(CloseConnection(code, problem))
        self.ending = (None, problem)
        self.drop()
