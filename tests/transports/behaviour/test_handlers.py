"""Handlers: which ones get which messages, in which order; errors, and floods of messages."""

import logging
import sys
from collections import defaultdict
from concurrent.futures import CancelledError
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from peer import push
from serving_in_thread import LONG, QUICK, Flag, start, until

from phx_proto.errors import PayloadMismatch
from phx_proto.events import Closed
from phx_proto.flow import FlowLimits
from phx_proto.message import Message
from phx_proto.states import ChannelState, SocketState
from phx_transports.client.reports import HandlerError

from .adapters import TOPIC, Adapter
from .faces import Channel
from .shared import Reports, flood, in_every_way, numbers, settled

#: Where handlers of several topics, or of one with `concurrency`, are at work at once.
at_once = pytest.mark.parametrize(
    "adapter", ["asyncio", "asyncio-executor", "threads", "threads-executor"], indirect=True
)


def fails(message: Message[Any]) -> None:
    if message.payload == 1:
        raise ValueError("one")


def cancels(message: Message[Any]) -> None:
    if message.payload == 1:
        raise CancelledError


def stops_iteration(message: Message[Any]) -> None:
    if message.payload == 1:
        next(iter(()))


def closes(message: Message[Any]) -> None:
    if message.payload == 1:
        raise GeneratorExit


RAISING = [(fails, ValueError), (cancels, CancelledError), (stops_iteration, StopIteration), (closes, GeneratorExit)]


# ---- who is called with what ----------------------------------------------------------------------------------------


@in_every_way
def test_each_handler_gets_each_of_its_messages_once(adapter: Adapter) -> None:
    seen: dict[str, list[Any]] = defaultdict(list)
    handlers = adapter.handlers()

    @handlers.on("n")
    def one(message: Message[Any]) -> None:
        seen["one"].append(message.payload)

    @handlers.on("n", topic="room:*", concurrency=2)
    def two(message: Message[Any]) -> None:
        seen["two"].append(message.payload)

    @handlers.on("*", topic=TOPIC)
    def all_of_it(message: Message[Any], channel: Channel) -> None:
        seen[f"all of {channel.topic}"].append((message.event, message.payload))

    @handlers.on("n", topic="other")
    def never(message: Message[Any]) -> None:
        seen["never"].append(message)

    with adapter.joined(router=handlers) as (channel, wire, _):
        wire.send(*numbers(3), push(TOPIC, "m"))
        settled(channel.client, 4)
        assert seen.pop(f"all of {TOPIC}") == [("n", 0), ("n", 1), ("n", 2), ("m", {})]
        assert sorted(seen.pop("two")) == [0, 1, 2]
        assert seen == {"one": [0, 1, 2]}


@in_every_way
def test_a_declared_payload_comes_decoded_and_one_that_does_not_fit_is_reported(adapter: Adapter) -> None:
    class Balance(msgspec.Struct, frozen=True):
        amount: int

    seen: list[Any] = []
    reports = Reports()
    handlers = adapter.handlers()
    handlers.add(lambda message: seen.append(message.payload), "balance", payload=Balance)
    with adapter.joined(router=handlers, on_handler_error=reports) as (channel, wire, _):
        wire.push(TOPIC, "balance", {"amount": "many"})
        wire.push(TOPIC, "balance", {"amount": 5})
        settled(channel.client, 2)
        until(lambda: reports.all)
        assert seen == [Balance(5)]
        (report,) = reports.all
        assert isinstance(report.error, PayloadMismatch)
        assert report.message.payload == {"amount": "many"}


class Balance(msgspec.Struct):
    amount: int


def refuse(message: Message[Any]) -> None:
    raise ValueError


def change_and_refuse(message: Message[Balance]) -> None:
    message.payload.amount += 10
    raise ValueError


@in_every_way
@pytest.mark.parametrize(
    ("handler", "amounts"),
    [pytest.param(refuse, [1, 2, 3, 4], id="got it"), pytest.param(change_and_refuse, [11, 12, 13, 14], id="left it")],
)
def test_a_report_has_the_payload_as_its_handler(adapter: Adapter, handler: Any, amounts: list[int]) -> None:
    reports = Reports()
    handlers = adapter.handlers()
    handlers.add(handler, "balance", payload=Balance)
    with adapter.joined(router=handlers, on_handler_error=reports) as (channel, wire, _):
        for count in range(1, 5):  # each in a read of its own; the reader may decode the later ones itself
            wire.push(TOPIC, "balance", {"amount": count})
            settled(channel.client, count)
        until(lambda: len(reports.all) == 4)
        assert [report.message.payload for report in reports.all] == [Balance(amount) for amount in amounts]


