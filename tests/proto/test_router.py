"""Registration, matching and typed payloads: tables first, then properties against a naive filter."""

import copy
import enum
import functools
import gc
import inspect
import pickle
import re
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto.errors import InvalidHandler, InvalidPayloadType, LocalError, NotRegistered, PayloadMismatch
from phx_proto.handlers.handler import Handler, HandlerKind
from phx_proto.handlers.payloads import payload_decoder
from phx_proto.handlers.router import Dispatch, Router, Routes
from phx_proto.message import RESERVED_EVENTS, Message


class Balance(msgspec.Struct):
    amount: int
    currency: str = "EUR"


@dataclass
class Point:
    x: float


class Room(TypedDict):
    name: str


class Color(enum.Enum):
    RED = "red"


class Pin(enum.IntEnum):
    ONLY = 1


class Unknown:
    """A class msgspec knows nothing of."""


class Holder(msgspec.Struct):
    held: list[Unknown]


class MayHold(msgspec.Struct):
    held: Unknown | None
    other: Unknown = msgspec.field(default_factory=Unknown)


class Node(msgspec.Struct):
    value: int
    children: list["Node"]


class Dangling(msgspec.Struct):
    nothing: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


class Flat(msgspec.Struct):
    name: str

    def __post_init__(self) -> None:
        raise ValueError(f"no such flat: '{self.name}'")


def alone(message: Message[Any]) -> tuple[object, ...]:
    return (message,)


def both(message: Message[Any], channel: object) -> tuple[object, ...]:
    return (message, channel)


async def coroutine(message: Message[Any]) -> None: ...


def message_of(payload: Any, *, topic: str = "sim:1", event: str = "balance") -> Message[Any]:
    return Message(topic=topic, event=event, payload=payload)


def from_wire(payload: bytes) -> Message[Any]:
    return message_of(msgspec.Raw(payload))


def handler_of(function: Callable[..., Any] = alone, event: str = "balance", **options: Any) -> Handler:
    return Handler(function, event, **options)


def functions(intents: tuple[Dispatch, ...]) -> list[object]:
    return [intent.handler.function for intent in intents]


# ---- how a function is called ---------------------------------------------------------------------------------------


class Methods:
    def alone(self, message: Message[Any]) -> None: ...

    def both(self, message: Message[Any], channel: object) -> None: ...

    async def later(self, message: Message[Any]) -> None: ...

    @classmethod
    def of_class(cls, message: Message[Any]) -> None: ...

    @staticmethod
    async def static(message: Message[Any], channel: object) -> None: ...


class PlainCallable:
    def __call__(self, message: Message[Any]) -> None: ...


class AsyncCallable:
    async def __call__(self, message: Message[Any], channel: object) -> None: ...


def anything(*args: object) -> None: ...


def message_and_rest(message: Message[Any], *rest: object, **options: object) -> None: ...


def anything_and_limit(*args: object, limit: int = 10) -> None: ...


def with_limit(message: Message[Any], limit: int = 10) -> None: ...


def maybe_channel(message: Message[Any], channel: object = None) -> None: ...


def channel_and_limit(message: Message[Any], channel: object, limit: int = 10) -> None: ...


def keyword_channel(message: Message[Any], *, channel: object = None) -> None: ...


def all_optional(message: object = None, channel: object = None) -> None: ...


def positional_only(message: Message[Any], channel: object, /) -> None: ...


def configured(message: Message[Any], channel: object, *, limit: int) -> None: ...


async def configured_first(config: str, message: Message[Any]) -> None: ...


@functools.wraps(alone)
def wrapped(*args: object, **options: object) -> None: ...


labelled = functools.partial(configured_first, "config")
labelled.__dict__["label"] = "a partial with attributes is not merged into one around it"

PLAIN, ASYNC = HandlerKind.PLAIN, HandlerKind.ASYNC

