"""The faults that clients meet, row by row, each as an example of what this one does (the core's part of it).

Row 12, a handler that raises, is tested with the adapters: the core calls no handler.
"""

from random import Random
from typing import Any

import pytest
from conversation import EMPTY, START, Conversation

from phx_proto.commands import AbortTransport, PauseReading, ResumeReading
from phx_proto.errors import (
    ChannelClosedByServer,
    ChannelCrashed,
    ConnectError,
    ConnectTimeout,
    HandshakeRefused,
    InvalidPayload,
    JoinRefused,
    PushLost,
    PushTimeout,
)
from phx_proto.events import (
    BadFrame,
    ChannelEnded,
    ChannelErrored,
    ChannelJoined,
    Closed,
    ConnectFailed,
    Connecting,
    Disconnected,
    InboxOverflow,
    JoinFailed,
    PushFailed,
)
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.options import ClientOptions
from phx_proto.states import ChannelState, SocketState

TICK = '[null,null,"room:1","tick",{}]'


def at_work(*topics: str, options: ClientOptions | None = None, **settings: Any) -> Conversation:
    """A client that has been connected and joined to its topics for an hour, with a handler for ticks."""
    router = Router()
    router.add(lambda message: None, "tick")
    talk = Conversation(options, router=router, **settings).connect()
    for topic in topics or ("room:1",):
        talk.joined(topic)
    talk.advance(3600.0)
    return talk


def away(talk: Conversation, seconds: float) -> list[float]:
    """The server is gone for that long: every attempt fails. Gives the waits between them."""
    back = talk.now + seconds
    waits = []
    while True:
        deadline = talk.proto.next_timeout()
        assert deadline is not None
        if deadline >= back:
            break
        talk.advance(deadline - talk.now)
        talk.link.failed(ConnectError("connection refused"), talk.now)
        waits.append(talk.event(ConnectFailed).retry_in)
    talk.advance(back - talk.now)
    return waits


def seconds_until_back(talk: Conversation) -> float:
    """The server is up: when does the client try, and which topics does it join then?"""
    began = talk.now
    if talk.proto.state is SocketState.WAITING:
        deadline = talk.proto.next_timeout()
        assert deadline is not None
        talk.advance(deadline - talk.now)
    talk.accept()
    return talk.now - began


def test_row_01_a_server_that_is_killed_and_back_after_two_seconds() -> None:
    talk = at_work("room:1", "room:2", "room:3")
    talk.drop(None, "end of stream")
    disconnected, *errored = talk.events()
    assert disconnected == Disconnected(None, "end of stream", 0.01)
    assert [type(event) for event in errored] == [ChannelErrored] * 3

    waits = away(talk, 2.0)
    assert seconds_until_back(talk) <= waits[-1] <= 1.0
    assert [(frame.topic, frame.event) for frame in talk.sent()] == [
        ("room:1", "phx_join"),
        ("room:2", "phx_join"),
        ("room:3", "phx_join"),
    ]


@pytest.mark.parametrize("gone", [20.0, 3600.0, 86_400.0])
def test_row_02_a_server_that_is_back_after_a_long_time(gone: float) -> None:
    talk = at_work()
    talk.drop()
    waits = away(talk, gone)
    assert max(waits) == 5.0
    assert len(waits) >= gone / 5.0  # each was an event
    assert seconds_until_back(talk) <= 5.0
    assert [frame.event for frame in talk.sent()] == ["phx_join"]


def test_row_03_a_server_that_restarts_with_1012_meets_a_fleet_that_spreads() -> None:
    waits = []
    for seed in range(200):
        talk = at_work(rng=Random(seed))
        talk.drop(1012, "restart")
        waits.append(talk.event(Disconnected).retry_in or 0.0)
    assert 0.0 <= min(waits) < 0.5
    assert 4.5 < max(waits) <= 5.0
    assert sum(wait < 2.5 for wait in waits) == pytest.approx(100, abs=30)


def test_row_04_disconnected_by_id_with_1001() -> None:
    talk = at_work()
    talk.drop(1001, "")
    assert talk.event(Disconnected) == Disconnected(1001, "", 0.01)
    assert seconds_until_back(talk) == pytest.approx(0.01)


def test_row_05_a_channel_crashes() -> None:
    talk = at_work("room:1", "room:2")
    room, other = talk.channels.values()
    ref, kept = talk.push(room), talk.push(other)
    talk.crash_channel("room:1", room.join_ref, {"reason": "channel_crash"})

    failed, errored = talk.events()
    assert isinstance(failed, PushFailed)
    assert isinstance(failed.error, PushLost)
    assert (failed.ref, failed.error.sent) == (ref, True)
    assert isinstance(errored, ChannelErrored)
    assert isinstance(errored.error, ChannelCrashed)
    assert errored.retry_in == 1

    assert other.state is ChannelState.JOINED
    talk.reply(kept)
    talk.events()
    talk.sent()
    talk.advance(1.0)
    talk.reply(room.join_ref)
    assert talk.event(ChannelJoined).rejoined


