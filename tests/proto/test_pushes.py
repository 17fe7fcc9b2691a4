from collections.abc import Callable
from math import inf, nan
from typing import Any

import pytest
from conversation import Conversation, accept_join, failure, joined, not_yet_joined

from phx_proto.channel import Channel
from phx_proto.commands import PauseReading, ResumeReading
from phx_proto.errors import (
    BinaryNotSupported,
    BufferFull,
    ChannelClosedByClient,
    ChannelClosedByServer,
    FieldTooLong,
    InvalidPayload,
    NotJoined,
    PushTimeout,
)
from phx_proto.events import ChannelErrored, PushFailed, ReplyReceived
from phx_proto.flow import FlowLimits
from phx_proto.handlers.payloads import payload_decoder
from phx_proto.message import PHX_JOIN, PHX_REPLY, Reply
from phx_proto.options import ClientOptions

# ---- replies


def test_a_push_on_a_joined_channel_is_sent_at_once() -> None:
    talk, room = joined()
    ref = talk.push(room, "shout", {"body": "hi"})
    assert talk.sent() == [(room.join_ref, ref, "room:1", "shout", {"body": "hi"})]


@pytest.mark.parametrize("status", ["ok", "error", "", "später"])
@pytest.mark.parametrize("response", [{}, {"a": [1, None]}, None, 7, "text", [], True])
def test_a_reply_ends_its_push_with_whatever_status_and_response_it_has(status: str, response: Any) -> None:
    talk, room = joined()
    ref = talk.push(room, "shout")
    talk.reply(ref, status, response)
    assert talk.events() == [ReplyReceived("room:1", "shout", ref, Reply(status, response))]


@pytest.mark.parametrize("payload", [{}, b"\x00\xff"])
def test_a_reply_may_be_binary_whatever_the_push_was(payload: Any) -> None:
    talk, room = joined()
    ref = talk.push(room, "shout", payload)
    talk.reply(ref, "ok", b"\xff\x00")
    assert talk.event(ReplyReceived).reply == Reply("ok", b"\xff\x00")


def test_a_binary_push_may_get_a_json_reply() -> None:
    talk, room = joined()
    ref = talk.push(room, "shout", b"\x00\xff")
    assert talk.sent() == [(room.join_ref, ref, "room:1", "shout", b"\x00\xff")]
    talk.reply(ref, "ok", {"size": 2})
    assert talk.event(ReplyReceived).reply == Reply("ok", {"size": 2})


def test_the_response_of_an_ok_reply_may_be_left_for_a_decoder_of_its_type() -> None:
    talk, room = joined()
    refs = [talk.push(room, "get", raw=True) for _ in range(2)]
    talk.reply(refs[0], "ok", [1, 2])
    talk.reply(refs[1], "error", [1, 2])
    ok, error = (event.reply for event in talk.events() if isinstance(event, ReplyReceived))
    assert payload_decoder(tuple[int, int]).accept(ok.response).payload == (1, 2)
    assert (ok.status, error) == ("ok", Reply("error", [1, 2]))


def test_replies_out_of_order_reach_their_own_pushes() -> None:
    talk, room = joined()
    first, second = talk.push(room, "first"), talk.push(room, "second")
    talk.reply(second, "ok", 2)
    talk.reply(first, "ok", 1)
    assert talk.events() == [
        ReplyReceived("room:1", "second", second, Reply("ok", 2)),
        ReplyReceived("room:1", "first", first, Reply("ok", 1)),
    ]


def test_a_second_reply_is_dropped_as_stale() -> None:
    talk, room = joined()
    ref = talk.push(room)
    talk.reply(ref, "ok", 1)
    talk.events()
    talk.reply(ref, "error", 2)
    assert talk.events() == []
    assert talk.proto.stats.stale == 1


def test_a_reply_is_matched_by_its_ref_alone() -> None:
    talk, room = joined()
    ref = talk.push(room)
    talk.serve("elsewhere", PHX_REPLY, {"status": "error", "response": {"reason": "unmatched topic"}}, ref=ref)
    assert talk.event(ReplyReceived).reply.response == {"reason": "unmatched topic"}


