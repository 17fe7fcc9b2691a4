"""HTTP/1.1 on one connection of a server, for handshakes and long polling. On h11; its only I/O is writing.

Requests are answered one at a time: what a client sends after one waits for the answer. A body is read completely.
"""

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

import h11
from websockets.datastructures import Headers

from phx_proto.server.longpoll import LARGEST_BODY

#: Seconds for which a connection may be idle between two requests, or its last answer unread.
IDLE: Final = 60.0

#: Seconds for the body of a request to arrive, as in `Plug.Conn.read_body`.
BODY_TIME: Final = 15.0

_LARGEST_HEAD: Final = 2**16  # bytes

#: Bytes read after a request that has no answer yet.
_EARLY: Final = 2**14

_REQUEST_LINE: Final = re.compile(rb"[^ ]* [^ ]* HTTP/[^ ]*")
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_TOO_LONG: Final = b"HTTP/1.0 414 Request-URI Too Long\r\nconnection: close\r\n\r\n"
_MALFORMED: Final = b"HTTP/1.0 400 Bad Request\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True, eq=False)
class HttpRequest:
    """One request to answer. Query and fields are secret; the body is `None` if it was too large."""

    method: str
    path: str
    query: str
    version: str
    fields: Headers
    body: bytes | None
    connection: "HttpConnection"

    @property
    def headers(self) -> dict[str, str]:
        """The fields, names in lower case; if a name is repeated, its last value counts."""
        return dict(self.fields.raw_items())

    def __repr__(self) -> str:
        return f"HttpRequest({self.method} {self.path!r})"


class HttpConnection:
    """Reads requests, and writes their answers; `on_lost` is called if it ends before a request is answered.

    Args:
        transport: The connection's.
        on_request: Called with each request.
        want: Called with whether to read more.
        head_timeout: Seconds for the first byte of the first request, and from that of any to the end of its head.
        longest_line: Bytes of the first request line; a longer one is refused.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        on_request: Callable[[HttpRequest], None],
        want: Callable[[bool], None],
        head_timeout: float,
        longest_line: int,
    ) -> None:
        self.on_lost: Callable[[], object] = lambda: None
        self._transport = transport
        self._on_request = on_request
        self._want = want
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD)
        self._line = bytearray()  # the beginning of the first request line
        self._line_read = False
        self._head: h11.Request | None = None
        self._body = bytearray()
        self._asked: HttpRequest | None = None  # has no answer yet
        self._head_timeout = head_timeout
        self._longest_line = longest_line
        self._begun = False  # a request has begun and is incomplete
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(head_timeout, self._late)

    def receive(self, data: bytes) -> None:
        if self._asked is None and not self._begun:
            self._begun = True
            self._expect(self._head_timeout)
        if not self._line_read and not (data := self._read_line(data)):
            return
        self._http.receive_data(data)
        self._read()

    def answer(self, request: HttpRequest, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Answer a request; does nothing if its connection is gone or it was answered."""
        if request is not self._asked:
            return
        self._asked = None
        self.on_lost = lambda: None
        self._begun = bool(self._http.trailing_data[0])
        self._expect(self._head_timeout if self._begun else IDLE)
        self._write(status, headers, body)
        if not (self._http.our_state is self._http.their_state is h11.DONE):  # its body may be incomplete
            self._transport.close()
            return
        self._http.start_next_cycle()
        self._loop.call_soon(self._read)  # not at once: other clients are served between two requests

    def leave(self) -> bytes:
        """End HTTP here: the connection is a WebSocket's from now on. Returns the bytes after the request."""
        self._asked = None
        self.on_lost = lambda: None
        return self._http.trailing_data[0]

    def lost(self) -> None:
        self._timer.cancel()
        if self._asked is not None:
            self._asked = None
            self.on_lost()

    def _read(self) -> None:
        """Read up to the end of a request, unless one waits for its answer."""
        request = self._asked
        while request is None and not self._transport.is_closing():
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint)
                return
            match event:
                case h11.Request():
                    self._expect(BODY_TIME)
                    self._head = event
                    self._body.clear()
                    if self._http.they_are_waiting_for_100_continue:
                        go_on = h11.InformationalResponse(status_code=100, headers=[])
                        self._transport.write(self._http.send(go_on) or b"")
                case h11.Data(data=data):
                    self._body += data
                    if len(self._body) > LARGEST_BODY:
                        request = self._ask(None)
                case h11.EndOfMessage():
                    request = self._ask(bytes(self._body))
                case h11.ConnectionClosed():
                    self._transport.close()
                    return
                case _:
                    break
        self._want(request is None or len(self._http.trailing_data[0]) <= _EARLY)

    def _ask(self, body: bytes | None) -> HttpRequest:
        head = self._head
        assert head is not None, "a body follows its head"
        fields = Headers((name.decode("latin-1"), value.decode("latin-1")) for name, value in head.headers)
        path, _, query = head.target.decode("latin-1").partition("?")
        version = f"HTTP/{head.http_version.decode()}"
        request = HttpRequest(head.method.decode(), path, query, version, fields, body, self)
        self._asked = request
        self._begun = False
        self._timer.cancel()
        self._on_request(request)
        return request

    def _read_line(self, data: bytes) -> bytes:
        """Read up to the end of the first line; returns what h11 is to read, which is nothing before that end.

        A line that is too long, or no request, is refused as web servers do. Web servers also take bytes in the target
        that are not escaped, which h11 does not: here they are escaped.
        """
        self._line += data
        line, end, rest = bytes(self._line).partition(b"\r\n")
        if len(line) > self._longest_line:
            refusal = _TOO_LONG
        elif not end:
            return b""
        elif _REQUEST_LINE.fullmatch(line):
            self._line_read = True
            self._line.clear()
            return quote(line, safe=_PRINTABLE).encode() + end + rest
        else:
            refusal = _MALFORMED
        self._transport.write(refusal)
        self._transport.close()
        return b""

    def _write(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        fields = {"date": formatdate(usegmt=True), **headers, "content-length": str(len(body))}
        phrase = next((each.phrase for each in HTTPStatus if each == status), "")
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in fields.items()]
        response = h11.Response(status_code=status, headers=encoded, reason=phrase)
        parts = [self._http.send(response)]
        if body and self._head is not None and self._head.method != b"HEAD":
            parts.append(self._http.send(h11.Data(data=body)))
        if self._http.our_state is h11.SEND_BODY:
            parts.append(self._http.send(h11.EndOfMessage()))
        self._transport.write(b"".join(filter(None, parts)))

    def _refuse(self, status: int) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._write(status, {"connection": "close"}, b"")
        self._transport.close()

    def _expect(self, seconds: float) -> None:
        """Set the timeout for the client's next input."""
        self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._late)

    def _late(self) -> None:
        if self._transport.is_closing():
            self._transport.abort()
            return
        if self._begun:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT)
        else:
            self._transport.close()
        self._expect(IDLE)
