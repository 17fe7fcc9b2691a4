"""Messages to frames and back: V2 (JSON and binary) and V1 (JSON alone), each for both sides of the wire.

A client's side is a `Serializer`, and a user may plug in their own. It decodes into `Message`, with the payload of a
text frame left raw, so an event that nobody handles is never parsed. A server's side is a `ServerSerializer`: it must
answer a client whatever types it put in place of a topic or a ref, so it decodes into `Request`, which has no types,
and it decodes the whole payload at once, for a real server refuses a frame with any fault in it; of a key that comes
twice it takes the first, as that does.

Text is `str` and binary is `bytes`, as the WebSocket frame that carries it; a transport decodes UTF-8.
"""

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Final, Protocol, TypeAlias, TypeVar

import msgspec

from ..errors import BinaryNotSupported, InvalidFrame, InvalidPayload
from ..message import PHX_CLOSE, PHX_ERROR, PHX_REPLY, Message, Reply
from .binary import BROADCAST, CLIENT_SENDS, PUSH, REPLY, SERVER_SENDS, pack, unpack
from .first_keys import first_keys_decoder
from .soundness import SHALLOW, UNREADABLE, describe, too_deep, without_lone_surrogates
from .text import encode_json, to_text

T = TypeVar("T")

VSN_1: Final = "1.0.0"
VSN_2: Final = "2.0.0"

#: Reads a binary frame of a kind that Phoenix does not have: `V2(binary_kinds={4: reader})`.
BinaryReader: TypeAlias = Callable[[bytes], Message[Any]]

_NO_KINDS: Final[Mapping[int, BinaryReader]] = MappingProxyType({})
_LAST_KIND: Final = 255  # a kind is a byte
_NULL: Final = msgspec.Raw(b"null")


class Serializer(Protocol):
    """A client's side of a wire format."""

    @property
    def vsn(self) -> str:
        """The version asked for in the URL, e.g. `"2.0.0"`."""
        ...

    def encode(self, message: Message[Any], /) -> str | bytes:
        """Make the frame that carries a message: a text frame (`str`) or a binary one (`bytes`).

        Raises:
            LocalError: The message cannot be sent; nothing was.
        """
        ...

    def decode(self, frame: str | bytes, /) -> Message[Any]:
        """Read a frame from the server.

        Raises:
            InvalidFrame: It is no message. Nothing else is raised, whatever the frame.
        """
        ...


def decode_reply(message: Message[Any]) -> Reply:
    """Read the answer out of a `phx_reply`, whichever serializer made the message.

    Raises:
        InvalidFrame: The payload is not sound, or not a status with a response.

    >>> decode_reply(V2().decode('[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]'))
    Reply(status='ok', response={})
    """
    try:
        return msgspec.convert(message.payload, Reply)
    except UNREADABLE as error:
        raise InvalidFrame(describe(error), message.with_payload(None)) from None


