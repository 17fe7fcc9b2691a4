"""vsn 1.0.0: JSON objects, without bytes; both sides."""

from decimal import Decimal
from typing import Any, Final

import msgspec

from ..errors import BinaryNotSupported, InvalidFrame
from ..message import PHX_CLOSE, PHX_ERROR, PHX_REPLY, Message
from .first_keys import first_keys_decoder
from .interfaces import Request
from .shared import (
    BYTES,
    NULL,
    Echo,
    V2Echo,
    check_text,
    decode_request,
    fields_of,
    message_type,
    read_leniently,
    with_object,
)
from .soundness import SHALLOW, UNREADABLE, too_deep
from .text import to_text

VSN: Final = "1.0.0"


class V1:
    """The client's side of vsn 1.0.0: JSON objects, without bytes.

    Its server never sends a join_ref, but puts the join's ref into `ref` when the channel ends. That becomes the
    message's `join_ref`, so nothing else depends on the version. Servers that are not Phoenix may leave out everything
    except topic and event; missing fields are null.

    Args:
        floats: The type for JSON numbers with a fraction or an exponent. Integers are exact either way.
    """

    vsn = VSN

    def __init__(self, *, floats: type[float] | type[Decimal] = float) -> None:
        self._message = message_type(floats)

    def encode(self, message: Message[Any], /) -> str | bytes:
        """Make a text frame.

        Raises:
            InvalidPayload: A field cannot be sent; the error names it.
            BinaryNotSupported: The payload is bytes.
        """
        join_ref, ref, topic, event, payload = fields_of(message)
        if isinstance(payload, BYTES):
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
        try:
            if len(frame) > SHALLOW and too_deep(frame):
                raise RecursionError
            return self._made(_decode_v1_fields(frame))
        except UNREADABLE as error:
            return read_leniently(frame, error, _decode_v1_echo, self._made)

    def _made(self, fields: "_V1Fields | Echo | V2Echo") -> Message[Any]:
        event, ref = fields.event, fields.ref
        join_ref = ref if event in (PHX_CLOSE, PHX_ERROR) else None
        return self._message(join_ref=join_ref, ref=ref, topic=fields.topic, event=event, payload=fields.payload)


class V1Server:
    """The server's side of vsn 1.0.0: it reads a join_ref and never sends one.

    The encoding methods raise `InvalidPayload` for a field that cannot be sent (the error names it), and
    `BinaryNotSupported` for bytes.
    """

    vsn = VSN

    def decode(self, frame: str | bytes, /) -> Request:
        """Read JSON, from a binary frame as well.

        Raises:
            InvalidFrame: It is not a request.
        """
        try:
            text = frame if isinstance(frame, str) else frame.decode()
        except UnicodeDecodeError:
            raise InvalidFrame("not UTF-8") from None
        return Request(**msgspec.structs.asdict(decode_request(text, _decode_v1_request)))

    def reply(self, join_ref: Any, ref: Any, topic: Any, status: str, response: Any) -> str | bytes:
        """Answer a request."""
        check_text(topic, PHX_REPLY, "status", status)
        if isinstance(response, BYTES):
            raise BinaryNotSupported(self.vsn)
        return self._object(ref, topic, PHX_REPLY, {"status": status, "response": response})

    def push(self, join_ref: Any, topic: str, event: str, payload: Any, *, ref: Any = None) -> str | bytes:
        """Send to one channel."""
        check_text(topic, event, "event", event)
        return with_object(self._object(ref, topic, event, payload), topic, event, payload)

    def broadcast(self, topic: str, event: str, payload: Any) -> str | bytes:
        """Broadcast on a topic."""
        return self.push(None, topic, event, payload)

    def _object(self, ref: Any, topic: Any, event: str, payload: Any) -> str:
        if isinstance(payload, BYTES):
            raise BinaryNotSupported(self.vsn)
        envelope = {"ref": ref, "topic": topic, "event": event, "payload": payload}
        return to_text(envelope, (ref,), topic, event, payload)


class _V1Fields(msgspec.Struct, gc=False):
    topic: str
    event: str
    payload: msgspec.Raw = NULL
    ref: str | None = None


class _V1Request(Request, frozen=True, array_like=False):
    """An object with the same fields."""


_decode_v1_echo = msgspec.json.Decoder(Echo).decode
_decode_v1_fields = msgspec.json.Decoder(_V1Fields).decode
_decode_v1_request = first_keys_decoder(_V1Request)
