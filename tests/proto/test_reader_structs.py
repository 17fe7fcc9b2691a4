"""Payloads that are decoded into their struct along with the frame: nobody can see it but by the time it takes."""

import enum
import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Generic, TypedDict, TypeVar

import msgspec
import pytest
from conversation import Conversation
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.channel import Channel
from phx_proto.errors import PayloadMismatch
from phx_proto.formats import V2, Serializer
from phx_proto.handlers.payloads import payload_decoder
from phx_proto.handlers.router import Router
from phx_proto.message import Message


class Balance(msgspec.Struct):
    amount: int
    rest: Any = None


class Note(msgspec.Struct):
    text: str


async def on_balance(message: Message[Balance]) -> None: ...


async def on_note(message: Message[Note]) -> None: ...


async def on_any(message: Message) -> None: ...


def listening(serializer: Serializer | None = None) -> tuple[Conversation, Channel]:
    """Joined to room:1 and room:2, with handlers of one struct, of another one, of two types, and of none."""
    router = Router()
    router.add(on_balance, "balance")
    router.add(on_note, "note")
    router.add(on_balance, "both")
    router.add(on_any, "both")
    router.add(on_any, "tick")
    talk = Conversation(router=router, serializer=serializer).connect()
    talk.joined("room:2")
    return talk, talk.joined("room:1")


def frame(payload: Any, event: str = "balance", *, topic: str = "room:1", join_ref: str | None = None) -> str:
    return json.dumps([join_ref, None, topic, event, payload])


def waiting(talk: Conversation) -> list[Any]:
    """The payloads that wait for their handlers, as they are."""
    payloads = list[Any]()
    for queue in talk.proto.runnable():
        while deliveries := queue.take():
            payloads += (message.undecoded for _, message, _ in deliveries)
            talk.proto.handled(deliveries, talk.now)
    return payloads


def test_after_two_reads_for_the_same_handler_payloads_are_decoded_with_their_frames() -> None:
    talk, _ = listening()
    for expected in (msgspec.Raw, msgspec.Raw, Balance, Balance):
        talk.receive(frame({"amount": 1}), frame({"amount": 2}))
        assert [type(payload) for payload in waiting(talk)] == [expected] * 2


def test_a_message_for_other_handlers_ends_that() -> None:
    talk, _ = listening()
    for _ in range(3):
        talk.receive(frame({"amount": 1}))
        waiting(talk)
    talk.receive(frame({"amount": 1}), frame({"amount": 2, "text": "hi"}, "note"), frame({"amount": 3}))
    assert [type(payload) for payload in waiting(talk)] == [Balance, msgspec.Raw, msgspec.Raw]


def test_a_message_that_is_not_for_the_channel_ends_that_too() -> None:
    router = Router()
    router.add(on_balance, "balance", topic="room:1")
    router.add(on_any, "balance", topic="room:9", unjoined=True)
    talk = Conversation(router=router).connect()
    talk.joined("room:1")
    expected = {"room:9": [Balance, msgspec.Raw, msgspec.Raw], "room:1": [Balance, msgspec.Raw]}
    for topic, join_ref in (("room:9", None), ("room:1", "9")):  # without a channel, and stale
        for _ in range(3):
            talk.receive(frame({"amount": 1}))
            waiting(talk)
        other = frame({"amount": 2}, topic=topic, join_ref=join_ref)
        talk.receive(frame({"amount": 1}), other, frame({"amount": 3}))
        assert sorted(map(str, map(type, waiting(talk)))) == sorted(map(str, expected[topic]))


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param([frame({"amount": "3"})], id="it does not fit"),
        pytest.param([frame({"amount": 3, "more": "x" * 300})], id="it is long"),
        pytest.param([frame({"amount": 3}, "tick")], id="its handler has no type"),
        pytest.param([frame({"amount": 3}, "both")], id="it has two handlers"),
    ],
)
def test_other_payloads_stay_undecoded(frames: list[str]) -> None:
    talk, _ = listening()
    for _ in range(3):
        talk.receive(*frames)
        assert [type(payload) for payload in waiting(talk)] == [msgspec.Raw]


