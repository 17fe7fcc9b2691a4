"""The faults that clients meet, row by row, each as an example of what this one does, over real sockets.

Times are scaled down by options: a step of seconds is one of milliseconds here.
"""

import logging
import math
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from peer import push
from serving_in_thread import LONG, QUICK, Flag, reserved_port, serving, start, until

from phx_proto.backoff import RECONNECT, Backoff, ReconnectPolicy
from phx_proto.errors import (
    ChannelClosed,
    ChannelCrashed,
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    HandshakeRefused,
    InvalidPayload,
    JoinRefused,
    PushLost,
    PushTimeout,
)
from phx_proto.events import (
    BadFrame,
    ChannelErrored,
    ChannelJoined,
    Connected,
    ConnectFailed,
    Disconnected,
    InboxOverflow,
)
from phx_proto.flow import FlowLimits
from phx_proto.message import Message
from phx_proto.options import ClientOptions, JoinPolicy, Refusal, ServerClose
from phx_proto.states import ChannelState, SocketState
from phx_transports.client.reports import HandlerError

from .adapters import TOPIC, Adapter
from .faces import Stream
from .house import house
from .shared import flood, in_every_way

TOPICS = ["room:1", "room:2", "room:3"]

#: The default schedules, a thousand times as fast.
FAST = ClientOptions(
    reconnect=ReconnectPolicy(schedule=Backoff(tuple(step / 1000 for step in RECONNECT.steps))),
    join=JoinPolicy(backoff=Backoff((0.001, 0.002, 0.005, 0.01))),
)


class Hurried(ReconnectPolicy):
    """The waits after a close, a hundred times as short."""

    def after_close(self, code: int | None, attempt: int, rng: Any = None) -> float | None:
        wait = super().after_close(code, attempt, rng)
        return None if wait is None else wait / 100


def failures(events: Stream) -> list[ConnectFailed]:
    """Of the tries until the connection is up again."""
    failed: list[ConnectFailed] = []
    for event in events:
        if isinstance(event, Connected):
            assert event.reconnected
            return failed
        if isinstance(event, ConnectFailed):
            failed.append(event)
    raise AssertionError("the client has ended")


def rejoined(events: Stream, count: int) -> list[str]:
    """The topics of the next rejoins."""
    return sorted(events.next_of(ChannelJoined).topic for _ in range(count))


def test_01_a_server_that_is_killed_and_back_soon(adapter: Adapter) -> None:
    options = replace(QUICK, reconnect=ReconnectPolicy(schedule=Backoff((0.005, 0.005, 0.005, 0.4))))
    with house() as server:
        client = adapter.connect(server.url, options=options)
        channels = [client.join(topic) for topic in TOPICS]
        with client.events() as events:
            server.kill()
            lost = events.next_of(Disconnected)
            assert (lost.code, bool(lost.reason)) == (None, True)
            assert 0 < lost.retry_in <= 0.005
            until_slow = [events.next_of(ConnectFailed) for _ in range(3)]
            assert [failed.attempt for failed in until_slow] == [2, 3, 4]
            server.up()
            assert len(failures(events)) <= 1  # back with the next step
            assert rejoined(events, 3) == TOPICS
        assert sorted(server.joins) == TOPICS  # once
        assert channels[0].push("echo", 1).response == 1
        client.close()


def test_02_a_server_that_is_back_after_a_long_time(adapter: Adapter) -> None:
    with house() as server:
        client = adapter.connect(server.url, options=FAST)
        client.join("room:1")
        with client.events() as events:
            server.kill()
            gone = [events.next_of(ConnectFailed) for _ in range(60)]  # each an event
            assert [failed.attempt for failed in gone] == list(range(2, 62))
            assert all("refused the connection" in str(failed.error) for failed in gone[10:])
            assert all(0.0025 <= failed.retry_in <= 0.005 for failed in gone[10:])  # the last step, for ever
            server.up()
            assert all(failed.retry_in <= 0.005 for failed in failures(events))
            assert rejoined(events, 1) == ["room:1"]
        assert server.joins == ["room:1"]
        client.close()


