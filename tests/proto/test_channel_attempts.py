from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from conversation import Conversation, connected, failure, names

from phx_proto.backoff import Backoff
from phx_proto.channel import Channel
from phx_proto.errors import (
    InvalidPayloadType,
    InvalidReply,
    JoinCancelled,
    JoinTimeout,
    ResolveFailed,
)
from phx_proto.events import ChannelErrored, ChannelJoined, JoinFailed
from phx_proto.message import PHX_JOIN, PHX_LEAVE
from phx_proto.options import ClientOptions, JoinPolicy
from phx_proto.states import ChannelState

# ---- the caller's timeout, and cancelling


def test_a_join_times_out_counted_from_its_call_and_is_followed_by_a_leave() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1", timeout=3)
    talk.sent()
    talk.advance(2.99)
    assert talk.events() == []
    talk.advance(0.02)
    assert isinstance(failure(talk, JoinFailed), JoinTimeout)
    assert [(frame.join_ref, frame.event) for frame in talk.sent()] == [(room.join_ref, PHX_LEAVE)]
    assert room.state is ChannelState.CLOSED


def test_a_joins_timeout_is_the_policys_by_default() -> None:
    talk = connected(timeout=4)
    talk.joining("room:1")
    talk.advance(3.99)
    assert talk.events() == []
    talk.advance(0.02)
    assert failure(talk, JoinFailed).timeout == 4


def test_the_timeout_runs_without_a_connection_and_nothing_is_left() -> None:
    talk = Conversation()
    talk.joining("room:1", timeout=3)
    talk.advance(3.01)
    assert isinstance(failure(talk, JoinFailed), JoinTimeout)
    talk.connect()
    assert talk.sent() == []


def test_a_join_that_waits_for_ever_wakes_nobody_before_its_attempt_is_over() -> None:
    talk = Conversation(ClientOptions(join=JoinPolicy(timeout=10)))
    room = talk.joining("room:1", timeout=inf)
    assert talk.proto.next_timeout() is None
    talk.connect()
    assert room.state is ChannelState.JOINING
    assert talk.proto.next_timeout() == talk.now + 10


def test_a_join_that_waits_for_ever_is_tried_again_and_again() -> None:
    talk = connected(timeout=10, backoff=Backoff((1,)))
    room = talk.channel("room:1")
    ref = talk.join(room, timeout=inf)
    talk.advance(100)
    assert not [event for event in talk.events() if not isinstance(event, ChannelErrored)]
    talk.reply(room.join_ref)
    assert talk.event(ChannelJoined).ref == ref


def give_up(talk: Conversation) -> tuple[Channel, str]:
    """A channel whose join was sent and cancelled."""
    room = talk.channel("room:1")
    ref = talk.join(room)
    talk.cancel(room, ref)
    assert room.join_ref is not None
    return room, room.join_ref


def test_a_cancelled_join_closes_the_channel_and_is_followed_by_a_leave() -> None:
    talk = Conversation().connect()
    room, join_ref = give_up(talk)
    assert isinstance(failure(talk, JoinFailed), JoinCancelled)
    assert room.state is ChannelState.CLOSED
    assert [(frame.join_ref, frame.event) for frame in talk.sent()] == [(join_ref, PHX_JOIN), (join_ref, PHX_LEAVE)]


def test_a_join_whose_caller_goes_at_the_very_moment_of_its_answer_is_left() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    ref = talk.join(room)
    talk.reply(room.join_ref)
    talk.cancel(room, ref)  # it has ended, so that does nothing
    assert [frame.event for frame in talk.sent()] == [PHX_JOIN]
    talk.cancel_join(room, ref)
    assert [frame.event for frame in talk.sent()] == [PHX_LEAVE]
    assert room.state is ChannelState.LEAVING


def test_a_join_whose_caller_goes_before_is_cancelled() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    talk.cancel_join(room, talk.join(room))
    assert isinstance(failure(talk, JoinFailed), JoinCancelled)
    assert room.state is ChannelState.CLOSED
    assert [frame.event for frame in talk.sent()] == [PHX_JOIN, PHX_LEAVE]


def test_a_late_ok_is_answered_with_a_leave() -> None:
    talk = Conversation().connect()
    _, join_ref = give_up(talk)
    talk.sent()
    talk.events()
    talk.reply(join_ref)
    assert [(frame.topic, frame.join_ref, frame.event) for frame in talk.sent()] == [("room:1", join_ref, PHX_LEAVE)]
    assert talk.events() == []


