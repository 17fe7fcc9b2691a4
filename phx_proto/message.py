"""`Message`, `Reply`, and the event names that the protocol reserves.

A `Message` is decoded straight from the wire (a V2 text frame is the JSON array of its five fields). The payload stays
undecoded until it is first read, and then the decoded value takes its place: without a handler it is never parsed.
"""

from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, TypeVar

import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from .shown import Record, shown

if TYPE_CHECKING:
    from typing_extensions import TypeVar as TypeVarWithDefault

    P_co = TypeVarWithDefault("P_co", covariant=True, default=Any)
    R_co = TypeVarWithDefault("R_co", covariant=True, default=Any)
else:
    P_co = TypeVar("P_co", covariant=True)
    R_co = TypeVar("R_co", covariant=True)

PHOENIX_TOPIC: Final = "phoenix"
HEARTBEAT: Final = "heartbeat"
PHX_JOIN: Final = "phx_join"
PHX_LEAVE: Final = "phx_leave"
PHX_REPLY: Final = "phx_reply"
PHX_CLOSE: Final = "phx_close"
PHX_ERROR: Final = "phx_error"

RESERVED_EVENTS: Final = frozenset({PHX_JOIN, PHX_LEAVE, PHX_REPLY, PHX_CLOSE, PHX_ERROR})


if TYPE_CHECKING:
    Undecoded = Any
    Kept = Raw | UnsetType
else:
    Undecoded = P_co  # for decoders: of `Message[Raw]`, or of one with a payload's type
    Kept = UnsetType


class _Fields(msgspec.Struct, Generic[P_co], array_like=True, kw_only=True, eq=False, gc=False):
    """A message's fields in the order of the wire; `payload` as received, or decoded once it has been read.

    `source` is never on the wire (a frame with six elements does not fit its type). It is the JSON of a payload after a
    read: a handler with a declared type decodes that, so it gets every number exactly.
    """

    join_ref: str | None = None
    ref: str | None = None
    topic: str
    event: str
    payload: Undecoded
    source: Kept = UNSET


_fields: Final = attrgetter("join_ref", "ref", "topic", "event", "payload")
_decode: Final = msgspec.json.Decoder().decode
_payload_slot: Any = vars(_Fields)["payload"]


class Message(_Fields[P_co], Generic[P_co], array_like=True, kw_only=True, eq=False, gc=False):
    """One Phoenix message.

    Attributes:
        join_ref: The ref of the join it belongs to; `None` for a broadcast.
        ref: The ref of the request it belongs to; `None` without one.
        topic: The channel's topic, e.g. `"room:lobby"`.
        event: The event's name, e.g. `"shout"`.
        payload: Any JSON value, or `bytes` from a binary frame, or a value of the handler's payload type.
        source: The payload's JSON, if `payload` was decoded from it; for adapters.

    The first read of `payload` of a message from the wire decodes it. That raises an error (one of
    `phx_proto.soundness.UNREADABLE`) if the payload is invalid JSON: a number out of range, say, or invalid UTF-8. The
    other fields can still be read. A serializer that reads payloads differently (decimals, say) makes messages of a
    subclass that overrides `payload`, and `floats`: the type for a number with a fraction, if none is declared.

    >>> Message(topic="room:lobby", event="shout", payload={"body": "hi"}).payload
    {'body': 'hi'}
    """

    floats: ClassVar[type] = float

    @property  # type: ignore[misc]
    def payload(self) -> P_co:
        value = self.undecoded
        if type(value) is Raw:
            self.undecoded = _decode(value)
            self.source, value = value, self.undecoded
        return value  # type: ignore[no-any-return]

    if TYPE_CHECKING:

        @property
        def undecoded(self) -> Any:
            """The payload's current form, for adapters: `msgspec.Raw` (JSON) until it is read, then its value."""

        @undecoded.setter
        def undecoded(self, value: Any) -> None: ...

    else:
        undecoded = _payload_slot  # the field itself, which the property above hides

    def with_payload(self, payload: Any) -> "Message[Any]":
        """A copy of the message with another payload, e.g. a decoded one."""
        return replace(self, payload=payload, source=UNSET)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return bool(_fields(self) == _fields(other))

    __ne__ = object.__ne__  # msgspec's own compares fields
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        # A join's payload is its params, which may hold secrets; a raw payload is not decoded for a repr.
        payload = "…" if self.event == PHX_JOIN else shown(self.undecoded, 80)
        return (
            f"Message(topic={shown(self.topic)}, event={shown(self.event)}, payload={payload}, "
            f"join_ref={shown(self.join_ref)}, ref={shown(self.ref)})"
        )


class DecodedMessage(Message[P_co], Generic[P_co], array_like=True, kw_only=True, eq=False, gc=False):
    """A message whose payload was decoded along with its frame: reading it calls no function."""

    payload = _payload_slot  # pyright: ignore[reportIncompatibleMethodOverride]


class Reply(Record, Generic[R_co], frozen=True):
    """The server's answer to a push.

    Attributes:
        status: `"ok"` or `"error"` by convention; a server may use any string.
        response: Any JSON value, or `bytes`, or a value of the requested type.
    """

    status: str
    response: R_co = None  # type: ignore[assignment]

    @property
    def ok(self) -> bool:
        """Whether the status is `"ok"`."""
        return self.status == "ok"
