"""`Router`: finds a message's handlers by its topic's pattern and its event.

A router is pure and independent of the transport. Patterns are `"room:lobby"` (exact), `"room:*"` (every topic with
this prefix) and `"*"`. Handlers run in the order of their registration, whatever their patterns.

Routes are looked up once for a topic, not for each message: `routes(topic)` is a table from event to handlers that a
channel keeps until `version` changes. The handlers of a topic are those of its exact pattern and of its longest prefix
(which includes those of shorter ones), so there are at most as many different tables as patterns, plus one for topics
that match none: 10,000 topics of `"sim:*"` share one, and no peer can make the router grow by naming topics.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar, overload

import msgspec

from ..errors import InvalidHandler, NotRegistered
from ..message import Message
from .handler import WILDCARD, Around, Handler, handler_name
from .payloads import P, PayloadType

F = TypeVar("F", bound=Callable[..., Any])
Q = ParamSpec("Q")
R = TypeVar("R")

#: A function that can handle messages with payloads of a type, for type checkers. `Message[Any]` fits every type.
HandlerFunction: TypeAlias = Callable[[Message[P]], Any] | Callable[[Message[P], Any], Any]

#: The result of `on` with a payload type: a decorator of functions that handle such messages.
Registers: TypeAlias = Callable[[Callable[Concatenate[Message[P], Q], R]], Callable[Concatenate[Message[P], Q], R]]


class Dispatch(msgspec.Struct, frozen=True):
    """A handler and a message for it.

    Attributes:
        message: `handler.accept(message)` returns it with its payload in the handler's type, or raises.
    """

    handler: Handler
    message: Message[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Routes:
    """The handlers of a topic, by event; in the order of their registration.

    Attributes:
        by_event: The handlers for each event registered by name, including those for every event.
        catch_all: The handlers for any other event.
    """

    by_event: dict[str, tuple[Handler, ...]] = field(default_factory=dict[str, tuple[Handler, ...]])
    catch_all: tuple[Handler, ...] = ()

    @property
    def all(self) -> tuple[Handler, ...]:
        """All handlers, of all events."""
        return (*self.catch_all, *(handler for handlers in self.by_event.values() for handler in handlers))

    def handlers(self, event: str) -> tuple[Handler, ...]:
        """The handlers of an event."""
        return self.by_event.get(event, self.catch_all)

    def merged(self, extra: Iterable[Handler]) -> "Routes":
        """These routes with further handlers after them, e.g. a channel's own; without any, the same object."""
        added = tuple(extra)
        if not added:
            return self
        by_event = {event: list(handlers) for event, handlers in self.by_event.items()}
        catch_all = list(self.catch_all)
        for handler in added:
            if handler.event != WILDCARD:
                by_event.setdefault(handler.event, list(catch_all)).append(handler)
                continue
            for handlers in (catch_all, *by_event.values()):
                handlers.append(handler)
        return Routes({event: tuple(handlers) for event, handlers in by_event.items()}, tuple(catch_all))


#: A handler with its number; numbers rise in the order of registration.
_Entry: TypeAlias = tuple[int, Handler]


def decorator(add: Callable[[Callable[..., Any], str], object], event: str) -> Callable[[F], F]:
    """The decorator that every `on` returns: it adds the function for the event, and returns it unchanged.

    Raises:
        InvalidHandler: The event is left out, and the function is in its place.
    """
    if callable(event):
        raise InvalidHandler(handler_name(event), "name its event: @….on('event')")

    def register(function: F) -> F:
        add(function, event)
        return function

    return register


def select_handlers(
    handlers: Iterable[Handler], what: Handler | Callable[..., Any] | str, whose: str
) -> tuple[Handler, ...]:
    """Select the handlers that `off` is to remove.

    Args:
        handlers: All handlers.
        what: One of them, a function, or an event's name.
        whose: The router's or the channel's name, for the error.

    Raises:
        NotRegistered: None of them.
    """
    if isinstance(what, str):
        found = tuple(handler for handler in handlers if handler.event == what)
        name = f"event {what!r}"
    elif isinstance(what, Handler):
        found = tuple(handler for handler in handlers if handler is what)
        name = what.name
    else:  # a method is a new, equal object each time it is looked up
        found = tuple(handler for handler in handlers if handler.function == what)
        name = handler_name(what)
    if not found:
        raise NotRegistered(name, f"{whose} has no such handler (any more)")
    return found


