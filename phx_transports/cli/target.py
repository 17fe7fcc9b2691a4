"""The server that a command talks to, and how a command reports events."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Coroutine
from ssl import SSLContext
from typing import Any, Final, Literal

from phx_proto import V1, V2, Endpoint, PhxError, Serializer
from phx_proto.errors import ConnectError, ConnectTimeout, HandshakeRefused, LocalError
from phx_proto.shown import escaped
from phx_proto.transports import TransportName

from ..asyncio import connect
from .arguments import Options

_LONGEST: Final = 2000  # characters of an event's text
_SERIALIZERS: Final[dict[str, type[Serializer]]] = {"1.0.0": V1, "2.0.0": V2}


class Target(Options):
    """A server, as named on the command line."""

    url: str
    params: dict[str, Any] | None
    join_params: Any
    token: str | None
    headers: list[tuple[str, str]]
    path: str | None
    vsn: str
    timeout: float
    ca: SSLContext | None
    proxy: str | Literal[True]
    longpoll: bool

    @property
    def serializer(self) -> Serializer:
        """A new serializer of the version."""
        return _SERIALIZERS[self.vsn]()

    @property
    def network(self) -> dict[str, Any]:
        """How connections are opened."""
        return {"ssl": self.ca, "proxy": None if self.proxy == "none" else self.proxy}

    @property
    def shown(self) -> str:
        """The address, without secrets."""
        return Endpoint(self.url, params=self.params, path=self.path, transport=self._transport).redacted

    @property
    def _transport(self) -> TransportName:
        return "longpoll" if self.longpoll else "websocket"

    def connect(self, **options: Any) -> connect:
        """The client, with these further options."""
        given: dict[str, Any] = {"params": self.params, "headers": self.headers, "path": self.path}
        given |= {"timeout": self.timeout, "serializer": self.serializer, "transport": self._transport}
        return connect(self.url, auth_token=self.token, **given | self.network | options)

    def run(self, work: Coroutine[Any, Any, int], *, ended: str = "") -> int:
        """Run the command's work, and report an error, with the word `ended` before it; returns the exit code."""
        try:
            return asyncio.run(work)
        except (LocalError, argparse.ArgumentTypeError) as error:
            say(str(error))
            return 2
        except HandshakeRefused as error:  # which names the address
            say(str(error))
        except ConnectError as error:
            advice = " (check host and port; --timeout waits longer)" if isinstance(error, ConnectTimeout) else ""
            say(f"{self.shown}: {error}{advice}")
        except PhxError as error:
            say(f"{ended}{error}")
        return 1


def say(text: str) -> None:
    """Write one line to stderr. A server may choose its text, so terminal control characters are escaped."""
    with contextlib.suppress(OSError):
        print(f"phx: {escaped(text, _LONGEST)}", file=sys.stderr, flush=True)
