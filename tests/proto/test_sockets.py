"""Many topics: a client opens as many sockets as the server's limit on the topics of one asks for."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from farm import Farm, message, rooms

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import AbortTransport, CloseTransport, OpenTransport
from phx_proto.errors import (
    ConnectError,
    ConnectionClosedByClient,
    HandshakeRefused,
    InvalidState,
    JoinRefused,
    PushLost,
)
from phx_proto.events import (
    ChannelEnded,
    ChannelErrored,
    ChannelJoined,
    Closed,
    Connected,
    ConnectFailed,
    Connecting,
    Disconnected,
    Event,
    JoinFailed,
    LeaveEnded,
    PingAnswered,
    PushFailed,
    ReplyReceived,
    SocketEnded,
)
from phx_proto.flow import FlowLimits
from phx_proto.formats import V2
from phx_proto.link import Link
from phx_proto.options import ClientOptions, JoinPolicy, Refusal
from phx_proto.states import ChannelState, SocketState

A, B, C, D, E = rooms(1, 5)


def topics_of(events: list[Event]) -> list[str]:
    return [event.topic for event in events if isinstance(event, ChannelJoined | ChannelErrored | ChannelEnded)]


def refusal(channel: Channel, response: str) -> str:
    """The server refuses the join of a channel."""
    ref = f'"{channel.join_ref}"'
    return f'[{ref},{ref},"{channel.topic}","phx_reply",{{"status":"error","response":{response}}}]'


def sockets_of(events: list[Event]) -> list[tuple[str, int]]:
    told = Connecting | ConnectFailed | Connected | Disconnected | SocketEnded
    return [(type(event).__name__, event.socket) for event in events if isinstance(event, told)]


# ---- the limit ------------------------------------------------------------------------------------------------------


def test_350_topics_are_joined_on_four_sockets_of_a_server_that_takes_100_on_each() -> None:
    farm = Farm(limit=100).connect()
    farm.join(*rooms(1, 350))
    assert [len(topics) for topics in farm.topics()] == [100, 100, 100, 50]
    events = farm.events(ChannelJoined, JoinFailed, ChannelErrored)
    assert sorted(topics_of(events)) == sorted(rooms(1, 350))
    assert farm.client.stats.sockets == 4
    farm.broadcast(*rooms(1, 350))
    assert farm.heard == {topic: [1] for topic in rooms(1, 350)}


def test_without_a_limit_everything_is_on_one_socket() -> None:
    farm = Farm().connect()
    farm.join(*rooms(1, 1000))
    assert [len(topics) for topics in farm.topics()] == [1000]


def test_a_join_that_is_refused_by_the_limit_is_sent_on_another_socket_and_nothing_of_it_is_told() -> None:
    farm = Farm(limit=2).connect()
    farm.events()
    farm.join(A, B)
    farm.join(C)
    assert farm.topics() == [[A, B], [C]]
    assert farm.events() == [
        *(ChannelJoined(topic, ref, ref_of_join, {}) for topic, ref, ref_of_join in [(A, "1", "2"), (B, "3", "4")]),
        Connecting(1, 1),
        Connected(None, False, socket=1),
        ChannelJoined(C, "5", "7", {}),
    ]


def test_what_is_learned_is_taken_to_hold_for_the_next_socket() -> None:
    farm = Farm(limit=2).connect()
    farm.join(A, B, C, D)
    farm.asked.clear()
    farm.join(E)
    assert farm.topics() == [[A, B], [C, D], [E]]
    joins = [command for command in farm.asked if "phx_join" in getattr(command, "data", "")]
    assert len(joins) == 1, "it was tried where there is no room"


def test_the_joins_that_wait_for_their_turn_on_a_full_socket_move_at_once() -> None:
    farm = Farm(limit=1, options=ClientOptions(joins_in_flight=2)).connect()
    farm.asked.clear()
    farm.join(A, B, C, D)
    assert sorted(farm.topics()) == [[A], [B], [C], [D]]
    joins = [command for command in farm.asked if "phx_join" in getattr(command, "data", "")]
    assert len(joins) == 4 + 2, "those in flight are refused, and the last was never sent there"


def test_a_given_number_is_kept_to_from_the_start() -> None:
    farm = Farm(options=ClientOptions(topics_per_socket=2)).connect()
    farm.join(A, B, C)
    farm.join(D, E)
    assert farm.topics() == [[A, B], [C, D], [E]]


def test_a_given_number_that_is_too_large_is_corrected_by_the_server() -> None:
    farm = Farm(limit=2, options=ClientOptions(topics_per_socket=3)).connect()
    farm.join(A, B, C, D, E)
    assert sorted(map(len, farm.topics())) == [1, 2, 2]


def test_topics_that_were_asked_for_before_the_first_connection_wait_for_it() -> None:
    farm = Farm(options=ClientOptions(topics_per_socket=1))
    farm.join(A, B)
    farm.client.connect(farm.now)
    assert sockets_of(farm.client.events()) == [("Connecting", 0)]
    farm.run()
    assert farm.topics() == [[A], [B]]
    assert sockets_of(farm.events()) == [("Connected", 0), ("Connecting", 1), ("Connected", 1)]


def test_a_topic_that_is_left_makes_room_for_another() -> None:
    farm = Farm(limit=2).connect()
    farm.join(A, B, C)
    farm.leave(A)
    farm.join(D)
    assert farm.topics() == [[B, D], [C]]


def test_an_open_socket_with_room_is_better_than_one_that_is_away() -> None:
    farm = Farm(options=ClientOptions(topics_per_socket=2)).connect()
    farm.join(A, B, C)
    farm.leave(A)
    farm.cut(0)
    farm.join(D)
    assert farm.topics() == [[C, D]]


def test_a_leave_that_is_not_over_counts_on_its_socket() -> None:
    farm = Farm(limit=2).connect()
    farm.join(A, B)
    farm.held = True
    farm.channel(A).leave(farm.now)
    farm.join(C)
    farm.links[0].receive(refusal(farm.channel(C), '{"reason":"too many channels joined"}'), farm.now)
    farm.run()
    farm.join(D, E)
    sockets = farm.client._sockets.all
    assert [[channel.topic for channel in socket.members] for socket in sockets] == [[A, B], [C, D], [E]]


@pytest.mark.parametrize(
    "response",
    ['{"reason":"unauthorized"}', "{}", "null", '"too many channels joined"', '["too many channels joined"]'],
)
def test_a_refusal_for_another_reason_is_shown(response: str) -> None:
    farm = Farm().connect()
    farm.join(A)
    farm.unheard.add(B)
    (room,) = farm.join(B)
    farm.links[0].receive(refusal(room, response), farm.now)
    (failed,) = farm.run().events(JoinFailed)
    assert isinstance(failed, JoinFailed)
    assert isinstance(failed.error, JoinRefused)
    assert farm.client.stats.sockets == 1


@pytest.mark.parametrize("policy", [JoinPolicy(), JoinPolicy(refusal=Refusal.FINAL)])
def test_a_refusal_by_the_limit_is_shown_where_the_topic_was_alone_on_its_socket(policy: JoinPolicy) -> None:
    farm = Farm(limit=0, options=ClientOptions(join=policy)).connect()
    farm.join(A)
    (failed,) = farm.events(JoinFailed)
    assert isinstance(failed, JoinFailed)
    assert isinstance(failed.error, JoinRefused)
    assert failed.error.response == {"reason": "too many channels joined"}


def test_a_topic_that_is_cancelled_on_its_way_to_another_socket_is_over() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A)
    farm.refuses = 503
    (room,) = farm.join(B)
    assert room.state is ChannelState.PENDING
    room.leave(farm.now)
    farm.refuses = None
    farm.advance(10.0)
    assert farm.topics() == [[A]]


@pytest.mark.parametrize("cancelled", [1, 2, 3])
def test_joins_that_were_cancelled_too_late_for_the_server_make_the_limit_no_smaller(cancelled: int) -> None:
    farm = Farm(limit=3).connect()
    farm.held = True
    channels = [farm.client.channel(topic) for topic in (A, B, C, D)]
    refs = [channel.join(farm.now) for channel in channels]
    farm.run()
    for channel, ref in list(zip(channels, refs, strict=True))[:cancelled]:
        channel.cancel(ref, farm.now)
    farm.held = False
    farm.run()
    assert channels[3].state is ChannelState.JOINED
    farm.join(*rooms(5, 6 + cancelled))
    assert [len(topics) for topics in farm.topics()] == [3, 3]


@pytest.mark.parametrize("end", ["cancel", "unreadable", "cancel, unreadable", "leave", "leave, cancel"])
def test_a_topic_that_the_server_had_when_it_refused_a_join_counts_however_it_ended_here(end: str) -> None:
    farm = Farm(limit=1).connect()
    farm.held = True
    first, second = farm.client.channel(A), farm.client.channel(B)
    ref = first.join(farm.now)
    second.join(farm.now)
    farm.run()
    if "unreadable" in end:
        farm.garbled.add(A)
    if "leave" in end:
        ref = first.leave(farm.now)
    if "cancel" in end:
        first.cancel(ref, farm.now)
    farm.held = False
    farm.run()
    assert second.state is ChannelState.JOINED


def test_a_topic_whose_leave_was_not_answered_in_time_counts() -> None:
    farm = Farm(limit=1).connect()
    (first,), second = farm.join(A), farm.client.channel(B)
    farm.held = True
    second.join(farm.now)
    farm.run()
    first.leave(farm.now, timeout=1.0)
    farm.advance(1.0)
    farm.held = False
    farm.run()
    assert second.state is ChannelState.JOINED


def test_a_further_socket_that_fails_does_not_change_the_transport_that_the_first_one_tries() -> None:
    client = ClientProtocol("ws://h/socket", fallback=2.0, options=ClientOptions(topics_per_socket=1))
    for topic in (A, B):
        client.channel(topic).join(0.0)
    links: list[Link] = []

    def dialled() -> list[Link]:
        return [command.link for command in client.commands() if isinstance(command, OpenTransport)]

    client.connect(0.0)
    links += dialled()
    links[0].opened(None, 0.0)
    links += dialled()
    links[1].failed(ConnectError("refused"), 0.0)
    client.handle_timeout(1.0)
    links += dialled()
    links[2].opened(None, 1.0)
    links[0].receive('[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]', 1.0)
    client.handle_timeout(2.0)
    links[0].closed(1001, "", 3.0)
    client.handle_timeout(4.0)
    links += dialled()
    assert [event.transport for event in client.events() if isinstance(event, Connected)] == ["websocket"] * 2
    assert len(links) == 4


# ---- cuts -----------------------------------------------------------------------------------------------------------


def test_the_cut_of_one_socket_does_not_touch_the_topics_of_another() -> None:
    farm = Farm(limit=2).connect()
    farm.join(A, B, C, D)
    ref = farm.channel(A).push("ask", {}, farm.now)
    lost = farm.channel(C).push("ask", {}, farm.now)
    farm.held = True
    farm.run().events()
    farm.cut(1, code=1006)
    events = farm.events()
    assert topics_of(events) == [C, D]
    assert [(event.socket, event.code) for event in events if isinstance(event, Disconnected)] == [(1, 1006)]
    assert [event.ref for event in events if isinstance(event, PushFailed)] == [lost]
    farm.held = False
    farm.broadcast(A)
    assert [event.ref for event in farm.events() if isinstance(event, ReplyReceived)] == [ref]
    assert farm.heard == {A: [1]}
    farm.advance(1.0)
    assert farm.topics() == [[A, B], [C, D]]


@pytest.mark.parametrize("cut", [(0,), (1,), (3,), (0, 1, 2, 3)])
def test_each_message_comes_once_and_in_order_through_cuts(cut: tuple[int, ...]) -> None:
    farm = Farm(limit=100).connect()
    topics = rooms(1, 350)
    farm.join(*topics)
    for _ in range(3):
        farm.broadcast(*topics)
        farm.cut(*cut)
        farm.advance(5.0)
        farm.broadcast(*topics)
    assert farm.heard == {topic: [1, 2, 3, 4, 5, 6] for topic in topics}
    assert sorted(map(len, farm.topics())) == [50, 100, 100, 100]
    assert farm.client.stats.reconnects == 3 * len(cut)


def test_a_topic_stays_on_its_socket_when_that_is_cut() -> None:
    farm = Farm(limit=2).connect()
    farm.join(A, B, C, D)
    farm.cut(0, 1)
    farm.advance(1.0)
    assert sorted(farm.topics()) == [[A, B], [C, D]]


def test_each_socket_waits_for_its_own_time_to_reconnect() -> None:
    farm = Farm(limit=1, rng=Random(1)).connect()
    farm.join(*rooms(1, 20))
    farm.events()
    farm.cut(*range(20))
    waits = {event.retry_in for event in farm.events() if isinstance(event, Disconnected)}
    assert len(waits) == 20


def test_a_rejoin_that_is_refused_by_the_limit_moves_on_too() -> None:
    farm = Farm(limit=3).connect()
    farm.join(A, B, C)
    farm.limit = 2
    farm.cut(0)
    farm.events()
    farm.advance(1.0)
    assert farm.topics() == [[A, B], [C]]
    assert topics_of(farm.events(ChannelJoined, ChannelErrored, ChannelEnded)) == [A, B, C]


def test_a_new_connection_may_take_more_than_the_one_before_it() -> None:
    farm = Farm(limit=3).connect()
    farm.join(A, B, C, D)
    assert farm.topics() == [[A, B, C], [D]]
    farm.limit = 1
    farm.cut(1)
    farm.advance(1.0)
    farm.join(E)
    assert sorted(farm.topics()) == [[A, B, C], [D], [E]]
    farm.limit = 3
    farm.cut(1, 2)
    farm.advance(1.0)
    farm.join(*rooms(6, 9))
    assert sorted(map(len, farm.topics())) == [3, 3, 3]


def test_a_channel_that_crashes_joins_again_where_it_was() -> None:
    farm = Farm(limit=2).connect()
    farm.join(A, B, C)
    farm.crash(A)
    farm.join(D)
    farm.advance(5.0)
    assert farm.topics() == [[B, A], [C, D]]


def test_pushes_that_wait_go_with_their_topic_to_another_socket() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A)
    room = farm.client.channel(B)
    room.join(farm.now)
    ref = room.push("ask", {}, farm.now)
    farm.run()
    assert [event.ref for event in farm.events(ReplyReceived) if isinstance(event, ReplyReceived)] == [ref]


@pytest.mark.parametrize("event", ["phx_close", "phx_error", "n"])
@pytest.mark.parametrize("named", [False, True])
def test_what_comes_on_another_socket_than_a_topics_own_is_stale(event: str, named: bool) -> None:
    farm = Farm(limit=1).connect()
    room, _ = farm.join(A, B)
    stale = farm.client.stats.stale
    farm.links[1].receive(message(A, room.join_ref if named else None, event), farm.now)
    assert (room.state, farm.client.stats.stale - stale) == (ChannelState.JOINED, 1)
    assert farm.run().heard == {}


# ---- sockets that are not needed, or cannot be had ------------------------------------------------------------------


def test_a_socket_without_a_topic_is_closed_after_a_moment() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.leave(B)
    farm.events()
    farm.advance(0.9)
    assert len(farm.topics()) == 2
    assert farm.events() == []
    farm.advance(0.2)
    assert farm.topics() == [[A]]
    assert farm.events() == [SocketEnded(None, 1)]
    assert (farm.client.state, farm.client.stats.sockets) == (SocketState.OPEN, 1)
    farm.join(C)
    assert farm.topics() == [[A], [C]]
    assert Connected(None, False, socket=2) in farm.events()


def check_that_the_second_socket_ends_in_a_moment(farm: Farm) -> None:
    farm.events()
    farm.advance(0.9)
    assert farm.events(SocketEnded) == []
    farm.advance(0.2)
    assert farm.events(SocketEnded) == [SocketEnded(None, 1)]


ENDS = ("reply", "unreadable reply", "phx_close", "phx_error", "timeout", "cancelled", "without a leave")


@pytest.mark.parametrize("end", ENDS)
def test_a_socket_is_closed_a_moment_after_its_last_topic_has_ended_however_that_was(end: str) -> None:
    farm = Farm(limit=1).connect()
    _, channel = farm.join(A, B)
    farm.held = "reply" not in end
    if end == "unreadable reply":
        farm.garbled.add(B)
    if end != "without a leave":
        ref = channel.leave(farm.now, timeout=0.5)
    if end == "timeout":
        farm.advance(0.5)
    elif end == "cancelled":
        channel.cancel(ref, farm.now)
    elif farm.held:
        event = "phx_error" if end == "phx_error" else "phx_close"
        farm.links[1].receive(message(B, channel.join_ref, event), farm.now)
    farm.run()
    farm.held = False
    assert channel.state is ChannelState.CLOSED
    check_that_the_second_socket_ends_in_a_moment(farm)


@pytest.mark.parametrize("end", ["refused", "unreadable", "cancelled", "timed out"])
def test_a_socket_whose_only_join_has_failed_is_closed_a_moment_later(end: str) -> None:
    farm = Farm(options=ClientOptions(topics_per_socket=1)).connect()
    farm.join(A)
    farm.unheard.add(B)
    channel = farm.client.channel(B)
    ref = channel.join(farm.now, timeout=0.5)
    farm.run()
    if end == "refused":
        farm.links[1].receive(refusal(channel, '{"reason":"no"}'), farm.now)
    elif end == "unreadable":
        farm.links[1].receive(refusal(channel, "1e999"), farm.now)
    elif end == "cancelled":
        channel.cancel(ref, farm.now)
    else:
        farm.advance(0.5)
    assert channel.state is ChannelState.CLOSED
    check_that_the_second_socket_ends_in_a_moment(farm)


def test_an_empty_socket_whose_close_is_not_answered_is_dropped_in_time() -> None:
    farm = Farm(limit=1, options=ClientOptions(close_timeout=3.0)).connect()
    farm.join(A, B)
    farm.leave(B)
    for seconds, commands in ((1.0, [CloseTransport]), (3.9, []), (4.0, [AbortTransport])):
        farm.client.handle_timeout(farm.now + seconds)
        asked = farm.client.commands()
        assert [type(command) for command in asked] == commands
        assert all(command.link is farm.links[1] for command in asked)  # type: ignore[union-attr]


def test_the_first_socket_stays_without_a_topic() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.leave(A)
    farm.advance(100.0)
    assert farm.topics() == [[], [B]]


def test_a_socket_that_gets_another_topic_in_time_stays() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.leave(B)
    farm.advance(0.5)
    farm.join(C)
    farm.leave(C)
    farm.join(D)
    farm.advance(100.0)
    assert farm.topics() == [[A], [D]]


def test_a_socket_that_has_lost_its_connection_and_its_topics_is_given_up() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.refuses = 503
    farm.cut(1)
    farm.leave(B)
    farm.advance(60.0)
    assert (farm.client.stats.sockets, farm.client.state) == (1, SocketState.OPEN)


def test_a_socket_whose_leaves_end_with_its_connection_is_given_up() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.held = True
    farm.leave(B)
    farm.cut(1)
    farm.held = False
    farm.advance(60.0)
    assert (farm.client.stats.sockets, farm.topics()) == (1, [[A]])


def test_a_further_socket_that_is_refused_for_good_ends_its_topics_and_not_the_client() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A)
    farm.events()
    farm.refuses = 403
    farm.join(B)
    connecting, ended, failed, channel_ended = farm.events()
    assert connecting == Connecting(1, 1)
    assert isinstance(ended, SocketEnded)
    assert isinstance(failed, JoinFailed)
    assert isinstance(channel_ended, ChannelEnded)
    assert isinstance(failed.error, HandshakeRefused)
    assert failed.error is ended.error is channel_ended.error
    assert ended.socket == 1
    assert (farm.client.state, farm.client.stats.sockets) == (SocketState.OPEN, 1)
    farm.refuses = None
    farm.join(B)
    assert farm.topics() == [[A], [B]]


def test_a_socket_that_was_open_and_is_refused_for_good_ends_the_client() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.refuses = 403
    farm.held = True
    farm.client.ping(farm.now)  # on the other socket
    farm.cut(1)
    farm.advance(5.0)
    lost, closed = farm.events(PushFailed, Closed)
    assert isinstance(closed, Closed)
    assert isinstance(closed.error, HandshakeRefused)
    assert isinstance(lost, PushFailed)
    assert lost.error.__cause__ is closed.error
    assert farm.links == []
    assert farm.client.next_timeout() is None


def test_a_further_socket_is_tried_until_it_is_open_whatever_the_timeout_of_the_first_connect() -> None:
    farm = Farm(limit=1)
    farm.client.connect(farm.now, timeout=10.0)
    farm.run()
    farm.join(A)
    farm.refuses = 503
    room = farm.client.channel(B)
    room.join(farm.now, timeout=1000.0)
    farm.run().advance(100.0)
    failed = sockets_of(farm.events(ConnectFailed))
    assert set(failed) == {("ConnectFailed", 1)}
    assert len(failed) > 5
    farm.refuses = None
    farm.advance(10.0)
    assert farm.topics() == [[A], [B]]


# ---- the client as a whole ------------------------------------------------------------------------------------------


def test_the_client_is_open_when_every_socket_is_that_was_open_before() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    assert farm.state() is SocketState.OPEN
    farm.refuses = 503
    farm.cut(1)
    assert farm.state() is SocketState.WAITING
    farm.refuses = None
    farm.advance(5.0)
    assert farm.state() is SocketState.OPEN


def test_a_socket_that_is_opened_for_more_topics_counts_once_an_attempt_has_failed() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A)
    farm.client.channel(B).join(farm.now)
    farm.held = True
    farm.run()
    states: list[SocketState] = []
    original = farm._obey

    def note(command: Any) -> None:
        states.append(farm.client.state)
        original(command)

    farm._obey = note  # type: ignore[method-assign]
    farm.held = False
    farm.refuses = 503
    farm.run()
    assert set(states) == {SocketState.OPEN}
    assert farm.state() is SocketState.WAITING


def test_stats_count_all_sockets() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B, C)
    farm.cut(0, 2)
    farm.advance(5.0)
    stats = farm.client.stats
    assert (stats.sockets, stats.connects, stats.reconnects) == (3, 5, 2)


def test_reconnect_is_for_all_sockets_and_each_asks_for_its_params_anew() -> None:
    asked = Counter[str]()

    def params() -> dict[str, Any]:
        asked["params"] += 1
        return {}

    farm = Farm(limit=1, params=params).connect()
    farm.join(A, B)
    assert asked["params"] == 2
    farm.client.reconnect(farm.now)
    farm.run()
    assert asked["params"] == 4
    assert farm.topics() == [[A], [B]]


def while_an_empty_socket_closes() -> tuple[Farm, float]:
    """A client whose second socket has just begun to close, and the time."""
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.leave(B)
    due = farm.client.next_timeout()
    assert due is not None
    farm.client.handle_timeout(due)
    return farm, due


def test_reconnect_leaves_a_socket_alone_that_is_being_closed() -> None:
    farm, due = while_an_empty_socket_closes()
    farm.client.reconnect(due)
    farm.run()
    assert farm.topics() == [[A]]


def test_secrets_of_every_socket_are_masked() -> None:
    tokens = iter(["first-token", "second-token"])
    farm = Farm(limit=1, auth_token=lambda: next(tokens)).connect()
    farm.join(A, B)
    masked = farm.client.secrets.masked("of first-token and second-token")
    assert "first-token" not in masked
    assert "second-token" not in masked


def test_ping_goes_to_an_open_socket() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.refuses = 503
    farm.cut(0)
    ref = farm.client.ping(farm.now)
    assert [event.ref for event in farm.run().events(PingAnswered) if isinstance(event, PingAnswered)] == [ref]
    farm.held = True
    cancelled = farm.client.ping(farm.now)
    farm.client.cancel_ping(cancelled)
    assert [event.ref for event in farm.run().events(PushFailed) if isinstance(event, PushFailed)] == [cancelled]
    farm.cut(0)
    with pytest.raises(InvalidState):
        farm.client.ping(farm.now)


def test_back_pressure_is_for_all_messages_held_and_stops_every_socket() -> None:
    farm = Farm(limit=1, options=ClientOptions(flow=FlowLimits(high=4, low=1))).connect()
    farm.join(A, B, C)
    farm.handles = False
    farm.broadcast(A, B)
    assert farm.paused == set()
    farm.broadcast(A, B)
    assert farm.paused == set(farm.links)
    farm.broadcast(C)
    assert farm.client.stats.backlog == 4
    farm.handle()
    farm.run()
    assert farm.paused == set()
    farm.handle()
    assert farm.heard == {A: [1, 2], B: [1, 2], C: [1]}


def test_a_socket_on_which_a_call_waits_is_read_while_the_others_are_not() -> None:
    farm = Farm(limit=1, options=ClientOptions(flow=FlowLimits(high=2, low=0))).connect()
    farm.join(A, B)
    farm.handles = False
    farm.held = True
    farm.channel(B).push("ask", {}, farm.now)
    farm.run()
    farm.links[0].receive_all([message(A, None, "n")] * 2, farm.now)
    farm.run()
    assert farm.paused == {farm.links[0]}
    farm.held = False
    assert farm.run().events(ReplyReceived)


# ---- the end --------------------------------------------------------------------------------------------------------


def test_close_is_over_when_every_socket_has_closed() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B, C)
    farm.refuses = 503
    farm.cut(2)
    farm.events()
    links = list(farm.links)
    farm.client.disconnect(farm.now)
    assert farm.state() is SocketState.CLOSING
    links[0].closed(1000, "", farm.now)
    assert farm.state() is SocketState.CLOSING
    links[1].closed(1000, "", farm.now)
    assert farm.state() is SocketState.CLOSED
    assert farm.client.events()[-1] == Closed(None)
    assert farm.client.next_timeout() is None


def test_a_socket_whose_close_is_not_answered_is_dropped_in_time() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    first, second = farm.links
    farm.client.disconnect(farm.now)
    first.closed(1000, "", farm.now)
    farm.client.handle_timeout(farm.now + 5.0)
    assert farm.state() is SocketState.CLOSED
    assert str(farm.client.commands()[-1]).startswith(f"AbortTransport(link={second!r}")


def test_an_abort_ends_what_is_left_where_one_socket_has_closed_already() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.client.disconnect(farm.now)
    farm.links[0].closed(1000, "", farm.now)
    farm.client.abort(farm.now)
    assert farm.state() is SocketState.CLOSED
    assert [event for event in farm.client.events() if isinstance(event, Closed)] == [Closed(None)]


def test_the_client_closes_before_the_moment_of_an_empty_socket_is_over() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.leave(B)
    farm.client.close(farm.now)
    assert farm.run().events()[-1] == Closed(None)
    assert farm.client.next_timeout() is None


def test_a_drain_leaves_every_topic_and_closes_every_socket() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B, C)
    farm.handles = False
    farm.broadcast(A, B, C)
    farm.events()
    farm.client.close(farm.now)
    farm.run()
    assert farm.state() is SocketState.DRAINING
    farm.handle()
    farm.run()
    assert farm.heard == {A: [1], B: [1], C: [1]}
    events = farm.events()
    assert {event.topic for event in events if isinstance(event, LeaveEnded)} == {A, B, C}
    assert events[-1] == Closed(None)
    assert farm.links == []


def test_a_drain_goes_on_when_one_of_the_sockets_is_cut() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.handles = False
    farm.broadcast(A)
    farm.client.close(farm.now)
    farm.cut(1)
    assert farm.state() is SocketState.DRAINING
    farm.handle()
    assert farm.run().events()[-1] == Closed(None)


def test_a_join_that_is_refused_by_the_limit_in_a_drain_opens_no_socket() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A)
    farm.handles = False
    farm.broadcast(A)
    room = farm.client.channel(B)
    room.join(farm.now)
    farm.client.close(farm.now)
    farm.run()
    assert (room.state, farm.client.stats.sockets) == (ChannelState.PENDING, 1)
    late = farm.client._make_channel(C, None)
    late.join(farm.now)
    assert farm.client.stats.sockets == 1
    late.leave(farm.now)
    farm.handle()
    events = farm.run().events()
    assert events[-1] == Closed(None)


def test_an_abort_drops_every_socket() -> None:
    farm = Farm(limit=1).connect()
    farm.join(A, B)
    farm.channel(B).push("ask", {}, farm.now)
    farm.client.abort(farm.now)
    farm.run()
    assert farm.links == []
    events = farm.events()
    assert events[-1] == Closed(None)
    (lost,) = [event.error for event in events if isinstance(event, PushFailed)]
    assert isinstance(lost, PushLost)
    with pytest.raises(ConnectionClosedByClient):
        farm.client.channel(C)


def test_the_client_closes_while_an_empty_socket_closes() -> None:
    farm, due = while_an_empty_socket_closes()
    farm.client.disconnect(due)
    farm.run()
    assert farm.events()[-1] == Closed(None)
    assert farm.client.next_timeout() is None


def test_an_observer_is_told_of_each_frame_and_end_with_the_number_of_the_connection() -> None:
    class Observer:
        def __init__(self) -> None:
            self.told: list[tuple[int, str, Any]] = []

        def sent(self, connection: int, frame: str | bytes, /) -> None:
            self.told.append((connection, "sent", V2().decode(frame).event))

        def received(self, connection: int, frames: Sequence[str | bytes], /) -> None:
            self.told += [(connection, "received", V2().decode(frame).event) for frame in frames]

        def lost(self, connection: int, code: int | None, reason: str, /) -> None:
            self.told.append((connection, "lost", (code, reason)))

    farm, observer = Farm(limit=1).connect(), Observer()
    farm.client.observe(observer)
    farm.join(A)
    farm.join(B)
    farm.cut(1, code=1012)
    joined = [("sent", "phx_join"), ("received", "phx_reply")]
    assert observer.told == [
        *((1, *each) for each in [*joined, *joined]),  # the second is refused here
        *((2, *each) for each in [*joined, ("lost", (1012, "cut"))]),
    ]