FORMS = [
    (alone, PLAIN, False),
    (both, PLAIN, True),
    (coroutine, ASYNC, False),
    (lambda message: None, PLAIN, False),
    (lambda message, channel: None, PLAIN, True),
    (lambda message, n=3: None, PLAIN, False),
    (Methods().alone, PLAIN, False),
    (Methods().both, PLAIN, True),
    (Methods().later, ASYNC, False),
    (Methods.of_class, PLAIN, False),
    (Methods.static, ASYNC, True),
    (PlainCallable(), PLAIN, False),
    (AsyncCallable(), ASYNC, True),
    (functools.partial(configured, limit=3), PLAIN, True),
    (functools.partial(configured_first, "config"), ASYNC, False),
    (functools.partial(labelled), ASYNC, False),
    (functools.partial(both, channel=None), PLAIN, False),
    (functools.partial(AsyncCallable()), ASYNC, True),
    (anything, PLAIN, True),
    (anything_and_limit, PLAIN, True),
    (message_and_rest, PLAIN, True),
    (with_limit, PLAIN, False),
    (maybe_channel, PLAIN, True),
    (channel_and_limit, PLAIN, True),
    (keyword_channel, PLAIN, False),
    (all_optional, PLAIN, True),
    (positional_only, PLAIN, True),
    (wrapped, PLAIN, False),
    ([].append, PLAIN, False),
    (staticmethod(alone), PLAIN, False),
    (staticmethod(coroutine), ASYNC, False),
]


@pytest.mark.parametrize(("function", "kind", "takes_channel"), FORMS)
def test_the_form_of_a_function_is_found_out(function: Any, kind: HandlerKind, takes_channel: bool) -> None:
    handler = handler_of(function)
    assert (handler.kind, handler.takes_channel) == (kind, takes_channel)


def no_arguments() -> None: ...


def three(message: object, channel: object, third: object) -> None: ...


def required_keyword(message: object, *, key: object) -> None: ...


def only_keywords(*, message: object, channel: object) -> None: ...


def generator(message: object) -> Any:
    yield message


async def async_generator(message: object) -> Any:
    yield message


def this_way(this, message): ...  # type: ignore[no-untyped-def]


class GeneratorCallable:
    def __call__(self, message: object) -> Any:
        yield message


MUST_TAKE = "it must take (message) or (message, channel), and is "
UNBOUND = (
    "it is a method without its object, {}: register it of an object, add(thing.method, 'event'), for instance in "
    "__init__, or make it a staticmethod"
)
IN_CLASS = "it is a class method in the class's body: after the class, add(TheClass.method, 'event')"
GENERATOR = "it is a generator function: calling it runs nothing of it"


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (no_arguments, f"{MUST_TAKE}() -> None"),
        (three, f"{MUST_TAKE}(message: object, channel: object, third: object) -> None"),
        (required_keyword, f"{MUST_TAKE}(message: object, *, key: object) -> None"),
        (only_keywords, f"{MUST_TAKE}(*, message: object, channel: object) -> None"),
        (functools.partial(no_arguments), f"{MUST_TAKE}() -> None"),
        (generator, GENERATOR),
        (async_generator, GENERATOR),
        (GeneratorCallable(), GENERATOR),
        (functools.partial(generator), GENERATOR),
        (Methods.alone, UNBOUND.format("(self, message: phx_proto.message.Message[typing.Any]) -> None")),
        (list.append, UNBOUND.format("(self, object, /)")),
        (lambda cls, given: None, UNBOUND.format("(cls, given)")),
        (this_way, UNBOUND.format("(this, message)")),
        (Balance, "it is a class, and each message would only make an object of it: register a function"),
        (classmethod(Methods.of_class.__func__), IN_CLASS),  # type: ignore[attr-defined]
        (5, "it is not callable"),
        (None, "it is not callable"),
        (dict.update, "its signature cannot be read; wrap it in a function"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(function: Any, problem: str) -> None:
    with pytest.raises(InvalidHandler) as caught:
        handler_of(function)
    assert caught.value.problem == problem


def test_a_partial_that_needs_no_message_is_refused() -> None:
    with pytest.raises(InvalidHandler, match="it must take"):
        handler_of(functools.partial(alone, message_of({})))


def test_an_invalid_handler_is_the_applications_mistake_and_names_the_function() -> None:
    with pytest.raises(LocalError, match=rf"^{__name__}\.no_arguments cannot be a handler: it must take \(message\)"):
        handler_of(no_arguments)


@pytest.mark.parametrize(("function", "expected"), [(alone, ("m",)), (both, ("m", "c"))])
def test_call_gives_the_channel_to_who_takes_it(function: Any, expected: tuple[str, ...]) -> None:
    message: Any = "m"
    assert handler_of(function).call(message, "c") == expected


def test_call_returns_the_coroutine_of_an_async_handler() -> None:
    awaitable = handler_of(coroutine).call(message_of({}), None)
    assert inspect.iscoroutine(awaitable)
    awaitable.close()


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (alone, f"{__name__}.alone"),
        (Methods().later, f"{__name__}.Methods.later"),
        (functools.partial(labelled), f"{__name__}.configured_first"),
        (AsyncCallable(), f"{__name__}.AsyncCallable"),
        ([].append, "builtins.list.append"),
    ],
)
def test_the_name_is_the_functions_with_its_module(function: Any, name: str) -> None:
    assert handler_of(function).name == name


