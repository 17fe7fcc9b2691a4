"""The server that a command talks to, and how a command speaks of what happens."""

import contextlib
import sys
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, Final, Literal

from phx_proto import V1, V2, Endpoint, PhxError, Serializer
from phx_proto.errors import ConnectTimeout, HandshakeRefused
from phx_proto.shown import escaped
from phx_proto.transports import TransportName

from ..asyncio import connect

_LONGEST: Final = 2000  # characters of what is said of an event

_SERIALIZERS: Final[dict[str, type[Serializer]]] = {"1.0.0": V1, "2.0.0": V2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A server, as the command line names it.

    Attributes:
        longpoll: Whether it is polled, instead of a WebSocket.
        timeout: Seconds for the first connection.
    """

    url: str = field(repr=False)
    params: dict[str, Any] | None = field(repr=False)
    token: str | None = field(repr=False)
    headers: list[tuple[str, str]] = field(repr=False)
    path: str | None
    vsn: str
    timeout: float
    ca: SSLContext | None = field(repr=False)
    proxy: str | Literal[True] = field(repr=False)
    longpoll: bool

    @property
    def serializer(self) -> Serializer:
        """A new one of the version."""
        return _SERIALIZERS[self.vsn]()

    @property
    def network(self) -> dict[str, Any]:
        """How connections are opened."""
        return {"ssl": self.ca, "proxy": None if self.proxy == "none" else self.proxy}

    @property
    def shown(self) -> str:
        """The address, without what is secret."""
        return Endpoint(self.url, params=self.params, path=self.path, transport=self.transport).redacted

    @property
    def transport(self) -> TransportName:
        """What carries the messages."""
        return "longpoll" if self.longpoll else "websocket"

    def connect(self, **options: Any) -> connect:
        """The client, with these options besides."""
        options = {"serializer": self.serializer, "transport": self.transport, **self.network, **options}
        return connect(
            self.url,
            params=self.params,
            auth_token=self.token,
            headers=self.headers,
            path=self.path,
            timeout=self.timeout,
            **options,
        )

    def say_unreachable(self, error: PhxError) -> None:
        """Say why it cannot be reached."""
        where = "" if isinstance(error, HandshakeRefused) else f"{self.shown}: "  # which names it itself
        said = isinstance(error, HandshakeRefused) or not isinstance(error, ConnectTimeout)
        say(f"{where}{error}{'' if said else ' (check host and port; --timeout waits longer)'}")


def say(text: str) -> None:
    """Tell one line on stderr. Servers choose what stands in it, so what a terminal would obey is escaped."""
    with contextlib.suppress(OSError):
        print(f"phx: {escaped(text, _LONGEST)}", file=sys.stderr, flush=True)
