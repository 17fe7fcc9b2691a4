"""Runs handlers on threads of the client's own, or on an executor of the user's.

One topic's messages reach a handler in order. By default a crew's worker drains the channel and calls its handlers,
with no job for a message. Where that will not do, the message goes into a lane, which is to (topic, handler) what the
inbox is to a topic: with an executor of the user's handlers wait there, and get up to 256 messages a job; so do
handlers with `concurrency`, that many jobs at once. What waits in a lane, or in the hands of an iterator, still counts
as not handled, so a slow one is felt by the sender.

What needs no worker is handed over at once: an iterator gets its messages also while every thread is busy.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final

from phx_proto.client import ClientProtocol
from phx_proto.errors import PayloadMismatch
from phx_proto.handler import Handler
from phx_proto.inbox import Consumer, Delivery, Inbox, Tap
from phx_proto.message import Message

from ..batches import run_batch
from ..reports import HandlerError, OnHandlerError
from .crew import Crew
from .seam import Tell

if TYPE_CHECKING:
    from .channel import Channel

BATCH: Final = 256  # messages that a worker's turn, or an executor's job, takes at most

_here = threading.local()  # `runner`: whose handlers this thread runs now, as a number that may travel


class Runner:
    """Runs the handlers of one client.

    Args:
        proto: The core.
        executor: The user's; `None` for threads of the client's own.
        tell: Used for each input to the core; it takes the client's lock.
        on_turn: Told that so many messages of an inbox are handled; gives its next ones.
        later: Has something done after the lock was released.
        on_error: Told what a handler raised; must not raise.
        on_crash: Told of an error that was not foreseen.

    Attributes:
        executor: For lanes.
        closed: Whether no handler is begun any more.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        executor: Executor | None,
        *,
        tell: Tell,
        on_turn: Callable[[Inbox, int], list[Delivery]],
        later: Callable[[Callable[[], None]], None],
        on_error: OnHandlerError,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.tell = tell
        self.later = later
        self.on_error = on_error
        self.closed = False
        self._proto = proto
        self._on_turn = on_turn
        self.executor = Crew("phx-handler", on_error=on_crash) if executor is None else executor
        self._crew = self.executor if isinstance(self.executor, Crew) else None

    def add(self, inboxes: Sequence[Inbox]) -> None:
        """These inboxes have messages and are in nobody's hands; under the lock."""
        work = [partial(self._drain, inbox, inbox.take(BATCH)) for inbox in inboxes if self._needs_worker(inbox)]
        if work and self._crew is not None:
            self.later(partial(self._crew.add, work))

    @property
    def is_current(self) -> bool:
        """Whether this is called from within a handler."""
        return getattr(_here, "runner", None) == id(self)

    def handled(self, messages: int) -> None:
        """So many messages, kept beyond the turn of their channel, are done with; not under the lock."""
        self.tell(lambda now: self._proto.handled(messages, now))

    def close(self) -> None:
        """Begin no handler any more. One that runs cannot be stopped, and is not waited for."""
        self.closed = True
        if self._crew is not None:
            self._crew.shutdown()

    def _needs_worker(self, inbox: Inbox) -> bool:
        """Hand over what needs none; gives whether something is left."""
        waiting = inbox.deliveries or []
        if waiting and self._is_inline(waiting[0][0][0]):  # nearly always
            return True
        ahead = 0
        for consumers, item in waiting:
            if any(map(self._is_inline, consumers)):
                break
            ahead += 1
            self._proto.held(len(consumers) - 1)
            for consumer in consumers:
                self._hand_over(consumer, item, inbox.channel.context)
        if ahead:
            inbox.take(ahead)
        return bool(inbox.deliveries) or bool(inbox.take())  # the latter ends its turn

    def _is_inline(self, consumer: Consumer) -> bool:
        return self._crew is not None and isinstance(consumer, Handler) and consumer.concurrency == 1

    def _drain(self, inbox: Inbox, deliveries: list[Delivery]) -> None:
        _here.runner = id(self)
        tell = self.tell
        rest: Iterator[Any]  # of deliveries; what is no handler's is not always a message
        while deliveries:
            rest = iter(deliveries)
            # The loop is spelled out, and without any call that it can do without: it runs for each message.
            for consumers, item in rest:
                for consumer in consumers:
                    if consumer.__class__ is not Handler or consumer.concurrency != 1:
                        tell(partial(self._keep, consumer, item, inbox.channel.context))
                        continue
                    if self.closed:
                        return
                    try:
                        message = item if consumer.payload_type is None else consumer.accept(item)
                        if consumer.takes_channel:
                            returned = consumer.run(message, inbox.channel.context)
                        else:
                            returned = consumer.run(message)
                        if returned.__class__ is CoroutineType:
                            _refuse(consumer, returned)
                    except BaseException as error:
                        self.on_error(HandlerError(consumer, item, error))
            deliveries = self._on_turn(inbox, len(deliveries))

    def _keep(self, consumer: Consumer, item: Any, channel: "Channel", now: float) -> None:
        self._proto.held(1)
        self._hand_over(consumer, item, channel)

    def _hand_over(self, consumer: Consumer, item: Any, channel: "Channel") -> None:
        if isinstance(consumer, Tap):
            consumer.put(item)
        else:
            channel.lane(consumer, self).put(item)


