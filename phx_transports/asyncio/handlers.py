"""Runs handlers on an event loop: coroutine functions on the loop, plain functions in an executor.

One topic's messages reach a handler in order. A coroutine handler is awaited by the crew's worker that drains the
channel, with no task for a message. Where that will not do, the message goes into a lane, which is to (topic, handler)
what the inbox is to a topic: plain functions wait there for the executor (`lanes.py`), and handlers with `concurrency`
run there as tasks, that many at once. What waits in a lane, or in the hands of an iterator, still counts as not
handled, so a slow one is felt by the sender.

A handler that raises `CancelledError` is reported like any other. If it was its task that somebody cancelled, who is
not the runner, that is reported too, and what waits behind it goes to another task.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from phx_proto.handler import Handler, HandlerKind
from phx_proto.inbox import Consumer, Inbox, Tap
from phx_proto.message import Message

from ..batches import Batch, Failure, Progress
from ..lanes import BATCH, Lane, Outcome
from ..reports import HandlerError, OnHandlerError
from .crew import Crew, is_stopped

if TYPE_CHECKING:
    from .channel import Channel


class Runner:
    """Runs the handlers of one client.

    Args:
        executor: For plain functions.
        on_held: Told of messages that are kept beyond the turn of their channel, how many and of how many bytes.
        on_done: Called when messages are done with, once until `report` takes their number.
        on_error: Told what a handler raised; must not raise.

    Attributes:
        closed: Whether the client has ended, and what still runs is cancelled.
        halted: Whether no handler is begun any more.
        fail_fast: Whether a handler's error is to be the last thing that handlers do.
        done: Messages that are done with and not yet reported.
        done_size: Their bytes.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        on_held: Callable[[int, int], None],
        on_done: Callable[[], object],
        on_error: OnHandlerError,
        fail_fast: bool = False,
    ) -> None:
        self.executor = executor
        self.on_held = on_held
        self.on_done = on_done
        self.on_error = on_error
        self.closed = False
        self.halted = False
        self.fail_fast = fail_fast
        self._tasks: set[asyncio.Task[None]] = set()
        self._batches: dict[asyncio.Future[list[Failure]], Progress] = {}
        self.done = 0
        self.done_size = 0
        self._crew: Crew[Inbox] = Crew(self._drain)

    def add(self, inboxes: list[Inbox]) -> None:
        """These inboxes have messages and are in nobody's hands."""
        self._crew.add(inboxes)

    def handled(self, messages: int, size: int) -> None:
        """So many messages, of so many bytes, are done with."""
        if not self.done:
            self.on_done()
        self.done += messages
        self.done_size += size

    def report(self) -> tuple[int, int]:
        """How many are done with since the last report, and their bytes; of batches that run, how far they are."""
        for progress in self._batches.values():
            self.done += progress.unreported(progress.done)
        done, self.done = (self.done, self.done_size), 0
        self.done_size = 0
        return done

    def batch_handled(self, progress: Progress, done: int, size: int) -> None:
        """So many of a batch's messages, of so many bytes, are done with."""
        self.handled(progress.unreported(done), size)

    def halt(self) -> None:
        """Begin no handler any more; what runs is left to end."""
        self.halted = True

    @property
    def is_current(self) -> bool:
        """Whether this is called from within a handler."""
        task = asyncio.current_task()
        return task in self._tasks or self._crew.includes(task)

    async def close(self) -> None:
        """Cancel what still runs on the loop, and what the executor has not begun, and wait until it has ended."""
        self.closed = self.halted = True
        await self._crew.close()
        pending: tuple[asyncio.Future[Any], ...] = (*self._tasks, *self._batches)
        for future in pending:
            future.cancel()
        if pending:
            await asyncio.wait(pending)

    def spawn(self, run: "Callable[[], Any]") -> None:
        """Run a coroutine function beside the crew."""
        # Not `create_task`: an eager task factory would run the handler here and now.
        task = asyncio.Task(run(), loop=asyncio.get_running_loop())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def lane(self, handler: Handler, channel: "Channel") -> "Lane | TaskLane":
        """Where messages of the channel wait for a handler that is not run at once."""
        if handler.kind is HandlerKind.ASYNC:
            return TaskLane(handler, channel, self)
        return Lane(handler, channel, self)

    def begin_later(self, begin: Callable[[], None]) -> None:
        """Have a lane begin what it may, in the loop's next turn."""
        asyncio.get_running_loop().call_soon(begin)

    def submit(self, batch: Batch, ended: Callable[[Outcome], None]) -> None:
        """Give a batch to the executor; its end is told on the loop."""
        future = asyncio.get_running_loop().run_in_executor(self.executor, Batch.run, batch)
        self._batches[future] = batch.progress
        future.add_done_callback(self._batches.pop)
        future.add_done_callback(ended)

    async def _drain(self, runnable: deque[Inbox]) -> None:
        popleft = runnable.popleft
        while runnable and not self.halted:
            inbox = popleft()
            while deliveries := inbox.take(BATCH):
                rest: Iterator[Any] = iter(deliveries)  # what is not inline is not always a handler
                kept = size_done = 0
                try:
                    # The loops are spelled out, without any call they can do without: this runs for each message.
                    for consumers, item, size in rest:
                        size_done += size
                        for consumer in consumers:
                            if not consumer.inline:
                                if self._keep(item, size, consumer, consumers, inbox.channel.context):
                                    kept += 1
                                    size_done -= size
                                continue
                            try:
                                message = item if consumer.payload_type is None else consumer.accept(item)
                                if consumer.takes_channel:
                                    await consumer.run(message, inbox.channel.context)
                                else:
                                    await consumer.run(message)
                            except BaseException as error:
                                self.failed(consumer, item, error)
                            if self.halted:
                                for tap in consumers:
                                    if isinstance(tap, Tap):  # streams have what was handled
                                        self._keep(item, size, tap, consumers, inbox.channel.context)
                                self.handled(len(deliveries) - len(list(rest)) - kept, size_done)
                                return
                except BaseException:  # the worker is stopped: another will go on here
                    left = list(rest)
                    inbox.put_back(left)
                    runnable.appendleft(inbox)
                    cut_off = int(self.closed)  # the one at work: nobody will go on with it
                    self.handled(len(deliveries) - len(left) - kept - cut_off, size_done)
                    raise
                if not self.done:  # `handled`, spelled out
                    self.on_done()
                self.done += len(deliveries) - kept
                self.done_size += size_done
                if not inbox.deliveries:  # `take` would end the turn likewise
                    inbox.deliveries = None
                    break

    def _keep(
        self, item: Any, size: int, consumer: Consumer, consumers: tuple[Consumer, ...], channel: "Channel"
    ) -> bool:
        """Hand it to where it waits; gives whether that is what it counts for from now on, and not this turn.

        Otherwise it counts for both: for other consumers it is kept too, or handled in this turn.
        """
        moves = consumer is consumers[0] and not any(other.inline for other in consumers)
        if not moves:
            self.on_held(1, size)
        if isinstance(consumer, Tap):
            consumer.put(item, size)
        else:
            channel.lane(consumer, self).put(item, size)
        return moves

    def failed(self, handler: Handler, message: Message[Any], error: BaseException) -> None:
        """Report what a handler raised in this task; if that is the task's own cancellation, raise it on."""
        stopped = is_stopped(error)
        if isinstance(error, GeneratorExit):  # the loop is gone, and its coroutines with it
            raise error
        if not (stopped and self.closed):
            self.on_error(HandlerError(handler, message, error))
        if stopped:
            raise error


