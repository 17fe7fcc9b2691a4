"""Runs handlers on threads of the client's own, or on an executor of the user's.

One topic's messages reach a handler in order. By default a crew's worker takes a turn, which is what one topic's inbox
has, and calls its handlers, with no job for a message. The core hears of turns together while more work waits: ten
thousand topics with a message each need no ten thousand rounds through the lock.

Where that will not do, the message goes into a lane, which is to (topic, handler) what the inbox is to a topic
(`lanes.py`): with an executor of the user's handlers wait there, and so do those with `concurrency`. What waits in a
lane, or in the hands of an iterator, still counts as not handled, so a slow one is felt by the sender.

Whatever has to do with batches is done by one thread, the desk: giving them to the executor may take a while, which the
reader's thread has not; and what becomes of them is told by a thread of the executor's that had better not come back
with the next one: a process pool that breaks tells so under a lock, for which its `submit` would wait for ever.

What needs no worker is handed over at once: an iterator gets its messages also while every thread is busy.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from types import CoroutineType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from phx_proto.client import ClientProtocol
from phx_proto.handler import Handler
from phx_proto.inbox import Consumer, Delivery, Inbox, Tap

from ..batches import Batch, Failure, Progress
from ..lanes import BATCH, Lane, Outcome
from ..reports import HandlerError, OnHandlerError
from ..session import Tell
from .crew import Crew

if TYPE_CHECKING:
    from .channel import Channel

#: A worker's work: messages of an inbox, which is in nobody else's hands until `Runner.report`.
Turn: TypeAlias = tuple[Inbox, list[Delivery]]

_TURNS: Final = 64  # turns of which the core hears together, while there is more to do

_here = threading.local()  # `runner`: whose handlers this thread runs now, as a number that may travel


class Runner:
    """Runs the handlers of one client.

    Args:
        proto: The core.
        executor: The user's; `None` for threads of the client's own.
        tell: Used for each input to the core; it takes the client's lock.
        on_turns: Calls `report` and tells the core; `tell`, but for speed.
        later: Has something done after the lock was released.
        on_error: Told what a handler raised; must not raise.
        on_crash: Told of an error that was not foreseen.

    Attributes:
        closed: Whether the client has ended, and nothing is told any more.
        halted: Whether no handler is begun any more.
        fail_fast: Whether a handler's error is to be the last thing that handlers do.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        executor: Executor | None,
        *,
        tell: Tell,
        on_turns: Callable[[], list[Turn]],
        later: Callable[[Callable[[], None]], None],
        on_error: OnHandlerError,
        on_crash: Callable[[BaseException], None],
        fail_fast: bool = False,
    ) -> None:
        self.tell = tell
        self.later = later
        self.on_error = on_error
        self.closed = False
        self.halted = False
        self.fail_fast = fail_fast
        self._proto = proto
        self._on_turns = on_turns
        self._over: deque[tuple[Inbox, int, int]] = deque()  # turns over, of so many messages and bytes; to be reported
        self._executor = Crew("phx-handler", on_error=on_crash, on_last=self._flush) if executor is None else executor
        self._crew = self._executor if isinstance(self._executor, Crew) else None
        self._desk = Crew("phx-batches", on_error=on_crash, limit=1)
        self._batches: dict[Future[list[Failure]], Progress] = {}

    def add(self, inboxes: Sequence[Inbox]) -> None:
        """These inboxes have messages and are in nobody's hands; under the lock."""
        turns = [(inbox, inbox.take(BATCH)) for inbox in inboxes if self._needs_worker(inbox)]
        if turns:
            self.later(partial(self._begin, turns))

    def report(self, now: float) -> list[Turn]:
        """Tell the core of the turns that are over; gives those that their inboxes have now; under the lock."""
        over, handled, handled_size = self._over, 0, 0
        turns: list[Turn] = []
        while over:
            inbox, messages, size = over.popleft()
            handled += messages
            handled_size += size
            if deliveries := inbox.take(BATCH):
                turns.append((inbox, deliveries))
        self._proto.handled(handled, now, size=handled_size)
        return turns

    @property
    def is_current(self) -> bool:
        """Whether this is called from within a handler."""
        return getattr(_here, "runner", None) == id(self)

    def handled(self, messages: int, size: int) -> None:
        """So many messages, kept beyond the turn of their channel, are done with; not under the lock."""
        self.tell(lambda now: self._proto.handled(messages, now, size=size))

    def batch_handled(self, progress: Progress, done: int, size: int) -> None:
        """So many of a batch's messages, of so many bytes, are done with; not under the lock."""
        self.tell(lambda now: self._proto.handled(progress.unreported(done), now, size=size))

    def report_batches(self, now: float) -> None:
        """Tell the core how far batches are that run; under the lock."""
        done = sum(progress.unreported(progress.done) for progress in tuple(self._batches.values()))
        self._proto.handled(done, now)

    def halt(self) -> None:
        """Begin no handler any more; what runs is left to end."""
        self.halted = True

    def close(self) -> None:
        """Begin no handler any more. One that runs cannot be stopped, and is not waited for."""
        self.closed = self.halted = True
        for future in tuple(self._batches):
            future.cancel()
        for crew in filter(None, (self._crew, self._desk)):
            crew.shutdown()

    def lane(self, handler: Handler, channel: "Channel") -> Lane:
        """Where messages of the channel wait for a handler that no worker calls."""
        return Lane(handler, channel, self)

    def begin_later(self, begin: Callable[[], None]) -> None:
        """Have a lane begin what it may, at the desk; under the lock."""
        self.later(partial(self._desk.add, [begin]))

    def submit(self, batch: Batch, ended: Callable[[Outcome], None]) -> None:
        """Give a batch to the executor; its end is told at the desk."""
        future = self._executor.submit(_run_here, id(self), batch)
        self._batches[future] = batch.progress
        future.add_done_callback(lambda done: self._batches.pop(done, None))
        future.add_done_callback(lambda done: self._desk.add([partial(self._at_the_desk, ended, done)]))

    def _at_the_desk(self, ended: Callable[[Outcome], None], outcome: Outcome) -> None:
        with _within(id(self)):  # what is told of an error is in no position to wait for the end either
            ended(outcome)

    def _needs_worker(self, inbox: Inbox) -> bool:
        """Hand over what needs none; gives whether something is left."""
        waiting = inbox.deliveries or []
        if waiting and self._is_inline(waiting[0][0][0]):  # nearly always
            return True
        ahead = 0
        for consumers, item, size in waiting:
            if any(map(self._is_inline, consumers)):
                break
            ahead += 1
            others = len(consumers) - 1
            self._proto.held(others, size=others * size)
            for consumer in consumers:
                self._hand_over(consumer, item, size, inbox.channel.context)
        if ahead:
            inbox.take(ahead)
        return bool(inbox.deliveries) or bool(inbox.take())  # the latter ends its turn

    def _is_inline(self, consumer: Consumer) -> bool:
        return self._crew is not None and isinstance(consumer, Handler) and consumer.concurrency == 1

    def _begin(self, turns: Iterable[Turn]) -> None:
        assert self._crew is not None  # for lanes there are no turns
        self._crew.add([partial(self._drain, turn) for turn in turns])

    def _drain(self, turn: Turn) -> None:
        _here.runner = id(self)
        assert self._crew is not None
        turns = [turn]
        while turns:
            (inbox, deliveries), *others = turns
            if others:
                self._begin(others)
            size = self._run(deliveries, inbox.channel.context)
            if self.halted:
                return
            self._over.append((inbox, len(deliveries), size))
            # In this order, or the last ones could be forgotten: who takes the last work that waits flushes after that.
            if self._crew.waiting and len(self._over) < _TURNS:
                return
            turns = self._on_turns()

    def _flush(self) -> None:
        if self._over:
            self._begin(self._on_turns())

    def _run(self, deliveries: Iterable[Any], channel: "Channel") -> int:  # what is no handler's may be no message
        """Call the handlers; gives how many bytes their messages are."""
        size_done: int = 0
        # The loop is spelled out, and without any call that it can do without: it runs for each message.
        for consumers, item, size in deliveries:
            size_done += size
            for consumer in consumers:
                if consumer.__class__ is not Handler or consumer.concurrency != 1:
                    self.tell(partial(self._keep, consumer, item, size, channel))
                    continue
                if self.halted:
                    continue
                try:
                    message = item if consumer.payload_type is None else consumer.accept(item)
                    returned = consumer.run(message, channel) if consumer.takes_channel else consumer.run(message)
                    if returned.__class__ is CoroutineType:
                        _refuse(consumer, returned)
                except BaseException as error:
                    self.on_error(HandlerError(consumer, item, error))
        return size_done

    def _keep(self, consumer: Consumer, item: Any, size: int, channel: "Channel", now: float) -> None:
        self._proto.held(1, size=size)
        self._hand_over(consumer, item, size, channel)

    def _hand_over(self, consumer: Consumer, item: Any, size: int, channel: "Channel") -> None:
        if isinstance(consumer, Tap):
            consumer.put(item, size)
        else:
            channel.lane(consumer, self).put(item, size)


def _refuse(handler: Handler, coroutine: "CoroutineType[Any, Any, Any]") -> None:
    coroutine.close()
    raise TypeError(f"{handler.name} returned a coroutine, and threads await nothing: make it a plain function")


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
