"""How messages reach handlers that an executor runs: in batches of one handler, over as many topics as have work.

The core keeps a queue for each (topic, handler). All queues of one handler that have something wait here together, and
are shared out among as many batches as the executor has workers. A queue that is in a batch stays with it until that
has come back (with `concurrency`, as many batches may have it), which keeps its order; so a topic that is behind
catches up in large batches, and ten thousand topics with a message each cost what one topic with ten thousand costs.

What waits in the queues, or is under way, counts as not handled: that bounds it, for reading pauses when too much of it
is.
"""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol

from phx_proto.handlers.handler import Handler
from phx_proto.queues import BATCH, LARGEST_TURN, Delivery, HandlerQueue, size_of

from .batches import Batch, Failure, Progress, is_process_pool
from .reports import HandlerError, OnHandlerError


class Outcome(Protocol):
    """A future of a batch that is done: asyncio's or `concurrent.futures`'."""

    def result(self) -> list[Failure]:
        """What `Batch.run` gave; raises what the executor has to say."""
        ...


class Host(ABC):
    """An adapter's workers; it extends this.

    Args:
        executor: For handlers in an executor that have none of their own.
        lock: Held while the core's queues are used.

    Attributes:
        closed: Whether the client has ended, and nothing is told any more.
        halted: Whether no handler is begun any more.
        dispatcher: Gives messages to executors.
    """

    def __init__(
        self,
        executor: Executor | None,
        *,
        on_error: OnHandlerError,
        fail_fast: bool,
        lock: AbstractContextManager[Any],
    ) -> None:
        self.on_error = on_error
        self.fail_fast = fail_fast
        self.lock = lock
        self.closed = False
        self.halted = False
        self.dispatcher = Dispatcher(self, executor)

    def halt(self) -> None:
        """Begin no handler any more; what runs is left to end."""
        self.halted = True

    def execute(self, queues: Sequence[HandlerQueue]) -> None:
        """These queues want an executor."""
        self.dispatcher.add(queues)

    @abstractmethod
    def call_soon(self, call: Callable[[], None], /) -> object:
        """Have something called after the read that is at work, where batches come back to."""

    @abstractmethod
    def submit(self, executor: Executor, batch: Batch, ended: Callable[[Outcome], None], /) -> None:
        """Give the batch to the executor. `ended` is called later, and by one thread for all batches.

        Raises:
            Exception: The executor does not take it.
        """

    @abstractmethod
    def handled(self, deliveries: Sequence[Delivery], /) -> None:
        """These are done with."""


_handler_of: Callable[[HandlerQueue], Handler] = attrgetter("handler")


class Dispatcher:
    """Passes messages to executors, for one client.

    Only `add` may be called from elsewhere than where batches come back to; the lock is held then.
    """

    def __init__(self, host: Host, default: Executor | None) -> None:
        self._host = host
        self._default = default
        self._handlers: dict[Handler, _HandlerBatches] = {}
        self._shares: set[_Share] = set()  # under way

    def add(self, queues: Iterable[HandlerQueue]) -> None:
        """These queues have something, and are in no batch."""
        for handler, some in groupby(queues, _handler_of):  # a read brings many of one handler
            batches = self._handlers.get(handler)
            if batches is None:
                executor = handler.executor or self._default
                assert executor is not None, "a handler without an executor was placed in one"
                self._handlers = {other: batches for other, batches in self._handlers.items() if batches.busy}
                batches = self._handlers[handler] = _HandlerBatches(handler, executor, self._host, self._shares)
            batches.add(some)

    def progress(self) -> list[Delivery]:
        """What batches that still run are done with, and have not told of yet; the lock is held.

        A message on which the handler raised, and what is behind it, counts when the failure is reported: at the end.
        """
        return [delivery for share in tuple(self._shares) for delivery in share.unreported(share.batch.progress.sound)]


