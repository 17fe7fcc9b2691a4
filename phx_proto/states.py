"""The states of a socket and of a channel, and their transition tables.

Theory of operation. A client has one socket or several, and many channels. Each is in one state, and each input moves
it along its table: `table[state, input]` is the next state. A pair that is not in the table cannot happen: the core
refuses or ignores it before. Below the tables are the sets of states that the core tests: there are no other tests of
a state. The actions are in `client_socket.py` and `channel.py`; the diagrams in docs/ are made from these tables.

The socket. Every attempt begins in RESOLVING, which gets the values of params and token; without callables it takes no
time. A failed attempt or a lost connection leads to WAITING for the next attempt, or to CLOSED if a policy says that it
was final. DRAINING still sends and receives replies, but takes no new messages. CLOSING waits for the other side's
close frame.

A channel. PENDING is to be joined, and waits for the connection, for its turn, or for its params. ERRORED waits until
its next attempt. A lost connection makes every channel that was to be joined PENDING. CLOSED is final: a topic that is
joined again has a new channel.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

__all__ = [
    "CHANNEL",
    "CLIENT_STATES",
    "CLOSE_BEGUN",
    "ENDING",
    "JOIN_SENT",
    "LEAVE_BEGUN",
    "LINK_ENDS",
    "PUSHES",
    "SOCKET",
    "ChannelInput",
    "ChannelState",
    "ChannelTable",
    "LinkEnd",
    "PushRule",
    "SocketInput",
    "SocketState",
    "SocketTable",
]


class _Key(enum.Enum):
    """Part of the tables' keys."""

    __hash__ = object.__hash__  # implemented in C, and correct: equal members are identical


class SocketState(_Key):
    """The state of a client's connection."""

    IDLE = "idle"
    RESOLVING = "resolving"
    OPENING = "opening"
    OPEN = "open"
    WAITING = "waiting"
    DRAINING = "draining"
    CLOSING = "closing"
    CLOSED = "closed"


class SocketInput(_Key):
    """The inputs of a socket."""

    CONNECT = "connect"  # the application connects, and an attempt begins
    RETRY = "retry"  # the time for another attempt has come
    RECONNECT = "reconnect"  # the application wants another attempt at once
    DIAL = "dial"  # an attempt opens its transport
    OPENED = "opened"  # the handshake succeeded
    LOST = "lost"  # the attempt failed, or the connection ended; another attempt follows
    DRAIN = "drain"  # the application closes gracefully
    CLOSE = "close"  # the closing handshake begins
    END = "end"  # the socket ends


class ChannelState(_Key):
    """The state of a channel."""

    IDLE = "idle"
    PENDING = "pending"
    JOINING = "joining"
    JOINED = "joined"
    ERRORED = "errored"
    LEAVING = "leaving"
    CLOSED = "closed"


class ChannelInput(_Key):
    """The inputs of a channel."""

    JOIN = "join"  # the application joins
    SEND = "send"  # phx_join is sent
    OK = "ok"  # the join is accepted
    FAIL = "fail"  # refused, timed out or crashed; it will be tried again
    LOST = "lost"  # the connection ended
    MOVE = "move"  # its socket has no room, and another takes it
    RETRY = "retry"  # the time to try again has come
    LEAVE = "leave"  # phx_leave is sent
    END = "end"  # the channel ends for good


SocketTable: TypeAlias = Mapping[tuple[SocketState, SocketInput], SocketState]
ChannelTable: TypeAlias = Mapping[tuple[ChannelState, ChannelInput], ChannelState]

SOCKET: SocketTable = MappingProxyType(
    {
        (SocketState.IDLE, SocketInput.CONNECT): SocketState.RESOLVING,
        (SocketState.IDLE, SocketInput.DRAIN): SocketState.DRAINING,
        (SocketState.IDLE, SocketInput.END): SocketState.CLOSED,
        (SocketState.RESOLVING, SocketInput.DIAL): SocketState.OPENING,
        (SocketState.RESOLVING, SocketInput.RECONNECT): SocketState.RESOLVING,
        (SocketState.RESOLVING, SocketInput.LOST): SocketState.WAITING,
        (SocketState.RESOLVING, SocketInput.DRAIN): SocketState.DRAINING,
        (SocketState.RESOLVING, SocketInput.END): SocketState.CLOSED,
        (SocketState.OPENING, SocketInput.OPENED): SocketState.OPEN,
        (SocketState.OPENING, SocketInput.RECONNECT): SocketState.RESOLVING,
        (SocketState.OPENING, SocketInput.LOST): SocketState.WAITING,
        (SocketState.OPENING, SocketInput.DRAIN): SocketState.DRAINING,
        (SocketState.OPENING, SocketInput.END): SocketState.CLOSED,
        (SocketState.OPEN, SocketInput.RECONNECT): SocketState.RESOLVING,
        (SocketState.OPEN, SocketInput.LOST): SocketState.WAITING,
        (SocketState.OPEN, SocketInput.DRAIN): SocketState.DRAINING,
        (SocketState.OPEN, SocketInput.CLOSE): SocketState.CLOSING,
        (SocketState.OPEN, SocketInput.END): SocketState.CLOSED,
        (SocketState.WAITING, SocketInput.RETRY): SocketState.RESOLVING,
        (SocketState.WAITING, SocketInput.RECONNECT): SocketState.RESOLVING,
        (SocketState.WAITING, SocketInput.DRAIN): SocketState.DRAINING,
        (SocketState.WAITING, SocketInput.END): SocketState.CLOSED,
        (SocketState.DRAINING, SocketInput.LOST): SocketState.DRAINING,
        (SocketState.DRAINING, SocketInput.CLOSE): SocketState.CLOSING,
        (SocketState.DRAINING, SocketInput.END): SocketState.CLOSED,
        (SocketState.CLOSING, SocketInput.END): SocketState.CLOSED,
    }
)

