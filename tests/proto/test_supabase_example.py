"""V2 with an additional binary kind, as in examples/supabase_broadcast.py."""

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto import V2, Message, Router
from phx_proto.errors import InvalidFrame
from phx_proto.formats import V2Server
from phx_proto.message import PHX_REPLY

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from supabase_broadcast import read_user_broadcast, serializer


def frame(topic: str, event: str, encoding: int, payload: bytes, metadata: bytes = b"") -> bytes:
    fields = topic.encode(), event.encode(), metadata
    return b"".join([bytes([4, *map(len, fields), encoding]), *fields, payload])


@pytest.mark.parametrize("metadata", [b"", b'{"id":"1"}'])
def test_a_broadcast_of_json_and_one_of_bytes_are_read(metadata: bytes) -> None:
    got = serializer.decode(frame("room:é", "shout", 1, b'{"n":1}', metadata))
    assert got == Message(topic="room:é", event="shout", payload={"n": 1})
    assert serializer.decode(frame("t", "e", 0, b"{}", metadata)) == Message(topic="t", event="e", payload=b"{}")


def test_the_frame_of_the_report_is_read() -> None:
    assert serializer.decode(b"\x04\x01\x01\x00\x01te{}") == Message(topic="t", event="e", payload={})


def test_numbers_are_read_as_the_serializer_is_told() -> None:
    exact = V2(floats=Decimal, binary_kinds={4: read_user_broadcast})
    assert exact.decode(frame("t", "e", 1, b"0.10")).payload == Decimal("0.10")


def test_what_a_reader_knows_of_refs_is_kept() -> None:
    message = Message[Any](join_ref="1", ref="2", topic="t", event="e", payload=3)
    for kind in (3, 9, 255):
        assert V2(binary_kinds={kind: lambda frame: message}).decode(bytes([kind])) == message


def test_phoenix_own_kinds_are_read_as_ever() -> None:
    assert serializer.decode(V2Server().broadcast("t", "e", b"!")) == Message(topic="t", event="e", payload=b"!")
    assert serializer.decode(V2Server().reply("1", "2", "t", "ok", b"!")).event == PHX_REPLY


@given(st.binary(max_size=12))
def test_what_is_none_is_an_invalid_frame_and_nothing_else(rest: bytes) -> None:
    try:
        got = serializer.decode(b"\x04" + rest)
    except InvalidFrame:
        return
    assert isinstance(got, Message)


def test_what_a_reader_raises_is_told() -> None:
    with pytest.raises(InvalidFrame, match=r"a binary frame of kind 4, whose reader raised ValueError\('not enough"):
        serializer.decode(b"\x04")
    with pytest.raises(InvalidFrame, match="a broadcast of 5 bytes"):
        serializer.decode(b"\x04\x01\x00\x00\x00")


@pytest.mark.parametrize("kind", [0, 1, 2, -1, 256])
def test_a_kind_that_phoenix_has_or_that_is_no_byte_is_refused(kind: int) -> None:
    with pytest.raises(ValueError, match=rf"numbers from 3 to 255, not {kind}"):
        V2(binary_kinds={kind: read_user_broadcast})


def test_a_typed_handler_gets_it() -> None:
    router = Router()
    handler = router.add(lambda message: None, "e", payload=dict[str, Any])
    assert handler.accept(serializer.decode(frame("t", "e", 1, b'{"n":1}'))).payload == {"n": 1}
