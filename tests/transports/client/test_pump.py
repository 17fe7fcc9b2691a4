"""The pump: what the core wants is done in order, and the alarm is set to its next deadline."""

from collections.abc import Sequence
from math import inf
from typing import Any

from phx_proto.client import ClientProtocol
from phx_proto.commands import AbortTransport, Command, OpenTransport
from phx_proto.events import Closed, Connecting, Event
from phx_proto.queues import DeliveryQueue
from phx_transports.asyncio.alarm import Alarm
from phx_transports.client.pump import Pump
from phx_transports.client.reports import Log
from phx_transports.client.session import Session


class Pumped:
    """A core and its pump; everything that it does is written down, in order. It is its own alarm."""

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.armed = inf
        self.proto = ClientProtocol("ws://127.0.0.1/socket")
        self.session = Session()
        self.session.listeners.append(self._happened)
        self.pump = Pump(
            self.proto,
            self.session,
            perform=self._perform,
            on_runnable=self._run,
            on_executable=self._run,
            alarm=self,
            log=Log(self.proto, lambda: 0.0),
            on_ended=lambda: self.done.append("ended"),
        )

    def _perform(self, command: Command) -> None:
        self.done.append(type(command))

    def _happened(self, event: Event) -> None:
        self.done.append(type(event))

    def _run(self, queues: Sequence[DeliveryQueue]) -> None:
        self.done.append(len(queues))

    def arm(self, deadline: float) -> None:
        self.armed = deadline
        self.done.append(deadline)


def test_commands_come_before_events_and_the_deadline_last() -> None:
    client = Pumped()
    client.proto.connect(0.0)
    client.pump.run()
    assert client.done == [OpenTransport, Connecting, client.proto.next_timeout()]


def test_what_was_done_is_not_done_again() -> None:
    client = Pumped()
    client.proto.connect(0.0)
    client.pump.run()
    client.done.clear()
    client.pump.run()
    assert client.done == []


def test_the_alarm_is_set_anew_only_for_an_earlier_deadline() -> None:
    client = Pumped()
    client.armed = 1.0
    client.proto.connect(0.0)
    client.pump.run()
    assert client.armed == 1.0


def test_the_end_is_told_after_its_events_and_each_time_from_then_on() -> None:
    client = Pumped()
    client.proto.connect(0.0)
    client.pump.run()
    client.done.clear()
    client.proto.abort(0.0)
    client.pump.run()
    client.pump.run()
    assert client.done == [AbortTransport, Closed, "ended", "ended"]


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
    alarm = Alarm(clock.call_at, lambda: due.append(alarm.armed))
    alarm.stop()  # there is nothing to stop
    alarm.arm(5.0)
    alarm.arm(3.0)
    assert [timer.cancelled for timer in clock.timers] == [True, False]
    assert alarm.armed == 3.0
    clock.timers[1].ring()
    assert due == [inf]  # who is called sets the next one
    alarm.arm(7.0)
    alarm.stop()
    assert clock.timers[2].cancelled