def test_a_late_refusal_is_dropped() -> None:
    talk = Conversation().connect()
    _, join_ref = give_up(talk)
    talk.sent()
    talk.reply(join_ref, "error")
    assert talk.sent() == []


def test_a_late_ok_is_answered_once() -> None:
    talk = Conversation().connect()
    _, join_ref = give_up(talk)
    talk.reply(join_ref)
    talk.sent()
    talk.reply(join_ref)
    assert talk.sent() == []


def test_of_joins_that_were_given_up_the_last_thousand_are_remembered() -> None:
    """A server that answers heartbeats and no joins must not fill the memory of a client that goes on trying."""
    talk = Conversation().connect()
    join_refs = [give_up(talk)[1] for _ in range(1001)]
    talk.sent()
    for join_ref in join_refs:
        talk.reply(join_ref)
    assert [frame.join_ref for frame in talk.sent()] == join_refs[1:]


def test_a_late_ok_does_not_touch_the_next_channel_of_the_topic() -> None:
    talk = Conversation().connect()
    _, join_ref = give_up(talk)
    room = talk.joining("room:1")
    talk.sent()
    talk.reply(join_ref)
    talk.close_channel("room:1", join_ref)
    assert [(frame.join_ref, frame.event) for frame in talk.sent()] == [(join_ref, PHX_LEAVE)]
    assert room.state.value == "joining"
    talk.reply(room.join_ref)
    assert room.state is ChannelState.JOINED


def test_a_join_cancelled_before_it_was_sent_sends_nothing() -> None:
    talk = Conversation()
    room = talk.channel("room:1")
    ref = talk.join(room)
    talk.cancel(room, ref)
    talk.connect()
    assert talk.sent() == []


# ---- an attempt without an answer


def test_a_rejoin_without_an_answer_is_given_up_left_and_tried_again() -> None:
    talk = connected(timeout=10)
    room = talk.joined("room:1")
    talk.reconnect()
    older = room.join_ref
    talk.sent()
    talk.advance(10)
    event = talk.event(ChannelErrored)
    assert isinstance(event.error, JoinTimeout)
    assert (event.error.timeout, event.retry_in) == (10, 1)
    assert [(frame.join_ref, frame.event) for frame in talk.sent()] == [(older, PHX_LEAVE)]
    talk.advance(1)
    assert names(talk.sent()) == [("room:1", PHX_JOIN)]
    assert room.join_ref != older


def test_a_rejoin_whose_late_ok_comes_while_it_waits_is_left_and_joined_anew() -> None:
    talk = connected(timeout=10)
    room = talk.joined("room:1")
    talk.reconnect()
    older = room.join_ref
    talk.advance(10)
    talk.sent()
    talk.reply(older)
    talk.close_channel("room:1", older)
    assert [(frame.join_ref, frame.event) for frame in talk.sent()] == [(older, PHX_LEAVE)]
    assert room.state.value == "errored"
    talk.advance(1)
    talk.reply(room.join_ref)
    assert room.state is ChannelState.JOINED


def test_an_attempts_clock_runs_from_the_last_answer_to_any_join() -> None:
    talk = connected(timeout=10)
    rooms = [talk.joined(f"room:{number}") for number in range(3)]
    talk.reconnect()
    for room in rooms[:2]:
        talk.advance(9)
        talk.events()
        talk.reply(room.join_ref)
    talk.advance(9.99)
    assert not [event for event in talk.events() if isinstance(event, ChannelErrored)]
    talk.advance(0.02)
    assert talk.event(ChannelErrored).topic == "room:2"


def test_a_refusal_is_an_answer_too() -> None:
    talk = connected(timeout=10)
    slow, refused = talk.joined("slow"), talk.joined("refused")
    talk.reconnect()
    talk.advance(9)
    talk.reply(refused.join_ref, "error")
    talk.events()
    talk.advance(9.99)
    assert slow.state is ChannelState.JOINING


def test_the_late_answer_to_a_join_that_was_given_up_is_an_answer_too() -> None:
    """Else a server with a long queue of joins never gets rid of it: the later ones would be given up as well."""
    talk = connected(timeout=10, backoff=Backoff((1,)))
    room = talk.joined("room:1")
    talk.reconnect()
    older = room.join_ref
    talk.advance(11)
    second = room.join_ref
    talk.advance(9)
    talk.reply(older)
    talk.advance(9)
    assert (room.state, room.join_ref) == (ChannelState.JOINING, second)


# ---- pacing


