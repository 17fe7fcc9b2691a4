"""What waits for handlers: a queue that one worker at a time takes from, in order.

Two kinds wait for the adapter's own workers: the topic's line (an `Inbox`), with all handlers that are content with the
topic's order, and queues of single handlers. A third kind waits for an executor. Where a handler belongs is its
`Place`; who waits for whom follows from it: a queue delays nobody but itself.

A queue that has something is given to the adapter once (`ClientProtocol.runnable` or `executable`), and is in the hands
of a worker until `take` gives nothing.
"""

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from operator import itemgetter
from typing import Any, ClassVar, Final, Protocol, TypeAlias

from .handlers.handler import Handler
from .message import Message

#: Deliveries that a worker takes at a time, at most.
BATCH: Final = 256


class Claim:
    """A message that waits in several places, and counts as one.

    Attributes:
        size: Of its frame, in characters or bytes.
        places: In how many it still waits.
    """

    __slots__ = ("places", "size")

    def __init__(self, size: int, places: int) -> None:
        self.size = size
        self.places = places

    def settle(self) -> None:
        """It waits nowhere any more."""


#: Who is to have it, in order; what; and the size of its frame, or the claim that it shares with other places.
#: A bare tuple, for there is one a message.
Delivery: TypeAlias = tuple[tuple[Handler, ...], Message[Any], int | Claim]


_size_of: Callable[[Delivery], int] = itemgetter(2)  # where there is no claim


class Backlog:
    """What a client has received and not yet handled, wherever it waits.

    Attributes:
        messages: How many; one that waits in several places counts once.
        size: Bytes of their frames.
        handled: How many were handled so far.
    """

    __slots__ = ("_claims", "handled", "messages", "size")

    def __init__(self) -> None:
        self.messages = 0
        self.size = 0
        self.handled = 0
        self._claims = 0  # messages that wait in several places

    def add(self, messages: int, size: int) -> None:
        """So many more, of so many bytes all in all."""
        self.messages += messages
        self.size += size

    def claim(self, size: int, places: int) -> int | Claim:
        """What a message of so many bytes counts for in each of the places where it is to wait."""
        if places < 2:
            return size
        return self.track(Claim(size, places))

    def track(self, claim: Claim) -> Claim:
        """See to it that the claim is settled, though its message may wait in one place."""
        self._claims += 1
        return claim

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """These are handled; a message is when it waits nowhere any more."""
        if self._claims:
            self.handled += sum(map(self.drop, deliveries))
            return
        messages = len(deliveries)  # each waited in one place, and has its size with it
        self.messages -= messages
        self.size -= _size_of(deliveries[0]) if messages == 1 else sum(map(_size_of, deliveries))
        self.handled += messages

    def drop(self, delivery: Delivery) -> bool:
        """It waits no more; gives whether its message waits nowhere else either."""
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


#: Bytes of messages after which a worker gets no more at a time: what handlers read of them stays decoded until the
#: last one of these is handled, and takes several times the memory.
LARGEST_TURN: Final = 2**20


def size_of(delivery: Delivery) -> int:
    """Bytes of its frame."""
    claim = delivery[2]
    return claim.size if isinstance(claim, Claim) else claim


def fitting(deliveries: Iterable[Delivery]) -> int:
    """How many of these make a turn: as many as `LARGEST_TURN` holds, but at least one."""
    return max(1, sum(1 for _ in takewhile(LARGEST_TURN.__ge__, accumulate(map(size_of, deliveries)))))


class Place(enum.Enum):
    """Where a handler waits for its messages."""

    LINE = "in the line of its topic"
    QUEUE = "in a queue of its own for each topic"
    EXECUTOR = "in such a queue, from which an executor takes batches"


#: Where an adapter has a handler wait. Pure, and the same for a handler at any time.
Placement: TypeAlias = Callable[[Handler], Place]


def by_concurrency(handler: Handler) -> Place:
    """The place of a handler where nothing is said of executors: in the line, unless `concurrency` is given."""
    return Place.LINE if handler.concurrency is None else Place.QUEUE


class Drop(enum.Enum):
    """Which message gives way when a bounded queue is full."""

    OLDEST = "oldest"
    NEWEST = "newest"


@dataclass(frozen=True, slots=True)
class Bound:
    """A bound on what waits of one topic, for consumers who want only the latest (or the earliest).

    It holds for the topic's line, and for each queue of a handler's own.

    Attributes:
        limit: Messages that may wait.
        drop: Which one gives way to the next; it is counted and reported.
    """

    limit: int
    drop: Drop

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise ValueError(f"a bound is at least one message, not {self.limit}")


class Owner(Protocol):
    """The channel whose messages wait, as far as it is needed here.

    Attributes:
        topic: The topic.
        join_ref: The ref of the latest join sent on this connection.
        context: What the adapter wants to find again.
    """

    topic: str
    join_ref: str | None
    context: Any


