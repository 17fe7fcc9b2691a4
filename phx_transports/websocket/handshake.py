"""The opening handshake (RFC 6455 §4) of all WebSocket adapters, with errors of our own. Free of I/O.

`websockets` writes the request and checks the negotiated options; `Answer` reads the answer, and accepts more answers
than the library does. No text made here shows the URL, a header or anything of the answer but its status and body: they
may contain tokens.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Protocol

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHeader, InvalidURI, NegotiationError
from websockets.extensions.permessage_deflate import enable_client_permessage_deflate
from websockets.http11 import USER_AGENT
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from phx_proto.errors import ConnectError, HandshakeRefused

from .answer import Answer, Upgraded
from .options import NetworkOptions
from .reaching import place_of


class Progress(Protocol):
    """Called with the progress of an attempt; implemented by a link (see `Link`)."""

    def waits(self, missing: str) -> None: ...
    def refusing(self, refusal: HandshakeRefused) -> None: ...


class Handshake:
    """One handshake, from its request to the bytes after the answer.

    Args:
        url: The whole `ws://` or `wss://` URL.
        subprotocols: Offered unchanged, in this order; a token among them may hold what RFC 6455 forbids.
        headers: Further headers to send.
        network: The options of the connection.

    Attributes:
        address: Where to connect, and whether with TLS.
        network: As given.
        place: Host and port, for messages.
        protocol: The library's; open once the server has agreed.

    Raises:
        ConnectError: The request cannot be made.
    """

    def __init__(
        self,
        url: str,
        *,
        subprotocols: Sequence[str] = (),
        headers: Sequence[tuple[str, str]] = (),
        network: NetworkOptions[Any],
    ) -> None:
        check_headers([*headers, *(("Sec-WebSocket-Protocol", offered) for offered in subprotocols)])
        self.address = address_in(url)
        if network.ssl is not None and not self.address.secure:
            raise ConnectError("an SSL context was given for a ws:// URL: use wss://")
        self.protocol = ClientProtocol(
            replace(self.address, host=self.address.host.partition("%")[0]),  # an IPv6 zone is only for this machine
            extensions=enable_client_permessage_deflate(None) if network.compression else None,
            max_size=network.max_size,
            logger=silent,
        )
        # The library's argument refuses "/" in a token, but servers accept it. Undocumented; see docs/dependencies.md.
        self.protocol.available_subprotocols = [Subprotocol(offered) for offered in subprotocols] or None
        self.network = network
        self.place = place_of(self.address.host, self.address.port)
        self._headers = headers
        self._answer = Answer(self.place, secure=self.address.secure)

    @property
    def refusal(self) -> HandshakeRefused | None:
        """Set once the server has refused, with as much of the body as has arrived."""
        return self._answer.refusal

    def request(self) -> bytes:
        """The bytes to send."""
        request = self.protocol.connect()
        request.headers.update((name, value.strip(" \t")) for name, value in self._headers)
        request.headers.setdefault("User-Agent", USER_AGENT)
        self.protocol.send_request(request)
        return b"".join(self.protocol.data_to_send())

    def receive(self, data: bytes) -> bytes | None:
        """Takes a read (`b""` at the connection's end); once the WebSocket is open, returns the bytes after the answer.

        Raises:
            HandshakeRefused: The server answered with an HTTP status other than 101; redirects are not followed.
            ConnectError: The answer is not a handshake.
        """
        outcome = self._answer.receive(data)
        if outcome is None:
            return None
        if not isinstance(outcome, Upgraded):
            raise outcome
        # The library gets only the headers it needs.
        lines = [f"{name}: {value}" for name, value in outcome.fields if name in _LIBRARYS_FIELDS]
        self.protocol.receive_data("\r\n".join(("HTTP/1.1 101 Upgraded", *lines, "", "")).encode("latin-1"))
        if self.protocol.handshake_exc is not None:  # its text may show a token from the server
            raise _handshake_error(self.protocol.handshake_exc, self.place) from None
        self.protocol.events_received()  # the answer
        return outcome.rest


#: For the library, whose DEBUG log shows URLs, headers and messages. It is not in the tree of loggers: no configuration
#: applies to it.
silent: Final = logging.Logger("phx_transports.silent")
silent.disabled = True

_LIBRARYS_FIELDS: Final = frozenset(
    {"connection", "upgrade", "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol"}
)

#: What HTTP permits in a header, in either direction; the value in Latin-1.
HEADER_NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OF_BODIES: Final = frozenset({"content-length", "transfer-encoding"})


def address_in(url: str) -> WebSocketURI:
    try:
        return parse_uri(url)
    except InvalidURI as error:
        raise ConnectError(f"the URL is not valid: {error.msg}") from None  # the error's own text shows it
    except ValueError:
        raise ConnectError("the URL is not valid: its host or port cannot be read") from None


def check_headers(headers: Sequence[tuple[str, str]]) -> None:
    for name, value in headers:
        if not (HEADER_NAME.fullmatch(name) and HEADER_VALUE.fullmatch(value)):
            raise ConnectError(f"header {name!r} has characters that HTTP cannot carry in its name or value")
        if name.lower() in _OF_BODIES:
            raise ConnectError(f"header {name!r} contradicts HTTP: a handshake has no body")


def _handshake_error(error: Exception, place: str) -> ConnectError:
    """The error for an answer that the library does not accept."""
    match error:
        case InvalidHeader(name=name):
            problem = f"the answer of {place} is no WebSocket handshake: its {name} header is missing or wrong"
        case NegotiationError():
            problem = f"{place} chose a subprotocol or an extension that was not offered"
        case _:
            problem = f"the handshake with {place} failed ({type(error).__name__})"
    return ConnectError(problem)
