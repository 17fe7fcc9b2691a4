"""Streams: a channel's messages, or what happens to a client, one after another with `for`.

Each is a context manager, and gets what comes while it is open. Several readers of one stream share its items.
"""

import threading
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from phx_proto.events import Event

from ..blocking.waits import deadline_after, slice_until
from ..client.queues import Queue

if TYPE_CHECKING:
    from .client import Client

T = TypeVar("T")


class _Stream(Generic[T]):
    """Waits for what a queue gets."""

    def __init__(self, queue: Queue[T], client: "Client", *, timeout: float | None) -> None:
        self._queue = queue
        self._client = client
        self._timeout = timeout
        self._changed = threading.Condition(client.lock)

    def __enter__(self) -> Self:
        with self._changed:
            self._queue.open(self._changed.notify_all)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.tell(lambda now: self._queue.close())

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return self.next(timeout=self._timeout)

    def next(self, *, timeout: float | None = None) -> T:
        """The next item, as `for` gets it.

        Args:
            timeout: Seconds to wait for it; `None` for as long as it takes.

        Raises:
            TimeoutError: None came in time.
            StopIteration: The stream has ended.
            PhxError: What ended the channel.
        """
        queue, deadline = self._queue, deadline_after(timeout)
        with self._changed:
            while not queue.waiting:
                if queue.ended:
                    raise queue.error or StopIteration
                patience = slice_until(deadline)
                if not patience:
                    raise TimeoutError("nothing came in time")
                self._changed.wait(patience)
            item = queue.take()
        self._client.follow_up()
        return item


class MessageStream(_Stream[T]):
    """A channel's messages, one after another. Made by `Channel.messages` and `Channel.stream`."""


class EventStream(_Stream[Event]):
    """A client's events, one after another. Made by `Client.events`.

    It ends with the client. A reader who falls far behind loses the oldest.
    """

    @property
    def dropped(self) -> int:
        """How many it has lost."""
        return self._queue.dropped
