"""A serializer of one's own: the five fields of a message as a MessagePack array, in binary frames.

Phoenix lets a socket name its serializers (`serializer: [{MyApp.MessagePackSerializer, "~> 3.0.0"}]`); the client then
asks for that version. What a serializer owes the rest of the library is all here: `vsn`, `encode`, and a `decode` that
raises `InvalidFrame` and nothing else. It may hand payloads over decoded, and bytes at any depth.

    client = await connect("wss://example.com/socket", serializer=MessagePackSerializer())
"""

from typing import Any

import msgspec

from phx_proto.errors import InvalidFrame, InvalidPayload
from phx_proto.message import Message
from phx_transports.extras import needs

with needs("msgpack", extra="msgpack", user="this example"):
    import msgpack  # type: ignore[import-untyped, unused-ignore]

Fields = tuple[str | None, str | None, str, str, Any]


class MessagePackSerializer:
    vsn = "3.0.0"

    def encode(self, message: Message[Any], /) -> bytes:
        fields = (message.join_ref, message.ref, message.topic, message.event, message.payload)
        try:
            return bytes(msgpack.packb(fields))
        except (TypeError, ValueError, OverflowError) as error:
            problem = f"cannot be packed: {error}"
            raise InvalidPayload(message.topic, message.event, "payload", problem) from error

    def decode(self, frame: str | bytes, /) -> Message[Any]:
        if isinstance(frame, str):
            raise InvalidFrame("a text frame, which this serializer does not have")
        try:
            join_ref, ref, topic, event, payload = msgspec.convert(msgpack.unpackb(frame), Fields)
        except ValueError as error:
            raise InvalidFrame(f"not a message: {type(error).__name__}") from error
        return Message(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)
