"""Drives a client on wsproto, on one thread: the machine, a plain socket and `selectors`. No event loop, no lock.

Everything happens on the caller's thread, while it waits in a call: in `push`, `join`, `run`, or for the next message
of a stream. Each turn of such a wait passes an input (a read, the time) to the core, writes the machine's bytes, ends
the calls whose events have come, and calls the handlers of new messages, one after another, in the order received
within a topic. No decision of the protocol is taken here.

Because there is one thread, nothing happens between calls, not even heartbeats. So a program with other work must run
the client regularly (`client.run(timeout=…)`), or the server drops the connection within a minute. A running handler
blocks the connection too. If it waits in a call of its own (a `push`), the connection goes on, but no other handler is
called. If that does not suit, use `phx_transports.threads` or `phx_transports.asyncio`.
"""

import contextlib
import signal
from collections import deque
from collections.abc import Callable, Generator, Sequence
from functools import partial
from math import inf
from time import monotonic
from typing import Any, Final, TypeVar

from phx_proto.client import ClientProtocol
from phx_proto.core import Stats
from phx_proto.errors import InvalidHandler
from phx_proto.handlers.handler import Handler
from phx_proto.link import Link
from phx_proto.queues import Delivery

from ..blocking.driver import BlockingDriver
from ..blocking.waits import deadline_after, slice_until
from ..client.driver import NoAlarm
from ..client.options import ClientSettings
from ..client.queues import Queue
from ..client.session import Waiter
from ..client.signals import SignalPolicy, signals_to, uninterrupted
from ..websocket.options import Factory, NetworkOptions
from .engine import Answer, resolve
from .handlers import Runner
from .machine import Machine
from .transport import Ready, Transport

T = TypeVar("T")

#: Messages that handlers may send before they are written.
_SENT: Final = 100


