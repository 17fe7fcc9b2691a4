"""Serializers: values that a server would refuse, or that cannot be encoded, are refused at the call and named."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from functools import partial
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.errors import BinaryNotSupported, FieldTooLong, InvalidPayload
from phx_proto.formats import (
    V1,
    V2,
    Serializer,
    ServerSerializer,
    V1Server,
    V2Server,
)
from phx_proto.message import Message

CLIENTS: list[Serializer] = [V1(), V2()]
SERVERS: list[ServerSerializer] = [V1Server(), V2Server()]

each_client = pytest.mark.parametrize("client", CLIENTS, ids=["v1", "v2"])
each_server = pytest.mark.parametrize("server", SERVERS, ids=["v1", "v2"])


def message(payload: Any, *, topic: str = "room:lobby", event: str = "shout") -> Message[Any]:
    return Message(join_ref="1", ref="2", topic=topic, event=event, payload=payload)


def nested(depth: int, *inner: Any) -> list[Any]:
    value = [*inner]
    for _ in range(depth):
        value = [value]
    return value


def keyed(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = {"a": value}
    return value


class Row(msgspec.Struct, rename="camel"):
    unit_price: Any


@dataclass
class Cell:
    value: Any


class BadZone(tzinfo):
    def utcoffset(self, when: datetime | None, /) -> timedelta | None:
        raise KeyError("no such zone")

    def tzname(self, when: datetime | None, /) -> str | None:
        return None

    def dst(self, when: datetime | None, /) -> timedelta | None:
        return None


class Moody(tzinfo):
    """Raises when it is asked first, and never again."""

    asked = False

    def utcoffset(self, when: datetime | None, /) -> timedelta | None:
        if self.asked:
            return timedelta(0)
        self.asked = True
        raise KeyError("not now")

    tzname = BadZone.tzname
    dst = BadZone.dst


class Typed:
    dtype = "float32"


class Shaped:
    shape = ()


def loop() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


UNSET = Row(1)
del UNSET.unit_price

NUMBER = "a number that JSON does not have"
SURROGATE = "has a lone surrogate, which is no text"

REFUSED: list[tuple[Any, str, str]] = [
    (math.nan, "payload", f"is nan, {NUMBER}"),
    ({"price": [1, None, math.nan]}, "payload.price[2]", f"is nan, {NUMBER}"),
    ({"price": math.inf}, "payload.price", f"is inf, {NUMBER}"),
    ({"price": -math.inf}, "payload.price", f"is -inf, {NUMBER}"),
    ({"two words": {3: (math.nan,)}}, "payload['two words'][3][0]", f"is nan, {NUMBER}"),
    ({"first": [{}, math.nan], "second": math.inf}, "payload.first[1]", f"is nan, {NUMBER}"),
    ({"set": {math.nan}}, "payload.set[0]", f"is nan, {NUMBER}"),
    ({"row": Row([Row(math.nan)])}, "payload.row.unitPrice[0].unitPrice", f"is nan, {NUMBER}"),
    (Cell({"a": math.inf}), "payload.value.a", f"is inf, {NUMBER}"),
    ({"a": [{math.nan: 1}]}, "payload.a[0]", f"has the key nan, which is nan, {NUMBER}"),
    ({-math.inf: 1}, "payload", f"has the key -inf, which is -inf, {NUMBER}"),
    ({"a": ["fine", "\ud800"]}, "payload.a[1]", SURROGATE),
    ("\udfff", "payload", SURROGATE),
    ({"a": {"\ud800": 1}}, "payload.a", f"has the key '\\ud800', which {SURROGATE}"),
    (Row("\ud800"), "payload.unitPrice", SURROGATE),
    ({"a": [1, object()]}, "payload.a[1]", "cannot be encoded: Encoding objects of type object is unsupported"),
    ({"a": Typed()}, "payload.a", "cannot be encoded: Encoding objects of type Typed is unsupported"),
    ({"a": Shaped()}, "payload.a", "cannot be encoded: Encoding objects of type Shaped is unsupported"),
    ({"a": Row(object())}, "payload.a", "cannot be encoded: Encoding objects of type object is unsupported"),
    ({"a": {(1, 2): 3}}, "payload.a", "has the key (1, 2), which cannot be encoded: Encoding objects of type tuple"),
    ({"a": 10**5000}, "payload.a", "cannot be encoded: Exceeds the limit"),
    ({"a": UNSET}, "payload.a", "cannot be encoded: Struct field 'unit_price' is unset"),
    ({"at": datetime(2026, 1, 1, tzinfo=BadZone())}, "payload.at", "cannot be encoded: 'no such zone'"),
    (loop(), "payload", "is nested too deeply, or contains itself"),
    ({"a": loop()}, "payload", "is nested too deeply, or contains itself"),
    (nested(255), "payload", "is nested too deeply, or contains itself"),
    (keyed(255, {}), "payload", "is nested too deeply, or contains itself"),
    (nested(254, math.nan), f"payload{'[0]' * 255}", f"is nan, {NUMBER}"),
    (nested(255, math.nan), "payload", "is nested too deeply, or contains itself"),
    (keyed(255, math.nan), f"payload{'.a' * 255}", f"is nan, {NUMBER}"),
    (keyed(256, math.nan), "payload", "is nested too deeply, or contains itself"),
    ({"a": "\ud800", "b": loop()}, "payload.a", SURROGATE),
    (nested(100_000), "payload", "is nested too deeply, or contains itself"),
    (msgspec.Raw(b'{"a":NaN}'), "payload", "cannot be encoded: JSON is malformed"),
    (msgspec.Raw(b'["\\ud800"]'), "payload", "cannot be encoded: "),
    (msgspec.Raw(b'["\xff"]'), "payload", "cannot be encoded: "),
    ({"a": msgspec.Raw(b'["\xff"]')}, "payload.a", "cannot be encoded: "),
    ({"a": msgspec.Raw(b"[1"), "b": None}, "payload.a", "cannot be encoded: "),
    ({"a": msgspec.Raw(b"[" * 100_000 + b"]" * 100_000), "b": None}, "payload.a", "is nested too deeply"),
]
each_refused = pytest.mark.parametrize(
    ("payload", "where", "problem"), REFUSED, ids=[f"{where}-{index}" for index, (_, where, _) in enumerate(REFUSED)]
)


@each_client
@each_refused
def test_a_client_refuses_it_and_names_the_field(client: Serializer, payload: Any, where: str, problem: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        client.encode(message(payload))
    assert (caught.value.topic, caught.value.event, caught.value.where) == ("room:lobby", "shout", where)
    assert caught.value.problem.startswith(problem)


@each_client
def test_a_payload_whose_own_code_fails_once_is_refused_as_a_whole(client: Serializer) -> None:
    with pytest.raises(InvalidPayload) as caught:
        client.encode(message({"at": datetime(2026, 1, 1, tzinfo=Moody())}))
    assert (caught.value.where, caught.value.problem) == ("payload", "cannot be encoded: 'not now'")


@each_server
@each_refused
def test_a_server_refuses_it_in_a_push(server: ServerSerializer, payload: Any, where: str, problem: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        server.push("1", "room:lobby", "shout", payload)
    assert (caught.value.topic, caught.value.event, caught.value.where) == ("room:lobby", "shout", where)
    assert caught.value.problem.startswith(problem)


@each_server
def test_a_server_refuses_it_in_a_broadcast(server: ServerSerializer) -> None:
    with pytest.raises(InvalidPayload, match=r"'e' on topic 't': payload\.a is nan"):
        server.broadcast("t", "e", {"a": math.nan})


@each_server
def test_a_server_refuses_it_in_a_reply(server: ServerSerializer) -> None:
    with pytest.raises(InvalidPayload, match=r"'phx_reply' on topic 't': payload\.response\.a is nan"):
        server.reply("1", "2", "t", "ok", {"a": math.nan})


@each_server
@pytest.mark.parametrize("payload", [{}, b""], ids=["json", "binary"])
@pytest.mark.parametrize("name", [5, None, b"shout", ["shout"]])
def test_a_server_refuses_an_event_or_a_status_that_is_not_text(
    server: ServerSerializer, payload: Any, name: Any
) -> None:
    for send in (partial(server.push, "1"), server.broadcast):
        with pytest.raises(InvalidPayload, match=r"event is of type .*, and must be text") as caught:
            send("t", name, payload)
        assert (caught.value.topic, caught.value.event, caught.value.where) == ("t", name, "event")
    with pytest.raises(InvalidPayload, match=r"'phx_reply' on topic 't': status is of type .*, and must be text"):
        server.reply("1", "2", "t", name, payload)


@each_client
@pytest.mark.parametrize("where", ["topic", "event"])
def test_a_lone_surrogate_in_a_name_is_refused(client: Serializer, where: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        client.encode(message({}, **{where: "a\ud800"}))
    assert (caught.value.where, caught.value.problem) == (where, SURROGATE)


@pytest.mark.parametrize("where", ["topic", "event"])
def test_a_lone_surrogate_in_a_name_of_a_binary_message_is_refused(where: str) -> None:
    names = {"topic": "t", "event": "e", where: "a\ud800"}
    with pytest.raises(InvalidPayload) as caught:
        V2().encode(message(b"", **names))
    error = caught.value
    assert ({"topic": error.topic, "event": error.event}, error.where, error.problem) == (names, where, SURROGATE)


@pytest.mark.parametrize("status", ["\ud800", "\ud800" + 252 * "x"], ids=["short", "as long as may be"])
def test_a_lone_surrogate_in_the_status_of_a_binary_reply_is_refused(status: str) -> None:
    with pytest.raises(InvalidPayload, match="'phx_reply' on topic 't': status has a lone surrogate"):
        V2Server().reply("1", "2", "t", status, b"")


@pytest.mark.parametrize(
    ("ref", "topic", "problem"),
    [
        ("\ud800", "t", f"refs[1] {SURROGATE}"),
        (math.nan, "t", f"refs[1] is nan, {NUMBER}"),
        ("2", "\ud800", f"topic {SURROGATE}"),
        ("2", math.nan, f"topic is nan, {NUMBER}"),
    ],
)
def test_what_is_echoed_and_cannot_be_sent_is_refused(ref: Any, topic: Any, problem: str) -> None:
    with pytest.raises(InvalidPayload) as caught:
        V2Server().reply("1", ref, topic, "ok", {})
    assert str(caught.value) == f"cannot send event 'phx_reply' on topic {topic!r}: {problem}"


@pytest.mark.parametrize(
    ("encode", "field", "size"),
    [
        (lambda: V2().encode(message(b"", topic="é" * 128)), "topic", 256),
        (lambda: V2().encode(message(b"", event="x" * 1000)), "event", 1000),
        (lambda: V2().encode(Message(join_ref="9" * 256, ref="1", topic="t", event="e", payload=b"")), "join_ref", 256),
        (lambda: V2().encode(Message(join_ref="1", ref="9" * 256, topic="t", event="e", payload=b"")), "ref", 256),
        (lambda: V2Server().reply("1", "2", "t", "x" * 256, b""), "status", 256),
        (lambda: V2Server().push("1", "x" * 256, "e", b""), "topic", 256),
        (lambda: V2Server().broadcast("t", "x" * 256, b""), "event", 256),
    ],
)
def test_a_field_that_is_too_long_for_a_binary_header_is_named(
    encode: Callable[[], bytes], field: str, size: int
) -> None:
    with pytest.raises(FieldTooLong) as caught:
        encode()
    assert (caught.value.field, caught.value.size) == (field, size)


def test_a_field_of_255_bytes_fits() -> None:
    assert V2Server().decode(V2().encode(message(b"", topic="x" * 255))).topic == "x" * 255


def test_text_has_no_such_limit() -> None:
    assert V2Server().decode(V2().encode(message({}, topic="x" * 1000))).topic == "x" * 1000


@pytest.mark.parametrize(
    "encode",
    [
        lambda: V1().encode(message(b"")),
        lambda: V1Server().reply("1", "2", "t", "ok", b""),
        lambda: V1Server().push("1", "t", "e", bytearray()),
        lambda: V1Server().broadcast("t", "e", memoryview(b"")),
    ],
)
def test_v1_cannot_carry_bytes(encode: Callable[[], object]) -> None:
    with pytest.raises(BinaryNotSupported, match=r"1\.0\.0"):
        encode()


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=3)
    | st.decimals()
    | st.builds(object)
    | st.just(msgspec.Raw(b"NaN")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.floats() | st.text(st.characters(), max_size=3), inner, max_size=3)
        | st.builds(Row, inner)
        | st.builds(Cell, inner)
    ),
    max_leaves=8,
)


def has_bad_number(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(has_bad_number(key) or has_bad_number(item) for key, item in value.items())
    return isinstance(value, list) and any(map(has_bad_number, value))


@each_client
@given(payload=anything)
def test_whatever_the_payload_it_is_sent_or_refused_with_a_path(client: Serializer, payload: Any) -> None:
    refused_at: str | None = None
    try:
        client.encode(message(payload))
    except InvalidPayload as error:
        refused_at = error.where
    assert refused_at is not None or not has_bad_number(payload)
    assert refused_at is None or refused_at.startswith("payload")