# ---- what may be registered -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", sorted(RESERVED_EVENTS))
def test_the_protocols_own_events_are_refused(event: str) -> None:
    with pytest.raises(InvalidHandler) as caught:
        Router().add(alone, event)
    reason = "is the protocol's own; joins, replies and closings are events of the client"
    assert caught.value.problem == f"event '{event}' {reason}"


@pytest.mark.parametrize(
    ("event", "topic", "problem"),
    [
        (None, "*", "its event is None, and must be a string"),
        ("balance", 5, "its topic is 5, and must be a string"),
        ("", "*", "its event is empty"),
        ("sim_*", "*", "event 'sim_*' is no pattern: name one event, or use '*' for all"),
        ("**", "*", "event '**' is no pattern: name one event, or use '*' for all"),
        ("balance", "", "its topic is empty"),
        ("balance", "*:1", "topic '*:1' has a '*' before its end"),
        ("balance", "sim:*:1", "topic 'sim:*:1' has a '*' before its end"),
        ("balance", "sim:**", "topic 'sim:**' has a '*' before its end"),
    ],
)
def test_names_that_match_nothing_or_promise_too_much_are_refused(event: Any, topic: Any, problem: str) -> None:
    with pytest.raises(InvalidHandler) as caught:
        Router().add(alone, event, topic=topic)
    assert caught.value.problem == problem


def test_a_payload_type_in_quotes_is_refused() -> None:
    with pytest.raises(InvalidHandler, match="its payload type is the text 'Balance': give the class itself"):
        Router().add(alone, "balance", payload="Balance")  # type: ignore[arg-type]
    with pytest.raises(InvalidPayloadType, match=r"give the class itself, without quotes"):
        payload_decoder("Balance")


def test_a_handler_takes_messages_of_topics_without_a_channel_only_where_it_says_so() -> None:
    router = Router()
    router.on("balance")(alone)
    router.on("balance", unjoined=True)(both := lambda message: None)
    assert [handler.function for handler in router.unjoined("sim:1", "balance")] == [both]


def test_a_payload_that_comes_from_no_json_has_text_for_keys_all_the_same() -> None:
    handler = Handler(alone, "balance", payload_type=dict[int, float])
    assert handler.accept(Message(topic="sim:1", event="balance", payload={"7": 0.5})).payload == {7: 0.5}


@pytest.mark.parametrize("executor", [3, "threads", object()])
def test_an_executor_that_is_none_is_refused(executor: Any) -> None:
    with pytest.raises(InvalidHandler, match=r"its executor is .*, and must be a concurrent\.futures\.Executor"):
        Router().add(alone, "balance", executor=executor)


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, "2", True])
def test_a_concurrency_that_is_no_number_from_one_on_is_refused(concurrency: Any) -> None:
    with pytest.raises(InvalidHandler, match=r"concurrency is .*; it must be a whole number, 1 or more"):
        Router().add(alone, "balance", concurrency=concurrency)


def test_the_decorator_without_an_event_is_refused() -> None:
    event: Any = alone
    with pytest.raises(InvalidHandler) as caught:
        Router().on(event)
    assert str(caught.value) == f"{__name__}.alone cannot be a handler: name its event: @….on('event')"


def test_a_refused_registration_changes_nothing() -> None:
    router = Router()
    with pytest.raises(InvalidHandler):
        router.add(no_arguments, "balance")  # type: ignore[arg-type]
    assert (router.version, router.dispatch(message_of({}))) == (0, ())


def test_a_handler_cannot_be_changed() -> None:
    handler: Any = handler_of()
    with pytest.raises(AttributeError):
        handler.event = "other"


def test_two_registrations_of_one_function_are_two_handlers() -> None:
    first, second = handler_of(), handler_of()
    assert first != second
    assert len({first, second}) == 2


# ---- payload types --------------------------------------------------------------------------------------------------

