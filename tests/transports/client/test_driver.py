"""The driver: the core's commands are carried out in order, the alarm is set, and the client ends."""

from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from math import inf
from typing import Any, Self

import pytest
from msgspec import Raw

from phx_proto.backoff import ReconnectPolicy
from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import AbortTransport, Command, OpenTransport
from phx_proto.errors import ConnectError, InvalidHandler, PayloadMismatch
from phx_proto.events import Closed, Connecting, Event
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.queues import Delivery, DeliveryQueue, HandlerQueue, Place
from phx_transports.asyncio.alarm import Alarm
from phx_transports.client import calls
from phx_transports.client.batches import PortabilityCheck
from phx_transports.client.driver import Driver
from phx_transports.client.options import ClientSettings
from phx_transports.client.queues import everything
from phx_transports.client.reports import HandlerError

#: A close code after which the client does not come back.
FINAL = 4001


def answer_to_join(channel: Channel) -> str:
    return f'["{channel.join_ref}","{channel.join_ref}","room:1","phx_reply",{{"status":"ok","response":{{}}}}]'


@pytest.fixture
def processes() -> Iterator[Executor]:
    """One that begins no process until it gets something."""
    with ProcessPoolExecutor(1) as pool:
        yield pool


def in_executors(handler: Handler) -> Place:
    return Place.LINE if handler.executor is None else Place.EXECUTOR


class Client(Driver):
    """A connected client that hands no message to its handlers; `time` is the time. Everything else it writes down."""

    def __init__(self, *, fail_fast: bool = False, executor: Executor | None = None, **settings: Any) -> None:
        self.time = 0.0
        self.armed = inf
        self.done: list[Any] = []
        self.reports: list[HandlerError] = []
        self.halts: list[str] = []
        router = Router()
        self.handler: Handler = router.add(lambda message: None, "n")
        options = ClientOptions(reconnect=ReconnectPolicy(final_codes=frozenset({FINAL})))
        proto = ClientProtocol("ws://127.0.0.1/socket", router=router, options=options, placement=in_executors)
        settings |= {"on_handler_error": self.reports.append, "fail_fast": fail_fast, "executor": executor}
        super().__init__(proto, ClientSettings(**settings))
        self.told: list[Event] = []
        self.session.listeners += [self.told.append, lambda event: self.done.append(type(event))]
        self.attach(now=lambda: self.time, perform=self.perform, workers=self, alarm=self)

    def perform(self, command: Command) -> None:
        self.done.append(type(command))
        if isinstance(command, OpenTransport):
            self.link = command.link

    def arm(self, deadline: float) -> None:
        self.armed = deadline
        self.done.append(deadline)

    def add(self, queues: list[DeliveryQueue]) -> None:
        self.runnable = queues

    def execute(self, queues: list[HandlerQueue]) -> None:
        self.done += queues

    def halt(self) -> None:
        self.halts.append(self.state)

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        self.proto.handled(deliveries, self.time)

    def on_closed(self) -> None:
        self.done.append("closed")

    def connect(self) -> Self:
        self.start(inf)
        self.step(lambda now: self.link.opened(None, now))
        return self

    def receive(self, count: int) -> None:
        """Messages that wait for their handler."""
        channel: Any = self.proto.channels.get("room:1") or self.proto.channel("room:1")
        self.step(channel.join)
        ok = answer_to_join(channel)
        messages = [f'["{channel.join_ref}",null,"room:1","n",{number}]' for number in range(count)]
        self.step(lambda now: self.link.receive_all([ok, *messages], now))

    def fail_handler(self, error: BaseException | None = None) -> BaseException:
        error = error or ZeroDivisionError()
        message = Message[Any](join_ref="1", ref=None, topic="room:1", event="n", payload={})
        self.handler_failed(HandlerError(self.handler, message, error))
        return error

    @property
    def state(self) -> str:
        return self.proto.state.name


class Reader:
    """Somebody who reads a channel."""

    released = 0

    def release(self) -> None:
        self.released += 1

    def end(self) -> None: ...


def test_the_first_signal_closes_gracefully_and_the_second_at_once() -> None:
    client = Client().connect()
    client.receive(1)
    client.on_signal(2)
    assert client.state == "DRAINING"
    client.on_signal(2)
    assert (client.state, client.session.error, client.handlers_wanted) == ("CLOSED", None, False)


def test_a_signal_while_the_connection_is_being_closed_drops_it() -> None:
    client = Client().connect()
    client.on_signal(2)
    assert client.state == "CLOSING"
    client.on_signal(2)
    assert client.state == "CLOSED"


def test_closing_takes_its_time_and_no_longer() -> None:
    client = Client().connect()
    client.receive(1)
    client.stop()
    client.time = 9.0
    client.step(client.proto.handle_timeout)
    assert client.state == "DRAINING"
    client.time = 10.0
    client.step(client.proto.handle_timeout)
    assert client.state == "CLOSED"


