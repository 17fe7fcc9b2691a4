"""A channel's inbox: the handlers and streams that get its messages, and the topic's line of waiting messages.

The core puts messages in (`reader.py`); the adapter takes them out and runs the handlers. An empty inbox is cheap: most
of 10,000 topics are silent at any moment, and share one table of handlers.

Streams read through taps. A tap gets the channel's messages and its lifecycle events in one sequence, in the order
received and as soon as they are read: it does not wait for handlers.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from .errors import InvalidEvent
from .events import ChannelEvent
from .handlers.handler import WILDCARD, Handler, event_problem
from .handlers.router import Router, Routes, select_handlers
from .message import RESERVED_EVENTS
from .presence import PRESENCE_JOIN, PRESENCE_LEAVE, Presence
from .queues import Backlog, Bound, ConcurrentQueue, Delivery, DeliveryQueue, HandlerQueue, Place, Placement
from .resume import Position, Resume

#: What a tap gets. Report a delivery to `ClientProtocol.handled` once it has been read.
TapItem: TypeAlias = Delivery | ChannelEvent


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """Gets a channel's messages of one event, or of all, and its lifecycle events in between.

    Attributes:
        put: Takes the next item. The adapter calls it with the items of `ClientProtocol.tapped`; the core does not.
        event: The event; `"*"` for every event.

    Raises:
        InvalidEvent: No message can be of such an event.
    """

    put: Callable[[TapItem], None]
    event: str = WILDCARD

    def __post_init__(self) -> None:
        if problem := event_problem(self.event):
            raise InvalidEvent(problem)


@dataclass(frozen=True, slots=True, eq=False)
class Route:
    """The handlers and streams that get a message.

    Attributes:
        line: Handlers in the topic's line.
        queued: Handlers with a queue of their own, each with its place.
        taps: Taps of the streams that read it.
        only: The one handler with a queue of its own, if nothing else gets the message.
    """

    line: tuple[Handler, ...] = ()
    queued: tuple[tuple[Handler, Place], ...] = ()
    taps: tuple[Tap, ...] = ()
    only: tuple[Handler, Place] | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        alone = len(self.queued) == 1 and not (self.line or self.taps)
        object.__setattr__(self, "only", self.queued[0] if alone else None)

    @property
    def wanted(self) -> bool:
        """Whether there is any handler or stream."""
        return bool(self.line or self.queued or self.taps)


#: A route for the loop of `Reader.receive_all`, whose messages wait in one place: the handlers of the topic's line, or
#: the only handler, and then itself with the place of its own queue.
FastRoute: TypeAlias = tuple[tuple[Handler, ...] | None, tuple[Handler, Place] | None]

#: The slower code below the loop must process the message.
SLOW: Final[FastRoute] = (None, None)


@dataclass(frozen=True, slots=True, eq=False)
class RouteTable:
    """The routes of a channel by event; shared by channels that have the same ones.

    Attributes:
        by_event: The route of every event registered by name.
        default: The route of every other event.
        changes: The routes of `presence_join` and `presence_leave`: handlers and streams registered for that event by
            name; empty if there are none.
        fast: `by_event` for the loop of `Reader.receive_all`, with `SLOW` for the protocol's own events.
        fast_default: `default` for that loop.
    """

    by_event: Mapping[str, Route]
    default: Route
    changes: Mapping[str, Route] = field(default_factory=dict[str, Route])
    fast: Mapping[str, FastRoute] = field(init=False, repr=False)
    fast_default: FastRoute = field(init=False, repr=False)

    def __post_init__(self) -> None:
        fast = {event: _fast(route) for event, route in self.by_event.items()}
        object.__setattr__(self, "fast", {**dict.fromkeys(RESERVED_EVENTS, SLOW), **fast})
        object.__setattr__(self, "fast_default", _fast(self.default))

    @property
    def queued(self) -> set[Handler]:
        """All handlers with queues of their own."""
        return {handler for route in (self.default, *self.by_event.values()) for handler, _ in route.queued}


def _fast(route: Route) -> FastRoute:
    if route.only is not None and _kind(route.only[0]) is HandlerQueue:
        return (route.only[0],), route.only
    return SLOW if route.queued or route.taps else (route.line, None)


def _kind(handler: Handler) -> type[HandlerQueue]:
    """The kind of its queue."""
    return HandlerQueue if handler.concurrency in (None, 1) else ConcurrentQueue


def _readers(taps: tuple[Tap, ...], event: str) -> tuple[Tap, ...]:
    return tuple(tap for tap in taps if tap.event in (event, WILDCARD))


class RouteTables:
    """The route tables of one client.

    Args:
        router: The handlers.
        placement: The adapter's choice of each handler's place.
    """

    __slots__ = ("_placement", "_shared", "_version", "router")

    def __init__(self, router: Router, placement: Placement) -> None:
        self.router = router
        self._placement = placement
        self._version = router.version
        self._shared: dict[Routes, RouteTable] = {}

    def outdated(self) -> bool:
        """Whether handlers were added or removed since the last call; if so, every inbox must be refreshed."""
        if self._version == self.router.version:
            return False
        self._version = self.router.version
        self._shared = {}
        return True

    def shared(self, topic: str) -> RouteTable:
        """The table of a topic whose channel has no handlers or taps of its own."""
        routes = self.router.routes(topic)
        table = self._shared.get(routes)
        if table is None:
            table = self._shared[routes] = self._sorted(routes, ())
        return table

    def own(self, topic: str, handlers: tuple[Handler, ...], taps: tuple[Tap, ...]) -> RouteTable:
        """The table of a topic whose channel has handlers or taps of its own, which come after the router's."""
        return self._sorted(self.router.routes(topic).merged(handlers), taps)

    def unjoined(self, topic: str, event: str) -> Route:
        """The route of a message on a topic that has no channel on this client."""
        return self._route(self.router.unjoined(topic, event), ())

    def _sorted(self, routes: Routes, taps: tuple[Tap, ...]) -> RouteTable:
        by_event = {
            event: self._route(routes.handlers(event), _readers(taps, event))
            for event in (*routes.by_event, *(tap.event for tap in taps))
        }
        changes = {
            event: self._route(
                tuple(handler for handler in routes.handlers(event) if handler.event == event),
                tuple(tap for tap in taps if tap.event == event),
            )
            for event in by_event.keys() & {PRESENCE_JOIN, PRESENCE_LEAVE}
        }
        return RouteTable(by_event, self._route(routes.catch_all, _readers(taps, WILDCARD)), changes)

    def _route(self, handlers: tuple[Handler, ...], taps: tuple[Tap, ...]) -> Route:
        placed = [(handler, self._placement(handler)) for handler in handlers]
        line = tuple(handler for handler, place in placed if place is Place.LINE)
        return Route(line, tuple(both for both in placed if both[1] is not Place.LINE), taps)