FITTING: list[tuple[Any, bytes, Any]] = [
    (Balance, b'{"amount": 3, "other": 1}', Balance(3)),
    (Point, b'{"x": 1.5}', Point(1.5)),
    (Room, b'{"name": "lobby"}', {"name": "lobby"}),
    (list[Balance], b'[{"amount": 1}]', [Balance(1)]),
    (dict[int, Balance], b'{"7": {"amount": 1}}', {7: Balance(1)}),
    (dict[str, object], b'{"a": [1]}', {"a": [1]}),
    (int | str, b'"x"', "x"),
    (int, b"1" + b"0" * 40, 10**40),
    (Decimal, b'"1.10"', Decimal("1.10")),
    (Color, b'"red"', Color.RED),
    (Node, b'{"value": 1, "children": [{"value": 2, "children": []}]}', Node(1, [Node(2, [])])),
    (type(None), b"null", None),
    (Any, b"[1]", [1]),
]


@pytest.mark.parametrize("read_before", [False, True])
@pytest.mark.parametrize(("payload_type", "payload", "expected"), FITTING)
def test_a_payload_is_decoded_into_the_declared_type(
    payload_type: Any, payload: bytes, expected: object, read_before: bool
) -> None:
    message = from_wire(payload)
    if read_before:
        assert message.payload is not msgspec.UNSET
    accepted = handler_of(payload_type=payload_type).accept(message)
    assert accepted.payload == expected
    assert type(accepted.payload) is type(expected)


def test_an_accepted_message_keeps_its_other_fields() -> None:
    message: Message[Any] = Message(
        join_ref="1", ref="2", topic="sim:1", event="balance", payload=msgspec.Raw(b'{"amount": 3}')
    )
    accepted = handler_of(payload_type=Balance).accept(message)
    assert (accepted.join_ref, accepted.ref, accepted.topic, accepted.event) == ("1", "2", "sim:1", "balance")


def test_the_given_message_stays_undecoded() -> None:
    message = from_wire(b'{"amount": 3}')
    handler_of(payload_type=Balance).accept(message)
    assert type(message.undecoded) is msgspec.Raw


def test_handlers_of_different_types_share_a_message() -> None:
    message = from_wire(b'{"amount": 3}')
    assert handler_of(payload_type=Balance).accept(message).payload == Balance(3)
    assert handler_of().accept(message).payload == {"amount": 3}
    assert handler_of(payload_type=dict[str, int]).accept(message).payload == {"amount": 3}


def test_an_untyped_handler_gets_the_message_itself_and_undecoded() -> None:
    message = from_wire(b"not even json")
    assert handler_of().accept(message) is message
    assert type(message.undecoded) is msgspec.Raw


def test_a_payload_that_has_the_type_already_is_taken_as_it_is() -> None:
    balance = Balance(3)
    assert handler_of(payload_type=Balance).accept(message_of(balance)).payload is balance


def test_a_decimal_is_read_from_its_digits() -> None:
    accepted = handler_of(payload_type=Decimal).accept(from_wire(b"0.12345678901234567890"))
    assert str(accepted.payload) == "0.12345678901234567890"


def test_bytes_are_taken_where_bytes_are_declared() -> None:
    assert handler_of(payload_type=bytes).accept(message_of(b"\x00\xff")).payload == b"\x00\xff"


@pytest.mark.parametrize(
    ("payload_type", "payload", "problem"),
    [
        (Balance, msgspec.Raw(b'{"amount": "3"}'), "Expected `int`, got `str` - at `$.amount`"),
        (Balance, {"amount": None}, "Expected `int`, got `null` - at `$.amount`"),
        (Balance, msgspec.Raw(b"{}"), "Object missing required field `amount`"),
        (Balance, b"\x00", "Expected `object`, got `bytes`"),
        (Balance, object(), "Expected `object`, got `object`"),
        (float, msgspec.Raw(b"1e999"), "Number out of range"),
        (int, msgspec.Raw(b"1" + b"0" * 5000), "Integer value out of range"),
        (Any, msgspec.Raw(b"{"), "Input data was truncated"),
        (Color, msgspec.Raw(b'"s3cret"'), "Invalid enum value '…'"),
        (Color, "s3cr'et", "Invalid enum value '…'"),
        (Pin, msgspec.Raw(b"4711"), "Invalid enum value …"),
        (dict[str, Literal[1, 2]], msgspec.Raw(b'{"a":-4711}'), "Invalid enum value … - at `$[...]`"),
        (Flat, {"name": "s3\ncret"}, "no such flat: '…'"),
    ],
)
def test_a_payload_that_does_not_fit_is_a_mismatch(payload_type: Any, payload: Any, problem: str) -> None:
    with pytest.raises(PayloadMismatch) as caught:
        handler_of(payload_type=payload_type).accept(message_of(payload))
    assert (caught.value.topic, caught.value.event, caught.value.problem) == ("sim:1", "balance", problem)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("payload_type", "payload", "problem"),
    [
        (dict[str, str], b'{"a": "\xff"}', "UTF-8"),
        (set[Any], b"[[1]]", "TypeError|hashable"),
    ],
)
def test_a_payload_that_msgspec_names_the_problem_of_since_0_23_is_a_mismatch_with_older_ones_too(
    payload_type: Any, payload: bytes, problem: str
) -> None:
    with pytest.raises(PayloadMismatch) as caught:
        handler_of(payload_type=payload_type).accept(from_wire(payload))
    assert re.search(problem, caught.value.problem)