def test_a_reply_to_nobody_is_dropped_as_stale() -> None:
    talk, _ = joined()
    talk.serve("room:1", PHX_REPLY, {"status": "ok", "response": {}}, ref="99")
    assert talk.events() == []
    assert talk.proto.stats.stale == 1


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda talk, room: talk.push(room), id="push"),
        pytest.param(lambda talk, room: talk.leave(room), id="leave"),
        pytest.param(lambda talk, room: talk.joining("room:2"), id="join"),
    ],
)
def test_reading_goes_on_while_somebody_waits_for_a_reply(call: Callable[[Conversation, Channel], object]) -> None:
    """The handler that waits may be the one for which reading was paused."""
    talk = Conversation(ClientOptions(flow=FlowLimits(high=2, low=1))).connect()
    room = talk.joined("room:1")
    room.add(print, "tick")
    for _ in range(2):
        talk.serve("room:1", "tick")
    assert talk.commands() == [PauseReading(talk.link)]
    call(talk, room)
    assert talk.commands() == [ResumeReading(talk.link)]


# ---- timeouts


def test_a_push_without_a_reply_times_out_counted_from_its_call() -> None:
    talk, room = joined()
    ref = talk.push(room, "shout", timeout=3)
    talk.advance(2.99)
    assert talk.events() == []
    talk.advance(0.02)
    event = talk.event(PushFailed)
    assert (event.ref, event.event) == (ref, "shout")
    assert isinstance(event.error, PushTimeout)
    assert (event.error.timeout, event.error.sent) == (3, True)


def test_a_late_reply_is_dropped() -> None:
    talk, room = joined()
    ref = talk.push(room, timeout=3)
    talk.advance(4).events()
    talk.reply(ref)
    assert talk.events() == []


def test_the_timeout_runs_while_a_push_waits_for_the_join() -> None:
    talk, room = not_yet_joined()
    talk.push(room, timeout=3)
    talk.advance(3.01)
    error = failure(talk, PushFailed)
    assert isinstance(error, PushTimeout)
    assert not error.sent
    accept_join(talk, room)
    assert talk.sent() == []


def test_the_timeout_of_a_push_that_waited_is_not_begun_anew_when_it_is_sent() -> None:
    talk, room = not_yet_joined()
    talk.push(room, timeout=3)
    talk.advance(2)
    accept_join(talk, room)
    talk.advance(1.01)
    error = failure(talk, PushFailed)
    assert isinstance(error, PushTimeout)
    assert error.sent


def test_an_infinite_timeout_waits_for_ever() -> None:
    talk, room = joined()
    ref = talk.push(room, timeout=inf)
    talk.advance(10_000)
    talk.events()
    talk.reply(ref)
    assert talk.event(ReplyReceived).ref == ref


# ---- before the join


def test_pushes_before_the_join_are_sent_after_it_in_their_order() -> None:
    talk, room = not_yet_joined()
    first, second = talk.push(room, "first"), talk.push(room, "second", b"2")
    assert talk.sent() == []
    talk.reply(room.join_ref)
    assert talk.sent() == [
        (room.join_ref, first, "room:1", "first", {}),
        (room.join_ref, second, "room:1", "second", b"2"),
    ]


def test_pushes_before_the_connection_are_sent_after_the_join() -> None:
    talk = Conversation()
    room = talk.joining("room:1")
    ref = talk.push(room, "early")
    talk.connect()
    assert [frame.event for frame in talk.sent()] == [PHX_JOIN]
    talk.reply(room.join_ref)
    assert [frame.ref for frame in talk.sent()] == [ref]


def test_a_push_after_the_join_goes_behind_those_that_waited_for_it() -> None:
    talk, room = not_yet_joined()
    talk.push(room, "early")
    talk.reply(room.join_ref)
    talk.push(room, "late")
    assert [frame.event for frame in talk.sent()] == ["early", "late"]


def test_an_unsent_push_survives_a_reconnect() -> None:
    talk, room = not_yet_joined()
    ref = talk.push(room)
    talk.reconnect()
    accept_join(talk, room)
    assert [(frame.join_ref, frame.ref) for frame in talk.sent()] == [(room.join_ref, ref)]


def test_an_unsent_push_survives_a_failed_join() -> None:
    talk, room = joined()
    talk.crash_channel("room:1", room.join_ref)
    ref = talk.push(room)
    talk.advance(1)
    talk.sent()
    talk.reply(room.join_ref, "error")
    talk.advance(2)
    accept_join(talk, room)
    assert [frame.ref for frame in talk.sent()] == [ref]


