from typing import Any

import pytest
from frames import CLOSE, STREAMS, cuts, frame, pieces, streams, text
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode

from fuzz.as_websockets import LIMIT, Cut, assert_as_websockets
from phx_transports.websocket.cutter import Cutter


@given(streams, cuts, st.booleans(), st.sampled_from([LIMIT, 5, 0, None]))
@settings(max_examples=2 * settings().max_examples)
def test_any_stream_at_any_splits_reads_as_by_websockets(
    stream: bytes, cuts: list[int], compressed: bool, max_size: int | None
) -> None:
    assert_as_websockets(pieces(stream, cuts), compressed=compressed, max_size=max_size)


@given(st.lists(st.tuples(st.booleans(), st.text(max_size=40)), max_size=8), cuts)
@settings(max_examples=settings().max_examples // 2)
def test_compressed_and_plain_messages_come_in_the_order_of_the_wire(
    messages: list[tuple[bool, str]], cuts: list[int]
) -> None:
    deflate: Any = PerMessageDeflate(False, False, 15, 15)
    stream = b"".join(
        Frame(Opcode.TEXT, message.encode()).serialize(mask=False, extensions=[deflate] if compress else None)
        for compress, message in messages
    )
    cut = Cut(compressed=True)
    for read in pieces(stream, cuts):
        cut.feed(read)
    assert cut.messages == [message for _, message in messages]


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_every_split_in_two_reads_as_by_websockets(stream: bytes) -> None:
    for at in range(len(stream) + 1):
        assert_as_websockets([read for read in (stream[:at], stream[at:]) if read])


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_single_bytes_read_as_by_websockets(stream: bytes) -> None:
    assert_as_websockets([bytes([byte]) for byte in stream])


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 100_000])
def test_a_text_frame_of_any_size_is_never_seen_by_the_parser(size: int) -> None:
    cut = Cut(max_size=None)
    assert cut.feed(frame(b"x" * size) * 2) == ["x" * size] * 2
    assert cut.given == []
    assert cut.feed(frame(b"x" * size) + frame(b"a", head=0x01) + frame(b"b", head=0x80)) == ["x" * size, "ab"]


def test_a_large_text_frame_may_come_in_many_reads() -> None:
    cut, message = Cut(max_size=None), "".join(map(str, range(50_000)))
    for read in pieces(frame(message.encode()), [70_000, 140_000]):
        cut.feed(read)
    assert (cut.messages, cut.given) == ([message], [])


def test_a_masked_frame_without_payload_ends_the_stream() -> None:
    cut = Cut()
    assert cut.feed(text("a") + b"\x81\x80mask") == ["a"]
    assert cut.cutter.ended
    assert cut.assembler.problem == str(cut.protocol.parser_exc)


def test_a_frame_at_the_limit_passes_and_one_over_it_is_refused_from_its_header() -> None:
    cut = Cut(max_size=200)
    assert cut.feed(frame(b"x" * 200)) == ["x" * 200]
    cut.feed(frame(size=201))
    assert cut.protocol.close_sent is not None
    assert cut.protocol.close_sent.code == 1009
    assert cut.cutter.ended
    assert cut.assembler.problem == (
        "a message of more than 200 bytes, which is max_size: it has 201 bytes or more; connect with a larger max_size"
    )


@pytest.mark.parametrize(
    ("stream", "code", "reason", "problem"),
    [
        (
            text("a") + frame(b"b\xff") + text("c"),
            1007,
            "invalid start byte at position 1",
            "invalid UTF-8 in a text message: invalid start byte at position 1",
        ),
        (
            text("a") + frame(b"x" * 3, head=0x01) + frame(b"x" * 3, head=0x80) + text("c"),
            1009,
            "a message in fragments of more than 5 bytes",
            None,
        ),
        (
            text("a") + frame(b"xy", head=0x01) + frame(head=0x00) * 1024 + text("c"),
            1008,
            "a message in too many fragments: its first 2 bytes came in 1025",
            None,
        ),
    ],
)
def test_a_message_that_breaks_a_rule_closes_the_connection_and_is_told(
    stream: bytes, code: int, reason: str, problem: str | None
) -> None:
    cut = Cut(max_fragmented=5)
    assert cut.feed(stream) == ["a"]
    assert cut.protocol.close_sent == Close(code, reason)
    assert cut.assembler.problem == (problem or reason)
    assert cut.cutter.ended


