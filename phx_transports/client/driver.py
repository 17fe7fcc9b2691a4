"""The driver of a client: passes inputs to the core, and carries out its commands. Free of I/O.

Every input is a step: a call, a read, the time. After the call to the core, the driver carries out the core's commands,
ends the calls whose events have come, hands out stream items and handlers' queues, and sets the alarm, in this order.
No decision of the protocol is taken here.

The end of a client is here too: gracefully, at once, by an error, by a signal. The core ends first: it has left, closed
and reported its end. If the application did not end it, handlers then get the earlier messages, within the time for
closing; only after that the adapter releases its resources.

An adapter extends this class with a transport that has a clock, with workers, an alarm, and the way that calls wait.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from signal import Signals
from typing import Any, Protocol, TypeVar

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import Command
from phx_proto.core import Stats
from phx_proto.errors import PayloadMismatch
from phx_proto.events import Event, ReplyReceived
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.payloads import PayloadDecoder, payload_decoder
from phx_proto.message import Message
from phx_proto.queues import Delivery, DeliveryQueue, HandlerQueue
from phx_proto.states import SocketState

from .batches import PortabilityCheck
from .calls import Call
from .options import ClientSettings
from .queues import EventQueue, Item, MessageQueue
from .reports import HandlerError, Log, is_exit, logger, report_to
from .session import Session, Waiter

T = TypeVar("T")


class Workers(Protocol):
    """Runs the handlers of one client."""

    def add(self, queues: list[DeliveryQueue], /) -> None:
        """These queues have messages for workers."""

    def execute(self, queues: list[HandlerQueue], /) -> None:
        """These queues have messages for an executor."""

    def halt(self) -> None:
        """Begin no further handler; must not raise, and must not wait."""


class Alarm(Protocol):
    """Calls `Driver.due` when a deadline has passed.

    Attributes:
        armed: The deadline that is set, by the client's clock; `math.inf` for none.
    """

    armed: float

    def arm(self, deadline: float, /) -> None:
        """Set an earlier deadline."""


class NoAlarm:
    """For an adapter that calls `Driver.next_due` whenever it waits."""

    armed = -inf

    def arm(self, deadline: float, /) -> None:
        """Never called: no deadline is earlier."""


class Driver(ABC):
    """Drives the core of one client.

    Attributes:
        session: The calls that wait, listeners and readers.
        log: The client's log.
        now: The client's clock: monotonic seconds.
        handlers_until: The deadline for handlers to finish; `math.inf` while the core has not ended.
    """

    now: Callable[[], float]
    _perform: Callable[[Command], None]
    _workers: Workers
    _alarm: Alarm

    def __init__(self, proto: ClientProtocol, settings: ClientSettings) -> None:
        self.proto = proto
        self.settings = settings
        self.session = Session()
        self.log = Log(proto, lambda: self.now())
        self.session.listeners.append(self.record)
        self.handlers_until = inf
        self._on_handler_error = self.log.unless(settings.on_handler_error)
        self._dropped = False
        self._portability = PortabilityCheck(settings.executor)
        self._portability.router(proto.router)

    def attach(
        self, *, now: Callable[[], float], perform: Callable[[Command], None], workers: Workers, alarm: Alarm
    ) -> None:
        """Take the adapter's objects; called before the first step. `perform` must not make a step."""
        self.now = now
        self._perform = perform
        self._workers = workers
        self._alarm = alarm

    # ---- steps ------------------------------------------------------------------------------------------------------

    def start(self, timeout: float) -> None:
        """Begin to connect; the client ends if there is no connection within so many seconds."""
        self.step(lambda now: self.proto.connect(now, timeout=timeout))

    def step(self, call: Callable[[float], T]) -> T:
        """Make one call to the core, and do what the core then wants done; every input comes this way."""
        self.session.check_process()
        result = call(self.now())
        self.pump()
        return result

    def begin(self, call: Call[Any], waiter: Waiter) -> str:
        """Make a call, whose event ends the waiter; returns its ref."""
        return self.step(partial(self.session.begin, call.begin, waiter))

    def due(self, at: float) -> None:
        """The alarm's time has come; if the clock is slightly behind it, it counts as reached."""
        self.log.tick()
        self.step(lambda now: self.proto.handle_timeout(max(at, now)))

    @property
    def next_due(self) -> float:
        """When to call `due`; `math.inf` for never."""
        due = self.proto.next_timeout()
        return self.log.due if due is None else min(due, self.log.due)

    def pump(self) -> None:
        """Carry out the core's commands."""
        proto = self.proto
        for command in proto.commands():
            self._perform(command)
        if has_news := proto.has_news:
            self.session.settle((*proto.events(), *proto.notices()))
        if self.session.closed:
            if self.handlers_until == inf:
                self.handlers_until = self.now() + self.settings.drain_timeout
                self.session.release_readers()
            self.on_closed()
        if has_news:
            for tap, item in proto.tapped():
                tap.put(item)
            if executable := proto.executable():
                self._workers.execute(executable)
            if runnable := proto.runnable():
                self._workers.add(runnable)
        deadline = proto.next_timeout()
        alarm = self._alarm
        if deadline is not None and deadline < alarm.armed:
            alarm.arm(deadline)
        if self.log.due < alarm.armed:
            alarm.arm(self.log.due)

    @abstractmethod
    def on_closed(self) -> None:
        """The core has ended; called in each step from then on, for the adapter to end."""

    def record(self, event: Event) -> None:
        """Log an event; not a reply, for these have no line, and are as many as pushes."""
        if type(event) is not ReplyReceived:
            self.write(event)

    def write(self, event: Event) -> None:
        """Log an event which may have a line."""
        self.log.event(event)

    # ---- handlers and readers ---------------------------------------------------------------------------------------

    def check(self, handler: Handler) -> None:
        """Refuse a handler that cannot run here, by `InvalidHandler`."""
        self._portability.handler(handler)

    def check_channel(self, topic: str, params: Any) -> None:
        """Refuse a topic with a handler that cannot run here, by `InvalidHandler`; and params that cannot be sent."""
        self._portability.router(self.proto.router)

    @property
    def stats(self) -> Stats:
        """The counters, including all handled messages."""
        return self.proto.stats

    @abstractmethod
    def handled(self, deliveries: Sequence[Delivery]) -> None:
        """Report what a stream's reader has taken as handled; within a step, or followed by one."""

    def messages(
        self, channel: Channel, select: Callable[[Item], T | None], event: str, payload: Any
    ) -> MessageQueue[Any]:
        """The queue for a reader of a channel; with a payload type, only messages with such payloads.

        Raises:
            InvalidEvent: No message can be of such an event.
            InvalidPayloadType: Nothing can be decoded into the type.
        """
        accept = None if payload is None else partial(self._accept, payload_decoder(payload))
        return MessageQueue(channel, self.session, select, event=event, accept=accept, on_handled=self.handled)

    def _accept(self, decoder: PayloadDecoder, item: Item) -> Item | None:
        """The item for the reader; `None` for a message that does not fit, which is reported."""
        if not isinstance(item, Message):
            return item
        try:
            return decoder.accept(item)
        except PayloadMismatch as error:
            self.handler_failed(HandlerError(None, item, error))
            return None

    def events(self) -> EventQueue:
        """The queue for a reader of the client's events."""
        return EventQueue(self.session)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin to close gracefully; does nothing in a forked process, because the connection is its parent's."""
        if self.session.is_here:
            self.step(self._drain)

    def drop(self) -> None:
        """Close at once, without waiting for handlers. Does nothing in a forked process either."""
        if self.session.is_here:
            self.step(self._abort)

    def fail(self, error: BaseException) -> None:
        """Close at once; the calls that wait for the end raise this error."""
        self.step(partial(self._fail, error))

    def exit(self, error: BaseException) -> None:
        """Close gracefully; the calls that wait for the end raise this error."""
        self.step(partial(self._exit, error))

    def handler_failed(self, report: HandlerError) -> None:
        """A handler raised, or a message did not fit the payload type of its handler or its stream.

        `SystemExit`, `KeyboardInterrupt` and the like are not errors: they close the client gracefully, and the calls
        that wait for its end raise them. The same if `on_handler_error` raises one.
        """
        if is_exit(report.error):
            self.exit(report.error)
            return
        fail_fast = self.settings.fail_fast
        if fail_fast:
            self._workers.halt()  # first, so that nothing more is handled
        try:
            report_to(self._on_handler_error, report)
        except BaseException as error:
            self.exit(error)
        if fail_fast:
            self.fail(report.raisable)

    def on_signal(self, number: int) -> None:
        """SIGINT or SIGTERM: the first closes gracefully, the next at once."""
        name, url = Signals(number).name, self.proto.endpoint.redacted
        if self.proto.state in (SocketState.DRAINING, SocketState.CLOSING):
            logger.warning("%s again: the client of %s drops its connection", name, url)
            self.drop()
        else:
            logger.warning("%s: the client of %s closes", name, url)
            self.stop()

    @property
    def handlers_wanted(self) -> bool:
        """Whether handlers are still to get messages that came before the core's end."""
        wanted = self.session.error is not None and not self._dropped  # else messages were dropped with the client
        return wanted and self.now() < self.handlers_until and self.proto.stats.backlog > 0

    # ---- private ----------------------------------------------------------------------------------------------------

    def _exit(self, error: BaseException, now: float) -> None:
        if self.proto.state in (SocketState.DRAINING, SocketState.CLOSING, SocketState.CLOSED):
            return  # the close has begun
        self.session.fail(error)
        self._dropped = True  # handlers have no time beyond the core's drain
        self.proto.close(now, timeout=self.settings.drain_timeout, error=error)
        self.session.release_readers()

    def _drain(self, now: float) -> None:
        self.proto.close(now, timeout=self.settings.drain_timeout)
        self.session.release_readers()

    def _abort(self, now: float) -> None:
        self._dropped = True
        self.proto.abort(now)
        self.session.release_readers()

    def _fail(self, error: BaseException, now: float) -> None:
        if not self.session.closed:
            self.session.fail(error)
            self._dropped = True
            self.proto.abort(now, error=error)