def test_a_payload_is_read_when_it_is_sent() -> None:
    talk, room = not_yet_joined()
    payload = {"n": 1}
    talk.push(room, "shout", payload)
    payload["n"] = 2
    talk.reply(room.join_ref)
    assert [frame.payload for frame in talk.sent()] == [{"n": 2}]


def test_a_payload_that_was_spoilt_while_it_waited_fails_its_push_alone() -> None:
    talk, room = not_yet_joined()
    payload = {"n": 1.0}
    spoilt, sound = talk.push(room, "spoilt", payload), talk.push(room, "sound")
    payload["n"] = nan
    talk.reply(room.join_ref)
    assert [frame.ref for frame in talk.sent()] == [sound]
    event = talk.event(PushFailed)
    assert (event.ref, type(event.error)) == (spoilt, InvalidPayload)


def test_an_errored_channel_keeps_pushes_for_the_rejoin() -> None:
    talk, room = joined()
    talk.crash_channel("room:1", room.join_ref)
    assert talk.event(ChannelErrored).retry_in == 1
    ref = talk.push(room)
    assert talk.sent() == []
    talk.advance(1)
    accept_join(talk, room)
    assert [frame.ref for frame in talk.sent()] == [ref]


# ---- the bound of what waits


def bounded(limit: int) -> tuple[Conversation, Channel, Channel]:
    talk = Conversation(ClientOptions(push_buffer=limit)).connect()
    return talk, talk.joining("room:1"), talk.joining("room:2")


def test_no_more_than_the_bound_may_wait_on_all_channels_together() -> None:
    talk, one, two = bounded(2)
    talk.push(one)
    talk.cast(two)
    for call, channel in ((talk.push, two), (talk.cast, one)):
        with pytest.raises(BufferFull) as caught:
            call(channel)
        assert vars(caught.value) == {"topic": channel.topic, "limit": 2}


def test_a_joined_channel_pushes_whatever_waits_elsewhere() -> None:
    talk, one, two = bounded(1)
    talk.push(one)
    talk.reply(two.join_ref)
    talk.sent()
    ref = talk.push(two)
    assert [frame.ref for frame in talk.sent()] == [ref]


@pytest.mark.parametrize("end", ["sent", "timed out", "cancelled", "left"])
def test_a_push_that_waits_no_more_makes_room(end: str) -> None:
    talk, one, two = bounded(1)
    ref = talk.push(one, timeout=1)
    if end == "sent":
        talk.reply(one.join_ref)
    elif end == "timed out":
        talk.advance(2)
    elif end == "cancelled":
        talk.cancel(one, ref)
    else:
        talk.leave(one)
    talk.push(two)
    with pytest.raises(BufferFull):
        talk.push(two)


def test_a_push_refused_at_the_bound_is_never_sent() -> None:
    talk, one, _ = bounded(1)
    ref = talk.push(one)
    with pytest.raises(BufferFull):
        talk.push(one)
    accept_join(talk, one)
    assert [frame.ref for frame in talk.sent()] == [ref]


# ---- casts


def test_a_cast_is_sent_at_once_and_leaves_nothing_behind() -> None:
    talk, room = joined()
    before = talk.proto.next_timeout()
    talk.cast(room, "typing", {"n": 1})
    (frame,) = talk.sent()
    assert (frame.join_ref, frame.event, frame.payload) == (room.join_ref, "typing", {"n": 1})
    assert talk.proto.next_timeout() == before


def test_the_reply_to_a_cast_is_dropped() -> None:
    talk, room = joined()
    talk.cast(room)
    (frame,) = talk.sent()
    talk.reply(frame.ref)
    talk.drop()
    assert not [event for event in talk.events() if isinstance(event, ReplyReceived | PushFailed)]


def test_a_cast_waits_for_the_join_however_long_it_takes() -> None:
    talk, room = joined()
    talk.drop()
    talk.cast(room, "typing")
    talk.advance(1).accept()
    talk.sent()
    talk.advance(9)
    talk.reply(room.join_ref)
    assert [frame.event for frame in talk.sent()] == ["typing"]
    assert talk.proto.next_timeout() is not None  # the heartbeat's
    talk.drop()
    assert [type(event) for event in talk.events() if isinstance(event, PushFailed)] == []


