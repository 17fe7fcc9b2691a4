"""The queue behind a stream: a channel's messages, or a client's events. Free of I/O.

An adapter's stream only waits until its queue has something `waiting` or has `ended`. Everything else is here: which
items it takes, which still count as not handled, and what the reader gets after the last item. With threads, the
caller holds the client's lock.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeAlias, TypeVar

from phx_proto.channel import Channel
from phx_proto.errors import PhxError, StreamNotOpen
from phx_proto.events import ChannelEnded, ChannelEvent, Closed, Event
from phx_proto.handlers.handler import WILDCARD
from phx_proto.inbox import Tap, TapItem
from phx_proto.message import Message
from phx_proto.queues import Delivery
from phx_proto.shown import shown
from phx_proto.states import ChannelState

from .reports import is_exit
from .session import Session

T = TypeVar("T")

#: The items of a stream.
Item: TypeAlias = Message[Any] | ChannelEvent


def messages_only(item: Item) -> Message[Any] | None:
    """Take messages, and not the channel's lifecycle."""
    return item if isinstance(item, Message) else None


def everything(item: Item) -> Item:
    """Take messages, and the channel's lifecycle."""
    return item


def _nobody() -> None:
    """Does nothing: no reader waits."""


class Queue(Generic[T]):
    """Items that wait for a reader.

    Attributes:
        waiting: Items that were not read yet.
        ended: Whether no further items will follow; true also before it is opened.
        error: What the reader gets after the last item, unless it is a normal end: `StreamNotOpen` before it is opened.
        dropped: How many items the reader has lost, if there is a limit.
        accept: Turns an item into the reader's; `None` to leave items unchanged. It returns `None` for an item that the
            reader does not get. With threads, it is called without the lock.

    Args:
        name: The stream's name, for the error of a reader that has not opened it.
    """

    def __init__(self, name: str, accept: Callable[[T], T | None] | None = None) -> None:
        self.accept = accept
        self.waiting: deque[T] = deque()
        self.ended = True
        self.error: BaseException | None = StreamNotOpen(name)
        self.dropped = 0
        self._wake: Callable[[], object] = _nobody

    def open(self, wake: Callable[[], object] = _nobody) -> None:
        """Take items from now on; `wake` is called when there is something for a waiting reader."""
        self._wake = wake
        self.error = None

    def close(self) -> None:
        """Take no further items, and drop the waiting ones."""
        self.ended = True
        self.waiting.clear()
        self._wake()

    def take(self) -> T:
        """The next item; there must be one."""
        return self.waiting.popleft()


class MessageQueue(Queue[T]):
    """A channel's messages and lifecycle, or a selection of them.

    Waiting messages count as not handled, so a slow reader slows the server down; not so after the client has begun to
    close, which must not wait for a reader (`release`).

    Args:
        select: Returns the reader's form of an item; `None` for an item to leave out.
        event: The event to read; `"*"` for every event.
        on_handled: Called with handled messages.

    Raises:
        InvalidEvent: No message can be of such an event.
    """

    def __init__(
        self,
        channel: Channel,
        session: Session,
        select: Callable[[Item], T | None],
        *,
        event: str = WILDCARD,
        accept: Callable[[T], T | None] | None = None,
        on_handled: Callable[[Sequence[Delivery]], None],
    ) -> None:
        super().__init__(f"messages of topic {shown(channel.topic)}", accept)
        self._channel = channel
        self._session = session
        self._select = select
        self._on_handled = on_handled
        self._tap = Tap(self._put, event)
        self._counted = False
        self._claims: deque[Delivery | None] = deque()  # for each waiting item; `None` if it does not count

    def open(self, wake: Callable[[], object] = _nobody) -> None:
        self._session.check_process()
        super().open(wake)
        self.ended = self._channel.state is ChannelState.CLOSED
        self._counted = True
        self._channel.attach(self._tap)
        self._session.readers.add(self)

    def close(self) -> None:
        self._channel.detach(self._tap)
        self._session.readers.discard(self)
        self.release()
        super().close()

    def take(self) -> T:
        item, delivery = self.waiting.popleft(), self._claims.popleft()
        if delivery is not None:
            self._on_handled([delivery])
        return item

    def release(self) -> None:
        """Waiting items can still be read, but no longer count: the close does not wait for the reader."""
        if self._counted:
            self._counted = False
            counted = [delivery for delivery in self._claims if delivery is not None]
            self._claims = deque([None] * len(self.waiting))
            self._on_handled(counted)

    def end(self) -> None:
        """The client has ended; messages still in its channels are dropped."""
        self.release()
        error = self._session.error
        self._put(ChannelEnded(self._channel.topic, error if isinstance(error, PhxError) else None))

    def _put(self, item: TapItem) -> None:
        if isinstance(item, tuple):
            if not self._let_in(item[1], item if self._counted else None) or not self._counted:
                self._on_handled([item])  # the reader does not get it, or the close does not wait for the reader
            return
        self._let_in(item, None)
        if isinstance(item, ChannelEnded) and not self.ended:
            self.ended = True
            ended_by = self._session.error
            # `SystemExit` and the like are raised once, by the call that waits for the client's end.
            self.error = item.error or (None if ended_by is None or is_exit(ended_by) else ended_by)
            self._wake()

    def _let_in(self, item: Item, delivery: Delivery | None) -> bool:
        """Returns whether it waits now."""
        selected = None if self.ended else self._select(item)
        if selected is None:
            return False
        self.waiting.append(selected)
        self._claims.append(delivery)
        self._wake()
        return True


class EventQueue(Queue[Event]):
    """A client's events, up to its end; a reader that falls far behind loses the oldest."""

    LIMIT: Final = 10_000

    def __init__(self, session: Session) -> None:
        super().__init__("client's events")
        self._session = session

    def open(self, wake: Callable[[], object] = _nobody) -> None:
        self._session.check_process()
        super().open(wake)
        self.ended = self._session.closed
        self._session.listeners.append(self._put)

    def close(self) -> None:
        self._session.listeners.remove(self._put)
        super().close()

    def _put(self, event: Event) -> None:
        if len(self.waiting) >= self.LIMIT:
            self.waiting.popleft()
            self.dropped += 1
        self.waiting.append(event)
        self.ended = self.ended or isinstance(event, Closed)
        self._wake()
