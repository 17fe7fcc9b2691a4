"""A WebSocket for the client: a socket of its own, one call to the core for each read, writes by whoever comes by.

`websockets`' Sans-I/O protocol makes the outgoing frames and keeps RFC 6455; reads go through the `Cutter`. Nothing
here decides about Phoenix, and time is the core's: an opening is bounded by `Attempt.cancel`, a closing handshake by
`abort`. The one exception is the TCP connection of a WebSocket that is over and was told so: the peer gets `LINGER` to
end it, so that our close frame is not lost in a reset, and then it is dropped.

Who may do what, for many threads meet here: the protocol is used under the client's lock. One thread reads, and closes
the socket. Any thread writes, outside the lock, one at a time: who finds another at it leaves his bytes to him. No
write waits: what the socket does not take at once is written by the reading thread, as soon as there is room. The main
thread leaves all writing to the reading thread: an interrupt, which is raised in the main thread alone, could come
between a write and the note of how much was written.
"""

import contextlib
import selectors
import socket
import ssl as tls
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from time import monotonic
from typing import Final, Literal, TypeAlias, cast

from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.extensions.permessage_deflate import enable_client_permessage_deflate
from websockets.http11 import USER_AGENT
from websockets.protocol import State
from websockets.proxy import Proxy
from websockets.uri import WebSocketURI

from phx_proto.errors import ConnectError, ProxyError

from ..websocket.answer import Answer
from ..websocket.cutter import ANSWERS, MAX_SIZE, Assembler, Cutter, Received
from ..websocket.dialing import Dialing
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
from ..websocket.proxies import SOCKS_TIMEOUT, Tunnel, is_socks, named, proxy_for, socks, socks_error
from ..websocket.reaching import address_of, missing_answer, missing_name, missing_tcp, place_of, tls_name

#: Seconds that the peer has to end the TCP connection once the WebSocket is over.
LINGER: Final = 1.0

#: Gives a connected stream socket to a host and port, e.g. through a tunnel or to a Unix socket.
Factory: TypeAlias = Callable[[str, int], socket.socket]

_NO_CLOSE_FRAME: Final = "the server ended the connection without a close frame"

_READ: Final = 2**17  # bytes a read takes at most
_WRITE_LIMIT: Final = 2**16  # bytes that may wait for the socket until senders have to wait

#: TLS may want to read in order to write, and the reverse; either way it is tried again when the socket is ready.
_NOT_NOW: Final = (BlockingIOError, tls.SSLWantReadError, tls.SSLWantWriteError)