class TaskLane:
    """The messages of one topic that wait for a coroutine function with `concurrency`: in order, that many at once."""

    __slots__ = ("_channel", "_handler", "_runner", "_tasks", "_waiting")

    def __init__(self, handler: Handler, channel: "Channel", runner: Runner) -> None:
        self._handler = handler
        self._channel = channel
        self._runner = runner
        self._waiting: deque[tuple[Message[Any], int]] = deque()  # each with its bytes
        self._tasks = 0

    def put(self, message: Message[Any], size: int) -> None:
        """Have it handled, behind those before it."""
        self._waiting.append((message, size))
        self._start()

    def _start(self) -> None:
        if self._waiting and self._tasks < self._handler.concurrency and not self._runner.halted:
            self._tasks += 1
            self._runner.spawn(self._work)

    async def _work(self) -> None:
        try:
            while self._waiting and not self._runner.halted:
                await self._handle(*self._waiting.popleft())
        finally:
            self._tasks -= 1
            self._start()

    async def _handle(self, message: Message[Any], size: int) -> None:
        handler, runner = self._handler, self._runner
        try:
            await handler.call(handler.accept(message), self._channel)
        except BaseException as error:
            runner.failed(handler, message, error)
        finally:
            if not runner.closed:  # else it was cut off
                runner.handled(1, size)
