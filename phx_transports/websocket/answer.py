"""The answer to an opening handshake, for all WebSocket adapters: on h11, free of I/O, from bytes to an outcome.

The libraries' own readers are too strict or too lax here: the status counts, whatever else is wrong with the answer.
Interim answers (1xx) are skipped; the reason phrase may be missing; a refusal's body is kept as far as it arrived, up
to `LARGEST_BODY`, whatever its framing. The core decides how long to wait for a body (`Link.refusing`).

No text made here shows the request, or anything of the answer but its status: they may contain tokens.
"""

import contextlib
import re
import zlib
from dataclasses import dataclass
from typing import Final, TypeAlias

import h11

from phx_proto.errors import ConnectError, HandshakeRefused

#: Bytes of a refusal's body that are kept; the rest is not read.
LARGEST_BODY: Final = 2**16

_LARGEST_HEAD: Final = 2**16  # bytes; as for bodies
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([2-9][0-9]{2})(?:[ \r\n]|$)")
_HTTP: Final = b"HTTP/1."
_LONGEST_STATUS_LINE: Final = 64  # bytes; enough to see the status
_TLS_ALERT: Final = b"\x15\x03"  # RFC 8446 §5.1: content type and version


@dataclass(frozen=True, slots=True)
class Upgraded:
    """The server answered with 101.

    Attributes:
        fields: The answer's headers, names in lower case.
        rest: Bytes that followed the answer.
    """

    fields: list[tuple[str, str]]
    rest: bytes


#: The result of a handshake; a `HandshakeRefused` if the server answered with another status than 101.
Outcome: TypeAlias = Upgraded | ConnectError


class Answer:
    """Reads one answer.

    Args:
        secure: Whether the connection has TLS.

    Attributes:
        refusal: Set once the server has refused, with as much of the body as has arrived.
    """

    __slots__ = ("_body", "_head", "_http", "_place", "_response", "_secure", "refusal")

    def __init__(self, place: str, *, secure: bool) -> None:
        self.refusal: HandshakeRefused | None = None
        self._place = place
        self._secure = secure
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_HEAD)
        # h11 accepts 101 only after a request for an upgrade; the adapter sent the real one.
        fields = [("Host", "-"), ("Upgrade", "websocket"), ("Connection", "Upgrade")]
        self._http.send(h11.Request(method="GET", target="/", headers=fields))
        self._http.send(h11.EndOfMessage())
        self._head = b""  # the beginning of the answer
        self._response: h11.Response | None = None  # a refusal whose body has not ended
        self._body = bytearray()

    def receive(self, data: bytes) -> Outcome | None:
        """Takes a read, and returns the result of the handshake once it is known.

        Args:
            data: The bytes read; `b""` at the end of the connection.
        """
        self._head += data[: _LONGEST_STATUS_LINE - len(self._head)]
        outcome = self._received(data)
        if self._response is not None:
            self.refusal = self._refused(self._response)
        elif outcome is None and (status := _STATUS_LINE.match(self._head)) is not None:  # the headers are not complete
            self.refusal = HandshakeRefused(status=int(status[1]))
        return self.refusal if outcome is _REFUSED else outcome

    def _received(self, data: bytes) -> "Outcome | None":
        if self._head[: len(_HTTP)] != _HTTP[: len(self._head)]:  # h11 would wait for an empty line
            return self._unreadable(ended=not data)
        try:
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                match event:
                    case h11.InformationalResponse(status_code=101):
                        return self._upgraded(event)
                    case h11.Response():
                        self._response = event
                    case h11.Data(data=part):
                        self._body += part
                        if len(self._body) >= LARGEST_BODY:
                            return _REFUSED
                    case h11.EndOfMessage():
                        return _REFUSED
                    case _:
                        pass  # another 1xx: the final answer follows
        except h11.RemoteProtocolError:
            return _REFUSED if self._response is not None else self._unreadable(ended=not data)
        return None

    def _upgraded(self, event: h11.InformationalResponse) -> Outcome:
        if event.http_version < b"1.1":
            return ConnectError(
                f"{self._place} answered in HTTP/1.0, which has no WebSockets (is a proxy or load balancer between?)"
            )
        return Upgraded(_fields(event), self._http.trailing_data[0])

    def _refused(self, response: h11.Response) -> HandshakeRefused:
        joined: dict[str, str] = {}
        for name, value in _fields(response):
            joined[name] = f"{joined[name]}, {value}" if name in joined else value
        body = inflated(bytes(self._body[:LARGEST_BODY]), joined.get("content-encoding", ""), LARGEST_BODY)
        return HandshakeRefused(status=response.status_code, body=body, headers=joined)

    def _unreadable(self, *, ended: bool) -> ConnectError:
        status = _STATUS_LINE.match(self._head)
        if status is not None:  # its headers are not valid HTTP, or too long
            return HandshakeRefused(status=int(status[1]))
        if not self._head or (ended and self._head.startswith(b"HTTP/")):
            problem = f"{self._place} ended the connection before it answered the handshake"
            return ConnectError(problem if self._secure else f"{problem} ({USE_TLS})")
        if self._secure:
            return ConnectError(f"{self._place} did not answer in HTTP")
        if self._head.startswith(_TLS_ALERT):
            return ConnectError(f"{self._place} did not answer in HTTP but in TLS: use wss://")
        return ConnectError(f"{self._place} did not answer in HTTP ({USE_TLS})")


#: A hint for a scheme that does not fit the port.
USE_TLS: Final = "is this a TLS port? then use wss://"
USE_NO_TLS: Final = "is this a port without TLS? then use ws://"

#: How to inflate each encoding; "deflate" may have zlib's header (RFC 9110 §8.4.1.2) or none.
_WINDOW_BITS: Final = {"gzip": (31,), "x-gzip": (31,), "deflate": (15, -15)}

_REFUSED: Final = HandshakeRefused()  # a placeholder for this answer's error


def _fields(response: h11.Response | h11.InformationalResponse) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers]


def inflated(body: bytes, encoding: str, limit: int) -> bytes:
    """A body with its content encoding removed, at most `limit` bytes (0: all), also of a body that was cut."""
    for bits in _WINDOW_BITS.get(encoding.strip().lower(), ()):
        with contextlib.suppress(zlib.error):
            return zlib.decompressobj(wbits=bits).decompress(body, limit)
    return body
