"""Limits of JSON: nesting up to a bound of our own, on every Python; half characters; numbers out of range."""

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.errors import InvalidFrame, InvalidPayload
from phx_proto.formats import V1, V2, Serializer, ServerSerializer, V1Server, V2Server
from phx_proto.formats.soundness import MAX_DEPTH, describe, too_deep, without_lone_surrogates
from phx_proto.message import Message

V2_FORM = '[null,null,"t","e",%s]'
V1_FORM = '{"topic":"t","event":"e","payload":%s,"ref":null}'

READERS: list[tuple[Serializer | ServerSerializer, str]] = [
    (V2(), V2_FORM),
    (V2Server(), V2_FORM),
    (V1(), V1_FORM),
    (V1Server(), V1_FORM),
]
each_reader = pytest.mark.parametrize(("reader", "form"), READERS, ids=["v2", "v2 server", "v1", "v1 server"])

each_shape = pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('["]",{"}":', "}]")])


def nested(depth: int) -> Any:
    value: Any = 1
    for level in range(depth):
        value = [value] if level % 2 else {"a": value}
    return value


def levels(opening: str, closing: str, depth: int) -> str:
    each = opening.count("[") + opening.count('{"')
    return opening * (depth // each) + "1" + closing * (depth // each)


# ---- nesting --------------------------------------------------------------------------------------------------------


def test_the_bound_is_exact_where_text_holds_half_characters() -> None:
    for depth in (MAX_DEPTH, MAX_DEPTH + 1):
        assert too_deep("[" * depth + '"\ud800["' + "]" * depth) is (depth > MAX_DEPTH)


@each_reader
@each_shape
def test_a_payload_as_deep_as_may_be_is_read(
    reader: Serializer | ServerSerializer, form: str, opening: str, closing: str
) -> None:
    assert reader.decode(form % levels(opening, closing, MAX_DEPTH - 2)).payload


@each_reader
@each_shape
@pytest.mark.parametrize("depth", [MAX_DEPTH + 2, 1000, 10_000, 100_000])
@pytest.mark.parametrize("cut", [None, -3], ids=["whole", "cut short"])
def test_one_that_is_deeper_is_not(
    reader: Serializer | ServerSerializer, form: str, opening: str, closing: str, depth: int, cut: int | None
) -> None:
    with pytest.raises(InvalidFrame, match="nested too deeply"):
        reader.decode((form % levels(opening, closing, depth))[:cut])


ENCODERS: list[Callable[[Any], object]] = [
    lambda payload: V2().encode(Message(topic="t", event="e", payload=payload)),
    lambda payload: V1().encode(Message(topic="t", event="e", payload=payload)),
    lambda payload: V2Server().push("1", "t", "e", payload),
    lambda payload: V2Server().broadcast("t", "e", payload),
    lambda payload: V1Server().push(None, "t", "e", payload),
    lambda payload: V1Server().broadcast("t", "e", payload),
]
each_encoder = pytest.mark.parametrize("encode", ENCODERS)


@each_encoder
def test_what_is_sent_has_the_same_bound(encode: Callable[[Any], object]) -> None:
    assert encode(nested(MAX_DEPTH - 1))
    for depth in (MAX_DEPTH, 400, 1000, 50_000):
        with pytest.raises(InvalidPayload, match="payload is nested too deeply"):
            encode(nested(depth))


def test_a_long_frame_is_not_a_deep_one() -> None:
    rows = [{"id": number, "tags": ["[[[", '{"\\', ["]"]]} for number in range(1000)]
    assert V2().decode(V2Server().push("1", "t", "e", {"rows": rows})).payload == {"rows": rows}
    assert V2().decode(V2_FORM % json.dumps("[" * 1000)).payload == "[" * 1000


JSON = st.recursive(
    st.none() | st.integers() | st.text('[]{}"\\ a\u00e9', max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('[]{}"\\', max_size=3), inner, max_size=3),
    max_leaves=20,
)


def depth_of(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None else 1 + max(map(depth_of, items), default=0)


@given(JSON, st.integers(MAX_DEPTH - 6, MAX_DEPTH), st.booleans())
def test_the_bound_is_exact_whatever_strings_hold(value: Any, around: int, ascii_only: bool) -> None:
    text = "[" * around + json.dumps(value, ensure_ascii=ascii_only) + "]" * around
    assert too_deep(text) is (around + depth_of(value) > MAX_DEPTH)


# ---- half characters ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        (r'"\ud83d"', r'"\ufffd"'),
        (r'"\uDC00\uD83D"', r'"\ufffd\ufffd"'),
        (r'"\ud83d\ude00"', r'"\ud83d\ude00"'),
        (r'"\ud83d\ud83d\ude00"', r'"\ufffd\ud83d\ude00"'),
        (r'"\\ud83d"', r'"\\ud83d"'),
        (r'"\\\ud83d\n"', r'"\\\ufffd\n"'),
        (r'"\u00e9\ud8"', r'"\u00e9\ud8"'),
        ("\\", "\\"),
        ("", ""),
    ],
)
def test_an_escape_that_is_half_a_character_is_replaced(text: str, mended: str) -> None:
    assert without_lone_surrogates(text) == mended


