from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from conversation import Conversation

from phx_proto.channel import Channel
from phx_proto.errors import ChannelClosedByClient, ChannelCrashed, JoinCancelled, PushLost
from phx_proto.events import ChannelEnded, ChannelErrored, ChannelJoined, JoinFailed, LeaveEnd, LeaveEnded, PushFailed
from phx_proto.message import PHX_JOIN, PHX_LEAVE
from phx_proto.states import ChannelState, SocketState


def leaving() -> tuple[Conversation, Channel, str]:
    """A joined channel that is being left; what was sent is not shown."""
    talk = Conversation().connect()
    room = talk.joined("room:1")
    ref = talk.leave(room)
    talk.sent()
    return talk, room, ref


def leave_end(talk: Conversation) -> LeaveEnd:
    return talk.event(LeaveEnded).end


# ---- in every state


def test_leaving_a_joined_channel_sends_a_leave_with_its_join_ref() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    ref = talk.leave(room)
    assert talk.sent() == [(room.join_ref, ref, "room:1", PHX_LEAVE, {})]
    assert room.state is ChannelState.LEAVING
    assert talk.events() == []


def test_leaving_while_the_join_is_unanswered_cancels_it_and_sends_a_leave() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    join = talk.join(room)
    leave = talk.leave(room)
    failed = talk.event(JoinFailed)
    assert (failed.ref, type(failed.error)) == (join, JoinCancelled)
    assert [(frame.join_ref, frame.event) for frame in talk.sent()] == [
        (room.join_ref, PHX_JOIN),
        (room.join_ref, PHX_LEAVE),
    ]
    talk.reply(room.join_ref)  # the join's answer, which nobody awaits
    assert talk.events() == []
    talk.reply(leave)
    assert leave_end(talk) is LeaveEnd.REPLY


def test_leaving_during_a_rejoin_sends_a_leave() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.reconnect()
    talk.sent()
    talk.leave(room)
    assert [(frame.join_ref, frame.event) for frame in talk.sent()] == [(room.join_ref, PHX_LEAVE)]
    assert talk.events() == []


def test_leaving_while_a_retry_is_planned_sends_a_leave_and_no_join() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.crash_channel("room:1", room.join_ref)
    ref = talk.leave(room)
    assert [frame.event for frame in talk.sent()] == [PHX_LEAVE]
    talk.reply(ref)
    talk.advance(20)
    assert talk.sent() == []


def test_leaving_while_the_params_of_a_rejoin_are_asked_for_sends_a_leave_for_the_join_before() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1", dict)
    talk.resolve({})
    talk.reply(room.join_ref)
    talk.crash_channel("room:1", room.join_ref)
    talk.advance(1)
    assert room.state is ChannelState.PENDING
    talk.sent()
    ref = talk.leave(room)
    assert [(frame.join_ref, frame.event) for frame in talk.sent()] == [(room.join_ref, PHX_LEAVE)]
    talk.reply(ref)
    talk.resolve({})
    assert talk.sent() == []


@pytest.mark.parametrize("state", ["idle", "pending", "disconnected", "closed"])
def test_where_no_join_was_sent_on_this_connection_a_leave_is_local(state: str) -> None:
    talk = Conversation()
    room = talk.channel("room:1")
    if state == "pending":
        talk.join(room)
    elif state == "disconnected":
        talk.connect()
        talk.join(room)
        talk.reply(room.join_ref)
        talk.drop()
    elif state == "closed":
        talk.leave(room)
    talk.sent()
    talk.events()
    talk.leave(room)
    assert leave_end(talk) is LeaveEnd.LOCAL
    assert talk.sent() == []
    assert room.state is ChannelState.CLOSED


def test_a_local_leave_cancels_the_join() -> None:
    talk = Conversation()
    room = talk.channel("room:1")
    join = talk.join(room)
    leave = talk.leave(room)
    failed, left, ended = talk.events()
    assert isinstance(failed, JoinFailed)
    assert (failed.ref, type(failed.error)) == (join, JoinCancelled)
    assert left == LeaveEnded("room:1", leave, LeaveEnd.LOCAL)
    assert ended == ChannelEnded("room:1", None)


def test_leaving_a_channel_that_the_server_closed_is_local() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.close_channel("room:1", room.join_ref)
    talk.events()
    talk.leave(room)
    assert leave_end(talk) is LeaveEnd.LOCAL
    assert talk.sent() == []


# ---- its ends

