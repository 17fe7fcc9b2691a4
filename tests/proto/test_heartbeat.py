"""Heartbeats: when they go out, when a peer counts as dead, and pings."""

from math import inf

import pytest
from conversation import Conversation

from phx_proto.commands import AbortTransport
from phx_proto.errors import InvalidState, PushCancelled, PushTimeout
from phx_proto.events import Disconnected, PingAnswered, PushFailed
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.options import ClientOptions
from phx_proto.states import SocketState

SILENT = Disconnected(None, "nothing was heard for 30 s after a heartbeat", 0.01)
TICK = '[null,null,"room:1","tick",{}]'


def unanswering(options: ClientOptions | None = None) -> Conversation:
    """Connected to a server that answers no heartbeat."""
    router = Router()
    router.add(lambda message: None, "tick")
    talk = Conversation(options, router=router).connect()
    talk.joined()
    talk.answers_heartbeats = False
    return talk


def heartbeats(talk: Conversation) -> int:
    return sum(frame.event == "heartbeat" for frame in talk.sent())


# ---- when they go out -----------------------------------------------------------------------------------------------


def test_a_heartbeat_goes_out_every_thirty_seconds() -> None:
    talk = Conversation().connect()
    talk.answers_heartbeats = False
    talk.advance(29.999)
    assert talk.sent() == []
    talk.advance(0.001)
    ((join_ref, ref, topic, event, payload),) = talk.sent()
    assert (join_ref, topic, event, payload) == (None, "phoenix", "heartbeat", {})
    talk.reply(ref)
    talk.advance(30.0)
    assert heartbeats(talk) == 1


def test_the_interval_can_be_chosen() -> None:
    talk = Conversation(ClientOptions(heartbeat=5.0)).connect()
    talk.advance(21.0)
    assert talk.proto.stats.received == 4  # the answers


def test_heartbeats_go_out_whether_or_not_there_is_other_traffic() -> None:
    talk = unanswering()
    for _ in range(120):
        talk.advance(1.0)
        talk.receive(TICK)
    assert heartbeats(talk) == 4


def test_no_heartbeat_goes_out_between_two_connections() -> None:
    talk = unanswering()
    talk.advance(20.0)
    talk.drop(1013)
    talk.advance(15.0)
    assert talk.sent() == []


def test_the_interval_begins_anew_with_each_connection() -> None:
    talk = unanswering()
    talk.advance(20.0)
    talk.reconnect()
    talk.sent()
    talk.advance(29.0)
    assert heartbeats(talk) == 0
    talk.advance(1.0)
    assert heartbeats(talk) == 1


def test_the_answer_to_a_heartbeat_is_no_stale_reply() -> None:
    talk = Conversation().connect()
    talk.advance(100.0)
    assert (talk.proto.stats.received, talk.proto.stats.stale) == (3, 0)


# ---- when the peer is dead ------------------------------------------------------------------------------------------


def test_a_peer_that_was_silent_for_an_interval_after_a_heartbeat_is_dropped_without_a_handshake() -> None:
    talk = unanswering()
    link = talk.link
    talk.advance(59.999)
    assert talk.proto.state is SocketState.OPEN
    talk.advance(0.001)
    assert talk.event(Disconnected) == SILENT
    assert talk.commands() == [AbortTransport(link)]


def test_silence_before_the_first_heartbeat_does_not_count() -> None:
    talk = Conversation().connect()
    talk.advance(30.0)  # answered
    talk.answers_heartbeats = False
    talk.advance(59.0)
    assert talk.proto.state is SocketState.OPEN
    talk.advance(1.0)
    assert talk.event(Disconnected) == SILENT


def test_the_silence_of_one_connection_is_not_held_against_the_next() -> None:
    talk = Conversation().connect()
    talk.answers_heartbeats = False
    talk.advance(60.0)
    talk.advance(0.01)
    talk.accept()
    talk.advance(59.0)
    assert talk.proto.state is SocketState.OPEN


@pytest.mark.parametrize(
    "hear",
    [
        lambda talk: talk.receive(TICK),
        lambda talk: talk.receive("garbage"),
        lambda talk: talk.receive(b""),
        lambda talk: talk.link.progressed(talk.now),
        lambda talk: talk.reply(talk.sent()[-1].ref),
    ],
    ids=["a message", "garbage", "an empty frame", "part of a message", "the answer"],
)
def test_whatever_comes_shows_that_the_peer_lives(hear: object) -> None:
    assert callable(hear)
    talk = unanswering()
    talk.advance(30.0)
    talk.advance(29.0)
    hear(talk)
    talk.advance(1.0)
    assert talk.proto.state is SocketState.OPEN
    talk.advance(29.999)
    assert talk.proto.state is SocketState.OPEN
    talk.advance(0.001)
    assert talk.event(Disconnected) == SILENT


