"""The driver: what the core wants is done in order, the alarm is set, and how a client ends."""

from collections.abc import Sequence
from math import inf
from typing import Any, Self

import pytest

from phx_proto.backoff import ReconnectPolicy
from phx_proto.client import ClientProtocol
from phx_proto.commands import AbortTransport, Command, OpenTransport
from phx_proto.events import Closed, Connecting
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.queues import Delivery, DeliveryQueue, HandlerQueue
from phx_transports.asyncio.alarm import Alarm
from phx_transports.client.driver import Driver
from phx_transports.client.options import ClientSettings
from phx_transports.client.reports import HandlerError

#: A close code after which the client does not come back.
FINAL = 4001


class Client(Driver):
    """A connected client that hands no message to its handlers; `time` is the time. Everything else it writes down."""

    def __init__(self, *, fail_fast: bool = False) -> None:
        self.time = 0.0
        self.armed = inf
        self.done: list[Any] = []
        self.reports: list[HandlerError] = []
        self.halts: list[str] = []
        router = Router()
        self.handler: Handler = router.add(lambda message: None, "n")
        options = ClientOptions(reconnect=ReconnectPolicy(final_codes=frozenset({FINAL})))
        proto = ClientProtocol("ws://127.0.0.1/socket", router=router, options=options)
        super().__init__(proto, ClientSettings(on_handler_error=self.reports.append, fail_fast=fail_fast))
        self.session.listeners.append(lambda event: self.done.append(type(event)))
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

    def execute(self, queues: list[HandlerQueue]) -> None: ...

    def halt(self) -> None:
        self.halts.append(self.state)

    def handled(self, deliveries: Sequence[Delivery]) -> None: ...

    def on_closed(self) -> None:
        self.done.append("closed")

    def connect(self) -> Self:
        self.start(inf)
        self.step(lambda now: self.link.opened(None, now))
        return self

    def receive(self, count: int) -> None:
        """Messages that wait for their handler."""
        channel = self.proto.channel("room:1")
        self.step(channel.join)
        ref = channel.join_ref
        ok = f'["{ref}","{ref}","room:1","phx_reply",{{"status":"ok","response":{{}}}}]'
        self.step(lambda now: self.link.receive_all([ok, *([f'["{ref}",null,"room:1","n",{{}}]'] * count)], now))

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
