"""Serializers: the forms on the wire, and frames of which none breaks a decoder."""

import enum
import json
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.errors import InvalidFrame
from phx_proto.formats import (
    V1,
    V2,
    Request,
    Serializer,
    ServerSerializer,
    V1Server,
    V2Server,
    decode_reply,
)
from phx_proto.message import Message, Reply

CLIENTS: list[Serializer] = [V1(), V2()]
SERVERS: list[ServerSerializer] = [V1Server(), V2Server()]

each_client = pytest.mark.parametrize("client", CLIENTS, ids=["v1", "v2"])
each_server = pytest.mark.parametrize("server", SERVERS, ids=["v1", "v2"])

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=12,
)


def message(payload: Any, *, topic: str = "room:lobby", event: str = "shout") -> Message[Any]:
    return Message(join_ref="1", ref="2", topic=topic, event=event, payload=payload)


def fields(message: Message[Any]) -> tuple[Any, ...]:
    return message.join_ref, message.ref, message.topic, message.event, message.payload


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


# ---- the forms -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "frame"),
    [
        (V2().encode(message({"a": 1})), '["1","2","room:lobby","shout",{"a":1}]'),
        (
            V2().encode(Message(ref="2", topic="phoenix", event="heartbeat", payload={})),
            '[null,"2","phoenix","heartbeat",{}]',
        ),
        (
            V1().encode(message({"a": 1})),
            '{"join_ref":"1","ref":"2","topic":"room:lobby","event":"shout","payload":{"a":1}}',
        ),
        (
            V1().encode(Message(ref="2", topic="phoenix", event="heartbeat", payload={})),
            '{"join_ref":null,"ref":"2","topic":"phoenix","event":"heartbeat","payload":{}}',
        ),
        (V2().encode(message(b"\x00\xff", topic="é", event="e")), b"\x00\x01\x01\x02\x0112\xc3\xa9e\x00\xff"),
        (V2().encode(message(b"")), b"\x00\x01\x01\x0a\x0512room:lobbyshout"),
        (V2().encode(Message(topic="t", event="e", payload=b"x")), b"\x00\x00\x00\x01\x01tex"),
        (V2Server().push("1", "t", "e", b"x"), b"\x00\x01\x01\x011tex"),
        (V2Server().push("1", "t", "phx_close", {}, ref="1"), '["1","1","t","phx_close",{}]'),
        (V2Server().reply("1", "2", "t", "ok", b"x"), b"\x01\x01\x01\x01\x0212tokx"),
        (V2Server().reply(None, None, "t", "ok", b"x"), b"\x01\x00\x00\x01\x02tokx"),
        (V2Server().broadcast("t", "e", b"x"), b"\x02\x01\x01tex"),
        (V2Server().broadcast("t", "e", {}), '[null,null,"t","e",{}]'),
        (V1Server().push("1", "t", "e", {}), '{"ref":null,"topic":"t","event":"e","payload":{}}'),
        (
            V1Server().push("1", "t", "phx_close", {}, ref="1"),
            '{"ref":"1","topic":"t","event":"phx_close","payload":{}}',
        ),
        (
            V1Server().reply("1", 2, "t", "ok", {}),
            '{"ref":2,"topic":"t","event":"phx_reply","payload":{"status":"ok","response":{}}}',
        ),
    ],
)
def test_the_form_on_the_wire(made: str | bytes, frame: str | bytes) -> None:
    assert made == frame


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_kind_of_bytes_makes_a_binary_message(kind: Callable[[bytes], Any]) -> None:
    assert V2().encode(message(kind(b"abc"))) == V2().encode(message(b"abc"))


def test_a_memoryview_with_gaps_is_sent_as_what_it_shows() -> None:
    assert V2().encode(message(memoryview(b"a-b-c")[::2])) == V2().encode(message(b"abc"))


class Colour(enum.Enum):
    RED = "red"


class Row(msgspec.Struct, rename="camel"):
    unit_price: Any


@dataclass
class Cell:
    value: Any


