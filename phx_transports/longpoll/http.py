"""HTTP/1.1 for a long-polling client: requests out, complete answers in, one after the other. Free of I/O.

No text made here shows a URL, a header or anything of an answer but its status: they may contain tokens.
"""

from typing import Any, Final

import h11
from websockets.http11 import USER_AGENT
from websockets.uri import WebSocketURI

from phx_proto.commands import SendRequest
from phx_proto.errors import ConnectError

from ..websocket.answer import USE_TLS, inflated
from ..websocket.handshake import address_in, check_headers
from ..websocket.options import NetworkOptions
from ..websocket.reaching import place_of

#: Seconds for which an idle connection is used again. Servers end one after 60 or more; if that meets a request, the
#: request is lost, and the session with it.
REUSED_WITHIN: Final = 15.0

#: The largest answer to a poll, as a multiple of `max_size`: it holds many messages.
_LARGEST_ANSWER: Final = 2

_LARGEST_HEAD: Final = 2**16  # bytes
_HTTP: Final = b"HTTP/1."


class HttpDialogue:
    """The requests of one connection, one after the other. Each result is passed to the request's exchange.

    Args:
        command: The first request; only its address is used.

    Attributes:
        address: Where to connect, as a WebSocket's address.
        over: Whether no further request is possible, and the connection is to be dropped.
        used_at: When the latest answer came.

    Raises:
        ConnectError: It has no valid address.
    """

    def __init__(self, command: SendRequest, network: NetworkOptions[Any]) -> None:
        self.address = address_in(f"ws{command.url.removeprefix('http')}")
        if network.ssl is not None and not self.address.secure:
            raise ConnectError("an SSL context was given for an http:// URL: use https://")
        self.over = False
        self.used_at = 0.0
        self._command: SendRequest | None = None  # the request that has no answer yet
        self._place = place_of(self.address.host, self.address.port)
        self._limit = None if network.max_size is None else _LARGEST_ANSWER * network.max_size
        self._max_size = network.max_size
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=_LARGEST_HEAD)
        self._head = b""  # the beginning of the answer
        self._response: h11.Response | None = None
        self._body = bytearray()
        self._speaks_http = self.address.secure  # as far as is known

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self._command is None

    def may_be_used(self, now: float) -> bool:
        """Whether it can carry another request now."""
        return self.idle and not self.over and now - self.used_at < REUSED_WITHIN

    def request(self, command: SendRequest) -> bytes:
        """The bytes of a request; the one before has been answered.

        Raises:
            ConnectError: The request cannot be made, or the connection is over.
        """
        if self.over:
            raise self._ended()
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        check_headers(command.headers)
        pairs = [("host", _host_of(self.address)), *((name, value.strip(" \t")) for name, value in command.headers)]
        if not any(name.lower() == "user-agent" for name, _ in pairs):
            pairs.append(("user-agent", USER_AGENT))
        if command.method == "POST":
            pairs.append(("content-length", str(len(command.body))))
        headers = [(name.encode(), value.encode("latin-1")) for name, value in pairs]
        target = "/" + command.url.split("://", 1)[1].partition("/")[2]
        self._command = command
        self._response = None
        self._head = b""
        parts = [self._http.send(h11.Request(method=command.method, target=target, headers=headers))]
        if command.body:
            parts.append(self._http.send(h11.Data(data=command.body)))
        parts.append(self._http.send(h11.EndOfMessage()))
        return b"".join(filter(None, parts))

    def receive(self, data: bytes, now: float) -> None:
        """Takes a read (`b""` at the connection's end), in a step of the driver; check `over` after it."""
        command = self._command
        if command is None or self.over:  # an answer without a request, or after the request was dropped
            self.over = True
            return
        try:
            answered = self._read(data)
        except ConnectError as error:
            self.failed(error, now)
            return
        if not answered:
            command.exchange.progressed(now)
            return
        assert self._response is not None, "a body follows its head"
        self._command = None
        self.used_at = now
        self.over = not (self._http.our_state is h11.DONE and self._http.their_state is h11.DONE)
        headers: dict[str, str] = {}
        for raw_name, raw_value in self._response.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            headers[name] = f"{headers[name]}\n{value}" if name == "set-cookie" and name in headers else value
        body, self._body = bytes(self._body), bytearray()  # it may be large
        body = inflated(body, headers.get("content-encoding", ""), self._limit or 0)
        command.exchange.answered(self._response.status_code, headers, body, now)

    def failed(self, error: ConnectError, now: float) -> None:
        """The connection is gone, with the current request if there is one; called in a step."""
        command, self._command = self._command, None
        self.over = True
        if command is not None:
            command.exchange.failed(error, now)

    def _read(self, data: bytes) -> bool:
        """Takes bytes of an answer; returns whether it is complete.

        Raises:
            ConnectError: It can never be.
        """
        self._head += data[: len(_HTTP) - len(self._head)]
        try:
            if self._head != _HTTP[: len(self._head)]:  # h11 would wait for an empty line
                raise h11.RemoteProtocolError("no HTTP")
            self._http.receive_data(data)
            while (event := self._http.next_event()) is not h11.NEED_DATA:
                match event:
                    case h11.Response():
                        self._response = event
                        self._speaks_http = True
                    case h11.Data(data=part):
                        self._body += part
                        if self._limit is not None and len(self._body) > self._limit:
                            raise ConnectError(
                                f"the answer of {self._place} has more than {self._limit} bytes: "
                                f"{_LARGEST_ANSWER} times max_size, which is {self._max_size}"
                            )
                    case h11.EndOfMessage():
                        return True
                    case h11.ConnectionClosed():
                        raise self._ended()
                    case _:
                        pass  # 1xx: the final answer follows
        except h11.RemoteProtocolError:
            if data:
                raise ConnectError(f"{self._place} did not answer in HTTP{self._advice}") from None
            raise self._ended() from None
        return False

    def _ended(self) -> ConnectError:
        whole = "" if self._response is None else " whole"
        return ConnectError(f"{self._place} ended the connection before it answered{whole}{self._advice}")

    @property
    def _advice(self) -> str:
        return "" if self._speaks_http else f" ({USE_TLS})"


def _host_of(address: WebSocketURI) -> str:
    """The Host header; an IPv6 zone is only for this machine."""
    host = address.host.partition("%")[0]
    host = f"[{host}]" if ":" in host else host
    return host if address.port == (443 if address.secure else 80) else f"{host}:{address.port}"