@pytest.mark.parametrize("how", ["stop", "drop"])
def test_nothing_waits_for_readers_from_then_on(how: str) -> None:
    client, reader = Client().connect(), Reader()
    client.session.readers.add(reader)
    getattr(client, how)()
    assert reader.released > 0


def test_a_handlers_error_is_reported_and_no_more() -> None:
    client = Client().connect()
    error = client.fail_handler()
    assert [report.error for report in client.reports] == [error]
    assert client.state == "OPEN"


def test_with_fail_fast_it_ends_the_client() -> None:
    client = Client(fail_fast=True).connect()
    client.receive(3)
    error = client.fail_handler()
    client.fail_handler()  # the first counts
    assert client.reports[0].error is error
    assert (client.state, client.session.error) == ("CLOSED", error)
    assert not client.handlers_wanted


def test_an_error_after_the_end_changes_nothing() -> None:
    client = Client().connect()
    client.drop()
    client.fail(ZeroDivisionError())
    assert client.session.error is None


def test_what_came_before_the_servers_end_is_still_handled() -> None:
    client = Client().connect()
    client.receive(2)
    assert client.handlers_until == inf
    client.time = 1.0
    client.step(lambda now: client.link.closed(FINAL, "", now))
    assert (client.state, client.handlers_until, client.handlers_wanted) == ("CLOSED", 11.0, True)
    (queue,) = client.runnable
    client.step(lambda now: client.proto.handled(queue.take(), now))
    assert not client.handlers_wanted


def test_handlers_that_take_too_long_after_it_are_left() -> None:
    client = Client().connect()
    client.receive(2)
    client.step(lambda now: client.link.closed(FINAL, "", now))
    client.time = 9.9
    client.step(client.proto.handle_timeout)
    assert client.handlers_wanted
    client.time = 10.0
    assert not client.handlers_wanted


def test_a_drop_after_it_waits_for_no_handler() -> None:
    client = Client().connect()
    client.receive(2)
    client.step(lambda now: client.link.closed(FINAL, "", now))
    client.drop()
    assert not client.handlers_wanted


# ---- what is no error ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
@pytest.mark.parametrize("fail_fast", [False, True])
def test_what_asks_for_the_end_closes_gracefully_and_is_told_to_who_waits_for_it(
    error: BaseException, fail_fast: bool
) -> None:
    client = Client(fail_fast=fail_fast).connect()
    client.receive(2)
    client.fail_handler(error)
    assert (client.state, client.session.error, client.reports, client.halts) == ("DRAINING", error, [], [])
    client.fail_handler(SystemExit("a second one changes nothing"))
    assert client.session.error is error
    (queue,) = client.runnable
    client.step(lambda now: client.proto.handled(queue.take(), now))
    client.step(client.proto.abort)
    assert client.session.closed
    assert not client.handlers_wanted


def test_nothing_more_is_begun_before_anybody_is_told_of_an_error_that_ends_the_client() -> None:
    client = Client(fail_fast=True).connect()
    client.fail_handler()
    assert client.halts == ["OPEN"]
    assert client.state == "CLOSED"


def test_an_exit_by_who_is_told_of_errors_is_heeded_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client().connect()

    def leave(report: HandlerError) -> None:
        raise SystemExit(4)

    monkeypatch.setattr(client, "_on_handler_error", leave)
    client.fail_handler()
    assert repr(client.session.error) == "SystemExit(4)"


# ---- steps -----------------------------------------------------------------------------------------------------------


def test_commands_come_before_events_and_the_deadline_last() -> None:
    client = Client()
    client.start(10.0)
    assert client.done == [OpenTransport, Connecting, client.proto.next_timeout()]


def test_what_was_done_is_not_done_again() -> None:
    client = Client()
    client.start(10.0)
    client.done.clear()
    client.pump()
    assert client.done == []


def test_the_alarm_is_set_anew_only_for_an_earlier_deadline() -> None:
    client = Client()
    client.armed = 1.0
    client.start(10.0)
    assert client.armed == 1.0


def test_the_end_is_told_after_its_events_and_each_time_from_then_on() -> None:
    client = Client()
    client.start(10.0)
    client.done.clear()
    client.step(client.proto.abort)
    client.pump()
    assert client.done == [AbortTransport, Closed, "closed", "closed"]


def test_an_alarm_is_never_early_where_the_clock_is_a_little_behind_it() -> None:
    client = Client()
    client.start(10.0)
    at = client.armed
    client.time = at - 1e-9
    client.armed = inf
    client.due(at)
    assert client.armed > at


def test_an_alarm_is_set_for_what_the_log_is_to_tell_later() -> None:
    client = Client().connect()
    client.log.due = 5.0
    client.step(lambda now: None)
    assert client.armed == 5.0


def test_a_call_begins_with_a_step_and_its_event_ends_it() -> None:
    client, joining, closing = Client().connect(), Future[Any](), Future[None]()
    channel = client.proto.channel("room:1")
    ref = client.begin(calls.join(channel), joining)
    assert client.session.awaits(ref)
    client.step(lambda now: client.link.receive_all([answer_to_join(channel)], now))
    assert joining.result(0) == {}
    client.session.wait_closed(closing)
    client.fail(error := ZeroDivisionError())
    assert closing.exception(0) is error
    assert client.told[-1] == Closed(error)