class WsprotoDriver(BlockingDriver):
    """Drives the core of one client, for one thread."""

    def __init__(self, proto: ClientProtocol, settings: ClientSettings, *, network: NetworkOptions[Factory]) -> None:
        super().__init__(proto, settings)
        self._machine = Machine(proto, max_size=network.max_size)
        self._transport = Transport(self._machine, ssl=network.ssl, factory=network.factory)
        self._runner = Runner(
            proto,
            now=monotonic,
            look=lambda: self._look(0.0),
            on_error=self.handler_failed,
            on_exit=self.handler_failed,
        )
        self.attach(now=monotonic, perform=self._machine.obey, workers=self._runner, alarm=NoAlarm())
        self._sent = 0  # handlers' messages that are not written yet
        self._ended = False  # whether everything is released
        self._signals: deque[int] = deque()  # caught and not yet handled
        self._runs = False
        self._hearing = contextlib.ExitStack()  # of signals, while it runs

    # ---- handlers ---------------------------------------------------------------------------------------------------

    def accept(self, handler: Handler) -> None:
        super().accept(handler)
        if handler.executor is not None:
            problem = "it has an executor, and this client has one thread: use another adapter"
            raise InvalidHandler(handler.name, problem)

    @property
    def in_handler(self) -> bool:
        return self._runner.at_work

    @property
    def stats(self) -> Stats:
        self._runner.report()
        return self.proto.stats

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        self._runner.handled(deliveries)

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def send(self, call: Callable[[float], None]) -> None:  # handlers' messages are written together
        uninterrupted(self._send, call)

    def writable(self, link: Link | None) -> bool:
        return not self._transport.full(link)

    def wait_writable(self, link: Link | None, timeout: float | None = None) -> bool:
        return self.turn_until(lambda: self.writable(link), deadline_after(timeout))

    def wait(self, begin: Callable[[Waiter, float], None], timeout: float | None = None) -> Callable[[], Any]:
        answer = Answer[Any]()
        uninterrupted(self.step, partial(begin, answer))
        try:
            if not self.turn_until(answer.done, deadline_after(timeout)):
                raise TimeoutError("it took too long")
        finally:
            self.session.forget(answer)
        return answer.result

    def wait_ended(self, timeout: float | None = None) -> bool:
        answer = Answer[None]()
        self.session.wait_closed(answer)
        try:
            return self.turn_until(
                lambda: self._ended or (self._runner.at_work and answer.done()), deadline_after(timeout)
            )
        finally:
            self.session.forget(answer)

    def run(self, timeout: float | None, signals: SignalPolicy) -> bool:
        if self._runs:  # within a handler whose call runs the client; signals are handled already
            return self.wait_ended(timeout)
        self._runs = True
        try:
            with self._hearing:
                self._hearing.enter_context(self._hear_signals(signals))
                return self.wait_ended(timeout)
        finally:
            self._runs = False

    def turn_until(self, condition: Callable[[], bool], deadline: float = inf) -> bool:
        """Run the client until a condition holds; returns whether it does, or the deadline or the end came first."""
        self.session.check_process()
        while True:
            uninterrupted(self.pump)
            if condition():
                return True
            if self._ended or self.now() >= deadline:
                return False
            self._turn(condition, deadline)

    # ---- readers ----------------------------------------------------------------------------------------------------

    def open(self, queue: Queue[Any]) -> None:
        queue.open()

    def close(self, queue: Queue[Any]) -> None:
        queue.close()

    def take(self, queue: Queue[T], deadline: float) -> T:
        if queue.waiting:
            return queue.take()
        if not self.turn_until(lambda: bool(queue.waiting) or queue.ended, deadline):
            raise TimeoutError("nothing came in time")
        if not queue.waiting:
            raise queue.error or StopIteration
        return queue.take()

    # ---- private: turns ---------------------------------------------------------------------------------------------

    def _turn(self, condition: Callable[[], bool], deadline: float) -> None:
        """Call the handlers of new messages; if there are none, wait for an event until the deadline."""
        if self._runner.work(condition, deadline):
            return
        if self.session.closed and not self._runner.at_work:
            self._finish()
        else:
            self._look(deadline)

    def _look(self, deadline: float) -> bool:
        """Serve the socket, the timer and signals; returns whether handlers may go on."""
        ready = self._transport.wait(slice_until(min(deadline, self.next_due)))  # only a signal may end this
        return uninterrupted(self._see, ready)

    def _send(self, call: Callable[[float], None]) -> None:
        self.session.check_process()
        call(self.now())
        self._sent += 1
        if not self._runner.at_work or self._sent >= _SENT:
            self.pump()

    def _see(self, ready: Ready) -> bool:
        self._transport.see(ready)
        now = self.now()
        self.proto.handle_timeout(now)
        self._heed_signals()
        self.pump()
        self._runner.looked_at = now
        return not self._runner.closed

    def pump(self) -> None:
        """Carry out the core's commands."""
        self._sent = 0
        self._runner.report()
        resolve(self._machine, self.proto, self.now)
        if not self._ended:
            self._transport.pump()
        super().pump()
        self.log.tick()

    # ---- private: the end -------------------------------------------------------------------------------------------

    def on_closed(self) -> None:
        """The core has ended."""
        self._runner.closed |= not self.handlers_wanted

    def _finish(self) -> None:
        """After the core's end and the last handlers: release everything."""
        self.session.end_readers()
        self._runner.report()
        while not self._transport.idle:
            self._transport.see(self._transport.wait(inf))
            self._transport.pump()
        self._hearing.close()  # it uses the transport
        self._transport.close()
        self._ended = True

    @contextlib.contextmanager
    def _hear_signals(self, policy: SignalPolicy) -> Generator[None, None, None]:
        with signals_to(self._signals.append, policy) as any_of_them:
            if not any_of_them:
                yield
                return
            # Python writes to this descriptor at a signal: a signal handler does not run while the selector waits.
            previous_fd = signal.set_wakeup_fd(self._transport.wakeup_fd, warn_on_full_buffer=False)
            try:
                yield
            finally:
                signal.set_wakeup_fd(previous_fd)

    def _heed_signals(self) -> None:
        while self._signals:
            self.on_signal(self._signals.popleft())