class V2:
    """The client's side of vsn 2.0.0: JSON arrays, and binary frames for a payload of bytes.

    Payloads may be whatever msgspec encodes: JSON values, structs, dataclasses, datetimes, UUIDs, `Decimal` (as a
    string). Bytes within a JSON payload become base64; a `msgspec.Raw` is sent as it is.

    Args:
        floats: What a JSON number with a fraction or an exponent becomes. Integers are exact either way.
        binary_kinds: Readers of binary frames that Phoenix does not have, by their first byte (3 to 255). Each takes
            the whole frame and gives the message; what it raises makes the frame an invalid one. A payload of JSON is
            best given as `msgspec.Raw`, decoded when it is read. `examples/supabase_broadcast.py` shows one.

    Raises:
        ValueError: A kind is none of 3 to 255.

    >>> V2().encode(Message(topic="room:lobby", event="shout", payload={"body": "hi"}, join_ref="1", ref="2"))
    '["1","2","room:lobby","shout",{"body":"hi"}]'
    """

    vsn = VSN_2

    def __init__(
        self,
        *,
        floats: type[float] | type[Decimal] = float,
        binary_kinds: Mapping[int, BinaryReader] = _NO_KINDS,
    ) -> None:
        taken = [kind for kind in binary_kinds if kind in SERVER_SENDS or not 0 <= kind <= _LAST_KIND]
        if taken:
            raise ValueError(f"binary_kinds must be numbers from {len(SERVER_SENDS)} to {_LAST_KIND}, not {taken[0]}")
        self._message = _message_type(floats)
        self._binary_kinds = dict(binary_kinds)
        self._decode_text: Callable[[str], Message[Any]] = msgspec.json.Decoder(self._message).decode

    def encode(self, message: Message[Any], /) -> str | bytes:
        """Make a text frame, or a binary one if the payload is bytes.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            FieldTooLong: A field of a binary message is over 255 bytes.
        """
        join_ref, ref, topic, event, payload = _fields(message)
        if isinstance(payload, _BYTES):
            return pack(CLIENT_SENDS, PUSH, (join_ref or "", ref or "", topic, event), payload)
        return to_text([join_ref, ref, topic, event, payload], (join_ref, ref), topic, event, payload)

    def decode(self, frame: str | bytes, /) -> Message[Any]:
        """Read a text frame, its payload left raw, or a binary one. A binary reply's payload is a `Reply`.

        Raises:
            InvalidFrame: It is neither.
        """
        if isinstance(frame, str):
            if len(frame) > SHALLOW and too_deep(frame):
                raise _too_deep(frame, _decode_v2_echo, self._echoed)
            try:
                return self._decode_text(frame)
            except UNREADABLE as error:
                return _lenient(frame, error, _decode_v2_echo, self._echoed)
        if frame[:1] and frame[0] in self._binary_kinds:
            return self._decode_extension(frame)
        kind, fields, data = unpack(SERVER_SENDS, frame)
        if kind == REPLY:
            join_ref, ref, topic, status = fields
            reply = Reply(status, data)
            return Message(join_ref=join_ref or None, ref=ref or None, topic=topic, event=PHX_REPLY, payload=reply)
        if kind == PUSH:
            join_ref, topic, event = fields
            return Message(join_ref=join_ref or None, topic=topic, event=event, payload=data)
        topic, event = fields
        return Message(topic=topic, event=event, payload=data)

    def _decode_extension(self, frame: bytes) -> Message[Any]:
        try:
            message = self._binary_kinds[frame[0]](frame)
        except InvalidFrame:
            raise
        except Exception as error:
            raise InvalidFrame(f"a binary frame of kind {frame[0]}, whose reader raised {error!r:.200}") from error
        join_ref, ref, topic, event, payload = _fields(message)
        return self._message(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)

    def _echoed(self, echo: "_Echo | _V2Echo") -> Message[Any]:
        return self._message(
            join_ref=echo.join_ref, ref=echo.ref, topic=echo.topic, event=echo.event, payload=echo.payload
        )


