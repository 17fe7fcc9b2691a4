from concurrent.futures import ThreadPoolExecutor
from math import nan
from random import Random
from typing import Any

import pytest
from conversation import Conversation, connected, failure, names

from phx_proto.channel import Channel
from phx_proto.errors import (
    BinaryNotSupported,
    ChannelClosedByClient,
    ChannelClosedByServer,
    ChannelCrashed,
    ConnectionClosedByClient,
    ConnectionLost,
    FieldTooLong,
    InvalidPayload,
    InvalidState,
    JoinRefused,
    JoinTimeout,
    TopicInUse,
)
from phx_proto.events import ChannelEnded, ChannelErrored, ChannelJoined, JoinFailed
from phx_proto.message import PHX_JOIN, PHX_REPLY
from phx_proto.options import JoinPolicy, Refusal, ServerClose
from phx_proto.states import ChannelState

# ---- joining


def test_a_join_is_sent_with_its_ref_as_join_ref_and_its_params() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1", {"since": 3})
    assert talk.sent() == [(room.join_ref, room.join_ref, "room:1", PHX_JOIN, {"since": 3})]
    assert room.state is ChannelState.JOINING


def test_without_params_a_join_carries_an_empty_object() -> None:
    talk = Conversation().connect()
    talk.joining("room:1")
    assert [frame.payload for frame in talk.sent()] == [{}]


@pytest.mark.parametrize("params", [[], "text", 0, False, b"\x00\xff", b""])
def test_params_may_be_any_json_value_or_bytes(params: Any) -> None:
    talk = Conversation().connect()
    talk.joining("room:1", params)
    assert [frame.payload for frame in talk.sent()] == [params]


@pytest.mark.parametrize("response", [{}, {"user": 7}, None, [1], "text", 0, b"\x00\xff"])
def test_an_ok_joins_the_channel_whatever_the_response_is(response: Any) -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    ref = talk.join(room)
    talk.reply(room.join_ref, "ok", response)
    assert room.state is ChannelState.JOINED
    event = talk.event(ChannelJoined)
    assert (event.ref, event.join_ref, event.response, event.rejoined) == (ref, room.join_ref, response, False)


def test_a_join_before_the_connection_is_sent_when_it_opens() -> None:
    talk = Conversation()
    room = talk.joining("room:1")
    assert room.state is ChannelState.PENDING
    assert talk.sent() == []
    talk.connect()
    assert names(talk.sent()) == [("room:1", PHX_JOIN)]


def test_a_first_join_waits_through_reconnects_and_ends_once() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    ref = talk.join(room)
    older = room.join_ref
    talk.reconnect()
    assert room.join_ref != older
    talk.reply(room.join_ref)
    assert talk.event(ChannelJoined).ref == ref


def test_the_late_answer_to_a_join_on_an_older_connection_is_dropped() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1")
    older = room.join_ref
    talk.reconnect()
    talk.sent()
    talk.reply(older)
    assert room.state is ChannelState.JOINING
    assert talk.sent() == []


@pytest.mark.parametrize("state", ["pending", "joining", "joined", "errored"])
def test_a_second_join_is_refused(state: str) -> None:
    talk = Conversation()
    room = talk.joining("room:1")
    if state != "pending":
        talk.connect()
    if state in ("joined", "errored"):
        talk.reply(room.join_ref)
    if state == "errored":
        talk.crash_channel("room:1", room.join_ref)
    assert room.state.value == state
    with pytest.raises(InvalidState) as caught:
        room.join(talk.now)
    advice = "it is called once, and the channel is rejoined by itself whenever it has to be"
    assert vars(caught.value) == {"call": "join", "state": state, "topic": "room:1", "advice": advice}
    assert room.state.value == state


@pytest.mark.parametrize("state", ["leaving", "closed"])
def test_a_channel_lives_once(state: str) -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    leave = talk.leave(room)
    if state == "closed":
        talk.reply(leave)
    with pytest.raises(ChannelClosedByClient) as caught:
        room.join(talk.now)
    reason = "a channel lives once; make a new one to join again"
    assert vars(caught.value) == {"topic": "room:1", "reason": reason}


