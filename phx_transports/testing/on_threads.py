"""The network of a client on threads, and its I/O thread, in memory.

There is no thread: the I/O thread's work is done by the thread that advances the clock, or that waits for the end.
"""

import threading
from collections.abc import Callable
from typing import Any

from phx_proto.commands import Resolve
from phx_proto.link import Link

from ..asyncio.alarm import Alarm
from ..blocking.waits import SLICE
from ..threads.interfaces import TransportDriver
from ..threads.transport import resolve
from .clock import Clock
from .connection import PeerClient


class ThreadsPeerClient(PeerClient[TransportDriver]):
    """Implements `phx_transports.threads.interfaces.ClientTransport`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.io_thread = ManualIoThread(self._clock, self.driver)
        self._rest = threading.Condition()
        self._timers: list[threading.Timer] = []

    # ---- for the client ----------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """The core got an input: a wait for its handlers checks again."""
        with self._rest:
            self._rest.notify_all()

    def writable(self, link: Link | None, /) -> bool:
        return True

    def wait_writable(self, link: Link | None, /, timeout: float | None = None) -> bool:
        return True

    def end(self) -> None:
        self._over = True
        self.flush()
        for timer in self._timers:
            timer.cancel()
            if timer is not threading.current_thread():
                timer.join()

    # ---- for the peer ------------------------------------------------------------------------------------------------

    def resolve(self, command: Resolve) -> None:
        self.driver.later(lambda: resolve(command, self.driver))

    def soon(self, call: Callable[[], None]) -> None:
        self.driver.later(call)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something after so many real seconds, on a thread of its own."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    def rest(self, timeout: float) -> bool:
        with self._rest:
            return self._rest.wait_for(lambda: not self.backlog, timeout)


class ManualIoThread(Alarm):
    """Implements `phx_transports.threads.interfaces.ClientIoThread` on the clock of a test."""

    def __init__(self, clock: Clock, driver: TransportDriver) -> None:
        super().__init__(clock.call_at, self._ring)
        self._driver = driver
        self._looking = threading.Lock()
        self._looker: int | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """There is no thread to start."""

    def join(self) -> None:
        """Wait until the end has been handled."""
        self._look()
        while not self._ended.wait(SLICE):
            self._look()

    @property
    def is_current(self) -> bool:
        """Whether this is called from within the end's handling."""
        return threading.get_ident() == self._looker

    def wake(self) -> None:
        """Check whether the client has ended, as soon as its lock is released."""
        self._driver.later(self._look)

    def call(self, function: Callable[[], None]) -> None:
        """Call something on a thread of its own: the caller may be a signal handler, which may interrupt anything."""
        threading.Thread(target=function, name="phx-test-call", daemon=True).start()

    def _ring(self, at: float) -> None:
        self._driver.due(at)
        self._look()

    def _look(self) -> None:
        if self.is_current or self._ended.is_set():
            return
        with self._looking:
            self._looker = threading.get_ident()
            try:
                if not self._ended.is_set() and not self._driver.goes_on():
                    self._driver.finish()
                    self._ended.set()
            finally:
                self._looker = None
