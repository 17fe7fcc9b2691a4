"""Sends messages to handlers in an executor: in batches of one handler, over as many topics as have messages.

The core keeps a queue for each (topic, handler). The non-empty queues of one handler wait here together, and are shared
out among as many batches as the executor has workers. A queue stays in its batch until the batch has returned (with
`concurrency`, it may be in several), which keeps its order. So a topic that is behind catches up in large batches, and
ten thousand topics with one message each cost as much as one topic with ten thousand.

Messages in queues and in running batches count as not handled. That bounds them: reading pauses when there are too
many.
"""

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from operator import attrgetter
from typing import Any, Protocol

from phx_proto.handlers.handler import Handler
from phx_proto.queues import BATCH, LARGEST_TURN, Delivery, HandlerQueue, size_of

from .batches import Batch, Failure, Halt, Progress, checked_failures, is_process_pool
from .reports import HandlerError, OnHandlerError


class Outcome(Protocol):
    """A future of a batch that is done: asyncio's or `concurrent.futures`'."""

    def result(self) -> list[Failure]:
        """The value of `Batch.run`; raises the executor's error if there is one."""
        ...


class Host(Halt, ABC):
    """An adapter's workers; an adapter extends this.

    Args:
        executor: For handlers in an executor that have none of their own.
        lock: Held while the core's queues are used.

    Attributes:
        closed: Whether the client has ended, and reports nothing more.
        dispatcher: Passes messages to executors.
    """

    def __init__(
        self,
        executor: Executor | None,
        *,
        on_error: OnHandlerError,
        fail_fast: bool,
        lock: AbstractContextManager[Any],
    ) -> None:
        super().__init__()
        self.on_error = on_error
        self.fail_fast = fail_fast
        self.lock = lock
        self.closed = False
        self.dispatcher = Dispatcher(self, executor)

    def execute(self, queues: Sequence[HandlerQueue]) -> None:
        """These queues have messages for an executor."""
        self.dispatcher.add(queues)

    @abstractmethod
    def call_soon(self, call: Callable[[], None], /) -> object:
        """Call something after the current read, where batches return to (the loop or the submitter)."""

    @abstractmethod
    def submit(self, executor: Executor, batch: Batch, ended: Callable[[Outcome], None], /) -> None:
        """Give the batch to the executor. `ended` is called later, always by the same thread.

        Raises:
            Exception: The executor does not take it.
        """

    @abstractmethod
    def handled(self, deliveries: Sequence[Delivery], /) -> None:
        """Report these as handled."""


_handler_of: Callable[[HandlerQueue], Handler] = attrgetter("handler")


class Dispatcher:
    """Passes messages to executors, for one client.

    All methods but `add` are called where batches return to. `add` may be called elsewhere, with the lock held.
    """

    def __init__(self, host: Host, default: Executor | None) -> None:
        self._host = host
        self._default = default
        self._handlers: dict[Handler, _HandlerBatches] = {}
        self._shares: set[_Share] = set()  # running

    def add(self, queues: Iterable[HandlerQueue]) -> None:
        """Add queues that have messages and are in no batch."""
        for handler, some in groupby(queues, _handler_of):  # a read brings many for the same handler
            batches = self._handlers.get(handler)
            if batches is None:
                executor = handler.executor or self._default
                assert executor is not None, "a handler without an executor was placed in one"
                self._handlers = {other: batches for other, batches in self._handlers.items() if batches.busy}
                batches = self._handlers[handler] = _HandlerBatches(handler, executor, self._host, self._shares)
            batches.add(some)

    def progress(self) -> list[Delivery]:
        """Messages that running batches have handled, and have not reported yet; called with the lock held.

        A message on which the handler raised, and those after it, are reported with the failures, at the batch's end.
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
        self._under_way = 0  # running batches
        self._called = False  # a call of `_begin` is scheduled

    @property
    def busy(self) -> bool:
        """Whether anything waits here or runs; called with the lock held."""
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
        """A fair share of the waiting messages."""
        pending = self._pending
        most = -(-len(pending) // (self._workers - self._under_way))  # rounded up
        queues: list[HandlerQueue] = []
        deliveries: list[Delivery] = []
        channels: list[object] | None = [] if self._handler.takes_channel else None
        heavy = pending[0].heavy  # either all are, or none
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
            failures = checked_failures(outcome.result())
        except BaseException as error:  # a worker died, or the batch could not be sent or was cancelled
            # After the client's end, a batch that never ran is not a failure.
            failures = [] if self._host.closed else share.batch.lost(error)
            done = len(share.deliveries)
            if self._host.halted:  # it has not run, or may not have
                done = share.batch.progress.done
        else:
            done = share.batch.done(failures)
        self._settle(share, failures, done)
        self._begin()

    def _settle(self, share: "_Share", failures: list[Failure], done: int) -> None:
        host = self._host
        self._under_way -= 1
        for failure in failures:
            message = failure.message or share.batch.messages[failure.index]
            host.on_error(HandlerError(self._handler, message, failure.error))
        with host.lock:
            self._shares.discard(share)
            more = share.unreported(done)
            for queue in share.queues:
                if queue.deliveries:
                    self._pending.append(queue)
                else:
                    queue.end_turn()  # its next message adds it again
        host.handled(more)


@dataclass(slots=True, eq=False)
class _Share:
    """The messages of one batch."""

    queues: list[HandlerQueue]
    deliveries: list[Delivery]
    batch: Batch
    _reported: int = 0

    def unreported(self, done: int) -> list[Delivery]:
        """Those of the first `done` that have not been reported yet; marks them as reported."""
        more, self._reported = self.deliveries[self._reported : done], max(done, self._reported)
        return more


def workers_of(executor: Executor) -> int:
    """How many batches an executor runs at once.

    The standard pools keep it in an undocumented attribute, which is used only here. For other executors it is unknown:
    one batch more than there are processors is kept running.
    """
    if isinstance(executor, ThreadPoolExecutor) or is_process_pool(executor):
        return int(getattr(executor, "_max_workers", 0)) or 1
    return (os.cpu_count() or 1) + 1
