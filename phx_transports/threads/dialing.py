"""The way to a server on threads: TCP, through a proxy where there is one, and TLS on it. It blocks."""

import contextlib
import selectors
import socket
import ssl
import threading
from math import inf
from time import monotonic
from typing import Final, cast

from websockets.proxy import Proxy
from websockets.uri import WebSocketURI

from phx_proto.errors import ConnectError, ProxyError

from ..websocket.dialing import Dialing, made_by
from ..websocket.errors import told
from ..websocket.handshake import Progress
from ..websocket.options import Factory, NetworkOptions
from ..websocket.proxies import SOCKS_TIMEOUT, Tunnel, is_socks, proxy_for, socks
from ..websocket.reaching import address_of, missing_answer, missing_name, missing_tcp, tls_name
from ..websocket.tls import Tls

#: Bytes that a read takes at most.
READ: Final = 2**17


class Attempt:
    """An attempt to connect, which another thread may give up."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._given_up = False

    def cancel(self) -> None:
        """Ends whatever the attempt waits for on its socket."""
        with self._lock:
            self._given_up = True
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def hold(self, sock: socket.socket) -> socket.socket:
        """Take a socket as the attempt's from here on; the one before is closed.

        Raises:
            ConnectError: It was given up; the new one is closed too.
        """
        with self._lock:
            if self._sock is not None:
                self._sock.close()
            self._sock = sock
            if self._given_up:
                sock.close()
                raise ConnectError("the attempt was given up")
        return sock

    def drop(self) -> None:
        """It failed."""
        with self._lock:
            if self._sock is not None:
                self._sock.close()


class Stream:
    """A connected socket, with TLS on it or without.

    Attributes:
        sock: The socket.
        tls: What is between; `None` for nothing.
    """

    def __init__(self, sock: socket.socket, tls: Tls | None = None) -> None:
        self.sock = sock
        self.tls = tls

    def send_all(self, data: bytes) -> None:
        """Sends this, and waits until all is written."""
        self.sock.sendall(data if self.tls is None else self.tls.send(data))

    def receive(self, most: int = READ) -> bytes | None:
        """One read; `b""` where the peer has ended the connection, `None` where it brought nothing that can be read.

        Args:
            most: Bytes.

        Raises:
            BlockingIOError: The socket does not block, and there is nothing.
            OSError: The connection broke, or TLS on it.
        """
        data = self.sock.recv(most)
        if self.tls is None or not data:
            return data
        return self.tls.receive(data) or (b"" if self.tls.ended else None)


def dial(address: WebSocketURI, network: NetworkOptions[Factory], attempt: Attempt) -> Stream:
    """Connect to a server, with TLS where the URL says so; the socket blocks. Cancelling the attempt ends the wait.

    Raises:
        CertificateError: The server's TLS certificate was not accepted.
        ProxyError: The proxy does not let us through, or cannot be used.
        ConnectError: Anything else that kept the connection from coming about.
    """
    host, port = address.host, address.port
    proxy = None if network.factory is not None else proxy_for(address, network.proxy)
    sock = _connected(address, network.factory, proxy, attempt)
    with told(host, port, secure=address.secure):
        sock.setblocking(True)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = "" if proxy is not None else address_of(sock.getpeername())
        stream = Stream(sock)
        if address.secure:
            attempt.progress.waits(missing_answer(host, port, peer, tls=True))
            stream.tls = _secured(sock, network.ssl or ssl.create_default_context(), tls_name(host))
    attempt.progress.waits(missing_answer(host, port, peer, tls=False))
    return stream


def _secured(sock: socket.socket, context: ssl.SSLContext, name: str) -> Tls:
    """The handshake of TLS."""
    tls = Tls(context, name)
    try:
        while not tls.open:
            sock.sendall(tls.send())
            data = sock.recv(READ)
            if not data:
                raise ConnectionResetError
            tls.receive(data)
    finally:
        with contextlib.suppress(OSError):
            sock.sendall(tls.send())  # the end of the handshake, or an alert
    return tls


def _connected(address: WebSocketURI, factory: Factory | None, proxy: Proxy | None, attempt: Attempt) -> socket.socket:
    """A TCP connection to the server, through the proxy if there is one."""
    if factory is not None:
        return attempt.hold(made_by(factory, address.host, address.port))
    if proxy is None:
        return _dialed(address.host, address.port, attempt)
    if is_socks(proxy):
        return _through_socks(proxy, address, attempt)
    if proxy.scheme == "https":
        raise ProxyError("the proxy's URL begins with https://, which is not supported here: use http:// or SOCKS")
    return _through_http(proxy, address, attempt)


def _through_http(proxy: Proxy, address: WebSocketURI, attempt: Attempt) -> socket.socket:
    tunnel = Tunnel(proxy, address)
    sock = _dialed(proxy.host, proxy.port, attempt, proxy="the proxy ")
    attempt.progress.waits(tunnel.missing)
    with told(proxy.host, proxy.port, proxy="the proxy "):
        sock.setblocking(True)
        sock.sendall(tunnel.request)
        while not tunnel.receive(sock.recv(4096)):
            pass
    return sock


def _through_socks(proxy: Proxy, address: WebSocketURI, attempt: Attempt) -> socket.socket:
    with socks(proxy, address, "python_socks.sync", attempt.progress) as way:
        sock: socket.socket = way.connect(address.host, address.port, timeout=SOCKS_TIMEOUT)
    return attempt.hold(sock)


def _dialed(host: str, port: int, attempt: Attempt, *, proxy: str = "") -> socket.socket:
    """A TCP connection to the first address that answers; not blocking."""
    wakeup_writer, wakeup_reader = socket.socketpair()
    with contextlib.ExitStack() as stack:
        stack.enter_context(told(host, port, proxy=proxy))
        stack.callback(wakeup_writer.close)
        attempt.hold(wakeup_reader)  # giving the attempt up makes it readable
        attempt.progress.waits(missing_name(host, proxy=proxy))
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        attempt.progress.waits(missing_tcp(host, port, infos, proxy=proxy))
        dialing = Dialing(infos, monotonic())
        stack.callback(dialing.close)
        selector = stack.enter_context(selectors.DefaultSelector())
        selector.register(wakeup_reader, selectors.EVENT_READ)
        while True:
            for sock in dialing.begin(monotonic()):
                selector.register(sock, selectors.EVENT_WRITE, sock)
            if dialing.race.lost is not None:
                raise dialing.race.lost
            patience = dialing.race.patience(monotonic())
            for key, _ in selector.select(None if patience == inf else patience):
                if key.data is None:
                    raise ConnectError("the attempt was given up")
                selector.unregister(key.data)
                if dialing.connected(key.data, monotonic()):
                    return attempt.hold(cast("socket.socket", key.data))
