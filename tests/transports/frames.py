"""Frames of a server, valid and invalid, for tests of parsers."""

from base64 import b64encode
from collections.abc import Iterable
from hashlib import sha1
from itertools import pairwise

from hypothesis import strategies as st

from fuzz.as_websockets import LIMIT

__all__ = ["CLOSE", "LIMIT", "STREAMS", "accepted", "cuts", "frame", "pieces", "streams", "text"]


def frame(data: bytes = b"", *, head: int = 0x81, mask: bool = False, size: int | None = None) -> bytes:
    """A frame as a server would send it, or, on demand, as it must not."""
    size = len(data) if size is None else size
    bit = 0x80 if mask else 0
    if size < 126:
        start = bytes([head, bit | size])
    elif size < 1 << 16:
        start = bytes([head, bit | 126]) + size.to_bytes(2, "big")
    else:
        start = bytes([head, bit | 127]) + size.to_bytes(8, "big")
    return start + (bytes(4) if mask else b"") + data


def text(message: str) -> bytes:
    return frame(message.encode())


def accepted(request: bytes, *more: str) -> bytes:
    """The answer that opens a WebSocket, to this request for one."""
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = b64encode(sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", *more]
    return "\r\n".join([*lines, f"Sec-WebSocket-Accept: {accept}", "", ""]).encode()


CLOSE = frame((1001).to_bytes(2, "big") + b"bye", head=0x88)


def pieces(stream: bytes, cuts: Iterable[int]) -> list[bytes]:
    borders = [0, *sorted({cut % (len(stream) + 1) for cut in cuts}), len(stream)]
    return [stream[a:b] for a, b in pairwise(borders) if a < b]


HEADS = bytes.fromhex("81 01 82 02 80 00 89 8a 88 09 08 c1 41 c0 91 a2 83 8b 0f")
payloads = st.one_of(
    st.binary(max_size=8),
    st.text(max_size=20).map(str.encode),
    st.integers(120, LIMIT + 3).map(lambda size: b"x" * size),
    st.sampled_from([b"", b"\xff", b"\xc3", b"\xa9", b"\x03\xe8", b"\x03\xe8bye", b"\x03\xed", b"\x03"]),
)
good_frames = st.one_of(
    st.text(max_size=20).map(text),
    st.integers(120, LIMIT).map(lambda size: frame(b"y" * size)),
    st.binary(max_size=20).map(lambda data: frame(data, head=0x82)),
    st.binary(max_size=125).map(lambda data: frame(data, head=0x89)),
    st.just(frame("é".encode()[:1], head=0x01) + frame(b"p", head=0x89) + frame("é".encode()[1:], head=0x80)),
)
any_frames = st.one_of(
    good_frames,
    st.builds(frame, payloads, head=st.sampled_from(list(HEADS)), mask=st.booleans() | st.just(False)),
    st.builds(frame, st.just(b"z" * 5), size=st.sampled_from([4, 6, LIMIT + 1, 1 << 17, 1 << 63])),
    st.binary(max_size=12),
)
streams = st.builds(
    lambda good, rest: b"".join(good + rest), st.lists(good_frames, max_size=5), st.lists(any_frames, max_size=5)
)
cuts = st.lists(st.integers(0, 1 << 16), max_size=8)

STREAMS = {
    "texts": text("a") + text("") + text("é" * 70) + text("b"),
    "mixed": text("a") + frame(b"\x00\xff", head=0x82) + text("b") + frame(b"ping", head=0x89) + text("c"),
    "fragments": frame(b"a", head=0x01) + text("x") + frame(b"b", head=0x80) + text("c"),
    "ping in a message": frame(b"a", head=0x01) + frame(b"p", head=0x89) + frame(b"b", head=0x80) + text("c"),
    "close": text("a") + CLOSE + text("b"),
    "empty close": text("a") + frame(head=0x88) + text("b"),
    "bad close": text("a") + frame(b"\x03\xed", head=0x88) + text("b"),
    "masked": text("a") + frame(b"b", mask=True) + text("c"),
    "reserved opcode": text("a") + frame(b"b", head=0x83) + text("c"),
    "reserved opcode, long": text("a") + frame(b"b" * 130, head=0x83),
    "reserved bit": text("a") + frame(b"b", head=0xA1) + text("c"),
    "unexpected compression": text("a") + frame(b"b", head=0xC1) + text("c"),
    "long ping": text("a") + frame(b"b" * 126, head=0x89) + text("c"),
    "invalid UTF-8": text("a") + frame(b"\xc3") + text("c"),
    "invalid UTF-8 in fragments": text("a") + frame(b"\xc3", head=0x01) + frame(b"\xc3", head=0x80) + text("c"),
    "too long": text("a") + frame(b"b" * (LIMIT + 1)) + text("c"),
    "too long in fragments": frame(b"b" * LIMIT, head=0x01) + frame(b"b", head=0x80) + text("c"),
    "too long binary": text("a") + frame(b"b" * (LIMIT + 1), head=0x82) + text("c"),
}
