"""A WebSocket for the client: one call to its receiver for each read, one write for all sent in a loop iteration.

The `websockets` library opens it (TLS, proxies, handshake), makes the outgoing frames and keeps RFC 6455; its message
queue, keepalive, timeouts and compression are off. Reads go through the `Cutter`. Nothing here decides about Phoenix,
and time is the core's: an opening is bounded by cancelling it, a closing handshake by `abort`. The one exception is
the TCP connection of a WebSocket that is over and was told so: the peer gets `LINGER` to end it, so that our close
frame is not lost in a reset, and then it is dropped.

The library's log is off: at level DEBUG it shows URLs, headers and messages, so tokens.
"""

import asyncio
import contextlib
import socket
import ssl as tls
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Final, Literal, Protocol, TypeAlias, cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.protocol import State
from websockets.proxy import Proxy
from websockets.uri import WebSocketURI

from phx_proto.errors import ConnectError, HandshakeRefused

from ..websocket.answer import Answer
from ..websocket.cutter import ANSWERS, MAX_SIZE, Assembler, Cutter, Received
from ..websocket.handshake import (
    Progress,
    ResponseReader,
    Unobserved,
    checked_address,
    checked_socket,
    handshake_error,
    network_error,
    offer,
    silent,
)
from ..websocket.proxies import Tunnel, https_proxy_error, is_socks, named, proxy_for, socks, socks_error, url_of
from ..websocket.reaching import (
    STAGGER,
    Info,
    Race,
    address_of,
    is_numeric,
    missing_answer,
    missing_name,
    missing_tcp,
    place_of,
    tls_name,
)

#: Seconds that the peer has to end the TCP connection once the WebSocket is over.
LINGER: Final = 1.0

#: Gives a connected stream socket to a host and port, e.g. through a tunnel or to a Unix socket.
Factory: TypeAlias = Callable[[str, int], Awaitable[socket.socket]]


class Receiver(Protocol):
    """What a connection tells, on its loop, from the iteration after `open_connection` has returned.

    Called between the connection's own steps; may call its methods. It must not raise: that drops the connection.
    """

    def frames(self, frames: list[Received]) -> None:
        """One read brought these messages, in the order of the wire: `str` from text frames, `bytes` from binary."""

    def progress(self) -> None:
        """A read completed no message, and one has begun: the peer lives."""

    def closed(self, code: int | None, reason: str) -> None:
        """The connection is over; nothing else is told after. Called exactly once.

        Args:
            code: Of the peer's close frame (1005 if that was empty); `None` if none came.
            reason: Of that frame; if none came, what happened in words.
        """

    def blocked(self) -> None:
        """The write buffer is full. What is sent is still taken, and queued."""

    def writable(self) -> None:
        """The write buffer has drained."""