def test_numbers_are_of_the_type_that_the_serializer_has_for_them() -> None:
    talk, _ = listening(V2(floats=Decimal))
    for _ in range(3):
        talk.receive(frame({"amount": 1, "rest": 0.1}))
    assert [str(payload.rest) for payload in waiting(talk)[2:]] == ["0.1"]
    accepted = payload_decoder(Balance).accept(Message(topic="t", event="e", payload=Balance(1)))
    assert accepted.payload == Balance(1)


def test_a_number_that_no_decimal_can_be_is_its_handlers_problem_alone() -> None:
    talk, _ = listening(V2(floats=Decimal))
    for _ in range(2):
        talk.receive(frame({"amount": 1}))
        waiting(talk)
    number = '[null,null,"room:1","balance",{"amount":2,"rest":1e99999999999999999999}]'
    talk.receive(number, frame({"amount": 3}))
    assert [type(payload) for payload in waiting(talk)] == [msgspec.Raw] * 2


# ---- whatever is received, in whatever reads, it is handled alike ----------------------------------------------------


class EachByItself(V2):
    """A subclass decodes each frame by its own `decode`, so payloads stay undecoded."""


PAYLOADS: list[Any] = [
    {"amount": 1},
    {"amount": 2.5},
    {"text": "hi"},
    {"amount": 1, "text": "hi"},
    {},
    None,
    [1],
    "x" * 300,
]
FRAMES: list[str | bytes] = [
    *(
        frame(payload, event, topic=topic, join_ref=join_ref)
        for payload in PAYLOADS
        for event in ("balance", "note", "both", "tick", "nobody's")
        for topic, join_ref in (("room:1", None), ("room:1", "2"), ("room:1", "9"), ("room:2", None), ("room:3", None))
    ),
    *(
        f'[null,null,"room:1","balance",{payload}]'
        for payload in (
            '{"amount":1e999}',
            '{"amount":1,"rest":0.10}',
            '{"amount":1,"rest":1e99999999999999999999}',
            '{"amount":1,"rest":1e-99999999999999999999}',
            '{"amount":99999999999999999999}',
            '{"amount":1,"amount":2}',
            '{"amount":1,"rest":{"a":1,"a":[2]}}',
            ' { "amount" : 1 } ',
            r'{"\u0061mount":1}',
            r'{"amount":1,"rest":"\ud83d"}',
            r'{"amount":1,"rest":"\ud83d\ude00"}',
            r'{"amount":1,"rest":"\x"}',
            '{"amount":1,"rest":' + "[" * 100 + "]" * 100 + "}",
            '{"amount":1},{"amount":2}',
            '{"amount":1}}',
        )
    ),
    ' [ null , null , "room:1" , "balance" , {"amount":1} ] ',
    '[null,7,"room:1","balance",{"amount":1}]',
    '[null,null,7,"balance",{"amount":1}]',
    '[null,null,"room:1","balance"]',
    '[null,null,"room:1","balance",{"amount":',
    b"\x02\x06\x07room:1balancedata",
    '[null,"9","room:1","phx_reply",{"status":"ok","response":{"amount":1}}]',
    '["2","2","room:1","phx_close",{}]',
    '["2","2","room:1","phx_error",{"amount":1}]',
]
#: Mostly the first one: only then are payloads decoded with their frames.
READS = st.lists(st.lists(st.just(FRAMES[0]) | st.sampled_from(FRAMES), min_size=1, max_size=4), max_size=8)


def seen(message: Message[Any]) -> tuple[Any, ...]:
    payload = message.undecoded
    kept = bytes(payload) if type(payload) is msgspec.Raw else repr(payload)  # 0.1 is not Decimal("0.1")
    assert isinstance(message, Message)
    return message.floats, message.topic, message.event, message.join_ref, message.ref, message.source, kept


