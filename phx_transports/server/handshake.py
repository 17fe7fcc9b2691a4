"""The handshake on the server: what the client's request says, and how to refuse it.

The token is in the header of subprotocols and may contain a `/`, which is not legal there: servers accept it, and the
`websockets` library does not. So that header is read here and removed, and its answer is added to the library's.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final
from urllib.parse import parse_qsl

from websockets.datastructures import Headers

from phx_proto.checks import check_kind

from ..websocket.handshake import HEADER_NAME, HEADER_VALUE
from .http import HttpRequest


class RefuseConnect(Exception):
    """Raised in `connect`: the client gets this HTTP response, and no socket.

    Args:
        status: From 400 to 599.
        body: Text, or bytes to send unchanged.
        headers: Further headers, e.g. `{"retry-after": "7"}`. The server sets those of the connection and the body's
            length itself.

    Raises:
        ValueError: The status is another one, or HTTP does not permit a header.
        TypeError: The body is of another type.
    """

    def __init__(self, status: int = 403, body: str | bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"a refusal has a status from 400 to 599, not {status}")
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body
        check_kind("a refusal's body", self.body, bytes)
        self.headers = dict(_checked_header(name, str(value)) for name, value in (headers or {}).items())


class BadToken(Exception):
    """The offered auth token is not base64 of UTF-8; a real server crashes on it."""


@dataclass(frozen=True, slots=True)
class Offer:
    """The subprotocols that a client offered.

    Its token, decoded, is `None` for several, as on a real server; `answer` is the subprotocol that was chosen.
    """

    token: str | None
    answer: str | None

    @property
    def headers(self) -> dict[str, str]:
        """The response's header with the answer."""
        return {} if self.answer is None else {_SUBPROTOCOLS: self.answer}


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


def refuse(request: HttpRequest, refused: RefuseConnect, offer: Offer = NO_OFFER) -> None:
    """Answer a request with the refusal, with the subprotocol that was chosen; the connection ends."""
    headers = {"content-type": "text/plain; charset=utf-8"} | refused.headers | offer.headers
    headers.pop("transfer-encoding", None)
    headers["connection"] = "close"
    request.connection.answer(request, refused.status, headers, refused.body)


_SUBPROTOCOLS: Final = "Sec-WebSocket-Protocol"
_TOKEN_PREFIX: Final = "base64url.bearer.phx."
_NAME: Final = re.compile(r"(?P<root>[^\[\]]+)(?P<path>(\[[^\[\]]+\])*)(?P<list>\[\])?")


def _checked_header(name: str, value: str) -> tuple[str, str]:
    """The header in the form in which it is sent; the value is not in the error, since it may be secret."""
    if not HEADER_NAME.fullmatch(name):
        raise ValueError(f"a header's name is letters, digits and hyphens, not {name!r}")
    if not HEADER_VALUE.fullmatch(value):
        raise ValueError(f"the header {name!r} must be one line of Latin-1 text")
    return name.lower(), value.strip(" \t")


def _decoded(token: str) -> str:
    try:
        return b64decode(token + "=" * (-len(token) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise BadToken from None