@pytest.mark.parametrize(
    ("vsn", "topic", "params", "error"),
    [
        pytest.param(2, "room:1", {"a": nan}, InvalidPayload, id="NaN"),
        pytest.param(2, "room:\ud800", {}, InvalidPayload, id="a lone surrogate in the topic"),
        pytest.param(2, "t" * 256, b"", FieldTooLong, id="a long topic with bytes"),
        pytest.param(1, "room:1", b"", BinaryNotSupported, id="bytes on a serializer without them"),
    ],
)
def test_params_that_cannot_be_sent_are_refused_at_the_call(
    vsn: int, topic: str, params: Any, error: type[Exception]
) -> None:
    talk = Conversation(vsn=vsn).connect()
    before = talk.proto.next_timeout()
    room = talk.channel(topic, params)
    with pytest.raises(error):
        room.join(talk.now)
    assert room.state is ChannelState.IDLE
    assert talk.sent() == []
    assert talk.proto.next_timeout() == before


def test_a_second_live_channel_of_a_topic_is_refused() -> None:
    talk = Conversation().connect()
    talk.channel("room:1")
    with pytest.raises(TopicInUse):
        talk.channel("room:1")


def test_the_context_of_a_channel_is_the_adapters_to_fill() -> None:
    assert Conversation().channel().context is None


def test_a_channel_shows_its_topic_and_state() -> None:
    assert repr(Conversation().channel("room:1")) == "Channel('room:1', idle)"


# ---- refused

UNMATCHED = {"reason": "unmatched topic"}


def test_the_first_joins_refusal_closes_the_channel() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    ref = talk.join(room)
    talk.reply(room.join_ref, "error", {"reason": "no"})
    failed, ended = talk.events()
    assert isinstance(failed, JoinFailed)
    assert failed.ref == ref
    assert isinstance(failed.error, JoinRefused)
    assert (failed.error.response, failed.error.status) == ({"reason": "no"}, "error")
    assert ended == ChannelEnded("room:1", failed.error)
    assert room.state is ChannelState.CLOSED
    talk.sent()
    talk.advance(60)
    assert talk.sent() == []


def test_a_refusal_with_a_null_join_ref_counts_as_well() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1")
    talk.serve("room:1", PHX_REPLY, {"status": "error", "response": UNMATCHED}, ref=room.join_ref)
    assert failure(talk, JoinFailed).response == UNMATCHED


def test_any_status_but_ok_is_a_refusal() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1")
    talk.reply(room.join_ref, "busy", b"\xff")
    error = failure(talk, JoinFailed)
    assert (error.status, error.response) == ("busy", b"\xff")


def test_a_refused_channel_frees_its_topic() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1")
    talk.reply(room.join_ref, "error")
    assert talk.joined("room:1").state is ChannelState.JOINED


def crash_and_refuse(talk: Conversation, room: Channel) -> None:
    talk.crash_channel("room:1", room.join_ref)
    talk.advance(1)
    talk.events()
    talk.reply(room.join_ref, "error", {"reason": "no"})


def test_a_rejoins_refusal_is_tried_again() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    crash_and_refuse(talk, room)
    event = talk.event(ChannelErrored)
    assert isinstance(event.error, JoinRefused)
    assert event.retry_in == 2


def test_a_rejoins_refusal_is_final_if_the_policy_says_so() -> None:
    talk = connected(refusal=Refusal.FINAL)
    room = talk.joined("room:1")
    crash_and_refuse(talk, room)
    assert isinstance(talk.event(ChannelEnded).error, JoinRefused)
    assert room.state is ChannelState.CLOSED


def test_a_first_refusal_is_tried_again_if_the_policy_says_so() -> None:
    talk = connected(refusal=Refusal.RETRY)
    room = talk.channel("room:1")
    ref = talk.join(room)
    talk.reply(room.join_ref, "error")
    assert talk.event(ChannelErrored).retry_in == 1
    talk.advance(1)
    talk.reply(room.join_ref)
    assert talk.event(ChannelJoined).ref == ref


