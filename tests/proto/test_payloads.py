"""The decoder of a payload type: made once, and invalid types."""

from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pytest

from phx_proto.errors import InvalidPayloadType
from phx_proto.formats import V2
from phx_proto.handlers.payloads import payload_decoder
from phx_proto.message import Message


class Balance(msgspec.Struct):
    amount: int


class Unknown:
    """Nothing says which fields it has."""


def test_a_type_that_was_asked_for_lately_has_the_same_decoder() -> None:
    assert payload_decoder(Balance) is payload_decoder(Balance)
    assert payload_decoder(dict[str, int]) is payload_decoder(dict[str, int])


def test_types_made_at_run_time_are_not_all_kept() -> None:
    first = payload_decoder(Balance)
    for number in range(300):
        payload_decoder(msgspec.defstruct(f"Made{number}", ["amount"]))
    assert payload_decoder(Balance) is not first


def test_a_type_that_cannot_be_hashed_is_decoded_all_the_same() -> None:
    kind = Annotated[int, msgspec.Meta(extra={"unit": "cent"}), ["unhashable"]]
    with pytest.raises(TypeError, match="unhashable"):
        hash(kind)
    message = Message[Any](topic="room:1", event="n", payload=msgspec.Raw(b"5"))
    assert payload_decoder(kind).accept(message).payload == 5


def test_numbers_that_the_type_leaves_open_are_those_of_the_serializer() -> None:
    frame = '[null,null,"room:1","n",[1.5]]'
    for floats in (float, Decimal):
        (number,) = payload_decoder(list[Any]).accept(V2(floats=floats).decode(frame)).payload
        assert type(number) is floats


def test_it_is_told_why_a_type_is_none() -> None:
    with pytest.raises(InvalidPayloadType, match="'Balance' cannot be decoded: give the class itself"):
        payload_decoder("Balance")
    with pytest.raises(InvalidPayloadType, match=r"cannot be decoded: .*Nowhere"):
        payload_decoder(list["Nowhere"])  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize("kind", ["Balance", object(), Unknown, list["Nowhere"]])  # type: ignore[name-defined]  # noqa: F821
def test_what_is_no_payload_type_is_refused_every_time(kind: Any) -> None:
    for _ in range(2):
        with pytest.raises(InvalidPayloadType, match="cannot be decoded"):
            payload_decoder(kind)
