"""What was said on the wire, in the order of saying: the account that a failing test gives of itself.

Payloads are kept as they were, for a test to look at; what is printed masks values under names that promise a secret
(`token`, `password`, …), for reports of tests end up in logs that many can read.
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
    """Which side did it."""

    CLIENT = "client"
    SERVER = "server"
    NOTE = "note"  #: neither: something that helps to understand the rest


#: For an entry without payload: `None` is a payload.
NOTHING: Final[Any] = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was said or done.

    Attributes:
        at: When, in seconds of the test's clock.
        side: By whom.
        words: What it was, e.g. `pushes "shout" to "room:lobby"`; without the payload.
        topic: Its topic, if it has one; likewise `event`.
        payload: What it carried; `NOTHING` where nothing can be. It may be secret, and is not shown here.
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
    """Everything so far; printed, a line each."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def __str__(self) -> str:
        return "\n".join(map(str, self.entries)) or "   (nothing was said)"

    @property
    def folded(self) -> str:
        """As it is printed, but of a long one the beginning and the end alone."""
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
    """What a client does that sends this, in words; both may be anything, for a client may send anything."""
    if event in (PHX_JOIN, PHX_LEAVE):
        return f'{"joins" if event == PHX_JOIN else "leaves"} "{topic}"'
    return f'pushes "{event}" to "{topic}"'


def named(event: Any, topic: Any) -> str:
    """What it has sent, in words."""
    if event in (PHX_JOIN, PHX_LEAVE):
        return f'{"join" if event == PHX_JOIN else "leave"} of "{topic}"'
    return f'push "{event}" on "{topic}"'


def described(event: Any, topic: Any, payload: Any) -> str:
    """What it has sent, in words, with its payload if it has one."""
    return (
        named(event, topic) if payload is NOTHING or event == PHX_LEAVE else f"{named(event, topic)} {shown(payload)}"
    )


def decoded(frame: str | bytes, *serializers: Any) -> Any:
    """The message or request that a frame holds, by the first of the serializers that can read it; `None` for none."""
    for serializer in serializers:
        try:
            message = serializer.decode(frame)
            message.payload  # noqa: B018 - it may be read only now
        except (InvalidFrame, ValueError, RecursionError):
            continue
        return message
    return None


def shown(value: Any) -> str:
    """A payload as text: compact JSON, secrets masked, and not too long."""
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    try:
        text = msgspec.json.encode(masked(value), enc_hook=repr).decode()  # what a test expects may be no JSON
    except (ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _WIDTH else f"{text[: _WIDTH - 1]}…"


def masked(value: Any) -> Any:
    """The same value, but for what stands under a name that promises a secret."""
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
