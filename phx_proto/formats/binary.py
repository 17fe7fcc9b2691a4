"""V2's binary frames, for payloads of bytes.

A frame is one byte for its kind, one byte for the size of each field in UTF-8, the fields, then the data. The fields of
a kind depend on the sender, so there is a table for each side. A field that a message does not have is empty.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from ..errors import FieldTooLong, InvalidFrame, InvalidPayload
from ..message import PHX_REPLY
from .text import LONE_SURROGATE

PUSH: Final = 0
REPLY: Final = 1
BROADCAST: Final = 2

#: The fields of each kind, in the order of the wire.
Layouts: TypeAlias = Mapping[int, tuple[str, ...]]

CLIENT_SENDS: Final[Layouts] = {PUSH: ("join_ref", "ref", "topic", "event")}
SERVER_SENDS: Final[Layouts] = {
    PUSH: ("join_ref", "topic", "event"),
    REPLY: ("join_ref", "ref", "topic", "status"),
    BROADCAST: ("topic", "event"),
}

_LONGEST = 255


def pack(layouts: Layouts, kind: int, fields: tuple[str, ...], data: bytes | bytearray | memoryview) -> bytes:
    r"""Make a frame.

    Args:
        layouts: The kinds that this side may send.
        kind: The kind.
        fields: The fields' values, in the layout's order.
        data: The payload.

    Raises:
        FieldTooLong: A field has over 255 bytes.
        InvalidPayload: A field has a lone surrogate.

    >>> pack(SERVER_SENDS, BROADCAST, ("room:1", "tick"), b"!")
    b'\x02\x06\x04room:1tick!'
    """
    try:
        encoded = [value.encode() for value in fields]
        return b"".join([bytes([kind, *map(len, encoded)]), *encoded, bytes(data)])
    except ValueError as error:
        raise _refusal(dict(zip(layouts[kind], fields, strict=True))) from error


def unpack(layouts: Layouts, frame: bytes) -> tuple[int, list[str], bytes]:
    """Take a frame apart.

    Args:
        layouts: The kinds that the other side may send.
        frame: The whole frame.

    Returns:
        The kind, the values of its fields, and the data.

    Raises:
        InvalidFrame: The other side may not send the kind, the frame is shorter than its header says, or a field
            is not UTF-8.
    """
    if not frame:
        raise InvalidFrame("a binary frame without a byte")
    kind = frame[0]
    names = layouts.get(kind)
    if names is None:
        raise InvalidFrame(f"a binary frame of kind {kind}, which is none of {sorted(layouts)}")
    start = 1 + len(names)
    sizes = frame[1:start]
    data = start + sum(sizes)
    if len(sizes) < len(names) or len(frame) < data:
        raise InvalidFrame(f"a binary frame of {len(frame)} bytes, which is less than its header says")
    fields: list[str] = []
    for size in sizes:
        try:
            fields.append(frame[start : start + size].decode())
        except UnicodeDecodeError:
            raise InvalidFrame(f"a binary frame whose {names[len(fields)]} is not UTF-8") from None
        start += size
    return kind, fields, frame[data:]


def _refusal(fields: dict[str, str]) -> FieldTooLong | InvalidPayload:
    sizes = {name: len(value.encode(errors="surrogatepass")) for name, value in fields.items()}
    name = max(sizes, key=sizes.__getitem__)
    if sizes[name] > _LONGEST:
        return FieldTooLong(name, sizes[name])
    faulty = next(name for name, value in fields.items() if not _is_text(value))
    return InvalidPayload(fields["topic"], fields.get("event", PHX_REPLY), faulty, LONE_SURROGATE)


def _is_text(value: str) -> bool:
    return value.encode(errors="replace").decode() == value
