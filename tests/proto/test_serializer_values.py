"""Serializers: what may be sent beside plain JSON, what servers leave out, and numbers as they were written."""

import enum
import math
import pickle
import re
from collections import OrderedDict
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from phx_proto.errors import InvalidPayload
from phx_proto.formats import V1, V2, ServerSerializer, V1Server, V2Server
from phx_proto.handlers.router import Router
from phx_proto.message import Message, Reply

each_server = pytest.mark.parametrize("server", [V1Server(), V2Server()], ids=["v1", "v2"])


def fields(message: Message[Any]) -> tuple[Any, ...]:
    return message.join_ref, message.ref, message.topic, message.event, message.payload


# ---- what other servers leave out, and what other clients are given -------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ('{"topic":"t","event":"e","payload":{}}', (None, None, "t", "e", {})),
        ('{"topic":"t","event":"e"}', (None, None, "t", "e", None)),
        ('{"topic":"t","event":"e","payload":null,"ref":null}', (None, None, "t", "e", None)),
        ('{"event":"phx_close","topic":"t"}', (None, None, "t", "phx_close", None)),
        ('{"topic":"t","event":"e","ref":5}', (None, "", "t", "e", None)),
        ('{"topic":"t","event":"e","ref":"5","status":"ok"}', (None, "5", "t", "e", None)),
    ],
)
def test_what_a_server_of_v1_leaves_out_is_null(frame: str, expected: tuple[Any, ...]) -> None:
    assert fields(V1().decode(frame)) == expected


class Name(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "shown otherwise"


class Count(int):
    def __int__(self) -> int:
        return 0


class Ratio(float):
    def __float__(self) -> float:
        return 0.0


class Rows(list[Any]):
    pass


class Color(enum.Enum):
    RED = "red"


class Scalar:
    """As numpy's are: known by what they can do."""

    dtype = "float32"
    shape = ()

    def __init__(self, value: object) -> None:
        self.value = value

    def item(self) -> object:
        return self.value


AS_JSON: list[tuple[Any, str]] = [
    (Name("a"), '"a"'),
    (Count(7), "7"),
    (Ratio(1.5), "1.5"),
    (OrderedDict(a=Rows([Name("b")])), '{"a":["b"]}'),
    ({Name("k"): 1, Count(7): 2, Ratio(1.5): 3}, '{"k":1,"7":2,"1.5":3}'),
    ({True: 1, False: 2, None: 3}, '{"true":1,"false":2,"null":3}'),
    (Color.RED, '"red"'),
    ({Color.RED: 1}, '{"red":1}'),
    ((1, {2}), "[1,[2]]"),
    (Decimal("1.10"), '"1.10"'),
    (UUID(int=1), '"00000000-0000-0000-0000-000000000001"'),
    (datetime(2026, 1, 1), '"2026-01-01T00:00:00"'),
    ([Scalar(1.5), Scalar(True), Scalar("a")], '[1.5,true,"a"]'),
    ({Scalar(3): None}, '{"3":null}'),
]


@pytest.mark.parametrize(("payload", "text"), AS_JSON, ids=range(len(AS_JSON)))
def test_what_json_or_msgspec_can_write_is_sent(payload: Any, text: str) -> None:
    message: Message[Any] = Message(topic=Name("t"), event=Name("e"), payload=payload)
    assert V2().encode(message) == f'[null,null,"t","e",{text}]'
    assert V1().encode(message) == f'{{"join_ref":null,"ref":null,"topic":"t","event":"e","payload":{text}}}'
    assert V2Server().reply(None, None, Name("t"), "ok", payload)


def test_names_of_a_binary_message_may_be_subclasses_of_text() -> None:
    sent: Message[Any] = Message(join_ref="1", ref="2", topic=Name("t"), event=Name("e"), payload=b"")
    assert V2Server().decode(V2().encode(sent)).topic == "t"


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({"a": Ratio("nan")}, "payload.a is nan, a number that JSON does not have"),
        ({"a": Scalar(math.inf)}, "payload.a is inf, a number that JSON does not have"),
        ({"a": Name("\ud800")}, "payload.a has a lone surrogate"),
        ({"a": Scalar("\ud800")}, "payload.a has a lone surrogate"),
    ],
)
def test_what_a_server_would_not_take_is_refused_in_these_too(payload: Any, problem: str) -> None:
    with pytest.raises(InvalidPayload, match=re.escape(problem)):
        V2().encode(Message(topic="t", event="e", payload=payload))


@pytest.mark.parametrize("payload", ["invalid", [1], 7, 1.5, True, None, (1,), msgspec.Raw(b"[1]"), Color.RED])
@each_server
def test_a_server_pushes_objects_and_bytes_alone(server: ServerSerializer, payload: Any) -> None:
    problem = "'e' on topic 't': payload is of type .*: a server pushes an object or bytes"
    with pytest.raises(InvalidPayload, match=problem):
        server.push("1", "t", "e", payload)
    with pytest.raises(InvalidPayload, match=problem):
        server.broadcast("t", "e", payload)
    assert server.reply("1", "2", "t", "ok", payload)


@pytest.mark.parametrize("payload", [{}, OrderedDict(), Reply("ok"), msgspec.Raw(b' {"a":1}')])
@each_server
def test_whatever_is_written_as_an_object_is_one(server: ServerSerializer, payload: Any) -> None:
    assert server.push("1", "t", "e", payload)
    assert server.broadcast("t", "e", payload)


# ---- exact, whoever read it before ----------------------------------------------------------------------------------


class Price(msgspec.Struct):
    amount: Decimal


@pytest.mark.parametrize("amount", ["12.30", "1234567890123456.78", "1e3"])
@pytest.mark.parametrize("client", [V2(), V2(floats=Decimal)], ids=["floats", "decimals"])
def test_a_typed_handler_gets_exact_decimals_also_behind_an_untyped_one(client: V2, amount: str) -> None:
    message = client.decode(f'[null,null,"t","e",{{"amount":{amount}}}]')
    assert float(message.payload["amount"]) == float(amount)
    got = Router().add(print, "e", payload=Price).accept(message)
    assert str(got.payload.amount) == str(Decimal(amount))
    assert got.source is msgspec.UNSET
    assert pickle.loads(pickle.dumps(message)) == message


def test_numbers_of_no_type_within_a_typed_payload_are_as_the_serializer_has_them() -> None:
    class Loose(msgspec.Struct):  # made here, for decoders are cached
        amount: Any

    for client, amount in ((V2(), 1.5), (V2(floats=Decimal), Decimal("1.50"))):
        got = Router().add(print, "e", payload=Loose).accept(client.decode('[null,null,"t","e",{"amount":1.50}]'))
        assert repr(got.payload.amount) == repr(amount)


def test_a_sixth_element_is_ignored_whatever_it_is() -> None:
    for sixth in ("null", "1", '{"a":1}', '"x"'):
        got = V2().decode(f'["1","2","t","e",1.50,{sixth}]')
        assert fields(got) == ("1", "2", "t", "e", 1.5)
        assert Router().add(print, "e", payload=Decimal).accept(got).payload == Decimal("1.50")
