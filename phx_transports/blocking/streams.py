"""Streams: a channel's messages, or a client's events, one after another with `for`.

Each is a context manager, and gets what arrives while it is open. Several readers of one stream share its items.
"""

from typing import Generic, Self, TypeVar

from phx_proto.checks import checked_timeout
from phx_proto.events import Event

from ..client.queues import Queue
from .driver import BlockingDriver
from .waits import deadline_after

T = TypeVar("T")


class _Stream(Generic[T]):
    """Waits for the items of a queue."""

    def __init__(self, queue: Queue[T], driver: BlockingDriver, *, timeout: float | None) -> None:
        self._queue = queue
        self._driver = driver
        self._timeout = checked_timeout("a wait", timeout)

    def __enter__(self) -> Self:
        self._driver.open(self._queue)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._driver.close(self._queue)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return self.next(timeout=self._timeout)

    def next(self, *, timeout: float | None = None) -> T:
        """The next item, as `for` gets it.

        Args:
            timeout: Seconds to wait for it; `None` for as long as it takes.

        Raises:
            TimeoutError: There was none in time.
            StopIteration: The stream has ended.
            PhxError: What ended the channel.
        """
        deadline = deadline_after(timeout)
        while True:
            item = self._driver.take(self._queue, deadline)
            if self._queue.accept is None:
                return item
            if (accepted := self._queue.accept(item)) is not None:
                return accepted


class MessageStream(_Stream[T]):
    """A channel's messages, one after another. Made by `Channel.messages` and `Channel.stream`."""


class EventStream(_Stream[Event]):
    """A client's events, one after another. Made by `Client.events`.

    It ends with the client. A reader that falls far behind loses the oldest events.
    """

    @property
    def dropped(self) -> int:
        """The number of events lost."""
        return self._queue.dropped
