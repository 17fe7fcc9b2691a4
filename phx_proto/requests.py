"""The requests sent on one connection, and the table that finds the object awaiting each reply.

A reply is matched by its ref alone, and the first one counts. It goes to the object that awaits it: a
channel (for its join), a leave, a push, a ping, or the record of a join that was given up.
"""

from typing import Any, Final, Protocol

from msgspec import Struct

from .commands import SendBinary, SendText
from .core import Core
from .link import Link
from .message import Message, Reply

#: How many joins given up without an answer are remembered.
_MOST_ABANDONED: Final = 1000


class Awaiting(Protocol):
    """Awaits a reply.

    Attributes:
        raw: Whether the response of an ok reply stays undecoded, for the decoder of a type.
    """

    @property
    def raw(self) -> bool: ...

    def replied(self, reply: Reply, now: float) -> None:
        """The reply came."""
        ...

    def unreadable(self, problem: str, now: float) -> None:
        """The reply came and cannot be read; `problem` says why."""
        ...


class Requests(Struct, eq=False):
    """The requests of one connection.

    Attributes:
        link: The connection, for commands.
    """

    _core: Core
    link: Link
    _awaiting: dict[str | None, Awaiting] = {}  # by ref
    _abandoned: dict[str | None, None] = {}  # refs that no call waits for, the oldest first

    def send(self, message: Message[Any]) -> None:
        """Send a message.

        Raises:
            LocalError: It cannot be encoded; nothing was sent.
        """
        self.send_frame(self._core.serializer.encode(message))

    def send_frame(self, frame: str | bytes) -> None:
        """Send an encoded message."""
        if self._core.observer is not None:
            self._core.observer.sent(self.link.number, frame)
        if isinstance(frame, str):
            self._core.commands.append(SendText(self.link, frame))
        else:
            self._core.commands.append(SendBinary(self.link, frame))

    def expect(self, ref: str, awaiting: Awaiting) -> None:
        """A call waits for the reply to this ref."""
        self._awaiting[ref] = awaiting

    def abandon(self, ref: str, awaiting: Awaiting) -> None:
        """No call waits for it any more, but a late reply still matters."""
        if len(self._abandoned) == _MOST_ABANDONED:  # the server answers no joins
            self.forget(next(iter(self._abandoned)))
        self._awaiting[ref] = awaiting
        self._abandoned[ref] = None

    def find(self, ref: str | None) -> Awaiting | None:
        """The object awaiting the reply to a ref."""
        return self._awaiting.get(ref)

    def forget(self, ref: str | None) -> None:
        """Its reply came, or no longer matters."""
        self._awaiting.pop(ref, None)
        self._abandoned.pop(ref, None)

    def is_awaited(self, ref: str) -> bool:
        """Whether a call waits for the reply to a ref."""
        return ref in self._awaiting and ref not in self._abandoned

    @property
    def awaited(self) -> bool:
        """Whether a call waits for any reply."""
        return len(self._awaiting) > len(self._abandoned)