ENDS: dict[LeaveEnd, Callable[[Conversation, Channel, str], object]] = {
    LeaveEnd.REPLY: lambda talk, room, ref: talk.reply(ref),
    LeaveEnd.CLOSE: lambda talk, room, ref: talk.close_channel("room:1", room.join_ref),
    LeaveEnd.CRASH: lambda talk, room, ref: talk.crash_channel("room:1", room.join_ref),
    LeaveEnd.SUPERSEDED: lambda talk, room, ref: talk.reply(talk.joining("room:1").join_ref),
    LeaveEnd.DISCONNECTED: lambda talk, room, ref: talk.drop(),
    LeaveEnd.TIMEOUT: lambda talk, room, ref: talk.advance(10),
    LeaveEnd.CANCELLED: lambda talk, room, ref: talk.cancel(room, ref),
}


def test_the_ends_of_a_leave_are_all_in_the_table() -> None:
    assert {*ENDS, LeaveEnd.LOCAL} == set(LeaveEnd)


@pytest.mark.parametrize("end", ENDS)
def test_each_end_closes_the_channel_and_is_told(end: LeaveEnd) -> None:
    talk, room, ref = leaving()
    ENDS[end](talk, room, ref)
    assert [event for event in talk.events() if isinstance(event, LeaveEnded | ChannelEnded)] == [
        LeaveEnded("room:1", ref, end),
        ChannelEnded("room:1", None),
    ]
    assert room.state is ChannelState.CLOSED


@pytest.mark.parametrize("second", ENDS)
@pytest.mark.parametrize("first", ENDS)
def test_the_first_end_counts(first: LeaveEnd, second: LeaveEnd) -> None:
    talk, room, ref = leaving()
    ENDS[first](talk, room, ref)
    if first is LeaveEnd.DISCONNECTED:
        talk.advance(1).accept()
    elif first is LeaveEnd.SUPERSEDED:
        talk.leave(talk.channels["room:1"])  # its topic is free again
    talk.events()
    ENDS[second](talk, room, ref)
    assert ref not in [event.ref for event in talk.events() if isinstance(event, LeaveEnded)]
    assert room.state is ChannelState.CLOSED


def test_a_reply_with_an_error_ends_it_as_well() -> None:
    talk, _, ref = leaving()
    talk.reply(ref, "error", {"reason": "unmatched topic"})
    assert leave_end(talk) is LeaveEnd.REPLY


def test_the_refusal_of_a_newer_join_ends_it_as_well() -> None:
    talk, _, _ = leaving()
    talk.reply(talk.joining("room:1").join_ref, "error")
    assert leave_end(talk) is LeaveEnd.SUPERSEDED


def test_a_leave_times_out_counted_from_its_call() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.leave(room, timeout=3)
    talk.advance(2.99)
    assert talk.events() == []
    talk.advance(0.02)
    assert leave_end(talk) is LeaveEnd.TIMEOUT


def test_a_leave_may_wait_for_ever() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    ref = talk.leave(room, timeout=inf)
    talk.advance(1000)
    assert talk.events() == []
    talk.reply(ref)
    assert leave_end(talk) is LeaveEnd.REPLY


def test_the_clients_close_ends_it() -> None:
    talk, _, _ = leaving()
    talk.proto.disconnect(talk.now)
    assert leave_end(talk) is LeaveEnd.DISCONNECTED


# ---- races


def test_a_second_leave_is_the_first() -> None:
    talk, room, ref = leaving()
    assert talk.leave(room) == ref
    assert talk.sent() == []
    talk.reply(ref)
    assert leave_end(talk) is LeaveEnd.REPLY


def test_a_leave_frees_the_topic_at_once() -> None:
    talk, _, leave = leaving()
    newer = talk.joining("room:1")
    assert [(frame.join_ref, frame.event) for frame in talk.sent()] == [(newer.join_ref, PHX_JOIN)]
    talk.reply(leave)
    talk.reply(newer.join_ref)
    assert newer.state is ChannelState.JOINED


def test_a_leave_without_any_answer_ends_with_the_newer_joins_reply() -> None:
    talk, older, _ = leaving()
    newer = talk.joining("room:1")
    talk.reply(newer.join_ref)
    assert [type(event) for event in talk.events()] == [LeaveEnded, ChannelEnded, ChannelJoined]
    assert (older.state, newer.state) == (ChannelState.CLOSED, ChannelState.JOINED)


def test_the_phx_close_of_the_older_join_after_the_newer_joins_reply_is_stale() -> None:
    talk, older, leave = leaving()
    newer = talk.joining("room:1")
    talk.reply(newer.join_ref)
    talk.events()
    talk.close_channel("room:1", older.join_ref)
    talk.reply(leave)
    assert talk.events() == []
    assert newer.state is ChannelState.JOINED
    assert talk.proto.stats.stale == 2