class FastConnection:
    """An open WebSocket.

    Its methods are called on its loop, none waits but `wait_closed`, and none fails because the connection is over:
    what is sent then goes nowhere.
    """

    __slots__ = ("_wire",)

    def __init__(self, wire: "_Wire") -> None:
        self._wire = wire

    @property
    def subprotocol(self) -> str | None:
        """What the server chose of the subprotocols offered."""
        return self._wire.subprotocol

    def send_text(self, data: str) -> None:
        """Queues one text message; written with all others of this loop iteration, or by `flush`."""
        wire = self._wire
        if wire.protocol.state is State.OPEN:
            wire.protocol.send_text(data.encode())
            wire.flush_soon()

    def send_binary(self, data: bytes) -> None:
        """Queues one binary message, like `send_text`."""
        wire = self._wire
        if wire.protocol.state is State.OPEN:
            wire.protocol.send_binary(data)
            wire.flush_soon()

    def flush(self) -> None:
        """Hands everything queued to the transport in one write, now. Without it that happens in the next iteration."""
        self._wire.send_data()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Starts the closing handshake, behind what is queued; messages are received until the peer's close frame.

        Args:
            code: 1000, or another that an endpoint may send (RFC 6455 §7.4).
            reason: Cut to the 123 bytes that a close frame holds.
        """
        wire = self._wire
        if wire.protocol.state is State.OPEN:
            wire.protocol.send_close(code, reason.encode()[:123].decode("utf-8", "ignore"))
            wire.send_data()

    def abort(self) -> None:
        """Drops the connection without a handshake. Nothing more is received.

        What is queued is written as far as the socket takes it at once: a leave, for instance.
        """
        self._wire.send_data()
        self._wire.transport.abort()

    def pause_reading(self) -> None:
        """Stops reading; a second call does nothing.

        Messages of the read that is being told have come already, all in one call; nothing is told after that until
        `resume_reading`, also not that the peer closed or is gone.
        """
        self._wire.read(on=False)

    def resume_reading(self) -> None:
        """Reads on."""
        self._wire.read(on=True)

    async def wait_closed(self) -> None:
        """Waits until nothing of the connection is left, its socket included: soon after `abort`, and at most `LINGER`
        seconds after the receiver was told `closed`.
        """
        await self._wire.wait_closed()


async def open_connection(
    url: str,
    *,
    receiver: Receiver,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    max_size: int | None = MAX_SIZE,
    write_limit: int = 2**16,
    compression: Literal["deflate"] | None = None,
    ssl: tls.SSLContext | None = None,
    proxy: str | Literal[True] | None = True,
    factory: Factory | None = None,
    progress: Progress | None = None,
) -> FastConnection:
    """Opens a WebSocket. Cancelling it drops the attempt; there is no timeout of its own.

    Nothing is told to the receiver before the loop iteration that follows the return: what is done without awaiting
    after `await open_connection(…)` comes first.

    Args:
        url: `ws://` or `wss://`, whole.
        receiver: Told what comes.
        subprotocols: To offer, verbatim and in this order, also where they hold characters that RFC 6455 forbids.
        headers: To send besides the handshake's own.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one.
            `None` for no limit.
        write_limit: Bytes in the write buffer from which the receiver is told `blocked`.
        compression: `"deflate"` to offer permessage-deflate (RFC 7692); compressed messages come slower.
        ssl: For `wss://`; by default the system's certificates are trusted and the host's name is verified.
        proxy: A proxy's URL, `None` for none, `True` for what the environment says.
        factory: Makes the TCP connection instead, from the URL's host and port; TLS and the handshake are then done on
            its socket, which belongs to the connection from there on. No proxy is used.
        progress: Told how far it has come.

    Raises:
        HandshakeRefused: The server answered with an HTTP status other than 101; redirects are not followed.
        CertificateError: The server's TLS certificate was not accepted.
        ProxyError: The proxy does not let us through, or cannot be used.
        ConnectError: Anything else that kept the connection from opening.
    """
    progress = progress or Unobserved()
    address = checked_address(url, ssl=ssl, headers=headers, subprotocols=subprotocols)
    options: dict[str, Any] = {"ssl": ssl} if ssl is not None else {}
    if address.secure:
        options["server_hostname"] = tls_name(address.host)
    through = None if factory is not None else proxy_for(address, proxy)
    peer = ""
    if through is not None and through.scheme == "https":  # TLS within TLS is the library's
        options |= {"proxy": url_of(through), "happy_eyeballs_delay": STAGGER}
        progress.waits(f"{named(through)} did not open a way to {place_of(address.host, address.port)}")
    else:
        sock = await (_reached(address, through, progress) if factory is None else _socket_of(factory, address))
        options |= {"proxy": None, "sock": sock}
        if through is None:
            with contextlib.suppress(OSError):
                peer = address_of(sock.getpeername())
        if address.secure:
            progress.waits(missing_answer(address.host, address.port, peer, tls=True))
    wires: list[_Wire] = []

    def attempt(protocol: ClientProtocol, **given: Any) -> _Wire:
        missing = missing_answer(address.host, address.port, peer, tls=False)
        began = partial(progress.waits, missing)
        wire = _Wire(
            protocol,
            receiver=receiver,
            offered=subprotocols,
            max_size=max_size,
            answer=Answer(place_of(address.host, address.port), secure=address.secure),
            on_begin=began,
            on_refusing=progress.refusing,
            **given,
        )
        wires.append(wire)
        return wire

    try:
        await _Connect(
            url,
            create_connection=cast("type[ClientConnection]", attempt),
            additional_headers=headers,
            compression=compression,
            max_size=max_size,
            write_limit=write_limit,
            max_queue=None,
            open_timeout=None,
            close_timeout=None,
            ping_interval=None,
            ping_timeout=None,
            logger=silent,
            **options,
        )
    except OSError as error:
        if wires and wires[-1].error is not None:
            raise wires[-1].error from None
        if through is not None and through.scheme == "https" and not wires:
            raise network_error(error, through.host, through.port, proxy="the proxy ") from error
        raise network_error(error, address.host, address.port, secure=address.secure) from error
    except (WebSocketException, ValueError) as error:  # their texts may show a token that the server echoed
        if wires and wires[-1].error is not None:
            raise wires[-1].error from None
        if through is not None and not wires:
            raise https_proxy_error(error, through, address) from None
        raise handshake_error(error, address) from None
    wire = wires[-1]
    wire.loop.call_soon(wire.begin)
    return FastConnection(wire)


# ---- reaching the server --------------------------------------------------------------------------------------------


async def _reached(address: WebSocketURI, proxy: Proxy | None, progress: Progress) -> socket.socket:
    """A TCP connection to the server, through the proxy if there is one."""
    if proxy is None:
        return await _dialed(address.host, address.port, progress)
    if is_socks(proxy):
        progress.waits(f"{named(proxy)} did not connect to {place_of(address.host, address.port)}")
        way = socks(proxy, "python_socks.async_.asyncio")
        try:
            sock: socket.socket = await way.connect(address.host, address.port)
        except Exception as error:
            raise socks_error(error, proxy, address) from None
        return sock
    tunnel = Tunnel(proxy, address)
    loop = asyncio.get_running_loop()
    sock = await _dialed(proxy.host, proxy.port, progress, proxy="the proxy ")
    try:
        progress.waits(tunnel.missing)
        await loop.sock_sendall(sock, tunnel.request)
        while not tunnel.receive(await loop.sock_recv(sock, 4096)):
            pass
    except OSError as error:
        sock.close()
        raise network_error(error, proxy.host, proxy.port, proxy="the proxy ") from error
    except BaseException:
        sock.close()
        raise
    return sock


async def _dialed(host: str, port: int, progress: Progress, *, proxy: str = "") -> socket.socket:
    """A TCP connection to the first address that answers."""
    loop = asyncio.get_running_loop()
    trying: dict[asyncio.Future[None], socket.socket] = {}
    progress.waits(missing_name(host, proxy=proxy))
    try:
        infos = await _looked_up(host, port)
        progress.waits(missing_tcp(host, port, infos, proxy=proxy))
        race = Race(infos, loop.time())
        while True:
            while (info := race.due(loop.time())) is not None:
                try:
                    sock = socket.socket(info[0], info[1], info[2])
                except OSError as error:  # a family that this machine does not have
                    race.failed(error, loop.time())
                    continue
                sock.setblocking(False)
                # Not `create_task`: a task factory of the application's is for tasks of the application.
                trying[asyncio.Task(loop.sock_connect(sock, info[4]), loop=loop)] = sock
            if (lost := race.lost) is not None:
                raise lost
            patience = race.patience(loop.time())
            done, _ = await asyncio.wait(
                trying, timeout=None if patience == inf else patience, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:  # where two have won at once, the other one is closed below
                sock = trying.pop(task)
                failure = task.exception()
                if failure is None:
                    return sock
                sock.close()
                if not isinstance(failure, OSError):
                    raise failure
                race.failed(failure, loop.time())
    except OSError as error:
        raise network_error(error, host, port, proxy=proxy) from error
    except UnicodeError:  # Python's own, of what cannot be looked up
        raise ConnectError(f"no address was found for {proxy}host {host}: it is no valid name") from None
    finally:
        for task, sock in trying.items():
            task.cancel()
            task.add_done_callback(partial(_close, sock))


async def _looked_up(host: str, port: int) -> list[Info]:
    if is_numeric(host):  # needs no thread
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _close(sock: socket.socket, _: object) -> None:
    sock.close()


# ---- the library's connection, bent ---------------------------------------------------------------------------------


class _Connect(connect):
    def process_redirect(self, exc: Exception) -> Exception | str:
        """Does not follow: another place would get the token."""
        return exc


class _Wire(ClientConnection):
    """The library's connection as far as the handshake; after it, reads and writes of our own."""

    def __init__(
        self,
        protocol: ClientProtocol,
        *,
        receiver: Receiver,
        offered: Sequence[str],
        max_size: int | None,
        answer: Answer,
        on_begin: Callable[[], None],
        on_refusing: Callable[[HandshakeRefused], None],
        **options: Any,
    ) -> None:
        super().__init__(protocol, **options)
        protocol.uri = replace(protocol.uri, host=protocol.uri.host.partition("%")[0])  # a zone means nothing there
        offer(protocol, offered)
        self._receiver = receiver
        self._assembler = Assembler(protocol)
        self._cutter = Cutter(self._assembler.parse, max_size=max_size)
        self._early: list[Received] | None = []  # what came before `begin`; None from then on
        self._ending: tuple[int | None, str] | None = None  # once over: what the receiver is told
        self._flushing = False  # a flush is due in the next iteration
        self._linger: asyncio.TimerHandle | None = None
        self._wanted = True  # whether the client wants to read
        self._blocked = False  # the write buffer is full
        self._answered = 0  # bytes of answers to pings, up to when that was not so
        self._on_begin = on_begin
        self._response = ResponseReader(super().data_received, answer, on_refusing)

    @property
    def error(self) -> ConnectError | None:
        """What the handshake failed with, unless the library knows better."""
        return self._response.error

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._on_begin()

    def begin(self) -> None:
        """Starts telling the receiver, with what came meanwhile."""
        early, self._early = self._early, None
        if early:
            self._receiver.frames(early)
        if self._ending is not None:
            self._receiver.closed(*self._ending)

    def flush_soon(self) -> None:
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush_due)

    def _flush_due(self) -> None:
        self._flushing = False
        self.send_data()

    def send_data(self) -> None:
        """Writes everything the protocol has to send at once; the library's writes frame by frame."""
        writes = self.protocol.data_to_send()
        if not writes or self.transport.is_closing():
            return
        if data := b"".join(writes):
            self.transport.write(data)
        if writes[-1]:
            return
        # The protocol's mark for the end of our side.
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self.transport.write_eof()
        else:
            self.transport.close()

    def read(self, *, on: bool) -> None:
        """Reads on, or not, as far as the client is concerned."""
        self._wanted = on
        self._read_or_not()

    def _read_or_not(self) -> None:
        """A peer who reads none of our answers to his pings is not read either: they would queue without bound.

        Only these count, not all that is to be written: a server that waits for us to read reads nothing meanwhile.
        """
        if self._wanted and not (self._blocked and self._assembler.answered - self._answered > ANSWERS):
            self.transport.resume_reading()
        else:
            self.transport.pause_reading()

    def data_received(self, data: bytes) -> None:
        if self.protocol.state is State.CONNECTING:
            data = self._response.receive(data)
            if not data:
                return
        messages = self._cutter.cut(data)
        if self._early is not None:
            self._early += messages
        elif messages:
            self._receiver.frames(messages)
        elif self._cutter.unfinished:
            self._receiver.progress()
        self.send_data()
        if not self._blocked:
            self._answered = self._assembler.answered
        elif self._answered != self._assembler.answered:
            self._read_or_not()
        if self._cutter.ended and self._ending is None:
            self._linger = self.loop.call_later(LINGER, self.transport.abort)
            received = self.protocol.close_rcvd
            if received is None:
                self._end(None, self._assembler.problem)
            else:
                self._end(int(received.code), received.reason)

    def eof_received(self) -> None:
        self._response.receive(b"")
        super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._response.receive(b"")
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None  # it holds the transport
        ended_by_peer = self.protocol.reader.eof  # undocumented: docs/dependencies.md
        super().connection_lost(exc)
        self._cutter.drop()
        self._assembler.drop()
        if self._ending is not None:
            return
        if exc is not None:
            self._end(None, f"the connection broke: {exc}")
        elif ended_by_peer:
            self._end(None, "the server ended the connection without a close frame")
        else:
            self._end(None, "the connection was dropped from this side")

    def _end(self, code: int | None, reason: str) -> None:
        self._ending = (code, reason)
        if self._early is None:
            self._receiver.closed(code, reason)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._blocked = True
        if self._ending is None:
            self._receiver.blocked()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._blocked = False
        self._read_or_not()
        if self._ending is None:
            self._receiver.writable()


async def _socket_of(factory: Factory, address: WebSocketURI) -> socket.socket:
    try:
        sock = await factory(address.host, address.port)
    except Exception as error:
        raise ConnectError(f"the connection factory failed: {error!r}") from error
    return checked_socket(sock)
