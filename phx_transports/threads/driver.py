"""Drives a client on threads: one lock around the core, and one thread that reads and runs the timer.

Slow work is done after the lock is released, by the thread that held it (`follow_up`): it writes bytes, starts threads
and logs. The I/O thread runs no application code; the handlers' threads do. All threads are daemons: connections still
open when the program exits are dropped.
"""

import atexit
import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from phx_proto.client import ClientProtocol
from phx_proto.core import Stats
from phx_proto.events import Event
from phx_proto.link import Link
from phx_proto.queues import Delivery

from ..blocking.driver import BlockingDriver
from ..blocking.waits import slice_until
from ..client.options import ClientSettings
from ..client.queues import Queue
from ..client.session import Waiter
from ..client.signals import SignalPolicy, signals_to, uninterrupted
from ..websocket.options import Factory, NetworkOptions
from .handlers import Runner, Turn
from .interfaces import ClientTransport, TransportFactory
from .waiter import BlockedThread

T = TypeVar("T")


class ThreadsDriver(BlockingDriver):
    """Drives the core of one client; any thread may use it.

    Attributes:
        lock: Held during each call to the core.
        transport: Its connections.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        settings: ClientSettings,
        *,
        network: NetworkOptions[Factory],
        transport: TransportFactory | None,
    ) -> None:
        super().__init__(proto, settings)
        self.lock = threading.Lock()
        self._to_log: deque[Event] = deque()
        self._logging = threading.Lock()
        self._later: deque[Callable[[], object]] = deque()
        self._readers: dict[Queue[Any], threading.Condition] = {}
        self._closing = False
        self.transport: ClientTransport
        if transport is None:
            from .transport import Transport  # not earlier: see websocket/options.py

            self.transport = Transport(self, network)
        else:
            self.transport = transport.threads_transport(self)
        self._io_thread = self.transport.io_thread
        self._runner = Runner(
            proto,
            settings.executor,
            lock=self.lock,
            step=self.step,
            on_turns=self._next_turns,
            later=self.later,
            on_error=self.handler_failed,
            fail_fast=settings.fail_fast,
            on_crash=self.fail,
        )
        self.attach(now=self.transport.now, perform=self.transport.perform, workers=self._runner, alarm=self._io_thread)

    # ---- steps ------------------------------------------------------------------------------------------------------

    def start(self, timeout: float) -> None:
        """Begin to connect."""
        self._io_thread.start()
        atexit.register(self.abort)
        super().start(timeout)

    def step(self, call: Callable[[float], T]) -> T:
        """Make one call to the core, and do what the core then wants done; every input comes this way."""
        self.session.check_process()
        with self.lock:
            result = call(self.now())
            self.pump()
        self.follow_up()
        return result

    def later(self, call: Callable[[], object]) -> None:
        """Call something after the lock is released."""
        self._later.append(call)

    def follow_up(self) -> None:
        """Do what a step has left for the time after the lock."""
        self.transport.flush()
        while self._later:
            try:
                call = self._later.popleft()
            except IndexError:  # another thread was faster
                break
            call()
        while self._to_log and self._logging.acquire(blocking=False):
            try:
                self.log.event(self._to_log.popleft())
            except IndexError:  # another thread was faster
                pass
            finally:
                self._logging.release()
        if self.log.due < self._io_thread.armed:
            with self.lock:
                if self.log.due < self._io_thread.armed:
                    self._io_thread.arm(self.log.due)

    def write(self, event: Event) -> None:
        """Log an event after the lock is released."""
        self._to_log.append(event)

    # ---- handlers ---------------------------------------------------------------------------------------------------

    @property
    def in_handler(self) -> bool:
        return self._runner.is_current or self._io_thread.is_current

    @property
    def stats(self) -> Stats:
        self.step(self._runner.report_batches)
        with self.lock:
            return self.proto.stats

    def handled(self, deliveries: Sequence[Delivery]) -> None:  # under the lock; `follow_up` comes after it
        self.proto.handled(deliveries, self.now())
        self.pump()

    def _next_turns(self) -> list[Turn]:
        """Report a worker's finished turns, and return its next; a faster `step`."""
        with self.lock:
            turns = self._runner.report(self.now())
            self.pump()
        self.follow_up()
        return turns

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def writable(self, link: Link | None) -> bool:
        return self.transport.writable(link)

    def wait_writable(self, link: Link | None, timeout: float | None = None) -> bool:
        return self.transport.wait_writable(link, timeout)

    def wait(self, begin: Callable[[Waiter, float], None], timeout: float | None = None) -> Callable[[], Any]:
        waiter = BlockedThread(self._later.append)
        uninterrupted(self.step, partial(begin, waiter))
        try:
            waiter.wait(timeout)
        except BaseException:  # a timeout, or an interrupt
            with self.lock:
                self.session.forget(waiter)
            raise
        return waiter.result

    def wait_ended(self, timeout: float | None = None) -> bool:
        try:
            self.wait(lambda waiter, now: self.session.wait_closed(waiter), timeout)
        except TimeoutError:
            return False
        if not self.in_handler:
            self._io_thread.join()
        return True

    def run(self, timeout: float | None, signals: SignalPolicy) -> bool:
        with signals_to(lambda number: self._io_thread.call(partial(self.on_signal, number)), signals):
            return self.wait_ended(timeout)

    # ---- readers ----------------------------------------------------------------------------------------------------

    def open(self, queue: Queue[Any]) -> None:
        self.session.check_process()  # before the lock, which another thread may have held at the fork
        with self.lock:
            self._readers[queue] = changed = threading.Condition(self.lock)
            queue.open(changed.notify_all)

    def close(self, queue: Queue[Any]) -> None:
        super().close(queue)
        self._readers.pop(queue, None)  # another reader may have closed it

    def take(self, queue: Queue[T], deadline: float) -> T:
        self.session.check_process()
        changed = self._readers.get(queue) or threading.Condition(self.lock)
        with changed:
            while not queue.waiting:
                if queue.ended:
                    raise queue.error or StopIteration
                patience = slice_until(deadline)
                if not patience:
                    raise TimeoutError("nothing came in time")
                changed.wait(patience)
            item = queue.take()
        self.follow_up()
        return item

    # ---- the end, on the I/O thread ---------------------------------------------------------------------------------

    def on_closed(self) -> None:
        """The core has ended; under the lock."""
        if not self._closing:
            self._closing = True
            self._io_thread.arm(self.handlers_until)
        self._io_thread.wake()

    def goes_on(self) -> bool:
        """Whether the I/O thread is still needed: by the core, or by handlers of messages that came before the end."""
        with self.lock:
            return not self.session.closed or self.handlers_wanted

    def finish(self) -> None:
        """The last call on the I/O thread: release everything."""
        self._runner.close()
        self.transport.end()
        with self.lock:
            self.session.end_readers()
        self.follow_up()
        atexit.unregister(self.abort)