def test_03_a_server_that_restarts_meets_a_fleet_that_spreads(adapter: Adapter) -> None:
    with house() as server, ExitStack() as stack:
        clients = [adapter.connect(server.url, options=replace(QUICK, reconnect=Hurried())) for _ in range(5)]
        for client in clients:
            client.join("room:1")
        streams = [stack.enter_context(client.events()) for client in clients]
        server.stop()
        lost = [events.next_of(Disconnected) for events in streams]
        assert {one.code for one in lost} == {1012}
        assert all(0 <= one.retry_in <= 5 / 100 for one in lost)
        assert len({one.retry_in for one in lost}) == 5
        server.up()
        for events in streams:
            failures(events)
            assert rejoined(events, 1) == ["room:1"]
        assert server.joins == ["room:1"] * 5
        for client in clients:
            client.close()


def test_04_disconnected_by_id(adapter: Adapter) -> None:
    with house() as server:
        client = adapter.connect(server.url, params={"user": "7"}, options=QUICK)
        client.join("room:1")
        with client.events() as events:
            server.disconnect("7")
            assert events.next_of(Disconnected).code == 1001
            assert events.next_of(Connected).reconnected
            assert rejoined(events, 1) == ["room:1"]
        client.close()


def test_05_a_channel_that_crashes(adapter: Adapter) -> None:
    with adapter.joined("room:1") as (channel, wire, join_ref):
        other, _ = adapter.join(channel.client, wire, "room:2")
        with channel.stream() as stream, other.stream() as elsewhere:
            pushing = start(channel.push, "slow", timeout=math.inf)
            wire.expect("slow")
            wire.push("room:1", "phx_error", {}, join_ref=join_ref)
            with pytest.raises(PushLost):
                pushing.result(LONG)
            wire.accept("room:1")
            errored, again = stream.take(2)
            assert isinstance(errored, ChannelErrored)
            assert isinstance(errored.error, ChannelCrashed)
            assert again.rejoined
            wire.push("room:2", "n", 1)
            assert next(elsewhere).payload == 1  # and nothing before it


def test_05_a_channel_that_really_crashes_is_joined_again(adapter: Adapter) -> None:
    with house() as server:
        client = adapter.connect(server.url, options=QUICK)
        channel = client.join("room:1")
        with client.events() as events:
            with pytest.raises(PushLost):
                channel.push("crash", timeout=math.inf)
            assert rejoined(events, 1) == ["room:1"]
        assert channel.push("echo", 1).response == 1
        client.close()


def test_06_a_channel_that_the_server_stops(adapter: Adapter) -> None:
    with adapter.joined("room:1") as (channel, wire, join_ref), channel.messages() as messages:
        other, _ = adapter.join(channel.client, wire, "room:2")
        pushing = start(channel.push, "slow", timeout=math.inf)
        wire.expect("slow")
        wire.push("room:1", "phx_close", {}, join_ref=join_ref)
        with pytest.raises((ChannelClosed, PushLost), match="room:1"):
            pushing.result(LONG)
        with pytest.raises(ChannelClosed, match="the server closed it"):
            next(messages)
        with pytest.raises(ChannelClosed):
            channel.push("more")
        assert channel.state is ChannelState.CLOSED
        other.cast("next")
        wire.expect("next", "room:2")  # and no join before it


def test_06_is_joined_again_if_the_policy_says_so(adapter: Adapter) -> None:
    options = replace(QUICK, join=JoinPolicy(backoff=Backoff((0.01,)), server_close=ServerClose.REJOIN))
    with adapter.joined(options=options) as (channel, wire, join_ref), channel.stream() as stream:
        wire.push(TOPIC, "phx_close", {}, join_ref=join_ref)
        wire.accept()
        errored, again = stream.take(2)
        assert isinstance(errored.error, ChannelClosed)
        assert again.rejoined


