"""A pool of worker tasks for queued work that may suspend: as many as are needed, usually one.

A worker takes the next piece of work from the queue and does it, so there is no task for each piece, and work that does
not suspend needs no task switch at all. With every worker that is woken or started, a callback is scheduled on the
loop. If the worker suspends with work still queued, the callback wakes or starts another worker, with a callback of its
own; otherwise it does nothing. So whenever work is queued, either a worker runs or a callback is scheduled. One idle
worker stays parked, others end.

There are as many workers as pieces of work that are suspended at once, plus one. Their number needs no bound of its
own: each has a channel's messages, and messages received and not yet handled are bounded per connection.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

W = TypeVar("W")


class WorkerPool(Generic[W]):
    """Runs `work` whenever something is queued, also while other runs of it are suspended.

    Args:
        work: Takes pieces from the left of the queue and does them, until the queue is empty. If it is cancelled or
            fails, it puts back the rest; another worker goes on.

    Attributes:
        closed: Whether no further work is begun.
    """

    def __init__(self, work: Callable[[deque[W]], Awaitable[None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._work = work
        self._queue: deque[W] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._parked: asyncio.Future[None] | None = None  # a future that wakes the idle worker
        self._coming = False  # the callback is scheduled
        self.closed = False

    @property
    def size(self) -> int:
        """The number of workers, including the parked one."""
        return len(self._workers)

    def add(self, pieces: Iterable[W]) -> None:
        """Queue pieces after those added before; they never run within this call. Ignored once the pool is closed."""
        if not self.closed:
            self._queue.extend(pieces)
            self._go_on()

    @property
    def at_work(self) -> bool:
        """Whether a worker runs this code; false for a coroutine that is closed after the loop."""
        try:
            return asyncio.current_task() in self._workers
        except RuntimeError:  # there is no loop
            return False

    async def close(self) -> None:
        """Cancel every worker and wait until all have ended; queued work is dropped.

        If a worker calls it, from within a handler, that worker is not cancelled, and ends after its piece.
        """
        self.closed = True
        self._queue.clear()
        others = self._workers - {asyncio.current_task()}
        for worker in others:
            worker.cancel()
        if others:
            await asyncio.wait(others)

    def _go_on(self) -> None:
        """Wake the parked worker or start a new one, and schedule the callback."""
        if not self._queue or self._coming or self.closed:
            return
        self._coming = True
        parked, self._parked = self._parked, None
        if parked is not None and not parked.done():
            parked.set_result(None)
        else:
            # Not `create_task`: an eager task factory would run handlers inside `add`.
            worker = asyncio.Task(self._run(), loop=self._loop)
            self._workers.add(worker)
            worker.add_done_callback(self._ended)
        self._loop.call_soon(self._baton)

    def _baton(self) -> None:
        self._coming = False
        self._go_on()

    async def _run(self) -> None:
        while not self.closed:
            await self._work(self._queue)
            if self.closed or self._parked is not None:
                return
            self._parked = parked = self._loop.create_future()
            try:
                await parked
            finally:
                if self._parked is parked:  # cancelled before it was woken
                    self._parked = None

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            # Work goes on, so the error must be reported now, not at the end.
            self._loop.call_exception_handler({"message": "a worker ended", "exception": error, "task": worker})
        self._go_on()


def is_stopped(error: BaseException) -> bool:
    """Whether this is the current task's own cancellation, and not a `CancelledError` that code in it raised."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