class Connection:
    """An open WebSocket.

    No method waits, and none fails because the connection is over: what is sent then goes nowhere.

    Attributes:
        ending: Once it is over: the code of the peer's close frame (1005 if that was empty, `None` if none came) and
            its reason, or what happened in words.
        paused: Whether it is not to be read.
        stuck: Whether the socket takes no more; the reading thread is to call `writable` when it does.
        aborted: Whether the socket is to be closed now.
        on_work: Called when there is something for the reading thread to write.
        on_room: Called when something was written.
    """

    def __init__(
        self, sock: socket.socket, protocol: ClientProtocol, rest: bytes, *, lock: threading.Lock, max_size: int | None
    ) -> None:
        """Starts after the handshake.

        Args:
            sock: Connected.
            protocol: Open.
            rest: What followed the response to the handshake.
            lock: The client's.
            max_size: The largest message to receive; the protocol's must be the same.
        """
        self.ending: tuple[int | None, str] | None = None
        self.paused = False
        self.stuck = False
        self.aborted = False
        self.on_work: Callable[[], None] = _nothing
        self.on_room: Callable[[], None] = _nothing
        self._sock = sock
        self._protocol = protocol
        self._lock = lock
        self._rest = rest
        self._over = False  # whether the end came with the last read
        self._assembler = Assembler(protocol)
        self._cutter = Cutter(self._parse, max_size=max_size)
        self._answered = 0  # bytes of answers to pings, up to when there was room to write
        self._outbox: deque[bytes] = deque()
        self._unwritten: bytes | memoryview = b""  # what the socket did not take, before the outbox
        self._queued = 0  # bytes, over its life; changed under the lock
        self._written = 0  # bytes, over its life; changed by who writes
        self._writing = threading.Lock()
        # OpenSSL's objects are for one thread at a time, and Python did not always see to that.
        self._tls = threading.Lock() if isinstance(sock, tls.SSLSocket) else None
        sock.setblocking(False)
        protocol.events_received()  # the response

    def fileno(self) -> int:
        """For selectors."""
        return self._sock.fileno()

    @property
    def subprotocol(self) -> str | None:
        """What the server chose of the subprotocols offered."""
        return self._protocol.subprotocol

    @property
    def unfinished(self) -> bool:
        """Whether a message has begun whose end has not come."""
        return self._cutter.unfinished

    @property
    def has_early(self) -> bool:
        """Whether messages may have come with the handshake: the first `receive` does not need the socket."""
        return bool(self._rest)

    # ---- under the client's lock ------------------------------------------------------------------------------------

    def send_text(self, data: str) -> None:
        """Queues one text message; `flush` writes it."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_text(data.encode())
            self._queue()

    def send_binary(self, data: bytes) -> None:
        """Queues one binary message, like `send_text`."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_binary(data)
            self._queue()

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Starts the closing handshake, behind what is queued; messages are received until the peer's close frame."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason.encode()[:123].decode("utf-8", "ignore"))
            self._queue()

    def _queue(self) -> None:
        # The protocol's mark for the end of our side is empty: the socket is closed when the peer has ended his.
        if not self.aborted and (data := b"".join(self._protocol.data_to_send())):
            self._queued += len(data)
            self._outbox.append(data)

    # ---- by any thread, outside the lock ----------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether so much waits to be written that senders should wait too."""
        return self._queued - self._written >= _WRITE_LIMIT and not self.aborted

    @property
    def readable(self) -> bool:
        """Whether it is to be read.

        A peer who reads none of our answers to his pings is not read either: they would queue without bound. Only these
        count, not all that is to be written: a server that waits for us to read reads nothing meanwhile.
        """
        return not self.paused and not (self.full and self._assembler.answered - self._answered > ANSWERS)

    def flush(self) -> None:
        """Writes what is queued, as far as the socket takes it."""
        while (self._outbox or self._unwritten) and not (self.stuck or self.aborted):
            if threading.current_thread() is threading.main_thread():
                self.on_work()
                return
            if not self._writing.acquire(blocking=False):
                return  # who writes looks again when he has let go
            try:
                self._write()
            finally:
                self._writing.release()
            self.on_room()
            if self._answered != self._assembler.answered:
                self.on_work()  # it may be readable again

    def abort(self) -> None:
        """Drops the connection without a handshake, and what is queued with it. Nothing more is received."""
        self.aborted = True
        self._outbox.clear()

    def _write(self) -> None:
        while data := self._unwritten or self._next():
            try:
                sent = self._send(data)
            except _NOT_NOW:
                self._unwritten = data
                self.stuck = True
                self.on_work()
                return
            except OSError:  # what happened is told by the next read
                self._unwritten = b""
                self._outbox.clear()
                self._written = self._queued
                return
            self._written += sent
            self._unwritten = memoryview(data)[sent:] if sent < len(data) else b""

    def _next(self) -> bytes:
        parts: list[bytes] = []
        with contextlib.suppress(IndexError):
            while True:
                parts.append(self._outbox.popleft())
        return b"".join(parts)

    def _send(self, data: bytes | memoryview) -> int:
        if self._tls is None:
            return self._sock.send(data)
        with self._tls:
            return self._sock.send(data)

    # ---- by the reading thread --------------------------------------------------------------------------------------

    def receive(self) -> list[Received]:
        """One read: the messages completed by it, in the order of the wire. Sets `ending` when it was the last."""
        data, self._rest = self._rest, b""
        if not data:
            try:
                data = self._read()
            except _NOT_NOW:
                return []
            except OSError as error:
                self._end(None, f"the connection broke: {error}")
                self.abort()
                return []
        if not data:
            self._end(None, _NO_CLOSE_FRAME)
            self.abort()
            return []
        messages = self._cutter.cut(data)
        if not self.full:
            self._answered = self._assembler.answered
        if self._cutter.ended and self.ending is None:
            received = self._protocol.close_rcvd
            if received is None:
                self._end(None, self._assembler.problem)
            else:
                self._end(int(received.code), received.reason)
        if self._over:
            self._end(None, _NO_CLOSE_FRAME)
            self.abort()
        return messages

    def writable(self) -> None:
        """The socket takes more."""
        self.stuck = False
        self.flush()

    def destroy(self) -> None:
        """Closes the socket; it must not be waited for any more."""
        self.abort()
        self._end(None, "the connection was dropped from this side")
        with self._writing:  # or a late write might meet another file under the same number
            self._sock.close()
        self._cutter.drop()
        self._assembler.drop()
        self.on_room()

    def _read(self) -> bytes:
        if self._tls is None:
            return self._sock.recv(_READ)
        parts: list[bytes] = []
        size = 0
        with self._tls:
            # A TLS record is 16 KiB at most, and one that was begun to be read is not seen by a selector.
            while size < _READ:
                try:
                    part = self._sock.recv(_READ)
                except _NOT_NOW:
                    if not parts:
                        raise
                    break
                if not part:
                    self._over = bool(parts)
                    break
                parts.append(part)
                size += len(part)
        return b"".join(parts)

    def _parse(self, data: bytes, messages: list[Received]) -> bool:
        with self._lock:
            ended = self._assembler.parse(data, messages)
            self._queue()
        return ended

    def _end(self, code: int | None, reason: str) -> None:
        if self.ending is None:
            self.ending = (code, reason)


