"""The sockets of one client: connects the streams that the machine wants, with TLS, and carries their bytes.

Sockets do not block, and only `Transport.wait` waits; but a look-up of a host's name blocks the client. Time belongs to
the core, with one exception: once a stream is finished, the peer has `LINGER` seconds to end the connection before it
is dropped, so that our close frame is not lost in a reset.
"""

import contextlib
import socket
import ssl as tls
from math import inf
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, DefaultSelector, SelectorKey
from time import monotonic
from typing import Final, TypeAlias

from phx_proto.errors import ConnectError
from phx_proto.link import Link

from ..websocket.connection import LINGER, WRITE_LIMIT
from ..websocket.cutter import ANSWERS
from ..websocket.dialing import Dialing, made_by
from ..websocket.errors import network_error, told
from ..websocket.options import Factory
from ..websocket.reaching import address_of, missing_answer, missing_tcp
from ..websocket.tls import Tls
from .machine import Machine, Stream, StreamState

#: The result of a wait: the ready sockets, and whether each can be read or written.
Ready: TypeAlias = list[tuple[SelectorKey, int]]

_READ: Final = 2**17  # bytes a read takes at most
_LONGEST: Final = 3600.0  # seconds; what selectors can wait for has limits


class Transport:
    """The connections of one client: the wanted ones, and earlier ones that are not over yet."""

    def __init__(self, machine: Machine, *, ssl: tls.SSLContext | None, factory: Factory | None) -> None:
        self._machine = machine
        self._ssl = ssl
        self._factory = factory
        self._lines: dict[Stream, Line] = {}
        self._selector = DefaultSelector()
        self._wakeup_writer, self._wakeup_reader = socket.socketpair()
        self._wakeup_writer.setblocking(False)
        self._selector.register(self._wakeup_reader, EVENT_READ)

    @property
    def wakeup_fd(self) -> int:
        """A file descriptor; a byte written to it ends a wait."""
        return self._wakeup_writer.fileno()

    def full(self, link: Link | None) -> bool:
        """Whether so much waits to be written there that senders must wait."""
        waiting = (line.stream.link is link and line.waiting >= WRITE_LIMIT for line in self._lines.values())
        return link in self._machine.held or any(waiting)

    @property
    def idle(self) -> bool:
        """Whether no connection is left."""
        return not self._lines

    def pump(self) -> None:
        """Open the wanted streams, write what is queued, and release those that are over."""
        for stream in self._machine.streams():
            self._lines[stream] = line = Line(stream, self._selector)
            line.open(self._ssl, self._factory)
        for line in tuple(self._lines.values()):
            line.flush()
            if line.over:
                del self._lines[line.stream]

    def wait(self, seconds: float) -> Ready:
        """Wait for bytes, for room to write or for a wakeup, at most so long; pass the result to `see`."""
        now = monotonic()
        seconds = min(seconds, _LONGEST, *(line.patience(now) for line in self._lines.values()))
        return self._selector.select(max(seconds, 0.0))

    def see(self, came: Ready) -> None:
        """Read and write what is ready."""
        for key, ready in came:
            if key.data is None:
                self._wakeup_reader.recv(4096)
            else:
                key.data.ready(key.fileobj, ready)

    def close(self) -> None:
        """Close the selector and the wakeup pair, once there is no connection."""
        self._selector.close()
        self._wakeup_writer.close()
        self._wakeup_reader.close()