def test_a_payload_nested_too_deeply_is_a_mismatch() -> None:
    depth = 100 * sys.getrecursionlimit()
    with pytest.raises(PayloadMismatch, match="nested too deeply"):
        handler_of(payload_type=list).accept(from_wire(b"[" * depth + b"]" * depth))


def test_a_mismatch_is_short_however_long_the_payload() -> None:
    class Closed(msgspec.Struct, forbid_unknown_fields=True): ...

    with pytest.raises(PayloadMismatch) as caught:
        handler_of(payload_type=Closed).accept(from_wire(b'{"%s": 1}' % (b"x" * 10_000)))
    assert len(caught.value.problem) == 200


@pytest.mark.parametrize(("payload_type", "expected"), [(Balance, "Balance"), (list[int], "list[int]")])
def test_a_mismatch_names_the_expected_type(payload_type: Any, expected: str) -> None:
    with pytest.raises(PayloadMismatch) as caught:
        handler_of(payload_type=payload_type).accept(message_of("text"))
    assert caught.value.expected == expected


@pytest.mark.parametrize(
    ("payload_type", "name"),
    [
        (5, "5"),
        (Balance(3), r"Balance\(.*\)"),
        (Balance | Point, r".*Balance \| .*Point"),
        (Dangling, "Dangling"),
        (complex, "complex"),
        (Unknown, "Unknown"),
        (list[Unknown], r"list\[.*Unknown\]"),
        (Holder, "Holder"),
        (tuple[Unknown, int | None], r"tuple\[.*\]"),
    ],
)
def test_a_payload_type_that_cannot_be_decoded_is_refused(payload_type: Any, name: str) -> None:
    with pytest.raises(InvalidHandler, match=f"its payload type {name} cannot be decoded: "):
        Router().add(alone, "balance", payload=payload_type)


def test_the_class_of_which_nothing_is_known_is_named() -> None:
    with pytest.raises(InvalidHandler, match=r"type Holder cannot be decoded: nothing is known of Unknown \(make it a"):
        Router().add(alone, "balance", payload=Holder)


def test_a_refused_payload_type_tells_what_msgspec_said() -> None:
    with pytest.raises(InvalidHandler) as caught:
        handler_of(payload_type=Balance | Point)
    assert type(caught.value.__cause__) is TypeError


def test_a_class_that_a_payload_can_do_without_is_let_pass() -> None:
    accepted = handler_of(payload_type=MayHold).accept(from_wire(b'{"held": null}'))
    assert accepted.payload.held is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
TYPES = st.sampled_from([entry[0] for entry in FITTING] + [set[Any], float, bytes, list[int | str], MayHold])


def outcome(payload_type: Any, message: Message[Any]) -> object:
    try:
        return handler_of(payload_type=payload_type).accept(message).payload
    except PayloadMismatch as mismatch:
        return type(mismatch)


@given(TYPES.filter(lambda payload_type: payload_type is not Decimal), JSON)
def test_a_payload_fits_alike_whether_it_was_read_before_or_not(payload_type: Any, value: Any) -> None:
    message = from_wire(msgspec.json.encode(value))
    fresh = outcome(payload_type, message)
    assert message.payload == value
    assert outcome(payload_type, message) == fresh


@given(TYPES, st.binary(max_size=20) | JSON.map(msgspec.json.encode).map(lambda text: text[:-1]))
def test_no_payload_raises_anything_but_a_mismatch(payload_type: Any, payload: bytes) -> None:
    outcome(payload_type, from_wire(payload))
    outcome(payload_type, message_of(payload))


# ---- pickling -------------------------------------------------------------------------------------------------------