def test_07_a_join_that_is_refused(adapter: Adapter) -> None:
    with adapter.joined() as (other, wire, _):
        joining = start(other.client.join, "room:1")
        wire.reply(wire.expect("phx_join"), {"reason": "who?"}, "error")
        with pytest.raises(JoinRefused, match="who") as caught:
            joining.result(LONG)
        assert caught.value.response == {"reason": "who?"}
        other.cast("next")
        wire.expect("next")  # and no join before it
        other.client.channel("room:1")  # the topic is free


def test_07_a_join_that_is_refused_is_tried_again_if_the_policy_says_so(adapter: Adapter) -> None:
    options = replace(QUICK, join=JoinPolicy(backoff=Backoff((0.01,)), refusal=Refusal.RETRY))
    with adapter.connected(options=options) as (client, wire):
        joining = start(client.join, "room:1")
        wire.reply(wire.expect("phx_join"), {"reason": "not yet"}, "error")
        wire.accept("room:1")
        assert joining.result(LONG).state is ChannelState.JOINED


def test_08_a_connect_that_is_refused(adapter: Adapter) -> None:
    with serving() as peer:
        peer.refuse(lambda: (403, "who are you?"))
        with pytest.raises(HandshakeRefused, match="who are you") as caught:
            adapter.dial(peer, params={"token": "wrong"})
        assert (caught.value.status, caught.value.body) == (403, b"who are you?")
        assert peer.attempts == 1


def test_08_it_is_tried_again_where_the_params_may_change(adapter: Adapter) -> None:
    tokens = iter(["old", "new"])
    with serving() as peer:
        peer.refuse(lambda: (403, "expired") if peer.attempts == 1 else None)
        client = adapter.dial(peer, params=lambda: {"token": next(tokens)})
        assert peer.wire().params["token"] == "new"
        client.abort()