def outcome(talk: Conversation) -> list[Any]:
    """What the handlers get, and all else that a user can see."""
    handled = list[Any]()
    for queue in talk.proto.runnable():
        while deliveries := queue.take():
            for handlers, message, size in deliveries:
                for handler in handlers:
                    try:
                        handled.append((handler.function, *seen(handler.accept(message)), size))
                    except PayloadMismatch as error:
                        handled.append((handler.function, *seen(message), str(error), size))
            talk.proto.handled(deliveries, talk.now)
    return [handled, talk.events(), talk.proto.stats]


@given(READS, st.sampled_from([float, Decimal]))
def test_it_makes_no_difference_to_what_is_handled(
    reads: list[list[str | bytes]], floats: type[float] | type[Decimal]
) -> None:
    with_it, without = listening(V2(floats=floats))[0], listening(EachByItself(floats=floats))[0]
    for read in reads:
        with_it.receive(*read)
        without.receive(*read)
        assert outcome(with_it) == outcome(without)


# ---- the core runs no code of the application ------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"


@dataclass
class Point:
    x: int


class Flat(TypedDict):
    name: str


class Checked(msgspec.Struct):
    amount: int

    def __post_init__(self) -> None:
        raise AssertionError("code of the application runs")


class Closed(msgspec.Struct):
    amount: int

    def __del__(self) -> None:
        raise AssertionError("code of the application runs")


class Hashed(type(msgspec.Struct)):  # type: ignore[misc]
    def __hash__(cls) -> int:
        return 1


class Odd(msgspec.Struct, metaclass=Hashed):
    amount: int


class Equal:
    """Equals everything."""

    def __call__(self) -> int:
        raise AssertionError("code of the application runs")

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Equalled(msgspec.Struct):
    amount: int = msgspec.field(default_factory=Equal())


class Nested(msgspec.Struct):
    checked: list[Checked] | None = None


class Made(msgspec.Struct):
    at: float = msgspec.field(default_factory=float)


class Matched(msgspec.Struct):
    text: Annotated[str, msgspec.Meta(pattern="(a+)+b")]


class Colored(msgspec.Struct):
    color: Color


class Pointed(msgspec.Struct):
    points: dict[str, Point]


class Unique(msgspec.Struct):
    names: set[str]


class Tree(msgspec.Struct):
    name: str
    price: Decimal
    flat: Flat | None = None
    tags: list[str] = []
    trees: tuple["Tree", ...] = ()


T = TypeVar("T")


class Box(msgspec.Struct, Generic[T]):
    content: T


@pytest.mark.parametrize("payload_type", [Balance, Note, Tree])
def test_structs_that_msgspec_makes_by_itself_are_decoded_with_the_frame(payload_type: type[msgspec.Struct]) -> None:
    assert payload_decoder(payload_type).struct is payload_type


@pytest.mark.parametrize(
    "payload_type",
    [
        Checked,
        Closed,
        Odd,
        Equalled,
        Nested,
        Made,
        Matched,
        Colored,
        Pointed,
        Unique,
        Box[int],
        Point,
        Flat,
        dict,
        Balance | None,
        Any,
    ],
)
def test_others_are_not(payload_type: Any) -> None:
    assert payload_decoder(payload_type).struct is None


def test_a_struct_with_code_of_its_own_is_decoded_for_its_handler_alone() -> None:
    async def on_checked(message: Message[Checked]) -> None: ...

    router = Router()
    router.add(on_checked, "balance")
    talk = Conversation(router=router).connect()
    talk.joined("room:1")
    for _ in range(4):
        talk.receive(frame({"amount": 1}))
        assert [type(payload) for payload in waiting(talk)] == [msgspec.Raw]


def test_the_decoder_of_a_type_is_made_at_its_registration_alone() -> None:
    class Counted:
        hashed = 0

        def __hash__(self) -> int:
            Counted.hashed += 1
            return 1

    router = Router()
    router.add(on_any, "balance", payload=Annotated[Balance, Counted()])
    talk = Conversation(router=router).connect()
    talk.joined("room:1")
    registered = Counted.hashed
    for _ in range(4):
        talk.receive(frame({"amount": 1}))
    assert Counted.hashed == registered