def test_a_pickled_handler_works_elsewhere() -> None:
    handler = handler_of(coroutine, "balance", topic="sim:*", payload_type=list[Balance], concurrency=4)
    twin = pickle.loads(pickle.dumps(handler))
    assert (twin.function, twin.event, twin.topic, twin.payload_type, twin.concurrency, twin.kind) == (
        coroutine,
        "balance",
        "sim:*",
        list[Balance],
        4,
        ASYNC,
    )
    assert twin.accept(from_wire(b'[{"amount": 3}]')).payload == [Balance(3)]


def test_a_handler_can_be_copied() -> None:
    assert copy.copy(handler_of(both)).takes_channel


# ---- matching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "topic", "matches"),
    [
        ("sim:1", "sim:1", True),
        ("sim:1", "sim:10", False),
        ("sim:1", "sim:", False),
        ("sim:*", "sim:1", True),
        ("sim:*", "sim:", True),
        ("sim:*", "sim", False),
        ("sim:*", "asim:1", False),
        ("sim:*", "sim:*", True),
        ("s*", "sim:1:2", True),
        ("*", "anything", True),
        ("*", "*", True),
        ("*", "", True),
        ("SIM:*", "sim:1", False),
        ("größe:*", "größe:1", True),
    ],
)
def test_a_topic_is_matched_by_its_pattern(pattern: str, topic: str, matches: bool) -> None:
    router = Router()
    router.add(alone, "balance", topic=pattern)
    assert bool(router.dispatch(message_of({}, topic=topic))) is matches


@pytest.mark.parametrize(
    ("registered", "event", "matches"),
    [
        ("balance", "balance", True),
        ("balance", "Balance", False),
        ("balance", "*", False),
        ("*", "balance", True),
        ("*", "", True),
        ("*", "*", True),
    ],
)
def test_an_event_is_matched_by_its_name_or_the_star(registered: str, event: str, matches: bool) -> None:
    router = Router()
    router.add(alone, registered)
    assert bool(router.dispatch(message_of({}, event=event))) is matches


def test_handlers_come_in_the_order_of_registration_whatever_matched_them() -> None:
    router = Router()
    patterns = [("*", "*"), ("balance", "sim:1"), ("balance", "sim:*"), ("*", "sim:1"), ("balance", "*"), ("*", "s*")]
    added = [router.add(alone, event, topic=topic) for event, topic in patterns]
    assert [intent.handler for intent in router.dispatch(message_of({}))] == added


def test_an_intent_holds_the_message_as_it_came() -> None:
    router = Router()
    handler = router.add(alone, "balance", payload=Balance)
    message = from_wire(b"[]")
    (intent,) = router.dispatch(message)
    assert intent == Dispatch(handler, message)
    assert intent.message is message
    assert type(message.undecoded) is msgspec.Raw


def test_the_decorator_returns_the_function_and_can_be_stacked() -> None:
    router = Router()

    def handle(message: Message[Any]) -> None: ...

    decorated = router.on("created")(router.on("changed", topic="sim:*", payload=Balance, concurrency=2)(handle))
    assert decorated is handle
    assert functions(router.dispatch(message_of({}, event="created"))) == [handle]
    (intent,) = router.dispatch(message_of({}, event="changed"))
    assert (intent.handler.payload_type, intent.handler.concurrency) == (Balance, 2)
    assert router.dispatch(message_of({}, topic="room:1", event="changed")) == ()


def test_a_handler_takes_every_topic_and_any_payload_in_its_turn_where_it_is_not_told() -> None:
    router = Router()
    router.on("balance")(alone)
    (intent,) = router.dispatch(message_of({}))
    for handler in (intent.handler, router.add(alone, "balance"), router.make(alone, "balance")):
        assert (handler.topic, handler.payload_type, handler.concurrency) == ("*", None, None)


def test_a_function_registered_twice_is_called_twice() -> None:
    router = Router()
    router.add(alone, "balance")
    router.add(alone, "*")
    assert functions(router.dispatch(message_of({}))) == [alone, alone]


# ---- removal and versions -------------------------------------------------------------------------------------------


def test_all_handlers_are_told_in_the_order_of_their_registration() -> None:
    router = Router()
    handlers = [router.add(alone, "e", topic=topic) for topic in ("room:*", "room:1", "*", "room:*", "room:2")]
    assert router.handlers == tuple(handlers)
    router.off(handlers[1])
    assert router.handlers == (handlers[0], *handlers[2:])


