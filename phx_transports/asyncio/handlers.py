"""Runs handlers on an event loop: coroutine functions on the loop, plain functions in an executor.

A worker of the pool takes a queue (a topic's line, or a handler's own queue) and awaits its coroutine handlers; there
is no task for each message. Plain functions wait for the executor in queues of their own (`dispatcher.py`).

A handler that raises `CancelledError` is reported like any other. If other code than the runner cancels the worker's
task, that is reported too, and another task goes on with the queue.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import nullcontext
from typing import Any

from phx_proto.handlers.handler import Handler, HandlerKind
from phx_proto.message import Message
from phx_proto.queues import BATCH, LARGEST_TURN, Delivery, DeliveryQueue, Place, by_concurrency

from ..client.batches import Batch, Failure
from ..client.dispatcher import Host, Outcome
from ..client.reports import HandlerError, OnHandlerError
from .workers import WorkerPool, is_stopped


def placement(handler: Handler) -> Place:
    """Chooses a handler's queue."""
    return Place.EXECUTOR if handler.kind is HandlerKind.PLAIN else by_concurrency(handler)


class Runner(Host):
    """Runs the handlers of one client.

    Args:
        executor: For plain functions that have none of their own.
        on_done: Called when messages have been released, once until the next `report`.
        fail_fast: Whether no handler runs after one has raised.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        release: Callable[[Sequence[Delivery]], None],
        on_done: Callable[[], object],
        on_error: OnHandlerError,
        fail_fast: bool = False,
    ) -> None:
        super().__init__(executor, on_error=on_error, fail_fast=fail_fast, lock=nullcontext())  # all is on the loop
        self.on_done = on_done
        self.release = release
        self._told = False  # whether `on_done` was called since the last report
        self._over: list[Delivery] = []  # handled, and released when they are many, or with the next report
        self._batches: set[asyncio.Future[list[Failure]]] = set()
        self._pool: WorkerPool[DeliveryQueue] = WorkerPool(self._drain)

    def add(self, queues: list[DeliveryQueue]) -> None:
        self._pool.add(queues)

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        self.release(deliveries)
        if not self._told:
            self._told = True
            self.on_done()

    def report(self) -> list[Delivery]:
        """Messages to report to the core: those handled by running batches, and `_over`; others were released."""
        self._told = False
        over = [*self._over, *self.dispatcher.progress()]
        self._over.clear()
        return over

    @property
    def is_current(self) -> bool:
        """Whether this is called from within a handler."""
        return self._pool.at_work

    async def close(self) -> None:
        """Cancel what runs on the loop and what the executor has not begun, and wait until it has ended."""
        self.closed = self.halted = True
        await self._pool.close()
        batches = tuple(self._batches)
        for batch in batches:
            batch.cancel()
        if batches:
            await asyncio.wait(batches)

    def call_soon(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(call)

    def submit(self, executor: Executor, batch: Batch, ended: Callable[[Outcome], None]) -> None:
        """Give a batch to an executor; `ended` is called on the loop."""
        future = asyncio.get_running_loop().run_in_executor(executor, Batch.run, batch)
        self._batches.add(future)
        future.add_done_callback(self._batches.discard)
        future.add_done_callback(ended)

    async def _drain(self, runnable: deque[DeliveryQueue]) -> None:
        popleft, release, over = runnable.popleft, self.release, self._over
        while runnable and not self.halted:
            queue = popleft()
            while deliveries := queue.take():
                rest = iter(deliveries)
                try:
                    # Inlined, with as few calls as possible: this runs for each message.
                    for handlers, item, _ in rest:
                        for handler in handlers:
                            message = item
                            try:
                                # The second condition spares a call for what is decoded already.
                                if handler.payload_type is not None and type(item.undecoded) is not handler.struct:
                                    message = handler.accept(item)
                                if handler.takes_channel:
                                    await handler.run(message, queue.channel.context)
                                else:
                                    await handler.run(message)
                            except BaseException as error:
                                self.failed(handler, message, error)
                            if self.halted:
                                self.handled(deliveries[: len(deliveries) - len(list(rest))])
                                return
                except BaseException:  # the worker is stopped: another one will go on here
                    left = list(rest)
                    queue.put_back(left)
                    runnable.appendleft(queue)
                    cut_off = int(self.closed)  # the current message: no worker will go on with it
                    self.handled(deliveries[: len(deliveries) - len(left) - cut_off])
                    raise
                over += deliveries
                if len(over) >= BATCH or queue.exact or queue.backlog.size > LARGEST_TURN:
                    release(over)
                    over.clear()
                if not self._told:
                    self._told = True
                    self.on_done()

    def failed(self, handler: Handler, message: Message[Any], error: BaseException) -> None:
        """Report what a handler raised in this task; if it is the task's own cancellation, raise it again."""
        if isinstance(error, GeneratorExit) and not self._pool.at_work:  # the loop is gone, and its coroutines with it
            raise error
        stopped = is_stopped(error)
        if not (stopped and self.closed):
            self.on_error(HandlerError(handler, message, error))
        if stopped:
            raise error
