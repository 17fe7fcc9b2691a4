"""The way to a server on asyncio: TCP, through a proxy where there is one, and TLS on it."""

import asyncio
import contextlib
import socket
import ssl as tls
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Generic, TypeVar, cast

from websockets.proxy import Proxy
from websockets.uri import WebSocketURI

from ..websocket.dialing import check_socket, factory_told
from ..websocket.errors import told
from ..websocket.handshake import Progress
from ..websocket.options import AsyncFactory, NetworkOptions
from ..websocket.proxies import Tunnel, is_socks, proxy_for, socks
from ..websocket.reaching import (
    Info,
    Race,
    address_of,
    is_numeric,
    missing_answer,
    missing_name,
    missing_tcp,
    tls_name,
)

T = TypeVar("T")


class Dialogue(asyncio.Protocol, Generic[T]):
    """The beginning of a connection: one request and its answer. After that reading is paused.

    Args:
        request: The bytes to send.
        receive: Takes each read, `b""` at the connection's end. Returns the answer once it is complete; raises if there
            will be none.

    Attributes:
        answer: A future of the answer.
    """

    def __init__(self, request: bytes, receive: Callable[[bytes], T | None]) -> None:
        self.answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.answer.add_done_callback(_seen)  # when no task awaits it any more, its error does not matter
        self._request = request
        self._receive = receive
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is not a subclass
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            return
        try:
            answer = self._receive(data)
        except Exception as error:
            self.answer.set_exception(error)
        else:
            if answer is not None:
                self._transport.pause_reading()
                self.answer.set_result(answer)

    def eof_received(self) -> None:
        self.data_received(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self.data_received(b"")


async def dial(
    address: WebSocketURI, network: NetworkOptions[AsyncFactory], progress: Progress, protocol: asyncio.Protocol
) -> asyncio.Transport:
    """Connect to a server, with TLS where the URL says so. Cancelling it drops the attempt.

    Raises:
        CertificateError: The server's TLS certificate was not accepted.
        ProxyError: The proxy does not let us through, or cannot be used.
        ConnectError: Any other failure to connect.
    """
    loop = asyncio.get_running_loop()
    host, port, secure = address.host, address.port, address.secure
    context = (network.ssl or tls.create_default_context()) if secure else None
    name = tls_name(host) if secure else None
    proxy = None if network.factory is not None else proxy_for(address, network.proxy)
    if proxy is not None and not is_socks(proxy):
        transport = await _through_http(proxy, address, progress)
        try:
            if context is not None:
                progress.waits(missing_answer(host, port, "", tls=True))
                with told(host, port, secure=True):
                    secured = await loop.start_tls(transport, protocol, context, server_hostname=name)
                assert secured is not None
                transport = secured
        except BaseException:
            transport.abort()
            raise
        progress.waits(missing_answer(host, port, "", tls=False))
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.resume_reading()
        return transport
    if network.factory is not None:
        with factory_told():
            sock = await network.factory(host, port)
        check_socket(sock)
    elif proxy is None:
        sock = await _connected(host, port, progress)
    else:
        sock = await _through_socks(proxy, address, progress)
    peer = ""
    if proxy is None:
        with contextlib.suppress(OSError):
            peer = address_of(sock.getpeername())
    if secure:
        progress.waits(missing_answer(host, port, peer, tls=True))
    with told(host, port, secure=secure):
        transport, _ = await loop.create_connection(lambda: protocol, sock=sock, ssl=context, server_hostname=name)
    progress.waits(missing_answer(host, port, peer, tls=False))
    return transport


async def _through_socks(proxy: Proxy, address: WebSocketURI, progress: Progress) -> socket.socket:
    with socks(proxy, address, "python_socks.async_.asyncio", progress) as way:
        sock: socket.socket = await way.connect(address.host, address.port)
    return sock


async def _through_http(proxy: Proxy, address: WebSocketURI, progress: Progress) -> asyncio.Transport:
    """A connection through an HTTP proxy, by CONNECT; over TLS if the proxy's URL has https://."""
    tunnel = Tunnel(proxy, address)
    sock = await _connected(proxy.host, proxy.port, progress, proxy="the proxy ")
    progress.waits(tunnel.missing)
    secure = proxy.scheme == "https"
    dialogue = Dialogue(tunnel.request, lambda data: tunnel.receive(data) or None)
    with told(proxy.host, proxy.port, secure=secure, proxy="the proxy "):
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: dialogue,
            sock=sock,
            ssl=tls.create_default_context() if secure else None,
            server_hostname=tls_name(proxy.host) if secure else None,
        )
    try:
        await dialogue.answer
    except BaseException:
        transport.abort()
        raise
    return transport


async def _connected(host: str, port: int, progress: Progress, *, proxy: str = "") -> socket.socket:
    """A TCP connection to the first address that accepts it."""
    loop = asyncio.get_running_loop()
    trying: dict[asyncio.Future[None], socket.socket] = {}
    progress.waits(missing_name(host, proxy=proxy))
    try:
        with told(host, port, proxy=proxy):
            infos = await _looked_up(host, port)
            progress.waits(missing_tcp(host, port, infos, proxy=proxy))
            race = Race(infos, loop.time())
            while True:
                while (info := race.due(loop.time())) is not None:
                    try:
                        sock = socket.socket(info[0], info[1], info[2])
                    except OSError as error:  # an address family that this machine does not have
                        race.failed(error, loop.time())
                        continue
                    sock.setblocking(False)
                    # Not `create_task`: the application's task factory is for the application's tasks.
                    trying[asyncio.Task(loop.sock_connect(sock, info[4]), loop=loop)] = sock
                if (lost := race.lost) is not None:
                    raise lost
                patience = race.patience(loop.time())
                done, _ = await asyncio.wait(
                    trying, timeout=None if patience == inf else patience, return_when=asyncio.FIRST_COMPLETED
                )
                for task in done:  # if two have succeeded at once, the other one is closed below
                    sock = trying.pop(task)
                    failure = task.exception()
                    if failure is None:
                        return sock
                    sock.close()
                    if not isinstance(failure, OSError):
                        raise failure
                    race.failed(failure, loop.time())
    finally:
        for task, sock in trying.items():
            task.cancel()
            task.add_done_callback(partial(_close, sock))


async def _looked_up(host: str, port: int) -> list[Info]:
    if is_numeric(host):  # needs no thread
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _seen(answer: "asyncio.Future[T]") -> None:
    if not answer.cancelled():
        answer.exception()


def _close(sock: socket.socket, _: object) -> None:
    sock.close()