@pytest.mark.parametrize("topic", ["sim:1", "sim:*", "*"])
def test_a_removed_handler_gets_nothing_more(topic: str) -> None:
    router = Router()
    first, second = router.add(alone, "balance", topic=topic), router.add(both, "balance", topic=topic)
    router.off(first)
    assert functions(router.dispatch(message_of({}))) == [both]
    router.off(second)
    assert router.dispatch(message_of({})) == ()


def test_off_takes_a_function_or_an_event_with_all_of_its_registrations() -> None:
    router, methods = Router(), Methods()
    first, second = router.add(alone, "balance"), router.add(alone, "shout", topic="sim:*")
    method, every = router.add(methods.alone, "shout"), router.add(both, "*")
    assert router.off(alone) == (first, second)
    assert router.off(methods.alone) == (method,)
    assert router.off("*") == (every,)
    assert router.handlers == ()


@pytest.mark.parametrize(("what", "name"), [(alone, f"{__name__}.alone"), ("balance", "event 'balance'")])
def test_off_says_when_there_was_none(what: Any, name: str) -> None:
    with pytest.raises(NotRegistered, match=rf"^{name} cannot be taken off"):
        Router().off(what)


def test_a_method_that_is_registered_in_its_class_is_refused_where_it_stands() -> None:
    router = Router()
    with pytest.raises(InvalidHandler, match="a method without its object"):

        class Keeper:
            @router.on("balance")
            def keep(self, message: Message[Any]) -> None: ...

    class Holder:
        @router.on("balance")
        @staticmethod
        def keep(message: Message[Any]) -> None: ...

    assert router.dispatch(message_of({}))[0].handler.name.endswith("Holder.keep")


def test_a_removed_handler_is_let_go() -> None:
    router = Router()
    handler = router.add(lambda message: None, "balance")
    function = weakref.ref(handler.function)
    router.dispatch(message_of({}))
    router.off(handler)
    del handler
    gc.collect()
    assert function() is None


def test_order_survives_removal() -> None:
    router = Router()
    first = router.add(alone, "balance", topic="sim:1")
    router.add(both, "balance")
    router.off(first)
    router.add(coroutine, "balance", topic="sim:1")
    assert functions(router.dispatch(message_of({}))) == [both, coroutine]


def test_removing_a_stranger_is_refused_and_changes_nothing() -> None:
    router = Router()
    router.add(alone, "balance")
    for stranger in (handler_of(), handler_of(topic="sim:1"), handler_of(topic="sim:*")):
        with pytest.raises(NotRegistered) as caught:
            router.off(stranger)
        assert str(caught.value) == f"{stranger.name} cannot be taken off: this router has no such handler (any more)"
    assert router.version == 1
    assert functions(router.dispatch(message_of({}))) == [alone]


def test_the_version_grows_with_every_change_and_with_nothing_else() -> None:
    router = Router()
    handler = router.add(alone, "balance")
    assert router.version == 1
    router.routes("sim:1")
    router.dispatch(message_of({}))
    assert router.version == 1
    router.off(handler)
    assert router.version == 2


# ---- routes ---------------------------------------------------------------------------------------------------------


def test_routes_hold_every_registered_event_and_the_rest() -> None:
    router = Router()
    trace = router.add(alone, "*")
    save = router.add(alone, "balance")
    log = router.add(alone, "*", topic="sim:*")
    other = router.add(alone, "other")
    routes = router.routes("sim:1")
    assert routes.by_event == {"balance": (trace, save, log), "other": (trace, log, other)}
    assert routes.catch_all == (trace, log)


def test_topics_with_the_same_handlers_share_their_routes() -> None:
    router = Router()
    router.add(alone, "balance", topic="sim:*")
    router.add(alone, "balance", topic="sim:1")
    shared = {id(router.routes(f"sim:{number}")) for number in range(2, 10_000)}
    assert len(shared) == 1
    assert router.routes("sim:1") is router.routes("sim:1")
    assert id(router.routes("sim:1")) not in shared


def test_no_topic_makes_the_router_grow() -> None:
    router = Router()
    for topic in ("room:1", "room:2", "room:*", "ro*", "*"):
        router.add(alone, "balance", topic=topic)
    topics = ["room:1", "room:2", "", *(f"{name}{number}" for number in range(1000) for name in ("room:", "ro", "x"))]
    tables = {id(router.routes(topic)) for topic in topics}
    for topic in topics:
        router.dispatch(message_of({}, topic=topic))
    assert len(tables) == 5
    assert len(router._compiled) == 5  # pyright: ignore[reportPrivateUsage]


