"""A WebSocket on threads: a socket, one call to the core for each read, and writes by any thread.

Cancelling an attempt (`Attempt.cancel`) bounds an opening; for other timeouts see `websocket/connection.py`.

Rules for threads: the protocol is used under the client's lock. One thread reads, and closes the socket. Any thread
writes, outside the lock, one at a time: if another thread is writing, it also writes this thread's bytes. No write
waits: the reading thread writes what the socket does not take at once, as soon as there is room. The main thread leaves
all writing to the reading thread: an interrupt, which is raised only in the main thread, could come between a write and
the record of how much was written.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence

from ..websocket.connection import COMPRESSED, DROPPED, NO_CLOSE_FRAME, WRITE_LIMIT, WebSocket
from ..websocket.cutter import Received
from ..websocket.errors import told
from ..websocket.handshake import Handshake
from ..websocket.options import Factory, NetworkOptions
from .dialing import Attempt, Stream, dial


class Connection(WebSocket):
    """An open WebSocket. Its sending methods, and `close`, are called under the client's lock. No method waits.

    Args:
        rest: The bytes after the answer to the handshake.

    Attributes:
        stuck: Whether the socket takes no more; the reading thread calls `writable` when it does.
        aborted: Whether the socket is to be closed now.
        on_queued: Called with it when something was queued, under the client's lock; `flush` is then to be called.
        on_work: Called when the reading thread must check it again: there is something to write, or it is over.
        on_room: Called when something was written.
    """

    def __init__(self, stream: Stream, handshake: Handshake, rest: bytes, *, lock: threading.Lock) -> None:
        super().__init__(handshake)
        self._paused = False
        self.stuck = False
        self.aborted = False
        self.on_queued: Callable[[Connection], None] = _nothing
        self.on_work: Callable[[], None] = _nothing
        self.on_room: Callable[[], None] = _nothing
        self._stream = stream
        self._lock = lock
        self._rest = rest
        self._outbox: deque[bytes] = deque()
        self._unwritten = memoryview(b"")  # taken out of the outbox, and not taken by the socket
        self._queued = 0  # bytes put into the outbox, over its life; changed under the lock
        self._taken = 0  # bytes of them that were taken out; changed by the writing thread
        self._broken = False  # a write has failed
        self._writing = threading.Lock()
        stream.sock.setblocking(False)

    def fileno(self) -> int:
        return self._stream.sock.fileno()

    @property
    def has_early(self) -> bool:
        """Whether messages may have come with the handshake: then the first `receive` does not need the socket."""
        return bool(self._rest)

    # ---- under the client's lock ------------------------------------------------------------------------------------

    def _write_soon(self) -> None:
        # The protocol's mark for the end of our side is empty: the socket is closed when the peer has ended its side.
        if not self.aborted and (data := b"".join(self._protocol.data_to_send())):
            self._queued += len(data)
            self._outbox.append(data)
            self.on_queued(self)

    def pause_reading(self) -> None:
        """Stop reading."""
        self._paused = True

    def resume_reading(self) -> None:
        """Continue reading."""
        self._paused = False
        self.on_work()

    # ---- by any thread, outside the lock ----------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether so much waits to be written that senders must wait.

        Also between a failed write and the end that the next read reports: what is sent then would be lost.
        """
        waiting = self._queued - self._taken + len(self._unwritten)
        return (self._broken or waiting >= WRITE_LIMIT) and not self.aborted

    @property
    def readable(self) -> bool:
        """Whether to read it."""
        return not self._paused and (self._broken or self._may_be_read)

    def flush(self) -> None:
        """Writes what is queued, as far as the socket takes it."""
        while (self._outbox or self._unwritten) and not (self.stuck or self.aborted):
            if threading.current_thread() is threading.main_thread():
                self.on_work()
                return
            if not self._writing.acquire(blocking=False):
                return  # the writing thread checks again after its release
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
        self.on_work()

    def _write(self) -> None:
        while self._unwritten or (self._outbox and self._take()):
            try:
                sent = self._stream.sock.send(self._unwritten)
            except BlockingIOError:
                self.stuck = True
                self.on_work()
                return
            except OSError:  # the next read reports it
                self._broken = True
                self._outbox.clear()
                self._taken = self._queued
                self._unwritten = memoryview(b"")
                return
            self._unwritten = self._unwritten[sent:]

    def _take(self) -> bool:
        """Take all waiting bytes; returns whether there were any."""
        parts: list[bytes] = []
        try:
            while self._outbox:
                parts.append(self._outbox.popleft())
        except IndexError:  # it was aborted in the meantime
            return False
        data = b"".join(parts)
        tls = self._stream.tls
        self._unwritten = memoryview(data if tls is None or not data else tls.send(data))
        self._taken += len(data)
        return bool(data)

    # ---- by the reading thread --------------------------------------------------------------------------------------

    def receive(self) -> list[Received]:
        """One read: the messages completed by it, in the order of the wire. Sets `ending` when it was the last."""
        data: bytes | None
        data, self._rest = self._rest, b""
        if not data:
            try:
                data = self._stream.receive(COMPRESSED) if self._protocol.extensions else self._stream.receive()
            except BlockingIOError:
                return []
            except OSError as error:
                self._lost(f"the connection broke: {error}")
                self.abort()
                return []
            if data is None:
                return []
        messages = self._cut(data) if data else []
        if not data or (self._stream.tls is not None and self._stream.tls.ended):
            self._lost(NO_CLOSE_FRAME)
            self.abort()
        return messages

    def writable(self) -> None:
        """The socket takes more."""
        self.stuck = False
        self.flush()

    def destroy(self) -> None:
        """Closes the socket; no thread may wait for it any more."""
        self.abort()
        self._lost(DROPPED)
        with self._writing:  # else a late write might use another file with the same number
            self._stream.sock.close()
        self._forget()
        self.on_room()

    def _parse(self, data: bytes, messages: list[Received]) -> bool:
        with self._lock:
            ended = super()._parse(data, messages)
            self._write_soon()
        return ended


def _nothing(*args: object) -> None:
    """A callback that does nothing."""


def open_connection(
    url: str,
    *,
    subprotocols: Sequence[str] = (),
    headers: Sequence[tuple[str, str]] = (),
    network: NetworkOptions[Factory],
    lock: threading.Lock,
    attempt: Attempt,
) -> Connection:
    """Opens a WebSocket, and waits for it. There is no timeout: cancelling the attempt ends the wait.

    Raises:
        ConnectError: What `Handshake` and `dial` raise.
    """
    handshake = Handshake(url, subprotocols=subprotocols, headers=headers, network=network)
    address = handshake.address
    try:
        stream = dial(address, network, attempt)
        with told(address.host, address.port, secure=address.secure):
            rest = _shake_hands(stream, handshake, attempt)
    except BaseException:
        attempt.drop()
        raise
    return Connection(stream, handshake, rest, lock=lock)


def _shake_hands(stream: Stream, handshake: Handshake, attempt: Attempt) -> bytes:
    """The opening handshake; returns the bytes after the answer."""
    with contextlib.suppress(ConnectionError):  # a server may refuse, and end, before it has read all
        stream.send_all(handshake.request())
    while True:
        try:
            data = stream.receive()
        except ConnectionError:
            data = b""
        if data is None:
            continue
        rest = handshake.receive(data)
        if rest is not None:
            return rest
        if handshake.refusal is not None:
            attempt.progress.refusing(handshake.refusal)
