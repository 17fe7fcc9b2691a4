"""A client's socket, for the application."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Protocol

from phx_proto.server.events import SocketClosed
from phx_proto.shown import Secrets, secrets_in, secrets_in_headers


class SocketControl(Protocol):
    """The driver of a `ServerSocket`; see the socket's methods of the same names."""

    def disconnect(self) -> None: ...
    def close(self, code: int, reason: str) -> None: ...
    def abort(self) -> None: ...
    async def writable(self) -> None: ...


@dataclass(frozen=True, slots=True)
class ConnectInfo:
    """Where a client comes from: Phoenix's `connect_info`, without anything secret, so that it can be logged.

    Attributes:
        address: The peer's IP address (a proxy's, if there is one); `None` if it has none.
        port: The peer's port.
        uri: The requested address without the query, which contains params.
        headers: The handshake's, names in lower case, without credentials, cookies and tokens.
    """

    address: str | None
    port: int | None
    uri: str
    headers: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, peer: "tuple[Any, ...] | str | None", uri: str, headers: Mapping[str, str]) -> "ConnectInfo":
        """The information from a handshake; `peer` is its socket's address."""
        address, port = peer[:2] if isinstance(peer, tuple) else (None, None)
        told = {name: value for name, value in headers.items() if not _SECRET.search(name)}
        return cls(address, port, uri, MappingProxyType(told))


_SECRET: Final = re.compile(r"auth|cookie|token|secret|password|api-?key|sec-websocket-(key|protocol)")


class ServerSocket:
    """One client's connection, for the application: first in `connect`, then in each of its channels.

    Attributes:
        params: The URL's, as Plug reads them (`a[b]=1` is nested), including `vsn` and the variables of the path.
        headers: The handshake's, names in lower case; all of them, including secrets.
        connect_info: Where the client came from.
        auth_token: The token the client offered as a subprotocol.
        id: Set it in `connect`: the name for `Server.disconnect`, e.g. `"user:7"`.
        assigns: The application's own.
        ended: How the connection ended; `None` until then.
    """

    def __init__(
        self, *, params: dict[str, Any], headers: Mapping[str, str], auth_token: str | None, connect_info: ConnectInfo
    ) -> None:
        self.params = params
        self.headers = headers
        self.auth_token = auth_token
        self.connect_info = connect_info
        self.id: str | None = None
        self.assigns: dict[str, Any] = {}
        self.ended: SocketClosed | None = None
        self._control: SocketControl | None = None

    def attach(self, control: SocketControl) -> None:
        """The connection is open; called by the server."""
        self._control = control

    def secrets(self) -> Secrets:
        """The client's secrets from the handshake: to mask them in text that may repeat them."""
        token = [] if self.auth_token is None else [self.auth_token]
        return Secrets([*token, *secrets_in(self.params), *secrets_in_headers(self.headers.items())])

    def disconnect(self) -> None:
        """Close the connection; the client will reconnect."""
        if self._control is not None:
            self._control.disconnect()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Close the connection with a code and a reason; the client decides whether to reconnect.

        Args:
            code: 1000 to 1003, 1007 to 1014 or 3000 to 4999.
            reason: 123 bytes in UTF-8 at most.

        Raises:
            ValueError: A close frame cannot carry these.
            TypeError: The code is not a whole number.
        """
        if self._control is not None:
            self._control.close(code, reason)

    def abort(self) -> None:
        """Drop the connection without a close frame."""
        if self._control is not None:
            self._control.abort()

    async def writable(self) -> None:
        """Wait until the client has read enough of what was sent to it. No other call waits for that."""
        if self._control is not None:
            await self._control.writable()
