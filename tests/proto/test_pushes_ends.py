from math import inf

import pytest
from conversation import Conversation, accept_join, failure, joined, not_yet_joined
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto.backoff import ReconnectPolicy
from phx_proto.channel import Channel
from phx_proto.errors import (
    ChannelClosed,
    PushCancelled,
    PushLost,
)
from phx_proto.events import LeaveEnded, PushFailed, ReplyReceived
from phx_proto.options import ClientOptions

# ---- lost


def lost(talk: Conversation, room: Channel, how: str) -> None:
    if how == "disconnected":
        talk.drop()
    elif how == "crashed":
        talk.crash_channel("room:1", room.join_ref)
    else:
        talk.proto.disconnect(talk.now)


@pytest.mark.parametrize("how", ["disconnected", "crashed", "client closed"])
def test_sent_pushes_are_lost_at_once(how: str) -> None:
    talk, room = joined()
    refs = [talk.push(room, timeout=inf), talk.push(room)]
    lost(talk, room, how)
    failed = [event for event in talk.events() if isinstance(event, PushFailed)]
    assert [event.ref for event in failed] == refs
    assert all(isinstance(event.error, PushLost) and event.error.sent for event in failed)


CRASHED = "the channel of topic 'room:1' crashed on the server: {'reason': 'overrun'}"


@pytest.mark.parametrize("leaving", [False, True])
@pytest.mark.parametrize(
    ("how", "code", "reason"),
    [
        ("disconnected", 4001, "enough"),
        ("disconnected for good", 4002, "enough"),
        ("aborted", None, ""),
        ("crashed", None, CRASHED),
        ("crashed, unreadable", None, CRASHED.replace("{'reason': 'overrun'}", "None")),
    ],
)
def test_a_lost_push_tells_what_took_it_away(how: str, leaving: bool, code: int | None, reason: str) -> None:
    talk = Conversation(ClientOptions(reconnect=ReconnectPolicy(final_codes=frozenset({4002})))).connect()
    room = talk.joined("room:1")
    talk.push(room)
    if leaving:
        talk.leave(room)
    if how.startswith("disconnected"):
        talk.drop(code, reason)
    elif how == "aborted":
        talk.proto.abort(talk.now)
    elif how == "crashed":
        talk.crash_channel("room:1", room.join_ref, {"reason": "overrun"})
    else:
        talk.receive(f'["{room.join_ref}",null,"room:1","phx_error",1e999]')
    error = failure(talk, PushFailed)
    assert isinstance(error, PushLost)
    assert (error.sent, error.code, error.reason) == (True, code, reason)


def test_a_lost_push_is_not_sent_again() -> None:
    talk, room = joined()
    talk.push(room)
    talk.reconnect()
    accept_join(talk, room)
    assert [frame.event for frame in talk.sent()] == []


@pytest.mark.parametrize("how", ["disconnected", "crashed"])
def test_the_late_reply_to_a_lost_push_is_dropped(how: str) -> None:
    talk, room = joined()
    ref = talk.push(room)
    lost(talk, room, how)
    if how == "disconnected":
        talk.advance(1).accept()
    talk.events()
    talk.reply(ref)
    assert talk.events() == []


@pytest.mark.parametrize("sent", [False, True])
def test_a_push_is_lost_when_the_server_ends_the_client_and_told_why(sent: bool) -> None:
    talk = Conversation(ClientOptions(reconnect=ReconnectPolicy(final_codes=frozenset({4001})))).connect()
    room = talk.joined("room:1") if sent else talk.joining("room:1")
    talk.push(room)
    talk.drop(4001, "enough")
    error = failure(talk, PushFailed)
    assert isinstance(error, PushLost)
    assert (error.sent, error.code, error.reason) == (sent, 4001, "enough")


def test_an_unsent_push_is_lost_unsent_when_the_client_closes() -> None:
    talk, room = not_yet_joined()
    talk.push(room)
    talk.proto.disconnect(talk.now)
    error = failure(talk, PushFailed)
    assert isinstance(error, PushLost)
    assert not error.sent


def test_the_pushes_of_other_channels_outlive_a_crash() -> None:
    talk, room = joined()
    other = talk.joined("room:2")
    ref = talk.push(other)
    talk.crash_channel("room:1", room.join_ref)
    talk.reply(ref)
    assert talk.event(ReplyReceived).ref == ref


# ---- the channel ends


def ended(talk: Conversation) -> tuple[str, str]:
    """The ref of the push that ended with its channel, and why that ended."""
    event = talk.event(PushFailed)
    assert isinstance(event.error, ChannelClosed)
    return event.ref, event.error.reason


