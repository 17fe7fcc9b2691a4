"""The state of one client, that its channels share: where it stands, its connection, who has which topic."""

from typing import TYPE_CHECKING

from .connection import Connection, Member
from .core import Core
from .errors import ConnectError, ConnectionClosed
from .formats import Serializer
from .options import ClientOptions
from .states import SOCKET, SocketInput, SocketState

if TYPE_CHECKING:
    from random import Random


class ClientState(Core):
    """What a client has besides what outlives every state of it.

    Attributes:
        state: Where the socket stands.
        connection: The open connection; `None` while there is none.
        channels: Each topic's channel, from its making to its leave or end.
        last_error: What ended the latest connection, or attempt to make one.
        unsent: How many pushes wait for their channel's join, on all channels.
    """

    __slots__ = ("channels", "connection", "last_error", "options", "state", "unsent")

    def __init__(self, serializer: Serializer, rng: "Random | None", options: ClientOptions) -> None:
        super().__init__(serializer, rng)
        self.options = options
        self.state = SocketState.IDLE
        self.connection: Connection | None = None
        self.channels: dict[str, Member] = {}
        self.last_error: ConnectError | ConnectionClosed | None = None
        self.unsent = 0

    @property
    def connected(self) -> Connection:
        """The open connection; there must be one."""
        assert self.connection is not None
        return self.connection

    def may(self, by: SocketInput) -> bool:
        """Whether the table has a row for this input now."""
        return (self.state, by) in SOCKET

    def advance(self, by: SocketInput) -> None:
        """Go where the table leads."""
        self.state = SOCKET[self.state, by]