def test_08_a_reconnect_that_is_refused_is_final_by_the_same_rule(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.dial(peer)
        peer.refuse(lambda: (403, "banned"))
        peer.wire().cut()
        with pytest.raises(HandshakeRefused, match="banned"):
            client.wait_closed()


def test_09_a_server_that_is_down_at_the_first_connect_is_a_timeout(adapter: Adapter) -> None:
    with reserved_port() as port, pytest.raises(ConnectTimeout, match="refused the connection") as caught:
        adapter.connect(f"ws://127.0.0.1:{port}/socket", timeout=0.5)
    assert isinstance(caught.value.last, ConnectError)


def test_09_or_it_is_waited_for_and_each_try_told(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "phx_transports")
    with reserved_port() as port:
        url = f"ws://127.0.0.1:{port}/socket"
        connecting = start(adapter.connect, url, timeout=math.inf, options=QUICK)
        until(lambda: len(caplog.records) >= 3)
        with serving(port=port) as peer:
            client = connecting.result(LONG)
            peer.wire()
            client.abort()
    told = [record.getMessage() for record in caplog.records[:3]]
    assert [f"attempt {number} to connect failed" in text for number, text in enumerate(told, 1)] == [True] * 3


def test_10_a_push_that_is_never_answered(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        with pytest.raises(PushTimeout) as caught:
            channel.push("slow", timeout=0.01)
        assert caught.value.sent
        wire.reply(wire.expect("slow"))  # and a late one is dropped
        until(lambda: channel.client.stats.stale == 1)


def test_11_a_push_in_flight_is_lost_at_once(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        pushing = start(channel.push, "slow", timeout=math.inf)
        wire.expect("slow")
        wire.cut()
        with pytest.raises(PushLost) as caught:
            pushing.result(LONG)
        assert caught.value.sent


@in_every_way
def test_12_a_handler_that_raises_on_one_message(adapter: Adapter) -> None:
    reports: list[HandlerError] = []
    seen: list[int] = []
    handlers = adapter.handlers()

    @handlers.on("n")
    def fragile(message: Message[int]) -> None:
        if message.payload == 1:
            raise ValueError("one")
        seen.append(message.payload)

    with adapter.joined(router=handlers, on_handler_error=reports.append) as (channel, wire, _):
        wire.send(*(push(TOPIC, "n", number) for number in range(4)))
        until(lambda: channel.client.stats.handled == 4)
        assert seen == [0, 2, 3]
        until(lambda: reports)  # an executor's batch has done all before anything is told of it
        (report,) = reports
        assert (report.message.payload, str(report.error)) == (1, "one")
        assert report.error.__traceback__ is not None


def test_12_it_ends_the_client_if_it_is_to_fail_fast(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    handlers.add(lambda message: message.payload["missing"], "n")
    with adapter.joined(router=handlers, fail_fast=True) as (channel, wire, _):
        running = start(channel.client.run)
        wire.push(TOPIC, "n", {})
        with pytest.raises(KeyError, match="missing"):
            running.result(LONG)
        assert channel.client.state is SocketState.CLOSED


def test_13_garbage_and_then_a_good_message(adapter: Adapter) -> None:
    garbage: list[str | bytes] = ["{not json", "[1,2]", "null", "", b"\xff\x00\x01"]
    with (
        adapter.joined() as (channel, wire, _),
        channel.client.events() as events,
        channel.messages() as messages,
    ):
        wire.send(*garbage, push(TOPIC, "good"))
        assert next(messages).event == "good"
        told = events.take(len(garbage))
        assert [(type(event), event.size) for event in told] == [(BadFrame, len(one)) for one in garbage]
        assert channel.client.stats.connects == 1


@pytest.mark.parametrize("pings", ["answered", "not answered"])
def test_14_a_peer_that_falls_silent(adapter: Adapter, pings: str) -> None:
    with serving() as peer:
        client = adapter.dial(peer, options=replace(QUICK, heartbeat=0.1))
        with client.events() as events:
            wire = peer.wire()
            wire.fall_silent()
            if pings == "not answered":
                wire.stop_reading()  # nor would it answer a close frame
            lost = events.next_of(Disconnected)
            assert (lost.code, "nothing was heard" in lost.reason) == (None, True)
            assert events.next_of(Connected).reconnected
            wire.read_on()
            assert wire.ended() is None  # dropped, without a close frame
            assert wire.heartbeats <= 1 or pings == "not answered"
        client.abort()


def test_15_a_server_that_accepts_then_drops_again_and_again(adapter: Adapter) -> None:
    steps = (0.004, 0.008, 0.016, 0.032, 0.064)
    options = replace(QUICK, reconnect=ReconnectPolicy(schedule=Backoff(steps), stable_after=60))
    with serving() as peer:
        client = adapter.dial(peer, options=options)
        with client.events() as events:
            for step in (*steps, steps[-1]):
                peer.wire().cut()
                assert step / 2 <= events.next_of(Disconnected).retry_in <= step
        client.abort()


def test_15_until_a_connection_has_proved_stable(adapter: Adapter) -> None:
    policy = ReconnectPolicy(schedule=Backoff((0.004, 0.1)), stable_after=0.05)
    with serving() as peer:
        client = adapter.dial(peer, options=replace(QUICK, reconnect=policy, heartbeat=0.1))
        with client.events() as events:
            for _ in range(3):
                wire = peer.wire()
                wire.heartbeat()  # it has been up for longer than 0.05 s
                wire.cut()
                assert events.next_of(Disconnected).retry_in <= 0.004
        client.abort()


@in_every_way
def test_16_a_slow_handler_under_a_flood(adapter: Adapter) -> None:
    seen: list[Any] = []
    go_on = Flag()
    handlers = adapter.handlers()

    @handlers.on("n")
    def slow(message: Message[Any]) -> None:
        adapter.wait(go_on)
        seen.append(message.payload[0])

    options = replace(QUICK, flow=FlowLimits(high=100, low=20), heartbeat=0.3)
    with adapter.joined(router=handlers, options=options) as (channel, wire, _):
        client = channel.client
        sending = start(flood, wire, 2000, 30_000)
        until(lambda: client.stats.backlog >= 50)
        for _ in range(3):
            wire.heartbeat()  # they go on, and the answers wait behind the flood
        assert not sending.done()  # 60 MB do not fit between the two: the server feels it
        assert client.stats.delivered < 300
        go_on.set()
        sending.result(LONG)
        until(lambda: client.stats.handled == 2000)
        assert seen == list(range(2000))
        assert (client.stats.dropped, client.stats.backlog, client.stats.reconnects) == (0, 0, 0)


def test_17_one_join_of_several_hangs_on_the_server(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.dial(peer, options=replace(QUICK, heartbeat=0.3))
        wire = peer.wire()
        for topic in TOPICS:
            adapter.join(client, wire, topic)
        with client.events() as events:
            wire.cut()
            wire = peer.wire()
            wire.fall_silent()  # the heartbeat waits behind the join
            first, slow, last = (wire.expect("phx_join") for _ in TOPICS)
            wire.reply(first)
            wire.heartbeat()
            wire.reply(slow)
            wire.reply(last)
            wire.on_loop.answers_heartbeats = True
            assert rejoined(events, 3) == TOPICS
        wire.heartbeat()
        assert client.stats.connects == 2  # none was false
        client.abort()


def test_18_a_clean_close_with_1000(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.dial(peer)
        wire = peer.wire()
        adapter.join(client, wire)
        with client.events() as events:
            wire.close(1000, "idle")
            lost = events.next_of(Disconnected)
            assert (lost.code, lost.reason) == (1000, "idle")
            assert events.next_of(Connected).reconnected
            peer.wire().accept()
            assert rejoined(events, 1) == [TOPIC]
        client.abort()


def test_18_is_the_end_if_the_policy_says_so(adapter: Adapter) -> None:
    options = replace(QUICK, reconnect=ReconnectPolicy(final_codes=frozenset({1000})))
    with adapter.connected(options=options) as (client, wire):
        wire.close(1000, "idle")
        with pytest.raises(ConnectionClosed, match="1000: idle"):
            client.wait_closed()


@pytest.mark.parametrize("value", [math.nan, math.inf, "\ud800"], ids=["NaN", "Infinity", "lone surrogate"])
def test_19_what_would_close_the_whole_socket_is_refused_at_the_call(adapter: Adapter, value: Any) -> None:
    with adapter.joined() as (channel, wire, _):
        for call in (channel.push, channel.cast):
            with pytest.raises(InvalidPayload, match=r"payload\.prices\[1\]"):
                call("shout", {"prices": [1, value]})
        with pytest.raises(InvalidPayload, match="price"):
            channel.client.join("room:2", {"price": value})
        channel.cast("fine")
        wire.expect("fine")  # and nothing before it


def test_20_a_reading_that_is_blocked_for_long(adapter: Adapter) -> None:
    go_on = Flag()
    handlers = adapter.handlers()
    handlers.add(lambda message: adapter.wait(go_on), "n")
    options = replace(QUICK, flow=FlowLimits(high=10, low=5, hard=100, longest_pause=0.01))
    with adapter.joined(router=handlers, options=options) as (channel, wire, _):
        client = channel.client
        with client.events() as events:
            flood(wire, 2000)  # it is sent whole, with pauses, though nothing is handled
            overflow = events.next_of(InboxOverflow)
            assert (overflow.topic, overflow.dropped > 0, overflow.backlog >= 100) == (None, True, True)
        until(lambda: client.stats.received >= 2001)
        go_on.set()
        until(lambda: client.stats.backlog == 0)
        stats = client.stats
        assert stats.delivered + stats.dropped == 2000  # none silently
        assert stats.handled == stats.delivered < 300
        assert stats.reconnects == 0