def test_32_joins_are_in_flight_at_most() -> None:
    talk = Conversation().connect()
    rooms = [talk.joining(f"room:{number}", timeout=inf) for number in range(40)]
    assert [frame.topic for frame in talk.sent()] == [f"room:{number}" for number in range(32)]
    assert rooms[32].state is ChannelState.PENDING


@pytest.mark.parametrize("end", ["ok", "error", "cancel", "give up", "leave", "close", "crash"])
def test_each_join_that_ends_lets_the_next_one_go(end: str) -> None:
    talk = Conversation(ClientOptions(joins_in_flight=1)).connect()
    first = talk.channel("first")
    ref = talk.join(first)
    talk.joining("second")
    assert [frame.topic for frame in talk.sent()] == ["first"]
    ends: dict[str, Callable[[], object]] = {
        "ok": lambda: talk.reply(first.join_ref),
        "error": lambda: talk.reply(first.join_ref, "error"),
        "cancel": lambda: talk.cancel(first, ref),
        "give up": lambda: first.cancel_join(ref, talk.now),
        "leave": lambda: talk.leave(first),
        "close": lambda: talk.close_channel("first", first.join_ref),
        "crash": lambda: talk.crash_channel("first", first.join_ref),
    }
    ends[end]()
    assert ("second", PHX_JOIN) in names(talk.sent())


def test_one_that_is_left_while_its_params_are_asked_for_lets_the_next_one_go() -> None:
    talk = Conversation(ClientOptions(joins_in_flight=1)).connect()
    first = talk.joining("first", dict)
    talk.joining("second")
    assert talk.sent() == []
    talk.leave(first)
    assert names(talk.sent()) == [("second", PHX_JOIN)]


def test_rejoins_after_a_reconnect_are_paced_in_the_order_of_the_channels() -> None:
    talk = Conversation(ClientOptions(joins_in_flight=2)).connect()
    rooms = [talk.joined(f"room:{number}") for number in range(4)]
    talk.reconnect()
    assert [frame.topic for frame in talk.sent()] == ["room:0", "room:1"]
    talk.reply(rooms[1].join_ref)
    assert [frame.topic for frame in talk.sent()] == ["room:2"]


def test_one_that_waits_for_its_turn_may_be_left_without_a_word() -> None:
    talk = Conversation(ClientOptions(joins_in_flight=1)).connect()
    first, second = talk.joining("first"), talk.joining("second")
    talk.sent()
    talk.leave(second)
    talk.reply(first.join_ref)
    assert talk.sent() == []


def test_the_wait_for_a_turn_does_not_count_as_an_attempt() -> None:
    talk = Conversation(ClientOptions(joins_in_flight=1, join=JoinPolicy(timeout=10))).connect()
    first, second = talk.joined("first"), talk.joined("second")
    talk.reconnect()
    talk.advance(9)
    talk.reply(first.join_ref)
    talk.advance(9)
    assert second.state is ChannelState.JOINING


# ---- params that are called


def since() -> object:
    raise AssertionError("the core calls nobody")


def test_callable_params_are_asked_for_and_joined_with() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1", since)
    assert talk.sent() == []
    assert [question.provider for question in talk.questions] == [since]
    talk.resolve({"since": 4})
    assert [frame.payload for frame in talk.sent()] == [{"since": 4}]
    assert room.state is ChannelState.JOINING


def test_callable_params_are_asked_for_at_every_join() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1", since)
    talk.resolve({"since": 4})
    talk.reply(room.join_ref)
    talk.reconnect()
    talk.sent()
    talk.resolve({"since": 9})
    assert [frame.payload for frame in talk.sent()] == [{"since": 9}]


def test_a_callable_that_raises_is_a_failed_attempt_and_its_words_are_not_shown() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1", since)
    talk.resolve_failed(OSError("secret"))
    event = talk.event(ChannelErrored)
    assert isinstance(event.error, ResolveFailed)
    assert "OSError" in str(event.error)
    assert "secret" not in str(event.error)
    talk.advance(1)
    talk.resolve({})
    talk.reply(room.join_ref)
    assert room.state is ChannelState.JOINED


@pytest.mark.parametrize("value", [{"a": nan}, {"a": object()}])
def test_a_value_that_cannot_be_sent_is_a_failed_attempt(value: Any) -> None:
    talk = Conversation().connect()
    talk.joining("room:1", since)
    talk.resolve(value)
    error = talk.event(ChannelErrored).error
    assert isinstance(error, ResolveFailed)
    assert error.problem.startswith("cannot send event 'phx_join' on topic 'room:1': payload.a ")
    assert talk.sent() == []


