"""`Handler`: a function, what it is registered for, and how it gets a message.

Everything about a function is determined once, at its registration: whether it is a coroutine function, whether it
takes the channel, how its payload is decoded. Invalid handlers are refused at once (`InvalidHandler`). So a message
costs one attribute if no type was declared, and one decoder if one was.

The core never calls a handler's function; `call` is there for adapters.
"""

import inspect
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..errors import InvalidHandler, InvalidPayloadType, PayloadMismatch
from ..message import RESERVED_EVENTS, Message
from .annotations import NoMessage, UnreadableAnnotation, contradicts, declared_payload, read_signature
from .payloads import PayloadDecoder, payload_decoder, type_name

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

#: The context manager for each call of a handler, for metrics and tracing: `with around(handler, message): …`.
Around: TypeAlias = "Callable[[Handler, Message[Any]], AbstractContextManager[Any]]"

#: Returns the message with its payload decoded and checked.
Accept: TypeAlias = Callable[[Message[Any]], Message[Any]]

#: As an event: every event. As a topic: every topic; at the end of a topic: every topic with this prefix.
WILDCARD: Final = "*"


class HandlerKind(Enum):
    """How a handler is run."""

    ASYNC = "async"  #: a coroutine function: called and awaited on the event loop
    PLAIN = "plain"  #: any other callable: called in an executor


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """One registration. Two of the same function are two handlers; a handler equals only itself.

    `event`, `topic`, `concurrency`, `executor` and `unjoined` are as in `Router.add`. It can be pickled if its function
    and its payload type can: derived attributes are derived again.

    Attributes:
        function: The function to call. It gets the channel if it requires a second positional argument, takes any
            number of them, or names its second one `channel`; other optional arguments (`limit=10`) are not passed.
        payload_type: The type to decode and validate the payload with: the given one or, without one, that of the
            annotation of the function's first parameter; `None` if neither names one.
        decoder: Decodes payloads of that type; `None` without one.
        around: Makes a context manager around each call, on the loop or the thread of the call; `None` for none. What
            it raises counts as raised by the handler.
        run: The function that an adapter calls with the arguments of `takes_channel`: `function` within `around`.
        kind: How it is run.
        takes_channel: Whether it is called with `(message, channel)` or with `(message)`.
        decoder: For the payload type; `None` without one.
        struct: The payload type if payloads may come decoded into it, along with their frames: `accept` returns such a
            message as it is.
        accept: Returns the message for this handler: itself, or a copy with the payload in the declared type. Raises
            `PayloadMismatch` if that does not fit. Without a declared type nothing is checked: an invalid payload
            raises when it is read.

    Raises:
        InvalidHandler: It can never be called correctly.
    """

    function: Callable[..., Any]
    event: str
    _: KW_ONLY
    topic: str = WILDCARD
    payload_type: Any = None
    concurrency: int | None = None
    executor: Any = field(default=None, repr=False)
    around: "Around | None" = None
    unjoined: bool = False
    run: Callable[..., Any] = field(init=False, repr=False)
    kind: HandlerKind = field(init=False)
    takes_channel: bool = field(init=False)
    decoder: PayloadDecoder | None = field(init=False, repr=False)
    struct: type[Any] | None = field(init=False, repr=False)
    accept: Accept = field(init=False, repr=False)

    def __post_init__(self) -> None:
        try:
            _check_names(self.event, self.topic)
            if self.concurrency is not None and (type(self.concurrency) is not int or self.concurrency < 1):
                raise _Refused(f"its concurrency is {self.concurrency!r}; it must be a whole number, 1 or more")
            if self.executor is not None and not callable(getattr(self.executor, "submit", None)):
                raise _Refused(f"its executor is {self.executor!r}, and must be a concurrent.futures.Executor")
            kind = _kind(self.function)
            signature = _signature(self.function)
            takes_channel = _takes_channel(signature)
            payload_type = _payload_type(self.function, signature, self.payload_type)
            decoder = None if payload_type is None else payload_decoder(payload_type)
            accept = _unchanged if decoder is None else decoder.accept
            derived = {
                "run": self.function if self.around is None else _within(self.around, self, kind),
                "kind": kind,
                "takes_channel": takes_channel,
                "payload_type": payload_type,
                "decoder": decoder,
                "struct": None if decoder is None else decoder.struct,
                "accept": accept if self.around is None else _accepted_within(self.around, self, accept),
            }
        except (_Refused, InvalidPayloadType) as refused:
            problem = f"its {refused}" if isinstance(refused, InvalidPayloadType) else str(refused)
            raise InvalidHandler(self.name, problem) from refused.__cause__
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def name(self) -> str:
        """The function's name with its module, for logs; for a callable object, its class's."""
        return handler_name(self.function)

    def call(self, message: Message[Any], channel: object) -> Any:
        """Call the function with its arguments; for adapters, because the core calls no user code.

        Args:
            message: As returned by `accept`.
            channel: Not passed to a function that takes the message alone.

        Returns:
            What the function returned: an awaitable if `kind` is `ASYNC`.
        """
        return self.run(message, channel) if self.takes_channel else self.run(message)

    def __reduce__(self) -> tuple[Callable[..., "Handler"], tuple[Callable[..., Any], str]]:
        kept = ("topic", "payload_type", "concurrency", "around", "unjoined")  # an executor stays in its process
        options: dict[str, Any] = {name: getattr(self, name) for name in kept}
        return partial(Handler, **options), (self.function, self.event)


