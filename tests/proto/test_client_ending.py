"""How a client ends: close, drain and abort, at every step of each."""

from math import inf
from typing import Any

import pytest
from conversation import EMPTY, Conversation

from phx_proto.commands import AbortTransport, CloseTransport, PauseReading, ResumeReading
from phx_proto.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionClosedByClient,
    ConnectionLost,
    HandshakeRefused,
    JoinCancelled,
    PushLost,
)
from phx_proto.events import (
    ChannelEnded,
    Closed,
    Disconnected,
    JoinFailed,
    LeaveEnded,
    PingAnswered,
    PushFailed,
    ReplyReceived,
)
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.inbox import Tap
from phx_proto.message import Reply
from phx_proto.options import ClientOptions
from phx_proto.states import ChannelState, SocketState


def listening(options: ClientOptions | None = None, **settings: Any) -> Conversation:
    """A connected client with a handler for every event."""
    router = Router()
    router.add(lambda message: None, "*")
    return Conversation(options, router=router, **settings).connect()


# ---- close ----------------------------------------------------------------------------------------------------------


def test_close_starts_the_closing_handshake_and_ends_with_it() -> None:
    talk = Conversation().connect()
    talk.proto.disconnect(talk.now)
    assert talk.commands() == [CloseTransport(talk.link, 1000, "")]
    assert (talk.proto.state, talk.events()) == (SocketState.CLOSING, [])
    talk.link.closed(1000, "", talk.now)
    assert (talk.proto.state, talk.events()) == (SocketState.CLOSED, [Closed(None)])


def test_close_ends_the_channels_at_once() -> None:
    talk = Conversation().connect()
    room = talk.joined()
    ref = talk.push(room)
    talk.proto.disconnect(talk.now)
    failed, ended = talk.events()
    assert isinstance(failed, PushFailed)
    assert isinstance(failed.error, PushLost)
    assert failed.ref == ref
    assert ended == ChannelEnded("room:1", None)
    assert room.state is ChannelState.CLOSED


def test_what_comes_while_closing_interests_nobody() -> None:
    talk = listening()
    talk.joined()
    talk.proto.disconnect(talk.now)
    talk.events()
    talk.receive('[null,null,"room:1","tick",{}]', "garbage")
    assert (talk.events(), talk.deliveries()) == ([], [])
    assert talk.proto.stats.bad_frames == 0


def test_a_server_that_does_not_answer_the_close_is_dropped() -> None:
    talk = Conversation(ClientOptions(close_timeout=3.0)).connect()
    talk.proto.disconnect(talk.now)
    talk.advance(2.999)
    assert talk.proto.state is SocketState.CLOSING
    talk.advance(0.001)
    assert talk.commands()[-1] == AbortTransport(talk.link)
    assert talk.events() == [Closed(None)]


def test_a_close_while_reading_stands_still_reads_on_for_the_servers_close_frame() -> None:
    talk = listening(ClientOptions(flow=FlowLimits(high=1, low=0)))
    talk.joined()
    talk.serve("room:1", "tick")
    talk.proto.disconnect(talk.now)
    link = talk.link
    assert talk.commands() == [PauseReading(link), ResumeReading(link), CloseTransport(link, 1000, "")]


def test_closing_twice_is_closing_once() -> None:
    talk = Conversation().connect()
    talk.proto.disconnect(talk.now)
    talk.advance(2.0)
    talk.proto.disconnect(talk.now)
    assert len(talk.commands()) == 1
    talk.advance(3.0)
    talk.proto.disconnect(talk.now)
    assert talk.events() == [Closed(None)]


def test_close_of_what_never_connected_ends_at_once() -> None:
    talk = Conversation()
    talk.proto.disconnect(talk.now)
    assert talk.events() == [Closed(None)]


def test_close_drops_an_attempt_under_way() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now, timeout=60.0)
    link = talk.link
    talk.proto.disconnect(talk.now)
    assert talk.commands()[-1] == AbortTransport(link)
    assert talk.events()[-1] == Closed(None)
    assert talk.proto.next_timeout() is None


