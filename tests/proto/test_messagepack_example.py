"""The worked example of a user's own serializer keeps the contract of `Serializer`."""

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.errors import InvalidFrame, InvalidPayload
from phx_proto.formats import Serializer, decode_reply
from phx_proto.message import Message, Reply

if not os.environ.get("CI"):
    pytest.importorskip("msgpack", reason="the example needs the msgpack package (in CI it must be there)")

import msgpack  # type: ignore[import-untyped, unused-ignore]

EXAMPLE = Path(__file__).parents[2] / "examples" / "messagepack_serializer.py"


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("messagepack_serializer", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SERIALIZER: Serializer = load_example().MessagePackSerializer()

texts = st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | texts | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)


@given(st.none() | texts, st.none() | texts, texts, texts, values)
def test_any_message_survives_the_way_there_and_back(
    join_ref: str | None, ref: str | None, topic: str, event: str, payload: object
) -> None:
    message: Message[Any] = Message(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)
    assert SERIALIZER.decode(SERIALIZER.encode(message)) == message


@given(st.binary() | st.text())
def test_an_arbitrary_frame_raises_nothing_but_invalid_frame(frame: str | bytes) -> None:
    try:
        SERIALIZER.decode(frame)
    except InvalidFrame:
        return


@pytest.mark.parametrize(
    "frame",
    [
        "[]",
        b"",
        b"\xc1",
        msgpack.packb([None, None, "t", "e"]),
        msgpack.packb([None, None, 5, "e", {}]),
        b"\x91" * 5000,
        b"\x95\xc0\xc0\xa1t\xa1\xff\xc0",
    ],
)
def test_what_is_no_message_is_an_invalid_frame(frame: str | bytes) -> None:
    with pytest.raises(InvalidFrame):
        SERIALIZER.decode(frame)


@pytest.mark.parametrize("payload", [{"a": object()}, 2**70, "\ud800"])
def test_what_cannot_be_packed_is_refused_at_the_call(payload: object) -> None:
    message: Message[Any] = Message(topic="room:1", event="shout", payload=payload)
    with pytest.raises(InvalidPayload, match=r"event 'shout' on topic 'room:1': payload cannot be packed"):
        SERIALIZER.encode(message)


def test_a_reply_that_comes_decoded_is_read_like_any_other() -> None:
    frame = msgpack.packb(["1", "2", "room:1", "phx_reply", {"status": "ok", "response": {"data": b"\x00"}}])
    assert decode_reply(SERIALIZER.decode(frame)) == Reply("ok", {"data": b"\x00"})


def test_a_reply_without_a_status_is_an_invalid_frame() -> None:
    frame = msgpack.packb(["1", "2", "room:1", "phx_reply", {"response": {}}])
    with pytest.raises(InvalidFrame, match="status"):
        decode_reply(SERIALIZER.decode(frame))
