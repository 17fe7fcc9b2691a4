"""If a key comes twice, a Phoenix server takes the first."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto.errors import InvalidFrame
from phx_proto.formats import V1Server, V2Server
from phx_proto.formats.first_keys import first_keys_decoder


def decode(text: str) -> Any:
    return first_keys_decoder(Any)(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"x":1,"x":2}', {"x": 1}),
        ('{"x":1,"\\u0078":2}', {"x": 1}),
        ('{"x" :1,"x"\t:2,"y"\n:3}', {"x": 1, "y": 3}),
        ('{"a\\"x":1,"a\\u0022x":2}', {'a"x': 1}),
        ('[{"x":1},{"x":2}]', [{"x": 1}, {"x": 2}]),
        ('{"x":{"x":1,"x":2},"y":{"x":3}}', {"x": {"x": 1}, "y": {"x": 3}}),
        ('{"x":"\\":","y":"{\\"x\\":1,\\"x\\":2}","x":3}', {"x": '":', "y": '{"x":1,"x":2}'}),
        ('{"0:x":1,"x":2,"":3,"":4}', {"0:x": 1, "x": 2, "": 3}),
        ('"x"', "x"),
    ],
)
def test_the_first_value_counts(text: str, value: Any) -> None:
    assert decode(text) == value


def test_keys_that_come_once_keep_their_order() -> None:
    assert list(decode('{"b":1,"a":2,"c":3}')) == ["b", "a", "c"]


STRINGS = st.text(alphabet='ab":\\{}[], \n\u00e9', max_size=4)
VALUES = st.recursive(
    st.none() | st.integers(-3, 3) | STRINGS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(st.tuples(STRINGS, inner), max_size=4).map(lambda pairs: ("object", pairs))
    ),
    max_leaves=12,
)


def write(value: Any, space: str) -> str:
    if isinstance(value, tuple):
        return "{" + ",".join(f"{json.dumps(key)}{space}:{write(item, space)}" for key, item in value[1]) + "}"
    if isinstance(value, list):
        return "[" + ",".join(write(item, space) for item in value) + "]"
    return json.dumps(value)


def first(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(reversed(pairs))


@given(VALUES, st.sampled_from(["", " ", "\r", "\n\t"]))
@settings(max_examples=2 * settings().max_examples)
def test_it_reads_as_any_reader_that_keeps_the_first(value: Any, space: str) -> None:
    text = write(value, space)
    assert decode(text) == json.loads(text, object_pairs_hook=first)


@pytest.mark.parametrize("text", ["", "{", '{"x":1,"x":}', '{"x":1,"x":2}x'])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(text)


def test_requests_are_read_so_in_both_versions() -> None:
    second = V2Server().decode('["1","2","room:a","shout",{"x":1,"x":2}]')
    assert (second.join_ref, second.ref, second.payload) == ("1", "2", {"x": 1})
    text = '{"topic":"a","topic":"b","event":"e","payload":{"x":1,"x":2},"ref":null,"ref":"2"}'
    for frame in (text, text.encode()):
        older = V1Server().decode(frame)
        assert (older.topic, older.ref, older.payload) == ("a", None, {"x": 1})


@pytest.mark.parametrize("frame", ['[1,1,"a","e"]', '["x",{"x":1,"x":2}]', '{"x":1,"x":2}'])
@pytest.mark.parametrize("serializer", [V1Server(), V2Server()])
def test_what_is_no_request_is_refused(serializer: V1Server | V2Server, frame: str) -> None:
    with pytest.raises(InvalidFrame):
        serializer.decode(frame)