class Lane:
    """The messages of one topic that wait for one handler which a worker does not call; in order, 256 a job at most."""

    __slots__ = ("_channel", "_handler", "_jobs", "_runner", "_waiting")

    def __init__(self, handler: Handler, channel: "Channel", runner: Runner) -> None:
        self._handler = handler
        self._channel = channel
        self._runner = runner
        self._waiting: deque[Message[Any]] = deque()
        self._jobs = 0

    def put(self, message: Message[Any]) -> None:
        """Have it handled, behind those before it; under the lock."""
        self._waiting.append(message)
        if len(self._waiting) == 1:
            self._runner.later(self._start)

    def _start(self) -> None:
        while batch := self._runner.tell(self._next):
            self._submit(batch)

    def _next(self, now: float) -> list[Message[Any]]:
        handler, waiting = self._handler, self._waiting
        if self._jobs >= handler.concurrency or self._runner.closed:
            return []
        share = -(-len(waiting) // handler.concurrency)  # rounded up
        batch = [waiting.popleft() for _ in range(min(share, BATCH))]
        self._jobs += bool(batch)
        return batch

    def _submit(self, batch: list[Message[Any]]) -> None:
        handler, runner = self._handler, self._runner
        accepted: list[Message[Any]] = []
        for message in batch:
            try:
                accepted.append(handler.accept(message))
            except PayloadMismatch as error:
                runner.on_error(HandlerError(handler, message, error))
        channel = self._channel if handler.takes_channel else None
        future: Future[list[tuple[int, BaseException]]]
        try:
            future = runner.executor.submit(_run_here, id(runner), handler, accepted, channel)
        except Exception as broken:  # it is shut down
            future = Future()
            future.set_exception(broken)
        future.add_done_callback(partial(self._ended, len(batch), accepted))

    def _ended(
        self, size: int, messages: list[Message[Any]], future: "Future[list[tuple[int, BaseException]]]"
    ) -> None:
        runner = self._runner
        try:
            failures = future.result()
        except BaseException as broken:  # the executor itself: a worker died, or the job was cancelled
            failures = [(index, broken) for index in range(len(messages))]
        if not runner.closed:
            for index, error in failures:
                runner.on_error(HandlerError(self._handler, messages[index], error))
        runner.tell(self._job_ended)
        self._start()
        runner.handled(size)

    def _job_ended(self, now: float) -> None:
        self._jobs -= 1


def _refuse(handler: Handler, coroutine: "CoroutineType[Any, Any, Any]") -> None:
    coroutine.close()
    raise TypeError(f"{handler.name} returned a coroutine, and threads await nothing: make it a plain function")


def _run_here(
    runner: int, handler: Handler, messages: Sequence[Message[Any]], channel: object
) -> list[tuple[int, BaseException]]:
    """An executor's job; `run_batch`, and the thread can tell that it runs a handler of this client."""
    _here.runner = runner
    try:
        return run_batch(handler, messages, channel)
    finally:
        _here.runner = None
