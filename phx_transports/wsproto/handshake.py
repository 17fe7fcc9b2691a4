"""The opening handshake (RFC 6455 §4) on h11, wsproto's own HTTP parser. Pure: bytes in, bytes out.

wsproto's handshake is not used for three reasons: it hands what follows the response to its frame parser, where the
cutter must have it; it takes any 1xx but 101 for a refusal; and it cannot write every host. A refusal's body is read to
its end, whatever frames it (`content-length`, chunks, the connection's end), or to `LARGEST_BODY`.

No text made here shows the request, or what the server answered but its status and body: they may hold tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import h11
from wsproto.utilities import generate_accept_token, generate_nonce

from phx_proto.errors import ConnectError, HandshakeRefused

#: Bytes of a refusal's body that are kept; the rest is not read.
LARGEST_BODY: Final = 2**16


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

    __slots__ = ("_body", "_headers", "_http", "_key", "_offered", "_place", "_response", "_url")

    def __init__(
        self, url: str, place: str, *, subprotocols: Sequence[str], headers: Sequence[tuple[str, str]]
    ) -> None:
        self._url = url
        self._place = place
        self._offered = subprotocols
        self._headers = headers
        self._key = generate_nonce()
        self._http = h11.Connection(h11.CLIENT)
        self._response: h11.Response | None = None  # a refusal whose body is coming
        self._body = bytearray()

    def request(self) -> bytes:
        """What to send.

        Raises:
            ConnectError: It cannot be written: a header contradicts HTTP.
        """
        parts = urlsplit(self._url)
        target = f"{parts.path}?{parts.query}" if parts.query else parts.path
        fields = [
            ("Host", parts.netloc),
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
            request = self._http.send(h11.Request(method="GET", target=target, headers=headers))
            return (request or b"") + (self._http.send(h11.EndOfMessage()) or b"")
        except h11.LocalProtocolError:  # its text may quote a header
            raise ConnectError("the handshake cannot be written: a header given contradicts HTTP") from None

    def receive(self, data: bytes) -> Outcome | None:
        """Takes a read, and tells how the handshake ended if it did.

        Args:
            data: What came; `b""` where the connection has ended.
        """
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                outcome = self._take(event)
                if outcome is not None:
                    return outcome
        except h11.RemoteProtocolError:
            if self._response is not None:
                return self._refusal(self._response)
            if not data:
                return ConnectError(f"{self._place} ended the connection before it answered the handshake")
            return ConnectError(f"{self._place} did not answer in HTTP (is this a TLS port? then use wss://)")
        return None

    def _take(self, event: object) -> Outcome | None:
        match event:
            case h11.InformationalResponse(status_code=101):
                return self._accepted(event)
            case h11.Response():
                self._response = event
            case h11.Data(data=data):
                self._body += data
                if len(self._body) >= LARGEST_BODY and self._response is not None:
                    return self._refusal(self._response)
            case h11.EndOfMessage() if self._response is not None:
                return self._refusal(self._response)
            case _:
                pass  # another 1xx: the answer follows
        return None

    def _accepted(self, response: h11.InformationalResponse) -> Outcome:
        fields = _fields(response)
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
        return Accepted(subprotocol, self._http.trailing_data[0])

    def _refusal(self, response: h11.Response) -> HandshakeRefused:
        body = bytes(self._body[:LARGEST_BODY])
        return HandshakeRefused(status=response.status_code, body=body, headers=_fields(response))


def _fields(response: h11.Response | h11.InformationalResponse) -> dict[str, str]:
    """The headers, names in lower case; what came several times joined by commas."""
    fields: dict[str, str] = {}
    for raw_name, raw_value in response.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def _tokens(value: str) -> set[str]:
    return {token.strip().lower() for token in value.split(",")}
