"""A client for the peer, and the server's end of one connection in memory."""

import re
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar
from urllib.parse import parse_qsl, urlsplit

from phx_proto.commands import Command, OpenTransport, Resolve
from phx_proto.formats import V1, V2, Serializer, ServerSerializer, V1Server, V2Server, serializer_for
from phx_proto.link import Link
from phx_proto.message import Message

from .clock import Clock
from .transcript import is_secret

if TYPE_CHECKING:
    from ..client.driver import Driver
    from ..threads.interfaces import TransportDriver

D = TypeVar("D", bound="Driver | TransportDriver")


class PeerClient(ABC, Generic[D]):
    """The connections of one client: for its driver the network, for the peer a client.

    `perform` carries out a command of the core; it is called within a step.
    """

    def __init__(self, driver: D, clock: Clock, perform: "Callable[[Command, PeerClient[Any]], None]") -> None:
        self.now = clock.now
        self.driver = driver
        self._clock = clock
        self._perform = perform
        self._over = False  # the client has ended: it handles no further messages

    def perform(self, command: Command) -> None:
        self._perform(command, self)

    @property
    def backlog(self) -> int:
        """Messages that the client has received and will still handle."""
        return 0 if self._over else self.driver.proto.stats.backlog

    @property
    def at_work(self) -> list[tuple[str, str]]:
        """Topic and name of each handler that has messages to handle."""
        channels = tuple(self.driver.proto.channels.values())
        return sorted(
            (channel.topic, handler.name) for channel in channels for handler in channel.inbox.busy_handlers()
        )

    def awaits(self, ref: str) -> bool:
        """Whether a call waits for the reply to the request with this ref."""
        return self.driver.session.awaits(ref)

    def rest(self, timeout: float) -> bool:
        """Wait up to so many real seconds, if waiting helps, until all is handled; returns whether it is."""
        return not self.backlog

    @abstractmethod
    def resolve(self, command: Resolve) -> None:
        """Call the provider of params or token after the step, and pass the result to the core."""

    def soon(self, call: Callable[[], None]) -> None:
        """Call something after the step; not needed if the caller of the core settles."""

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after so many real seconds, if the client has not ended and may wait."""


class State(Enum):
    """A connection's state on the server's side."""

    ASKED = "asked"  #: the client waits for the answer to its handshake
    OPEN = "open"
    OVER = "over"


class Connection:
    """One attempt to connect, and the connection made by it.

    Attributes:
        url: Without its query.
        params: The query, without the version.
        headers: The headers sent besides the handshake's own.
        joined: The join_ref of every joined topic.
        close_code: Of the client's close frame; `None` if it sent none: the connection is open, cut or dropped.
        under_way: What is still to be delivered to the client, in order.
    """

    def __init__(self, client: PeerClient[Any], command: OpenTransport, serializer: ServerSerializer | None) -> None:
        split = urlsplit(command.url)
        query = dict(parse_qsl(split.query, keep_blank_values=True))
        vsn = query.pop("vsn", None)
        self.link: Link = command.link
        self.client = client
        self.url = split._replace(query="").geturl()
        self.params: Mapping[str, str] = query
        self.headers: Mapping[str, str] = dict(command.headers)
        self.subprotocols = command.subprotocols
        self.serializer: ServerSerializer = serializer or serializer_for(vsn) or V2Server()
        self.joined: dict[str, Any] = {}
        self.state = State.ASKED
        self.close_code: int | None = None
        self.paused = False
        self.under_way: deque[Callable[[float], None]] = deque()

    def __str__(self) -> str:
        secret = {name for name in self.params if any(map(is_secret, re.split(r"[\[\]]+", name)))}
        shown = "&".join(f"{name}={'…' if name in secret else value}" for name, value in self.params.items())
        return f"{self.url} (vsn {self.serializer.vsn}){f' with {shown}' if shown else ''}"

    def over(self) -> None:
        """It has ended; what is under way is still delivered, because it was sent before."""
        self.state = State.OVER
        self.joined.clear()


def server_frame(serializer: ServerSerializer, join_ref: Any, topic: str, event: str, payload: Any) -> str | bytes:
    """A frame of a push, or with a null join_ref of a broadcast, with any JSON value or bytes.

    Phoenix pushes only objects and bytes, and so do its serializers here; but a client may use other servers.
    """
    client = _CLIENTS.get(type(serializer))
    if client is not None and not isinstance(payload, dict | bytes | bytearray | memoryview):
        return client.encode(Message[Any](join_ref=join_ref, topic=topic, event=event, payload=payload))
    if join_ref is None:
        return serializer.broadcast(topic, event, payload)
    return serializer.push(join_ref, topic, event, payload)


_CLIENTS: Final[Mapping[type, Serializer]] = {V1Server: V1(), V2Server: V2()}
