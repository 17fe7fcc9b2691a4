"""The opening handshake (RFC 6455 §4), its request written by h11, wsproto's HTTP library. Pure: bytes in, bytes out.

wsproto's handshake is not used for three reasons: it hands what follows the answer to its frame parser, where the
cutter must have it; it takes any 1xx but 101 for a refusal; and it cannot write every host. The answer is read as in
all adapters (`..answer`).

No text made here shows the request, or what the server answered but its status and body: they may hold tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias
from urllib.parse import urlsplit

import h11
from wsproto.utilities import generate_accept_token, generate_nonce

from phx_proto.errors import ConnectError, HandshakeRefused

from ..websocket.answer import Answer, Upgraded


@dataclass(frozen=True, slots=True)
class Accepted:
    """The connection is a WebSocket now.

    Attributes:
        subprotocol: What the server chose of those offered, if anything.
        rest: What came behind the response already.
    """

    subprotocol: str | None
    rest: bytes


#: How a handshake ends; the error is a `HandshakeRefused` where the server answered with another status than 101.
Outcome: TypeAlias = Accepted | ConnectError


class Handshake:
    """One handshake, from its request to its outcome.

    Args:
        url: `ws://` or `wss://`, whole.
        place: Host and port, for the texts of errors.
        subprotocols: To offer, verbatim: a token among them may hold characters that RFC 6455 forbids.
        headers: To send besides the handshake's own.
    """

    __slots__ = ("_answer", "_headers", "_key", "_offered", "_place", "_url")

    def __init__(
        self, url: str, place: str, *, subprotocols: Sequence[str], headers: Sequence[tuple[str, str]]
    ) -> None:
        self._url = url
        self._place = place
        self._offered = subprotocols
        self._headers = headers
        self._key = generate_nonce()
        self._answer = Answer(place, secure=url.startswith("wss:"))

    @property
    def refusal(self) -> HandshakeRefused | None:
        """Once the server has refused: with as much of the body as came."""
        return self._answer.refusal

    def request(self) -> bytes:
        """What to send.

        Raises:
            ConnectError: It cannot be written: a header contradicts HTTP.
        """
        parts = urlsplit(self._url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        fields = [
            ("Host", _without_zone(parts.netloc)),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", self._key.decode()),
            ("Sec-WebSocket-Version", "13"),
            *self._headers,
        ]
        if self._offered:
            fields.append(("Sec-WebSocket-Protocol", ", ".join(self._offered)))
        try:
            headers = [(name, value.strip(" \t")) for name, value in fields]
            return h11.Connection(h11.CLIENT).send(h11.Request(method="GET", target=target, headers=headers)) or b""
        except h11.LocalProtocolError:  # its text may quote a header
            raise ConnectError("the handshake cannot be written: a header given contradicts HTTP") from None

    def receive(self, data: bytes) -> Outcome | None:
        """Takes a read, and tells how the handshake ended if it did.

        Args:
            data: What came; `b""` where the connection has ended.
        """
        outcome = self._answer.receive(data)
        return self._accepted(outcome) if isinstance(outcome, Upgraded) else outcome

    def _accepted(self, answer: Upgraded) -> Outcome:
        fields: dict[str, str] = {}
        for name, value in answer.fields:
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        expected = {
            "Connection": "upgrade" in _tokens(fields.get("connection", "")),
            "Upgrade": fields.get("upgrade", "").lower() == "websocket",
            "Sec-WebSocket-Accept": fields.get("sec-websocket-accept", "") == generate_accept_token(self._key).decode(),
        }
        for name, right in expected.items():
            if not right:
                return ConnectError(
                    f"the answer of {self._place} is no WebSocket handshake: its {name} header is missing or wrong"
                )
        subprotocol = fields.get("sec-websocket-protocol")
        if (subprotocol is not None and subprotocol not in self._offered) or "sec-websocket-extensions" in fields:
            return ConnectError(f"{self._place} chose a subprotocol or an extension that was not offered")
        return Accepted(subprotocol, answer.rest)


def _without_zone(netloc: str) -> str:
    """An IPv6 address's zone means nothing to the server."""
    address, has_zone, rest = netloc.partition("%")
    return f"{address}]{rest.partition(']')[2]}" if has_zone else netloc


def _tokens(value: str) -> set[str]:
    return {token.strip().lower() for token in value.split(",")}
