"""The driver of a client: tells the core what happens, and does what the core wants done. Free of I/O.

Every input is a step: a call, a read, the time. After the core has been told, its commands are carried out, the calls
that its events end are ended, stream items and runnable handlers are handed out, and the alarm is set, in this order.
No decision of the protocol is taken here.

How a client ends is here too: gracefully, at once, by an error, by a signal. The core ends first: it has left, closed
and told so. If the application did not end it, handlers then get what had come before, for so long as closing may take;
only after that the adapter lets go of what it holds.

An adapter extends this class: it gives it a transport with a clock, workers and an alarm, and adds how calls wait.
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
from phx_proto.events import Event
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
    """Run the handlers of one client."""

    def add(self, queues: list[DeliveryQueue], /) -> None:
        """These queues want a worker."""

    def execute(self, queues: list[HandlerQueue], /) -> None:
        """These queues want an executor."""

    def halt(self) -> None:
        """Begin no handler any more; must not raise, and must not wait."""


class Alarm(Protocol):
    """Calls `Driver.due` when a deadline has passed.

    Attributes:
        armed: The deadline that is set, by the client's clock; `math.inf` for none.
    """

    armed: float

    def arm(self, deadline: float, /) -> None:
        """Set an earlier deadline."""


class NoAlarm:
    """For an adapter that asks for `Driver.next_due` whenever it waits."""

    armed = -inf

    def arm(self, deadline: float, /) -> None:
        """Never called: no deadline is earlier."""


class Driver(ABC):
    """Drives the core of one client.

    Attributes:
        session: The calls that wait, listeners and readers.
        log: What is logged of the client.
        now: The client's clock: monotonic seconds.
        handlers_until: When handlers are waited for no longer; `math.inf` while the core has not ended.
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
        """Take what the adapter has made for it; before the first step. `perform` must not make one."""
        self.now = now
        self._perform = perform
        self._workers = workers
        self._alarm = alarm

    # ---- steps ------------------------------------------------------------------------------------------------------

    def start(self, timeout: float) -> None:
        """Begin to connect; the client ends if there is no connection within so many seconds."""
        self.step(lambda now: self.proto.connect(now, timeout=timeout))

    def step(self, call: Callable[[float], T]) -> T:
        """Tell the core something, and do what it wants done; every input comes this way."""
        self.session.check_process()
        result = call(self.now())
        self.pump()
        return result

    def begin(self, call: Call[Any], waiter: Waiter) -> str:
        """Make a call, whose event ends the waiter; gives its ref."""
        return self.step(partial(self.session.begin, call.begin, waiter))

    def due(self, at: float) -> None:
        """The alarm that was set for this time rings; a clock that is a little behind it must not make it early."""
        self.log.tick()
        self.step(lambda now: self.proto.handle_timeout(max(at, now)))

    @property
    def next_due(self) -> float:
        """When `due` is wanted; `math.inf` while it is not."""
        due = self.proto.next_timeout()
        return self.log.due if due is None else min(due, self.log.due)

    def pump(self) -> None:
        """Do what the core wants done."""
        proto = self.proto
        for command in proto.commands():
            self._perform(command)
        events = proto.events()
        if events:
            self.session.settle(events)
        notices = proto.notices()
        if notices:
            self.session.settle(notices)
        if self.session.closed:
            if self.handlers_until == inf:
                self.handlers_until = self.now() + self.settings.drain_timeout
                self.session.release_readers()
            self.on_closed()
        if proto.has_deliveries:
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
        """The core has ended; called in each step from then on, for the adapter to see to its own end."""

    def record(self, event: Event) -> None:
        """Log an event."""
        self.log.event(event)

    # ---- handlers and readers ---------------------------------------------------------------------------------------

    def check(self, handler: Handler) -> None:
        """Refuse a handler that cannot run here: `InvalidHandler`."""
        self._portability.handler(handler)

    def check_channel(self, topic: str, params: Any) -> None:
        """Refuse a topic that has a handler which cannot run here: `InvalidHandler`; and such params."""
        self._portability.router(self.proto.router)

    @property
    def stats(self) -> Stats:
        """The counters, with all that handlers are done with."""
        return self.proto.stats

    @abstractmethod
    def handled(self, deliveries: Sequence[Delivery]) -> None:
        """What a stream's reader has taken is done with; within a step, or followed by one."""

    def messages(
        self, channel: Channel, select: Callable[[Item], T | None], event: str, payload: Any
    ) -> MessageQueue[Any]:
        """What is to wait for a reader of a channel; with a payload type, messages with such payloads alone.

        Raises:
            InvalidEvent: No message can be of such an event.
            InvalidPayloadType: Nothing can be decoded into the type.
        """
        accept = None if payload is None else partial(self._accept, payload_decoder(payload))
        return MessageQueue(channel, self.session, select, event=event, accept=accept, on_handled=self.handled)

    def _accept(self, decoder: PayloadDecoder, item: Item) -> Item | None:
        """The item as the reader gets it; `None` for a message that does not fit, which is reported."""
        if not isinstance(item, Message):
            return item
        try:
            return decoder.accept(item)
        except PayloadMismatch as error:
            self.handler_failed(HandlerError(None, item, error))
            return None

    def events(self) -> EventQueue:
        """What is to wait for a reader of the client's events."""
        return EventQueue(self.session)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Begin to close gracefully; nothing in a forked process, for the connection is its parent's."""
        if self.session.is_here:
            self.step(self._drain)

    def drop(self) -> None:
        """Close at once; handlers are waited for no longer. Nothing in a forked process either."""
        if self.session.is_here:
            self.step(self._abort)

    def fail(self, error: BaseException) -> None:
        """Close at once, and have whoever waits for the end raise this."""
        self.step(partial(self._fail, error))

    def exit(self, error: BaseException) -> None:
        """Close gracefully, and have whoever waits for the end raise this."""
        self.step(partial(self._exit, error))

    def handler_failed(self, report: HandlerError) -> None:
        """A handler raised, or a message did not fit the payload type of its handler or its stream.

        What is no error but asks for the end, `SystemExit` or `KeyboardInterrupt`, is heeded: the client closes
        gracefully, and whoever waits for its end gets that raised. So does what `on_handler_error` raises likewise.
        """
        if is_exit(report.error):
            self.exit(report.error)
            return
        fail_fast = self.settings.fail_fast
        if fail_fast:
            self._workers.halt()  # before anything else: nothing more is handled
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
        """Whether handlers are still to have what had come before the core ended."""
        wanted = self.session.error is not None and not self._dropped  # else it was given up with the client
        return wanted and self.now() < self.handlers_until and self.proto.stats.backlog > 0

    # ---- private ----------------------------------------------------------------------------------------------------

    def _exit(self, error: BaseException, now: float) -> None:
        if self.proto.state in (SocketState.DRAINING, SocketState.CLOSING, SocketState.CLOSED):
            return  # it is on its way
        self.session.fail(error)
        self._dropped = True  # the core's drain is all the time that handlers have
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
