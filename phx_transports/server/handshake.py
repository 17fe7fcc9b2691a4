"""The handshake on the server: what the client's request says, and how to refuse it.

The token is in the header of subprotocols and may contain a `/`, which is not legal there: servers accept it, and the
`websockets` library does not. So that header is read raw and hidden from the library, and its answer is added to the
response afterwards.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from itertools import pairwise
from typing import Any, Final
from urllib.parse import parse_qsl

from websockets.datastructures import Headers
from websockets.http11 import Response


class RefuseConnect(Exception):
    """Raised in `connect`: the client gets this HTTP response, and no socket.

    Args:
        status: From 400 to 599.
        body: Text, or bytes to send unchanged.
        headers: Further headers, e.g. `{"retry-after": "7"}`.
    """

    def __init__(self, status: int = 403, body: str | bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"a refusal has a status from 400 to 599, not {status}")
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body
        self.headers = dict(headers or {})


class BadToken(Exception):
    """The offered auth token is not base64 of UTF-8; a real server crashes on it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The subprotocols that a client offered.

    Its token, decoded, is `None` for several, as on a real server; `answer` is the subprotocol that was chosen.
    """

    token: str | None
    answer: str | None

    def put_answer(self, headers: Headers) -> None:
        """Add the answer to the response's headers."""
        if self.answer is not None:
            headers[_SUBPROTOCOLS] = self.answer


NO_OFFER: Final = Offer(None, None)


def take_offer(headers: Headers, supported: Sequence[str] = (), *, auth_token: bool = True) -> Offer:
    """Read the offered subprotocols, choose a supported one, and remove them from the request's headers.

    With `auth_token`, a token may be among them, and `phoenix` is supported too.

    Raises:
        RefuseConnect: None can be accepted (403).
        BadToken: A token cannot be read.
    """
    offered = [name for value in headers.get_all(_SUBPROTOCOLS) for name in re.split(r"[\s,]+", value) if name]
    if offered:
        del headers[_SUBPROTOCOLS]
    choice = (*supported, "phoenix") if auth_token else tuple(supported)
    if not choice:
        return NO_OFFER  # whatever is offered
    tokens = [name.removeprefix(_TOKEN_PREFIX) for name in offered if auth_token and name.startswith(_TOKEN_PREFIX)]
    token = _decoded(tokens[0]) if len(tokens) == 1 else None
    answer = next((name for name in choice if name in offered), None)
    if answer is None and len(offered) > len(tokens):
        raise RefuseConnect(403)
    return Offer(token, answer)


def read_params(query: str) -> dict[str, Any]:
    """The params of a URL as Plug reads them: `a=1`, `a[b]=1`, `a[]=1`; the last one wins."""
    params: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True, errors="replace"):
        found = _NAME.fullmatch(name)
        keys = [found["root"], *re.findall(r"[^\[\]]+", found["path"])] if found else [name]
        place = params
        for key, _ in pairwise(keys):
            if not isinstance(place.get(key), dict):
                place[key] = {}
            place = place[key]
        last = keys[-1]
        if not (found and found["list"]):
            place[last] = text
        elif isinstance(place.get(last), list):
            place[last].append(text)
        else:
            place[last] = [text]
    return params


def refusal(refused: RefuseConnect, offer: Offer = NO_OFFER) -> Response:
    """The HTTP response for it, with the subprotocol that was chosen."""
    headers = Headers(
        {
            "Date": formatdate(usegmt=True),
            "Connection": "close",
            "Content-Length": str(len(refused.body)),
            "Content-Type": "text/plain; charset=utf-8",
        }
    )
    for name, value in refused.headers.items():
        headers.pop(name, None)
        headers[name] = value
    offer.put_answer(headers)
    phrases = {status.value: status.phrase for status in HTTPStatus}
    return Response(refused.status, phrases.get(refused.status, "Refused"), headers, refused.body)


class Rejected(Exception):
    """The request line cannot be answered in valid HTTP: only these bytes are sent."""

    def __init__(self, answer: bytes) -> None:
        super().__init__("the request line is refused")
        self.answer = answer


class RequestLine:
    """Takes the request line from a connection's bytes, and shows the library one that it accepts.

    The `websockets` library refuses lines that Phoenix accepts (long ones), and answers others differently (POST). It
    reads and loses messages sent directly after the request; here they are kept for later, in `early`.
    """

    __slots__ = ("_limit", "_line", "_tail", "_whole", "early", "is_read", "method", "path", "query", "version")

    def __init__(self, limit: int) -> None:
        self.method = self.path = self.query = self.version = ""
        self._limit = limit
        self._line = bytearray()
        self.is_read = False
        self._tail = b"\r\n"  # the last bytes shown to the library: of the request line, at first
        self._whole = False
        self.early = bytearray()

    def take(self, data: bytes) -> bytes:
        """The part of these bytes for the library. Raises `Rejected` if the line is too long or invalid."""
        if self.is_read:
            return self._take_headers(data)
        self._line += data
        line, end, rest = bytes(self._line).partition(b"\r\n")
        if len(line) > self._limit:
            raise Rejected(_TOO_LONG)
        if not end:
            return b""
        parts = line.decode("ascii", "surrogateescape").split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/"):
            raise Rejected(_MALFORMED)
        self.method, target, self.version = parts
        self.path, _, self.query = target.partition("?")
        self.is_read = True
        self._line.clear()
        return _SHOWN + self._take_headers(rest)

    def raw(self, seen: bytes) -> bytes:
        """The original request, for a line that the library must not see."""
        target = f"{self.path}?{self.query}" if self.query else self.path
        line = f"{self.method} {target} {self.version}\r\n".encode("ascii", "surrogateescape")
        early, self.early = self.early, bytearray()
        return line + seen.removeprefix(_SHOWN) + early

    def _take_headers(self, data: bytes) -> bytes:
        if self._whole:
            self.early += data
            return b""
        seen = self._tail + data
        end = seen.find(b"\r\n\r\n")
        if end < 0:
            self._tail = seen[-3:]
            return data
        self._whole = True
        self.early += seen[end + 4 :]
        return seen[len(self._tail) : end + 4]


_SHOWN: Final = b"GET / HTTP/1.1\r\n"
_TOO_LONG: Final = b"HTTP/1.0 414 Request-URI Too Long\r\nconnection: close\r\n\r\n"
_MALFORMED: Final = b"HTTP/1.0 400 Bad Request\r\nconnection: close\r\n\r\n"

_SUBPROTOCOLS: Final = "Sec-WebSocket-Protocol"
_TOKEN_PREFIX: Final = "base64url.bearer.phx."
_NAME: Final = re.compile(r"(?P<root>[^\[\]]+)(?P<path>(\[[^\[\]]+\])*)(?P<list>\[\])?")


def _decoded(token: str) -> str:
    try:
        return b64decode(token + "=" * (-len(token) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise BadToken from None
