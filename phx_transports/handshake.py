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
from typing import Final

from websockets.client import ClientProtocol
from websockets.exceptions import (
    InvalidHeader,
    InvalidMessage,
    InvalidProxy,
    InvalidProxyStatus,
    InvalidStatus,
    InvalidURI,
    NegotiationError,
    ProxyError,
)
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from phx_proto.errors import CertificateError, ConnectError, HandshakeRefused

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


class ResponseReader:
    """Gives the library the handshake's response and nothing behind it, which it would read by itself.

    Args:
        protocol: Of the attempt; its request was sent.
        feed: Gives the library bytes.
    """

    __slots__ = ("_feed", "_protocol", "_tail")

    def __init__(self, protocol: ClientProtocol, feed: Callable[[bytes], None]) -> None:
        self._protocol = protocol
        self._feed = feed
        self._tail = b""  # the last bytes of an unfinished header

    def receive(self, data: bytes) -> bytes:
        """Takes a read, and returns what of it follows the response."""
        seen = self._tail + data
        end = seen.find(b"\r\n\r\n")
        if end < 0:
            self._tail = seen[-3:]
            self._feed(data)
            return b""
        end += 4 - len(self._tail)
        self._tail = b""
        self._feed(data[:end])
        rest = data[end:]
        if self._protocol.state is State.CONNECTING and rest:  # refused, with a body
            self._feed(rest)
            return b""
        return rest


def network_error(error: OSError, host: str, port: int) -> ConnectError:
    """What kept the connection, or TLS on it, from coming about."""
    place = f"{host}:{port}"
    if isinstance(error, tls.SSLCertVerificationError):
        return CertificateError(f"the TLS certificate of {place} was not accepted: {error.verify_message}")
    if isinstance(error, tls.SSLError):
        return ConnectError(f"TLS with {place} failed: {error.reason or error} (does it speak TLS there?)")
    if isinstance(error, socket.gaierror):
        return ConnectError(f"no address was found for host {host}: {error.strerror}")
    if isinstance(error, ConnectionRefusedError):
        return ConnectError(f"{place} refused the connection (is the server up?)")
    # A reset says nothing of itself where the event loop made it, and shows as "not connected" to who comes late.
    if isinstance(error, ConnectionResetError) or error.errno == errno.ENOTCONN:
        return ConnectError(f"{place} ended the connection before it was open")
    return ConnectError(f"no connection to {place}: {error}")


def handshake_error(error: Exception, address: WebSocketURI) -> ConnectError:
    """What the library says of a handshake that failed, proxies included."""
    place = f"{address.host}:{address.port}"
    match error:
        case InvalidStatus(response=response):
            answered: dict[str, str] = {}
            for name, value in response.headers.raw_items():
                name = name.lower()
                answered[name] = f"{answered[name]}, {value}" if name in answered else value
            return HandshakeRefused(status=response.status_code, body=bytes(response.body or b""), headers=answered)
        case InvalidMessage(__cause__=EOFError()):
            problem = f"{place} ended the connection before it answered the handshake"
        case InvalidMessage():
            problem = f"{place} did not answer in HTTP (is this a TLS port? then use wss://)"
        case InvalidProxyStatus(response=response):
            problem = f"the proxy refused the connection to {place} with HTTP {response.status_code}"
        case InvalidProxy(msg=message):
            problem = f"the proxy's URL is not valid: {message}"
        case ProxyError():
            problem = f"the proxy failed to connect to {place}"
        case InvalidHeader(name=name):
            problem = f"the answer of {place} is no WebSocket handshake: its {name} header is missing or wrong"
        case NegotiationError():
            problem = f"{place} chose a subprotocol or an extension that was not offered"
        case ImportError():
            problem = str(error)  # the library tells what to install for a SOCKS proxy
        case _:
            problem = f"the handshake with {place} failed ({type(error).__name__})"
    return ConnectError(problem)
