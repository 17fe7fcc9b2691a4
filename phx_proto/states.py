"""The states of a socket and of a channel, and the tables that join them.

Theory of operation. A client is one socket and many channels. Each is in one state, and each input moves it along its
table: `table[state, input]` is the next state, and a pair that is not in the table cannot happen (the core refuses or
ignores it before it comes here). What is done on the way stands in `client.py` and `channel.py`; the diagrams in docs/
are made from these tables.

The socket. Every attempt begins with RESOLVING what params and token are, which takes no time where none is a callable.
An attempt that fails, or a connection that is lost, leads to WAITING for the next attempt, or to CLOSED where a policy
says that this was final. DRAINING still sends and hears replies, but takes no new message; CLOSING waits for the other
side's close frame.

A channel. PENDING wants to be joined, and waits for the connection, for its turn, or for its params. ERRORED waits for
its time to try again. A lost connection makes every channel that was to be joined PENDING. CLOSED is final: another
life of the topic is another channel.
"""

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias


class SocketState(enum.Enum):
    """Where a client's connection stands."""

    IDLE = "idle"
    RESOLVING = "resolving"
    OPENING = "opening"
    OPEN = "open"
    WAITING = "waiting"
    DRAINING = "draining"
    CLOSING = "closing"
    CLOSED = "closed"


class SocketInput(enum.Enum):
    """What moves a socket."""

    RESOLVE = "resolve"  # an attempt begins: what are params and token now?
    DIAL = "dial"  # an attempt opens its transport
    OPENED = "opened"  # the handshake succeeded
    LOST = "lost"  # the attempt failed, or the connection is gone; another attempt follows
    DRAIN = "drain"  # the application closes gracefully
    CLOSE = "close"  # the closing handshake begins
    END = "end"  # nothing more to wait for


class ChannelState(enum.Enum):
    """Where a channel stands."""

    IDLE = "idle"
    PENDING = "pending"
    JOINING = "joining"
    JOINED = "joined"
    ERRORED = "errored"
    LEAVING = "leaving"
    CLOSED = "closed"


class ChannelInput(enum.Enum):
    """What moves a channel."""

    JOIN = "join"  # the application joins
    SEND = "send"  # phx_join goes out
    OK = "ok"  # it is accepted
    FAIL = "fail"  # refused, timed out or crashed; it will be tried again
    LOST = "lost"  # the connection is gone
    RETRY = "retry"  # the time to try again has come
    LEAVE = "leave"  # phx_leave goes out
    END = "end"  # for good


SocketTable: TypeAlias = Mapping[tuple[SocketState, SocketInput], SocketState]
ChannelTable: TypeAlias = Mapping[tuple[ChannelState, ChannelInput], ChannelState]

SOCKET: SocketTable = MappingProxyType(
    {
        (SocketState.IDLE, SocketInput.RESOLVE): SocketState.RESOLVING,
        (SocketState.IDLE, SocketInput.DRAIN): SocketState.DRAINING,
        (SocketState.IDLE, SocketInput.END): SocketState.CLOSED,
        (SocketState.RESOLVING, SocketInput.DIAL): SocketState.OPENING,
        (SocketState.RESOLVING, SocketInput.LOST): SocketState.WAITING,
        (SocketState.RESOLVING, SocketInput.DRAIN): SocketState.DRAINING,
        (SocketState.RESOLVING, SocketInput.END): SocketState.CLOSED,
        (SocketState.OPENING, SocketInput.OPENED): SocketState.OPEN,
        (SocketState.OPENING, SocketInput.LOST): SocketState.WAITING,
        (SocketState.OPENING, SocketInput.DRAIN): SocketState.DRAINING,
        (SocketState.OPENING, SocketInput.END): SocketState.CLOSED,
        (SocketState.OPEN, SocketInput.LOST): SocketState.WAITING,
        (SocketState.OPEN, SocketInput.DRAIN): SocketState.DRAINING,
        (SocketState.OPEN, SocketInput.CLOSE): SocketState.CLOSING,
        (SocketState.OPEN, SocketInput.END): SocketState.CLOSED,
        (SocketState.WAITING, SocketInput.RESOLVE): SocketState.RESOLVING,
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
        (ChannelState.PENDING, ChannelInput.LEAVE): ChannelState.LEAVING,
        (ChannelState.PENDING, ChannelInput.END): ChannelState.CLOSED,
        (ChannelState.JOINING, ChannelInput.OK): ChannelState.JOINED,
        (ChannelState.JOINING, ChannelInput.FAIL): ChannelState.ERRORED,
        (ChannelState.JOINING, ChannelInput.LOST): ChannelState.PENDING,
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
