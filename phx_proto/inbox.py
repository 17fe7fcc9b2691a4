"""A channel's inbox: who is to have its messages, and those that wait for them.

The core puts messages in (`reader.py`), the adapter takes them out (`take`) and runs what they are for. An inbox
that has nothing costs nothing: most of 10,000 topics are silent at any moment, and share one table of handlers.

Besides handlers there are taps: what an adapter hangs into a channel to read its messages one after another, an
iterator for instance. A tap gets the channel's lifecycle in the same stream, in order.
"""

import enum
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from .events import ChannelEvent
from .handler import Handler
from .message import Message
from .presence import PRESENCE_DIFF, PRESENCE_STATE, Presence
from .router import Router, Routes, select_handlers

if TYPE_CHECKING:
    from .channel import Channel
    from .flow import Flow


PRESENCE_EVENTS = frozenset({PRESENCE_STATE, PRESENCE_DIFF})


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """Somebody who gets every message of a channel, and its lifecycle events among them.

    Attributes:
        put: Takes the next item, and its bytes. Called by the adapter; the core calls nobody.
    """

    put: "Callable[[Message[Any] | ChannelEvent, int], None]"
    inline: ClassVar[bool] = False  # as in `Handler`


Consumer: TypeAlias = Handler | Tap
#: Who is to have it, in order; what; and of how many bytes it is. A bare tuple, for there is one a message.
Delivery: TypeAlias = tuple[tuple[Consumer, ...], Message[Any] | ChannelEvent, int]


#: Bytes of messages after which a worker gets no more at a time: what handlers read of them stays decoded until the
#: last one of these is handled, and takes several times the memory.
LARGEST_TURN: Final = 2**20


def fitting(sizes: Iterable[int]) -> int:
    """How many messages of these sizes make a turn: as many as `LARGEST_TURN` holds, but at least one."""
    return max(1, sum(1 for _ in takewhile(LARGEST_TURN.__ge__, accumulate(sizes))))


class Drop(enum.Enum):
    """Which message gives way when a bounded inbox is full."""

    OLDEST = "oldest"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on one topic's inbox, for streams of which only the latest matters (or the earliest).

    Attributes:
        limit: Messages that may wait.
        drop: Which one gives way to the next; it is counted and reported.
    """

    limit: int
    drop: Drop

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"a bound is at least one message, not {self.limit}")


class Inbox:
    """What one channel has received and not yet given away.

    Attributes:
        channel: Whose it is.
        router: The client's.
        deliveries: What waits; `None` while nothing does and nobody is at work on it.
        quick: Consumers by event, where a message needs nothing but delivery; `None` where it needs more.
        otherwise: The same for every event that is not in `quick`.
        taps: Who reads everything.
        bound: Where messages are dropped, if anywhere.
        waiting: How many messages wait, counted only where there is a bound.
        presence: Who is there, if that is tracked.
    """

    __slots__ = (
        "_flow",
        "_own",
        "_routes",
        "_topic",
        "bound",
        "channel",
        "deliveries",
        "otherwise",
        "presence",
        "quick",
        "router",
        "taps",
        "waiting",
    )

    def __init__(self, topic: str, router: Router, bound: Bound | None, flow: "Flow") -> None:
        self._topic = topic
        self._flow = flow
        self.router = router
        self._own: tuple[Handler, ...] = ()
        self.channel: Channel
        self._routes: Routes
        self.taps: tuple[Tap, ...] = ()
        self.bound = bound
        self.waiting = 0
        self.presence: Presence | None = None
        self.deliveries: list[Delivery] | None = None
        self.refresh()

    def __repr__(self) -> str:
        return f"Inbox({self._topic!r})"

    def refresh(self) -> None:
        """Ask the router again: handlers came or went."""
        self._routes = self.router.routes(self._topic).merged(self._own)
        self.quick: Mapping[str, tuple[Consumer, ...] | None]
        self.otherwise: tuple[Consumer, ...] | None
        if self.bound is not None:
            self.quick, self.otherwise = {}, None
            return
        self.quick, self.otherwise = self._routes.table, self._routes.catch_all + self.taps
        if self.taps or self.presence is not None:
            self.quick = {event: handlers and handlers + self.taps for event, handlers in self.quick.items()}
        if self.presence is not None:
            self.quick |= dict.fromkeys(PRESENCE_EVENTS)

    def consumers(self, event: str) -> tuple[Consumer, ...]:
        """Who is to have a message of the event; empty where nobody is."""
        return self._routes.handlers(event) + self.taps

    def add(self, handler: Handler) -> None:
        """Give the channel a handler of its own, behind the router's."""
        self._own = (*self._own, handler)
        self.refresh()

    def off(self, what: Handler | Callable[..., Any] | str) -> tuple[Handler, ...]:
        """Take such handlers back; gives which.

        Raises:
            NotRegistered: There is none.
        """
        found = select_handlers(self._own, what, f"channel {self._topic!r} itself")
        self._own = tuple(own for own in self._own if own not in found)
        self.refresh()
        return found

    def attach(self, tap: Tap) -> None:
        """Let somebody read everything from here on."""
        self.taps = (*self.taps, tap)
        self.refresh()

    def detach(self, tap: Tap) -> None:
        """Let him read no more; one that is not there is ignored."""
        self.taps = tuple(other for other in self.taps if other is not tap)
        self.refresh()

    def track_presence(self, join_ref: str | None) -> Presence:
        """Keep track of who is there, beginning with the join that stands; gives the same object every time."""
        if self.presence is None:
            self.presence = Presence()
            if join_ref is not None:
                self.presence.joined(join_ref)
            self.refresh()
        return self.presence

    def joined(self, join_ref: str) -> None:
        """The topic was joined anew: who is there is yet to be told."""
        if self.presence is not None:
            self.presence.joined(join_ref)

    def drop_oldest(self) -> int:
        """Drop the message that has waited longest; the channel's lifecycle events stay. Gives its bytes."""
        assert self.deliveries is not None
        oldest = next(index for index, (_, item, _) in enumerate(self.deliveries) if isinstance(item, Message))
        self.waiting -= 1
        return self.deliveries.pop(oldest)[2]

    def take(self, limit: int = 256) -> list[Delivery]:
        """The next deliveries, in order: who is to have it, what, and of how many bytes it is.

        One worker at a time takes from an inbox that `ClientProtocol.runnable` gave, until an empty list ends its turn;
        then the next message makes the inbox runnable again. What was taken and run is reported to
        `ClientProtocol.handled`.

        Args:
            limit: How many at most. There are less where they are large (`LARGEST_TURN`), but at least one.
        """
        waiting = self.deliveries
        if not waiting:
            self.deliveries = None
            return []
        if self._flow.size > LARGEST_TURN:
            limit = min(limit, fitting(size for _, _, size in waiting))
        if len(waiting) <= limit:
            self.deliveries, taken = [], waiting
        else:
            taken = waiting[:limit]
            del waiting[:limit]
        if self.bound is not None:
            self.waiting -= _messages(taken)
        return taken

    def put_back(self, deliveries: list[Delivery]) -> None:
        """Take back what a worker took last and did not come to; the turn goes on, and is for another worker to end."""
        self.deliveries = [*deliveries, *(self.deliveries or ())]
        if self.bound is not None:
            self.waiting += _messages(deliveries)


def _messages(deliveries: list[Delivery]) -> int:
    return sum(isinstance(item, Message) for _, item, _ in deliveries)
