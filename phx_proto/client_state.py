"""The state of one client that its sockets and channels share: its channels, its backlog, its options."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

from .connection import Member
from .core import Core
from .endpoint import Endpoint
from .options import ClientOptions
from .queues import Backlog
from .transports import Transports


@dataclass(eq=False, repr=False, kw_only=True)
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
        link_numbers: Numbers its connection attempts.
    """

    endpoint: Endpoint
    confidential: tuple[str, ...]
    options: ClientOptions
    transports: Transports
    held: Backlog = field(default_factory=Backlog)
    channels: dict[str, Member] = field(default_factory=dict[str, Member])
    unsent: int = 0
    link_numbers: Iterator[int] = field(default_factory=lambda: count(1))
