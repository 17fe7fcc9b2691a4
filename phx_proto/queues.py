"""Queues of messages that wait for their handlers. A worker takes from a queue, in order.

There are three kinds of queue. The topic's line (an `Inbox`) is shared by all handlers that keep the topic's order. A
handler with `concurrency` has a queue of its own for each topic. Both are run by the adapter's workers. The queues of
handlers that run in an executor are the third kind. A handler's `Place` says which kind it has. A slow handler delays
its own queue and no other.

A queue with messages is passed to the adapter once (`ClientProtocol.runnable` or `executable`). That begins a turn: a
worker has the queue until `take` returns nothing.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from operator import itemgetter
from typing import Any, Final, Protocol, TypeAlias

from .checks import check_count
from .handlers.handler import Handler
from .message import Message

#: Deliveries that a worker takes at a time, at most.
BATCH: Final = 256


class Claim:
    """A message that waits in several queues and streams, and counts as one.

    Attributes:
        size: The size of its frame, in characters or bytes.
        places: The number of queues and streams in which it still waits.
    """

    __slots__ = ("places", "size")

    def __init__(self, size: int, places: int) -> None:
        self.size = size
        self.places = places

    def settle(self) -> None:
        """It no longer waits anywhere."""


#: The handlers, in order; the message; and the size of its frame, or the claim it shares with other queues and streams.
#: A plain tuple, because one is made for each message.
Delivery: TypeAlias = tuple[tuple[Handler, ...], Message[Any], int | Claim]


_size_of: Callable[[Delivery], int] = itemgetter(2)  # of a delivery without a claim


class Backlog:
    """Counts the messages that a client has received and not yet handled.

    Attributes:
        messages: How many; a message that waits in several queues counts once.
        size: Bytes of their frames.
        handled: How many were handled so far.
    """

    __slots__ = ("_claims", "handled", "messages", "size")

    def __init__(self) -> None:
        self.messages = 0
        self.size = 0
        self.handled = 0
        self._claims = 0  # open ones

    def add(self, messages: int, size: int) -> None:
        """Count this many more messages, of this many bytes in total."""
        self.messages += messages
        self.size += size

    def claim(self, size: int, places: int) -> int | Claim:
        """The size of a message for its deliveries, or a claim if it waits in several places."""
        if places < 2:
            return size
        self.track()
        return Claim(size, places)

    def track(self) -> None:
        """Count an open claim, so that it is settled even if its message waits in one place only."""
        self._claims += 1

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """These deliveries are handled. A message is handled when all its deliveries are."""
        if self._claims:
            self.handled += sum(map(self.drop, deliveries))
            return
        messages = len(deliveries)  # without claims, each delivery is one message and has its size
        self.messages -= messages
        self.size -= _size_of(deliveries[0]) if messages == 1 else sum(map(_size_of, deliveries))
        self.handled += messages

    def drop(self, delivery: Delivery) -> bool:
        """The delivery no longer waits. Returns whether it was the last one of its message."""
        claim = delivery[2]
        if isinstance(claim, Claim):
            claim.places -= 1
            if claim.places:
                return False
            self._claims -= 1
            claim.settle()
            claim = claim.size
        self.messages -= 1
        self.size -= claim
        return True


#: Bytes of messages that a worker takes at a time, at most. Payloads that handlers read stay decoded until the last
#: message of the batch is handled, and a decoded payload takes several times its bytes.
LARGEST_TURN: Final = 2**20


def size_of(delivery: Delivery) -> int:
    """Bytes of its frame."""
    claim = delivery[2]
    return claim.size if isinstance(claim, Claim) else claim


def fitting(deliveries: Iterable[Delivery]) -> int:
    """How many of these a worker takes: as many as fit in `LARGEST_TURN`, but at least one."""
    return max(1, sum(1 for _ in takewhile(LARGEST_TURN.__ge__, accumulate(map(size_of, deliveries)))))


class Place(enum.Enum):
    """Where a handler waits for its messages."""

    LINE = "in the line of its topic"
    QUEUE = "in a queue of its own for each topic"
    EXECUTOR = "in a queue of its own for each topic, from which an executor takes batches"


#: An adapter's choice of a handler's place. A pure function: it returns the same place for a handler every time.
Placement: TypeAlias = Callable[[Handler], Place]


def by_concurrency(handler: Handler) -> Place:
    """The place of a handler in an adapter without executors: the line, unless it has `concurrency`."""
    return Place.LINE if handler.concurrency is None else Place.QUEUE


class Drop(enum.Enum):
    """Which message is dropped when a bounded queue is full."""

    OLDEST = "oldest"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on the waiting messages of one topic, for handlers that need only the latest (or the earliest).

    It applies to the topic's line, and to each handler's own queue.

    Attributes:
        limit: Messages that may wait.
        drop: Which message is dropped for the next one; drops are counted and reported.
    """

    limit: int
    drop: Drop

    def __post_init__(self) -> None:
        check_count("limit", self.limit)


class Owner(Protocol):
    """The channel of a queue, as used by this module.

    Attributes:
        topic: The topic.
        join_ref: The ref of the latest join sent on this connection.
        context: The adapter's own data about the channel.
    """

    topic: str
    join_ref: str | None
    context: Any