@pytest.mark.parametrize(
    ("payload", "encoded"),
    [
        (10**40, str(10**40)),
        (-(2**64), str(-(2**64))),
        (Row(1), '{"unitPrice":1}'),
        (Cell(None), '{"value":null}'),
        (Decimal("1.10"), '"1.10"'),
        (Decimal("NaN"), '"NaN"'),
        (datetime(2026, 11, 22, tzinfo=UTC), '"2026-11-22T00:00:00Z"'),
        (uuid.UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
        (Colour.RED, '"red"'),
        ({"data": b"ab"}, '{"data":"YWI="}'),
        ((1, (2,)), "[1,[2]]"),
        ({1: None, 2.5: "null"}, '{"1":null,"2.5":"null"}'),
        ("null", '"null"'),
        ({"nan": 1, "inf": 2, "-inf": 3}, '{"nan":1,"inf":2,"-inf":3}'),
        (msgspec.Raw(b'{"as":  "is"}'), '{"as":  "is"}'),
        ({"inner": msgspec.Raw(b"null")}, '{"inner":null}'),
        (Row(msgspec.Raw(b"[null]")), '{"unitPrice":[null]}'),
        ([Cell(Decimal("1.5")), None, True, 2.0], '[{"value":"1.5"},null,true,2.0]'),
        ("\x00\U0001f389", '"\\u0000\U0001f389"'),
    ],
)
def test_a_payload_is_encoded_as_msgspec_does(payload: Any, encoded: str) -> None:
    assert V2().encode(message(payload)) == f'["1","2","room:lobby","shout",{encoded}]'


def test_a_deep_payload_with_a_null_in_it_is_sent() -> None:
    payload = {"deep": nested(150), "nothing": None}
    assert fields(V2().decode(V2().encode(message(payload))))[4] == payload


def test_a_received_message_can_be_sent_on_undecoded() -> None:
    received = V2().decode('["1","2","t","e",{"a":1.10}]')
    assert V2().encode(received) == '["1","2","t","e",{"a":1.10}]'


# ---- reading what comes from a server --------------------------------------------------------------------------------


def test_a_payload_from_a_text_frame_is_left_raw() -> None:
    for got in (V2().decode('["1","2","t","e",{}]'), V1().decode('{"topic":"t","event":"e","payload":{},"ref":null}')):
        assert isinstance(got.undecoded, msgspec.Raw)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ('["1","2","t","e",{},"more",{}]', ("1", "2", "t", "e", {})),
        (' [ null , null , "t" , "e" , [ 1 ] ] \n', (None, None, "t", "e", [1])),
        (f'[null,null,"t","e",{10**40}]', (None, None, "t", "e", 10**40)),
        (b"\x00\x00\x01\x01te", (None, None, "t", "e", b"")),
        (b"\x01\x00\x01\x01\x021tok\x00", (None, "1", "t", "phx_reply", Reply("ok", b"\x00"))),
        (b"\x02\x00\x00", (None, None, "", "", b"")),
    ],
)
def test_v2_reads(frame: str | bytes, expected: tuple[Any, ...]) -> None:
    assert fields(V2().decode(frame)) == expected


@pytest.mark.parametrize("event", ["phx_close", "phx_error"])
@pytest.mark.parametrize("ref", ["4", None])
def test_v1_gives_the_join_that_ended_as_the_join_ref(event: str, ref: str | None) -> None:
    got = V1().decode(V1Server().push("4", "t", event, {}, ref=ref))
    assert (got.join_ref, got.ref) == (ref, ref)


def test_v1_takes_the_ref_of_a_reply_for_nothing_else() -> None:
    assert V1().decode(V1Server().reply("1", "2", "t", "ok", {})).join_ref is None


BAD_FOR_ALL = ["", "nul", "{not json", "null", "123", '"str"', "[" * 100_000, "{}", "[]", '["\ud800"]', "\ud800"]

BAD_V2_TEXT = [
    *BAD_FOR_ALL,
    '["1"]',
    '["1","2","t","e"]',
    '["1","2","t","e",{}] xyz',
    '["1","2","t","e",NaN]',
    '["1","2","t","e",{"x":nan}]',
    '["1","2","t","e",' + "[" * 100_000 + "]" * 100_000 + "]",
    '{"topic":"t","event":"e","payload":{},"ref":"2"}',
]
BAD_V1_TEXT = [
    *BAD_FOR_ALL,
    '["1","2","t","e",{}]',
    '{"event":"e","payload":{},"ref":"2"}',
    '{"topic":"t","payload":{},"ref":"2"}',
    '{"topic":"t","event":"e","payload":NaN,"ref":"2"}',
]
BAD_BINARY = [
    b"",
    b"\x00",
    b"\xff" * 10,
    b"\x03\x01\x01\x0a\x0812room:lobbybin_echo",
    b'["1","2","t","e",{}]',
]
BAD_FOR_CLIENT: list[tuple[Serializer, str | bytes]] = [
    *((V2(), frame) for frame in BAD_V2_TEXT),
    *((V1(), frame) for frame in BAD_V1_TEXT),
    *((client, frame) for client in CLIENTS for frame in BAD_BINARY),
    (V2(), '["1","2",null,"e",{}]'),
    (V2(), '["1","2","t",5,{}]'),
    (V2(), b"\x00\x01\x01\x021te"),
    (V2(), b"\x01\x01\x01\x01\x0212t"),
    (V2(), b"\x02\x01\x01t"),
    (V2(), b"\x02\x01"),
    (V2(), b"\x02\x01\x01\xffe"),
    (V1(), '{"topic":null,"event":"e","payload":{},"ref":"2"}'),
    (V1(), b'{"topic":"t","event":"e","payload":{},"ref":"2"}'),
    (V1(), b"\x02\x01\x01te"),
]