def test_row_06_a_channel_is_stopped_by_the_server() -> None:
    talk = at_work("room:1", "room:2")
    room, other = talk.channels.values()
    ref = talk.push(room)
    talk.sent()
    talk.close_channel("room:1", room.join_ref)

    failed, ended = talk.events()
    assert isinstance(failed, PushFailed)
    assert isinstance(failed.error, ChannelClosedByServer)
    assert failed.ref == ref
    assert isinstance(ended, ChannelEnded)
    assert isinstance(ended.error, ChannelClosedByServer)
    assert ended.error.reason == "the server closed it"

    talk.advance(3600.0)
    assert (room.state, other.state) == (ChannelState.CLOSED, ChannelState.JOINED)
    assert talk.sent() == []


def test_row_07_a_join_is_refused() -> None:
    talk = at_work("room:1")
    room = talk.channel("room:secret")
    ref = talk.join(room)
    talk.reply(room.join_ref, "error", {"reason": "unauthorized"})
    talk.sent()

    failed = talk.event(JoinFailed)
    assert isinstance(failed.error, JoinRefused)
    assert (failed.ref, failed.error.response) == (ref, {"reason": "unauthorized"})
    talk.advance(3600.0)
    assert talk.sent() == []


def test_row_08_a_connect_that_is_refused_is_final_where_the_credentials_cannot_change() -> None:
    talk = Conversation(params={"token": "wrong"})
    talk.proto.connect(talk.now)
    talk.link.refused(403, {}, b"forbidden", talk.now)
    error = talk.event(Closed).error
    assert isinstance(error, HandshakeRefused)
    assert (error.status, error.body) == (403, b"forbidden")


def test_row_08_a_connect_that_is_refused_is_tried_again_where_the_credentials_can_change() -> None:
    talk = Conversation(params=lambda: EMPTY)
    talk.proto.connect(talk.now)
    talk.resolve({"token": "expired"})
    talk.link.refused(403, {}, b"", talk.now)
    talk.advance(talk.event(ConnectFailed).retry_in)
    talk.resolve({"token": "new"})
    talk.accept()
    assert talk.proto.state is SocketState.OPEN


def test_row_08_a_reconnect_that_is_refused_is_final_by_the_same_rule() -> None:
    talk = at_work()
    talk.drop()
    talk.advance(0.01)
    talk.link.refused(401, {}, b"", talk.now)
    assert isinstance(talk.event(Closed).error, HandshakeRefused)


def test_row_09_a_server_that_is_down_at_the_first_connect_raises_after_the_timeout() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now, timeout=10.0)
    while talk.proto.state is not SocketState.CLOSED:
        talk.link.failed(ConnectError("connection refused"), talk.now)
        deadline = talk.proto.next_timeout()
        assert deadline is not None
        talk.advance(deadline - talk.now)
    assert talk.now == START + 10.0
    error = talk.event(Closed).error
    assert isinstance(error, ConnectTimeout)
    assert str(error.last) == "connection refused"


def test_row_09_a_server_that_is_down_at_the_first_connect_is_waited_for_with_an_event_for_each_try() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now)
    for attempt in range(1, 101):
        assert talk.event(Connecting).attempt == attempt
        talk.link.failed(ConnectError("connection refused"), talk.now)
        failed = talk.event(ConnectFailed)
        assert failed.attempt == attempt
        talk.advance(failed.retry_in)
    talk.accept()
    assert talk.proto.state is SocketState.OPEN


def test_row_10_a_push_that_is_never_answered() -> None:
    talk = at_work()
    (room,) = talk.channels.values()
    ref = talk.push(room, "save", timeout=10.0)
    talk.advance(9.999)
    assert talk.events() == []
    talk.advance(0.001)
    failed = talk.event(PushFailed)
    assert isinstance(failed.error, PushTimeout)
    assert (failed.ref, failed.error.sent) == (ref, True)


def test_row_11_a_connection_is_lost_with_a_push_unanswered() -> None:
    talk = at_work()
    (room,) = talk.channels.values()
    ref = talk.push(room)
    talk.drop()
    failed = talk.event(PushFailed)
    assert isinstance(failed.error, PushLost)
    assert (failed.ref, failed.error.sent) == (ref, True)


@pytest.mark.parametrize("garbage", ["{not json", "[1,2]", "null", "", b"\x9f\x01\xff\x00random", b""])
def test_row_13_garbage_and_then_a_good_message(garbage: str | bytes) -> None:
    talk = at_work()
    talk.receive(garbage)
    talk.receive(TICK)
    assert [type(event) for event in talk.events()] == [BadFrame]
    assert talk.deliveries() == [("room:1", "tick", {})]
    assert talk.proto.state is SocketState.OPEN


