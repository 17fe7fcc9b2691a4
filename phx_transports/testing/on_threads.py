"""The transport and the I/O thread of a client on threads, played by the test kit.

There is no thread here: its work is done by the thread that advances the clock, or that waits for the end.
"""

import threading
from collections.abc import Callable
from math import inf
from typing import Any

from phx_proto.commands import Command, Resolve

from ..blocking.waits import SLICE
from ..threads.interfaces import TransportDriver
from ..threads.transport import resolve
from .clock import Clock, Timer
from .connection import PeerClient, PeerNetwork


class ThreadsPeerClient(PeerClient):
    """Fulfils `phx_transports.threads.interfaces.ClientTransport` for the client, and `PeerClient` for the peer."""

    writable = True

    def __init__(self, peer: PeerNetwork, driver: TransportDriver) -> None:
        self.now = peer.clock.now
        self.io_thread = ManualIoThread(peer.clock, driver)
        self._peer = peer
        self._driver = driver
        self._rest = threading.Condition()
        self._timers: list[threading.Timer] = []
        self._over = False  # the client has ended: what it has not handled it never will

    # ---- for the client ----------------------------------------------------------------------------------------------

    def perform(self, command: Command) -> None:
        """Do what the core wants done."""
        if isinstance(command, Resolve):
            self._peer.resolving(self)
            self._driver.later(lambda: resolve(command, self._driver))
        else:
            self._peer.perform(command, self)

    def flush(self) -> None:
        """The core was given an input: a wait for its handlers looks again."""
        with self._rest:
            self._rest.notify_all()

    def wait_writable(self, timeout: float | None = None) -> bool:
        """There is always room."""
        return True

    def end(self) -> None:
        """Give up what is under way."""
        self._over = True
        self.flush()
        for timer in self._timers:
            timer.cancel()
            if timer is not threading.current_thread():
                timer.join()

    # ---- for the peer ------------------------------------------------------------------------------------------------

    def tell(self, call: Callable[[float], Any], /) -> None:
        """Give the core an input, and do what it wants done."""
        self._driver.step(call)

    def soon(self, call: Callable[[], None], /) -> None:
        """Have something called when the client's lock is released."""
        self._driver.later(call)

    def fail(self, error: BaseException, /) -> None:
        """End the client with this error."""
        self._driver.fail(error)

    def after(self, seconds: float, call: Callable[[], None], /) -> None:
        """Have something called, on a thread of its own, when so many real seconds have passed."""
        timer = threading.Timer(seconds, call)
        timer.daemon = True
        self._timers.append(timer)
        timer.start()

    @property
    def backlog(self) -> int:
        """How many messages the client has not handled, and still may."""
        return 0 if self._over else self._driver.proto.stats.backlog

    def rest(self, timeout: float) -> bool:
        """Wait until every message is handled; gives whether that is so."""
        with self._rest:
            return self._rest.wait_for(lambda: not self.backlog, timeout)


class ManualIoThread:
    """Fulfils `phx_transports.threads.interfaces.ClientIoThread` on the clock of a test."""

    def __init__(self, clock: Clock, driver: TransportDriver) -> None:
        self.armed = inf
        self._clock = clock
        self._driver = driver
        self._timer: Timer | None = None
        self._looking = threading.Lock()
        self._looker: int | None = None
        self._ended = threading.Event()

    def start(self) -> None:
        """Nothing runs by itself."""

    def join(self) -> None:
        """Wait until the end was seen to."""
        self._look()
        while not self._ended.wait(SLICE):
            self._look()

    @property
    def is_current(self) -> bool:
        """Whether this is called from the I/O thread's last act."""
        return threading.get_ident() == self._looker

    def wake(self) -> None:
        """Look whether the client has ended, as soon as its lock is released."""
        self._driver.later(self._look)

    def arm(self, deadline: float) -> None:
        """Set an earlier deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self.armed = deadline
        self._timer = self._clock.call_at(deadline, self._due)

    def call(self, function: Callable[[], None]) -> None:
        """Call something on a thread of its own: the caller may be a signal handler, which may interrupt anything."""
        threading.Thread(target=function, name="phx-test-call", daemon=True).start()

    def _due(self) -> None:
        at, self.armed = self.armed, inf  # `on_due` sets the next one
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