def test_a_first_join_that_is_refused_again_and_again_ends_at_its_timeout() -> None:
    talk = connected(refusal=Refusal.RETRY)
    room = talk.joining("room:1", timeout=2.5)
    for wait in (1, 1.5):
        talk.reply(room.join_ref, "error")
        talk.advance(wait)
    error = failure(talk, JoinFailed)
    assert isinstance(error, JoinTimeout)
    assert error.timeout == 2.5


# ---- the server ends it


def test_a_crash_tells_what_the_server_said_without_the_secrets_that_it_was_sent() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1", {"token": "hush-hush"})
    talk.crash_channel("room:1", room.join_ref, {"reason": "no such token: hush-hush"})
    error = talk.event(ChannelErrored).error
    assert str(error) == "the channel of topic 'room:1' crashed on the server: {'reason': 'no such token: [secret]'}"


def test_a_crash_is_told_and_rejoined_by_the_backoff_with_a_new_join_ref() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    older = room.join_ref
    talk.crash_channel("room:1", older, {"reason": "channel_crash"})
    event = talk.event(ChannelErrored)
    assert isinstance(event.error, ChannelCrashed)
    assert (event.error.payload, event.retry_in) == ({"reason": "channel_crash"}, 1)
    talk.advance(0.99)
    assert talk.sent() == []
    talk.advance(0.02)
    assert names(talk.sent()) == [("room:1", PHX_JOIN)]
    assert room.join_ref != older
    talk.reply(room.join_ref)
    joined = talk.event(ChannelJoined)
    assert (joined.rejoined, joined.join_ref) == (True, room.join_ref)


def test_a_crash_does_not_touch_other_channels() -> None:
    talk = Conversation().connect()
    room, other = talk.joined("room:1"), talk.joined("room:2")
    talk.crash_channel("room:1", room.join_ref)
    assert other.state is ChannelState.JOINED


def test_the_waits_grow_while_a_channel_crashes_soon_after_each_join() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    waits = []
    for _ in range(6):
        talk.advance(1)
        talk.crash_channel("room:1", room.join_ref)
        wait = talk.event(ChannelErrored).retry_in
        assert wait is not None
        waits.append(wait)
        talk.advance(wait)
        talk.reply(room.join_ref)
        talk.events()
    assert waits == [1, 2, 5, 10, 10, 10]


@pytest.mark.parametrize("how", ["crash", "close"])
def test_the_waits_start_anew_after_a_stable_time(how: str) -> None:
    talk = connected(server_close=ServerClose.REJOIN)
    room = talk.joined("room:1")
    waits = []
    for lived in (1, 1, 5, 4.9):
        talk.advance(lived)
        if how == "crash":
            talk.crash_channel("room:1", room.join_ref)
        else:
            talk.close_channel("room:1", room.join_ref)
        wait = talk.event(ChannelErrored).retry_in
        assert wait is not None
        waits.append(wait)
        talk.advance(wait)
        talk.reply(room.join_ref)
        talk.events()
    assert waits == [1, 2, 1, 2]


def test_a_channel_that_joined_at_the_first_attempt_keeps_nothing_of_it() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    assert room._attempts is None
    talk.crash_channel("room:1", room.join_ref)
    talk.advance(1)
    talk.reply(room.join_ref)
    assert room._attempts is not None  # the next wait would be longer
    talk.reconnect()
    talk.reply(room.join_ref)
    assert room.state is ChannelState.JOINED
    assert room._attempts is None


@pytest.mark.parametrize("answered", [True, False])
def test_a_long_wait_for_the_answer_is_no_stable_time(answered: bool) -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    for wait in (1, 2):
        talk.crash_channel("room:1", room.join_ref)
        assert talk.event(ChannelErrored).retry_in == wait
        talk.advance(wait + 6)
        if answered:
            talk.reply(room.join_ref)
        talk.events()


def test_waits_are_spread_where_there_is_a_random_source() -> None:
    waits = set()
    for seed in range(20):
        talk = Conversation(rng=Random(seed)).connect()
        room = talk.joined("room:1")
        talk.crash_channel("room:1", room.join_ref)
        waits.add(talk.event(ChannelErrored).retry_in)
    assert len(waits) == 20
    assert all(wait is not None and 0.5 <= wait <= 1 for wait in waits)


