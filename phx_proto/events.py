"""The events of a client: frozen values, drained in order with `events()`.

They are about the connection, the channels and the calls. Messages are not events: there are too many of them, and they
go to the channels' inboxes (see `client.py`). After a failure, `error` says what and why. An event's `repr` is safe to
log: it is bounded, escaped, and without the server's answer to a join or push.

`socket` is the number of a client's socket, 0 for its first. When one is lost, the topics of the others go on.

Every call ends in exactly one event, which carries the call's `ref`:

| call | ends in |
|---|---|
| `channel.join` | `ChannelJoined`, `JoinFailed` |
| `channel.leave` | `LeaveEnded` |
| `channel.push` | `ReplyReceived`, `PushFailed` |
| `client.ping` | `PingAnswered`, `PushFailed` |
| `client.connect` | `Connected`, `Closed` |
"""

import enum
from typing import Any, ClassVar, TypeAlias

from .errors import ConnectError, PhxError
from .message import Reply
from .presence import PresenceChange
from .shown import Record
from .transports import TransportName

__all__ = [
    "BadFrame",
    "ChannelEnded",
    "ChannelErrored",
    "ChannelEvent",
    "ChannelJoined",
    "Closed",
    "ConnectFailed",
    "Connected",
    "Connecting",
    "Disconnected",
    "Event",
    "InboxOverflow",
    "JoinFailed",
    "LeaveEnd",
    "LeaveEnded",
    "PatternJoined",
    "PingAnswered",
    "PresenceChanged",
    "PushFailed",
    "ReplyReceived",
    "SocketEnded",
    "UnclaimedMessages",
]

# ---- the connection -------------------------------------------------------------------------------------------------


class Connecting(Record, frozen=True):
    """An attempt to connect begins.

    Attributes:
        attempt: Counted from 1 since the last stable connection.
    """

    attempt: int
    socket: int = 0


class ConnectFailed(Record, frozen=True):
    """An attempt to connect failed; another follows.

    Attributes:
        retry_in: Seconds until the next attempt.
    """

    error: ConnectError
    attempt: int
    retry_in: float
    socket: int = 0


class Connected(Record, frozen=True):
    """The connection is open; channels join next.

    Attributes:
        subprotocol: The subprotocol that the server chose, if any.
        reconnected: Whether the socket had a connection before.
        transport: The transport of the messages.
    """

    subprotocol: str | None
    reconnected: bool
    transport: TransportName = "websocket"
    socket: int = 0


class Disconnected(Record, frozen=True):
    """An open connection was lost. Sent pushes are lost; channels rejoin when it is back.

    Attributes:
        code: The close frame's code; `None` if there was none.
        reason: The close frame's reason, with secrets masked, or a description of what happened.
        retry_in: Seconds until the next attempt; `None` if there is none, because the client is closing.
    """

    code: int | None
    reason: str
    retry_in: float | None
    socket: int = 0


class SocketEnded(Record, frozen=True):
    """A further socket is given up, and the client goes on without it.

    Attributes:
        error: Why it could not be opened: its topics have ended with this error. `None` if it had no topic left.
        socket: Its number, which is not used again.
    """

    error: PhxError | None
    socket: int


class Closed(Record, frozen=True):
    """The client has ended. This is its last event.

    Attributes:
        error: The reason; `None` if the application closed it. A handler's error, if that ended the client.
    """

    error: BaseException | None


class PingAnswered(Record, frozen=True):
    """A `ping` was answered.

    Attributes:
        elapsed: Seconds from the call to the answer.
    """

    ref: str
    elapsed: float


class BadFrame(Record, frozen=True):
    """A frame was not a Phoenix message and was dropped. The connection and all channels go on.

    The first hundred bad frames of one read have an event each, and one more event stands for the rest.

    Attributes:
        problem: What is wrong with it.
        excerpt: Its beginning, with the contents of JSON strings masked.
        size: Its length: characters of a text frame, bytes of a binary one.
        count: How many frames this event stands for. If there are several, the other fields are of the last one.
    """

    problem: str
    excerpt: str
    size: int
    count: int = 1


class InboxOverflow(Record, frozen=True):
    """A bound of unhandled messages was reached; messages were dropped unhandled.

    Attributes:
        topic: The topic whose queue was full; `None` for the hard bound of the whole client.
        dropped: How many messages were dropped, in one read.
        backlog: How many messages wait for their handlers, on all topics.
    """

    topic: str | None
    dropped: int
    backlog: int