def test_close_forgets_questions_under_way() -> None:
    talk = Conversation(params=lambda: EMPTY)
    talk.proto.connect(talk.now)
    talk.proto.disconnect(talk.now)
    talk.events()
    talk.resolve({})
    assert (talk.proto.state, talk.events()) == (SocketState.CLOSED, [])


def test_a_client_that_was_closed_makes_no_channel() -> None:
    talk = Conversation().connect()
    talk.proto.disconnect(talk.now)
    with pytest.raises(ConnectionClosed):
        talk.channel()


# ---- abort ----------------------------------------------------------------------------------------------------------


def test_abort_drops_the_connection_without_a_handshake() -> None:
    talk = Conversation().connect()
    room = talk.joining()
    talk.proto.abort(talk.now)
    assert talk.commands() == [AbortTransport(talk.link)]
    failed, ended, closed = talk.events()
    assert isinstance(failed, JoinFailed)
    assert (ended, closed) == (ChannelEnded("room:1", None), Closed(None))
    assert room.state is ChannelState.CLOSED


def test_aborting_twice_is_aborting_once() -> None:
    talk = Conversation().connect()
    talk.proto.abort(talk.now)
    talk.proto.abort(talk.now)
    assert talk.events() == [Closed(None)]


def test_abort_cuts_a_closing_handshake_short() -> None:
    talk = Conversation().connect()
    talk.proto.disconnect(talk.now)
    talk.proto.abort(talk.now)
    assert talk.commands()[-1] == AbortTransport(talk.link)
    assert talk.events() == [Closed(None)]


def test_nothing_is_left_to_be_woken_for_after_the_end() -> None:
    talk = listening(ClientOptions(flow=FlowLimits(high=1, low=0)))
    room = talk.joined()
    talk.joining("room:2")
    talk.push(room, timeout=60.0)
    talk.ping()
    talk.serve("room:1", "tick")
    talk.leave(talk.joined("room:3"))
    talk.proto.abort(talk.now)
    assert talk.proto.next_timeout() is None


# ---- drain ----------------------------------------------------------------------------------------------------------


def test_drain_of_a_client_without_work_leaves_and_closes() -> None:
    talk = Conversation().connect()
    room = talk.joined()
    join_ref = room.join_ref
    talk.proto.close(talk.now)
    ((left_ref, ref, topic, event, _),) = talk.sent()
    assert (left_ref, topic, event) == (join_ref, "room:1", "phx_leave")
    assert talk.proto.state.value == "draining"
    talk.reply(ref)
    assert isinstance(talk.events()[0], LeaveEnded)
    assert talk.commands() == [CloseTransport(talk.link, 1000, "")]
    assert talk.proto.state is SocketState.CLOSING
    talk.link.closed(1000, "", talk.now)
    assert talk.events() == [Closed(None)]


def test_drain_waits_until_what_was_received_is_handled() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now)
    assert talk.sent() == []
    talk.handle(1)
    assert talk.sent() == []
    talk.handle(1)
    assert [frame.event for frame in talk.sent()] == ["phx_leave"]


def test_drain_closes_when_the_last_message_is_handled_of_a_channel_that_is_gone() -> None:
    router = Router()
    router.add(lambda message: None, "tick")
    talk = Conversation(router=router).connect()
    room = talk.joined("room:1")
    talk.serve("room:1", "tick")
    talk.close_channel("room:1", room.join_ref)
    talk.proto.close(talk.now)
    assert talk.proto.state.value == "draining"
    assert talk.deliveries() == [("room:1", "tick", {})]
    assert talk.proto.state is SocketState.CLOSING


def test_new_messages_are_dropped_while_draining_and_counted() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now)
    for _ in range(2):
        talk.serve("room:1", "tock")
    assert talk.proto.stats.dropped == 2
    assert talk.deliveries() == [("room:1", "tick", {})]


def test_a_handler_that_pushes_gets_its_reply_while_draining() -> None:
    talk = listening()
    room = talk.joined()
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now)
    ref = talk.push(room, "save")
    talk.reply(ref, "ok", {"id": 7})
    assert talk.events() == [ReplyReceived("room:1", "save", ref, Reply("ok", {"id": 7}))]


def test_a_ping_works_while_draining() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now)
    ref = talk.ping()
    assert talk.events() == [PingAnswered(ref, 0.0)]


