"""Streams: a channel's messages, or what happens to a client, one after another with `for`.

Each is a context manager, and gets what comes while it is open. Whoever reads keeps the client going meanwhile.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar

from phx_proto.channel import Channel as CoreChannel
from phx_proto.errors import InvalidState, PhxError
from phx_proto.events import ChannelEnded, ChannelEvent, Event
from phx_proto.inbox import Tap
from phx_proto.message import Message
from phx_proto.states import ChannelState

from ..session import Session

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
        self._open = False
        self._counted = True  # whether what waits here counts as not handled
        self._complete = False  # whether nothing will follow what waits here
        self._error: BaseException | None = None  # raised then: what ended the channel

    def __enter__(self) -> Self:
        self._open = True
        self._complete = self._core.state is ChannelState.CLOSED
        self._core.attach(self._tap)
        self._client.streams.add(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open = False
        self._core.detach(self._tap)
        self._client.streams.discard(self)
        self.release()
        self._items.clear()

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
            InvalidState: A handler is at work, for which what comes would wait.
        """
        deadline = inf if timeout is None else self._client.now() + timeout
        while True:
            if self._client.handling and not self._is_decided():
                raise InvalidState("waiting for a stream's next item", "a handler at work")
            if not self._client.turn_until(self._is_decided, deadline):
                raise TimeoutError("no message came in time")
            if not self._items:
                raise self._error or StopIteration
            item = self._items.popleft()
            if self._counted:
                self._client.handled(1)
            selected = self._select(item)
            if selected is not None:
                return selected

    def release(self) -> None:
        """What waits here can still be read, but nothing waits for that any more; for the client."""
        if self._counted:
            self._counted = False
            self._client.handled(len(self._items))

    def end(self) -> None:
        """The client has ended, and what its channels still held is dropped; for the client."""
        self.release()
        if not self._complete:
            error = self._client.error
            self._append(ChannelEnded(self._core.topic, error if isinstance(error, PhxError) else None))

    def _is_decided(self) -> bool:
        return bool(self._items) or self._complete or not self._open

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


class EventStream:
    """A client's events, one after another. Made by `Client.events`.

    It ends with the client. A reader who falls far behind loses the oldest.

    Attributes:
        dropped: How many it has lost.
    """

    LIMIT: Final = 10_000

    def __init__(self, session: Session, client: "Client", *, timeout: float | None) -> None:
        self.dropped = 0
        self._session = session
        self._client = client
        self._timeout = timeout
        self._items: deque[Event] = deque()
        self._open = False

    def __enter__(self) -> Self:
        self._open = True
        self._session.listeners.append(self._put)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open = False
        self._session.listeners.remove(self._put)
        self._items.clear()

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
        deadline = inf if timeout is None else self._client.now() + timeout
        if not self._client.turn_until(self._is_decided, deadline):
            raise TimeoutError("no event came in time")
        if not self._items:
            raise StopIteration
        return self._items.popleft()

    def _is_decided(self) -> bool:
        return bool(self._items) or self._session.closed or not self._open

    def _put(self, event: Event) -> None:
        if len(self._items) >= self.LIMIT:
            self._items.popleft()
            self.dropped += 1
        self._items.append(event)