class DeliveryQueue:
    """Messages of one topic, in order, each with the handlers it is for.

    Attributes:
        channel: Whose messages they are.
        bound: Where messages are dropped, if anywhere.
        exact: Whether it gives one at a time, to be reported before the next: each moves the position of its channel.
        deliveries: What waits; `None` while nothing does and no worker has the queue.
        exclusive: Whether only one worker has it at a time.
    """

    __slots__ = ("_backlog", "bound", "channel", "deliveries", "exact")

    exclusive: ClassVar[bool] = True

    def __init__(self, bound: Bound | None, backlog: Backlog, *, exact: bool) -> None:
        self.bound = bound
        self.exact = exact
        self._backlog = backlog
        self.channel: Owner
        self.deliveries: list[Delivery] | None = None

    def put(self, delivery: Delivery) -> bool:
        """Add it; gives whether the queue is to be given to a worker."""
        if self.deliveries is None:
            self.deliveries = [delivery]
            return True
        self.deliveries.append(delivery)
        return False

    def take(self, limit: int = BATCH) -> list[Delivery]:
        """The next deliveries, in order.

        A worker takes until an empty list ends its turn; then the next message has the queue given out again. What was
        taken and handled is reported to `ClientProtocol.handled`.

        Args:
            limit: How many at most. There are less where they are large (`LARGEST_TURN`), but at least one.
        """
        waiting = self.deliveries
        if not waiting:
            self.end_turn()
            return []
        if len(waiting) > 1:
            if self.exact:
                limit = 1
            elif self._backlog.size > LARGEST_TURN:  # `heavy`, spelled out
                limit = min(limit, fitting(waiting))
            if len(waiting) > limit:
                taken = waiting[:limit]
                del waiting[:limit]
                return taken
        self.deliveries = []
        return waiting

    def end_turn(self) -> None:
        """The worker has found nothing more; the next message has the queue given out again."""
        self.deliveries = None

    def put_back(self, deliveries: list[Delivery]) -> None:
        """Take back what a worker took last and did not come to; its turn goes on, and is for another worker to end."""
        self.deliveries = [*deliveries, *(self.deliveries or ())]

    @property
    def busy(self) -> bool:
        """Whether messages wait, or are in the hands of a worker."""
        return self.deliveries is not None

    @property
    def heavy(self) -> bool:
        """Whether the client holds so much that a turn is bounded in bytes."""
        return self._backlog.size > LARGEST_TURN

    @property
    def full(self) -> bool:
        """Whether a message must give way to the next."""
        return self.bound is not None and self.deliveries is not None and len(self.deliveries) >= self.bound.limit

    def drop_oldest(self) -> Delivery:
        """Drop the message that has waited longest; there must be one."""
        assert self.deliveries
        return self.deliveries.pop(0)


class HandlerQueue(DeliveryQueue):
    """The messages of one topic for one handler. Made on the first message.

    Attributes:
        handler: Whose queue it is.
        handlers: The same, as its deliveries name it.
        place: Who takes from it: the adapter's workers, or an executor.
    """

    __slots__ = ("handler", "handlers", "place")

    def __init__(self, handler: Handler, place: Place, source: DeliveryQueue) -> None:
        super().__init__(source.bound, source._backlog, exact=source.exact)
        self.channel = source.channel
        self.handler = handler
        self.place = place
        self.handlers = (handler,)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.channel.topic!r}, {self.handler.name})"


class ConcurrentQueue(HandlerQueue):
    """The same for a handler that may have several messages of a topic in hand: so many workers have it at once.

    It is given out once for each of them.
    """

    __slots__ = ("_turns",)

    exclusive: ClassVar[bool] = False

    def __init__(self, handler: Handler, place: Place, source: DeliveryQueue) -> None:
        super().__init__(handler, place, source)
        self.deliveries = []  # for as long as it lives: turns are counted here
        self._turns = 0  # workers that have it

    @property
    def busy(self) -> bool:
        """Whether messages wait, or are in the hands of a worker."""
        return self._turns > 0

    @property
    def _limit(self) -> int:
        assert self.handler.concurrency is not None
        return self.handler.concurrency

    def put(self, delivery: Delivery) -> bool:
        """Add it; gives whether the queue is to be given to one more worker."""
        assert self.deliveries is not None
        self.deliveries.append(delivery)
        if self._turns == self._limit:
            return False
        self._turns += 1
        return True

    def take(self, limit: int = BATCH) -> list[Delivery]:
        """The next deliveries: one for a worker of the adapter, a fair share for a batch of an executor."""
        waiting = self.deliveries
        if not waiting:
            self.end_turn()
            return []
        one = self.exact or self.place is not Place.EXECUTOR
        share = 1 if one else -(-len(waiting) // self._limit)  # rounded up
        taken = waiting[: min(share, limit, fitting(waiting))]
        del waiting[: len(taken)]
        return taken

    def end_turn(self) -> None:
        """One of the workers has found nothing more; the next message has the queue given out to one more again."""
        self._turns -= 1