@pytest.mark.parametrize(("client", "frame"), BAD_FOR_CLIENT, ids=range(len(BAD_FOR_CLIENT)))
def test_a_client_takes_no_such_frame(client: Serializer, frame: str | bytes) -> None:
    with pytest.raises(InvalidFrame) as caught:
        client.decode(frame)
    assert 0 < len(str(caught.value)) < 100


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ('["1","2","t","e"]', "Expected `array` of at least length 5, got 4"),
        ('["1","2",5,"e",{}]', "Expected `str`, got `int` - at `$[2]`"),
        ('["1","2","t","e",' + "[" * 100_000, "nested too deeply"),
        ("\ud800", "not UTF-8"),
        (b"", "a binary frame without a byte"),
        (b"[]", "a binary frame of kind 91, which is none of [0, 1, 2]"),
        (b"\x02\x01\x01t", "a binary frame of 4 bytes, which is less than its header says"),
        (b"\x02\x01\x01t\xff", "a binary frame whose event is not UTF-8"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_frame(frame: str | bytes, problem: str) -> None:
    with pytest.raises(InvalidFrame) as caught:
        V2().decode(frame)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("frame", "problem"),
    [
        ('{"topic":"t","payload":{}}', "Object missing required field `event`"),
        ('{"topic":5,"event":"e","payload":{},"ref":"2"}', "Expected `str`, got `int` - at `$.topic`"),
        ('{"topic":"t","event":"e","payload":' + "[" * 100_000, "nested too deeply"),
        ("\ud800", "not UTF-8"),
        (b"{}", "a binary frame, which vsn 1.0.0 does not have"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_frame_of_v1(frame: str | bytes, problem: str) -> None:
    with pytest.raises(InvalidFrame) as caught:
        V1().decode(frame)
    assert str(caught.value) == problem


frames = st.text() | st.binary() | values.map(json.dumps) | st.text(st.characters())


@each_client
@given(frame=frames)
def test_an_arbitrary_frame_raises_nothing_but_invalid_frame_on_a_client(
    client: Serializer, frame: str | bytes
) -> None:
    try:
        got = client.decode(frame)
    except InvalidFrame:
        return
    assert isinstance(got, Message)


@given(st.tuples(st.integers(0, 3), st.lists(st.integers(0, 6), max_size=4), st.binary(max_size=12)))
def test_an_arbitrary_binary_frame_with_a_likely_header_raises_nothing_but_invalid_frame(
    parts: tuple[int, list[int], bytes],
) -> None:
    kind, sizes, rest = parts
    frame = bytes([kind, *sizes]) + rest
    for decode in (V2().decode, V2Server().decode):
        try:
            decode(frame)
        except InvalidFrame:
            continue


# ---- decimals --------------------------------------------------------------------------------------------------------


each_exact_frame = pytest.mark.parametrize(
    ("client", "form"),
    [
        (V2(floats=Decimal), '["1","2","t","phx_reply",%s]'),
        (V1(floats=Decimal), '{"topic":"t","event":"phx_reply","payload":%s,"ref":"2"}'),
    ],
    ids=["v2", "v1"],
)


@each_exact_frame
def test_decimals_keep_every_digit(client: Serializer, form: str) -> None:
    got = client.decode(form % '{"price":1.10,"big":1e999,"n":3}')
    assert got.payload == {"price": Decimal("1.10"), "big": Decimal("1e999"), "n": 3}
    assert str(got.payload["price"]) == "1.10"
    assert isinstance(got.payload["n"], int)


@each_exact_frame
def test_a_reply_has_decimals_too(client: Serializer, form: str) -> None:
    reply = decode_reply(client.decode(form % '{"status":"ok","response":[0.1]}'))
    assert reply.response == [Decimal("0.1")]


@each_exact_frame
def test_a_number_that_no_decimal_holds_is_like_any_payload_that_is_not_sound(client: Serializer, form: str) -> None:
    got = client.decode(form % f"1e{'9' * 30}")
    with pytest.raises(msgspec.DecodeError, match=r"^Number out of range$"):
        _ = got.payload
    with pytest.raises(InvalidFrame):
        decode_reply(got)


def test_floats_are_floats_unless_asked() -> None:
    assert isinstance(V2().decode('["1","2","t","e",1.5]').payload, float)
    assert isinstance(V2(floats=Decimal).decode('["1","2","t","e",1.5]').payload, Decimal)


# ---- replies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "reply"),
    [
        ('{"status":"ok","response":{"a":[1]}}', Reply("ok", {"a": [1]})),
        ('{"response":5,"status":"maybe","more":1}', Reply("maybe", 5)),
        ('{"status":"error"}', Reply("error", None)),
    ],
)
def test_a_reply_is_a_status_and_a_response(payload: str, reply: Reply) -> None:
    assert decode_reply(V2().decode(f'["1","2","t","phx_reply",{payload}]')) == reply


@pytest.mark.parametrize(
    "payload",
    ["null", "[]", '"ok"', "{}", '{"response":{}}', '{"status":5,"response":{}}', '{"status":"ok","response":1e999}'],
)
def test_a_reply_without_a_sound_status_and_response_is_an_invalid_frame(payload: str) -> None:
    with pytest.raises(InvalidFrame):
        decode_reply(V2().decode(f'["1","2","t","phx_reply",{payload}]'))


def test_a_reply_nested_too_deeply_is_an_invalid_frame() -> None:
    payload = msgspec.Raw(b"[" * 100_000 + b"]" * 100_000)
    with pytest.raises(InvalidFrame, match="nested too deeply"):
        decode_reply(Message(topic="t", event="phx_reply", payload=payload))


@pytest.mark.parametrize("payload", [{"status": "ok", "response": b"\x00"}, Reply("ok", b"\x00")])
def test_a_reply_may_come_decoded(payload: Any) -> None:
    assert decode_reply(Message(topic="t", event="phx_reply", payload=payload)) == Reply("ok", b"\x00")


@each_exact_frame
def test_the_response_of_an_ok_reply_can_be_left_as_it_came(client: Serializer, form: str) -> None:
    reply = decode_reply(client.decode(form % '{"status":"ok","response":[0.10]}'), raw=True)
    assert (reply.status, bytes(reply.response.undecoded)) == ("ok", b"[0.10]")
    assert str(reply.response.payload) == "[Decimal('0.10')]"
    error = decode_reply(client.decode(form % '{"status":"error","response":[0.10]}'), raw=True)
    assert str(error.response) == "[Decimal('0.10')]"


def test_a_response_of_bytes_or_of_nothing_can_be_left_as_it_came_too() -> None:
    binary = decode_reply(Message(topic="t", event="phx_reply", payload=Reply("ok", b"\x00")), raw=True)
    nothing = decode_reply(V2().decode('["1","2","t","phx_reply",{"status":"ok"}]'), raw=True)
    assert (binary.response.payload, nothing.response.payload) == (b"\x00", None)
    with pytest.raises(InvalidFrame):
        decode_reply(V2().decode('["1","2","t","phx_reply",{"response":5}]'), raw=True)


# ---- reading what comes from a client --------------------------------------------------------------------------------


BAD_FOR_SERVER: list[tuple[ServerSerializer, str | bytes]] = [
    *((V2Server(), frame) for frame in BAD_V2_TEXT),
    *((V1Server(), frame) for frame in BAD_V1_TEXT),
    *((V2Server(), frame) for frame in BAD_BINARY),
    (V2Server(), '["1","2","t","e",{"x":"\\ud800"}]'),
    (V2Server(), '["1","2","t","e",{"x":1e999}]'),
    (V2Server(), b"\x01\x01\x01\x0a\x0812room:lobbybin_echodata"),
    (V2Server(), b"\x02\x01\x01\x0a\x0812room:lobbybin_echodata"),
    (V2Server(), b"\x00\x01\x01\x0a\x0812room:"),
    (V2Server(), b"\x00\x01\x01\x03\x0312\xff\xfe\xfdabcd"),
    (V1Server(), '{"topic":"t","event":"e","payload":{"x":"\\ud800"},"ref":"2"}'),
    (V1Server(), b'{"topic":"t","event":"\xff","payload":{},"ref":"2"}'),
    (V1Server(), b"\x00\x01\x01\x01\x0112te"),
]


@pytest.mark.parametrize(("server", "frame"), BAD_FOR_SERVER, ids=range(len(BAD_FOR_SERVER)))
def test_a_server_takes_no_such_frame(server: ServerSerializer, frame: str | bytes) -> None:
    with pytest.raises(InvalidFrame) as caught:
        server.decode(frame)
    assert 0 < len(str(caught.value)) < 100


@pytest.mark.parametrize(
    ("server", "frame", "problem"),
    [
        (V2Server(), "[1]", "Expected `array` of at least length 5, got 1"),
        (V2Server(), "[" * 100_000, "nested too deeply"),
        (V2Server(), "\ud800", "not UTF-8"),
        (V1Server(), "{}", "Object missing required field `ref`"),
        (V1Server(), '{"ref":' + "[" * 100_000, "nested too deeply"),
        (V1Server(), b"\xff", "not UTF-8"),
    ],
)
def test_the_error_says_what_is_wrong_with_a_request(
    server: ServerSerializer, frame: str | bytes, problem: str
) -> None:
    with pytest.raises(InvalidFrame) as caught:
        server.decode(frame)
    assert str(caught.value) == problem


@each_server
@given(frame=frames)
def test_an_arbitrary_frame_raises_nothing_but_invalid_frame_on_a_server(
    server: ServerSerializer, frame: str | bytes
) -> None:
    try:
        got = server.decode(frame)
    except InvalidFrame:
        return
    assert isinstance(got, Request)


@pytest.mark.parametrize(
    ("server", "frame", "request_"),
    [
        (V2Server(), "[1,2,null,5,[]]", Request(join_ref=1, ref=2, topic=None, event=5, payload=[])),
        (V2Server(), '["1","2","t","e",1,2]', Request(join_ref="1", ref="2", topic="t", event="e", payload=1)),
        (V2Server(), b"\0\0\0\0\0abc", Request(join_ref="", ref="", topic="", event="", payload=b"abc")),
        (
            V1Server(),
            '{"topic":1,"event":"e","payload":null,"ref":null}',
            Request(ref=None, topic=1, event="e", payload=None),
        ),
        (
            V1Server(),
            b'{"topic":"t","event":"e","payload":{},"ref":"2","join_ref":"1","more":0}',
            Request(join_ref="1", ref="2", topic="t", event="e", payload={}),
        ),
    ],
)
def test_a_server_reads(server: ServerSerializer, frame: str | bytes, request_: Request) -> None:
    assert server.decode(frame) == request_


def test_the_repr_of_a_request_hides_its_payload() -> None:
    shown = repr(V2Server().decode('["1","2","t","phx_join",{"token":"secret"}]'))
    assert shown == "Request(topic='t', event='phx_join', join_ref='1', ref='2', …)"


@pytest.mark.parametrize(
    ("serializer", "vsn"), [(V1(), "1.0.0"), (V1Server(), "1.0.0"), (V2(), "2.0.0"), (V2Server(), "2.0.0")]
)
def test_the_version_it_asks_for(serializer: Serializer | ServerSerializer, vsn: str) -> None:
    assert serializer.vsn == vsn


@pytest.mark.parametrize(
    ("codec", "frame"),
    [
        (V2(), '[null,4,"phoenix","phx_reply",{"status":"ok","response":{}}]'),
        (V2(), '[null,"2",null,"phx_reply",{"status":"error","response":{"reason":"unmatched topic"}}]'),
        (V1(), '{"topic":["a"],"event":"phx_reply","payload":{"status":"ok","response":{}},"ref":4.5}'),
    ],
)
def test_a_reply_that_echoes_a_strange_ref_or_topic_answers_nobody(codec: Serializer, frame: str) -> None:
    message = codec.decode(frame)
    assert (message.join_ref, message.event) == (None, "phx_reply")
    assert message.ref == "" or message.topic == ""


@pytest.mark.parametrize(
    ("codec", "frame"),
    [
        (V2(), '[1,null,"room:1","shout",{"n":1}]'),
        (V2(), '[[1],[1],"room:1","shout",{"n":1}]'),
        (V1(), '{"topic":"room:1","event":"phx_close","payload":{"n":1},"ref":4}'),
    ],
)
def test_a_message_of_a_join_whose_ref_is_no_string_is_of_no_join_of_ours(codec: Serializer, frame: str) -> None:
    message = codec.decode(frame)
    assert message.join_ref == ""
    assert (message.topic, message.payload) == ("room:1", {"n": 1})


@pytest.mark.parametrize(
    ("codec", "frame"),
    [
        (V2(), '[1,null,5,"shout",{}]'),
        (V2(), '[1,null,"room:1",5,{}]'),
        (V1(), '{"topic":null,"event":"shout","payload":{},"ref":null}'),
    ],
)
def test_a_topic_or_event_that_is_no_string_is_invalid(codec: Serializer, frame: str) -> None:
    with pytest.raises(InvalidFrame):
        codec.decode(frame)