def test_routes_are_made_anew_after_a_change_and_the_old_ones_stay_as_they_were() -> None:
    router = Router()
    first = router.add(alone, "balance")
    before = router.routes("sim:1")
    second = router.add(both, "balance")
    assert before.handlers("balance") == (first,)
    assert router.routes("sim:1").handlers("balance") == (first, second)


def test_a_channels_own_handlers_come_after_the_routers() -> None:
    save, trace = handler_of(event="balance"), handler_of(event="*")
    own, own_trace, own_other = handler_of(event="balance"), handler_of(event="*"), handler_of(event="other")
    routes = Routes().merged([save, trace])
    merged = routes.merged([own, own_trace, own_other])
    assert merged.by_event == {"balance": (save, trace, own, own_trace), "other": (trace, own_trace, own_other)}
    assert merged.catch_all == (trace, own_trace)
    assert (routes.by_event, routes.catch_all) == ({"balance": (save, trace)}, (trace,))


def test_merging_nothing_keeps_the_shared_routes() -> None:
    routes = Routes().merged([handler_of()])
    assert routes.merged([]) is routes


def test_routes_without_handlers_lead_nowhere() -> None:
    assert Routes().handlers("balance") == ()
    assert Routes().merged([]).handlers("balance") == ()


# ---- against a naive filter -----------------------------------------------------------------------------------------

LETTERS = st.text("ab:", max_size=3)
PATTERNS = st.builds(lambda start, end: start + end or "*", LETTERS, st.sampled_from(["", "*"]))
EVENTS = st.sampled_from(["x", "y", "*"])
REGISTRATIONS = st.lists(st.tuples(EVENTS, PATTERNS, st.booleans()), max_size=12)


def naive(handlers: list[Handler], topic: str, event: str) -> list[Handler]:
    def fits(handler: Handler) -> bool:
        start, star, _ = handler.topic.partition("*")
        return handler.event in ("*", event) and (topic.startswith(start) if star else topic == start)

    return [handler for handler in handlers if fits(handler)]


def registered(registrations: list[tuple[str, str, bool]]) -> tuple[Router, list[Handler]]:
    """A router from which the marked registrations were removed again, and the handlers left."""
    router = Router()
    added = [(router.add(alone, event, topic=topic), keep) for event, topic, keep in registrations]
    for handler, keep in added:
        if not keep:
            router.off(handler)
    return router, [handler for handler, keep in added if keep]


@given(REGISTRATIONS, LETTERS | PATTERNS, st.sampled_from(["x", "y", "z"]))
@settings(max_examples=2 * settings().max_examples)
def test_dispatch_equals_a_naive_filter(registrations: list[tuple[str, str, bool]], topic: str, event: str) -> None:
    router, handlers = registered(registrations)
    intents = router.dispatch(message_of({}, topic=topic, event=event))
    assert [intent.handler for intent in intents] == naive(handlers, topic, event)


@given(REGISTRATIONS, LETTERS, st.sampled_from(["x", "y", "z"]))
def test_routes_agree_with_dispatch(registrations: list[tuple[str, str, bool]], topic: str, event: str) -> None:
    router, _ = registered(registrations)
    intents = router.dispatch(message_of({}, topic=topic, event=event))
    assert router.routes(topic).handlers(event) == tuple(intent.handler for intent in intents)


@given(REGISTRATIONS, st.lists(LETTERS, max_size=30))
def test_there_are_never_more_routes_than_patterns_and_one(
    registrations: list[tuple[str, str, bool]], topics: list[str]
) -> None:
    router, handlers = registered(registrations)
    tables = {id(router.routes(topic)) for topic in topics}
    assert len(tables) <= len({handler.topic for handler in handlers}) + 1


@given(REGISTRATIONS, st.integers(0, 12), st.sampled_from(["x", "y", "z"]))
def test_merging_equals_compiling_all(registrations: list[tuple[str, str, bool]], cut: int, event: str) -> None:
    handlers = [handler_of(event=name, topic=topic) for name, topic, _ in registrations]
    merged = Routes().merged(handlers[:cut]).merged(handlers[cut:])
    assert merged.handlers(event) == Routes().merged(handlers).handlers(event)
    assert merged.catch_all == Routes().merged(handlers).catch_all


def test_routes_tell_all_their_handlers() -> None:
    router = Router()
    named, every = router.add(alone, "balance"), router.add(alone, "*", topic="sim:*")
    router.add(alone, "balance", topic="other")
    assert set(router.routes("sim:1").all) == {named, every}
