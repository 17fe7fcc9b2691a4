"""A channel's messages, one after another."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from peer import push
from serving_in_thread import LONG, Flag, start, until

from phx_proto.errors import (
    ChannelClosed,
    ChannelCrashed,
    InvalidEvent,
    InvalidPayloadType,
    JoinRefused,
    MessageTimeout,
    PayloadMismatch,
    StreamNotOpen,
)
from phx_proto.events import ChannelEnded, ChannelErrored
from phx_proto.formats import V2
from phx_proto.message import Message
from phx_proto.states import ChannelState

from .adapters import TOPIC, Adapter
from .shared import Reports, leave, numbers, several_calls


def test_a_stream_opened_before_the_join_misses_nothing(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        channel = client.channel("room:1")
        with channel.messages() as messages:
            joining = start(channel.join)
            join = wire.expect("phx_join")
            wire.reply(join)
            wire.send(*(push("room:1", "n", number, join_ref=join.join_ref) for number in range(3)))
            joining.result(LONG)
            assert messages.payloads(3) == [0, 1, 2]


def test_a_stream_that_was_not_opened_says_how_to_open_it(adapter: Adapter) -> None:
    with adapter.connected() as (client, _):
        channel = client.channel("room:1")
        for stream in (channel.messages(), channel.stream(), client.events()):
            with pytest.raises(StreamNotOpen, match="not open: read it within its block: async with"):
                stream.take(1)


def test_a_stream_has_the_lifecycle_in_order(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        channel = client.channel("room:1")
        with channel.stream() as stream:
            joining = start(channel.join)
            join = wire.accept(response="hi")
            joining.result(LONG)
            wire.push("room:1", "a")
            wire.push("room:1", "phx_error", {}, join_ref=join.join_ref)
            wire.accept()
            wire.push("room:1", "b")
            joined, a, errored, rejoined, b = stream.take(5)
            assert (joined.response, joined.rejoined, a.event) == ("hi", False, "a")
            assert isinstance(errored, ChannelErrored)
            assert isinstance(errored.error, ChannelCrashed)
            assert errored.retry_in is not None
            assert (rejoined.rejoined, b.event) == (True, "b")
            leave(channel, wire)
            assert list(stream) == [ChannelEnded("room:1", None)]
        assert client.stats.backlog == 0


def test_messages_end_quietly_when_the_channel_is_left(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _), channel.messages() as messages:
        wire.push(TOPIC, "a")
        reading = start(list[Any], messages)
        until(lambda: channel.client.stats.handled)
        leave(channel, wire)
        assert [message.event for message in reading.result(LONG)] == ["a"]


def test_messages_raise_what_ended_the_channel(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, join_ref), channel.messages() as messages:
        wire.burst(push(TOPIC, "last"), push(TOPIC, "phx_close", {}, join_ref=join_ref))
        until(lambda: channel.state is ChannelState.CLOSED)
        assert next(messages).event == "last"
        for _ in range(2):
            with pytest.raises(ChannelClosed, match=TOPIC):
                next(messages)


def test_messages_of_a_refused_join_raise_the_refusal(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        channel = client.channel("room:1")
        with channel.messages() as messages:
            joining = start(channel.join)
            wire.reply(wire.expect("phx_join"), {}, "error")
            with pytest.raises(JoinRefused):
                joining.result(LONG)
            with pytest.raises(JoinRefused):
                next(messages)


def test_messages_of_a_closed_channel_end_at_once(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        leave(channel, wire)
        with channel.messages() as messages:
            assert list(messages) == []


@pytest.mark.parametrize("how", ["close", "abort"])
def test_messages_end_when_the_client_does(adapter: Adapter, how: str) -> None:
    with adapter.joined() as (channel, wire, _), channel.stream() as stream:
        reading = start(list[Any], stream)
        closing = start(getattr(channel.client, how))
        if how == "close":
            wire.let_go()
        closing.result(LONG)
        assert reading.result(LONG) == [ChannelEnded(TOPIC, None)]


def test_the_stream_of_a_channel_never_joined_ends_with_the_client(adapter: Adapter) -> None:
    with adapter.connected() as (client, _), client.channel("room:1").messages() as messages:
        reading = start(list[Any], messages)
        client.close()
        assert reading.result(LONG) == []


def test_what_waits_in_a_stream_when_the_client_closes_can_still_be_read(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _), channel.messages() as messages:
        wire.send(*numbers(3))
        until(lambda: channel.client.stats.received == 4)
        closing = start(channel.client.close)
        wire.let_go()
        closing.result(LONG)
        assert channel.client.stats.backlog == 0
        assert messages.payloads(3) == [0, 1, 2]
        assert list(messages) == []


def test_every_stream_gets_every_message_and_so_do_handlers(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    handled: list[Any] = []
    handlers.add(lambda message: handled.append(message.payload), "n")
    with (
        adapter.joined(router=handlers) as (channel, wire, _),
        channel.messages() as one,
        channel.messages() as two,
    ):
        wire.send(*numbers(3))
        assert one.payloads(3) == two.payloads(3) == [0, 1, 2]
        until(lambda: handled == [0, 1, 2])
        until(lambda: channel.client.stats.backlog == 0)
        stats = channel.client.stats
        assert (stats.delivered, stats.handled) == (3, 3)


@several_calls
def test_a_stream_that_two_readers_have_opened_can_be_closed_by_both(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _), channel.messages() as messages, messages:
        wire.push(TOPIC, "n", 1)
        assert messages.payloads(1) == [1]


def test_two_readers_of_one_stream_share_it(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _), channel.messages() as messages:
        readers = [start(list[Any], messages) for _ in range(2)]
        wire.send(*numbers(4))
        until(lambda: channel.client.stats.received == 5)
        leave(channel, wire)
        one, two = (reader.result(LONG) for reader in readers)
        assert sorted(message.payload for message in one + two) == [0, 1, 2, 3]


def test_a_reader_ends_when_somebody_closes_his_stream(adapter: Adapter) -> None:
    with adapter.joined() as (channel, _, _):
        with channel.messages() as messages:
            reading = start(list[Any], messages)
        assert reading.result(LONG) == []
        assert list(messages) == []


def test_a_slow_reader_counts_as_backlog_until_he_goes(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        client = channel.client
        with channel.messages() as messages:
            wire.send(*numbers(5))
            until(lambda: client.stats.backlog == 5)
            messages.take(2)
            assert client.stats.backlog == 3
        until(lambda: client.stats.backlog == 0)  # what was still on its way to him counts until it is there


def test_wait_for_gives_the_next_message_that_is_meant(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        go_on = Flag()

        def send() -> None:
            while not go_on.is_set():
                wire.send(push(TOPIC, "m", 2), push(TOPIC, "n", 1), push(TOPIC, "n", 2))

        sending = start(send)
        message = channel.wait_for("n", lambda message: message.payload == 2, timeout=LONG)
        go_on.set()
        sending.result(LONG)
        assert (message.event, message.payload) == ("n", 2)


def test_wait_for_waits_only_so_long(adapter: Adapter) -> None:
    with adapter.joined() as (channel, _, _):
        with pytest.raises(
            MessageTimeout, match=f"no 'never' that was waited for came on topic '{TOPIC}' within"
        ) as over:
            channel.wait_for("never", timeout=0.01)
        assert isinstance(over.value, TimeoutError)


def test_wait_for_raises_what_ended_the_channel(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, join_ref):
        ended = ChannelClosed
        closing = start(wire.push, TOPIC, "phx_close", {}, join_ref=join_ref)
        with pytest.raises(ended, match=TOPIC):
            channel.wait_for("never")
        closing.result(LONG)
        with pytest.raises(ended, match="it was left"):
            channel.wait_for("never")


# ---- exact numbers --------------------------------------------------------------------------------------------------

PRICE = f'[null,null,"{TOPIC}","price",{{"price":1234567890123456.78,"each":12.30}}]'
EXACT = {"price": Decimal("1234567890123456.78"), "each": Decimal("12.30")}


def test_decimals_of_a_stream_and_of_wait_for_are_exact(adapter: Adapter) -> None:
    with adapter.joined(serializer=V2(floats=Decimal)) as (channel, wire, _), channel.messages() as messages:
        go_on = Flag()

        def send() -> None:
            while not go_on.is_set():
                wire.send(PRICE)

        sending = start(send)
        waited = channel.wait_for("price", lambda message: "price" in message.payload, timeout=LONG)
        go_on.set()
        sending.result(LONG)
        for message in (next(messages), waited):
            assert message.payload == EXACT
            assert str(message.payload["each"]) == "12.30"


def test_a_typed_handler_gets_exact_decimals_whoever_has_read_the_payload(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    seen: list[Any] = []
    read = Flag()

    @handlers.on("price")
    def read_first(message: Message[Any]) -> None:
        assert message.payload["each"] == 12.3
        adapter.wait(read)

    handlers.add(lambda message: seen.append(message.payload), "price", payload=dict[str, Decimal])
    with adapter.joined(router=handlers) as (channel, wire, _), channel.messages() as messages:
        wire.send(PRICE)
        assert next(messages).payload["each"] == 12.3
        read.set()
        until(lambda: seen == [EXACT])


# ---- of one event, and of one type ----------------------------------------------------------------------------------


class Price(msgspec.Struct):
    price: Decimal


PRICES = [push(TOPIC, "price", {"price": "a lot"}), PRICE]


def test_a_stream_of_one_event_has_that_alone_and_the_lifecycle(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _), channel.messages("n") as numbers, channel.stream("m") as stream:
        wire.send(push(TOPIC, "m", 1), push(TOPIC, "n", 2), push(TOPIC, "other", 3), push(TOPIC, "m", 4))
        assert numbers.payloads(1) == [2]
        assert stream.payloads(2) == [1, 4]
        stats = channel.client.stats
        assert (stats.delivered, stats.unhandled, stats.backlog) == (3, 1, 0)
        leave(channel, wire)
        assert list(stream) == [ChannelEnded(TOPIC, None)]


def test_a_stream_gives_payloads_of_its_type_and_passes_over_others_with_a_report(adapter: Adapter) -> None:
    reported = Reports()
    with (
        adapter.joined(on_handler_error=reported) as (channel, wire, _),
        channel.stream(payload=Price) as stream,
        channel.messages("price") as untyped,
    ):
        wire.send(*PRICES)
        assert stream.payloads(1) == [Price(Decimal("1234567890123456.78"))]
        assert untyped.payloads(2)[0] == {"price": "a lot"}
        assert reported.told() == [("a stream", {"price": "a lot"}, "PayloadMismatch")]
        report = reported.all[0]
        assert str(report) == f"a stream failed on event 'price' of topic '{TOPIC}': {report.error!r}"
        until(lambda: channel.client.stats.backlog == 0)
        leave(channel, wire)
        assert list(stream) == [ChannelEnded(TOPIC, None)]


def test_a_payload_that_does_not_fit_its_stream_ends_a_client_that_fails_fast(adapter: Adapter) -> None:
    with adapter.joined(fail_fast=True) as (channel, wire, _), channel.messages("price", payload=Price) as prices:
        wire.send(PRICES[0])
        for raises in (lambda: next(prices), channel.client.wait_closed):
            with pytest.raises(PayloadMismatch, match="the payload of 'price' on topic 'room:lobby' is not a Price"):
                raises()


def test_wait_for_gives_payloads_of_its_type(adapter: Adapter) -> None:
    reported = Reports()
    with adapter.joined(on_handler_error=reported) as (channel, wire, _):
        go_on = Flag()

        def send() -> None:
            while not go_on.is_set():
                wire.send(*PRICES)

        sending = start(send)
        message = channel.wait_for("price", lambda message: message.payload.price > 1, payload=Price, timeout=LONG)
        go_on.set()
        sending.result(LONG)
        assert message.payload == Price(Decimal("1234567890123456.78"))


@pytest.mark.parametrize(
    ("arguments", "error", "problem"),
    [
        (("phx_close",), InvalidEvent, "no message can be read of it: event 'phx_close' is the protocol's own"),
        (("pri*",), InvalidEvent, "is no pattern: name one event, or use '\\*' for all"),
        (("price", "Price"), InvalidPayloadType, "payload type 'Price' cannot be decoded: give the class itself"),
        (("price", Adapter), InvalidPayloadType, "nothing is known of Adapter"),
    ],
)
def test_a_stream_that_could_never_have_anything_is_refused(
    adapter: Adapter, arguments: tuple[Any, ...], error: type[Exception], problem: str
) -> None:
    event, payload = (*arguments, None)[:2]
    with adapter.connected() as (client, _):
        channel = client.channel("room:1")
        for refused in (channel.messages, channel.stream, channel.wait_for):
            with pytest.raises(error, match=problem):
                refused(event, payload=payload)