class DeliveryQueue:
    """Messages of one topic, in order, each with its handlers.

    Attributes:
        channel: The topic's channel.
        backlog: The client's; this queue's messages are part of it.
        bound: The bound above which messages are dropped, if there is one.
        exact: Whether it returns one message at a time, to report before the next: each moves the channel's position.
        deliveries: The waiting ones: a list, or a single one without a list, for most of 10,000 topics have no more.
            An empty tuple while there are none and a worker has the queue, `None` while no worker has it either.
    """

    __slots__ = ("backlog", "bound", "channel", "deliveries", "exact")

    def __init__(self, bound: Bound | None, backlog: Backlog, *, exact: bool) -> None:
        self.bound = bound
        self.exact = exact
        self.backlog = backlog
        self.channel: Owner
        self.deliveries: list[Delivery] | Delivery | tuple[()] | None = None

    @property
    def waiting(self) -> list[Delivery]:
        """The waiting deliveries, in order."""
        deliveries = self.deliveries
        if not deliveries:
            return []
        return deliveries if isinstance(deliveries, list) else [deliveries]

    def put(self, delivery: Delivery) -> bool:
        """Add a delivery. Returns whether the queue must now be passed to a worker."""
        deliveries = self.deliveries
        if not deliveries:
            self.deliveries = delivery
        elif isinstance(deliveries, list):
            deliveries.append(delivery)
        else:
            self.deliveries = [deliveries, delivery]
        return deliveries is None

    def take(self, limit: int = BATCH) -> list[Delivery]:
        """The next deliveries, in order.

        An empty list ends the worker's turn; the next message begins another one. The worker reports handled deliveries
        to `ClientProtocol.handled`.

        Args:
            limit: The most to return. Fewer large messages are returned (`LARGEST_TURN`), but at least one.
        """
        waiting = self.deliveries
        if not waiting:
            self.deliveries = None
            return []
        if not isinstance(waiting, list):
            self.deliveries = ()
            return [waiting]
        if len(waiting) > 1:
            if self.exact:
                limit = 1
            elif self.backlog.size > LARGEST_TURN:  # `heavy`, inlined
                limit = min(limit, fitting(waiting))
            if len(waiting) > limit:
                taken = waiting[:limit]
                del waiting[:limit]
                return taken
        self.deliveries = ()
        return waiting

    def end_turn(self) -> None:
        """End the worker's turn: nothing waits, and the next message begins another turn."""
        self.deliveries = None

    def put_back(self, deliveries: list[Delivery]) -> None:
        """Return deliveries that a worker took and did not begin. The turn goes on: another worker continues it."""
        self.deliveries = [*deliveries, *self.waiting]

    @property
    def busy(self) -> bool:
        """Whether messages wait, or a worker has some."""
        return self.deliveries is not None

    @property
    def heavy(self) -> bool:
        """Whether the client holds so many bytes that `take` limits them."""
        return self.backlog.size > LARGEST_TURN

    @property
    def full(self) -> bool:
        """Whether a message must be dropped before another can be added."""
        return self.bound is not None and len(self.waiting) >= self.bound.limit

    def drop_oldest(self) -> Delivery:
        """Drop the message that has waited longest; there must be one."""
        self.deliveries = waiting = self.waiting
        return waiting.pop(0)


class HandlerQueue(DeliveryQueue):
    """The messages of one topic for one handler. Made for the first message.

    Attributes:
        handler: The handler.
        handlers: The same in a tuple, for the deliveries.
        place: Whether the adapter's workers or an executor take from it.
    """

    __slots__ = ("handler", "handlers", "place")

    def __init__(self, handler: Handler, place: Place, source: DeliveryQueue) -> None:
        super().__init__(source.bound, source.backlog, exact=source.exact)
        self.channel = source.channel
        self.handler = handler
        self.place = place
        self.handlers = (handler,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channel.topic!r}, {self.handler.name})"


class ConcurrentQueue(HandlerQueue):
    """The queue of a handler with `concurrency=n`: up to n workers have it at once.

    It is passed to the adapter once for each worker.
    """

    __slots__ = ("_turns",)

    def __init__(self, handler: Handler, place: Place, source: DeliveryQueue) -> None:
        super().__init__(handler, place, source)
        self.deliveries = []  # never `None`: turns are counted instead
        self._turns = 0  # workers that have the queue

    @property
    def busy(self) -> bool:
        """Whether messages wait, or a worker has some."""
        return self._turns > 0

    @property
    def _limit(self) -> int:
        assert self.handler.concurrency is not None
        return self.handler.concurrency

    def put(self, delivery: Delivery) -> bool:
        """Add a delivery. Returns whether the queue must now be passed to one more worker."""
        self.deliveries = waiting = self.waiting
        waiting.append(delivery)
        if self._turns == self._limit:
            return False
        self._turns += 1
        return True

    def take(self, limit: int = BATCH) -> list[Delivery]:
        """The next deliveries: one for a worker of the adapter, an equal share for a batch of an executor."""
        waiting = self.waiting
        if not waiting:
            self.end_turn()
            return []
        one = self.exact or self.place is not Place.EXECUTOR
        share = 1 if one else -(-len(waiting) // self._limit)  # rounded up
        taken = waiting[: min(share, limit, fitting(waiting))]
        del waiting[: len(taken)]
        return taken

    def end_turn(self) -> None:
        """End the turn of one worker: the next message may begin another."""
        self._turns -= 1