_NOWHERE: Final = Route()
_EVERYTHING_SLOW: Final[Mapping[str, FastRoute]] = {}


class Inbox(DeliveryQueue):
    """The waiting messages of one channel: the topic's line, and the queues of single handlers.

    Attributes:
        fast_routes: The routes by event, see `FastRoute`.
        default: The route of every event that is not in `fast_routes`.
        taps: Taps of the streams that read the channel.
        presence: The presence of the topic, if it is tracked.
        position: How far its messages are handled, if the topic is resumed.
    """

    __slots__ = (
        "_own",
        "_queues",
        "_table",
        "_tables",
        "_topic",
        "default",
        "fast_routes",
        "position",
        "presence",
        "taps",
    )

    def __init__(
        self, topic: str, tables: RouteTables, bound: Bound | None, backlog: Backlog, resume: Resume | None = None
    ) -> None:
        super().__init__(bound, backlog, exact=resume is not None)
        self._topic = topic
        self._tables = tables
        self._own: tuple[Handler, ...] = ()
        self._queues: dict[Handler, HandlerQueue] | None = None
        self._table: RouteTable
        self.fast_routes: Mapping[str, FastRoute]
        self.default: FastRoute
        self.taps: tuple[Tap, ...] = ()
        self.presence: Presence | None = None
        self.position = None if resume is None else Position(resume)
        self.refresh()

    def __repr__(self) -> str:
        return f"Inbox({self._topic!r})"

    def refresh(self) -> None:
        """Read the routes again: handlers or taps were added or removed."""
        if self._own or self.taps:
            self._table = self._tables.own(self._topic, self._own, self.taps)
        else:
            self._table = self._tables.shared(self._topic)
        if self._queues:  # the worker that has a removed queue, or gets it next, empties it
            kept = self._table.queued
            self._queues = {handler: queue for handler, queue in self._queues.items() if handler in kept}
        if self._table.changes and self.presence is None:
            self.presence = Presence()
        if self.bound is not None or self.position is not None:
            self.fast_routes, self.default = _EVERYTHING_SLOW, SLOW
            return
        self.fast_routes, self.default = self._table.fast, self._table.fast_default
        if (presence := self.presence) is not None:
            self.fast_routes = {**self.fast_routes, presence.state_event: SLOW, presence.diff_event: SLOW}

    def route(self, event: str) -> Route:
        """The route of a message of the event."""
        return self._table.by_event.get(event, self._table.default)

    def change_route(self, event: str) -> Route:
        """The route of a `presence_join` or `presence_leave`: only handlers and streams of that event by name."""
        return self._table.changes.get(event, _NOWHERE)

    def unjoined_route(self, topic: str, event: str) -> Route:
        """The route of a message on a topic that has no channel; the message goes into this inbox."""
        return self._tables.unjoined(topic, event)

    def queue(self, handler: Handler, place: Place) -> HandlerQueue:
        """The queue of one handler."""
        if self._queues is None:
            self._queues = {}
        queue = self._queues.get(handler)
        if queue is None:
            queue = self._queues[handler] = _kind(handler)(handler, place, self)
        return queue

    def make(self, function: Callable[..., Any], event: str, **options: Any) -> Handler:
        """A handler made like those of the client's router."""
        return self._tables.router.make(function, event, **options)

    def busy_handlers(self) -> set[Handler]:
        """Handlers with messages that wait or are being handled.

        If a worker has the last messages of the line, these are all handlers of the line.
        """
        waiting = {handler for handlers, _, _ in self.waiting for handler in handlers}
        if self.busy and not waiting:
            routes = (self._table.default, *self._table.by_event.values())
            waiting = {handler for route in routes for handler in route.line}
        return waiting | {handler for handler, queue in (self._queues or {}).items() if queue.busy}

    def add(self, handler: Handler) -> None:
        """Register a handler for this channel alone, after the router's."""
        self._own = (*self._own, handler)
        self.refresh()

    def off(self, what: Handler | Callable[..., Any] | str) -> tuple[Handler, ...]:
        """Remove handlers of this channel. Returns the removed ones.

        Raises:
            NotRegistered: There is none.
        """
        found = select_handlers(self._own, what, f"channel {self._topic!r} itself")
        self._own = tuple(own for own in self._own if own not in found)
        self.refresh()
        return found

    def attach(self, tap: Tap) -> None:
        """Add a tap, which gets items from now on."""
        self.taps = (*self.taps, tap)
        self.refresh()

    def detach(self, tap: Tap) -> None:
        """Remove a tap; an unknown one is ignored."""
        self.taps = tuple(other for other in self.taps if other is not tap)
        self.refresh()

    def track_presence(self, *, state: str | None, diff: str | None) -> Presence:
        """Track the topic's presence. Returns the same object every time. See `Channel.track_presence`."""
        for event in (state, diff):
            if event is not None and (problem := event_problem(event)):
                raise InvalidEvent(problem)
        if self.presence is None:
            self.presence = Presence()
        self.presence.state_event = state or self.presence.state_event
        self.presence.diff_event = diff or self.presence.diff_event
        self.refresh()
        return self.presence

    def joined(self) -> None:
        """The topic was joined again: a new presence state will come."""
        if self.presence is not None:
            self.presence.joined()
