"""What a handler's annotation says of its payload, and what contradicts it."""

import functools
import pickle
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, Optional, Protocol, TypedDict, TypeVar, Union, cast

import annotated
import msgspec
import pytest

from phx_proto.errors import InvalidHandler, PayloadMismatch
from phx_proto.formats import V2
from phx_proto.handlers.annotations import contradicts
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.message import Message


class Balance(msgspec.Struct):
    amount: int


class Corrected(Balance):
    by: str = ""


@dataclass
class Point:
    x: int


class Room(TypedDict):
    name: str


class HasAmount(Protocol):
    amount: int


T = TypeVar("T")
Cents = NewType("Cents", int)
BalanceMessage = Message[Balance]
ListMessage = Message[list[T]]


class Alias:
    """What `type Alias = …` makes on Python 3.12 and later."""

    def __init__(self, value: Any) -> None:
        self.__value__ = value

    def __getitem__(self, args: Any) -> Any:
        return types.GenericAlias(cast("type", self), args)


def taking(annotation: Any) -> Callable[..., None]:
    def handle(message: Any) -> None: ...

    handle.__annotations__["message"] = annotation
    return handle


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any) -> Any:
        return function(*args)

    return wrapper


def declared(function: Callable[..., Any], **options: Any) -> Any:
    return Handler(function, "balance", **options).payload_type


@pytest.mark.parametrize(
    ("annotation", "payload_type"),
    [
        (Message[Balance], Balance),
        (Message[Point], Point),
        (Message[Room], Room),
        (Message[dict[str, Any]], dict[str, Any]),
        (Message[Balance | None], Balance | None),
        (Message[Annotated[int, msgspec.Meta(ge=0)]], Annotated[int, msgspec.Meta(ge=0)]),
        (Message[None], type(None)),
        (Message[Cents], Cents),
        (Message["Balance"], Balance),
        ("Message[Balance]", Balance),
        ("Message['Balance']", Balance),
        (Annotated[Message[Balance], "hidden"], Balance),
        (Message[Balance] | None, Balance),
        (Optional[Message[Balance]], Balance),  # noqa: UP045
        (Union[Message[Balance], Message[int], None], Balance | int),  # noqa: UP007
        (BalanceMessage, Balance),
        (ListMessage[int], list[int]),
        (Alias(Message[Balance]), Balance),
        (Message[Any], None),
        (Message[object], None),
        (Message[T], None),  # type: ignore[valid-type]
        (Message, None),
        (Message[Balance] | Message[Any], None),
        (object, None),
        (msgspec.Struct, None),
        (Any, None),
        (HasAmount, None),
        ("any", None),  # the function of that name: of no use, and no harm
    ],
)
def test_the_payload_s_type_is_read_from_the_annotation(annotation: Any, payload_type: Any) -> None:
    assert declared(taking(annotation)) == payload_type
    assert declared(decorated(taking(annotation))) == payload_type


@pytest.mark.parametrize(
    ("function", "payload_type"),
    [
        (annotated.typed, dict[str, int]),
        (annotated.of_the_module, int | None),
        (annotated.annotated, list[int]),
        (annotated.untyped, None),
        (annotated.of_anything, None),
        (annotated.of_a_variable, None),
        (annotated.Methods().method, int),
        (annotated.Methods(), str),
        (functools.partial(annotated.typed), dict[str, int]),
        (decorated(annotated.typed), dict[str, int]),
        (lambda message: None, None),
        (print, None),
    ],
)
def test_annotations_are_looked_up_where_the_function_stands(function: Any, payload_type: Any) -> None:
    assert declared(function) == payload_type


def test_a_parameter_of_the_function_s_own_is_known_as_on_python_3_12() -> None:
    handle: Any = taking("Message[list[K]]")
    handle.__type_params__ = (TypeVar("K"),)
    assert msgspec.json.Decoder(declared(handle)).decode(b"[1]") == [1]


def test_such_an_alias_may_take_parameters() -> None:
    assert declared(taking(types.GenericAlias(cast("type", Alias(ListMessage)), (int,)))) == list[int]


def test_a_handler_gets_what_its_annotation_says() -> None:
    router = Router()

    @router.on("balance")
    def save(message: Message[Balance]) -> None: ...

    (handler,) = router.handlers
    assert handler.accept(V2().decode('[null,null,"sim:1","balance",{"amount":5}]')).payload == Balance(5)
    with pytest.raises(PayloadMismatch):
        handler.accept(V2().decode('[null,null,"sim:1","balance",{"amount":"5"}]'))


