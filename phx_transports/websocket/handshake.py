"""What every WebSocket adapter does around the opening handshake: checks before it, and errors in our words after it.

Free of I/O. No text made here shows the URL, a header or what the server answered but its status and body: they may
hold tokens.
"""

import errno
import logging
import re
import socket
import ssl as tls
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidHeader, InvalidMessage, InvalidURI, NegotiationError
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from phx_proto.errors import CertificateError, ConnectError, HandshakeRefused

from .answer import USE_NO_TLS, Answer, Upgraded
from .reaching import place_of

#: For the library, whose log shows URLs, headers and messages at level DEBUG. It is outside the tree of loggers: no
#: configuration reaches it.
silent: Final = logging.Logger("phx_transports.silent")


def offer(protocol: ClientProtocol, subprotocols: Sequence[str]) -> None:
    """Offers them as they are: the library's argument refuses a token's "/", which servers take (PROTOCOL.md, Opening).

    An undocumented attribute of the library's; see docs/dependencies.md.
    """
    protocol.available_subprotocols = [Subprotocol(offered) for offered in subprotocols] or None


silent.disabled = True

_HEADER_NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
_HEADER_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


def checked_address(
    url: str, *, ssl: tls.SSLContext | None, headers: Sequence[tuple[str, str]], subprotocols: Sequence[str]
) -> WebSocketURI:
    """The URL's parts, if a handshake can be sent with all this.

    Args:
        url: `ws://` or `wss://`, whole.
        ssl: For `wss://` alone.
        headers: To send besides the handshake's own.
        subprotocols: To offer verbatim, also where they hold characters that RFC 6455 forbids.

    Raises:
        ConnectError: It cannot.
    """
    try:
        address = parse_uri(url)
    except InvalidURI as error:
        raise ConnectError(f"the URL is not valid: {error.msg}") from None  # the error's own text shows it
    except ValueError:
        raise ConnectError("the URL is not valid: its host or port cannot be read") from None
    if ssl is not None and not address.secure:
        raise ConnectError("an SSL context was given for a ws:// URL: use wss://")
    for name, value in [*headers, *(("Sec-WebSocket-Protocol", offered) for offered in subprotocols)]:
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            raise ConnectError(f"header {name!r} has characters that HTTP cannot carry in its name or value")
    return address


def checked_socket(sock: socket.socket) -> socket.socket:
    """A socket that the application's own factory made, if it is a stream; else it is closed.

    Raises:
        ConnectError: It is not.
    """
    if sock.type != socket.SOCK_STREAM:
        sock.close()
        raise ConnectError("the connection factory gave a socket that is not a stream")
    return sock


class Progress(Protocol):
    """Told how far an attempt has come; a link is, as far as it is needed here (see `Link`)."""

    def waits(self, missing: str) -> None: ...
    def refusing(self, refusal: HandshakeRefused) -> None: ...


class Unobserved:
    """Nobody wants to know."""

    def waits(self, missing: str) -> None:
        """Does nothing."""

    def refusing(self, refusal: HandshakeRefused) -> None:
        """Does nothing."""


class ResponseReader:
    """Reads the answer to the handshake, and gives the library what it needs of it.

    Args:
        feed: Gives the library bytes.
        answer: Reads.
        on_refusing: Told of a refusal whose body is coming, with what came of it.

    Attributes:
        error: What the handshake failed with, unless the library knows better.
    """

    __slots__ = ("_answer", "_feed", "_on_refusing", "_over", "error")

    def __init__(
        self,
        feed: Callable[[bytes], None],
        answer: Answer,
        on_refusing: Callable[[HandshakeRefused], None],
    ) -> None:
        self.error: ConnectError | None = None
        self._over = False  # the answer was read
        self._feed = feed
        self._answer = answer
        self._on_refusing = on_refusing

    def receive(self, data: bytes) -> bytes:
        """Takes a read (`b""`: the connection has ended), and returns what of it follows the answer."""
        if self._over:
            return b""
        outcome = self._answer.receive(data)
        self._over = outcome is not None
        match outcome:
            case None:
                if self._answer.refusal is not None:
                    self._on_refusing(self._answer.refusal)
                return b""
            case Upgraded(fields=fields, rest=rest):
                lines = [f"{name}: {value}" for name, value in fields if name in _LIBRARYS_FIELDS]
                self._feed("\r\n".join(("HTTP/1.1 101 Upgraded", *lines, "", "")).encode("latin-1"))
                return rest
            case _:
                self.error = outcome
                self._feed(b"HTTP/1.1 500 Refused\r\nContent-Length: 0\r\n\r\n")  # ends the library's attempt
                return b""


_LIBRARYS_FIELDS: Final = frozenset(
    {"connection", "upgrade", "sec-websocket-accept", "sec-websocket-extensions", "sec-websocket-protocol"}
)


def network_error(error: OSError, host: str, port: int, *, secure: bool = False, proxy: str = "") -> ConnectError:
    """What kept the connection, or TLS on it, from coming about.

    Args:
        error: What was raised.
        host: The server's, or the proxy's.
        port: Likewise.
        secure: Whether TLS was to be spoken.
        proxy: `"the proxy "` where it is a proxy's.
    """
    place = f"{proxy}{place_of(host, port)}"
    if isinstance(error, tls.SSLCertVerificationError):
        return CertificateError(
            f"the TLS certificate of {place} was not accepted: {error.verify_message} ({_certificate_advice(error)})"
        )
    if isinstance(error, tls.SSLError):
        reason = (error.reason or str(error)).replace("_", " ").lower()
        return ConnectError(f"TLS with {place} failed: {reason} ({USE_NO_TLS})")
    if isinstance(error, socket.gaierror):
        return ConnectError(f"no address was found for {proxy}host {host}: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        up = "is the proxy up?" if proxy else "is the server up?"
        return ConnectError(f"{place} refused the connection ({up})")
    # A reset says nothing of itself where the event loop made it, and shows as "not connected" to who comes late.
    if isinstance(error, ConnectionResetError) or error.errno == errno.ENOTCONN:
        advice = f" ({USE_NO_TLS})" if secure else ""
        return ConnectError(f"{place} ended the connection before it was open{advice}")
    return ConnectError(f"no connection to {place}: {error.strerror or error}")


def _certificate_advice(error: tls.SSLCertVerificationError) -> str:
    """What to do, by OpenSSL's X509_V_ERR_… codes."""
    match getattr(error, "verify_code", 0):  # who raises it himself may leave it out
        case 9 | 10:
            return "the certificate is not valid now: is this machine's clock right? then renew it on the server"
        case 62 | 63 | 64:
            return "it is for another host: use the name that it was made for"
        case _:
            return (
                "to trust one of your own, give ssl=ssl.create_default_context(cafile=…), or name its file in the "
                "environment variable SSL_CERT_FILE"
            )


def handshake_error(error: Exception, address: WebSocketURI) -> ConnectError:
    """What the library says of a handshake that failed."""
    place = place_of(address.host, address.port)
    match error:
        case InvalidMessage(__cause__=EOFError()):
            problem = f"{place} ended the connection before it answered the handshake"
        case InvalidHeader(name=name):
            problem = f"the answer of {place} is no WebSocket handshake: its {name} header is missing or wrong"
        case NegotiationError():
            problem = f"{place} chose a subprotocol or an extension that was not offered"
        case _:
            problem = f"the handshake with {place} failed ({type(error).__name__})"
    return ConnectError(problem)