def test_casts_and_pushes_that_wait_are_sent_in_their_order() -> None:
    talk, room = not_yet_joined()
    talk.push(room, "1")
    talk.cast(room, "2")
    talk.push(room, "3")
    talk.reply(room.join_ref)
    assert [frame.event for frame in talk.sent()] == ["1", "2", "3"]


def test_a_cast_that_could_not_be_sent_is_told_of() -> None:
    talk, room = not_yet_joined()
    talk.cast(room, "typing")
    talk.close_channel("room:1", room.join_ref)
    event = talk.event(PushFailed)
    assert (event.event, type(event.error)) == ("typing", ChannelClosedByServer)


# ---- refused at the call

UNSENDABLE = {
    "NaN": ({"a": [nan]}, InvalidPayload),
    "an infinity": ({"a": -inf}, InvalidPayload),
    "a lone surrogate": ({"a": "\ud800"}, InvalidPayload),
    "an object": (object(), InvalidPayload),
}


@pytest.mark.parametrize("call", ["push", "cast"])
@pytest.mark.parametrize(("payload", "error"), UNSENDABLE.values(), ids=UNSENDABLE)
@pytest.mark.parametrize("state", ["joined", "joining"])
def test_what_cannot_be_sent_is_refused_at_the_call_and_changes_nothing(
    state: str, payload: Any, error: type[Exception], call: str
) -> None:
    talk, room = joined() if state == "joined" else not_yet_joined()
    before = talk.proto.next_timeout()
    with pytest.raises(error):
        getattr(room, call)("shout", payload, talk.now)
    assert talk.proto.next_timeout() == before
    talk.close_channel("room:1", room.join_ref)
    assert not [event for event in talk.events() if isinstance(event, PushFailed)]
    assert [frame for frame in talk.sent() if frame.event == "shout"] == []


@pytest.mark.parametrize("state", ["joined", "joining"])
def test_a_field_over_255_bytes_is_refused_in_a_binary_push_alone(state: str) -> None:
    talk, room = joined() if state == "joined" else not_yet_joined()
    with pytest.raises(FieldTooLong, match="event"):
        talk.push(room, "e" * 256, b"")
    talk.push(room, "e" * 256, {})
    talk.push(room, "e" * 255, b"")
    talk.reply(room.join_ref)
    assert [(frame.event, frame.payload) for frame in talk.sent()] == [("e" * 256, {}), ("e" * 255, b"")]


@pytest.mark.parametrize("state", ["joined", "joining"])
def test_bytes_are_refused_on_a_serializer_without_a_binary_form(state: str) -> None:
    talk = Conversation(vsn=1).connect()
    room = talk.joined("room:1") if state == "joined" else talk.joining("room:1")
    with pytest.raises(BinaryNotSupported):
        talk.push(room, "shout", b"")


@pytest.mark.parametrize("call", ["push", "cast"])
def test_a_channel_that_was_never_joined_takes_no_push(call: str) -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    with pytest.raises(NotJoined, match="'room:1'"):
        getattr(room, call)("shout", {}, talk.now)


@pytest.mark.parametrize("refused", [False, True])
def test_a_push_on_a_channel_that_the_server_closed_or_refused_tells_so(refused: bool) -> None:
    talk, room = not_yet_joined()
    if refused:
        talk.reply(room.join_ref, "error")
    else:
        talk.close_channel("room:1", room.join_ref)
    with pytest.raises(ChannelClosedByServer):
        room.push("shout", {}, talk.now)


@pytest.mark.parametrize("call", ["push", "cast"])
@pytest.mark.parametrize("end", ["leaving", "closed"])
def test_a_channel_that_is_left_or_closed_takes_no_push(end: str, call: str) -> None:
    talk, room = joined()
    leave = talk.leave(room)
    if end == "closed":
        talk.reply(leave)
    talk.sent()
    with pytest.raises(ChannelClosedByClient) as caught:
        getattr(room, call)("shout", {}, talk.now)
    reason = "nothing can be pushed any more; make a new channel and join it"
    assert vars(caught.value) == {"topic": "room:1", "reason": reason}
    assert talk.sent() == []
