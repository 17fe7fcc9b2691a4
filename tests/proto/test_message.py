"""Messages: decoded as late as possible, and only once."""

import pickle
from typing import Any

import msgspec
import pytest

from phx_proto.message import PHX_JOIN, Message, Reply

decode = msgspec.json.Decoder(Message[msgspec.Raw]).decode


def from_wire(payload: str, event: str = "shout") -> Message[Any]:
    return decode(f'["1","2","room:lobby","{event}",{payload}]')


def test_a_message_from_the_wire_holds_its_payload_raw_until_it_is_read() -> None:
    message = from_wire('{"a": 1}')
    assert isinstance(message.undecoded, msgspec.Raw)
    assert message.payload == {"a": 1}
    assert message.undecoded is message.payload


def test_a_payload_is_decoded_once() -> None:
    message = from_wire('{"a": 1}')
    assert message.payload is message.payload


@pytest.mark.parametrize("payload", [None, 0, "", [], b"\x00", Reply("ok")])
def test_a_payload_that_was_given_is_kept_as_it_is(payload: object) -> None:
    message: Message[Any] = Message(topic="t", event="e", payload=payload)
    assert message.payload is payload
    assert message.undecoded is payload


def test_refs_are_none_unless_given() -> None:
    message: Message[Any] = Message(topic="t", event="e", payload={})
    assert (message.join_ref, message.ref) == (None, None)


@pytest.mark.parametrize(
    ("payload", "error"),
    [("1e999", ValueError), ('"\\ud800"', msgspec.DecodeError), ("[" * 100_000 + "]" * 100_000, RecursionError)],
)
def test_a_payload_that_is_not_sound_says_so_when_it_is_read_and_every_time(
    payload: str, error: type[Exception]
) -> None:
    message: Message[Any] = Message(topic="t", event="e", payload=msgspec.Raw(payload))
    for _ in range(2):
        with pytest.raises(error):
            _ = message.payload


def test_the_same_message_around_another_payload_leaves_the_first_alone() -> None:
    message = from_wire('{"a": 1}')
    other = message.with_payload("typed")
    assert other == Message(join_ref="1", ref="2", topic="room:lobby", event="shout", payload="typed")
    assert isinstance(message.undecoded, msgspec.Raw)


def test_a_raw_message_equals_a_decoded_one() -> None:
    assert from_wire('{"a":1}') == Message(join_ref="1", ref="2", topic="room:lobby", event="shout", payload={"a": 1})


@pytest.mark.parametrize("field", ["join_ref", "ref", "topic", "event", "payload"])
def test_a_message_that_differs_in_any_field_is_another(field: str) -> None:
    fields: dict[str, Any] = {"join_ref": "1", "ref": "2", "topic": "t", "event": "e", "payload": "p"}
    equal = Message(**fields) == Message(**{**fields, field: "other"})
    assert not equal


def test_equal_messages_are_not_unequal() -> None:
    unequal = from_wire("1") != from_wire("1")
    assert not unequal


def test_a_message_is_not_equal_to_what_is_no_message() -> None:
    equal = from_wire("1") == ("1", "2", "room:lobby", "shout", 1)
    assert not equal


def test_a_message_cannot_be_hashed() -> None:
    with pytest.raises(TypeError):
        hash(from_wire("1"))


def test_the_repr_shows_a_raw_payload_without_decoding_it() -> None:
    message = from_wire('{"a": 1}')
    assert "payload={\"a\": 1}, join_ref='1', ref='2'" in repr(message)
    assert isinstance(message.undecoded, msgspec.Raw)


def test_the_repr_shows_a_decoded_payload() -> None:
    assert "payload={'a': 1}" in repr(Message(topic="t", event="e", payload={"a": 1}))


def test_the_repr_of_a_long_payload_is_cut() -> None:
    fits, cut = (repr(Message(topic="t", event="e", payload="x" * length)) for length in (78, 79))
    assert fits == f"Message(topic='t', event='e', payload='{'x' * 78}', join_ref=None, ref=None)"
    assert cut == f"Message(topic='t', event='e', payload='{'x' * 78}…, join_ref=None, ref=None)"


def test_the_repr_of_a_raw_payload_that_is_not_utf_8_shows_what_is() -> None:
    assert "payload='\N{REPLACEMENT CHARACTER}'" in repr(Message(topic="t", event="e", payload=msgspec.Raw(b"'\xff'")))


def test_the_repr_of_a_join_hides_its_params() -> None:
    shown = repr(from_wire('{"token":"secret"}', PHX_JOIN))
    assert shown == "Message(topic='room:lobby', event='phx_join', payload=…, join_ref='1', ref='2')"


def test_a_message_travels_to_another_process_raw() -> None:
    copy = pickle.loads(pickle.dumps(from_wire('{"a":1}')))
    assert isinstance(copy.undecoded, msgspec.Raw)
    assert copy == from_wire('{"a":1}')


@pytest.mark.parametrize(("status", "ok"), [("ok", True), ("error", False), ("maybe", False)])
def test_only_the_status_ok_is_ok(status: str, ok: bool) -> None:
    assert Reply(status).ok is ok
