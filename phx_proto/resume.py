"""Resuming a topic: each join tells the server which message was handled last, so that it sends the later ones.

The position moves past a message when all its handlers and streams have finished it, and all messages before it. So a
message that was received and then lost at a cut, or dropped at the hard bound, is requested again. A message that still
waits for its handlers during a rejoin comes twice: handlers must tolerate that.

"Handled" is what `Stats.handled` counts. A message whose handler raised is handled: `on_handler_error` got the error.
The position also moves past messages that a bounded queue dropped and messages without a handler.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast

from msgspec import Struct, field

from .errors import InvalidPayload
from .formats.soundness import UNREADABLE
from .message import PHX_JOIN, Message
from .queues import Claim

__all__ = ["Resume"]

#: Returns the id of a message; `None` if it has none. The adapter calls it, like a callable for params.
IdOf: TypeAlias = Callable[[Message[Any]], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """How a topic is resumed: what a message's id is, and the param that sends it with the next join.

    >>> Resume(by="id", param="since")
    Resume(by='id', param='since', start=None, events=None)

    Attributes:
        by: The field of the payload that has the id; or a function of the message.
        param: The join's param for the id of the message handled last.
        start: The first id, e.g. from a store; `None` for a first join without the param.
        events: Events whose messages have ids; `None` for all. Other events do not move the position.
    """

    by: str | IdOf
    param: str
    start: Any = None
    events: Collection[str] | None = None

    def id_of(self, message: Message[Any]) -> Any:
        """The id of a message; `None` if it has none."""
        if not isinstance(self.by, str):
            return self.by(message)
        try:
            payload: Any = message.payload
        except UNREADABLE:
            return None
        return cast("Mapping[str, Any]", payload).get(self.by) if isinstance(payload, Mapping) else None

    def counts(self, message: Message[Any]) -> bool:
        """Whether it moves the position. Does not call a function given as `by`."""
        if self.events is not None and message.event not in self.events:
            return False
        return not isinstance(self.by, str) or self.id_of(message) is not None


#: Handled messages that may wait for an earlier one; above this, the position does not move until the next join.
_MOST_PENDING: Final = 2**16


class Position(Struct, eq=False):
    """How far one channel's messages are handled.

    Attributes:
        resume: How messages are identified.
    """

    resume: Resume
    _latest: Message[Any] | None = None  # the latest handled message that counts
    _read: Message[Any] | None = None  # the message whose id `_last` is
    _last: Any = None
    _pending: "deque[_Pending]" = field(default_factory=lambda: deque[_Pending]())
    _lost: bool = False  # a message after these was lost, in this join

    def __post_init__(self) -> None:
        self._last = self.resume.start

    def read(self) -> Any:
        """The id of the message handled last; it calls the application's function, if there is one."""
        message = self._latest
        if message is not None and message is not self._read:
            found = self.resume.id_of(message)
            self._last = self._last if found is None else found
            self._read = message
        return self._last

    def expect(self, message: Message[Any], size: int, places: int) -> Claim:
        """The claim of a message that waits in `places` queues."""
        pending = _Pending(size, places, message, self)
        if not self._lost:
            self._pending.append(pending)
            self.advance()
            self._lost = len(self._pending) >= _MOST_PENDING
        return pending

    def lose(self) -> None:
        """A message was lost: later ones do not count until the topic is joined again."""
        self._lost = True

    def advance(self) -> None:
        """Move past the messages that are handled."""
        passed: list[Message[Any]] = []
        while self._pending and not self._pending[0].places:
            passed.append(self._pending.popleft().message)
        self._latest = next(filter(self.resume.counts, reversed(passed)), self._latest)

    def join_params(self, topic: str, params: Any) -> Any:
        """The params of the next join.

        Raises:
            InvalidPayload: The given ones are not an object.
        """
        self._lost = False
        if isinstance(self.resume.by, str):  # else the adapter has called the function
            self.read()
        if self._last is None:
            return params
        if params is not None and not isinstance(params, Mapping):
            raise InvalidPayload(topic, PHX_JOIN, "the params", f"are no object, and resume adds {self.resume.param!r}")
        return {**cast("Mapping[str, Any]", params or {}), self.resume.param: self._last}


class _Pending(Claim):
    __slots__ = ("message", "position")

    def __init__(self, size: int, places: int, message: Message[Any], position: Position) -> None:
        super().__init__(size, places)
        self.message = message
        self.position = position

    def settle(self) -> None:
        self.position.advance()