class V1:
    """The client's side of vsn 1.0.0: JSON objects, and no bytes.

    Its server never sends a join_ref, but puts the join's ref into `ref` when the channel ends; that one is given as
    the message's `join_ref`, so nothing above needs to know which version it speaks. Servers that are not Phoenix may
    leave out all but topic and event; what is not there is null.

    Args:
        floats: What a JSON number with a fraction or an exponent becomes. Integers are exact either way.
    """

    vsn = VSN_1

    def __init__(self, *, floats: type[float] | type[Decimal] = float) -> None:
        self._message = _message_type(floats)

    def encode(self, message: Message[Any], /) -> str | bytes:
        """Make a text frame.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            BinaryNotSupported: The payload is bytes.
        """
        join_ref, ref, topic, event, payload = _fields(message)
        if isinstance(payload, _BYTES):
            raise BinaryNotSupported(self.vsn)
        envelope = {"join_ref": join_ref, "ref": ref, "topic": topic, "event": event, "payload": payload}
        return to_text(envelope, (join_ref, ref), topic, event, payload)

    def decode(self, frame: str | bytes, /) -> Message[Any]:
        """Read a text frame, its payload left raw.

        Raises:
            InvalidFrame: It is not a message.
        """
        if not isinstance(frame, str):
            raise InvalidFrame(f"a binary frame, which vsn {self.vsn} does not have")
        if len(frame) > SHALLOW and too_deep(frame):
            raise _too_deep(frame, _decode_v1_echo, self._made)
        try:
            return self._made(_decode_v1_fields(frame))
        except UNREADABLE as error:
            return _lenient(frame, error, _decode_v1_echo, self._made)

    def _made(self, fields: "_V1Fields | _Echo | _V2Echo") -> Message[Any]:
        event, ref = fields.event, fields.ref
        join_ref = ref if event in (PHX_CLOSE, PHX_ERROR) else None
        return self._message(join_ref=join_ref, ref=ref, topic=fields.topic, event=event, payload=fields.payload)


# ---- the server's side ----------------------------------------------------------------------------------------------


