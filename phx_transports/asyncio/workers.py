"""A pool of workers over queued work that may suspend: as many as are needed, usually one.

Each piece of work is done by one worker and pieces beside each other, without a task for each. A worker takes the next
piece from the queue and does it; work that does not suspend costs no task switch at all. Behind every worker that is
called there is a baton on the loop: if the worker suspends with the queue not empty, the loop gets to the baton, which
calls another one for the rest, with a baton of its own; if not, the baton finds nothing to do. So whenever work is
queued, either a worker is at it or a baton is on its way. One idle worker stays parked, others end.

There are as many workers as pieces of work that are suspended at once, plus one. Their number has no bound of its own,
and needs none: each holds a channel that holds messages, and messages received and not yet handled are bounded per
connection.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

W = TypeVar("W")


class WorkerPool(Generic[W]):
    """Runs `work` whenever something is queued, and beside itself while it is suspended.

    Args:
        work: Takes pieces from the left of the queue and does them, until the queue is empty. If it is cancelled, or
            fails, it puts back what is left to do; another worker goes on.

    Attributes:
        closed: Whether nothing is begun any more.
    """

    def __init__(self, work: Callable[[deque[W]], Awaitable[None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._work = work
        self._queue: deque[W] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._parked: asyncio.Future[None] | None = None  # the idle worker waits for it
        self._coming = False  # a baton is on its way
        self.closed = False

    @property
    def size(self) -> int:
        """How many workers there are, the parked one included."""
        return len(self._workers)

    def includes(self, task: "asyncio.Task[Any] | None") -> bool:
        """Whether the task is one of the workers."""
        return task in self._workers

    def add(self, pieces: Iterable[W]) -> None:
        """Have them done, after those added before; never in this call. Ignored once the pool is closed."""
        if not self.closed:
            self._queue.extend(pieces)
            self._go_on()

    @property
    def at_work(self) -> bool:
        """Whether one of the workers is running this; not so when a coroutine is thrown away after the loop."""
        try:
            return self.includes(asyncio.current_task())
        except RuntimeError:  # there is no loop
            return False

    async def close(self) -> None:
        """Cancel every worker and wait until all have ended; what is not yet taken is forgotten.

        A worker that calls it, from within a handler, is neither cancelled nor waited for: it ends after its piece.
        """
        self.closed = True
        self._queue.clear()
        others = self._workers - {asyncio.current_task()}
        for worker in others:
            worker.cancel()
        if others:
            await asyncio.wait(others)

    def _go_on(self) -> None:
        """Call a worker for what is queued, the parked one or a new one, with a baton behind it."""
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
                if self._parked is parked:  # cancelled while nobody had called it
                    self._parked = None

    def _ended(self, worker: asyncio.Task[None]) -> None:
        self._workers.discard(worker)
        if not worker.cancelled() and (error := worker.exception()) is not None:
            # Work goes on, so this must not wait for the end to be seen.
            self._loop.call_exception_handler({"message": "a worker ended", "exception": error, "task": worker})
        self._go_on()


def is_stopped(error: BaseException) -> bool:
    """Whether this is the current task's own cancellation, as opposed to a `CancelledError` that code in it raised."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