def handler_name(function: Callable[..., Any]) -> str:
    """The function's name with its module; for a callable object, its class's."""
    target = _innermost(function)
    named = target if hasattr(target, "__qualname__") else type(target)
    return f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"


# ---- what a registration must be ------------------------------------------------------------------------------------


def _unchanged(message: Message[Any]) -> Message[Any]:
    return message


class _Refused(Exception):
    """Why a registration is refused; becomes `InvalidHandler`."""


def event_problem(event: object) -> str | None:
    """Why nothing can be registered for an event; `None` if it can."""
    if not isinstance(event, str):
        return f"its event is {event!r}, and must be a string"
    if not event:
        return "its event is empty"
    if event in RESERVED_EVENTS:
        return f"event {event!r} is the protocol's own; joins, replies and closings are events of the client"
    if WILDCARD in event and event != WILDCARD:
        return f"event {event!r} is no pattern: name one event, or use '*' for all"
    return None


def topic_problem(topic: object) -> str | None:
    """Why nothing can be registered for a topic or a pattern of topics; `None` if it can."""
    if not isinstance(topic, str):
        return f"its topic is {topic!r}, and must be a string"
    if not topic:
        return "its topic is empty"
    if WILDCARD in topic[:-1]:
        return f"topic {topic!r} has a '*' before its end"
    return None


def _check_names(event: object, topic: object) -> None:
    if problem := event_problem(event):
        raise _Refused(problem)
    if problem := topic_problem(topic):
        raise _Refused(problem)


# ---- what is found out about a function -----------------------------------------------------------------------------


def _within(around: Around, handler: Handler, kind: HandlerKind) -> Callable[..., Any]:
    function = handler.function

    def run(message: Message[Any], *channel: object) -> Any:
        with around(handler, message):
            return function(message, *channel)

    async def run_async(message: Message[Any], *channel: object) -> Any:
        with around(handler, message):
            return await function(message, *channel)

    return run_async if kind is HandlerKind.ASYNC else run


def _accepted_within(around: Around, handler: Handler, accept: Accept) -> Accept:
    def checked(message: Message[Any]) -> Message[Any]:
        try:
            return accept(message)
        except PayloadMismatch:
            with around(handler, message):
                raise  # shown as an error of the handler
            raise  # it was suppressed there

    return checked


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(function, partial | staticmethod):
        function = function.func if isinstance(function, partial) else function.__func__
    return function


def _kind(function: Callable[..., Any]) -> HandlerKind:
    target = _innermost(function)
    forms = (target, type(target).__call__)  # the second: an object with `async def __call__`
    if any(inspect.isgeneratorfunction(form) or inspect.isasyncgenfunction(form) for form in forms):
        raise _Refused("it is a generator function: calling it runs nothing of it")
    return HandlerKind.ASYNC if any(map(inspect.iscoroutinefunction, forms)) else HandlerKind.PLAIN


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    if isinstance(function, type):
        raise _Refused("it is a class, and each message would only make an object of it: register a function")
    if isinstance(function, classmethod):
        raise _Refused("it is a class method in the class's body: after the class, add(TheClass.method, 'event')")
    try:
        signature: inspect.Signature = read_signature(function)
    except TypeError:
        raise _Refused("it is not callable") from None
    except ValueError as error:
        raise _Refused("its signature cannot be read; wrap it in a function") from error
    if _is_unbound(signature):
        raise _Refused(
            f"it is a method without its object, {signature}: register it of an object, add(thing.method, 'event'), "
            "for instance in __init__, or make it a staticmethod"
        )
    return signature


def _takes_channel(signature: inspect.Signature) -> bool:
    alone, both = _fits(signature, 1), _fits(signature, 2)
    if not alone and not both:
        raise _Refused(f"it must take (message) or (message, channel), and is {signature}")
    return both and (not alone or _wants_channel(signature))


def _is_unbound(signature: inspect.Signature) -> bool:
    """Whether its first argument is `self`, not the message."""
    names = [*signature.parameters]
    return names[:1] in (["self"], ["cls"]) or names[1:2] == ["message"]


def _fits(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*range(count))
    except TypeError:
        return False
    return True


def _wants_channel(signature: inspect.Signature) -> bool:
    """Whether an optional second argument is for the channel."""
    first, *rest = signature.parameters.values()
    second = rest[0] if rest and first.kind is not first.VAR_POSITIONAL else first
    return second.kind is second.VAR_POSITIONAL or second.name == "channel"


# ---- payload types --------------------------------------------------------------------------------------------------


def _payload_type(function: Callable[..., Any], signature: inspect.Signature, given: Any) -> Any:
    """The type to decode the payload with: the given one, or else the annotation's."""
    if isinstance(given, str):
        raise _Refused(f"its payload type is the text {given!r}: give the class itself, without quotes")
    try:
        declared = declared_payload(_innermost(function), signature)
    except UnreadableAnnotation as unreadable:
        if given is None:
            advice = "import its names for real, not for type checkers alone, or give the payload's type as payload="
            raise _Refused(f"{unreadable}: {advice}") from None
        return given
    except NoMessage as error:
        raise _Refused(f"its first argument is the message, and is annotated {error}: make that Message[…]") from None
    if given is None:
        return declared
    if declared is not None and contradicts(given, declared):
        wanted, got = (type_name(kind) for kind in (declared, given))
        raise _Refused(f"it takes Message[{wanted}], and payload={got} is given: leave payload out, or make them agree")
    return given