class Request(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a client sent, of whatever types it chose: a server echoes them. The fields are in the order of the wire.

    Attributes:
        join_ref: The ref of the join it belongs to.
        ref: What the reply will carry.
        topic: A string from any decent client.
        event: Likewise.
        payload: Any JSON value, or `bytes`.
    """

    join_ref: Any = None
    ref: Any
    topic: Any
    event: Any
    payload: Any

    def __repr__(self) -> str:
        # A payload may be a join's params, which may hold secrets.
        return f"Request(topic={self.topic!r}, event={self.event!r}, join_ref={self.join_ref!r}, ref={self.ref!r}, …)"


class ServerSerializer(Protocol):
    """A server's side of a wire format. All that encode raise a `LocalError` for what cannot be sent."""

    @property
    def vsn(self) -> str:
        """The version a client asks for in its URL."""
        ...

    def decode(self, frame: str | bytes, /) -> Request:
        """Read a frame from a client.

        Raises:
            InvalidFrame: It is no request; a real server closes with 1011. Nothing else is raised, whatever the frame.
        """
        ...

    def reply(self, join_ref: Any, ref: Any, topic: Any, status: str, response: Any) -> str | bytes:
        """Answer a request."""
        ...

    def push(self, join_ref: Any, topic: str, event: str, payload: Any, *, ref: Any = None) -> str | bytes:
        """Send to one channel. `ref` is for `phx_close` and `phx_error`, which carry the join's there as well."""
        ...

    def broadcast(self, topic: str, event: str, payload: Any) -> str | bytes:
        """Send to whoever has the topic: one frame for all of them."""
        ...


class V2Server:
    """The server's side of vsn 2.0.0. A ref in a binary frame is text, whatever it was."""

    vsn = VSN_2

    def decode(self, frame: str | bytes, /) -> Request:
        """Read a text frame or a binary one; an empty ref of the latter stays an empty string.

        Raises:
            InvalidFrame: It is neither.
        """
        if isinstance(frame, str):
            return _checked_request(frame, _decode_v2_request)
        _, (join_ref, ref, topic, event), data = unpack(CLIENT_SENDS, frame)
        return Request(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=data)

    def reply(self, join_ref: Any, ref: Any, topic: Any, status: str, response: Any) -> str | bytes:
        """Answer a request: in binary if the response is bytes.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            FieldTooLong: A field of a binary reply is over 255 bytes.
        """
        if isinstance(response, _BYTES):
            return pack(SERVER_SENDS, REPLY, (_as_text(join_ref), _as_text(ref), topic, status), response)
        payload = {"status": status, "response": response}
        return to_text([join_ref, ref, topic, PHX_REPLY, payload], (join_ref, ref), topic, PHX_REPLY, payload)

    def push(self, join_ref: Any, topic: str, event: str, payload: Any, *, ref: Any = None) -> str | bytes:
        """Send to one channel: in binary if the payload is bytes.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            FieldTooLong: A field of a binary push is over 255 bytes.
        """
        if isinstance(payload, _BYTES):
            return pack(SERVER_SENDS, PUSH, (_as_text(join_ref), topic, event), payload)
        text = to_text([join_ref, ref, topic, event, payload], (join_ref, ref), topic, event, payload)
        return _with_object(text, topic, event, payload)

    def broadcast(self, topic: str, event: str, payload: Any) -> str | bytes:
        """Send to whoever has the topic: in binary if the payload is bytes.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            FieldTooLong: A field of a binary broadcast is over 255 bytes.
        """
        if isinstance(payload, _BYTES):
            return pack(SERVER_SENDS, BROADCAST, (topic, event), payload)
        text = to_text([None, None, topic, event, payload], (None, None), topic, event, payload)
        return _with_object(text, topic, event, payload)


class V1Server:
    """The server's side of vsn 1.0.0: it reads a join_ref and never sends one."""

    vsn = VSN_1

    def decode(self, frame: str | bytes, /) -> Request:
        """Read JSON, from a binary frame as well.

        Raises:
            InvalidFrame: It is not a request.
        """
        try:
            text = frame if isinstance(frame, str) else frame.decode()
        except UnicodeDecodeError as error:
            raise InvalidFrame(describe(error)) from None
        fields = _checked_request(text, _decode_v1_request)
        return Request(**msgspec.structs.asdict(fields))

    def reply(self, join_ref: Any, ref: Any, topic: Any, status: str, response: Any) -> str | bytes:
        """Answer a request.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            BinaryNotSupported: The response is bytes.
        """
        if isinstance(response, _BYTES):
            raise BinaryNotSupported(self.vsn)
        return self._object(ref, topic, PHX_REPLY, {"status": status, "response": response})

    def push(self, join_ref: Any, topic: str, event: str, payload: Any, *, ref: Any = None) -> str | bytes:
        """Send to one channel.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            BinaryNotSupported: The payload is bytes.
        """
        return _with_object(self._object(ref, topic, event, payload), topic, event, payload)

    def broadcast(self, topic: str, event: str, payload: Any) -> str | bytes:
        """Send to whoever has the topic.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            BinaryNotSupported: The payload is bytes.
        """
        return _with_object(self._object(None, topic, event, payload), topic, event, payload)

    def _object(self, ref: Any, topic: Any, event: str, payload: Any) -> str:
        if isinstance(payload, _BYTES):
            raise BinaryNotSupported(self.vsn)
        envelope = {"ref": ref, "topic": topic, "event": event, "payload": payload}
        return to_text(envelope, (ref,), topic, event, payload)


# ---- private --------------------------------------------------------------------------------------------------------

#: What stands before the first array or object within a frame.
_HEAD: Final = re.compile(r'\s*[\[{](?:[^"\[{]++|"(?:[^"\\]++|\\.)*+")*+', re.DOTALL)

_OBJECT: type[Any] = dict
_BYTES: tuple[type[Any], ...] = (bytes, bytearray, memoryview)


def _read_decimals(raw: msgspec.Raw) -> Any:
    try:
        return _decode_decimals(raw)
    except InvalidOperation:  # an exponent of twenty digits
        raise msgspec.ValidationError("Number out of range") from None


class _DecimalMessage(Message[Any], array_like=True, kw_only=True, eq=False, gc=False):
    @property  # type: ignore[misc]
    def payload(self) -> Any:
        value = self.undecoded
        if type(value) is msgspec.Raw:
            value = self.undecoded = _read_decimals(value)
        return value


def _message_type(floats: type[float] | type[Decimal]) -> type[Message[Any]]:
    return Message if floats is float else _DecimalMessage


class _V1Fields(msgspec.Struct, gc=False):
    topic: str
    event: str
    payload: msgspec.Raw = _NULL
    ref: str | None = None


class _V1Request(msgspec.Struct, kw_only=True):
    join_ref: Any = None
    ref: Any
    topic: Any
    event: Any
    payload: Any


class _Echo(msgspec.Struct, kw_only=True):
    join_ref: Any = None
    ref: Any = None
    topic: Any
    event: str
    payload: msgspec.Raw = _NULL


class _V2Echo(msgspec.Struct, array_like=True, kw_only=True):
    join_ref: Any
    ref: Any
    topic: Any
    event: str
    payload: msgspec.Raw


_DecodeEcho: TypeAlias = Callable[[str], _Echo | _V2Echo]
_MakeMessage: TypeAlias = Callable[[_Echo | _V2Echo], Message[Any]]

_decode_v1_echo = msgspec.json.Decoder(_Echo).decode
_decode_v2_echo = msgspec.json.Decoder(_V2Echo).decode
_decode_decimals = msgspec.json.Decoder(float_hook=Decimal).decode
_decode_v1_fields = msgspec.json.Decoder(_V1Fields).decode
_decode_v1_request = first_keys_decoder(_V1Request)
_decode_v2_request = first_keys_decoder(Request)


def _lenient(frame: str, error: Exception, decode: "_DecodeEcho", make: "_MakeMessage") -> Message[Any]:
    """Read what the plain decoder could not: half characters, and what a server echoes to a client without manners.

    Raises:
        InvalidFrame: It is no message.
    """
    try:
        return make(_checked_echo(decode(without_lone_surrogates(frame) if "\\u" in frame else frame)))
    except UNREADABLE:
        raise InvalidFrame(describe(error), _envelope(frame, decode, make)) from None


def _too_deep(frame: str, decode: "_DecodeEcho", make: "_MakeMessage") -> InvalidFrame:
    return InvalidFrame("nested too deeply", _envelope(frame, decode, make))


def _envelope(frame: str, decode: "_DecodeEcho", make: "_MakeMessage") -> Message[Any] | None:
    """The message around a payload that cannot be read, which is left out."""
    frame = frame.rstrip()
    head = _HEAD.match(frame)
    tail = max(frame.rfind("]", 0, -1), frame.rfind("}", 0, -1))
    if head is None or tail < head.end():
        return None
    try:
        return make(_checked_echo(decode(f"{frame[: head.end()]}null{frame[tail + 1 :]}")))
    except UNREADABLE:
        return None


def _checked_echo(echo: "_Echo | _V2Echo") -> "_Echo | _V2Echo":
    """What a server sends to a client whose refs are not text: it echoes them as they came, in a reply the topic too.

    In their places stands an empty text, which is the ref of no request of ours.
    """
    if not isinstance(echo.topic, str):
        if echo.event != PHX_REPLY:
            raise ValueError("a topic that is not text")
        echo.topic = ""
    echo.join_ref, echo.ref = (ref if isinstance(ref, str | None) else "" for ref in (echo.join_ref, echo.ref))
    return echo


def _checked_request(text: str, decode: Callable[[str], T]) -> T:
    if too_deep(text):
        raise InvalidFrame("nested too deeply")
    try:
        return decode(text)
    except UNREADABLE as error:
        raise InvalidFrame(describe(error)) from None


def _with_object(text: str, topic: str, event: str, payload: Any) -> str:
    """The text, if its payload is an object.

    Raises:
        InvalidPayload: It is not: Phoenix raises for it, too.
    """
    if not isinstance(payload, _OBJECT) and encode_json(payload).lstrip()[:1] != b"{":
        problem = f"is of type {type(payload).__name__}: a server pushes an object or bytes (a reply may be any value)"
        raise InvalidPayload(topic, event, "payload", problem)
    return text


def _fields(message: Message[Any]) -> tuple[str | None, str | None, str, str, Any]:
    return message.join_ref, message.ref, message.topic, message.event, message.undecoded


def _as_text(ref: Any) -> str:
    if isinstance(ref, str):
        return ref
    return "" if ref is None else msgspec.json.encode(ref).decode()
