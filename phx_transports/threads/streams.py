"""Streams: a channel's messages, or what happens to a client, one after another with `for`.

Each is a context manager, and gets what comes while it is open. Several readers of one stream share its items.
"""

import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from phx_proto.channel import Channel as CoreChannel
from phx_proto.errors import PhxError
from phx_proto.events import ChannelEnded, ChannelEvent, Event
from phx_proto.inbox import Tap
from phx_proto.message import Message
from phx_proto.states import ChannelState

from ..session import Session
from .waits import deadline_after, slice_until

if TYPE_CHECKING:
    from .client import Client

T = TypeVar("T")


class MessageStream(Generic[T]):
    """A channel's messages, one after another. Made by `Channel.messages` and `Channel.stream`."""

    def __init__(
        self,
        core: CoreChannel,
        client: "Client",
        select: Callable[[Message[Any] | ChannelEvent], T | None],
        *,
        timeout: float | None,
    ) -> None:
        self._core = core
        self._client = client
        self._select = select
        self._timeout = timeout
        self._tap = Tap(self._put)
        self._items: deque[Message[Any] | ChannelEvent] = deque()
        self._changed = threading.Condition(client.lock)
        self._open = False
        self._counted = True  # whether what waits here counts as not handled
        self._complete = False  # whether nothing will follow what waits here
        self._error: BaseException | None = None  # raised then: what ended the channel

    def __enter__(self) -> Self:
        with self._client.lock:
            self._open = True
            self._complete = self._core.state is ChannelState.CLOSED
            self._core.attach(self._tap)
            self._client.streams.add(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._client.tell(lambda now: self._close())

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
        deadline = deadline_after(timeout)
        while True:
            with self._changed:
                self._wait(deadline)
                item = self._items.popleft()
                if self._counted:
                    self._client.handled(1)
            self._client.follow_up()
            selected = self._select(item)
            if selected is not None:
                return selected

    def release(self) -> None:
        """What waits here can still be read, but nothing waits for that any more; for the client, under the lock."""
        if self._counted:
            self._counted = False
            self._client.handled(len(self._items))

    def end(self) -> None:
        """The client has ended, and what its channels still held is dropped; for the client, under the lock."""
        self.release()
        if not self._complete:
            error = self._client.error
            self._append(ChannelEnded(self._core.topic, error if isinstance(error, PhxError) else None))

    def _close(self) -> None:
        self._open = False
        self._core.detach(self._tap)
        self._client.streams.discard(self)
        self.release()
        self._items.clear()
        self._changed.notify_all()

    def _wait(self, deadline: float) -> None:
        """Wait for an item, under the lock; raises where none will come."""
        while not self._items:
            if self._error is not None:
                raise self._error
            if self._complete or not self._open:
                raise StopIteration
            patience = slice_until(deadline)
            if not patience:
                raise TimeoutError("no message came in time")
            self._changed.wait(patience)

    def _put(self, item: Message[Any] | ChannelEvent) -> None:
        if not (self._open and self._counted):  # it was closed, or released, while this was on its way
            self._client.handled(1)
        if self._open:
            self._append(item)

    def _append(self, item: Message[Any] | ChannelEvent) -> None:
        self._items.append(item)
        if isinstance(item, ChannelEnded):
            self._complete = True
            self._error = item.error or self._client.error
            self._changed.notify_all()
        else:
            self._changed.notify()


class EventStream:
    """A client's events, one after another. Made by `Client.events`.

    It ends with the client. A reader who falls far behind loses the oldest.

    Attributes:
        dropped: How many it has lost.
    """

    LIMIT: Final = 10_000

    def __init__(self, session: Session, lock: threading.Lock, *, timeout: float | None) -> None:
        self.dropped = 0
        self._session = session
        self._timeout = timeout
        self._items: deque[Event] = deque()
        self._changed = threading.Condition(lock)
        self._open = False

    def __enter__(self) -> Self:
        with self._changed:
            self._open = True
            self._session.listeners.append(self._put)
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._open = False
            self._session.listeners.remove(self._put)
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        return self.next(timeout=self._timeout)

    def next(self, *, timeout: float | None = None) -> Event:
        """The next event, as `for` gets it.

        Args:
            timeout: Seconds to wait for it; `None` for as long as it takes.

        Raises:
            TimeoutError: None came in time.
            StopIteration: The client has ended.
        """
        deadline = deadline_after(timeout)
        with self._changed:
            while not self._items:
                if self._session.closed or not self._open:
                    raise StopIteration
                patience = slice_until(deadline)
                if not patience:
                    raise TimeoutError("no event came in time")
                self._changed.wait(patience)
            return self._items.popleft()

    def _put(self, event: Event) -> None:
        if len(self._items) >= self.LIMIT:
            self._items.popleft()
            self.dropped += 1
        self._items.append(event)
        self._changed.notify_all()  # the last one ends the stream for everybody
