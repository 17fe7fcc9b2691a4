"""Where on a server clients connect, and which handshakes are refused there before the application is asked.

The checks and their order are those of Phoenix, with its words where it has any: the path, the origin, the auth token,
the subprotocols, the version, the headers of the upgrade. What is asked for comes in two parts: the request line, which
`Door` reads before the `websockets` library can refuse what Phoenix takes (long ones) or answer otherwise (POST), and
the headers.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from urllib.parse import SplitResult, urlsplit

from websockets.datastructures import Headers

from phx_proto.serializer import ServerSerializer
from phx_proto.server import serializer_for
from phx_proto.server_events import ServerOptions

from .server_handshake import Offer, RefuseConnect, read_params, take_offer

if TYPE_CHECKING:
    from .server_socket import ServerSocket

#: Accepts a client by returning, after setting the socket's id and assigns; refuses it by raising `RefuseConnect`. Any
#: other exception is an HTTP 500. It may be a coroutine function, and has the 10 s of the handshake.
Connect: TypeAlias = Callable[["ServerSocket"], Awaitable[None] | None]

_JSON: Final[Mapping[str, str]] = {"content-type": "application/json; charset=utf-8"}

NOT_FOUND: Final = RefuseConnect(404, '{"errors":{"detail":"Not Found"}}', _JSON)
CRASHED: Final = RefuseConnect(500, '{"errors":{"detail":"Internal Server Error"}}', _JSON)
TOO_LONG: Final = b"HTTP/1.0 414 Request-URI Too Long\r\nconnection: close\r\n\r\n"
MALFORMED: Final = b"HTTP/1.0 400 Bad Request\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One place to connect to; see `Server.mount`."""

    path: str
    connect: Connect | None
    options: ServerOptions
    check_origin: tuple[str, ...] | None
    subprotocols: tuple[str, ...]
    auth_token: bool

    @property
    def address(self) -> str:
        """The path of its WebSocket."""
        return f"{self.path}/websocket"

    def admit(self, door: "Door", headers: Headers) -> tuple[Offer, dict[str, Any]]:
        """Check a request for a WebSocket here; its header of subprotocols is taken away.

        Returns:
            What was offered, and the params.

        Raises:
            RefuseConnect: The application need not be asked.
        """
        if door.method != "GET":
            raise RefuseConnect(400)
        if self.check_origin is not None and not _is_allowed(headers.get("Origin"), self.check_origin):
            raise RefuseConnect(403)
        offer = take_offer(headers, self.subprotocols, auth_token=self.auth_token)
        params = read_params(door.query)
        if serializer_of(params) is None:
            raise RefuseConnect(403)
        problem = _upgrade_problem(door.version, headers)
        if problem is not None:
            raise RefuseConnect(400, problem)
        return offer, params


def serializer_of(params: Mapping[str, Any]) -> ServerSerializer | None:
    """Of the version that a client asks for; `None` where there is none."""
    vsn = params.get("vsn")
    return serializer_for(vsn) if vsn is None or isinstance(vsn, str) else None


class Rejected(Exception):
    """The request line cannot be answered as HTTP asks: these bytes are all that is said."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("the request line is refused")
        self.answer = answer


class Door:
    """Takes the request line off a connection's bytes, and shows the library one that it surely takes.

    Args:
        limit: How long the line may be, in bytes.
    """

    __slots__ = ("_limit", "_line", "_open", "method", "path", "query", "version")

    def __init__(self, limit: int) -> None:
        self.method = self.path = self.query = self.version = ""
        self._limit = limit
        self._line = bytearray()
        self._open = False

    def take(self, data: bytes) -> bytes:
        """What the library shall see of these bytes.

        Raises:
            Rejected: The line is too long, or none.
        """
        if self._open:
            return data
        self._line += data
        line, end, rest = bytes(self._line).partition(b"\r\n")
        if len(line) > self._limit:
            raise Rejected(TOO_LONG)
        if not end:
            return b""
        parts = line.decode("ascii", "surrogateescape").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/"):
            raise Rejected(MALFORMED)
        self.method, target, self.version = parts
        self.path, _, self.query = target.partition("?")
        self._open = True
        self._line.clear()
        return b"GET / HTTP/1.1\r\n" + rest


# ---- private --------------------------------------------------------------------------------------------------------

_PORTS: Final = {"http": 80, "https": 443, "ws": 80, "wss": 443}


def _is_allowed(origin: str | None, allowed: tuple[str, ...]) -> bool:
    if origin is None:  # no browser, which might lie anyway
        return True
    try:
        found = urlsplit(origin)
        return any(_matches(urlsplit(pattern), found) for pattern in allowed)
    except ValueError:  # a port that is none
        return False


def _matches(allowed: SplitResult, origin: SplitResult) -> bool:
    if allowed.scheme not in ("", origin.scheme) or _port(allowed) not in (None, _port(origin)):
        return False
    ours, theirs = allowed.hostname or "", origin.hostname or ""
    return theirs.endswith(ours[1:]) if ours.startswith("*.") else theirs == ours


def _port(parts: SplitResult) -> int | None:
    return parts.port if parts.port is not None else _PORTS.get(parts.scheme)


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
