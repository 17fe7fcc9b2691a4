"""What both versions share: payload types, checks before sending, and a lenient way to read a frame.

A server echoes the refs and, in a reply, the topic of a request, whatever their types. A client of this library
sends only text; but a plain decoder refuses the whole frame, so a refused frame is read again with untyped refs.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Any, Final, Generic, TypeAlias, TypeVar

import msgspec

from ..errors import InvalidFrame, InvalidPayload
from ..message import PHX_REPLY, DecodedMessage, Message, P_co
from .soundness import UNREADABLE, describe, too_deep, without_lone_surrogates
from .text import encode_json

T = TypeVar("T")

BYTES: Final[tuple[type[Any], ...]] = (bytes, bytearray, memoryview)
NULL: Final = msgspec.Raw(b"null")

#: The part before the first array or object within a frame.
_HEAD: Final = re.compile(r'\s*[\[{](?:[^"\[{]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)

_OBJECT: type[Any] = dict


def _read_decimals(raw: msgspec.Raw) -> Any:
    try:
        return _decode_decimals(raw)
    except InvalidOperation:  # an exponent of twenty digits
        raise msgspec.ValidationError("Number out of range") from None


class _DecimalMessage(Message[P_co], Generic[P_co], array_like=True, kw_only=True, eq=False, gc=False):
    floats = Decimal

    @property  # type: ignore[misc]
    def payload(self) -> Any:
        value = self.undecoded
        if type(value) is msgspec.Raw:
            value = self.undecoded = _read_decimals(value)
        return value


class _DecodedDecimalMessage(DecodedMessage[P_co], Generic[P_co], array_like=True, kw_only=True, eq=False, gc=False):
    floats = Decimal


def message_type(floats: type[float] | type[Decimal]) -> type[Message[Any]]:
    """The type of messages whose payloads have such numbers."""
    return Message if floats is float else _DecimalMessage


def decoded_type(floats: type) -> type[Message[Any]]:
    """The type of such messages whose payload is decoded along with their frame."""
    return DecodedMessage if floats is float else _DecodedDecimalMessage


@lru_cache(maxsize=256)
def array_decoder(message: type[Message[Any]], payload_type: Any) -> Callable[[str], Message[Any]]:
    """Decodes an array of vsn 2.0.0 to a message with such a payload; `msgspec.Raw` leaves it undecoded."""
    generic: Any = message
    hook = None if message.floats is float else message.floats
    return msgspec.json.Decoder(generic[payload_type], float_hook=hook).decode


class Echo(msgspec.Struct, kw_only=True):
    """An object of vsn 1.0.0 with any refs and topic that the server echoes."""

    join_ref: Any = None
    ref: Any = None
    topic: Any
    event: str
    payload: msgspec.Raw = NULL


class V2Echo(msgspec.Struct, array_like=True, kw_only=True):
    """An array of vsn 2.0.0, in the same way."""

    join_ref: Any
    ref: Any
    topic: Any
    event: str
    payload: msgspec.Raw


DecodeEcho: TypeAlias = Callable[[str], Echo | V2Echo]
MakeMessage: TypeAlias = Callable[[Echo | V2Echo], Message[Any]]

_decode_decimals = msgspec.json.Decoder(float_hook=Decimal).decode


def read_leniently(frame: str, error: Exception, decode: DecodeEcho, make: MakeMessage) -> Message[Any]:
    """Read a frame that the plain decoder refuses: lone surrogates, or echoed refs or topics of other types.

    Of one that is nested too deeply (`RecursionError`), only the message around the payload is read, for the error.

    Raises:
        InvalidFrame: It is not a message.
    """
    try:
        if isinstance(error, RecursionError):
            raise error
        return make(_checked(decode(without_lone_surrogates(frame) if "\\u" in frame else frame)))
    except UNREADABLE:
        raise InvalidFrame(describe(error), _envelope(frame, decode, make)) from None


def _envelope(frame: str, decode: DecodeEcho, make: MakeMessage) -> Message[Any] | None:
    """The message without its payload, which cannot be read."""
    frame = frame.rstrip()
    head = _HEAD.match(frame)
    tail = max(map(frame[:-1].rfind, "]}"))
    if head is None or tail < head.end():
        return None
    try:
        return make(_checked(decode(f"{frame[: head.end()]}null{frame[tail + 1 :]}")))
    except UNREADABLE:
        return None


def _checked(echo: Echo | V2Echo) -> Echo | V2Echo:
    """Check a message from a server, which echoes a client's refs, and the topic in a reply, whatever their types.

    Refs that are not text become an empty text, which no request of this library has as its ref.
    """
    if not isinstance(echo.topic, str):
        if echo.event != PHX_REPLY:
            raise ValueError  # the first error is told
        echo.topic = ""
    echo.join_ref, echo.ref = (ref if isinstance(ref, str | None) else "" for ref in (echo.join_ref, echo.ref))
    return echo


def decode_request(text: str, decode: Callable[[str], T]) -> T:
    """Decode a client's text.

    Raises:
        InvalidFrame: It is not a request.
    """
    try:
        if too_deep(text):
            raise RecursionError
        return decode(text)
    except UNREADABLE as error:
        raise InvalidFrame(describe(error)) from None


def check_text(topic: Any, event: Any, where: str, value: object) -> None:
    """Refuse an event or a status that is not text: no client could read it.

    Raises:
        InvalidPayload: It is not.
    """
    if not isinstance(value, str):
        raise InvalidPayload(topic, event, where, f"is of type {type(value).__name__}, and must be text")


def with_object(text: str, topic: str, event: str, payload: Any) -> str:
    """The text, if its payload is an object.

    Raises:
        InvalidPayload: It is not; Phoenix raises too.
    """
    if not isinstance(payload, _OBJECT) and encode_json(payload).lstrip()[:1] != b"{":
        problem = f"is of type {type(payload).__name__}: a server pushes an object or bytes (a reply may be any value)"
        raise InvalidPayload(topic, event, "payload", problem)
    return text


def fields_of(message: Message[Any]) -> tuple[str | None, str | None, str, str, Any]:
    """Its fields in the order of the wire, with the payload undecoded."""
    return message.join_ref, message.ref, message.topic, message.event, message.undecoded


def ref_text(ref: Any) -> str:
    """A ref of any type, in the form for a binary frame."""
    if isinstance(ref, str):
        return ref
    return "" if ref is None else msgspec.json.encode(ref).decode()
