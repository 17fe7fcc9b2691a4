"""The client's I/O thread: it waits for bytes, for room to write, for the timer, and for wakeups.

Everything that it runs must be quick and must not block: it runs no application code.
"""

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Final, Protocol

from ..websocket.connection import LINGER

_LONGEST: Final = 3600.0  # seconds; selectors have a limit


class Watched(Protocol):
    """A connection that the thread serves.

    Attributes:
        stuck: Whether its socket takes no more; `writable` is called when it does.
        aborted: Whether it is to be closed now.
        ending: Set once it is over.
    """

    stuck: bool

    @property
    def aborted(self) -> bool: ...
    @property
    def ending(self) -> object: ...
    @property
    def readable(self) -> bool: ...
    @property
    def has_early(self) -> bool: ...

    def fileno(self) -> int: ...
    def flush(self) -> None: ...
    def writable(self) -> None: ...
    def destroy(self) -> None: ...


class IoThread:
    """Reads connections, writes what they could not take at once, and runs the timer.

    Args:
        name: The thread's name.
        on_bytes: Called when a connection can be read.
        on_gone: Called when a connection was closed; it has no further input.
        on_due: Called with the deadline when it has passed.
        goes_on: Whether to go on without any connection.
        on_end: The last call on the thread.
        on_crash: Called with an unexpected error; must not raise.

    Attributes:
        armed: The deadline, in monotonic seconds; `math.inf` for none.
    """

    def __init__(
        self,
        name: str,
        *,
        on_bytes: Callable[[Watched], None],
        on_gone: Callable[[Watched], None],
        on_due: Callable[[float], None],
        goes_on: Callable[[], bool],
        on_end: Callable[[], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.armed = inf
        self._on_bytes = on_bytes
        self._on_gone = on_gone
        self._on_due = on_due
        self._goes_on = goes_on
        self._on_end = on_end
        self._on_crash = on_crash
        self._calls: deque[Callable[[], None]] = deque()
        self._connections: dict[Watched, float] = {}  # with the time at which each is dropped
        self._shown: dict[Watched, int] = {}  # the events that the selector waits for
        self._selector = selectors.DefaultSelector()
        self._wakeup_writer, self._wakeup_reader = socket.socketpair()
        self._wakeup_writer.setblocking(False)
        self._wakeup_reader.setblocking(False)
        self._selector.register(self._wakeup_reader, selectors.EVENT_READ)
        self._wakeup_lock = threading.RLock()  # a signal handler may interrupt its own thread in `wake`
        self._woken = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    # ---- for any thread ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread."""
        try:
            self._thread.start()
        except RuntimeError:  # the system has no thread
            self._close()
            raise

    def join(self) -> None:
        """Wait until the thread has ended; returns at once if it was never started."""
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_current(self) -> bool:
        """Whether this is called on this thread."""
        return threading.get_ident() == self._thread.ident

    def wake(self) -> None:
        """Make the thread check everything again; a signal handler may call it too."""
        if self._woken or self.is_current:
            return
        with self._wakeup_lock, contextlib.suppress(OSError):  # the thread has ended
            self._woken = True
            self._wakeup_writer.send(b"!")

    def arm(self, deadline: float) -> None:
        """Set an earlier deadline."""
        self.armed = deadline
        self.wake()

    def call(self, function: Callable[[], None]) -> None:
        """Call something on the thread; a signal handler may use this too."""
        self._calls.append(function)
        self.wake()

    def add(self, connection: Watched) -> None:
        """Read a connection from now on, until it is over."""
        self.call(lambda: self._add(connection))

    # ---- on the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                try:
                    if not (self._connections or self._calls or self._goes_on()):
                        break
                    self._turn()
                except BaseException as error:  # better than a client that hangs
                    self._on_crash(error)
            self._on_end()
        finally:
            self._close()

    def _close(self) -> None:
        with self._wakeup_lock:
            self._wakeup_writer.close()
            self._wakeup_reader.close()
            self._selector.close()

    def _turn(self) -> None:
        for key, ready in self._selector.select(self._prepare()):
            connection = key.data
            if connection is None:
                self._drain_wakeup()
                continue
            if ready & selectors.EVENT_WRITE:
                connection.writable()
            if ready & selectors.EVENT_READ:
                self._read(connection)
        while self._calls:
            self._calls.popleft()()
        if monotonic() >= self.armed:
            at, self.armed = self.armed, inf  # the callback sets the next one
            self._on_due(at)

    def _prepare(self) -> float:
        """Check all connections, and return how many seconds to wait for them."""
        # Without `min` and `max`: each costs 1 % of a push, more than a call of a small function.
        now = monotonic()
        until = self.armed
        for connection, dropped_at in tuple(self._connections.items()):
            if connection.aborted or now >= dropped_at:
                self._remove(connection)
                until = 0.0  # it may have been the last, or have changed what was checked before
                continue
            connection.flush()  # also answers that RFC 6455 requires to what was read
            self._show(connection)
            if dropped_at < until:
                until = dropped_at
        if self._calls or until <= now:
            return 0.0
        return until - now if until - now < _LONGEST else _LONGEST

    def _drain_wakeup(self) -> None:
        self._wakeup_reader.recv(4096)
        self._woken = False  # before everything is checked: a later change wakes the thread again

    def _add(self, connection: Watched) -> None:
        self._connections[connection] = inf
        if connection.has_early:
            self._read(connection)

    def _read(self, connection: Watched) -> None:
        self._on_bytes(connection)
        if connection.ending is not None and self._connections[connection] == inf:
            self._connections[connection] = monotonic() + LINGER

    def _remove(self, connection: Watched) -> None:
        if self._shown.pop(connection, 0):
            self._selector.unregister(connection)
        del self._connections[connection]
        connection.destroy()
        self._on_gone(connection)

    def _show(self, connection: Watched) -> None:
        """Set the events that the selector waits for."""
        wanted = selectors.EVENT_READ if connection.readable else 0
        if connection.stuck:
            wanted |= selectors.EVENT_WRITE
        shown = self._shown.get(connection, 0)
        if wanted == shown:
            return
        self._shown[connection] = wanted
        if not shown:
            self._selector.register(connection, wanted, connection)
        elif not wanted:
            self._selector.unregister(connection)
        else:
            self._selector.modify(connection, wanted, connection)
