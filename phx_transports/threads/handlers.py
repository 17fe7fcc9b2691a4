"""Runs handlers on threads of the client's own, or on an executor of the user's.

By default a worker of the pool takes a turn: some messages of one queue. It calls their handlers one after another;
there is no job for each message. While more work is queued, finished turns are reported to the core together, so ten
thousand topics with one message each do not take the lock ten thousand times.

Handlers that have an executor wait in queues of their own (`dispatcher.py`). One thread, the submitter, handles their
batches: `submit` may block, and the I/O thread must not. An executor reports a result on a thread of its own. That
thread must not submit the next batch: a broken process pool reports that under a lock for which `submit` would wait
forever.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from operator import call
from types import CoroutineType
from typing import Final, TypeAlias

from phx_proto.client import ClientProtocol
from phx_proto.queues import Delivery, DeliveryQueue, Place, Placement, by_concurrency

from ..client.batches import Batch, Failure, refuse_coroutine
from ..client.dispatcher import Host, Outcome
from ..client.reports import HandlerError, OnHandlerError
from ..client.session import Step
from .workers import WorkerPool

#: A worker's job: messages of a queue. Only this worker uses the queue until `Runner.report`.
Turn: TypeAlias = tuple[DeliveryQueue, list[Delivery]]

_TURNS: Final = 64  # turns that are reported to the core together, while more work is queued

_here = threading.local()  # `runner`: the id of the runner whose handlers this thread runs now; it can be pickled


def placement(executor: Executor | None) -> Placement:
    """Chooses a handler's queue; `executor` is for handlers that have none of their own."""
    if executor is not None:
        return lambda handler: Place.EXECUTOR
    return lambda handler: by_concurrency(handler) if handler.executor is None else Place.EXECUTOR


class Runner(Host):
    """Runs the handlers of one client.

    Args:
        step: Used for each input to the core; it takes the client's lock.
        on_turns: Calls `report` in a step; a faster `step`.
        later: Calls something after the lock is released.
        on_crash: Called with an unexpected error.
        fail_fast: Whether no handler runs after one has raised.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        executor: Executor | None,
        *,
        lock: threading.Lock,
        step: Step,
        on_turns: Callable[[], list[Turn]],
        later: Callable[[Callable[[], object]], None],
        on_error: OnHandlerError,
        on_crash: Callable[[BaseException], None],
        fail_fast: bool = False,
    ) -> None:
        super().__init__(executor, on_error=on_error, fail_fast=fail_fast, lock=lock)
        self._step = step
        self._later = later
        self._proto = proto
        self._on_turns = on_turns
        self._over: deque[Turn] = deque()  # finished turns, to be reported
        self._pool: WorkerPool[Turn] = WorkerPool(
            "phx-handler", self._drain, on_error=on_crash, on_last=self._flush, on_start=self._mark
        )
        self._submitter: WorkerPool[Callable[[], None]] = WorkerPool("phx-batches", call, on_error=on_crash, limit=1)
        self._batches: set[Future[list[Failure]]] = set()

    def add(self, queues: Sequence[DeliveryQueue]) -> None:
        """Start workers for these queues; under the lock."""
        self._later(partial(self._pool.add, [(queue, queue.take()) for queue in queues]))

    def report(self, now: float) -> list[Turn]:
        """Report finished turns to the core; returns the next turns of their queues; under the lock."""
        over = self._over
        handled: list[Delivery] = []
        turns: list[Turn] = []
        while over:
            queue, done = over.popleft()
            handled += done
            done.clear()  # the worker's job goes on with other turns, and would keep the first one alive
            if deliveries := queue.take():
                turns.append((queue, deliveries))
        self._proto.handled(handled, now)
        return turns

    @property
    def is_current(self) -> bool:
        """Whether this is called from within a handler."""
        return getattr(_here, "runner", None) == id(self)

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        """Report these as handled; called without the lock."""
        if self.closed:  # no further steps
            with self.lock:
                self._proto.release(deliveries)
            return
        self._step(lambda now: self._proto.handled(deliveries, now))

    def report_batches(self, now: float) -> None:
        """Report the progress of running batches to the core; under the lock."""
        self._proto.handled(self.dispatcher.progress(), now)

    def close(self) -> None:
        """Begin no further handler. One that runs cannot be stopped, and is not waited for."""
        self.closed = self.halted = True
        for future in tuple(self._batches):
            future.cancel()
        self._pool.shutdown()
        for work in self._submitter.shutdown():  # ended batches, whose errors are still to be reported
            work()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Call something on the submitter; under the lock."""
        self._later(partial(self._submitter.add, [call]))

    def submit(self, executor: Executor, batch: Batch, ended: Callable[[Outcome], None]) -> None:
        """Give a batch to an executor; `ended` is called on the submitter."""
        future = executor.submit(_run_here, id(self), batch)
        if not isinstance(future, Future):  # pyright: ignore[reportUnnecessaryIsInstance] - users write executors
            raise TypeError(f"the executor's submit gave {type(future).__name__}, and no concurrent.futures.Future")
        self._batches.add(future)
        future.add_done_callback(self._batches.discard)
        future.add_done_callback(partial(self._come_back, ended))

    def _come_back(self, ended: Callable[[Outcome], None], outcome: Outcome) -> None:
        work = partial(self._on_submitter, ended, outcome)
        if not self._submitter.add([work]):  # the client has ended: only the errors are reported
            work()

    def _on_submitter(self, ended: Callable[[Outcome], None], outcome: Outcome) -> None:
        with _within(id(self)):  # an error's callback must not wait for the client's end either
            ended(outcome)

    def _mark(self) -> None:
        """Mark this thread as one that runs handlers of this client."""
        _here.runner = id(self)

    def _drain(self, turn: Turn) -> None:
        while True:
            queue, deliveries = turn
            self._run(deliveries, queue)
            if self.halted:
                return
            self._over.append(turn)
            # Append before this test: the thread that takes the last queued work calls `_flush` after taking it.
            if self._pool.waiting and len(self._over) < _TURNS and not queue.exact:
                return
            turns = self._on_turns()
            if not turns:
                return
            turn, *others = turns
            if others:
                self._pool.add(others)

    def _flush(self) -> None:
        if self._over:
            self._pool.add(self._on_turns())

    def _run(self, deliveries: Iterable[Delivery], queue: DeliveryQueue) -> None:
        # Inlined, and with as few calls as possible: it runs for each message.
        for handlers, item, _ in deliveries:
            for handler in handlers:
                if self.halted:
                    return
                message = item
                try:
                    if handler.payload_type is not None:
                        message = handler.accept(item)
                    if handler.takes_channel:
                        returned = handler.run(message, queue.channel.context)
                    else:
                        returned = handler.run(message)
                    if returned.__class__ is CoroutineType:
                        refuse_coroutine(handler, returned)
                except BaseException as error:
                    self.on_error(HandlerError(handler, message, error))


def _run_here(runner: int, batch: Batch) -> list[Failure]:
    """An executor's job; marks its thread as one that runs a handler of this client."""
    with _within(runner):
        return batch.run()


@contextmanager
def _within(runner: int) -> Generator[None]:
    before = getattr(_here, "runner", None)
    _here.runner = runner
    try:
        yield
    finally:
        _here.runner = before