@pytest.mark.parametrize(("fragments", "size"), [(1024, 63), (1025, 64), (1026, 128)])
def test_fragments_may_be_many_where_they_bring_enough(fragments: int, size: int) -> None:
    for many, most in ((fragments, True), (fragments + 1, False)):
        cut = Cut(max_size=None)
        cut.feed(frame(b"?", head=0x01) + frame(head=0x80))  # which counts no more
        cut.feed(frame(b"x" * size, head=0x01) + frame(head=0x00) * (many - 1) + frame(head=0x80))
        assert cut.messages == ["?", *(["x" * size] * most)]


def test_a_large_message_in_fragments_of_any_size_comes_where_only_all_are_bounded() -> None:
    cut = Cut(max_fragmented=5)
    assert cut.feed(frame(b"x" * 6, head=0x82) + frame(b"x" * 3, head=0x01) + frame(b"x" * 2, head=0x80)) == [
        b"x" * 6,
        "x" * 5,
    ]


def test_a_message_over_the_limit_is_told_with_the_bytes_of_all_its_fragments() -> None:
    cut = Cut(max_size=200)
    cut.feed(frame(b"x" * 150, head=0x01) + frame(b"x" * 100, head=0x80))
    assert cut.assembler.problem == (
        "a message of more than 200 bytes, which is max_size: it has 250 bytes or more; connect with a larger max_size"
    )


def test_after_the_end_everything_goes_to_the_parser() -> None:
    cut = Cut()
    cut.feed(CLOSE + text("a"))
    assert cut.cutter.ended
    assert cut.feed(text("b")) == []
    assert b"".join(cut.given) == CLOSE + text("a") + text("b")


@pytest.mark.parametrize(
    ("read", "unfinished"),
    [
        (text("a"), False),
        (text("abc")[:-1], True),
        (text("abc")[:1], True),
        (frame(b"x" * 200)[:3], True),
        (frame(b"abc", head=0x82), False),
        (frame(b"abc", head=0x82)[:-1], True),
        (frame(b"a", head=0x01), True),
        (frame(b"a", head=0x01) + frame(b"p", head=0x89), True),
        (frame(b"a", head=0x01) + frame(b"b", head=0x80), False),
        (frame(b"a", head=0x01) + CLOSE, False),
    ],
)
def test_it_knows_whether_a_message_has_begun(read: bytes, unfinished: bool) -> None:
    cut = Cut()
    cut.feed(read)
    assert cut.cutter.unfinished is unfinished


@pytest.mark.parametrize("reads", [1, 2, 3, 8])
def test_after_a_frame_for_the_parser_text_is_cut_again(reads: int) -> None:
    binary = frame(b"\x00" * 20, head=0x82)
    stream, cut = binary + text("a") + text("b"), Cut()
    for read in pieces(stream, [number * 7 for number in range(1, reads)]):
        cut.feed(read)
    assert cut.messages == [b"\x00" * 20, "a", "b"]
    assert b"".join(cut.given) == binary


def test_the_size_of_a_message_in_fragments_is_that_of_all() -> None:
    cut = Cut()
    cut.feed(frame(b"12345", head=0x01) + frame(b"ping", head=0x89) + frame(b"678", head=0x80))
    assert (cut.cutter.size, cut.messages) == (8, ["12345678"])


@pytest.mark.parametrize("opcode", [0x8A, 0x89])
def test_control_frames_in_one_read_with_messages_hold_none_of_them_back(opcode: int) -> None:
    cut = Cut()
    control = frame(b"p", head=opcode)
    cut.feed(frame(b"a", head=0x01) + control + frame(b"b", head=0x80) + frame(b"c", head=0x82) + control)
    assert cut.messages == ["ab", b"c"]
    assert cut.assembler.answered == (2 * 7 if opcode == 0x89 else 0)


def test_binary_messages_are_bytes() -> None:
    (message,) = Cut().feed(frame(b"\x00\x01", head=0x82))
    assert type(message) is bytes


def test_a_message_that_grew_too_large_when_it_was_inflated_tells_that_and_the_limits_name() -> None:
    cut = Cut(max_size=200)
    deflate = PerMessageDeflate(False, False, 15, 15)
    cut.protocol.extensions = [deflate]
    sender = PerMessageDeflate(False, False, 15, 15)
    packed = sender.encode(Frame(Opcode.TEXT, b"x" * 5000))
    cut.feed(frame(bytes(packed.data), head=0xC1))
    assert "more than 200 bytes, which is max_size: it grew so large when it was inflated" in cut.assembler.problem


def test_a_message_of_exactly_the_largest_size_may_come_in_two_reads() -> None:
    cutter = Cutter(lambda data, messages: False, max_size=5)
    assert cutter.cut(b"\x81\x05he") == []
    assert cutter.cut(b"llo") == ["hello"]
    assert not cutter.ended
