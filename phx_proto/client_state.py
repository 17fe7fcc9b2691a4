"""The state of one client that its sockets and channels share: its channels, its backlog, its options."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .connection import Member
from .core import Core
from .endpoint import Endpoint
from .formats import Serializer
from .options import ClientOptions
from .queues import Backlog
from .transports import Transports

if TYPE_CHECKING:
    from random import Random


class ClientState(Core):
    """A client's state besides its sockets.

    Attributes:
        endpoint: The server's endpoint.
        confidential: Secrets that the adapter sends itself.
        options: Its options.
        transports: The choice of the transport.
        held: Counts the messages that are received and not handled yet.
        channels: Each topic's channel, from its creation to its leave or end.
        unsent: How many pushes wait for their channel's join, on all channels.
    """

    def __init__(
        self,
        serializer: Serializer,
        rng: "Random | None",
        *,
        endpoint: Endpoint,
        confidential: Iterable[str],
        options: ClientOptions,
        transports: Transports,
    ) -> None:
        super().__init__(serializer, rng)
        self.endpoint = endpoint
        self.confidential = tuple(confidential)
        self.options = options
        self.transports = transports
        self.held = Backlog()
        self.channels: dict[str, Member] = {}
        self.unsent = 0
        self._links = 0

    def new_link(self) -> int:
        """A number that no other link of this client has had."""
        self._links += 1
        return self._links
