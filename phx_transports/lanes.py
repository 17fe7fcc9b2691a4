"""`Lane`: where a topic's messages wait for a plain handler that an executor runs, the same in every adapter.

A lane is to (topic, handler) what the inbox is to a topic. One batch is under way at a time, or `concurrency` of them;
the next is taken when one of those has come back, so a lane that is behind catches up in large batches. What waits
here, or is under way, counts as not handled: that bounds it, for reading pauses when too much of it is.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol

from phx_proto.handler import Handler
from phx_proto.inbox import fitting
from phx_proto.message import Message

from .batches import Batch, Failure, Progress
from .reports import HandlerError, OnHandlerError

#: Messages of a batch, at most.
BATCH: Final = 256


class Outcome(Protocol):
    """A future of a batch that is done: asyncio's or `concurrent.futures`'."""

    def result(self) -> list[Failure]:
        """What `Batch.run` gave; raises what the executor has to say."""
        ...


class Host(Protocol):
    """An adapter's runner, as far as lanes need it.

    Attributes:
        closed: Whether the client has ended, and nothing is told any more.
        halted: Whether no handler is begun any more.
        fail_fast: Whether a handler's error is to be the last thing that handlers do.
        on_error: Told what went wrong; must not raise.
    """

    closed: bool
    halted: bool
    fail_fast: bool
    on_error: OnHandlerError

    def begin_later(self, begin: Callable[[], None], /) -> None:
        """Have a lane begin what it may, soon: after the read that is at work, and where batches come back to."""

    def halt(self) -> None:
        """Begin no handler any more; what runs is left to end."""

    def submit(self, batch: Batch, ended: Callable[[Outcome], None], /) -> None:
        """Give the batch to the executor. `ended` is called later, and by one thread for all lanes.

        Raises:
            Exception: The executor does not take it.
        """

    def batch_handled(self, progress: Progress, done: int, size: int, /) -> None:
        """So many of a batch's messages, of so many bytes, are done with; `progress` knows what was told before."""


class Lane:
    """The messages of one topic that wait for one plain handler.

    Only `put` may be called from elsewhere than where batches come back to.
    """

    __slots__ = ("_channel", "_handler", "_host", "_messages", "_under_way")

    def __init__(self, handler: Handler, channel: object, host: Host) -> None:
        self._handler = handler
        self._channel = channel if handler.takes_channel else None
        self._host = host
        self._messages: deque[tuple[Message[Any], int]] = deque()  # each with its bytes
        self._under_way = 0  # batches

    def put(self, message: Message[Any], size: int) -> None:
        """Have it handled, behind those before it."""
        self._messages.append((message, size))
        if len(self._messages) == 1:
            self._host.begin_later(self._begin)

    def _begin(self) -> None:
        while self._messages and self._under_way < self._handler.concurrency and not self._host.halted:
            batch, size = self._take()
            self._under_way += 1
            try:
                self._host.submit(batch, partial(self._ended, batch, size))
            except Exception as refusal:  # the executor is shut down, or broken
                self._settle(batch, size, batch.lost(refusal), len(batch.messages))

    def _take(self) -> tuple[Batch, int]:
        waiting = self._messages
        share = -(-len(waiting) // self._handler.concurrency)  # rounded up
        share = min(share, BATCH, fitting(size for _, size in waiting))
        taken = [waiting.popleft() for _ in range(share)]
        host = self._host
        progress = Progress(host)
        batch = Batch(self._handler, [message for message, _ in taken], self._channel, host.fail_fast, progress)
        return batch, sum(size for _, size in taken)

    def _ended(self, batch: Batch, size: int, outcome: Outcome) -> None:
        try:
            failures = outcome.result()
        except BaseException as error:  # a worker died, the batch could not be sent, or was cancelled
            failures, done = batch.lost(error), len(batch.messages)
            if self._host.halted:  # it was not begun, or nobody knows
                done = batch.progress.done
        else:
            done = batch.done(failures)
        self._settle(batch, size, failures, done)
        self._begin()

    def _settle(self, batch: Batch, size: int, failures: list[Failure], done: int) -> None:
        host = self._host
        self._under_way -= 1
        if not host.closed:
            for failure in failures:
                host.on_error(HandlerError(batch.handler, batch.messages[failure.index], failure.error))
        host.batch_handled(batch.progress, done, size)