class UnclaimedMessages(Record, frozen=True):
    """Messages come on a topic without a channel, and no handler takes them: see `unjoined` of `Router.add`.

    It comes once; `Stats.stale` counts all of them.

    Attributes:
        topic: The latest message's.
        event: The latest message's.
        count: How many such messages came so far.
    """

    topic: str
    event: str
    count: int


# ---- channels -------------------------------------------------------------------------------------------------------


class ChannelJoined(Record, frozen=True):
    """A channel is joined.

    Attributes:
        ref: The ref of the `join` call that this ends; `None` for a rejoin.
        join_ref: The ref of this join on the wire.
        response: The server's answer, any JSON value or bytes.
    """

    _data: ClassVar[frozenset[str]] = frozenset({"response"})

    topic: str
    ref: str | None
    join_ref: str
    response: Any

    @property
    def rejoined(self) -> bool:
        """Whether it was joined, or tried to join, before."""
        return self.ref is None


class PatternJoined(Record, frozen=True):
    """A topic that ends in `*` is being joined. No server expands patterns: they are for handlers."""

    topic: str


class JoinFailed(Record, frozen=True):
    """The first join failed: refused, timed out, cancelled, or the channel was closed. The channel is closed."""

    topic: str
    ref: str
    error: PhxError


class ChannelErrored(Record, frozen=True):
    """A channel is no longer joined, or a rejoin failed. It will be joined again.

    Attributes:
        error: `ChannelCrashed`, `ConnectionClosed`, `JoinRefused`, `JoinTimeout`, `InvalidReply`, `ChannelClosed` or
            `ResolveFailed`.
        retry_in: Seconds until the rejoin; `None` if it waits for the connection.
    """

    topic: str
    error: PhxError
    retry_in: float | None


class ChannelEnded(Record, frozen=True):
    """A channel has ended and will not be joined again.

    Attributes:
        error: `ChannelClosed` if the server closed it; `JoinRefused`, `JoinTimeout` or `JoinCancelled` if its first
            join failed; the client's error if that ended it; `None` if the application left it or closed the client.
    """

    topic: str
    error: PhxError | None


class LeaveEnd(enum.Enum):
    """What ended a leave."""

    REPLY = "its reply"
    CLOSE = "the channel's phx_close"
    CRASH = "the channel's phx_error"
    SUPERSEDED = "a newer join's reply"
    DISCONNECTED = "the connection's end"
    TIMEOUT = "its timeout"
    LOCAL = "nothing to leave: no join was sent on this connection"
    CANCELLED = "its caller"


class LeaveEnded(Record, frozen=True):
    """A leave has ended; the channel is closed in every case."""

    topic: str
    ref: str
    end: LeaveEnd


class PresenceChanged(Record, frozen=True):
    """The presence of a topic has changed."""

    topic: str
    change: PresenceChange


# ---- pushes ---------------------------------------------------------------------------------------------------------


class ReplyReceived(Record, frozen=True):
    """A push was answered, with any status."""

    _data: ClassVar[frozenset[str]] = frozenset({"reply"})

    topic: str
    event: str
    ref: str
    reply: Reply


class PushFailed(Record, frozen=True):
    """A push ended without a reply.

    Attributes:
        error: `PushTimeout`, `PushLost`, `PushCancelled`, `ChannelClosed`, `InvalidReply`, or `InvalidPayload` if the
            payload was changed while it waited to be sent.
    """

    topic: str
    event: str
    ref: str
    error: PhxError


#: The lifecycle events that `channel.stream()` returns among the messages.
ChannelEvent: TypeAlias = ChannelJoined | ChannelErrored | ChannelEnded
#: All events.
Event: TypeAlias = (
    Connecting
    | ConnectFailed
    | Connected
    | Disconnected
    | SocketEnded
    | Closed
    | PingAnswered
    | BadFrame
    | InboxOverflow
    | UnclaimedMessages
    | ChannelJoined
    | PatternJoined
    | JoinFailed
    | ChannelErrored
    | ChannelEnded
    | LeaveEnded
    | PresenceChanged
    | ReplyReceived
    | PushFailed
)
