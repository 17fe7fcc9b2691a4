"""A path of a server to connect to, and the handshakes that are refused there without calling the application.

The checks, their order and their texts are Phoenix's: the path, the origin, the auth token, the subprotocols, the
version, the headers of the upgrade.
"""

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from urllib.parse import unquote

from websockets.datastructures import Headers

from phx_proto.errors import InvalidHandler
from phx_proto.formats import ServerSerializer, serializer_for
from phx_proto.server.events import ServerOptions

from .handshake import Offer, RefuseConnect, read_params, take_offer
from .http import HttpRequest
from .socket import ServerSocket

#: Accepts a client by returning, after setting the socket's id and assigns; refuses it by raising `RefuseConnect`. Any
#: other exception is an HTTP 500. It may be a coroutine function; the server's `handshake_timeout` bounds it.
Connect: TypeAlias = Callable[[ServerSocket], Awaitable[None] | None]

_JSON: Final[Mapping[str, str]] = {"content-type": "application/json; charset=utf-8"}

NOT_FOUND: Final = RefuseConnect(404, '{"errors":{"detail":"Not Found"}}', _JSON)
CRASHED: Final = RefuseConnect(500, '{"errors":{"detail":"Internal Server Error"}}', _JSON)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One path to connect to; see `Server.mount`."""

    path: str
    websocket: str
    connect: Connect | None
    options: ServerOptions
    is_allowed: "OriginRule"
    subprotocols: tuple[str, ...]
    auth_token: bool
    compress: bool
    longpoll: bool

    def __post_init__(self) -> None:
        variables = _VARIABLE.findall(self.address)
        if len(set(variables)) < len(variables):
            raise ValueError(f"a variable stands twice in {self.address!r}")

    @property
    def address(self) -> str:
        """The path of its WebSocket, with its variables: `/socket/:tenant/websocket`."""
        return _joined(self.path, self.websocket)

    def match(self, path: str) -> dict[str, str] | None:
        """The variables of a request's path; `None` if the path is another one."""
        return _matched(self.address, path)

    def match_polls(self, path: str) -> dict[str, str] | None:
        """The same for a request of long polling."""
        return _matched(_joined(self.path, "longpoll"), path) if self.longpoll else None

    def admits(self, origins: Iterable[str], host: str) -> bool:
        """Whether a page of these origins may connect; without an origin it is not a browser. May raise anything."""
        return all(self.is_allowed(origin, host) for origin in map(Origin.sent, origins))

    def admit(self, request: HttpRequest, variables: dict[str, str]) -> tuple[Offer, dict[str, Any]]:
        """Check a WebSocket request, and remove its subprotocols; returns the offered ones, and the params.

        Raises:
            RefuseConnect: It is refused without calling the application.
            Exception: What the application's `check_origin` raises.
        """
        headers = request.fields
        if request.method != "GET":
            raise RefuseConnect(400)
        if not self.admits(headers.get_all("Origin"), headers["Host"]):
            raise RefuseConnect(403)
        offer = take_offer(headers, self.subprotocols, auth_token=self.auth_token)
        params = read_params(request.query) | variables
        if serializer_of(params) is None:
            raise RefuseConnect(403)
        problem = _upgrade_problem(request.version, headers)
        if problem is not None:
            raise RefuseConnect(400, problem)
        return offer, params


def serializer_of(params: Mapping[str, Any]) -> ServerSerializer | None:
    """The serializer of the version that a client asks for; `None` if there is none."""
    vsn = params.get("vsn")
    return serializer_for(vsn) if vsn is None or isinstance(vsn, str) else None


def _joined(*parts: str) -> str:
    return "/".join(["", *filter(None, "/".join(parts).split("/"))])


def _matched(address: str, path: str) -> dict[str, str] | None:
    """The variables of the path; empty segments do not count, as in Plug."""
    found = re.fullmatch(_VARIABLE.sub(r"(?P<\1>[^/]+)", re.escape(address)), _joined(path))
    return None if found is None else {name: unquote(text) for name, text in found.groupdict().items()}


