"""Plays a recorded session of long polling to the client core, as `recorded_client.py` plays a WebSocket.

What the recorded client posted becomes calls, those of one POST together; what was answered to that POST and to each
poll is given to the requests that our core made in their place. Our core polls whenever it can, and the recorded client
did when its recorder wanted; so each answer to a poll goes to the poll that ours has under way then.
"""

import base64
import json
from collections.abc import Iterator
from typing import ClassVar
from unittest.mock import ANY

from account import Outcome
from handshakes import Connection
from polls import Exchange, Session, frames
from recorded import Line
from recorded_client import RecordedClient

from phx_proto.commands import AbortTransport, SendRequest
from phx_proto.link import Link
from phx_proto.transports import TransportName


class RecordedPoller(RecordedClient):
    """One recorded session of long polling, played to a core of its own.

    Attributes:
        requests: What the core has under way.
        made: Every request that the core made, in order.
    """

    TRANSPORT: ClassVar[TransportName] = "longpoll"

    def __init__(self, session: Session) -> None:
        self.requests: list[SendRequest] = []
        self.made: list[SendRequest] = []
        self._opening = session.opening
        self._last = session.exchanges[-1] if session.exchanges else None
        path = session.opening.request.target.partition("?")[0]
        super().__init__(
            Connection(
                session.opening.session,
                session.opening.request.connection,
                "",
                f"{path}?{session.opening.query}",
                time=session.opening.response.time,
                token=session.opening.request.headers.get("x-phoenix-authtoken"),
            )
        )

    def _open(self, handshake: Connection) -> Link:
        assert not list(self._sent())
        (request,) = self.requests
        self._answer(request, self._opening)
        assert not list(self._sent())
        return request.link

    def posts(self, exchange: Exchange) -> None:
        """The recorded client sends a POST."""
        try:
            sent = [] if exchange.clipped else frames(exchange)
        except ValueError:
            sent = []
        expected: list[Outcome] = []
        for frame in sent:
            expected += self._send(Line(exchange.request.time, "send", "", "", frame, {}))
        self._check(exchange.request, expected, [])

    def answered(self, exchange: Exchange) -> None:
        """A request of the recorded client is answered."""
        method = exchange.method
        status = exchange.answer.get("status")
        if self._is_over or (method == "GET" and not exchange.answer and exchange is not self._last):
            return  # the recorded client went on with a session of which it had lost a poll; ours opens a new one
        expected: list[Outcome] = []
        delivered: list[Outcome] = []
        if method == "GET" and status == 200:
            expected, delivered = self._brought(exchange)
        elif (request := self._under_way(method)) is not None:
            if (method, status) not in (("POST", 200), ("GET", 204)) and not self._is_over:
                expected = self._account.lost(("disconnected", None, ANY), None)
            self._answer(request, exchange)
        self._check(exchange.response, expected, delivered)
        while method == "POST" and status == 200 and (post := self._under_way("POST")) is not None:
            self._answer(post, exchange)  # what ours could not put into one body: V1
            self._check(exchange.response, [], [])

    def _brought(self, exchange: Exchange) -> tuple[list[Outcome], list[Outcome]]:
        expected: list[Outcome] = []
        delivered: list[Outcome] = []
        texts: list[str] = []
        for text in exchange.answer["messages"]:
            try:
                frame, message = self._translated(text)
            except ValueError:  # bytes that were mangled
                texts.append(text)
                expected.append(("bad frame",))
                continue
            assert isinstance(frame, str)
            texts.append(frame)
            outcomes, messages = self._brings(message)
            expected += outcomes
            delivered += messages
        request = self._under_way("GET")
        assert request is not None, "there is always a poll"
        body = json.dumps({**exchange.answer, "messages": texts}).encode()
        self._tell(request, 200, body, exchange.response)
        return expected, delivered

    # ---- private ----------------------------------------------------------------------------------------------------

    def _under_way(self, method: str) -> SendRequest | None:
        return next((request for request in self.requests if request.method == method), None)

    def _answer(self, request: SendRequest, exchange: Exchange) -> None:
        body = str(exchange.response.fields.get("body") or "").encode()
        self._tell(request, exchange.response.status, body, exchange.response)

    def _tell(self, request: SendRequest, status: int, body: bytes, response: Line) -> None:
        self.requests.remove(request)
        request.exchange.answered(status, response.headers, body, response.time)

    def _sent(self) -> Iterator[str | bytes]:
        for command in self.core.commands():
            if isinstance(command, AbortTransport):
                self.requests.clear()
            if not isinstance(command, SendRequest):
                continue
            self.requests.append(command)
            self.made.append(command)
            kind = dict(command.headers).get("content-type")
            lines = command.body.split(b"\n") if kind == "application/x-ndjson" else [command.body]
            for line in filter(None, lines):
                yield line.decode() if line[:1] in b"[{" else base64.b64decode(line)