class Router:
    """Handlers by topic and event.

    Any thread may look up handlers while another one registers some.

    Args:
        around: Makes the context manager around each call of a handler, for metrics and tracing. It gets the handler
            and its message, and runs where the handler runs. If a payload does not fit the handler's type, that
            exception passes through it too; the handler is not called then.

    Attributes:
        version: Grows with every change. For adapters, like `routes`, `dispatch` and `make`: code that keeps `Routes`
            compares it to know when to look them up again.

    >>> router = Router()
    >>> @router.on("shout", topic="room:*")
    ... async def hear(message: Message[Any]) -> None: ...
    >>> [intent.handler.name for intent in router.dispatch(Message(topic="room:lobby", event="shout", payload={}))]
    ['phx_proto.handlers.router.hear']
    """

    def __init__(self, *, around: "Around | None" = None) -> None:
        self.version = 0
        self._around = around
        self._exact: dict[str, tuple[_Entry, ...]] = {}
        self._prefixes: dict[str, tuple[_Entry, ...]] = {}
        self._compiled: dict[tuple[Handler, ...], Routes] = {}

    @overload
    def on(  # type: ignore[overload-overlap]
        self,
        event: str,
        *,
        topic: str = WILDCARD,
        payload: type[P],
        concurrency: int | None = None,
        executor: Any = None,
        unjoined: bool = False,
    ) -> "Registers[P, Q, R]": ...

    @overload
    def on(
        self,
        event: str,
        *,
        topic: str = WILDCARD,
        payload: object = None,
        concurrency: int | None = None,
        executor: Any = None,
        unjoined: bool = False,
    ) -> Callable[[F], F]: ...

    def on(
        self,
        event: str,
        *,
        topic: str = WILDCARD,
        payload: Any = None,
        concurrency: int | None = None,
        executor: Any = None,
        unjoined: bool = False,
    ) -> Any:
        """Register the decorated function, and return it unchanged: it can be decorated again, called and tested.

        The arguments are those of `add`.
        """
        options = partial(
            self.add, topic=topic, payload=payload, concurrency=concurrency, executor=executor, unjoined=unjoined
        )
        return decorator(options, event)

    def add(
        self,
        function: HandlerFunction[P],
        event: str,
        *,
        topic: str = WILDCARD,
        payload: PayloadType[P] = None,
        concurrency: int | None = None,
        executor: Any = None,
        unjoined: bool = False,
    ) -> Handler:
        """Register a function.

        Args:
            function: A coroutine function or any other callable; takes `(message)` or `(message, channel)`.
            event: The event's name; `"*"` for every event.
            topic: An exact topic, a prefix and `*`, or `"*"` for every topic.
            payload: The payload's type: a `msgspec.Struct`, a dataclass, a `TypedDict`, `list[...]` and so on. By
                default that of the annotation of the function's first parameter, `Message[Balance]`; without a type
                there either, the payload stays undecoded.
            concurrency: How many messages of one topic it may handle at once, in a queue of its own; more than 1 gives
                up their order. `None`: it shares the topic's queue, in which all handlers run one after another.
            executor: A `concurrent.futures.Executor` for this handler, a plain function, in place of the client's; in a
                process pool it takes the message alone.
            unjoined: Whether it also takes messages of topics that have no channel on this client: some servers push on
                topics that are never joined, as Absinthe does on `__absinthe__:doc:…`. All those topics have one order,
                and a handler that takes the channel gets one of topic `"*"` that is never joined.

        Returns:
            The registration, for `off`.

        Raises:
            InvalidHandler: It can never be called correctly.
        """
        options = {"topic": topic, "concurrency": concurrency, "executor": executor, "unjoined": unjoined}
        handler = self.make(function, event, payload=payload, **options)
        table, key = self._place(handler)
        table[key] = (*table.get(key, ()), (self.version, handler))
        self._changed()
        return handler

    def make(self, function: Callable[..., Any], event: str, *, payload: Any = None, **options: Any) -> Handler:
        """Make a handler like those of this router without registering it. The arguments are those of `add`.

        Raises:
            InvalidHandler: It can never be called correctly.
        """
        return Handler(function, event, payload_type=payload, around=self._around, **options)

    def off(self, what: Handler | Callable[..., Any] | str) -> tuple[Handler, ...]:
        """Remove registrations: one, all of a function, or all for an event. Returns those removed.

        Args:
            what: A result of `add`, a function, or an event's name (`"*"`: the handlers registered for every event).

        Raises:
            NotRegistered: There is none (any more).
        """
        found = select_handlers(self.handlers, what, "this router")
        for handler in found:
            table, key = self._place(handler)
            table[key] = tuple(entry for entry in table[key] if entry[1] is not handler)
            if not table[key]:
                del table[key]
        self._changed()
        return found

    @property
    def handlers(self) -> tuple[Handler, ...]:
        """All handlers, in the order of registration."""
        entries = [entry for table in (self._exact, self._prefixes) for some in table.values() for entry in some]
        return tuple(handler for _, handler in sorted(entries))

    def routes(self, topic: str) -> Routes:
        """The handlers of a topic by event, to keep until `version` changes.

        Topics with the same handlers get the same object. Any topic is allowed: see the module's docstring.
        """
        entries = self._exact.get(topic, ())
        for prefix, more in tuple(self._prefixes.items()):  # a copy: another thread may be registering
            if topic.startswith(prefix):
                entries += more
        handlers = tuple(handler for _, handler in sorted(entries))
        compiled = self._compiled
        known = compiled.get(handlers)
        return compiled.setdefault(handlers, Routes().merged(handlers)) if known is None else known

    def unjoined(self, topic: str, event: str) -> tuple[Handler, ...]:
        """The handlers of a message on a topic that has no channel on this client."""
        return tuple(handler for handler in self.routes(topic).handlers(event) if handler.unjoined)

    def dispatch(self, message: Message[Any]) -> tuple[Dispatch, ...]:
        """The handlers of the message, in the order of registration. Calls nothing, and decodes nothing."""
        return tuple(Dispatch(handler, message) for handler in self.routes(message.topic).handlers(message.event))

    def _place(self, handler: Handler) -> tuple[dict[str, tuple[_Entry, ...]], str]:
        # Two tables, because a topic may also be called "room:*".
        if handler.topic.endswith(WILDCARD):
            return self._prefixes, handler.topic[:-1]
        return self._exact, handler.topic

    def _changed(self) -> None:
        self._compiled = {}
        self.version += 1
