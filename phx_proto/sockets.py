"""The sockets of a client, and which topic is on which: a client begins with one socket, and opens more if needed.

Since 1.8.9 Phoenix limits the topics on a socket (`max_channels_per_transport`, 100 by default) and refuses the next
join with `{"reason": "too many channels joined"}`. That refusal is not reported to the application. It shows
the connection's limit: the topics that are joined on it, and those that the server has perhaps not left yet. The join
is sent on another socket, an open one with room or a new one, and so is every join that still waits on the full one. A
socket without a topic is closed after a short time, except the first. Otherwise a topic stays on its socket.

A connection's limit is forgotten with it, because the next may lead to another server. Then the largest limit or number
of joined topics seen so far is assumed, as for new sockets, until a refusal corrects it. If a refused join was alone on
its socket, another socket would not help, and the refusal is treated as any other.
"""

from collections.abc import Iterator
from itertools import count
from math import inf
from typing import Protocol

from .client_socket import Socket, SocketOwner
from .client_state import ClientState
from .connection import Connection, Member
from .message import Reply
from .shown import Secrets
from .states import CLIENT_STATES, ENDING, SocketState


class Placed(Member, Protocol):
    """A channel that has a socket."""

    socket: Socket


class Sockets:
    """The sockets of one client.

    Attributes:
        first: The client's first socket, which it keeps until its end.
        all: The sockets in use, the first one first, and those that are being closed.
    """

    def __init__(self, client: ClientState, owner: SocketOwner) -> None:
        self._client = client
        self._owner = owner
        self._numbers = count()
        limit = client.options.topics_per_socket
        self._limit = inf if limit is None else limit
        self.first = self._make()
        self.all = [self.first]

    @property
    def state(self) -> SocketState:
        """The client's state: that of the socket farthest from being open, see `ClientProtocol.state`."""
        states = {socket.state for socket in self.all if socket is self.first or not socket.untried}
        return next(state for state in CLIENT_STATES if state in states)

    @property
    def connections(self) -> Iterator[Connection]:
        """The open connections."""
        return (socket.connection for socket in self.all if socket.connection is not None)

    @property
    def secrets(self) -> Secrets:
        """The secrets of each socket's latest attempt to connect."""
        return self.first.secrets.merged(*(socket.secrets for socket in self.all[1:]))

    def place(self, channel: Placed, now: float) -> None:
        """Give a channel to a socket with room for it, open if possible; a new one if there is none."""
        roomy = [socket for socket in self.all if self._has_room(socket)]
        is_open = (socket for socket in roomy if socket.connection is not None)
        channel.socket = socket = next(is_open, None) or (roomy[0] if roomy else self._add(now))
        socket.members[channel] = None

    def learn(self, connection: Connection, join_ref: str, refusal: Reply) -> bool:
        """Read the limit from the refusal of a join. Returns whether the join needs another socket."""
        held = connection.held_at(join_ref)
        match refusal.response:
            case {"reason": "too many channels joined"} if held:
                connection.limit = held
                self._limit = max(known.limit or len(known.live) for known in self.connections)
                return True
            case _:
                return False

    def forget_ended(self) -> None:
        """Forget the sockets that have ended, except the first."""
        self.all[1:] = [socket for socket in self.all[1:] if socket.state is not SocketState.CLOSED]

    def _has_room(self, socket: Socket) -> bool:
        if socket.state in ENDING:
            return socket is self.first  # the client ends: nothing is joined any more
        limit = self._limit if socket.connection is None else socket.connection.limit or self._limit
        return len(socket.members) < limit

    def _make(self) -> Socket:
        return Socket(next(self._numbers), self._client, self._owner)

    def _add(self, now: float) -> Socket:
        socket = self._make()
        self.all.append(socket)
        if self._client.stats.connects:
            socket.connect(now)
        return socket
