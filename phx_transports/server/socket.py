"""A client's socket as an application sees it."""

from collections.abc import Mapping
from typing import Any, Protocol

from phx_proto.server.events import SocketClosed
from phx_proto.shown import Secrets, secrets_in, secrets_in_headers

__all__ = ["ServerSocket", "SocketControl"]


class SocketControl(Protocol):
    """What a `ServerSocket` asks of its driver; see its methods of the same names."""

    def disconnect(self) -> None: ...
    def abort(self) -> None: ...
    async def writable(self) -> None: ...


class ServerSocket:
    """One client's connection, as an application sees it; first in `connect`, then in each of its channels.

    Attributes:
        params: Of the URL, as Plug reads them (`a[b]=1` is nested), `vsn` included.
        headers: Of the handshake, names in lower case.
        auth_token: The token the client offered as a subprotocol.
        id: Set it in `connect`: the name for `Server.disconnect`, e.g. `"user:7"`.
        assigns: The application's own.
        ended: How the connection ended; `None` until then.
    """

    def __init__(self, *, params: dict[str, Any], headers: Mapping[str, str], auth_token: str | None) -> None:
        self.params = params
        self.headers = headers
        self.auth_token = auth_token
        self.id: str | None = None
        self.assigns: dict[str, Any] = {}
        self.ended: SocketClosed | None = None
        self._control: SocketControl | None = None

    def attach(self, control: SocketControl) -> None:
        """The connection is open; called by the server."""
        self._control = control

    def secrets(self) -> Secrets:
        """What the client sent in confidence when it connected: to mask it in text that may repeat it."""
        token = [] if self.auth_token is None else [self.auth_token]
        return Secrets([*token, *secrets_in(self.params), *secrets_in_headers(self.headers.items())])

    def disconnect(self) -> None:
        """Close the connection; the client is meant to come back."""
        if self._control is not None:
            self._control.disconnect()

    def abort(self) -> None:
        """Drop the connection without a close frame."""
        if self._control is not None:
            self._control.abort()

    async def writable(self) -> None:
        """Wait until the client has read enough of what was sent to it. No other call waits for that."""
        if self._control is not None:
            await self._control.writable()
