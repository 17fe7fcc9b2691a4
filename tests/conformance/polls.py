"""The long-polling sessions of the recordings: which requests belong to one, and what was answered.

A session begins with an answer that gives a token nobody had, and has the requests that carry it. An answer of 410 to
one of its polls is its end, and the beginning of the next.
"""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import recorded
from recorded import Line


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request for `/longpoll` and its answer.

    Attributes:
        session: The name of the recorded session.
        index: Which of its exchanges, in the order of the requests.
        request: As recorded.
        response: Likewise.
    """

    session: str
    index: int
    request: Line
    response: Line

    @property
    def method(self) -> str:
        return str(self.request.fields["line"].split()[0])

    @property
    def params(self) -> list[tuple[str, str]]:
        """Of the URL, without the session's token."""
        pairs = parse_qsl(urlsplit(self.request.target).query, keep_blank_values=True)
        return pairs[:-1] if pairs and pairs[-1] == ("token", self.token) else pairs

    @property
    def query(self) -> str:
        """The same, as it was sent."""
        query = urlsplit(self.request.target).query
        return query.rpartition("token=")[0].removesuffix("&") if len(self.params) < len(parse_qsl(query)) else query

    @property
    def token(self) -> str | None:
        """That the request carries."""
        pairs = parse_qsl(urlsplit(self.request.target).query, keep_blank_values=True)
        return self.request.headers.get("x-phoenix-longpoll-token") or dict(pairs).get("token")

    @property
    def body(self) -> str:
        """Of the request."""
        return str(self.request.fields.get("body") or "")

    @property
    def is_batch(self) -> bool:
        """Whether the body has a message a line."""
        return self.request.headers.get("content-type") == "application/x-ndjson"

    @property
    def clipped(self) -> bool:
        """Whether a part of it was not recorded."""
        lines = (self.request, self.response)
        return any("body_head" in line.fields or str(line.fields.get("body")).endswith(" bytes)") for line in lines)

    @property
    def answer(self) -> dict[str, Any]:
        """The answer's body; empty where it is no answer of the transport."""
        try:
            answer = json.loads(self.response.fields.get("body") or "")
        except ValueError:
            return {}
        return answer if self.response.status == 200 and isinstance(answer, dict) else {}


@dataclass(slots=True)
class Session:
    """One session.

    Attributes:
        opening: The exchange that gave its token.
        exchanges: Those that carried it.
    """

    opening: Exchange
    exchanges: list[Exchange] = field(default_factory=list[Exchange])


def exchanges(name: str) -> list[Exchange]:
    """Every request for long polling in a recorded session that was answered by it, in the order of the requests.

    Preflights of browsers, and requests for a path that the server did not have, are none.
    """
    pending: dict[str, tuple[int, Line]] = {}
    found: list[Exchange] = []
    for index, line in enumerate(recorded.load(name).lines):
        if line.kind == "http_req" and "/longpoll" in line.target:
            pending[line.connection] = index, line
        elif line.kind == "http_resp" and line.connection in pending:
            exchange = Exchange(name, *pending.pop(line.connection), line)
            if exchange.method != "OPTIONS" and line.status != 404:
                found.append(exchange)
    return sorted(found, key=lambda exchange: exchange.index)


def sessions(name: str) -> Iterator[Session]:
    """The sessions that a recorded session has."""
    current: dict[str, Session] = {}
    for exchange in exchanges(name):
        carried = current.get(exchange.token or "")
        if carried is not None:
            carried.exchanges.append(exchange)
        token = exchange.answer.get("token")
        if exchange.answer.get("status") == 410 and token is not None:
            current[token] = Session(exchange)
    yield from current.values()


def frames(exchange: Exchange) -> list[str | bytes]:
    """The messages of a POST, as the server reads them.

    Raises:
        ValueError: A line is no base64.
    """
    if not exchange.is_batch:
        return [exchange.body]
    lines = exchange.body.replace("\r\n", "\n").split("\n")[:100]
    return [line if line.startswith("[") else base64.b64decode(line, validate=True) for line in lines]
