"""vsn 2.0.0: JSON arrays, and binary frames for a payload of bytes; both sides."""

from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec
from msgspec.structs import asdict

from ..errors import InvalidFrame
from ..message import PHX_REPLY, Message, Reply
from .binary import BROADCAST, CLIENT_SENDS, PUSH, REPLY, SERVER_SENDS, pack, unpack
from .first_keys import first_keys_decoder
from .interfaces import Request
from .shared import (
    BYTES,
    Echo,
    V2Echo,
    array_decoder,
    check_text,
    decode_request,
    decoded_type,
    fields_of,
    message_type,
    read_leniently,
    ref_text,
    with_object,
)
from .soundness import SHALLOW, UNREADABLE, too_deep
from .text import to_text

VSN: Final = "2.0.0"

#: Reads a binary frame of a kind that Phoenix does not have: `V2(binary_kinds={4: reader})`.
BinaryReader: TypeAlias = Callable[[bytes], Message[Any]]

_NO_KINDS: Final[Mapping[int, BinaryReader]] = MappingProxyType({})
_LAST_KIND: Final = 255  # a kind is a byte


class V2:
    """The client's side of vsn 2.0.0: JSON arrays, and binary frames for a payload of bytes.

    Payloads may be whatever msgspec encodes: JSON values, structs, dataclasses, datetimes, UUIDs, `Decimal` (as a
    string). Bytes within a JSON payload become base64; a `msgspec.Raw` is sent unchanged.

    Args:
        floats: The type for JSON numbers with a fraction or an exponent. Integers are exact either way.
        binary_kinds: Readers of binary frames that Phoenix does not have, by their first byte (3 to 255). Each takes
            the whole frame and returns the message; if it raises, the frame is invalid. A JSON payload is best returned
            as `msgspec.Raw`, and decoded when it is read. `examples/supabase_broadcast.py` shows one.

    Raises:
        ValueError: A kind is not in 3 to 255.

    >>> V2().encode(Message(topic="room:lobby", event="shout", payload={"body": "hi"}, join_ref="1", ref="2"))
    '["1","2","room:lobby","shout",{"body":"hi"}]'
    """

    vsn = VSN

    def __init__(
        self, *, floats: type[float] | type[Decimal] = float, binary_kinds: Mapping[int, BinaryReader] = _NO_KINDS
    ) -> None:
        taken = [kind for kind in binary_kinds if not len(SERVER_SENDS) <= kind <= _LAST_KIND]
        if taken:
            raise ValueError(f"binary_kinds must be numbers from {len(SERVER_SENDS)} to {_LAST_KIND}, not {taken[0]}")
        self._message = message_type(floats)
        self._binary_kinds = dict(binary_kinds)
        self._decode_text = array_decoder(self._message, msgspec.Raw)

    def encode(self, message: Message[Any], /) -> str | bytes:
        """Make a text frame, or a binary one if the payload is bytes.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            FieldTooLong: A field of a binary message is over 255 bytes.
        """
        join_ref, ref, topic, event, payload = fields_of(message)
        if isinstance(payload, BYTES):
            return pack(CLIENT_SENDS, PUSH, (join_ref or "", ref or "", topic, event), payload)
        return to_text([join_ref, ref, topic, event, payload], (join_ref, ref), topic, event, payload)

    def decode(self, frame: str | bytes, /) -> Message[Any]:
        """Read a text frame, its payload left raw, or a binary one. A binary reply's payload is a `Reply`.

        Raises:
            InvalidFrame: It is neither.
        """
        if isinstance(frame, str):
            try:
                if len(frame) > SHALLOW and too_deep(frame):
                    raise RecursionError
                return self._decode_text(frame)
            except UNREADABLE as error:
                return read_leniently(frame, error, _decode_v2_echo, self._echoed)
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

    @property
    def decode_short(self) -> Callable[[str], Message[Any]]:
        """Decodes a text frame of up to `SHALLOW` characters; raises one of `UNREADABLE` where `decode` may succeed.

        It is msgspec's own decoder, so a message costs no call of a Python function.
        """
        return self._decode_text

    def decode_short_into(self, struct: type[msgspec.Struct]) -> Callable[[str], Message[Any]]:
        """The same for a frame whose payload is probably such a struct: the payload is decoded in the same call."""
        return array_decoder(decoded_type(self._message.floats), struct)

    def _decode_extension(self, frame: bytes) -> Message[Any]:
        try:
            message = self._binary_kinds[frame[0]](frame)
        except InvalidFrame:
            raise
        except Exception as error:
            raise InvalidFrame(f"a binary frame of kind {frame[0]}, whose reader raised {error!r:.200}") from error
        join_ref, ref, topic, event, payload = fields_of(message)
        return self._message(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)

    def _echoed(self, echo: Echo | V2Echo) -> Message[Any]:
        return self._message(**asdict(echo))


class V2Server:
    """The server's side of vsn 2.0.0. A ref in a binary frame is text, whatever it was.

    The encoding methods raise `InvalidPayload` for a field that cannot be sent (the error names it), and `FieldTooLong`
    for a field of a binary message that is over 255 bytes.
    """

    vsn = VSN

    def decode(self, frame: str | bytes, /) -> Request:
        """Read a text frame or a binary one; an empty ref of the latter stays an empty string.

        Raises:
            InvalidFrame: It is neither.
        """
        if isinstance(frame, str):
            return decode_request(frame, _decode_v2_request)
        _, (join_ref, ref, topic, event), data = unpack(CLIENT_SENDS, frame)
        return Request(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=data)

    def reply(self, join_ref: Any, ref: Any, topic: Any, status: str, response: Any) -> str | bytes:
        """Answer a request: in binary if the response is bytes."""
        check_text(topic, PHX_REPLY, "status", status)
        if isinstance(response, BYTES):
            return pack(SERVER_SENDS, REPLY, (ref_text(join_ref), ref_text(ref), topic, status), response)
        payload = {"status": status, "response": response}
        return to_text([join_ref, ref, topic, PHX_REPLY, payload], (join_ref, ref), topic, PHX_REPLY, payload)

    def push(self, join_ref: Any, topic: str, event: str, payload: Any, *, ref: Any = None) -> str | bytes:
        """Send to one channel: in binary if the payload is bytes."""
        check_text(topic, event, "event", event)
        if isinstance(payload, BYTES):
            return pack(SERVER_SENDS, PUSH, (ref_text(join_ref), topic, event), payload)
        text = to_text([join_ref, ref, topic, event, payload], (join_ref, ref), topic, event, payload)
        return with_object(text, topic, event, payload)

    def broadcast(self, topic: str, event: str, payload: Any) -> str | bytes:
        """Broadcast on a topic: in binary if the payload is bytes."""
        if isinstance(payload, BYTES):
            check_text(topic, event, "event", event)
            return pack(SERVER_SENDS, BROADCAST, (topic, event), payload)
        return self.push(None, topic, event, payload)


_decode_v2_echo = msgspec.json.Decoder(V2Echo).decode
_decode_v2_request = first_keys_decoder(Request)