def test_numbers_whose_type_is_left_open_are_what_the_serializer_makes_of_them() -> None:
    handler = Handler(taking(Message[dict[str, Any]]), "balance")
    frame = '[null,null,"sim:1","balance",{"price":12.30}]'
    assert str(handler.accept(V2(floats=Decimal).decode(frame)).payload["price"]) == "12.30"
    assert type(handler.accept(V2().decode(frame)).payload["price"]) is float


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        ("Message[Nowhere]", "its annotation Message[Nowhere] cannot be looked up (name 'Nowhere' is not defined)"),
        ("Nowhere", "its annotation Nowhere cannot be looked up (name 'Nowhere' is not defined)"),
        (Message["Nowhere"], "its annotation Message[Nowhere] cannot be looked up (name 'Nowhere' is not defined)"),  # type: ignore[name-defined]
        ("Message[", "its annotation Message[ cannot be looked up ("),
    ],
)
def test_an_annotation_that_leads_nowhere_is_refused_unless_the_type_is_given(annotation: Any, problem: str) -> None:
    with pytest.raises(InvalidHandler) as caught:
        declared(taking(annotation))
    assert problem in str(caught.value)
    assert str(caught.value).endswith(
        ": import its names for real, not for type checkers alone, or give the payload's type as payload="
    )
    assert declared(taking(annotation), payload_type=int) is int


def test_a_name_for_type_checkers_alone_is_refused_unless_the_type_is_given() -> None:
    with pytest.raises(InvalidHandler, match=r"annotated\.missing .*Message\[Nowhere\].*payload="):
        declared(annotated.missing)
    handler = Handler(annotated.missing, "balance", payload_type=Any)
    assert handler.accept(V2().decode('[null,null,"t","e",[1]]')).payload == [1]
    assert pickle.loads(pickle.dumps(handler)).payload_type is Any


def test_a_type_that_no_payload_can_have_is_refused_in_an_annotation_too() -> None:
    with pytest.raises(InvalidHandler, match="its payload type Note cannot be decoded: nothing is known of Note"):
        declared(annotated.undecodable)


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        (Balance, "test_annotations.Balance"),
        (dict[str, Any], "dict[str, typing.Any]"),
        (str, "str"),
        ("Balance", "Balance"),
        (int | None, "int | None"),
        (None, "None"),
    ],
)
def test_an_annotation_of_no_message_is_refused(annotation: Any, told: str) -> None:
    for given in (None, Balance):
        with pytest.raises(InvalidHandler) as caught:
            declared(taking(annotation), payload_type=given)
        assert f"its first argument is the message, and is annotated {told}: make that" in str(caught.value)


def test_a_contradiction_is_refused_and_says_both() -> None:
    problem = r"it takes Message\[str\], and payload=int is given: leave payload out, or make them agree"
    with pytest.raises(InvalidHandler, match=problem):
        Router().on("balance", payload=int)(taking(Message[str]))


def test_a_type_that_agrees_with_the_annotation_is_taken() -> None:
    assert declared(taking(Message[Any]), payload_type=int) is int
    assert declared(taking(Message[int]), payload_type=int) is int


CONTRADICTIONS: list[tuple[Any, Any]] = [
    (int, str),
    (Decimal, float),
    (float, int),
    (Balance, Corrected),
    (Balance, Point),
    (Balance, dict[str, Any]),
    (dict, Balance),
    (Room, Balance),
    (list[int], list[str]),
    (list[int], dict[str, int]),
    (dict[str, int], Sequence[int]),
    (int | None, int),
    (int | str, int),
    (int, str | None),
    (None, int),
    (Literal[1, 2], str),
    (Annotated[int, msgspec.Meta(ge=0)], str),
    (Cents, str),
    (Alias(int), str),
]

AGREEMENTS: list[tuple[Any, Any]] = [
    (int, int),
    (int, float),
    (bool, int),
    (Corrected, Balance),
    (Balance, Balance | None),
    (Balance | None, Balance | None),
    (Balance, Any),
    (Any, Balance),
    (Balance, object),
    (Balance, T),
    (Balance, HasAmount),
    (dict[str, Any], Room),
    (Room, dict[str, Any]),
    (dict, dict[str, int]),
    (dict[str, int], Mapping[str, int]),
    (list[int], list[Any]),
    (list[int], list[float]),
    (tuple[int, ...], tuple[int, ...]),
    (Literal["a"], str),
    (Annotated[int, msgspec.Meta(ge=0)], int),
    (Cents, int),
    (None, None),
    (types.GenericAlias(list, ("int",)), list[str]),  # in quotes, which nothing resolves here
    (list[int], types.GenericAlias(list, ("str",))),
    (tuple[int, ...], tuple[int, int]),
    (tuple[int, int], tuple[int, ...]),
]


@pytest.mark.parametrize(("given", "wanted"), CONTRADICTIONS)
def test_what_surely_does_not_fit_contradicts(given: Any, wanted: Any) -> None:
    assert contradicts(given, wanted)


@pytest.mark.parametrize(("given", "wanted"), AGREEMENTS)
def test_what_fits_or_cannot_be_told_does_not_contradict(given: Any, wanted: Any) -> None:
    assert not contradicts(given, wanted)
