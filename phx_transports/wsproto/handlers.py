"""Calls handlers one after another, on the thread that uses the client; in the order received within a topic.

A handler may use the client: while its call waits, reading goes on, but no other handler is called. A handler's running
time delays the connection, so after `SPELL` seconds the socket is served between two handlers.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import inf
from types import CoroutineType
from typing import Final

from phx_proto.client import ClientProtocol
from phx_proto.queues import BATCH, Delivery, DeliveryQueue, HandlerQueue

from ..client.batches import refuse_coroutine
from ..client.reports import HandlerError, OnHandlerError

#: Seconds that handlers may run in a row before the socket and the timer are served.
SPELL: Final = 0.05


class Runner:
    """Runs the handlers of one client.

    Args:
        look: Called after handlers have run for `SPELL` seconds: serves the socket and the timer without waiting, and
            returns whether handlers may go on.
        on_exit: Called with a handler's `SystemExit` likewise; `None` to raise it from `work`. `KeyboardInterrupt` is
            always raised: it concerns the thread, not the handler.

    Attributes:
        closed: Whether no further handler is begun.
        at_work: Whether this is called from within a handler.
        looked_at: When the socket was last served.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        *,
        now: Callable[[], float],
        look: Callable[[], bool],
        on_error: OnHandlerError,
        on_exit: OnHandlerError | None = None,
    ) -> None:
        self.closed = False
        self.looked_at = 0.0
        self._proto = proto
        self._now = now
        self._look = look
        self._on_error = on_error
        self._on_exit = on_exit
        self._runnable: deque[DeliveryQueue] = deque()
        self.at_work = False
        self._enough: Callable[[], bool] = _never  # whether the caller of `work` need not wait any longer
        self._deadline = inf  # of that wait
        self._release = proto.release
        self._done = 0  # messages handled since the last report

    def add(self, queues: Sequence[DeliveryQueue]) -> None:
        """These queues have messages for handlers."""
        self._runnable += queues

    def execute(self, queues: Sequence[HandlerQueue]) -> None:
        """Never called: handlers with an executor are refused."""

    @property
    def waiting(self) -> bool:
        """Whether there are messages whose handlers have not been called."""
        return bool(self._runnable) and not self.closed

    def work(self, enough: Callable[[], bool] | None = None, deadline: float = inf) -> bool:
        """Call the handlers of what has come; returns whether there was any. Within a handler it does nothing.

        Args:
            enough: Called after the socket was served: whether to stop, because the awaited result is there.
            deadline: When to stop at the latest: messages may come faster than they are handled.
        """
        if self.at_work or self.closed or not self._runnable:
            return False
        self.at_work = True
        self._enough, self._deadline = enough or _never, deadline
        self.looked_at = self._now()
        try:
            while self.waiting and self._drain(self._runnable.popleft()):
                pass
        finally:
            self.at_work = False
            self.report()
        return True

    def halt(self) -> None:
        """Begin no further handler."""
        self.closed = True

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        """Count these as handled; `report` passes the time to the core."""
        self._release(deliveries)

    def report(self) -> None:
        """Report to the core the time at which messages were handled."""
        self._done = 0
        self._proto.handled((), self._now())

    def _drain(self, queue: DeliveryQueue) -> bool:
        """Call the handlers of a queue's messages; returns whether they may go on with the next queue."""
        while deliveries := queue.take():
            rest = iter(deliveries)
            try:
                may_go_on = self._run(rest, queue.channel.context, looks=not queue.exact)
            except BaseException:  # an interrupt
                self._stopped(queue, deliveries, rest)
                raise
            if not may_go_on:
                self._stopped(queue, deliveries, rest)
                return False
            self._release(deliveries)
            self._done += len(deliveries)
            if queue.exact:
                self.report()
                if not self._may_go_on():
                    self._stopped(queue, [], iter(()))
                    return False
            elif self._done >= BATCH:
                self.report()
        return True

    def _stopped(self, queue: DeliveryQueue, deliveries: list[Delivery], rest: Iterator[Delivery]) -> None:
        left = list(rest)
        queue.put_back(left)
        self._runnable.appendleft(queue)
        self._release(deliveries[: len(deliveries) - len(left)])

    def _may_go_on(self) -> bool:
        time = self._now()
        late = time >= self._deadline
        return not (late or time - self.looked_at >= SPELL) or (self._look() and not late and not self._enough())

    def _run(self, deliveries: Iterator[Delivery], channel: object, *, looks: bool) -> bool:
        now = self._now
        # Inlined, with as few calls as possible: it runs for each message.
        for handlers, item, _ in deliveries:
            for handler in handlers:
                if self.closed:
                    break
                message = item
                try:
                    if handler.payload_type is not None:
                        message = handler.accept(item)
                    returned = handler.run(message, channel) if handler.takes_channel else handler.run(message)
                    if returned.__class__ is CoroutineType:
                        refuse_coroutine(handler, returned)
                except KeyboardInterrupt:
                    raise
                except SystemExit as error:
                    if self._on_exit is None:
                        raise
                    self._on_exit(HandlerError(handler, message, error))
                except BaseException as error:
                    self._on_error(HandlerError(handler, message, error))
            if self.closed:
                return False
            if not looks:
                continue
            time = now()
            late = time >= self._deadline
            if (late or time - self.looked_at >= SPELL) and (not self._look() or late or self._enough()):
                return False
        return True


def _never() -> bool:
    return False
