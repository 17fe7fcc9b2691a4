"""A way through an HTTP proxy: `CONNECT`, in clear text and before TLS with the server. Other proxies are refused.

`websockets` has this too, in places that move from release to release.
"""

import base64
import socket
from collections.abc import Callable
from typing import Final, Literal
from urllib.parse import SplitResult, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from websockets.datastructures import Headers
from websockets.exceptions import InvalidProxy, InvalidProxyStatus, ProxyError
from websockets.http11 import Response
from websockets.uri import WebSocketURI

_LARGEST_ANSWER: Final = 2**16  # bytes
_SCHEMES: Final = {True: ("wss", "socks", "https"), False: ("ws", "socks", "https", "http")}


def proxy_for(address: WebSocketURI, proxy: str | Literal[True] | None) -> SplitResult | None:
    """The proxy to go through, if any.

    Args:
        address: Where to.
        proxy: Its URL, `None` for none, `True` for what the environment says.

    Raises:
        InvalidProxy: It is no HTTP proxy.
    """
    url = _from_environment(address) if proxy is True else proxy
    if url is None:
        return None
    parts = urlsplit(url)
    if parts.scheme != "http":
        raise InvalidProxy(url, "only http:// proxies are supported here; make the connection with `factory`")
    if parts.hostname is None:
        raise InvalidProxy(url, "it has no host")
    return parts


def _from_environment(address: WebSocketURI) -> str | None:
    if proxy_bypass(f"{address.host}:{address.port}"):
        return None
    known = getproxies()
    return next((known[scheme] for scheme in _SCHEMES[address.secure] if scheme in known), None)


def open_tunnel(proxy: SplitResult, address: WebSocketURI, dial: Callable[[str, int], socket.socket]) -> socket.socket:
    """Have the proxy connect to the address.

    Args:
        proxy: As `proxy_for` gave it.
        address: Where to.
        dial: Connects to the proxy.

    Raises:
        ProxyError: It does not.
        OSError: It cannot be reached.
    """
    assert proxy.hostname is not None
    sock = dial(proxy.hostname, proxy.port or 80)
    host = f"[{address.host}]" if ":" in address.host else address.host
    place = f"{host}:{address.port}"
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}"]
    if proxy.username is not None:
        credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credentials.encode()).decode()}")
    sock.sendall("\r\n".join((*lines, "", "")).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:  # nothing follows it: whoever is behind the proxy waits for us
        data = sock.recv(4096)
        if not data or len(answer) > _LARGEST_ANSWER:
            raise ProxyError("the proxy did not answer in HTTP")
        answer += data
    version, _, rest = answer.partition(b" ")
    status = rest[:3]
    if not version.startswith(b"HTTP/1") or not status.isdigit():
        raise ProxyError("the proxy did not answer in HTTP")
    if not status.startswith(b"2"):
        raise InvalidProxyStatus(Response(int(status), "", Headers()))
    return sock