@in_every_way
def test_a_payload_type_whose_code_exits_is_run_once_and_reported_once(adapter: Adapter) -> None:
    made: list[int] = []

    class Checked(msgspec.Struct):
        amount: int

        def __post_init__(self) -> None:
            made.append(self.amount)
            if self.amount == 1:
                raise GeneratorExit

    reports = Reports()
    handlers = adapter.handlers()
    handlers.add(refuse, "checked", payload=Checked)
    with adapter.joined(router=handlers, on_handler_error=reports) as (channel, wire, _):
        for amount in (1, 2):
            wire.push(TOPIC, "checked", {"amount": amount})
            settled(channel.client, amount)
        until(lambda: len(reports.all) == 2)
        assert [type(report.error) for report in reports.all] == [GeneratorExit, ValueError]
        assert made == [1, 2]


def test_a_payload_that_is_not_sound_is_reported_like_the_handlers_error(adapter: Adapter) -> None:
    reports = Reports()
    handlers = adapter.handlers()
    handlers.add(lambda message: message.payload, "n")
    with adapter.joined(router=handlers, on_handler_error=reports) as (channel, wire, _):
        wire.send(f'[null,null,"{TOPIC}","n",1e999]', push(TOPIC, "n"))
        settled(channel.client, 2)
        until(lambda: reports.all)
        assert [type(report.error) for report in reports.all] == [msgspec.ValidationError]


def test_handlers_come_and_go_while_the_client_runs(adapter: Adapter) -> None:
    seen: list[Any] = []
    handlers = adapter.handlers()
    with adapter.joined(router=handlers) as (channel, wire, _):
        wire.push(TOPIC, "n", 1)
        until(lambda: channel.client.stats.unhandled == 1)
        handler = handlers.add(lambda message: seen.append(message.payload), "n")
        wire.push(TOPIC, "n", 2)
        until(lambda: seen)
        handlers.off(handler)
        wire.push(TOPIC, "n", 3)
        until(lambda: channel.client.stats.unhandled == 2)
        assert seen == [2]


def test_the_counters_add_up_with_every_kind_of_consumer(adapter: Adapter) -> None:
    seen: list[Any] = []
    handlers = adapter.handlers()
    handlers.add(lambda message: seen.append(message.payload), "n")
    handlers.add(lambda message: seen.append(message.payload), "n", concurrency=3)
    with adapter.joined(router=handlers) as (channel, wire, _), channel.stream() as stream:
        wire.burst(*numbers(100), push(TOPIC, "m"))
        assert len(stream.take(101)) == 101
        settled(channel.client, 101)
        assert len(seen) == 200
        stats = channel.client.stats
        assert (stats.received, stats.unhandled) == (102, 0)


# ---- order ----------------------------------------------------------------------------------------------------------


@in_every_way
def test_each_topics_messages_are_handled_in_order_under_a_flood(adapter: Adapter) -> None:
    seen: list[Any] = []
    handlers = adapter.handlers()
    handlers.add(lambda message, channel: seen.append((channel.topic, message.payload)), "n")
    topics = [f"room:{number}" for number in range(4)]
    options = replace(QUICK, flow=FlowLimits(high=200, low=50))
    with adapter.connected(router=handlers, options=options) as (client, wire):
        for topic in topics:
            adapter.join(client, wire, topic)
        wire.send(*(push(topic, "n", number) for number in range(500) for topic in topics))
        settled(client, 2000)
        for topic in topics:
            assert [number for where, number in seen if where == topic] == list(range(500))


@at_once
def test_a_slow_handler_holds_its_own_topic_alone(adapter: Adapter) -> None:
    seen: list[Any] = []
    go_on = Flag()
    handlers = adapter.handlers()

    @handlers.on("n")
    def hear(message: Message[Any], channel: Channel) -> None:
        if channel.topic == TOPIC:
            adapter.wait(go_on)
        seen.append((channel.topic, message.payload))

    with adapter.joined(router=handlers) as (channel, wire, _):
        adapter.join(channel.client, wire, "room:2")
        wire.send(*numbers(2), *numbers(2, "room:2"))
        until(lambda: len(seen) == 2)
        go_on.set()
        until(lambda: len(seen) == 4)
        assert seen == [("room:2", 0), ("room:2", 1), (TOPIC, 0), (TOPIC, 1)]