@pytest.mark.parametrize(("client", "form"), [(V2(), V2_FORM), (V1(), V1_FORM)], ids=["v2", "v1"])
@given(text=st.text(st.characters(), max_size=6), key=st.text(st.characters(), max_size=3))
def test_a_message_with_half_characters_comes(client: Serializer, form: str, text: str, key: str) -> None:
    payload = client.decode(form % json.dumps({key: [text]})).payload
    sound = {key.encode("utf-16", "surrogatepass").decode("utf-16", "replace"): 0}
    assert len(payload) == len(sound)
    ((read,),) = payload.values()
    assert "\ufffd" in read or read == text


@pytest.mark.parametrize(
    "frame",
    [
        r'["\ud83d","\ud83d","t","e",1]',
        r'[null,null,"\ud83d","e",1]',
        r'[null,null,"t","\ud83d",1]',
        r'["\ud83d",5,"t","e",1]',
    ],
)
def test_half_characters_elsewhere_do_not_cost_the_message_either(frame: str) -> None:
    got = V2().decode(frame)
    assert "\ufffd" in (got.join_ref, got.ref, got.topic, got.event)
    assert got.payload == 1


@pytest.mark.parametrize(("server", "form"), [(V2Server(), V2_FORM), (V1Server(), V1_FORM)], ids=["v2", "v1"])
def test_a_server_refuses_them_as_a_real_one_does(server: ServerSerializer, form: str) -> None:
    with pytest.raises(InvalidFrame):
        server.decode(form % r'"\ud83d"')


# ---- numbers and errors ---------------------------------------------------------------------------------------------


def test_what_some_releases_of_msgspec_raise_for_a_number_out_of_range_is_told_in_words() -> None:
    assert describe(SystemError("error return without exception set")) == "a number out of range"
    assert describe(RecursionError()) == "nested too deeply"
    assert describe(msgspec.DecodeError("JSON is malformed")) == "JSON is malformed"


likely = st.sampled_from(
    [
        "[",
        "]",
        "{",
        "}",
        ",",
        ":",
        '"',
        "null",
        '"t"',
        '"phx_reply"',
        '"status"',
        "1e400",
        "1" * 400,
        "-0",
        "\\",
        "\\ud83d",
    ]
)


@each_reader
@given(parts=st.lists(likely | st.text(max_size=2), max_size=12), payload=st.booleans())
def test_nothing_but_invalid_frame_leaves_a_serializer(
    reader: Serializer | ServerSerializer, form: str, parts: list[str], payload: bool
) -> None:
    text = "".join(parts)
    with suppress(InvalidFrame):
        reader.decode(form % text if payload else text)