class _HandlerBatches:
    """The queues of one handler that wait for its executor."""

    __slots__ = ("_called", "_executor", "_handler", "_host", "_pending", "_shares", "_under_way", "_workers")

    def __init__(self, handler: Handler, executor: Executor, host: Host, shares: "set[_Share]") -> None:
        self._handler = handler
        self._executor = executor
        self._host = host
        self._shares = shares
        self._workers = workers_of(executor)
        self._pending: deque[HandlerQueue] = deque()
        self._under_way = 0  # batches
        self._called = False  # `_begin` will be

    @property
    def busy(self) -> bool:
        """Whether anything waits here or is under way; the lock is held."""
        return bool(self._pending or self._under_way or self._called)

    def add(self, queues: Iterable[HandlerQueue]) -> None:
        self._pending.extend(queues)
        if not self._called:
            self._called = True
            self._host.call_soon(self._begin)

    def _begin(self) -> None:
        self._called = False
        while self._pending and self._under_way < self._workers and not self._host.halted:
            with self._host.lock:
                share = self._take()
            if not share.queues:
                continue
            self._under_way += 1
            self._shares.add(share)
            try:
                self._host.submit(self._executor, share.batch, partial(self._ended, share))
            except Exception as refusal:  # the executor is shut down, or broken
                self._settle(share, share.batch.lost(refusal), len(share.deliveries))

    def _take(self) -> "_Share":
        """A fair share of what waits."""
        pending = self._pending
        most = -(-len(pending) // (self._workers - self._under_way))  # rounded up
        queues: list[HandlerQueue] = []
        deliveries: list[Delivery] = []
        channels: list[object] | None = [] if self._handler.takes_channel else None
        heavy = pending[0].heavy  # as all are, or none
        left, room = BATCH, LARGEST_TURN
        while pending and len(queues) < most and left > 0 and room > 0:
            queue = pending.popleft()
            taken = queue.take(left)
            if not taken:  # its turn has ended
                continue
            queues.append(queue)
            deliveries += taken
            left -= len(taken)
            if heavy:
                room -= sum(map(size_of, taken))
            if channels is not None:
                channels += [queue.channel.context] * len(taken)
        messages = [message for _, message, _ in deliveries]
        batch = Batch(self._handler, messages, channels, self._host.fail_fast, Progress(self._host))
        return _Share(queues, deliveries, batch)

    def _ended(self, share: "_Share", outcome: Outcome) -> None:
        try:
            failures = outcome.result()
        except BaseException as error:  # a worker died, the batch could not be sent, or was cancelled
            # Once the client has ended, what was not begun is no failure.
            failures = [] if self._host.closed else share.batch.lost(error)
            done = len(share.deliveries)
            if self._host.halted:  # it was not begun, or nobody knows
                done = share.batch.progress.done
        else:
            done = share.batch.done(failures)
        self._settle(share, failures, done)
        self._begin()

    def _settle(self, share: "_Share", failures: list[Failure], done: int) -> None:
        host = self._host
        self._under_way -= 1
        for failure in failures:
            host.on_error(HandlerError(self._handler, share.batch.messages[failure.index], failure.error))
        with host.lock:
            self._shares.discard(share)
            more = share.unreported(done)
            for queue in share.queues:
                if queue.deliveries:
                    self._pending.append(queue)
                else:
                    queue.end_turn()  # its next message gives it out again
        host.handled(more)


class _Share:
    """What goes into one batch."""

    __slots__ = ("_reported", "batch", "deliveries", "queues")

    def __init__(self, queues: list[HandlerQueue], deliveries: list[Delivery], batch: Batch) -> None:
        self.queues = queues
        self.deliveries = deliveries
        self.batch = batch
        self._reported = 0

    def unreported(self, done: int) -> list[Delivery]:
        """Those of the first `done` that were not reported yet, and are now."""
        more, self._reported = self.deliveries[self._reported : done], max(done, self._reported)
        return more


def workers_of(executor: Executor) -> int:
    """How many batches an executor works on at once.

    The standard pools keep it in an attribute without documentation, which is used here alone; of others nothing is
    known, so one batch more than there are processors is kept under way.
    """
    if isinstance(executor, ThreadPoolExecutor) or is_process_pool(executor):
        return int(getattr(executor, "_max_workers", 0)) or 1
    return (os.cpu_count() or 1) + 1
