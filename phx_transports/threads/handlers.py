"""Runs handlers on threads of the client's own, or on an executor of the user's.

By default a pool's worker takes a turn: messages of one queue, whose handlers it calls one after another, with no job
for a message. The core hears of turns together while more work waits: ten thousand topics with a message each need no
ten thousand rounds through the lock.

Handlers for which an executor was given wait in queues of their own (`dispatcher.py`). Whatever has to do with their
batches is done by one thread, the submitter: `submit` may take a while, and the I/O thread must not wait. The executor
reports results on a thread of its own, which must not submit the next batch: a process pool that breaks reports that
under a lock for which `submit` would wait for ever.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from types import CoroutineType
from typing import Final, TypeAlias

from phx_proto.client import ClientProtocol
from phx_proto.queues import Delivery, DeliveryQueue, Place, Placement, by_concurrency

from ..client.batches import Batch, Failure, refuse_coroutine
from ..client.dispatcher import Host, Outcome
from ..client.reports import HandlerError, OnHandlerError
from ..client.session import Step
from .workers import WorkerPool

#: A worker's work: messages of a queue, which is in its hands until `Runner.report`.
Turn: TypeAlias = tuple[DeliveryQueue, list[Delivery]]

_TURNS: Final = 64  # turns of which the core hears together, while there is more to do

_here = threading.local()  # `runner`: whose handlers this thread runs now, as a number that may travel


def placement(executor: Executor | None) -> Placement:
    """Where handlers wait for their messages, with this executor for those that have none of their own."""
    if executor is not None:
        return lambda handler: Place.EXECUTOR
    return lambda handler: by_concurrency(handler) if handler.executor is None else Place.EXECUTOR


class Runner(Host):
    """Runs the handlers of one client.

    Args:
        step: Used for each input to the core; it takes the client's lock.
        on_turns: Calls `report` and tells the core; `step`, but for speed.
        later: Has something done after the lock was released.
        on_crash: Told of an error that was not foreseen.
        fail_fast: Whether a handler's error is to be the last thing that handlers do.
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
        self._over: deque[Turn] = deque()  # turns that are over, to be reported
        self._pool = WorkerPool("phx-handler", on_error=on_crash, on_last=self._flush)
        self._submitter = WorkerPool("phx-batches", on_error=on_crash, limit=1)
        self._batches: set[Future[list[Failure]]] = set()

    def add(self, queues: Sequence[DeliveryQueue]) -> None:
        """These queues want a worker; under the lock."""
        self._later(partial(self._begin, [(queue, queue.take()) for queue in queues]))

    def report(self, now: float) -> list[Turn]:
        """Tell the core of the turns that are over; gives those that their queues have now; under the lock."""
        over = self._over
        handled: list[Delivery] = []
        turns: list[Turn] = []
        while over:
            queue, done = over.popleft()
            handled += done
            done.clear()  # the worker's job goes on with other turns, and would hold its first one
            if deliveries := queue.take():
                turns.append((queue, deliveries))
        self._proto.handled(handled, now)
        return turns

    @property
    def is_current(self) -> bool:
        """Whether this is called from within a handler."""
        return getattr(_here, "runner", None) == id(self)

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        """These are done with; not under the lock."""
        if self.closed:  # there are no steps any more
            with self.lock:
                self._proto.release(deliveries)
            return
        self._step(lambda now: self._proto.handled(deliveries, now))

    def report_batches(self, now: float) -> None:
        """Tell the core how far batches are that run; under the lock."""
        self._proto.handled(self.dispatcher.progress(), now)

    def close(self) -> None:
        """Begin no handler any more. One that runs cannot be stopped, and is not waited for."""
        self.closed = self.halted = True
        for future in tuple(self._batches):
            future.cancel()
        self._pool.shutdown()
        for work in self._submitter.shutdown():  # batches that have ended: what their handlers raised is reported
            work()

    def call_soon(self, call: Callable[[], None]) -> None:
        """Have something called on the submitter; under the lock."""
        self._later(partial(self._submitter.add, [call]))

    def submit(self, executor: Executor, batch: Batch, ended: Callable[[Outcome], None]) -> None:
        """Give a batch to an executor; its end is told on the submitter."""
        future = executor.submit(_run_here, id(self), batch)
        self._batches.add(future)
        future.add_done_callback(self._batches.discard)
        future.add_done_callback(partial(self._come_back, ended))

    def _come_back(self, ended: Callable[[Outcome], None], outcome: Outcome) -> None:
        work = partial(self._on_submitter, ended, outcome)
        if not self._submitter.add([work]):  # the client has ended: nothing is submitted any more, but a report may be
            work()

    def _on_submitter(self, ended: Callable[[Outcome], None], outcome: Outcome) -> None:
        with _within(id(self)):  # what is told of an error is in no position to wait for the end either
            ended(outcome)

    def _begin(self, turns: Iterable[Turn]) -> None:
        self._pool.add([partial(self._drain, turn) for turn in turns])

    def _drain(self, turn: Turn) -> None:
        _here.runner = id(self)
        turns = [turn]
        while turns:
            (queue, deliveries), *others = turns
            if others:
                self._begin(others)
            self._run(deliveries, queue.channel.context)
            if self.halted:
                return
            self._over.append((queue, deliveries))
            # In this order, or the last ones could be forgotten: who takes the last work that waits flushes after that.
            if self._pool.waiting and len(self._over) < _TURNS and not queue.exact:
                return
            turns = self._on_turns()

    def _flush(self) -> None:
        if self._over:
            self._begin(self._on_turns())

    def _run(self, deliveries: Iterable[Delivery], channel: object) -> None:
        # The loop is spelled out, and without any call that it can do without: it runs for each message.
        for handlers, item, _ in deliveries:
            for handler in handlers:
                if self.halted:
                    return
                try:
                    message = item if handler.payload_type is None else handler.accept(item)
                    returned = handler.run(message, channel) if handler.takes_channel else handler.run(message)
                    if returned.__class__ is CoroutineType:
                        refuse_coroutine(handler, returned)
                except BaseException as error:
                    self.on_error(HandlerError(handler, item, error))


def _run_here(runner: int, batch: Batch) -> list[Failure]:
    """An executor's job; its thread can tell that it runs a handler of this client."""
    with _within(runner):
        return batch.run()


@contextmanager
def _within(runner: int) -> Generator[None]:
    _here.runner = runner
    try:
        yield
    finally:
        _here.runner = None