def test_the_channel_closed_by_the_server_ends_its_pushes() -> None:
    talk, room = joined()
    ref = talk.push(room)
    talk.close_channel("room:1", room.join_ref)
    assert ended(talk) == (ref, "the server closed it")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        ("refused", "its join was refused"),
        ("timed out", "its join timed out"),
        ("cancelled", "its join was cancelled"),
    ],
)
def test_a_join_without_success_ends_the_pushes_that_waited_for_it(end: str, reason: str) -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    join = talk.join(room, timeout=2)
    ref = talk.push(room)
    if end == "refused":
        talk.reply(join_ref := room.join_ref, "error")
        assert join_ref
    elif end == "timed out":
        talk.advance(3)
    else:
        talk.cancel(room, join)
    assert ended(talk) == (ref, reason)


def test_each_waiting_call_gets_an_error_of_its_own() -> None:
    talk, room = joined()
    talk.push(room)
    talk.push(room)
    talk.close_channel("room:1", room.join_ref)
    first, second = [event.error for event in talk.events() if isinstance(event, PushFailed)]
    assert first is not second


def test_a_leave_ends_unsent_pushes_at_once() -> None:
    talk, room = not_yet_joined()
    ref = talk.push(room)
    talk.leave(room)
    assert ended(talk) == (ref, "it was left")


def test_a_leave_before_the_join_was_sent_ends_unsent_pushes_too() -> None:
    talk = Conversation()
    room = talk.joining()
    ref = talk.push(room)
    talk.leave(room)
    assert ended(talk) == (ref, "it was left")


def test_a_sent_push_may_be_answered_while_the_channel_is_left() -> None:
    talk, room = joined()
    ref = talk.push(room)
    talk.leave(room)
    talk.reply(ref)
    assert talk.event(ReplyReceived).ref == ref


def test_a_sent_push_ends_with_the_leave() -> None:
    talk, room = joined()
    ref = talk.push(room)
    leave = talk.leave(room)
    talk.reply(leave)
    assert [(type(event), getattr(event, "ref", None)) for event in talk.events()][:2] == [
        (LeaveEnded, leave),
        (PushFailed, ref),
    ]


def test_a_sent_push_is_lost_when_the_connection_is_while_the_channel_is_left() -> None:
    talk, room = joined()
    talk.push(room)
    talk.leave(room)
    talk.drop()
    assert isinstance(failure(talk, PushFailed), PushLost)


# ---- cancelled


def test_a_cancelled_unsent_push_is_never_sent() -> None:
    talk, room = not_yet_joined()
    ref = talk.push(room)
    talk.cancel(room, ref)
    error = failure(talk, PushFailed)
    assert isinstance(error, PushCancelled)
    assert not error.sent
    accept_join(talk, room)
    assert talk.sent() == []


def test_the_late_reply_to_a_cancelled_push_is_dropped() -> None:
    talk, room = joined()
    ref = talk.push(room)
    talk.cancel(room, ref)
    error = failure(talk, PushFailed)
    assert isinstance(error, PushCancelled)
    assert error.sent
    talk.reply(ref)
    assert talk.events() == []


def test_cancelling_what_has_ended_does_nothing() -> None:
    talk, room = joined()
    ref = talk.push(room)
    talk.reply(ref)
    talk.events()
    talk.cancel(room, ref)
    assert talk.events() == []


def test_cancelling_on_a_channel_that_never_pushed_does_nothing() -> None:
    talk, room = joined()
    talk.cancel(room, "99")
    assert talk.events() == []


# ---- whatever happens

STEPS = st.sampled_from(
    ["push", "cast", "push with a short timeout", "reply", "reply twice", "cancel", "crash", "drop", "wait", "answer"]
)


@given(st.lists(STEPS, max_size=30))
@settings(max_examples=2 * settings().max_examples)
def test_every_push_ends_exactly_once_whatever_happens(steps: list[str]) -> None:
    talk, room = joined()
    refs: list[str] = []
    sent: list[str] = []
    for step in steps:
        sent += [frame.ref for frame in talk.sent() if frame.event == "shout"]
        match step:
            case "push":
                refs.append(talk.push(room))
            case "push with a short timeout":
                refs.append(talk.push(room, timeout=0.5))
            case "cast":
                talk.cast(room)
            case "reply" | "reply twice" if sent:
                for _ in range(1 + (step == "reply twice")):
                    talk.reply(sent[len(refs) % len(sent)])
            case "cancel" if refs:
                talk.cancel(room, refs[len(steps) % len(refs)])
            case "crash":
                talk.crash_channel("room:1", room.join_ref)
            case "drop" if talk.link.current:
                talk.reconnect()
            case "wait":
                talk.advance(0.4)
            case "answer" if room.join_ref is not None:
                talk.reply(room.join_ref)
            case _:
                pass
    talk.check()  # exactly once, and nothing is left