@in_every_way
def test_a_handler_of_one_topic_is_never_run_twice_at_once(adapter: Adapter) -> None:
    running: list[int] = []
    most: list[int] = []
    handlers = adapter.handlers()

    @handlers.on("n")
    def work(message: Message[Any], channel: Channel) -> None:
        running.append(message.payload)
        most.append(len(running))
        channel.push("go on")
        running.remove(message.payload)

    with adapter.joined(router=handlers) as (channel, wire, _):
        wire.send(*numbers(30))
        for _ in range(30):
            wire.reply(wire.expect("go on"))
        settled(channel.client, 30)
        assert set(most) == {1}


# ---- errors ---------------------------------------------------------------------------------------------------------


@in_every_way
@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(("handler", "error"), RAISING)
def test_what_a_handler_raises_is_reported_with_its_message_and_harms_nobody(
    adapter: Adapter, handler: Any, error: type[Exception], concurrency: int
) -> None:
    reports, other = Reports(), list[Any]()
    handlers = adapter.handlers()
    handlers.add(handler, "n", concurrency=concurrency)
    handlers.add(lambda message: other.append(message.payload), "n")
    with adapter.joined(router=handlers, on_handler_error=reports) as (channel, wire, _):
        wire.send(*numbers(5), *numbers(5))
        settled(channel.client, 10)
        until(lambda: len(reports.all) == 2)  # those of an executor's batch are told at its end
        assert [(name, payload) for name, payload, _ in reports.told()] == [(handler.__name__, 1)] * 2
        # Python itself lets no coroutine raise StopIteration.
        assert {kind for *_, kind in reports.told()} <= {error.__name__, "RuntimeError"}
        assert other == [*range(5), *range(5)]
        assert channel.client.state is SocketState.OPEN


@in_every_way
@pytest.mark.parametrize(("handler", "error"), RAISING)
def test_fail_fast_ends_the_client_with_the_handlers_error(
    adapter: Adapter, handler: Any, error: type[Exception]
) -> None:
    handlers = adapter.handlers()
    handlers.add(handler, "n")
    with adapter.joined(router=handlers, fail_fast=True) as (channel, wire, _), channel.messages() as messages:
        running = start(channel.client.run)
        wire.push(TOPIC, "n", 1)
        raised = RuntimeError if error in (StopIteration, GeneratorExit) else error
        with pytest.raises(raised):
            running.result(LONG)
        assert (channel.client.state, channel.state) == (SocketState.CLOSED, ChannelState.CLOSED)
        assert isinstance(channel.client.error, raised)
        assert wire.ended() is None
        with pytest.raises(raised):
            list(messages)
        with pytest.raises(raised):
            channel.client.wait_closed()


@in_every_way
@pytest.mark.parametrize("kind", ["in line", "with concurrency"])
def test_after_fail_fast_has_met_an_error_nothing_more_is_handled(adapter: Adapter, kind: str) -> None:
    seen: list[Any] = []
    error = ValueError("five")
    handlers = adapter.handlers()
    concurrency = 1 if kind == "in line" else 2
    failed = Flag()

    @handlers.on("n", concurrency=concurrency)
    def hear(message: Message[Any]) -> None:
        if message.payload == 5:
            raise error
        if concurrency > 1:
            adapter.wait(failed)
        seen.append(message.payload)

    with (
        adapter.joined(router=handlers, fail_fast=True, on_handler_error=lambda report: failed.set()) as (
            channel,
            wire,
            _,
        ),
        channel.client.events() as events,
        channel.messages() as messages,
    ):
        client = channel.client
        wire.send(*([push(TOPIC, "n", 5)] if concurrency > 1 else []), *numbers(2000))
        with pytest.raises(ValueError, match="five"):
            client.wait_closed()
        assert events.next_of(Closed).error is error
        with pytest.raises(ValueError, match="five"):
            list(messages)
        handled = client.stats.handled
    if concurrency == 1:
        assert seen == [*range(5)]
        assert handled < 2000
    else:
        assert len(seen) <= concurrency  # what was begun before


