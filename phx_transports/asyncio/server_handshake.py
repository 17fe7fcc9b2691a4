"""The handshake as the server reads it: what a client says when it connects, and how it is refused.

The token comes in the header of subprotocols and may hold a `/`, which is not legal there: servers take it all the same
and the `websockets` library does not. So that header is read raw and hidden from the library, and the answer to it is
put into the response afterwards.
"""

import binascii
import re
from base64 import b64decode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from itertools import pairwise
from typing import Any, Final
from urllib.parse import parse_qsl

from websockets.datastructures import Headers
from websockets.http11 import Request, Response


class RefuseConnect(Exception):
    """Raised in `connect`: the client gets this HTTP response, and no socket.

    Args:
        status: From 400 to 599.
        body: Text, or bytes as they are.
        headers: More of them, e.g. `{"retry-after": "7"}`.
    """

    def __init__(self, status: int = 403, body: str | bytes = b"", headers: Mapping[str, str] | None = None) -> None:
        if not 400 <= status <= 599:
            raise ValueError(f"a refusal has a status from 400 to 599, not {status}")
        super().__init__(f"HTTP {status}")
        self.status = status
        self.body = body.encode() if isinstance(body, str) else body
        self.headers = dict(headers or {})


@dataclass(frozen=True, slots=True)
class Offer:
    """The subprotocols that a client offered.

    Attributes:
        token: The one auth token among them, decoded; `None` for none, or for several, as on a real server.
        answer: What the response says of them: `"phoenix"` if that was offered.
    """

    token: str | None
    answer: str | None


NO_OFFER: Final = Offer(None, None)


def take_offer(headers: Headers) -> Offer:
    """Read the offered subprotocols and remove them from the request's headers.

    Raises:
        RefuseConnect: None can be accepted (403), or a token is not base64 of UTF-8 (500, as on a real server).
    """
    offered = [name for value in headers.get_all(_SUBPROTOCOLS) for name in re.split(r"[\s,]+", value) if name]
    if offered:
        del headers[_SUBPROTOCOLS]
    tokens = [name.removeprefix(_TOKEN_PREFIX) for name in offered if name.startswith(_TOKEN_PREFIX)]
    if len(offered) > len(tokens) and "phoenix" not in offered:
        raise RefuseConnect(403)
    token = _decoded(tokens[0]) if len(tokens) == 1 else None
    return Offer(token, "phoenix" if "phoenix" in offered else None)


def answer_offer(response: Response, offer: Offer) -> None:
    """Put the chosen subprotocol into the response."""
    if offer.answer is not None:
        response.headers[_SUBPROTOCOLS] = offer.answer


def read_address(request: Request) -> tuple[str, dict[str, Any]]:
    """The path without its query, and the params as Plug reads them: `a=1`, `a[b]=1`, `a[]=1`; the last one wins."""
    path, _, query = request.path.partition("?")
    return path, _nested(parse_qsl(query, keep_blank_values=True, errors="replace"))


def refusal(refused: RefuseConnect) -> Response:
    """The HTTP response of it."""
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
    phrases = {status.value: status.phrase for status in HTTPStatus}
    return Response(refused.status, phrases.get(refused.status, "Refused"), headers, refused.body)


# ---- private --------------------------------------------------------------------------------------------------------

_SUBPROTOCOLS: Final = "Sec-WebSocket-Protocol"
_TOKEN_PREFIX: Final = "base64url.bearer.phx."
_NAME: Final = re.compile(r"(?P<root>[^\[\]]+)(?P<path>(\[[^\[\]]+\])*)(?P<list>\[\])?")


def _decoded(token: str) -> str:
    try:
        return b64decode(token + "=" * (-len(token) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        raise RefuseConnect(500) from None


def _nested(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    params: dict[str, Any] = {}
    for name, text in pairs:
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