def test_drain_reads_on_where_reading_stood_still_and_never_stops_again() -> None:
    talk = listening(ClientOptions(flow=FlowLimits(high=2, low=0)))
    talk.joined()
    talk.receive(*['[null,null,"room:1","tick",{}]'] * 3)
    link = talk.link
    assert talk.commands() == [PauseReading(link)]
    talk.proto.close(talk.now)
    assert talk.commands() == [ResumeReading(link)]
    talk.receive(*['[null,null,"room:1","tick",{}]'] * 3)
    assert talk.commands() == []


def test_a_drain_that_takes_too_long_is_cut_short() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now, timeout=4.0)
    talk.advance(3.999)
    assert talk.proto.state.value == "draining"
    talk.advance(0.001)
    assert talk.commands() == [AbortTransport(talk.link)]
    assert talk.events()[-1] == Closed(None)


def test_a_leave_that_is_not_answered_ends_with_the_drain() -> None:
    talk = Conversation().connect()
    talk.joined()
    talk.proto.close(talk.now, timeout=4.0)
    talk.advance(4.0)
    assert [type(event) for event in talk.events()] == [LeaveEnded, ChannelEnded, Closed]


@pytest.mark.parametrize("timeout", [1.0, 7.0, inf])
def test_the_closing_handshake_is_within_the_drains_timeout(timeout: float) -> None:
    talk = Conversation(ClientOptions(close_timeout=5.0)).connect()
    talk.proto.close(talk.now, timeout=timeout)
    talk.advance(min(timeout, 5.0) - 0.001)
    assert Closed(None) not in talk.events()
    talk.advance(0.001)
    assert Closed(None) in talk.events()


def test_what_the_drain_took_is_taken_off_the_closing_handshake() -> None:
    talk = Conversation(ClientOptions(close_timeout=5.0)).connect()
    room = talk.joined()
    talk.proto.close(talk.now, timeout=6.0)
    talk.advance(4.0)
    talk.close_channel(room.topic, room.join_ref)
    assert talk.proto.state is SocketState.CLOSING
    talk.advance(2.0)
    assert Closed(None) in talk.events()


def test_a_drain_may_take_for_ever() -> None:
    talk = Conversation(ClientOptions(heartbeat=1000.0)).connect()
    talk.joined()
    talk.proto.close(talk.now, timeout=inf)
    talk.advance(999.0)
    assert talk.proto.state.value == "draining"


def test_a_leave_that_was_under_way_is_waited_for_until_its_own_timeout() -> None:
    talk = Conversation().connect()
    room = talk.joined()
    talk.leave(room, timeout=2.0)
    talk.proto.close(talk.now)
    talk.advance(1.0)
    assert talk.proto.state.value == "draining"
    talk.advance(1.0)
    assert talk.proto.state is SocketState.CLOSING


def test_a_join_that_was_under_way_is_cancelled_and_left() -> None:
    talk = Conversation().connect()
    talk.joining()
    talk.sent()
    talk.proto.close(talk.now)
    failed = talk.event(JoinFailed)
    assert isinstance(failed.error, JoinCancelled)
    assert [frame.event for frame in talk.sent()] == ["phx_leave"]


def test_a_join_whose_turn_had_not_come_is_never_sent() -> None:
    talk = listening(ClientOptions(joins_in_flight=1))
    talk.joined("room:1")
    talk.joining("room:2")
    talk.joining("room:3")
    talk.serve("room:1", "tick")
    talk.sent()
    talk.proto.close(talk.now)
    talk.deliveries()
    assert [(frame.topic, frame.event) for frame in talk.sent()] == [("room:1", "phx_leave"), ("room:2", "phx_leave")]


def test_the_connection_may_be_lost_while_draining_and_handlers_still_finish() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now)
    talk.drop(1012, "restart")
    assert talk.event(Disconnected) == Disconnected(1012, "restart", None)
    assert talk.proto.state.value == "draining"
    talk.advance(5.0)
    assert talk.commands() == []
    talk.deliveries()
    assert talk.events()[-1] == Closed(None)


def test_a_connection_lost_while_leaves_are_answered_ends_the_drain() -> None:
    talk = Conversation().connect()
    talk.joined()
    talk.proto.close(talk.now)
    talk.drop()
    assert [type(event) for event in talk.events()] == [Disconnected, LeaveEnded, ChannelEnded, Closed]


