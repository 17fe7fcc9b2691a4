"""Calls handlers one after another, on the thread that uses the client; in the order of the wire within a topic.

A handler may use the client: while it waits in a call, reading goes on, but no other handler is called. What it, or the
handlers before it, take in time is taken from the connection, so between two of them the socket is looked at when it
has been left alone for `SPELL`.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from math import inf
from operator import itemgetter
from types import CoroutineType
from typing import Any, Final

from phx_proto.client import ClientProtocol
from phx_proto.handler import Handler
from phx_proto.inbox import Inbox, Tap

from ..reports import HandlerError, OnHandlerError

#: Seconds that handlers may take in a row until the socket and the time are looked at.
SPELL: Final = 0.05

_BATCH: Final = 256  # messages that an inbox gives at a time, and of which the core hears together

_SIZE: Final = itemgetter(2)  # a delivery's bytes


class Runner:
    """Runs the handlers of one client.

    Args:
        proto: The core.
        now: The clock.
        look: Asked when handlers have taken `SPELL` seconds in a row: sees to the socket and the time, without waiting,
            and says whether they may go on.
        on_error: Told what a handler raised; must not raise.
        on_exit: Told of its `SystemExit` likewise; `None` to raise that out of `work`. `KeyboardInterrupt` always is,
            for it is rather the thread's than the handler's.

    Attributes:
        closed: Whether no handler is begun any more.
        looked_at: When the socket was looked at last.
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
        self._runnable: deque[Inbox] = deque()
        self._at_work = False
        self._enough: Callable[[], bool] = _never  # whether who lets them work waits no longer
        self._deadline = inf  # of his wait
        self._done = 0  # messages handled and not yet reported to the core
        self._done_size = 0  # their bytes

    def add(self, inboxes: Sequence[Inbox]) -> None:
        """These inboxes have messages and are in nobody's hands."""
        self._runnable += inboxes

    @property
    def at_work(self) -> bool:
        """Whether this is called from within a handler."""
        return self._at_work

    @property
    def waiting(self) -> bool:
        """Whether there are messages whose handlers are to be called."""
        return bool(self._runnable) and not self.closed

    def work(self, enough: Callable[[], bool] | None = None, deadline: float = inf) -> bool:
        """Call the handlers of what has come; gives whether there was any. From within one it does nothing.

        Args:
            enough: Asked when the socket was looked at: whether to stop, for what is waited for has come.
            deadline: When to stop at the latest: messages may come faster than they are handled.
        """
        if self._at_work or self.closed or not self._runnable:
            return False
        self._at_work = True
        self._enough, self._deadline = enough or _never, deadline
        self.looked_at = self._now()
        try:
            while self.waiting and self._drain(self._runnable.popleft()):
                pass
        finally:
            self._at_work = False
            self.report()
        return True

    def halt(self) -> None:
        """Begin no handler any more."""
        self.closed = True

    def handled(self, messages: int, size: int) -> None:
        """So many messages, of so many bytes, are done with; `report` tells the core."""
        self._done += messages
        self._done_size += size

    def report(self) -> None:
        """Tell the core what is done."""
        done, self._done = self._done, 0
        size, self._done_size = self._done_size, 0
        self._proto.handled(done, self._now(), size=size)

    def _drain(self, inbox: Inbox) -> bool:
        """Call the handlers of what the inbox holds; gives whether they may go on with the next."""
        while deliveries := inbox.take(_BATCH):
            rest: Iterator[Any] = iter(deliveries)  # not every consumer is a handler
            try:
                may_go_on = self._run(rest, inbox.channel.context)
            except BaseException:  # an interrupt
                self._stopped(inbox, deliveries, rest)
                raise
            if not may_go_on:
                self._stopped(inbox, deliveries, rest)
                return False
            self.handled(len(deliveries), sum(map(_SIZE, deliveries)))
            if self._done >= _BATCH:
                self.report()
        return True

    def _stopped(self, inbox: Inbox, deliveries: list[Any], rest: Iterator[Any]) -> None:
        left = list(rest)
        inbox.put_back(left)
        self._runnable.appendleft(inbox)
        done = deliveries[: len(deliveries) - len(left)]
        self.handled(len(done), sum(map(_SIZE, done)))

    def _run(self, deliveries: Iterator[Any], channel: object) -> bool:
        now = self._now
        # The loop is spelled out, and without any call that it can do without: it runs for each message.
        for consumers, item, size in deliveries:
            for consumer in consumers:
                if consumer.__class__ is Tap:
                    self._proto.held(1, size=size)
                    consumer.put(item, size)
                    continue
                if self.closed:
                    continue
                try:
                    message = item if consumer.payload_type is None else consumer.accept(item)
                    returned = consumer.run(message, channel) if consumer.takes_channel else consumer.run(message)
                    if returned.__class__ is CoroutineType:
                        _refuse(consumer, returned)
                except KeyboardInterrupt:
                    raise
                except SystemExit as error:
                    if self._on_exit is None:
                        raise
                    self._on_exit(HandlerError(consumer, item, error))
                except BaseException as error:
                    self._on_error(HandlerError(consumer, item, error))
            time = now()
            late = time >= self._deadline
            if self.closed:
                return False
            if (late or time - self.looked_at >= SPELL) and (not self._look() or late or self._enough()):
                return False
        return True


def _never() -> bool:
    return False


def _refuse(handler: Handler, coroutine: "CoroutineType[Any, Any, Any]") -> None:
    coroutine.close()
    raise TypeError(f"{handler.name} returned a coroutine, and nobody awaits it here: make it a plain function")