#: A variable in the path of a mount.
_VARIABLE: Final = re.compile(r":([a-zA-Z_][a-zA-Z_0-9]*)")

_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}

#: An origin as browsers write it (RFC 6454 §6.2), and nothing else: no userinfo, path, escape or final dot.
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
    """The origin of a browser's page (RFC 6454), or an allowed one: then scheme and port are optional.

    Attributes:
        scheme: In lower case.
        host: In lower case; an IPv6 address is in brackets.
        port: The scheme's default if none was given.
    """

    scheme: str | None
    host: str
    port: int | None

    @classmethod
    def allowed(cls, pattern: str) -> "Origin":
        """Read a pattern of `check_origin`; raises `ValueError` if it is invalid."""
        found = _ALLOWED.fullmatch(pattern)
        if found is None:
            wanted = "'//example.com', 'https://example.com:8080' or '//*.example.com'"
            raise ValueError(f"check_origin takes {wanted}, not {pattern!r}")
        return cls._of(found)

    @classmethod
    def sent(cls, header: str) -> "Origin | None":
        """Read a browser's Origin header; `None` if it is invalid."""
        found = _ORIGIN.fullmatch(header)
        return None if found is None else cls._of(found)

    @classmethod
    def _of(cls, found: re.Match[str]) -> "Origin":
        scheme, port = (found["scheme"] or "").lower() or None, found["port"]
        return cls(scheme, found["host"].lower(), _PORTS.get(scheme or "") if port is None else int(port))

    def includes(self, theirs: "Origin") -> bool:
        """Whether a browser's origin is this one. As in Phoenix, `*.example.com` also allows `example.com`."""
        if self.scheme not in (None, theirs.scheme) or self.port not in (None, theirs.port):
            return False
        if not self.host.startswith("*."):
            return theirs.host == self.host
        return f".{theirs.host}".endswith(self.host[1:])


#: The origins from which browsers may connect; see `Server.mount`.
CheckOrigin: TypeAlias = bool | Iterable[str] | Callable[[Origin], bool]

#: The same as a function of an origin (`None`: an invalid one) and the request's `Host` header.
OriginRule: TypeAlias = Callable[[Origin | None, str], bool]


def origin_rule(check: CheckOrigin) -> OriginRule:
    """The rule for a `check_origin`.

    Raises:
        InvalidHandler: It is a coroutine function, which would not be awaited.
        ValueError: It contains an invalid origin.
    """
    if check is False:
        return lambda origin, host: True
    if check is True:
        return lambda origin, host: origin is not None and origin.host == _host(host)
    if callable(check):
        if inspect.iscoroutinefunction(check):
            raise InvalidHandler(getattr(check, "__qualname__", repr(check)), "check_origin is a plain function")
        return lambda origin, host: origin is not None and check(origin) is True
    allowed = tuple(map(Origin.allowed, check))
    return lambda origin, host: origin is not None and any(each.includes(origin) for each in allowed)


def _host(header: str) -> str | None:
    origin = Origin.sent(f"http://{header}")
    return None if origin is None else origin.host


def _upgrade_problem(version: str, headers: Headers) -> str | None:
    if version != "HTTP/1.1":
        return f"HTTP version {version} unsupported"
    for name, token in (("connection", "upgrade"), ("upgrade", "websocket")):
        values = headers.get_all(name)
        if token not in [each.strip().lower() for value in values for each in value.split(",")]:
            return f"'{name}' header must contain '{token}', got {_listed(values)}"
    if not any(headers.get_all("sec-websocket-key")):
        return "'sec-websocket-key' header is absent"
    versions = headers.get_all("sec-websocket-version")
    return None if versions == ["13"] else f"'sec-websocket-version' header must equal '13', got {_listed(versions)}"


def _listed(values: list[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
