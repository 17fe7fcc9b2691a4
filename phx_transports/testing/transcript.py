"""The conversation on the wire, in order, for the report of a failing test.

Payloads are kept unchanged, for a test to check. The printed form masks values under names of secrets (`token`,
`password`, …), because test reports end up in logs that many people can read.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import msgspec

from phx_proto.errors import InvalidFrame
from phx_proto.message import PHX_JOIN, PHX_LEAVE


class Side(Enum):
    """The side that did it."""

    CLIENT = "client"
    SERVER = "server"
    NOTE = "note"  #: neither: a note that explains the rest


#: For an entry without payload: `None` is a payload.
NOTHING: Final[Any] = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Entry:
    """One message or other event.

    Attributes:
        at: The time, in seconds of the test's clock.
        side: The side that did it.
        words: A description, e.g. `pushes "shout" to "room:lobby"`; without the payload.
        topic: Its topic, if it has one; in the same way `event`.
        payload: Its payload; `NOTHING` if it can have none. It may be secret, and is not shown in the repr.
    """

    at: float
    side: Side
    words: str
    topic: str | None = None
    event: str | None = None
    payload: Any = field(default=NOTHING, repr=False)

    def __str__(self) -> str:
        carried = "" if self.payload is NOTHING else f" {shown(self.payload)}"
        return f"{self.at:9.3f}  {self.side.value}  {self.words}{carried}"


class Transcript:
    """The conversation so far; printed, one line for each entry."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries)) or "   (nothing was said)"

    @property
    def folded(self) -> str:
        """As printed; a long one is reduced to its beginning and end."""
        left_out = len(self.entries) - _HEAD - _TAIL
        if left_out <= 0:
            return str(self)
        fold = f"           … {left_out:,} more lines, which `print(transcript)` shows …"
        return "\n".join([*map(str, self.entries[:_HEAD]), fold, *map(str, self.entries[-_TAIL:])])

    def __iter__(self) -> Iterator[Entry]:
        return iter(tuple(self.entries))

    def __len__(self) -> int:
        return len(self.entries)


def doing(event: Any, topic: Any) -> str:
    """What a client does by sending this, as text; both may be of any type, because a client may send anything."""
    if event in (PHX_JOIN, PHX_LEAVE):
        return f'{"joins" if event == PHX_JOIN else "leaves"} "{topic}"'
    return f'pushes "{event}" to "{topic}"'


def named(event: Any, topic: Any) -> str:
    """What it has sent, as text."""
    if event in (PHX_JOIN, PHX_LEAVE):
        return f'{"join" if event == PHX_JOIN else "leave"} of "{topic}"'
    return f'push "{event}" on "{topic}"'


def described(event: Any, topic: Any, payload: Any) -> str:
    """What it has sent, as text, with its payload if it has one."""
    return (
        named(event, topic) if payload is NOTHING or event == PHX_LEAVE else f"{named(event, topic)} {shown(payload)}"
    )


def decoded(frame: str | bytes, *serializers: Any) -> Any:
    """The message or request in a frame, by the first of the serializers that can read it; `None` for none."""
    for serializer in serializers:
        try:
            message = serializer.decode(frame)
            message.payload  # noqa: B018 - it may be decoded only now
        except (InvalidFrame, ValueError, RecursionError):
            continue
        return message
    return None


def shown(value: Any) -> str:
    """A payload as text: compact JSON, secrets masked, and not too long."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    try:
        text = msgspec.json.encode(masked(value), enc_hook=repr).decode()  # an expected value may not be JSON
    except (ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def masked(value: Any) -> Any:
    """The same value with the values under names of secrets masked."""
    if isinstance(value, _OBJECT):
        return {key: "…" if is_secret(key) and item else masked(item) for key, item in value.items()}
    if isinstance(value, _ARRAYS):
        return [masked(item) for item in value]
    return value


def is_secret(name: object) -> bool:
    return isinstance(name, str) and _SECRET.search(name) is not None


_HEAD: Final = 12  # lines of a long conversation that are shown
_TAIL: Final = 38
_WIDTH: Final = 200
_OBJECT: type[Any] = dict
_ARRAYS: tuple[type[Any], ...] = (list, tuple)
_SECRET: Final = re.compile(
    r"token|secret|passw|authori[sz]|api[_-]?key|private[_-]?key|cookie|credential|jwt|^auth$", re.IGNORECASE
)
