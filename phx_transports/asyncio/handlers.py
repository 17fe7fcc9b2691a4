"""Runs handlers on an event loop: coroutine functions on the loop, plain functions in an executor.

One topic's messages reach a handler in order. A coroutine handler is awaited by the crew's worker that drains the
channel, with no task for a message. Where that will not do, the message goes into a lane, which is to (topic, handler)
what the inbox is to a topic: plain functions wait there for the executor, and get up to 256 messages a job; handlers
with `concurrency` run there as tasks, that many at once. What waits in a lane, or in the hands of an iterator, still
counts as not handled, so a slow one is felt by the sender.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from phx_proto.channel import Channel as CoreChannel
from phx_proto.errors import PayloadMismatch
from phx_proto.handler import Handler, HandlerKind
from phx_proto.inbox import Tap
from phx_proto.message import Message

from ..batches import run_batch
from ..reports import HandlerError, OnHandlerError
from .crew import Crew

if TYPE_CHECKING:
    from .channel import Channel

_BATCH = 256  # messages an executor job takes at most


class Runner:
    """Runs the handlers of one client.

    Args:
        executor: For plain functions.
        on_held: Told of messages that are kept beyond the turn of their channel.
        on_handled: Told of messages that are done with.
        on_error: Told what a handler raised.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        on_held: Callable[[int], None],
        on_handled: Callable[[int], None],
        on_error: OnHandlerError,
    ) -> None:
        self.executor = executor
        self.on_held = on_held
        self.on_handled = on_handled
        self.on_error = on_error
        self.tasks: set[asyncio.Task[None]] = set()
        self._crew: Crew[CoreChannel] = Crew(self._drain, on_error=_crew_failed)

    def add(self, channels: list[CoreChannel]) -> None:
        """These channels have messages and are in nobody's hands."""
        self._crew.add(channels)

    @property
    def is_current(self) -> bool:
        """Whether this is called from within a handler."""
        task = asyncio.current_task()
        return task in self.tasks or self._crew.includes(task)

    async def close(self) -> None:
        """Cancel what still runs on the loop, and wait until it has ended."""
        await self._crew.close()
        others = self.tasks - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others)

    def spawn(self, run: "Callable[[], Any]") -> None:
        """Run a coroutine function beside the crew."""
        task = asyncio.get_running_loop().create_task(run())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _drain(self, core: CoreChannel) -> None:
        take = core.inbox.take
        deliveries: list[Any]  # of `Delivery`; what is not inline is not always a handler, nor its item a message
        while deliveries := take(_BATCH):
            # The loop is spelled out, and without any call that it can do without: it runs for each message.
            for consumers, item in deliveries:
                for consumer in consumers:
                    if not consumer.inline:
                        self._hand_over(consumer, item, core.context)
                        continue
                    try:
                        message = item if consumer.payload_type is None else consumer.accept(item)
                        if consumer.takes_channel:
                            await consumer.function(message, core.context)
                        else:
                            await consumer.function(message)
                    except (Exception, asyncio.CancelledError) as error:
                        self._failed(consumer, item, error)
            self.on_handled(len(deliveries))

    def _hand_over(self, consumer: Handler | Tap, item: Any, channel: "Channel") -> None:
        self.on_held(1)
        if isinstance(consumer, Tap):
            consumer.put(item)
            return
        try:
            message = consumer.accept(item)
        except PayloadMismatch as error:
            self.on_error(HandlerError(consumer, item, error))
            self.on_handled(1)
            return
        channel.lane(consumer, self).put(message)

    def _failed(self, handler: Handler, message: Message[Any], error: BaseException) -> None:
        if isinstance(error, asyncio.CancelledError) and is_cancelled():
            raise error
        self.on_error(HandlerError(handler, message, error))


class ExecutorLane:
    """The messages of one topic for one plain function: in order, up to 256 a job, `concurrency` jobs at once."""

    __slots__ = ("_channel", "_handler", "_jobs", "_runner", "_waiting")

    def __init__(self, handler: Handler, channel: "Channel", runner: Runner) -> None:
        self._handler = handler
        self._channel = channel
        self._runner = runner
        self._waiting: deque[Message[Any]] = deque()
        self._jobs = 0

    def put(self, message: Message[Any]) -> None:
        """Have it handled, behind those before it."""
        self._waiting.append(message)
        if self._jobs < self._handler.concurrency:
            self._jobs += 1
            self._runner.spawn(self._run)

    async def _run(self) -> None:
        loop, handler, runner = asyncio.get_running_loop(), self._handler, self._runner
        try:
            while self._waiting:
                size = min(len(self._waiting), _BATCH)
                batch = [self._waiting.popleft() for _ in range(size)]
                channel = self._channel if handler.takes_channel else None
                failures: list[tuple[int, BaseException]]
                try:
                    failures = await loop.run_in_executor(runner.executor, run_batch, handler, batch, channel)
                except Exception as broken:  # the executor itself: a worker died, or it is shut down
                    failures = [(index, broken) for index in range(size)]
                for index, error in failures:
                    runner.on_error(HandlerError(handler, batch[index], error))
                runner.on_handled(size)
        finally:
            self._jobs -= 1


class TaskLane:
    """The messages of one topic for one coroutine function that may have several in hand: `concurrency` at once."""

    __slots__ = ("_channel", "_handler", "_runner", "_tasks", "_waiting")

    def __init__(self, handler: Handler, channel: "Channel", runner: Runner) -> None:
        self._handler = handler
        self._channel = channel
        self._runner = runner
        self._waiting: deque[Message[Any]] = deque()
        self._tasks = 0

    def put(self, message: Message[Any]) -> None:
        """Have it handled as soon as one of the tasks is free."""
        self._waiting.append(message)
        if self._tasks < self._handler.concurrency:
            self._tasks += 1
            self._runner.spawn(self._run)

    async def _run(self) -> None:
        runner = self._runner
        try:
            while self._waiting:
                message = self._waiting.popleft()
                try:
                    await self._handler.call(message, self._channel)
                except (Exception, asyncio.CancelledError) as error:
                    if isinstance(error, asyncio.CancelledError) and is_cancelled():
                        raise
                    runner.on_error(HandlerError(self._handler, message, error))
                runner.on_handled(1)
        finally:
            self._tasks -= 1


Lane = ExecutorLane | TaskLane


def make_lane(handler: Handler, channel: "Channel", runner: Runner) -> Lane:
    """The lane in which a handler of that kind runs."""
    return (TaskLane if handler.kind is HandlerKind.ASYNC else ExecutorLane)(handler, channel, runner)


def is_cancelled() -> bool:
    """Whether the current task was asked to stop, as opposed to code in it that raised `CancelledError` by itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _crew_failed(channel: CoreChannel, error: BaseException) -> None:
    raise AssertionError(f"handlers' errors are reported where they are run, on {channel!r} too") from error