def test_a_phx_close_closes_the_channel_and_ends_what_waits() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.close_channel("room:1", room.join_ref)
    assert isinstance(talk.event(ChannelEnded).error, ChannelClosedByServer)
    assert room.state is ChannelState.CLOSED
    talk.advance(60)
    assert talk.sent() == []
    assert talk.joined("room:1").state is ChannelState.JOINED


def test_a_phx_close_of_a_first_join_fails_it() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1")
    talk.close_channel("room:1", room.join_ref)
    assert isinstance(failure(talk, JoinFailed), ChannelClosedByServer)


def test_a_phx_close_is_rejoined_if_the_policy_says_so() -> None:
    talk = connected(server_close=ServerClose.REJOIN)
    room = talk.joined("room:1")
    talk.close_channel("room:1", room.join_ref)
    event = talk.event(ChannelErrored)
    assert isinstance(event.error, ChannelClosedByServer)
    talk.advance(1)
    assert names(talk.sent()) == [("room:1", PHX_JOIN)]


# ---- the connection's end


def test_a_lost_connection_is_told_to_a_joined_channel_and_it_is_rejoined_at_the_next() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.drop(1012, "restart")
    event = talk.event(ChannelErrored)
    assert isinstance(event.error, ConnectionLost)
    assert (event.topic, event.error.code, event.retry_in) == ("room:1", 1012, None)
    assert (room.state, room.join_ref) == (ChannelState.PENDING, None)
    talk.advance(5).accept()
    assert names(talk.sent()) == [("room:1", PHX_JOIN)]


def test_a_lost_connection_is_not_told_to_a_channel_that_was_not_joined() -> None:
    talk = Conversation().connect()
    talk.joining("room:1")
    talk.drop()
    assert not [event for event in talk.events() if isinstance(event, ChannelErrored)]


def test_the_waits_start_anew_on_a_new_connection() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.crash_channel("room:1", room.join_ref)
    talk.reconnect()
    talk.reply(room.join_ref)
    talk.events()
    talk.crash_channel("room:1", room.join_ref)
    assert talk.event(ChannelErrored).retry_in == 1


def test_a_channel_that_waits_for_its_retry_is_joined_at_once_on_a_new_connection() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.crash_channel("room:1", room.join_ref)
    talk.reconnect()
    assert names(talk.sent()) == [("room:1", PHX_JOIN)]


def test_a_channel_that_was_never_joined_stays_as_it_is() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    talk.reconnect()
    assert room.state is ChannelState.IDLE
    assert talk.sent() == []


@pytest.mark.parametrize("call", ["disconnect", "abort"])
def test_the_clients_end_closes_every_channel(call: str) -> None:
    talk = Conversation().connect()
    talk.channel("idle")
    talk.joining("joining")
    talk.joined("joined")
    getattr(talk.proto, call)(talk.now)
    events = talk.events()
    assert [event.topic for event in events if isinstance(event, ChannelEnded)] == ["idle", "joining", "joined"]
    (failed,) = [event for event in events if isinstance(event, JoinFailed)]
    assert isinstance(failed.error, ConnectionClosedByClient)
    assert vars(failed.error) == {"code": None, "reason": "the application closed the client"}


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("inf"), float("nan")])
def test_the_timeout_of_a_join_is_positive_and_finite(timeout: float) -> None:
    assert JoinPolicy(timeout=0.5).timeout == 0.5
    with pytest.raises(ValueError, match="positive, finite"):
        JoinPolicy(timeout=timeout)


def test_a_handler_of_a_channels_own_is_registered_with_all_that_is_said_of_it() -> None:
    room = Conversation().channel("room:1")
    with ThreadPoolExecutor(1) as pool:
        handler = room.add(print, "n", payload=int, concurrency=2, executor=pool)
        assert (handler.event, handler.payload_type, handler.concurrency, handler.executor) == ("n", int, 2, pool)