def test_what_an_executor_is_to_run_is_given_to_one() -> None:
    with ThreadPoolExecutor(1) as pool:
        client = Client(executor=pool)
        client.proto.router.add(lambda message: None, "n", executor=pool)
        client.connect().receive(2)
    assert [queue.handler.executor for queue in client.done if isinstance(queue, HandlerQueue)] == [pool]


def test_handlers_are_looked_at_for_the_executor_of_the_client(processes: Executor) -> None:
    client = Client()
    client.check_channel("room:1", None)
    client.check(client.handler)  # a lambda, which stays here
    with pytest.raises(InvalidHandler, match="it cannot be sent to another process"):
        Client(executor=processes)  # its lambda does not
    client = Client()
    client._portability = PortabilityCheck(processes)
    with pytest.raises(InvalidHandler):
        client.check(client.handler)
    with pytest.raises(InvalidHandler):
        client.check_channel("room:1", None)


def test_a_stream_of_a_type_gives_what_fits_and_reports_the_rest() -> None:
    client = Client().connect()
    channel = client.proto.channel("room:1")
    queue: Any = client.messages(channel, everything, "n", int)
    plain: Any = client.messages(channel, everything, "*", None)
    queue.open()
    assert [tap.event for tap in channel.inbox.taps] == ["n"]
    client.receive(2)
    joined, first, _ = queue.waiting
    assert (queue.accept(joined), queue.accept(first).payload, plain.accept) == (joined, 0, None)
    misfit = Message[Any](join_ref="1", ref=None, topic="room:1", event="n", payload=Raw(b'"x"'))
    assert queue.accept(misfit) is None
    (report,) = client.reports
    assert (report.handler, report.message, type(report.error)) == (None, misfit, PayloadMismatch)
    backlog = client.proto.stats.backlog
    queue.take(), queue.take()
    assert client.proto.stats.backlog == backlog  # the handler has the message, too


def test_events_wait_for_their_reader() -> None:
    client = Client()
    queue = client.events()
    queue.open()
    client.start(10.0)
    assert [type(event) for event in queue.waiting] == [Connecting]


def test_the_log_hears_all_and_has_its_own_alarm(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    client.start(inf)
    for _ in range(7):  # beyond those that have lines of their own
        client.step(lambda now: client.link.failed(ConnectError("down"), now))
        client.time = client.proto.next_timeout() or 0.0
        client.step(client.proto.handle_timeout)
    assert "attempt 1 to connect failed: down" in caplog.text
    assert client.armed <= client.log.due < inf
    assert client.next_due == min(client.log.due, client.proto.next_timeout() or inf)


@pytest.mark.parametrize("how", ["stop", "exit"])
def test_handlers_have_the_time_that_was_given_for_the_end(how: str) -> None:
    client = Client(drain_timeout=3.0).connect()
    client.receive(1)
    error = KeyboardInterrupt()
    client.stop() if how == "stop" else client.exit(error)
    client.time = 2.9
    client.step(client.proto.handle_timeout)
    assert client.state == "DRAINING"
    client.time = 3.0
    client.step(client.proto.handle_timeout)
    assert client.state == "CLOSED"
    assert not client.handlers_wanted
    assert client.told[-1] == Closed(None if how == "stop" else error)


def test_signals_are_told_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    client = Client().connect()
    client.on_signal(2)
    client.on_signal(15)
    place = "the client of ws://127.0.0.1/socket/websocket"
    assert [record.getMessage() for record in caplog.records if "client of" in record.getMessage()][:2] == [
        f"SIGINT: {place} closes",
        f"SIGTERM again: {place} drops its connection",
    ]


class Clock:
    """Timers that a test lets ring."""

    def __init__(self) -> None:
        self.timers: list[Clock.Timer] = []

    def call_at(self, when: float, callback: Any) -> "Clock.Timer":
        self.timers.append(Clock.Timer(when, callback))
        return self.timers[-1]

    class Timer:
        def __init__(self, when: float, ring: Any) -> None:
            self._when = when
            self.ring = ring
            self.cancelled = False

        def when(self) -> float:
            return self._when

        def cancel(self) -> None:
            self.cancelled = True


def test_the_alarm_of_asyncio_has_one_timer() -> None:
    clock, due = Clock(), list[float]()
    alarm = Alarm(clock.call_at, due.append)
    alarm.stop()  # there is nothing to stop
    alarm.arm(5.0)
    alarm.arm(3.0)
    assert [timer.cancelled for timer in clock.timers] == [True, False]
    assert alarm.armed == 3.0
    clock.timers[1].ring()
    assert (due, alarm.armed) == ([3.0], inf)  # `on_due` sets the next one
    alarm.arm(7.0)
    alarm.stop()
    assert clock.timers[2].cancelled