CHANNEL: ChannelTable = MappingProxyType(
    {
        (ChannelState.IDLE, ChannelInput.JOIN): ChannelState.PENDING,
        (ChannelState.IDLE, ChannelInput.END): ChannelState.CLOSED,
        (ChannelState.PENDING, ChannelInput.SEND): ChannelState.JOINING,
        (ChannelState.PENDING, ChannelInput.FAIL): ChannelState.ERRORED,
        (ChannelState.PENDING, ChannelInput.LOST): ChannelState.PENDING,
        (ChannelState.PENDING, ChannelInput.MOVE): ChannelState.PENDING,
        (ChannelState.PENDING, ChannelInput.LEAVE): ChannelState.LEAVING,
        (ChannelState.PENDING, ChannelInput.END): ChannelState.CLOSED,
        (ChannelState.JOINING, ChannelInput.OK): ChannelState.JOINED,
        (ChannelState.JOINING, ChannelInput.FAIL): ChannelState.ERRORED,
        (ChannelState.JOINING, ChannelInput.LOST): ChannelState.PENDING,
        (ChannelState.JOINING, ChannelInput.MOVE): ChannelState.PENDING,
        (ChannelState.JOINING, ChannelInput.LEAVE): ChannelState.LEAVING,
        (ChannelState.JOINING, ChannelInput.END): ChannelState.CLOSED,
        (ChannelState.JOINED, ChannelInput.FAIL): ChannelState.ERRORED,
        (ChannelState.JOINED, ChannelInput.LOST): ChannelState.PENDING,
        (ChannelState.JOINED, ChannelInput.LEAVE): ChannelState.LEAVING,
        (ChannelState.JOINED, ChannelInput.END): ChannelState.CLOSED,
        (ChannelState.ERRORED, ChannelInput.RETRY): ChannelState.PENDING,
        (ChannelState.ERRORED, ChannelInput.LOST): ChannelState.PENDING,
        (ChannelState.ERRORED, ChannelInput.LEAVE): ChannelState.LEAVING,
        (ChannelState.ERRORED, ChannelInput.END): ChannelState.CLOSED,
        (ChannelState.LEAVING, ChannelInput.END): ChannelState.CLOSED,
    }
)


# ---- what follows from the tables -----------------------------------------------------------------------------------

#: The client closes or is closed: no new channel, no new message.
ENDING: Final = frozenset(state for state in SocketState if (state, SocketInput.DRAIN) not in SOCKET)

#: The closing handshake has begun, or the socket has ended: only the end can follow.
CLOSE_BEGUN: Final = ENDING - {state for state, by in SOCKET if by is SocketInput.CLOSE}

#: The channel's leave has begun, or the channel has ended: only the end can follow.
LEAVE_BEGUN: Final = frozenset(ChannelState) - {state for state, by in CHANNEL if by is not ChannelInput.END}

#: The server has the join: it was sent on this connection, and nothing has ended it.
JOIN_SENT: Final = frozenset(to for (_, by), to in CHANNEL.items() if by in (ChannelInput.SEND, ChannelInput.OK))


#: The state of a client as a whole is the first of these that one of its sockets has: it is open when all are.
CLIENT_STATES: Final = (
    SocketState.DRAINING,
    SocketState.WAITING,
    SocketState.RESOLVING,
    SocketState.OPENING,
    SocketState.IDLE,
    SocketState.OPEN,
    SocketState.CLOSING,
    SocketState.CLOSED,
)


class LinkEnd(enum.Enum):
    """What the end of a link means, by the state of the socket."""

    FAILED = "the attempt failed"
    LOST = "the connection is lost, and another follows"
    DRAINED = "the connection is lost, and handlers finish without it"
    CLOSED = "the closing handshake is over"


LINK_ENDS: Final[Mapping[SocketState, LinkEnd]] = MappingProxyType(
    {
        SocketState.OPENING: LinkEnd.FAILED,
        SocketState.OPEN: LinkEnd.LOST,
        SocketState.DRAINING: LinkEnd.DRAINED,
        SocketState.CLOSING: LinkEnd.CLOSED,
    }
)


class PushRule(enum.Enum):
    """What happens to a push, by the state of its channel."""

    UNJOINED = "it is refused: the channel was never asked to join"
    KEPT = "it waits for the join"
    SENT = "it is sent at once"
    ENDED = "it is refused: the channel has ended"


PUSHES: Final[Mapping[ChannelState, PushRule]] = MappingProxyType(
    {
        ChannelState.IDLE: PushRule.UNJOINED,
        ChannelState.PENDING: PushRule.KEPT,
        ChannelState.JOINING: PushRule.KEPT,
        ChannelState.JOINED: PushRule.SENT,
        ChannelState.ERRORED: PushRule.KEPT,
        ChannelState.LEAVING: PushRule.ENDED,
        ChannelState.CLOSED: PushRule.ENDED,
    }
)