def _nothing() -> None:
    """Nobody listens."""


# ---- opening --------------------------------------------------------------------------------------------------------


class Attempt:
    """An attempt to connect, which another thread may give up.

    Args:
        progress: Told how far it has come.
    """

    def __init__(self, progress: Progress | None = None) -> None:
        self.progress = progress or Unobserved()
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._given_up = False

    def cancel(self) -> None:
        """Ends whatever the attempt waits for on its socket."""
        with self._lock:
            self._given_up = True
            if self._sock is not None:
                with contextlib.suppress(OSError):
                    # The base class's: that of TLS would take the socket's TLS from under who uses it.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def hold(self, sock: socket.socket) -> None:
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

    def drop(self) -> None:
        """It failed."""
        with self._lock:
            if self._sock is not None:
                self._sock.close()


def open_connection(
    url: str,
    *,
    lock: threading.Lock,
    attempt: Attempt,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    max_size: int | None = MAX_SIZE,
    compression: Literal["deflate"] | None = None,
    ssl: tls.SSLContext | None = None,
    proxy: str | Literal[True] | None = True,
    factory: Factory | None = None,
) -> Connection:
    """Opens a WebSocket, and waits for that. There is no timeout: cancelling the attempt ends the wait.

    Args:
        url: `ws://` or `wss://`, whole.
        lock: The client's.
        attempt: To give it up by.
        subprotocols: To offer, verbatim and in this order, also where they hold characters that RFC 6455 forbids.
        headers: To send besides the handshake's own.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one.
            `None` for no limit.
        compression: `"deflate"` to offer permessage-deflate (RFC 7692); compressed messages come slower.
        ssl: For `wss://`; by default the system's certificates are trusted and the host's name is verified.
        proxy: A proxy's URL (HTTP or SOCKS), `None` for none, `True` for what the environment says.
        factory: Makes the TCP connection instead, from the URL's host and port; TLS and the handshake are then done on
            its socket, which belongs to the connection from there on. No proxy is used.

    Raises:
        HandshakeRefused: The server answered with an HTTP status other than 101; redirects are not followed.
        CertificateError: The server's TLS certificate was not accepted.
        ProxyError: The proxy does not let us through, or cannot be used.
        ConnectError: Anything else that kept the connection from opening.
    """
    address = checked_address(url, ssl=ssl, headers=headers, subprotocols=subprotocols)
    extensions = enable_client_permessage_deflate(None) if compression else None
    unzoned = replace(address, host=address.host.partition("%")[0])  # an IPv6 zone means nothing to the server
    protocol = ClientProtocol(unzoned, extensions=extensions, max_size=max_size, logger=silent)
    offer(protocol, subprotocols)
    try:
        sock = _connected(address, attempt, proxy, factory)
        sock.setblocking(True)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = "" if factory is None and proxy_for(address, proxy) is not None else address_of(sock.getpeername())
        if address.secure:
            # Where it was reset already, `getpeername` fails; `wrap_socket` would leave the socket in nobody's hands.
            attempt.progress.waits(missing_answer(address.host, address.port, peer, tls=True))
            context = tls.create_default_context() if ssl is None else ssl
            name = tls_name(address.host)
            encrypted = context.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
            attempt.hold(encrypted)
            encrypted.do_handshake()
            sock = encrypted
        attempt.progress.waits(missing_answer(address.host, address.port, peer, tls=False))
        answer = Answer(place_of(address.host, address.port), secure=address.secure)
        rest = _shake_hands(sock, protocol, headers, answer, attempt.progress)
    except OSError as error:
        attempt.drop()
        raise network_error(error, address.host, address.port, secure=address.secure) from error
    except (WebSocketException, ValueError) as error:
        attempt.drop()
        raise handshake_error(error, address) from None  # their texts may show a token that the server echoed
    except BaseException:
        attempt.drop()
        raise
    return Connection(sock, protocol, rest, lock=lock, max_size=max_size)


