"""What the parts of one client share: the way out, the clockwork, the tables in which what comes in finds its place.

Nothing here decides anything. `Wire` is private to the core; adapters meet `ClientProtocol` and `Link`.
"""

from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

from .commands import Command, Provider, Resolve, SendBinary, SendText
from .errors import ConnectError, ConnectionClosed
from .events import Event
from .formats import Serializer
from .link import Link
from .message import PHX_LEAVE, Message, Reply
from .shown import NO_SECRETS
from .timers import Timers

if TYPE_CHECKING:
    from random import Random

    from .channel import Channel
    from .inbox import Inbox, Tap, TapItem
    from .queues import DeliveryQueue, HandlerQueue


#: How many joins are remembered that were given up without an answer.
_MOST_ABANDONED: Final = 1000


class Awaiting(Protocol):
    """Who awaits a reply."""

    def replied(self, ref: str, reply: Reply, now: float) -> None: ...
    def answered_illegibly(self, ref: str, problem: str, now: float) -> None: ...


class Resolving(Protocol):
    """Who awaits the value of a callable."""

    def resolved(self, request: int, value: Any, now: float) -> None: ...
    def resolve_failed(self, request: int, error: BaseException, now: float) -> None: ...


class Stats(msgspec.Struct):
    """Counters over a client's life.

    Attributes:
        received: Frames that were Phoenix messages.
        delivered: Messages given to handlers and streams.
        handled: Messages of which every handler and every stream is done.
        unhandled: Messages of a joined channel that no handler wants; never parsed.
        stale: Messages of an older join, of a topic without a channel, or replies that nobody awaits (any more).
        dropped: Messages dropped at a bound, or while closing.
        bad_frames: Frames that were no Phoenix messages.
        connects: Connections opened.
        backlog: Messages delivered and not yet handled, now.
        backlog_bytes: Bytes of their frames.
    """

    received: int = 0
    delivered: int = 0
    handled: int = 0
    unhandled: int = 0
    stale: int = 0
    dropped: int = 0
    bad_frames: int = 0
    connects: int = 0
    backlog: int = 0
    backlog_bytes: int = 0

    @property
    def reconnects(self) -> int:
        """Connections opened after the first."""
        return max(0, self.connects - 1)


class Wire:
    """Shared by a client, its channels and its helpers.

    Attributes:
        link: The open connection; `None` while there is none.
        last_error: What ended the latest connection, or attempt to make one.
        channels: Each topic's channel, from its making to its leave or end.
        live: The inboxes of those that are joined and take messages.
        leaving: Channels whose leave is not over, by the join_ref that they leave.
        awaiting: Who awaits the reply to a ref sent on this connection.
        join_answered: When any join was last answered, on the reading clock (see `flow.py`).
        notices: What looks like a mistake of the application's.
        abandoned: Topics of joins that were given up without an answer, by their join_ref.
        resolving: Who awaits the answer to a `Resolve` request.
        unsent: How many pushes wait for their channel's join, on all channels.
        runnable: Queues that wait for a worker of the adapter's, in order.
        executable: Queues that wait for an executor, in order.
        tapped: What came for taps, in order.
    """

    __slots__ = (
        "_refs",
        "_requests",
        "abandoned",
        "awaiting",
        "channels",
        "commands",
        "events",
        "executable",
        "join_answered",
        "last_error",
        "leaving",
        "link",
        "live",
        "notices",
        "resolving",
        "rng",
        "runnable",
        "secrets",
        "serializer",
        "stats",
        "tapped",
        "timers",
        "unsent",
    )

    def __init__(self, serializer: Serializer, rng: "Random | None") -> None:
        self.serializer = serializer
        self.rng = rng
        self.timers = Timers()
        self.stats = Stats()
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.notices: list[Event] = []
        self.link: Link | None = None
        self.last_error: ConnectError | ConnectionClosed | None = None
        self.channels: dict[str, Channel] = {}
        self.live: dict[str, Inbox] = {}
        self.leaving: dict[str, Channel] = {}
        self.awaiting: dict[str, Awaiting] = {}
        self.join_answered = 0.0
        self.abandoned: dict[str, str] = {}
        self.resolving: dict[int, Resolving] = {}
        self.runnable: list[DeliveryQueue] = []
        self.executable: list[HandlerQueue] = []
        self.tapped: list[tuple[Tap, TapItem]] = []
        self.unsent = 0
        self.secrets = NO_SECRETS
        self._refs = 0
        self._requests = 0

    def new_ref(self) -> str:
        """A ref that no other request of this client has had."""
        self._refs += 1
        return str(self._refs)

    def send(self, frame: str | bytes) -> None:
        """Queue a frame on the open connection."""
        assert self.link is not None
        if isinstance(frame, str):
            self.commands.append(SendText(self.link, frame))
        else:
            self.commands.append(SendBinary(self.link, frame))

    def send_leave(self, topic: str, join_ref: str) -> str:
        """Send a phx_leave for a join that was sent on this connection, answered or not; gives its ref."""
        ref = self.new_ref()
        leave = Message[Any](join_ref=join_ref, ref=ref, topic=topic, event=PHX_LEAVE, payload={})
        self.send(self.serializer.encode(leave))
        return ref

    def abandon(self, topic: str, join_ref: str) -> None:
        """Give up a join that was sent and not answered: the server may have joined us meanwhile, so leave."""
        self.awaiting.pop(join_ref, None)
        if len(self.abandoned) == _MOST_ABANDONED:  # by a server that answers no joins: the oldest is left to its leave
            del self.abandoned[next(iter(self.abandoned))]
        self.abandoned[join_ref] = topic
        self.send_leave(topic, join_ref)

    def resolve(self, provider: Provider, who: Resolving) -> int:
        """Have the adapter call `provider`; gives the request's number."""
        self._requests += 1
        self.resolving[self._requests] = who
        self.commands.append(Resolve(self._requests, provider))
        return self._requests
