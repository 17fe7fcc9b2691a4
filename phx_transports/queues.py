"""What waits for the reader of a stream: a channel's messages, or a client's events. Free of I/O.

An adapter's stream only waits, until something is `waiting` in its queue or that has `ended`. All else is here: what is
let in, what still counts as not handled, and what the reader gets after the last item. With threads, whoever calls
holds the client's lock.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Final, Generic, TypeAlias, TypeVar

from phx_proto.channel import Channel
from phx_proto.errors import PhxError
from phx_proto.events import ChannelEnded, ChannelEvent, Closed, Event
from phx_proto.inbox import Tap
from phx_proto.message import Message
from phx_proto.states import ChannelState

from .reports import is_exit
from .session import Session

T = TypeVar("T")

#: What comes through a tap.
Item: TypeAlias = Message[Any] | ChannelEvent


def messages_only(item: Item) -> Message[Any] | None:
    """Let messages in, and not the channel's lifecycle."""
    return item if isinstance(item, Message) else None


def everything(item: Item) -> Item:
    """Let messages in, and the channel's lifecycle."""
    return item


def _nobody() -> None:
    """Wakes nobody."""


class Queue(Generic[T]):
    """What waits for a reader.

    Attributes:
        waiting: What has come and was not read.
        ended: Whether nothing will follow that; so it is before it was opened, too.
        error: What the reader gets then, if it is no plain end.
        dropped: How many items he has lost, where there is a limit.
    """

    def __init__(self) -> None:
        self.waiting: deque[T] = deque()
        self.ended = True
        self.error: BaseException | None = None
        self.dropped = 0
        self._wake: Callable[[], object] = _nobody

    def open(self, wake: Callable[[], object] = _nobody) -> None:
        """Take what comes from here on; whoever waits for it is told by `wake`."""
        self._wake = wake

    def close(self) -> None:
        """Take nothing any more, and drop what waits."""
        self.ended = True
        self.waiting.clear()
        self._wake()

    def take(self) -> T:
        """The next item; there must be one."""
        return self.waiting.popleft()


class MessageQueue(Queue[T]):
    """A channel's messages and lifecycle, or what is selected of them.

    What waits here counts as not handled, so that the server feels a slow reader; until the client closes, when nothing
    may wait for him any more (`release`).

    Args:
        channel: The core's.
        session: The client's.
        select: What the reader gets of an item; `None` where he is to get nothing.
        on_handled: Told of items that are done with, how many and of how many bytes.
    """

    def __init__(
        self,
        channel: Channel,
        session: Session,
        select: Callable[[Item], T | None],
        *,
        on_handled: Callable[[int, int], None],
    ) -> None:
        super().__init__()
        self._sizes: deque[int] = deque()  # of what waits, as far as it counts
        self._channel = channel
        self._session = session
        self._select = select
        self._on_handled = on_handled
        self._tap = Tap(self._put)
        self._counted = False

    def open(self, wake: Callable[[], object] = _nobody) -> None:
        """Take what comes from here on; whoever waits for it is told by `wake`."""
        super().open(wake)
        self.ended = self._channel.state is ChannelState.CLOSED
        self._counted = True
        self._channel.attach(self._tap)
        self._session.readers.add(self)

    def close(self) -> None:
        """Take nothing any more, and drop what waits."""
        self._channel.detach(self._tap)
        self._session.readers.discard(self)
        self.release()
        super().close()

    def take(self) -> T:
        """The next item; there must be one."""
        item = self.waiting.popleft()
        if self._counted:
            self._on_handled(1, self._sizes.popleft())
        return item

    def release(self) -> None:
        """What waits can still be read, but does not count any more: nothing waits for the reader."""
        if self._counted:
            self._counted = False
            self._on_handled(len(self.waiting), sum(self._sizes))
            self._sizes.clear()

    def end(self) -> None:
        """The client has ended, and what its channels still held is dropped."""
        self.release()
        error = self._session.error
        self._let_in(ChannelEnded(self._channel.topic, error if isinstance(error, PhxError) else None))

    def _put(self, item: Item, size: int) -> None:
        if self._let_in(item) and self._counted:
            self._sizes.append(size)
        else:  # also if it was closed or released while this was on its way
            self._on_handled(1, size)

    def _let_in(self, item: Item) -> bool:
        """Gives whether it waits now."""
        if self.ended:
            return False
        selected = self._select(item)
        if selected is not None:
            self.waiting.append(selected)
        if isinstance(item, ChannelEnded):
            self.ended = True
            ended_by = self._session.error
            # What asks for the program's end is raised once, by who waits for the client's.
            self.error = item.error or (None if ended_by is None or is_exit(ended_by) else ended_by)
        self._wake()
        return selected is not None


class EventQueue(Queue[Event]):
    """A client's events, up to its end; a reader who falls far behind loses the oldest."""

    LIMIT: Final = 10_000

    def __init__(self, session: Session) -> None:
        super().__init__()
        self._session = session

    def open(self, wake: Callable[[], object] = _nobody) -> None:
        """Take what comes from here on; whoever waits for it is told by `wake`."""
        super().open(wake)
        self.ended = self._session.closed
        self._session.listeners.append(self._put)

    def close(self) -> None:
        """Take nothing any more, and drop what waits."""
        self._session.listeners.remove(self._put)
        super().close()

    def _put(self, event: Event) -> None:
        if len(self.waiting) >= self.LIMIT:
            self.waiting.popleft()
            self.dropped += 1
        self.waiting.append(event)
        self.ended = self.ended or isinstance(event, Closed)
        self._wake()