def test_a_silent_peer_is_noticed_while_draining() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.answers_heartbeats = False
    talk.proto.close(talk.now, timeout=100.0)
    talk.advance(60.0)
    assert talk.event(Disconnected).retry_in is None


def test_drain_between_two_connections_waits_for_handlers_alone() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.drop()
    talk.proto.close(talk.now)
    talk.advance(1.0)
    assert talk.proto.state.value == "draining"
    talk.deliveries()
    assert talk.events()[-1] == Closed(None)


def test_drain_drops_an_attempt_under_way() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.drop()
    talk.advance(0.01)
    link = talk.link
    talk.proto.close(talk.now)
    assert talk.commands()[-1] == AbortTransport(link)
    talk.deliveries()
    assert talk.proto.state is SocketState.CLOSED


def test_what_a_tap_keeps_is_waited_for() -> None:
    talk = Conversation().connect()
    room = talk.joined()
    room.attach(Tap(lambda item: None))
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now)
    assert talk.sent() == []
    talk.tapped()
    assert [frame.event for frame in talk.sent()] == ["phx_leave"]


def test_draining_twice_is_draining_once() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now, timeout=5.0)
    talk.advance(4.0)
    talk.proto.close(talk.now, timeout=5.0)
    talk.advance(1.0)
    assert talk.proto.state is SocketState.CLOSED


def test_a_drain_can_be_cut_short_by_a_close() -> None:
    talk = listening()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now)
    talk.proto.disconnect(talk.now)
    assert talk.commands() == [CloseTransport(talk.link, 1000, "")]
    talk.link.closed(1000, "", talk.now)
    assert talk.events()[-1] == Closed(None)


def test_drain_of_what_never_connected_ends_at_once() -> None:
    talk = Conversation()
    talk.joining()
    talk.proto.close(talk.now)
    assert talk.events()[-1] == Closed(None)


# ---- why it ended ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "end",
    [
        lambda talk: talk.link.refused(403, {}, b"", talk.now),
        lambda talk: talk.proto.disconnect(talk.now),
        lambda talk: talk.proto.abort(talk.now),
        lambda talk: talk.proto.close(talk.now),
        lambda talk: talk.advance(30.0),
    ],
    ids=["refused", "disconnect", "abort", "close", "timeout"],
)
def test_a_connect_ends_once_and_nothing_comes_after_it(end: Any) -> None:
    talk = Conversation()
    talk.joining(timeout=inf)
    talk.proto.connect(talk.now, timeout=30.0)
    end(talk)
    events = talk.events()
    assert [event for event in events if isinstance(event, Closed)] == events[-1:]
    link = talk.link
    link.opened(None, talk.now)
    link.failed(ConnectError("late"), talk.now)
    talk.advance(3600.0)
    assert talk.events() == []


def test_channels_end_with_what_ended_the_client() -> None:
    talk = Conversation()
    talk.joining()
    talk.proto.connect(talk.now)
    talk.link.refused(403, {}, b"", talk.now)
    ended = talk.event(ChannelEnded)
    assert isinstance(ended.error, HandshakeRefused)


def test_a_channel_of_a_client_that_an_error_has_ended_is_refused_with_that_error() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now)
    talk.events()
    talk.link.refused(403, {}, b"no", talk.now)
    with pytest.raises(ConnectionLost, match=r"the client has ended: .* HTTP 403") as caught:
        talk.proto.channel("room:1")
    assert isinstance(caught.value.__cause__, HandshakeRefused)


def test_one_of_a_client_that_was_closed_says_so() -> None:
    talk = Conversation().connect()
    talk.proto.abort(talk.now)
    with pytest.raises(ConnectionClosedByClient, match="the client was closed"):
        talk.proto.channel("room:1")


@pytest.mark.parametrize("first", ["close", "abort"])
def test_the_first_error_that_the_application_ends_it_with_is_told(first: str) -> None:
    talk = Conversation().connect()
    error = KeyError("mine")
    getattr(talk.proto, first)(talk.now, error=error)
    talk.proto.abort(talk.now, error=ValueError("later"))
    assert talk.event(Closed).error is error
