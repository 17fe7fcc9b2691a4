"""Proxies, for all adapters: which one to use, and the dialogue with it. Free of I/O.

`websockets` reads the environment and the proxy's URL. An HTTP proxy gets a `CONNECT` request, before TLS with the
server; `python-socks` does SOCKS. No text made here shows the proxy's credentials.
"""

import base64
import contextlib
import re
import urllib.request
from collections.abc import Generator
from dataclasses import replace
from importlib import import_module
from ipaddress import ip_address, ip_network
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from websockets.exceptions import InvalidProxy
from websockets.http11 import USER_AGENT
from websockets.proxy import Proxy, get_proxy, parse_proxy
from websockets.uri import WebSocketURI

from phx_proto.errors import ConnectError, ProxyError
from phx_proto.shown import escaped

from .handshake import Progress
from .reaching import place_of

#: Seconds for `python-socks` where its wait cannot be ended otherwise.
SOCKS_TIMEOUT: Final = 10.0

_LARGEST_ANSWER: Final = 2**16  # bytes
_SOCKS_PORT: Final = 1080
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([0-9]{3})[ \r\n]")  # some proxies still speak HTTP/1.0

#: An address or a network; with a port only in brackets, because `::1:80` is an address.
_NO_PROXY: Final = re.compile(
    r"(?:\[(?P<bracketed>[^\]]+)\]|(?P<plain>[^\[\]/]+))(?P<length>/[0-9]+)?(?::(?P<port>[0-9]+))?"
)

#: By scheme: python-socks' name of the protocol, and whether the proxy looks up the server's name.
_SOCKS: Final = {
    "socks5h": ("SOCKS5", True),
    "socks5": ("SOCKS5", False),
    "socks4a": ("SOCKS4", True),
    "socks4": ("SOCKS4", False),
}
_ADVICE: Final = {
    407: ' (it wants credentials: proxy="http://user:password@host:port", special characters percent-encoded)',
    502: " (is the server up?)",
    503: " (is the server up?)",
    504: " (is the server up?)",
}


def proxy_for(address: WebSocketURI, proxy: str | Literal[True] | None) -> Proxy | None:
    """The proxy to use, if any: the one with this URL, or with `True` the environment's.

    Raises:
        ProxyError: Its URL is not valid.
    """
    if proxy is True:
        proxy = None if _excepted(address.host, address.port) else get_proxy(address)
    url = proxy
    if url is None:
        return None
    if "://" not in url:
        url = f"http://{url}"  # as curl and others do
    try:
        parsed = parse_proxy(url)
        without_port = urlsplit(url).port is None
    except InvalidProxy as error:
        raise ProxyError(f"the proxy's URL is not valid: {escaped(error.msg)}") from None  # its own text shows the URL
    except ValueError:
        raise ProxyError("the proxy's URL is not valid: its host, port or credentials cannot be read") from None
    return replace(parsed, port=_SOCKS_PORT) if without_port and parsed.scheme in _SOCKS else parsed


def _excepted(host: str, port: int) -> bool:
    """Whether `no_proxy` has this address in brackets, or its network; `urllib` supports neither."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    for entry in urllib.request.getproxies().get("no", "").split(","):
        found = _NO_PROXY.fullmatch(entry.strip())
        if found is None or found["port"] not in (None, str(port)):
            continue
        with contextlib.suppress(ValueError):  # it is a name
            if address in ip_network((found["bracketed"] or found["plain"]) + (found["length"] or ""), strict=False):
                return True
    return False


def named(proxy: Proxy) -> str:
    """The proxy, for messages."""
    return f"the proxy {place_of(proxy.host, proxy.port)}"


def _refused(proxy: Proxy, address: WebSocketURI, status: int) -> ProxyError:
    place = place_of(address.host, address.port)
    advice = _ADVICE.get(status, "")
    return ProxyError(f"{named(proxy)} refused the connection to {place} with HTTP {status}{advice}", status)


class Tunnel:
    """A tunnel through an HTTP proxy.

    Attributes:
        request: The bytes to send to the proxy first.
        missing: What is missing while the proxy does not answer; for `Link.waits`.
    """

    def __init__(self, proxy: Proxy, address: WebSocketURI) -> None:
        self._proxy = proxy
        self._address = address
        place = place_of(address.host, address.port)
        lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", f"User-Agent: {USER_AGENT}"]
        if proxy.username is not None:
            credentials = f"{proxy.username}:{proxy.password or ''}"
            lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credentials.encode()).decode()}")
        self.request: bytes = "\r\n".join((*lines, "", "")).encode()
        self.missing = f"{named(proxy)} did not answer when it was asked for a way to {place}"
        self._answer = b""

    def receive(self, data: bytes) -> bool:
        """Takes a read of the proxy's answer (`b""` at its end), and returns whether the tunnel is open.

        Raises:
            ProxyError: The proxy refused.
            ConnectError: The answer is not a proxy's.
        """
        self._answer += data
        status = _STATUS_LINE.match(self._answer)
        ended = not data or len(self._answer) > _LARGEST_ANSWER
        complete = b"\r\n\r\n" in self._answer  # nothing follows it: the server behind the proxy waits for the client
        if status is not None and (complete or ended):
            code = int(status[1])
            if 200 <= code <= 299 and complete:
                return True
            if code >= 300:
                raise _refused(self._proxy, self._address, code)
        if complete or ended:
            raise ConnectError(f"{named(self._proxy)} did not answer in HTTP (is it an HTTP proxy?)")
        return False


@contextlib.contextmanager
def socks(proxy: Proxy, address: WebSocketURI, module: str, progress: Progress) -> Generator[Any]:
    """A proxy object from a module of `python-socks`, for a block that connects through it.

    Raises:
        ProxyError: The library is not installed.
        ConnectError: What the block raises, as an error of our own.
    """
    place = place_of(address.host, address.port)
    progress.waits(f"{named(proxy)} did not connect to {place}")
    try:
        kind = import_module("python_socks").ProxyType
        made = import_module(module).Proxy
    except ImportError:
        raise ProxyError("a SOCKS proxy needs python-socks: pip install 'phx-channels[socks]'") from None
    protocol, remote_names = _SOCKS[proxy.scheme]
    try:
        yield made(kind[protocol], proxy.host, proxy.port, proxy.username, proxy.password, rdns=remote_names)
    except OSError as error:
        raise ConnectError(f"no connection to {named(proxy)}: {escaped(str(error))}") from None
    except Exception as error:
        raise ConnectError(f"{named(proxy)} did not connect to {place}: {escaped(str(error))}") from None


def is_socks(proxy: Proxy) -> bool:
    """Whether it is a SOCKS proxy, of any version."""
    return proxy.scheme in _SOCKS
