"""A binary frame that Phoenix does not have: how Supabase Realtime sends a broadcast to a client of vsn 2.0.0.

    0x04, size of topic, size of event, size of metadata, encoding (0: bytes, 1: JSON), topic, event, metadata, payload

Each size is a byte; the metadata is JSON, empty where there is none. Run it to see one read:

    python examples/supabase_broadcast.py
"""

from typing import Any

import msgspec

from phx_proto import V2, Message
from phx_proto.errors import InvalidFrame

USER_BROADCAST = 4
JSON = 1
_HEADER = 5


def read_user_broadcast(frame: bytes) -> Message[Any]:
    """Read one.

    Raises:
        InvalidFrame: It is shorter than its header says. What else goes wrong is told by the serializer.
    """
    _, topic_size, event_size, metadata_size, encoding = frame[:_HEADER]
    event_at = _HEADER + topic_size
    metadata_at = event_at + event_size
    payload_at = metadata_at + metadata_size
    if len(frame) < payload_at:
        raise InvalidFrame(f"a broadcast of {len(frame)} bytes, which is less than its header says")
    payload = frame[payload_at:]
    return Message(
        topic=frame[_HEADER:event_at].decode(),
        event=frame[event_at:metadata_at].decode(),
        payload=msgspec.Raw(payload) if encoding == JSON else payload,  # Raw: decoded when somebody reads it
    )


serializer = V2(binary_kinds={USER_BROADCAST: read_user_broadcast})  # connect(url, serializer=serializer)


if __name__ == "__main__":
    print(serializer.decode(b'\x04\x06\x05\x00\x01room:1shout{"body":"hi"}'))