def _connected(
    address: WebSocketURI, attempt: Attempt, proxy: str | Literal[True] | None, factory: Factory | None
) -> socket.socket:
    """A TCP connection to the server, through the proxy if there is one."""
    if factory is not None:
        try:
            sock = factory(address.host, address.port)
        except Exception as error:
            raise ConnectError(f"the connection factory failed: {error!r}") from error
        attempt.hold(checked_socket(sock))
        return sock
    through = proxy_for(address, proxy)
    if through is None:
        return _dialed(address.host, address.port, attempt)
    if is_socks(through):
        return _through_socks(through, address, attempt)
    if through.scheme == "https":
        raise ProxyError("the proxy's URL begins with https://, which is not supported here: use http:// or SOCKS")
    return _through_http(through, address, attempt)


def _through_http(proxy: Proxy, address: WebSocketURI, attempt: Attempt) -> socket.socket:
    tunnel = Tunnel(proxy, address)
    sock = _dialed(proxy.host, proxy.port, attempt, proxy="the proxy ")
    attempt.progress.waits(tunnel.missing)
    try:
        sock.setblocking(True)
        sock.sendall(tunnel.request)
        while not tunnel.receive(sock.recv(4096)):
            pass
    except OSError as error:
        raise network_error(error, proxy.host, proxy.port, proxy="the proxy ") from error
    return sock


def _through_socks(proxy: Proxy, address: WebSocketURI, attempt: Attempt) -> socket.socket:
    attempt.progress.waits(f"{named(proxy)} did not connect to {place_of(address.host, address.port)}")
    way = socks(proxy, "python_socks.sync")
    try:
        sock: socket.socket = way.connect(address.host, address.port, timeout=SOCKS_TIMEOUT)
    except Exception as error:
        raise socks_error(error, proxy, address) from None
    attempt.hold(sock)
    return sock


def _dialed(host: str, port: int, attempt: Attempt, *, proxy: str = "") -> socket.socket:
    """A TCP connection to the first address that answers; not blocking."""
    wakeup_writer, wakeup_reader = socket.socketpair()
    dialing: Dialing | None = None
    try:
        attempt.hold(wakeup_reader)  # giving the attempt up makes it readable
        attempt.progress.waits(missing_name(host, proxy=proxy))
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        attempt.progress.waits(missing_tcp(host, port, infos, proxy=proxy))
        dialing = Dialing(infos, monotonic())
        with selectors.DefaultSelector() as selector:
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
                        attempt.hold(key.data)
                        return cast("socket.socket", key.data)
    except OSError as error:
        raise network_error(error, host, port, proxy=proxy) from error
    except UnicodeError:  # Python's own, of what cannot be looked up
        raise ConnectError(f"no address was found for {proxy}host {host}: it is no valid name") from None
    finally:
        wakeup_writer.close()
        if dialing is not None:
            dialing.close()


def _shake_hands(
    sock: socket.socket,
    protocol: ClientProtocol,
    headers: Sequence[tuple[str, str]],
    answer: Answer,
    progress: Progress,
) -> bytes:
    """The opening handshake; gives what followed the answer."""
    request = protocol.connect()
    request.headers.update(headers)
    request.headers.setdefault("User-Agent", USER_AGENT)
    protocol.send_request(request)
    with contextlib.suppress(ConnectionError):  # a server may refuse, and end, before it has read all
        sock.sendall(b"".join(protocol.data_to_send()))
    response = ResponseReader(protocol.receive_data, answer, progress.refusing)
    rest = b""
    while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
        try:
            data = sock.recv(2**16)
        except ConnectionError:
            data = b""
        rest = response.receive(data)
    if response.error is not None:
        raise response.error
    if protocol.handshake_exc is not None:
        raise protocol.handshake_exc
    return rest