class Line:
    """One stream's TCP connection.

    Attributes:
        stream: Its stream.
        ends_at: When it is dropped, once its stream is finished; `math.inf` before.
    """

    def __init__(self, stream: Stream, selector: BaseSelector) -> None:
        self.stream = stream
        self.ends_at = inf
        self._selector = selector
        self._dialing: Dialing | None = None  # until one of the host's addresses has answered
        self._sock: socket.socket | None = None
        self._ssl: tls.SSLContext | None = None
        self._tls: Tls | None = None
        self._out = bytearray()
        self._answered = 0  # bytes of pongs, up to the last time there was room to write
        self._answer_missing = ""  # the error's text if the handshake is not answered

    @property
    def over(self) -> bool:
        """Whether its socket is closed."""
        return self._sock is None and self._dialing is None

    def patience(self, now: float) -> float:
        """Seconds until it must act by itself; `math.inf` for never."""
        return self.ends_at - now if self._dialing is None else self._dialing.race.patience(now)

    @property
    def waiting(self) -> int:
        """Bytes that wait for the socket."""
        return len(self._out)

    def open(self, ssl: tls.SSLContext | None, factory: Factory | None) -> None:
        """Connect, as far as that is possible without waiting."""
        stream = self.stream
        if stream.server_hostname is not None:
            self._ssl = ssl or tls.create_default_context()
        try:
            if stream.server_hostname is None and ssl is not None:
                raise ConnectError("an SSL context was given for a ws:// URL: use wss://")
            if factory is not None:
                self._sock = made_by(factory, stream.host, stream.port)
                self._sock.setblocking(False)
                self._begin(self._sock)
                return
            with told(stream.host, stream.port):
                infos = socket.getaddrinfo(stream.host, stream.port, type=socket.SOCK_STREAM)
        except ConnectError as error:
            self._fail(error)
        else:
            stream.waits(missing_tcp(stream.host, stream.port, infos))
            self._dialing = Dialing(infos, monotonic())
            self._dial(self._dialing)

    def ready(self, sock: socket.socket, ready: int) -> None:
        """A socket can be read or written."""
        if self._dialing is not None:
            self._tried(self._dialing, sock)
        elif sock is self._sock:
            self._read(ready)

    def flush(self) -> None:
        """Write what is queued, and check whether it is over."""
        stream, sock = self.stream, self._sock
        if self.over:
            return
        data, state = stream.data_to_send(), stream.state
        if state is StreamState.DROPPED:
            self.close()
            return
        if self._dialing is not None:
            self._dial(self._dialing)
            return
        assert sock is not None
        self._out += data if self._tls is None else self._tls.send(data)
        self._write(sock)
        if state is StreamState.FINISHED:
            self._finish(sock)
        if self._sock is not None:
            if len(self._out) < WRITE_LIMIT:
                self._answered = stream.answered
            # A peer that does not read our pongs is not read either: they would queue without bound.
            reading = (stream.reading and stream.answered - self._answered <= ANSWERS) or state is StreamState.FINISHED
            self._look_for((EVENT_READ if reading else 0) | (EVENT_WRITE if self._out else 0))

    def close(self) -> None:
        """Drop the connection."""
        self._stop_dialing()
        if self._sock is not None:
            self._look_for(0)
            self._sock.close()
            self._sock = None

    # ---- connecting -------------------------------------------------------------------------------------------------

    def _dial(self, dialing: Dialing) -> None:
        """Begin to connect to the addresses that are due; if all fail, the last one's error is reported."""
        for sock in dialing.begin(monotonic()):
            self._selector.register(sock, EVENT_WRITE, self)
        if dialing.race.lost is not None:
            self._fail(self._network_error(dialing.race.lost))

    def _tried(self, dialing: Dialing, sock: socket.socket) -> None:
        self._selector.unregister(sock)
        if dialing.connected(sock, monotonic()):
            self._stop_dialing()
            self._sock = sock
            self._begin(sock)
        else:
            self._dial(dialing)

    def _stop_dialing(self) -> None:
        dialing, self._dialing = self._dialing, None
        if dialing is not None:
            for sock in dialing.sockets:
                self._selector.unregister(sock)
            dialing.close()

    def _begin(self, sock: socket.socket) -> None:
        """The socket is connected."""
        with contextlib.suppress(OSError):  # not a TCP socket
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = self.stream
        address = ""
        with contextlib.suppress(OSError):
            address = address_of(sock.getpeername())
        stream.waits(missing_answer(stream.host, stream.port, address, tls=self._ssl is not None))
        self._answer_missing = missing_answer(stream.host, stream.port, address, tls=False)
        if self._ssl is None:
            stream.connected(monotonic())
        else:
            self._tls = Tls(self._ssl, stream.server_hostname)

    # ---- reading, writing -------------------------------------------------------------------------------------------

    def _read(self, ready: int) -> None:
        if self._sock is None or not ready & EVENT_READ:
            return  # `flush` writes
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            if not self.stream.open:  # what was received earlier may be an answer
                self.stream.receive_eof(monotonic())
            self._fail(ConnectError(f"the connection broke: {error}"))
            return
        if self.ends_at != inf:
            if not data:
                self.close()
            return
        now = monotonic()
        ended = not data
        if self._tls is not None and data:
            try:
                data, ended = self._decrypt(self._tls, data, now)
            except tls.SSLError as error:
                self._out += self._tls.send()  # a TLS alert, which tells the server what is wrong
                self._write(self._sock)
                self._fail(self._network_error(error))
                return
        if data:
            self.stream.receive_data(data, now)
        if ended:
            self.stream.receive_eof(now)

    def _decrypt(self, secured: "Tls", data: bytes, now: float) -> tuple[bytes, bool]:
        fresh = not secured.open
        data = secured.receive(data)
        if fresh and secured.open:
            self.stream.waits(self._answer_missing)
            self.stream.connected(now)
        return data, secured.ended

    def _write(self, sock: socket.socket) -> None:
        if not self._out:
            return
        try:
            sent = sock.send(self._out)
        except BlockingIOError:
            return
        except OSError:  # the next read reports it
            self._out.clear()
        else:
            del self._out[:sent]

    def _finish(self, sock: socket.socket) -> None:
        """The stream is finished: end our side when all is written, and give the peer a moment to end its own."""
        now = monotonic()
        if self.ends_at == inf:
            self.ends_at = now + LINGER
        if not self._out:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
        if now >= self.ends_at:
            self.close()

    # ---- small things -----------------------------------------------------------------------------------------------

    def _look_for(self, events: int) -> None:
        """Set the events that the selector waits for."""
        assert self._sock is not None
        key = self._selector.get_map().get(self._sock)
        if key is None:
            if events:
                self._selector.register(self._sock, events, self)
        elif not events:
            self._selector.unregister(self._sock)
        elif events != key.events:
            self._selector.modify(self._sock, events, self)

    def _fail(self, error: ConnectError) -> None:
        self.stream.failed(error, monotonic())
        self.close()

    def _network_error(self, error: OSError) -> ConnectError:
        stream = self.stream
        return network_error(error, stream.host, stream.port, secure=stream.server_hostname is not None)
