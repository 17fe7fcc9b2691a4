"""A crew of workers over channels that have messages: as many as are needed, usually one.

Each channel's messages are handled in order and channels beside each other, without a task for a channel or a
message. A worker takes a runnable channel and drains it; handlers that do not suspend cost no task switch at all.
Before a worker starts on a channel while others wait, it leaves a baton on the loop: if the handler suspends, the
loop gets to the baton, which calls another worker for the rest; if not, the baton finds nothing to do. One idle
worker stays parked, others end.

So there are as many workers as handlers that are suspended at once, plus one. Their number has no bound of its own, and
needs none: each holds a channel that holds messages, and messages received and not yet handled are bounded per
connection.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

C = TypeVar("C")


class Crew(Generic[C]):
    """Runs `drain` over every channel that was added, each at most once at a time if added so.

    The owner adds a channel when it becomes runnable (its first message came, nobody drains it) and not again before
    `drain` is done with it.
    """

    def __init__(
        self,
        drain: Callable[[Iterator[C]], Awaitable[None]],
        *,
        on_error: Callable[[C, BaseException], None],
    ) -> None:
        """Makes a crew on the running loop; the first worker starts with the first channel.

        Args:
            drain: Takes one channel after another, and handles what each holds until it holds nothing. A coroutine for
                a worker, not for a channel: where every message is for another channel, one each would cost too much.
            on_error: Told what came out of `drain`, which should report its handlers' errors itself; the crew goes on.
                Gets `CancelledError` too, where that did not come from `close`.
        """
        self._loop = asyncio.get_running_loop()
        self._drain = drain
        self._on_error = on_error
        self._runnable: deque[C] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._parked: asyncio.Future[None] | None = None  # the idle worker waits for it
        self._coming = False  # somebody will look at the runnable ones: a worker that was called, or a baton
        self._called: asyncio.Task[None] | None = None  # a new worker that has not begun
        self._closed = False

    @property
    def size(self) -> int:
        """How many workers there are, the parked one included."""
        return len(self._tasks)

    def includes(self, task: "asyncio.Task[Any] | None") -> bool:
        """Whether the task is one of the workers."""
        return task in self._tasks

    def add(self, channels: Iterable[C]) -> None:
        """Has each of them drained, after those added before; never in this call. Ignored once the crew is closed."""
        if self._closed:
            return
        self._runnable.extend(channels)
        if not self._coming:
            self._call()

    async def close(self) -> None:
        """Cancels every worker and waits until all have ended; channels not yet taken are forgotten.

        A worker that calls it, from within a handler, is neither cancelled nor waited for: it ends after its channel.
        """
        self._closed = True
        self._runnable.clear()
        others = self._tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)

    def _call(self) -> None:
        """Calls a worker: the parked one, or a new one."""
        self._coming = True
        parked, self._parked = self._parked, None
        if parked is not None and not parked.done():
            parked.set_result(None)
            return
        # Not `create_task`: an eager task factory would run handlers inside `add`.
        self._called = task = asyncio.Task(self._work(), loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _baton(self) -> None:
        if self._runnable:
            self._call()
        else:
            self._coming = False

    async def _work(self) -> None:
        self._called = None
        while True:
            self._coming = False
            await self._drain_runnable()
            if self._closed or self._parked is not None:
                return
            self._parked = parked = self._loop.create_future()
            try:
                await parked
            except asyncio.CancelledError:
                if not parked.cancelled():
                    self._coming = False  # it was called, and does not come
                elif self._parked is parked:
                    self._parked = None
                raise

    async def _drain_runnable(self) -> None:
        turn: list[Any] = [None]
        while self._runnable:
            try:
                await self._drain(self._turns(turn))
            except (Exception, asyncio.CancelledError) as error:
                stopped = is_stopped(error)
                if not (stopped and self._closed):
                    self._on_error(turn[0], error)
                if stopped:
                    raise

    def _turns(self, turn: list[Any]) -> Iterator[C]:
        """The channels of one worker, one after another; `turn` holds the one that it is at, alone."""
        runnable = self._runnable
        while runnable:
            channel = runnable.popleft()
            turn[0] = channel
            if runnable and not self._coming:
                self._coming = True
                self._loop.call_soon(self._baton)
            yield channel

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if self._called is task:  # cancelled before it began
            self._called = None
            self._coming = False
        if not task.cancelled() and (error := task.exception()) is not None:
            # Only `on_error` can have raised it. Work goes on, so this must not wait for the end to be seen.
            self._loop.call_exception_handler({"message": "a worker ended", "exception": error, "task": task})
        if self._runnable and not self._coming:
            self._call()


def is_stopped(error: BaseException) -> bool:
    """Whether this is the current task's own cancellation, as opposed to a `CancelledError` that code in it raised."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