def test_a_reply_that_waits_behind_a_slow_join_is_no_silence() -> None:
    talk = unanswering()
    room = talk.joining("room:slow", timeout=60.0)
    talk.advance(32.0)  # the server is busy with the join for two seconds after the heartbeat
    talk.reply(room.join_ref)
    talk.advance(20.0)
    assert talk.proto.state is SocketState.OPEN


def test_a_dead_peer_is_noticed_when_the_adapter_wakes_up_late_too() -> None:
    talk = unanswering()
    talk.advance(30.0)
    talk.proto.handle_timeout(talk.now + 500.0)
    assert talk.event(Disconnected).reason == SILENT.reason


def test_being_called_early_does_nothing() -> None:
    talk = unanswering()
    talk.proto.handle_timeout(talk.now + 29.0)
    assert (talk.sent(), talk.events()) == ([], [])


# ---- while reading stands still -------------------------------------------------------------------------------------


def paused(**limits: float) -> Conversation:
    """Reading stands still, for what a test says."""
    options = ClientOptions(flow=FlowLimits(high=1, low=0, **limits))  # type: ignore[arg-type]
    return unanswering(options)


def test_heartbeats_go_on_while_reading_stands_still() -> None:
    talk = paused(longest_pause=100.0)
    talk.receive(TICK)
    talk.advance(90.0)
    assert heartbeats(talk) == 3


def test_a_peer_that_cannot_be_heard_is_not_judged() -> None:
    talk = paused(longest_pause=1000.0)
    talk.receive(TICK)
    talk.advance(999.0)
    assert talk.proto.state is SocketState.OPEN


@pytest.mark.parametrize(
    ("begins", "lasts", "dead"),
    [(5.0, 10.0, 60.0), (25.0, 10.0, 65.0), (29.0, 2.0, 61.0), (40.0, 10.0, 70.0), (55.0, 10.0, 70.0)],
)
def test_a_pause_puts_the_judgement_off_by_as_long_as_it_lasts(begins: float, lasts: float, dead: float) -> None:
    talk = paused(longest_pause=lasts)
    talk.advance(begins)
    talk.flow.received(1, 0, (), talk.now)  # not by a read, which would show that the peer lives
    talk.advance(dead - begins - 0.001)
    assert talk.proto.state is SocketState.OPEN
    talk.advance(0.002)
    assert talk.event(Disconnected).reason == SILENT.reason


def test_a_peer_that_stays_silent_after_a_pause_is_noticed() -> None:
    talk = paused(longest_pause=10.0)
    talk.receive(TICK)
    talk.advance(70.0)
    assert talk.event(Disconnected).reason == SILENT.reason


# ---- pings ----------------------------------------------------------------------------------------------------------


def test_a_ping_needs_an_open_connection() -> None:
    talk = Conversation()
    with pytest.raises(InvalidState, match="ping is not possible while the state is idle"):
        talk.ping()


def test_pings_are_answered_in_any_order() -> None:
    talk = unanswering()
    first, second = talk.ping(), talk.ping()
    talk.advance(1.0)
    talk.reply(second)
    talk.advance(1.0)
    talk.reply(first)
    assert talk.events() == [PingAnswered(second, 1.0), PingAnswered(first, 2.0)]


def test_a_ping_that_is_not_answered_times_out() -> None:
    talk = unanswering()
    ref = talk.ping(timeout=3.0)
    talk.advance(3.0)
    failed = talk.event(PushFailed)
    assert isinstance(failed.error, PushTimeout)
    assert (failed.ref, failed.error.timeout, failed.error.sent) == (ref, 3.0, True)


def test_the_late_answer_to_a_ping_is_dropped() -> None:
    talk = unanswering()
    ref = talk.ping(timeout=3.0)
    talk.advance(3.0)
    talk.events()
    talk.reply(ref)
    assert talk.events() == []


def test_a_ping_may_wait_for_ever() -> None:
    talk = unanswering()
    ref = talk.ping(timeout=inf)
    talk.advance(29.0)
    talk.reply(ref)
    assert talk.events() == [PingAnswered(ref, 29.0)]


def test_a_ping_can_be_given_up() -> None:
    talk = unanswering()
    ref = talk.ping()
    talk.proto.cancel_ping(ref)
    assert isinstance(talk.event(PushFailed).error, PushCancelled)
    talk.reply(ref)
    assert talk.events() == []


def test_giving_up_a_ping_that_has_ended_does_nothing() -> None:
    talk = unanswering()
    ref = talk.ping()
    talk.reply(ref)
    talk.events()
    talk.proto.cancel_ping(ref)
    assert talk.events() == []