def test_the_phx_close_of_the_older_join_before_the_newer_joins_reply_ends_the_leave_alone() -> None:
    talk, older, _ = leaving()
    newer = talk.joining("room:1")
    talk.close_channel("room:1", older.join_ref)
    assert leave_end(talk) is LeaveEnd.CLOSE
    assert newer.state.value == "joining"
    talk.reply(newer.join_ref)
    assert newer.state is ChannelState.JOINED


def test_several_leaves_of_one_topic_end_each_for_itself() -> None:
    talk, first, _ = leaving()
    second = talk.joined("room:1")  # supersedes the first leave
    second_leave = talk.leave(second)
    third = talk.joining("room:1")
    third_leave = talk.leave(third)
    talk.events()
    talk.reply(third_leave)
    assert talk.event(LeaveEnded).ref == third_leave
    talk.close_channel("room:1", second.join_ref)
    assert talk.event(LeaveEnded).ref == second_leave
    assert first.state is ChannelState.CLOSED


def test_a_leave_of_another_topic_goes_on_when_a_join_is_answered() -> None:
    talk, room, _ = leaving()
    talk.reply(talk.joining("room:2").join_ref)
    assert room.state is ChannelState.LEAVING


def test_a_null_phx_close_ends_the_leave_where_nobody_else_has_the_topic() -> None:
    talk, _, _ = leaving()
    talk.close_channel("room:1", None)
    assert leave_end(talk) is LeaveEnd.CLOSE


def test_a_crash_while_it_is_left_brings_no_rejoin() -> None:
    talk, room, _ = leaving()
    talk.crash_channel("room:1", room.join_ref)
    talk.advance(1)
    assert not [event for event in talk.events() if isinstance(event, ChannelErrored)]
    assert [frame for frame in talk.sent() if frame.event == PHX_JOIN] == []


def test_a_crash_while_it_is_left_loses_its_pushes_at_once() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.push(room, "shout")
    talk.leave(room)
    talk.crash_channel("room:1", room.join_ref)
    lost = talk.event(PushFailed).error
    assert isinstance(lost, PushLost)
    assert isinstance(lost.why, ChannelCrashed)


@pytest.mark.parametrize("vsn", [1, 2])
def test_a_crash_while_it_is_left_ends_the_leave(vsn: int) -> None:
    talk = Conversation(vsn=vsn).connect()
    room = talk.joined("room:1")
    talk.leave(room)
    talk.crash_channel("room:1", room.join_ref)
    assert leave_end(talk) is LeaveEnd.CRASH
    assert room.state is ChannelState.CLOSED


def test_a_crash_of_the_last_channel_that_is_left_ends_an_endless_drain() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.proto.close(talk.now, timeout=inf)
    talk.crash_channel("room:1", room.join_ref)
    assert talk.proto.state is SocketState.CLOSING


@pytest.mark.parametrize("end", ["close_channel", "crash_channel"])
def test_a_null_end_is_the_newer_joins_and_not_the_leaving_ones(end: str) -> None:
    talk, older, _ = leaving()
    newer = talk.joining("room:1")
    getattr(talk, end)("room:1", None)
    assert older.state is ChannelState.LEAVING
    assert newer.state is not ChannelState.JOINING


@pytest.mark.parametrize("end", ["close_channel", "crash_channel"])
def test_a_null_end_is_the_leaving_ones_where_the_newer_was_not_sent(end: str) -> None:
    talk, older, _ = leaving()
    newer = talk.joining("room:1", dict)  # its params are yet to come
    getattr(talk, end)("room:1", None)
    assert older.state is ChannelState.CLOSED
    assert newer.state is ChannelState.PENDING


def test_messages_of_a_channel_that_is_left_are_dropped() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    room.add(print, "tick")
    talk.leave(room)
    talk.serve("room:1", "tick", {"n": 1}, join_ref=room.join_ref)
    talk.serve("room:1", "tick", {"n": 2})
    assert talk.deliveries() == []
    assert talk.proto.stats.stale == 2


def test_a_message_that_waits_in_the_inbox_outlives_the_leave() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    room.add(print, "tick")
    talk.serve("room:1", "tick", {"n": 1})
    talk.reply(talk.leave(room))
    assert talk.deliveries() == [("room:1", "tick", {"n": 1})]


def test_a_channel_is_not_rejoined_after_its_leave_was_cut_by_the_connection() -> None:
    talk, room, _ = leaving()
    talk.reconnect()
    assert talk.sent() == []
    assert room.state is ChannelState.CLOSED


@pytest.mark.parametrize("call", ["join", "push", "cast"])
def test_what_is_asked_of_a_channel_that_is_left_is_refused(call: str) -> None:
    talk, room, _ = leaving()
    arguments: list[Any] = [talk.now] if call == "join" else ["shout", {}, talk.now]
    with pytest.raises(ChannelClosedByClient):
        getattr(room, call)(*arguments)
    assert talk.sent() == []
