"""A client's life: lost and found connections, bad input, events, closing, and what ends it."""

import logging
import math
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest
from peer import push
from room_server import server
from serving_in_thread import LONG, QUICK, Flag, serving, start, until

from phx_proto.backoff import ReconnectPolicy
from phx_proto.errors import (
    ChannelClosed,
    ConnectionClosed,
    HandshakeRefused,
    InvalidState,
    JoinRefused,
    PushLost,
    PushRejected,
    PushTimeout,
)
from phx_proto.events import BadFrame, ChannelEnded, Closed, Connected, ConnectFailed, Connecting, Disconnected
from phx_proto.message import Message
from phx_proto.states import ChannelState, SocketState
from phx_transports.client.queues import EventQueue
from phx_transports.testing import serve

from .adapters import TOPIC, Adapter, Wsproto
from .faces import Channel
from .shared import several_calls

FINAL = replace(QUICK, reconnect=ReconnectPolicy(final_codes=frozenset({4001})))

# ---- with the embedded server ---------------------------------------------------------------------------------------


def test_a_whole_conversation_with_the_embedded_server(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    heard: list[Any] = []
    handlers.add(lambda message: heard.append(message.payload), "shout")
    with serve(server) as served, adapter.connecting(served.url, router=handlers) as client:
        with client.joined("room:1", {"name": "ann"}) as channel, channel.messages() as messages:
            assert channel.push("echo", {"a": [1, 2.5, None]}).response == {"a": [1, 2.5, None]}
            assert channel.push("echo", b"\x00\xff").response == b"\x00\xff"
            with pytest.raises(PushRejected, match="no"):
                channel.push("refuse")
            for number in range(3):
                channel.cast("shout", {"n": number})
            assert messages.payloads(3) == [{"n": 0}, {"n": 1}, {"n": 2}]
        assert channel.state is ChannelState.CLOSED
        with pytest.raises(JoinRefused, match="who"):
            client.join("room:1", {"name": "nobody"})
        assert 0 < client.ping() < LONG
        until(lambda: heard == [{"n": 0}, {"n": 1}, {"n": 2}])
    assert client.error is None
    assert client.stats.backlog == 0


def test_a_channel_that_the_embedded_server_stops_ends_its_streams_with_why(adapter: Adapter) -> None:
    with serve(server) as served, adapter.connecting(served.url) as client:
        channel = client.join("room:a")
        with channel.stream() as stream:
            channel.cast("stop")
            assert isinstance(next(stream), ChannelEnded)
            with pytest.raises(ChannelClosed, match="the server closed it"):
                next(stream)


# ---- lost and found -------------------------------------------------------------------------------------------------


def test_after_a_cut_channels_rejoin_with_fresh_params_and_handlers_go_on(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    seen: list[int] = []
    handlers.add(lambda message: seen.append(message.payload), "n")
    with serving() as peer:
        client = adapter.dial(peer, router=handlers)
        wire = peer.wire()
        channel = client.channel("room:1", lambda: {"since": len(seen)})
        joining = start(channel.join)
        assert wire.accept().payload == {"since": 0}
        joining.result(LONG)
        wire.push("room:1", "n", 7)
        until(lambda: seen == [7])
        wire.cut()
        wire = peer.wire()
        assert wire.accept("room:1").payload == {"since": 1}
        wire.push("room:1", "n", 8)
        until(lambda: seen == [7, 8])
        assert client.stats.reconnects == 1
        client.abort()


@pytest.mark.parametrize("code", [1000, 1001, 4000])
def test_a_close_by_the_server_is_told_answered_and_followed_by_a_new_connection(adapter: Adapter, code: int) -> None:
    with serving() as peer:
        client = adapter.dial(peer)
        with client.events() as events:
            wire = peer.wire()
            wire.close(code, "so long")
            lost = events.next_of(Disconnected)
            assert (lost.code, lost.reason) == (code, "so long")
            assert events.next_of(Connected).reconnected
        assert wire.ended() == code
        client.abort()


def test_a_restart_is_waited_for_up_to_five_seconds(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire), client.events() as events:
        wire.close(1012)
        lost = events.next_of(Disconnected)
        assert lost.code == 1012
        assert 0 <= lost.retry_in <= 5
        assert wire.ended() == 1012


def test_a_close_code_that_is_final_ends_the_client(adapter: Adapter) -> None:
    with adapter.connected(options=FINAL) as (client, wire):
        running = start(client.run)
        wire.close(4001, "go away")
        with pytest.raises(ConnectionClosed, match="go away"):
            running.result(LONG)
        with pytest.raises(ConnectionClosed, match="go away"):
            client.wait_closed()
        assert isinstance(client.error, ConnectionClosed)
        with pytest.raises(ConnectionClosed):
            client.channel("room:1")


def test_each_attempt_and_each_failure_is_told(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.dial(peer)
        wire = peer.wire()
        with client.events() as events:
            peer.refuse(lambda: (404, "gone") if peer.attempts == 2 else None)
            wire.cut()
            lost, trying, failed, again, connected = events.take(5)
            assert (type(lost), lost.code) == (Disconnected, None)
            assert [trying, again] == [Connecting(2), Connecting(3)]  # the first was the one that has just been lost
            assert (type(failed), type(failed.error)) == (ConnectFailed, HandshakeRefused)
            assert (type(connected), connected.reconnected) == (Connected, True)
        client.abort()


def test_a_peer_that_answers_heartbeats_is_left_alone(adapter: Adapter) -> None:
    with adapter.connected(options=replace(QUICK, heartbeat=0.1)) as (client, wire):
        for _ in range(3):
            wire.heartbeat()
        assert client.stats.reconnects == 0


def test_parts_of_a_long_message_show_that_the_peer_lives(adapter: Adapter) -> None:
    with adapter.connected(options=replace(QUICK, heartbeat=0.2)) as (client, wire):
        wire.fall_silent()
        data = push("room:1", "big", "x" * 100).encode()
        frame = bytes([0x81, 126, *len(data).to_bytes(2)]) + data
        for part in (frame[at : at + 50] for at in range(0, len(frame), 50)):
            wire.write(part)
            wire.heartbeat()
        until(lambda: client.stats.received == 1)
        assert client.stats.reconnects == 0


def test_reconnect_drops_the_connection_and_makes_another(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.dial(peer)
        first = peer.wire()
        client.reconnect()
        client.wait_connected()
        peer.wire()
        first.ended()
        client.abort()
        with pytest.raises(InvalidState):
            client.reconnect()


def test_a_message_over_the_limit_closes_with_1009_and_is_followed_by_a_new_connection(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.dial(peer, max_size=1000)
        wire = peer.wire()
        wire.push("room:1", "big", "x" * 2000)
        assert wire.ended() == 1009
        peer.wire()
        client.abort()


def frames(*sizes: int, opcode: int) -> bytes:
    """A message in fragments of so many bytes."""
    heads = [opcode, *[0] * (len(sizes) - 1)]
    heads[-1] |= 0x80
    return b"".join(
        bytes([head, 126]) + size.to_bytes(2, "big") + b"x" * size for head, size in zip(heads, sizes, strict=True)
    )


@pytest.mark.parametrize("opcode", [1, 2], ids=["text", "binary"])
@pytest.mark.parametrize("sizes", [(2000,), (700, 800, 500)], ids=["whole", "in fragments"])
def test_a_message_over_the_limit_tells_its_size_and_the_limits_name(
    adapter: Adapter, sizes: tuple[int, ...], opcode: int
) -> None:
    with serving() as peer:
        client = adapter.dial(peer, max_size=1000)
        wire = peer.wire()
        with client.events() as events:
            wire.write(frames(*sizes, opcode=opcode))
            reason = events.next_of(Disconnected).reason
        assert "more than 1000 bytes, which is max_size" in reason
        assert f"{2000 if len(sizes) == 1 else 1500} bytes or more" in reason
        assert wire.ended() == 1009
        client.abort()


# ---- ping and events ------------------------------------------------------------------------------------------------


def test_ping_tells_how_long_the_answer_took(adapter: Adapter) -> None:
    with adapter.connected() as (client, _):
        assert 0 < client.ping() < LONG


def test_a_ping_without_an_answer_times_out_and_one_under_way_is_lost_with_the_connection(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        wire.fall_silent()
        with pytest.raises(PushTimeout):
            client.ping(timeout=0.01)
        lost = start(client.ping, timeout=math.inf)
        until(lambda: wire.heartbeats == 2)
        wire.cut()
        with pytest.raises(PushLost):
            lost.result(LONG)


def test_ping_needs_a_connection(adapter: Adapter) -> None:
    with adapter.connected() as (client, _):
        client.abort()
        with pytest.raises(InvalidState):
            client.ping()


def test_events_end_with_the_client(adapter: Adapter) -> None:
    with adapter.connected() as (client, _), client.events() as events:
        reading = start(list[Any], events)
        client.abort()
        assert isinstance(reading.result(LONG)[-1], Closed)


def test_events_end_for_a_reader_when_somebody_closes_them(adapter: Adapter) -> None:
    with adapter.connected() as (client, _):
        with client.events() as events:
            reading = start(list[Any], events)
        assert reading.result(LONG) == []
        assert list(events) == []


@several_calls
def test_two_readers_of_the_same_events_share_them(adapter: Adapter) -> None:
    with adapter.connected() as (client, _), client.events() as events:
        readers = [start(list[Any], events) for _ in range(2)]
        client.abort()
        read = [reader.result(LONG) for reader in readers]
        assert [type(event) for part in read for event in part].count(Closed) == 1


def test_a_reader_of_events_who_falls_far_behind_loses_the_oldest(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with adapter.connected() as (client, wire), client.events() as events:
        monkeypatch.setattr(EventQueue, "LIMIT", 3)
        wire.send("1", "2", "3", "44", "55")
        until(lambda: client.stats.bad_frames == 5)
        assert events.native.dropped == 2
        assert [event.size for event in events.take(3)] == [1, 2, 2]


def test_bad_frames_are_logged(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "phx_transports")
    with adapter.connected() as (client, wire), client.events() as events:
        wire.send("nonsense")
        assert events.next_of(BadFrame).size == 8
        until(lambda: "was dropped" in caplog.text)


def test_many_clients_have_nothing_to_do_with_each_other(adapter: Adapter) -> None:
    with serving() as peer:
        clients = [adapter.dial(peer) for _ in range(5)]
        for client in clients[::2]:
            client.abort()
        states = [client.state for client in clients]
        assert states == [SocketState.CLOSED if number % 2 == 0 else SocketState.OPEN for number in range(5)]
        for client in clients:
            client.abort()


# ---- closing --------------------------------------------------------------------------------------------------------


def test_closing_lets_handlers_finish_while_pushes_still_work_then_leaves_then_closes(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    entered, go_on = Flag(), Flag()
    replies: list[Any] = []

    @handlers.on("work")
    def work(message: Message[Any], channel: Channel) -> None:
        entered.set()
        adapter.wait(go_on)
        replies.append(channel.push("done").response)

    with adapter.joined(router=handlers) as (channel, wire, join_ref):
        client = channel.client
        wire.burst(push(TOPIC, "work"), push(TOPIC, "work"))
        entered.wait()
        until(lambda: client.stats.received == 3)
        # On one thread the handler waits within the call, so that can only begin.
        closing = start(client.stop if isinstance(adapter, Wsproto) else client.close)
        until(lambda: client.state is SocketState.DRAINING)
        wire.push(TOPIC, "work")  # comes too late
        until(lambda: client.stats.received == 4)
        go_on.set()
        for number in range(2):
            wire.reply(wire.expect("done"), number)
        assert wire.let_go().join_ref == join_ref
        closing.result(LONG)
        client.wait_closed()
        assert replies == [0, 1]
        assert wire.rest() == []
        assert wire.ended() == 1000
        assert channel.state is ChannelState.CLOSED
        assert (client.stats.dropped, client.stats.backlog) == (1, 0)


def test_a_close_takes_no_longer_than_the_drain_timeout(adapter: Adapter) -> None:
    with adapter.joined(drain_timeout=0.05) as (channel, wire, _):  # the leave is never answered
        channel.client.close()
        assert channel.client.state is SocketState.CLOSED
        wire.expect("phx_leave")
        assert wire.ended() is None


@pytest.mark.parametrize("adapter", ["asyncio", "threads"], indirect=True)  # the other calls handlers itself
def test_what_a_close_has_no_time_for_is_logged(adapter: Adapter, caplog: pytest.LogCaptureFixture) -> None:
    handlers = adapter.handlers()
    go_on = Flag()

    @handlers.on("n")
    def slow(message: Message[int]) -> None:
        adapter.wait(go_on)

    with adapter.joined(router=handlers, drain_timeout=0.05) as (channel, wire, _):
        wire.push(TOPIC, "n", 1)
        wire.push(TOPIC, "n", 2)
        until(lambda: channel.client.stats.backlog == 2)
        channel.client.close()
        go_on.set()
    until(lambda: "2 messages are not handled, of " in caplog.text)
    assert "<locals>.slow\n" in caplog.text


def test_a_peer_that_ignores_the_close_frame_keeps_a_close_no_longer_than_the_drain_timeout(adapter: Adapter) -> None:
    with adapter.connected(drain_timeout=0.3) as (client, wire):
        wire.stop_reading()
        began = monotonic()
        client.close()
        assert monotonic() - began < 2.0  # the options' close_timeout is 5
        assert client.state is SocketState.CLOSED


def test_close_without_a_connection_ends_at_once(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.dial(peer)
        peer.refuse(lambda: (503, ""))
        peer.wire().cut()
        until(lambda: peer.attempts > 1)
        client.close()
        assert client.state is SocketState.CLOSED


def test_close_twice_and_abort_after_it_do_nothing_more(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        client.close()
        client.close()
        client.abort()
        assert wire.ended() == 1000


@pytest.mark.parametrize("how", ["close", "stop", "abort"])
@pytest.mark.parametrize("adapter", ["threads", "threads-executor", "wsproto"], indirect=True)  # asyncio's awaits it
def test_a_handler_may_end_the_client(adapter: Adapter, how: str) -> None:
    handlers = adapter.handlers()
    after: list[SocketState] = []

    @handlers.on("end")
    def end(message: Message[Any], channel: Channel) -> None:
        getattr(channel.client, how)()
        after.append(channel.client.state)

    with adapter.joined(router=handlers) as (channel, wire, _):
        wire.push(TOPIC, "end")
        leaving = None if how == "abort" else start(wire.let_go)
        channel.client.run()
        if leaving is not None:
            leaving.result(LONG)
        assert wire.ended() == (None if how == "abort" else 1000)
        until(lambda: after)
        assert after[0] is not SocketState.OPEN
        assert channel.client.error is None


def test_run_ends_quietly_when_the_application_closes(adapter: Adapter) -> None:
    with adapter.connected() as (client, _):
        running = start(client.run)
        client.close()
        running.result(LONG)


def test_nothing_can_be_made_or_sent_after_the_end(adapter: Adapter) -> None:
    with adapter.joined() as (channel, _, _):
        channel.client.abort()
        with pytest.raises(ConnectionClosed):
            channel.client.channel("room:other")
        with pytest.raises(ChannelClosed):
            channel.push("x")
        channel.leave()
        channel.client.run()


# ---- ended by the server --------------------------------------------------------------------------------------------


def test_messages_that_came_before_an_end_by_the_server_are_still_handled(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    handled: list[int] = []
    go_on = Flag()

    @handlers.on("n")
    def hear(message: Message[int]) -> None:
        adapter.wait(go_on)
        handled.append(message.payload)

    with adapter.joined(router=handlers, options=FINAL) as (channel, wire, _):
        wire.send(*(push(TOPIC, "n", number) for number in range(3)))
        wire.close(4001)
        until(lambda: channel.client.state is SocketState.CLOSED)
        go_on.set()
        with pytest.raises(ConnectionClosed):
            channel.client.wait_closed()
        until(lambda: channel.client.stats.backlog == 0)  # on wsproto the wait may have been within the first handler
        assert handled == [0, 1, 2]


@pytest.mark.parametrize("adapter", ["asyncio", "threads"], indirect=True)  # the other calls handlers itself
def test_what_is_never_handled_keeps_an_end_by_the_server_only_so_long(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    go_on = Flag()
    handlers.add(lambda message: adapter.wait(go_on), "n")
    with adapter.joined(router=handlers, options=FINAL, drain_timeout=0.02) as (channel, wire, _):
        wire.push(TOPIC, "n", 1)
        wire.close(4001)
        with pytest.raises(ConnectionClosed):
            channel.client.wait_closed()
        go_on.set()
