"""Where on a server clients connect, and which handshakes are refused there before the application is asked.

The checks and their order are those of Phoenix, with its words where it has any: the path, the origin, the auth token,
the subprotocols, the version, the headers of the upgrade.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from websockets.datastructures import Headers

from phx_proto.formats import ServerSerializer, serializer_for
from phx_proto.server.events import ServerOptions

from .handshake import Offer, RefuseConnect, RequestLine, read_params, take_offer
from .socket import ServerSocket

__all__ = ["CRASHED", "NOT_FOUND", "Connect", "Mount", "Origin", "serializer_of"]

#: Accepts a client by returning, after setting the socket's id and assigns; refuses it by raising `RefuseConnect`. Any
#: other exception is an HTTP 500. It may be a coroutine function, and has the `handshake_timeout` of the server.
Connect: TypeAlias = Callable[[ServerSocket], Awaitable[None] | None]

_JSON: Final[Mapping[str, str]] = {"content-type": "application/json; charset=utf-8"}

NOT_FOUND: Final = RefuseConnect(404, '{"errors":{"detail":"Not Found"}}', _JSON)
CRASHED: Final = RefuseConnect(500, '{"errors":{"detail":"Internal Server Error"}}', _JSON)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One place to connect to; see `Server.mount`."""

    path: str
    connect: Connect | None
    options: ServerOptions
    check_origin: "tuple[Origin, ...] | None"
    subprotocols: tuple[str, ...]
    auth_token: bool

    @property
    def address(self) -> str:
        """The path of its WebSocket."""
        return f"{self.path}/websocket"

    def admit(self, line: RequestLine, headers: Headers) -> tuple[Offer, dict[str, Any]]:
        """Check a request for a WebSocket here; its header of subprotocols is taken away.

        Returns:
            What was offered, and the params.

        Raises:
            RefuseConnect: The application need not be asked.
        """
        if line.method != "GET":
            raise RefuseConnect(400)
        if self.check_origin is not None and not _is_allowed(headers.get_all("Origin"), self.check_origin):
            raise RefuseConnect(403)
        offer = take_offer(headers, self.subprotocols, auth_token=self.auth_token)
        params = read_params(line.query)
        if serializer_of(params) is None:
            raise RefuseConnect(403)
        problem = _upgrade_problem(line.version, headers)
        if problem is not None:
            raise RefuseConnect(400, problem)
        return offer, params


def serializer_of(params: Mapping[str, Any]) -> ServerSerializer | None:
    """Of the version that a client asks for; `None` where there is none."""
    vsn = params.get("vsn")
    return serializer_for(vsn) if vsn is None or isinstance(vsn, str) else None


# ---- private --------------------------------------------------------------------------------------------------------

_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

#: An origin as browsers write it (RFC 6454 §6.2) and nothing beyond: no userinfo, path, escape or dot at the end.
_SCHEME: Final = r"(?P<scheme>[a-z][a-z0-9+.-]*)"
_LABELS: Final = r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*"
_IPV6: Final = r"\[[0-9a-f:.]+\]"
_PORT: Final = r"(?::(?P<port>[0-9]{1,5}))?"
_ORIGIN: Final = re.compile(rf"{_SCHEME}://(?P<host>{_LABELS}|{_IPV6}){_PORT}", re.ASCII | re.IGNORECASE)
_ALLOWED: Final = re.compile(
    rf"(?:{_SCHEME}:)?//(?P<host>(?:\*\.)?{_LABELS}|{_IPV6}){_PORT}/?", re.ASCII | re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Origin:
    """An origin of a browser, or one that is allowed to be: then without a scheme or a port it stands for any."""

    scheme: str | None
    host: str
    port: int | None

    @classmethod
    def allowed(cls, pattern: str) -> "Origin":
        """Read a pattern of `check_origin`.

        Raises:
            ValueError: It is none.
        """
        found = _ALLOWED.fullmatch(pattern)
        if found is None:
            wanted = "'//example.com', 'https://example.com:8080' or '//*.example.com'"
            raise ValueError(f"check_origin takes {wanted}, not {pattern!r}")
        return cls._of(found)

    @classmethod
    def _of(cls, found: re.Match[str]) -> "Origin":
        scheme, port = (found["scheme"] or "").lower() or None, found["port"]
        return cls(scheme, found["host"].lower(), _PORTS.get(scheme or "") if port is None else int(port))

    def includes(self, origin: str) -> bool:
        """Whether a browser's origin is this one. As in Phoenix `*.example.com` is `example.com` too."""
        found = _ORIGIN.fullmatch(origin)
        if found is None:
            return False
        theirs = self._of(found)
        if self.scheme not in (None, theirs.scheme) or self.port not in (None, theirs.port):
            return False
        if not self.host.startswith("*."):
            return theirs.host == self.host
        return f".{theirs.host}".endswith(self.host[1:])


def _is_allowed(origins: list[str], allowed: tuple[Origin, ...]) -> bool:
    """Whether a request with these `Origin` headers may come in; without one it is no browser's, which might lie."""
    return all(any(each.includes(origin) for each in allowed) for origin in origins)


def _upgrade_problem(version: str, headers: Headers) -> str | None:
    if version != "HTTP/1.1":
        return f"HTTP version {version} unsupported"
    for name, token in (("connection", "upgrade"), ("upgrade", "websocket")):
        values = headers.get_all(name)
        if token not in [each.strip().lower() for value in values for each in value.split(",")]:
            return f"'{name}' header must contain '{token}', got {_listed(values)}"
    if not headers.get("sec-websocket-key"):
        return "'sec-websocket-key' header is absent"
    versions = headers.get_all("sec-websocket-version")
    return None if versions == ["13"] else f"'sec-websocket-version' header must equal '13', got {_listed(versions)}"


def _listed(values: list[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