def test_static_params_that_were_spoilt_meanwhile_are_a_failed_attempt_on_every_channel_that_has_them() -> None:
    talk = Conversation().connect()
    params = {"since": 1.0}
    rooms = [talk.joined(f"room:{number}", params) for number in range(500)]
    params["since"] = nan
    talk.reconnect()
    assert {room.state for room in rooms} == {ChannelState.ERRORED}
    params["since"] = 2.0
    talk.advance(1)
    assert len(talk.sent()) == 32


def test_a_callable_that_never_answers_is_a_failed_attempt() -> None:
    talk = connected(timeout=10)
    room = talk.joined("room:1")
    room.params = since
    talk.reconnect()
    talk.advance(10)
    assert isinstance(talk.event(ChannelErrored).error, JoinTimeout)
    talk.resolve({})
    assert talk.sent() == []


def test_the_server_has_its_full_time_after_a_slow_callable() -> None:
    talk = connected(timeout=10)
    room = talk.joining("room:1", since, timeout=inf)
    talk.advance(9)
    talk.resolve({})
    talk.advance(9.99)
    assert room.state.value == "joining"
    talk.advance(0.02)
    assert room.state is ChannelState.ERRORED


@pytest.mark.parametrize("end", ["dropped", "left", "cancelled"])
def test_an_answer_that_nobody_waits_for_any_more_is_ignored(end: str) -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1", since)
    ref = talk.join(room)
    if end == "dropped":
        talk.drop()
    elif end == "left":
        talk.leave(room)
    else:
        talk.cancel(room, ref)
    talk.events()
    talk.resolve({})
    assert talk.sent() == []
    assert talk.events() == []


@pytest.mark.parametrize("given_up", ["timed out", "cancelled", "tried again", "left"])
def test_the_leave_of_a_join_that_is_given_up_goes_ahead_of_the_next_ones_join(given_up: str) -> None:
    talk = Conversation(ClientOptions(joins_in_flight=1, join=JoinPolicy(timeout=10))).connect()
    first, second = talk.channel("room:1"), talk.channel("room:2")
    ref = talk.join(first, timeout=inf if given_up == "tried again" else None)
    talk.join(second, timeout=inf)
    talk.sent()
    if given_up == "cancelled":
        talk.cancel(first, ref)
    elif given_up == "left":
        talk.leave(first)
    else:
        talk.advance(10)
    assert [(frame.topic, frame.event) for frame in talk.sent()] == [("room:1", PHX_LEAVE), ("room:2", PHX_JOIN)]


def test_the_answer_to_every_join_is_of_the_type_that_was_asked_for() -> None:
    talk = connected()
    room = talk.channel()
    ref = talk.join(room, response=tuple[int, int])
    talk.reply(room.join_ref, "ok", [1, 2])
    assert (talk.event(ChannelJoined).ref, room.response) == (ref, (1, 2))
    talk.drop()
    talk.reconnect()
    talk.reply(room.join_ref, "ok", [3, 4])
    assert room.response == (3, 4)


def test_a_rejoin_whose_answer_is_of_another_type_is_left_and_tried_again() -> None:
    talk = connected()
    room = talk.channel()
    talk.join(room, response=tuple[int, int])
    talk.reply(room.join_ref, "ok", [1, 2])
    talk.drop()
    talk.reconnect()
    talk.sent()
    join_ref = room.join_ref
    talk.reply(join_ref, "ok", ["s3cret"])
    assert [(frame[0], frame[3]) for frame in talk.sent()] == [(join_ref, "phx_leave")]
    error = talk.event(ChannelErrored).error
    assert isinstance(error, InvalidReply)
    assert (room.response, "s3cret" in str(error)) == ((1, 2), False)


def test_a_refusal_stays_as_it_came_whatever_type_was_asked_for() -> None:
    talk = connected()
    room = talk.channel()
    talk.join(room, response=tuple[int, int])
    talk.reply(room.join_ref, "error", {"reason": "no"})
    assert failure(talk, JoinFailed).response == {"reason": "no"}


def test_a_join_whose_answer_can_be_of_no_such_type_changes_nothing() -> None:
    talk = connected()
    room = talk.channel()
    with pytest.raises(InvalidPayloadType):
        talk.join(room, response="Balance")
    assert (room.state, talk.sent()) == (ChannelState.IDLE, [])