def test_row_14_a_peer_that_falls_silent() -> None:
    talk = at_work()
    link = talk.link
    talk.answers_heartbeats = False
    talk.advance(60.0)
    assert talk.event(Disconnected).code is None
    assert talk.commands() == [AbortTransport(link)]  # and no closing handshake
    talk.sent()
    assert seconds_until_back(talk) == pytest.approx(0.01)
    assert [frame.event for frame in talk.sent()] == ["phx_join"]


def test_row_15_a_server_that_accepts_and_drops_again_and_again() -> None:
    talk = at_work()
    attempts = 0
    end = talk.now + 60.0
    while talk.now < end:
        talk.drop()
        attempts += 1
        talk.advance(talk.event(Disconnected).retry_in or 0.0)
        talk.accept()
    assert attempts < 25  # phoenix.js: some thousands

    talk.advance(5.0)
    talk.drop()
    assert talk.event(Disconnected).retry_in == 0.01


def test_row_16_a_slow_handler_under_a_flood() -> None:
    talk = at_work()
    link = talk.link
    talk.receive(*[TICK] * 1000)
    assert talk.commands() == [PauseReading(link)]
    assert talk.proto.stats.backlog == 1000

    heard = talk.proto.stats.received
    talk.handle(500)
    talk.advance(9.0)
    assert talk.commands() == []
    talk.handle(250)
    assert talk.commands() == [ResumeReading(link)]
    assert (talk.proto.stats.dropped, talk.proto.stats.received) == (0, heard)


def test_row_16_heartbeats_go_on_while_reading_stands_still() -> None:
    talk = at_work(options=ClientOptions(heartbeat=2.0))
    talk.answers_heartbeats = False
    talk.receive(*[TICK] * 1000)
    talk.advance(9.0)
    assert [frame.event for frame in talk.sent()] == ["heartbeat"] * 4
    assert talk.proto.state is SocketState.OPEN


def test_row_17_a_join_that_hangs_on_the_server_for_two_seconds_holds_up_the_heartbeats() -> None:
    options = ClientOptions(heartbeat=2.5)
    talk = at_work("room:1", options=options)
    talk.answers_heartbeats = False
    slow, other = talk.joining("room:slow"), talk.joining("room:other")
    refs = [frame.ref for frame in talk.sent()]
    talk.advance(2.0)  # the server is in `join/3`; it neither reads nor sends
    talk.reply(slow.join_ref)
    talk.reply(other.join_ref)
    assert (slow.state, other.state) == (ChannelState.JOINED, ChannelState.JOINED)
    assert len(refs) == 2

    late = talk.joining("room:slower")
    talk.advance(2.4)  # a heartbeat goes out, and waits behind the join
    talk.reply(late.join_ref)
    talk.advance(2.4)
    assert not [event for event in talk.events() if isinstance(event, Disconnected)]


def test_row_18_the_server_closes_cleanly_with_1000() -> None:
    talk = at_work()
    talk.drop(1000, "")
    assert talk.event(Disconnected) == Disconnected(1000, "", 0.01)
    assert seconds_until_back(talk) == pytest.approx(0.01)
    assert [frame.event for frame in talk.sent()] == ["phx_join"]


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        ({"price": float("nan")}, "payload.price"),
        ({"prices": [1.0, float("inf")]}, "payload.prices[1]"),
        ({"name": "\ud800"}, "payload.name"),
    ],
)
def test_row_19_what_would_close_the_socket_is_refused_at_the_call(payload: Any, where: str) -> None:
    talk = at_work()
    (room,) = talk.channels.values()
    with pytest.raises(InvalidPayload) as caught:
        room.push("save", payload, talk.now)
    assert caught.value.where == where
    assert talk.sent() == []


def test_row_20_a_handler_that_stands_still_under_a_flood() -> None:
    talk = at_work()
    read = [TICK.replace("{}", '"' + "x" * 1000 + '"')] * 1000  # about a mebibyte
    began, paused_at, longest = talk.now, None, 0.0
    overflows: list[InboxOverflow] = []
    while not overflows:
        if paused_at is None:
            talk.receive(*read)
        else:
            talk.advance(1.0)
        for command in talk.commands():
            if isinstance(command, PauseReading):
                paused_at = talk.now
            elif paused_at is not None:
                longest, paused_at = max(longest, talk.now - paused_at), None
        overflows = [event for event in talk.events() if isinstance(event, InboxOverflow)]
        assert talk.proto.state is SocketState.OPEN
    assert longest == 10.0
    assert talk.now - began > 70.0  # so long it was read, and not cut
    assert overflows == [InboxOverflow(None, 1000, 25_000)]
    assert talk.proto.stats.dropped == 1000
    assert 0 <= talk.proto.stats.backlog_bytes - FlowLimits().hard_bytes < sum(map(len, read))