@in_every_way
def test_an_exit_in_a_handler_closes_gracefully_and_is_raised_where_the_end_is_waited_for(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    handlers = adapter.handlers()

    @handlers.on("n")
    def hear(message: Message[Any]) -> None:
        seen.append(message.payload)
        if message.payload == 1:
            sys.exit(3)

    with adapter.joined(router=handlers) as (channel, wire, _), channel.messages() as messages:
        running = start(channel.client.run)
        wire.burst(*numbers(4))
        wire.let_go(TOPIC)
        with pytest.raises(SystemExit) as ended:
            running.result(LONG)
        assert ended.value.code == 3
        assert channel.client.error is ended.value
        assert seen == [0, 1, 2, 3]  # what had come is handled
        assert len(list(messages)) == 4  # a plain end
        channel.client.close()
    assert "hear" not in caplog.text  # it is no error


def test_by_default_it_is_logged_with_its_traceback(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    handlers = adapter.handlers()
    handlers.add(fails, "n")
    with adapter.joined(router=handlers) as (_, wire, _):
        wire.push(TOPIC, "n", 1)
        until(lambda: "ValueError: one" in caplog.text)
    assert "Traceback" in caplog.text


def test_a_report_that_fails_is_logged_with_what_was_to_be_reported(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    def report(report: HandlerError) -> None:
        raise report.error

    handlers = adapter.handlers()
    handlers.add(fails, "n")
    with adapter.joined(router=handlers, on_handler_error=report) as (channel, wire, _):
        wire.send(*numbers(5))
        settled(channel.client, 5)
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 2
    assert any("on_handler_error itself failed" in error for error in errors)


@in_every_way
def test_after_an_abort_no_handler_begins(adapter: Adapter) -> None:
    begun: list[Any] = []
    entered, go_on = Flag(), Flag()
    handlers = adapter.handlers()

    @handlers.on("n")
    def hear(message: Message[Any]) -> None:
        begun.append(message.payload)
        entered.set()
        adapter.wait(go_on)

    with adapter.joined(router=handlers) as (channel, wire, _):
        wire.push(TOPIC, "n", 99)
        entered.wait()
        wire.send(*numbers(5))
        until(lambda: channel.client.stats.delivered == 6)
        channel.client.abort()
        go_on.set()
    assert begun == [99]


# ---- a flood, and back-pressure -------------------------------------------------------------------------------------


def test_a_slow_reader_of_a_stream_is_felt_likewise(adapter: Adapter) -> None:
    options = replace(QUICK, flow=FlowLimits(high=100, low=20), heartbeat=0.1)
    with adapter.joined(options=options) as (channel, wire, _), channel.messages() as messages:
        client = channel.client
        sending = start(flood, wire, 2000)
        until(lambda: client.stats.backlog >= 50)
        for _ in range(2):
            wire.heartbeat()
        assert not sending.done()
        assert client.stats.delivered < 300
        assert [message.payload[0] for message in messages.take(2000)] == list(range(2000))
        sending.result(LONG)
        assert client.stats.reconnects == 0


@in_every_way
def test_a_handler_that_waits_for_a_reply_behind_a_flood_gets_it(adapter: Adapter) -> None:
    replies: list[Any] = []
    full = Flag()
    handlers = adapter.handlers()

    @handlers.on("n")
    def ask(message: Message[Any], channel: Channel) -> None:
        if message.payload[0] == 0:
            adapter.wait(full)
            replies.append(channel.push("ask").response)

    options = replace(QUICK, flow=FlowLimits(high=50, low=10))
    with adapter.joined(router=handlers, options=options) as (channel, wire, _):
        sending = start(flood, wire, 500)
        until(lambda: channel.client.stats.backlog >= 25)
        full.set()
        asked = wire.expect("ask")
        sending.result(LONG)  # reading goes on
        wire.reply(asked, "answer")
        settled(channel.client, 500)
        assert replies == ["answer"]


# ---- topics that were never joined ----------------------------------------------------------------------------------


def test_messages_of_topics_never_joined_reach_the_handlers_that_take_such_in_their_order(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    heard: list[Any] = []
    states: set[ChannelState] = set()

    @handlers.on("data", topic="__absinthe__:*", unjoined=True)
    def take(message: Message[Any], channel: Channel) -> None:
        heard.append((message.topic, message.payload))
        states.add(channel.state)

    with adapter.connected(router=handlers) as (client, wire):
        for number in range(20):
            wire.push(f"__absinthe__:doc:{number % 3}", "data", number)
        until(lambda: client.stats.handled == 20)
        assert heard == [(f"__absinthe__:doc:{number % 3}", number) for number in range(20)]
        assert states == {ChannelState.IDLE}
