"""The client's one thread of its own: it waits for bytes, for room to write, for the time, and for being called.

All that it runs must be quick and must not wait: no code of the application's is run here.
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

_LONGEST: Final = 3600.0  # seconds; what selectors can wait for has limits


class Watched(Protocol):
    """A connection that the thread looks after.

    Attributes:
        stuck: Whether its socket takes no more; `writable` is called when it does.
        aborted: Whether it is to be closed now.
        ending: Once it is over.
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
    """Reads connections, writes what they could not take at once, and tells the time.

    Args:
        name: The thread's.
        on_bytes: A connection can be read.
        on_gone: A connection was closed; nothing more comes of it.
        on_due: The deadline has passed; called with it.
        goes_on: Whether to go on where no connection is left.
        on_end: The thread's last act.
        on_crash: Told of what was not foreseen; must not raise.

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
        self._shown: dict[Watched, int] = {}  # what the selector looks for
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
        except RuntimeError:  # the system gives none
            self._close()
            raise

    def join(self) -> None:
        """Wait until the thread has ended; returns at once where it was never started."""
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def is_current(self) -> bool:
        """Whether this is called on this thread."""
        return threading.get_ident() == self._thread.ident

    def wake(self) -> None:
        """Have the thread look at everything anew; a signal's handler may call it too."""
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
        """Have something called on the thread; a signal's handler may ask for it too."""
        self._calls.append(function)
        self.wake()

    def add(self, connection: Watched) -> None:
        """Read a connection from here on, until it is over."""
        self.call(lambda: self._add(connection))

    # ---- on the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                try:
                    if not (self._connections or self._calls or self._goes_on()):
                        break
                    self._turn()
                except BaseException as error:  # better than a client that does nothing
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
        for connection in self._connections:
            connection.flush()
            self._show(connection)
        for key, ready in self._selector.select(self._patience()):
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
        now = monotonic()
        if now >= self.armed:
            at, self.armed = self.armed, inf  # whoever is told sets the next one
            self._on_due(at)
        for connection in [one for one, at in self._connections.items() if one.aborted or now >= at]:
            self._remove(connection)

    def _patience(self) -> float:
        if self._calls or any(connection.aborted for connection in self._connections):
            return 0.0
        return min(max(0.0, min(self.armed, *self._connections.values(), inf) - monotonic()), _LONGEST)

    def _drain_wakeup(self) -> None:
        self._wakeup_reader.recv(4096)
        self._woken = False  # and then everything is looked at: a later change wakes it again

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
        """Have the selector look for what the connection waits for now."""
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
