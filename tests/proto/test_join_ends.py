"""Joins that do not succeed say why; and a join that is too big for its server does not loop."""

from collections.abc import Callable

import pytest
from conversation import EMPTY, Conversation, failure

from phx_proto.backoff import Backoff
from phx_proto.errors import (
    ChannelClosedByServer,
    ChannelCrashed,
    ConnectError,
    ConnectionClosed,
    ConnectionLost,
    HandshakeRefused,
    JoinRefused,
    JoinTimeout,
    PhxError,
    ResolveFailed,
)
from phx_proto.events import ChannelEnded, ChannelErrored, JoinFailed, PushFailed
from phx_proto.message import PHX_JOIN
from phx_proto.options import ClientOptions, JoinPolicy, Refusal
from phx_proto.states import ChannelState

PATIENT = ClientOptions(
    joins_in_flight=1, join=JoinPolicy(timeout=10, refusal=Refusal.RETRY, backoff=Backoff((1,))), open_timeout=100.0
)


def no_attempt(talk: Conversation) -> None:
    talk.joining("room:1", timeout=3)


def unreachable(talk: Conversation) -> None:
    talk.proto.connect(talk.now)
    talk.joining("room:1", timeout=3)
    talk.link.failed(ConnectError("down"), talk.now)


def forbidden(talk: Conversation) -> None:
    talk.proto.connect(talk.now)
    talk.joining("room:1", timeout=3)
    talk.link.refused(503, {}, b"", talk.now)


def cut(talk: Conversation) -> None:
    talk.connect().joining("room:1", timeout=3)
    talk.drop(1012, "restart")


def unanswered(talk: Conversation) -> None:
    talk.connect().joining("room:1", timeout=3)


def refused(talk: Conversation) -> None:
    room = talk.connect().joining("room:1", timeout=1.5)
    talk.reply(room.join_ref, "error", {"reason": "not yet"})
    talk.advance(1)
    talk.reply(room.join_ref, "error", {"reason": "not yet"})


def refused_then_unanswered(talk: Conversation) -> None:
    room = talk.connect().joining("room:1", timeout=3)
    talk.reply(room.join_ref, "error", {"reason": "not yet"})


def crashed(talk: Conversation) -> None:
    room = talk.connect().joining("room:1", timeout=0.5)
    talk.crash_channel("room:1", room.join_ref)


def no_params(talk: Conversation) -> None:
    talk.connect().joining("room:1", dict, timeout=0.5)
    talk.resolve_failed(KeyError("hush-hush"))


def no_answer_for_params(talk: Conversation) -> None:
    talk.connect().joining("room:1", dict, timeout=3)


def no_turn(talk: Conversation) -> None:
    talk.connect().joining("room:0", timeout=100)
    talk.joining("room:1", timeout=3)


HINDRANCES: list[tuple[Callable[[Conversation], None], str, type[PhxError] | None]] = [
    (no_attempt, "there is no connection", None),
    (unreachable, "there is no connection", ConnectError),
    (forbidden, "there is no connection", HandshakeRefused),
    (cut, "there is no connection", ConnectionLost),
    (unanswered, "", None),
    (refused, "every attempt was refused", JoinRefused),
    (refused_then_unanswered, "", JoinRefused),
    (crashed, "every attempt failed", ChannelCrashed),
    (no_params, "every attempt failed", ResolveFailed),
    (no_answer_for_params, "the callable for its params did not answer", None),
    (no_turn, "other joins were before it, and the server did not answer them", None),
]


@pytest.mark.parametrize(("hinder", "problem", "last"), HINDRANCES, ids=[row[0].__name__ for row in HINDRANCES])
def test_a_join_that_came_to_its_timeout_says_why(
    hinder: Callable[[Conversation], None], problem: str, last: type[PhxError] | None
) -> None:
    talk = Conversation(PATIENT)
    hinder(talk)
    talk.advance(3)
    error = talk.event(JoinFailed).error
    assert isinstance(error, JoinTimeout)
    assert error.problem == problem
    assert type(error.last) is (type(None) if last is None else last)
    assert error.__cause__ is error.last
    assert "hush-hush" not in str(error)


def test_what_a_callable_raised_can_be_had() -> None:
    raised = KeyError("hush-hush")
    talk = Conversation(PATIENT).connect()
    talk.joining("room:1", dict, timeout=0.5)
    talk.resolve_failed(raised)
    talk.advance(1)
    error = talk.event(JoinFailed).error
    assert isinstance(error, JoinTimeout)
    assert isinstance(error.last, ResolveFailed)
    assert error.last.raised is raised
    assert str(error.last) == "the callable for the params of topic 'room:1' raised KeyError"


def test_a_refusal_before_the_channel_was_joined_is_no_cause_after_it() -> None:
    talk = Conversation(PATIENT).connect()
    room = talk.joining("room:1", timeout=30)
    talk.reply(room.join_ref, "error", {})
    talk.advance(1)
    talk.reply(room.join_ref)
    assert room.state is ChannelState.JOINED
    assert room._joining._last_error is None


# ---- too big --------------------------------------------------------------------------------------------------------


def close_with_1009(talk: Conversation) -> None:
    """The server closes, and the client is back."""
    talk.drop(1009, "")
    wait = talk.proto.next_timeout()
    assert wait is not None
    talk.advance(wait - talk.now).accept()


def join_topics(talk: Conversation) -> list[str]:
    return [frame.topic for frame in talk.sent() if frame.event == PHX_JOIN]


def test_a_join_under_way_at_three_closes_with_1009_in_a_row_fails_with_it() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1", timeout=1000)
    for _ in range(2):
        close_with_1009(talk)
        assert room.state is ChannelState.JOINING
    talk.drop(1009, "")
    failed, ended = [event for event in talk.events() if isinstance(event, JoinFailed | ChannelEnded)]
    assert isinstance(failed.error, ConnectionClosed)
    assert failed.error.code == 1009
    assert ended.error is failed.error
    talk.sent()
    assert talk.reconnect().sent() == []


def test_what_waited_for_a_join_that_was_too_big_says_so() -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1", timeout=1000)
    talk.push(room, timeout=1000)
    for _ in range(2):
        close_with_1009(talk)
    talk.drop(1009, "")
    error = failure(talk, PushFailed)
    assert isinstance(error, ChannelClosedByServer)
    assert error.reason == "its join was too big for the server"


def test_a_rejoin_fails_likewise() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    for _ in range(4):
        assert room.state is not ChannelState.CLOSED
        close_with_1009(talk)
    assert room.state is ChannelState.CLOSED


@pytest.mark.parametrize("code", [None, 1000, 1011])
def test_another_close_between_begins_the_count_anew(code: int | None) -> None:
    talk = Conversation().connect()
    room = talk.joining("room:1", timeout=1000)
    for end in (1009, 1009, code, 1009, 1009):
        talk.drop(end, "")
        wait = talk.proto.next_timeout()
        assert wait is not None
        talk.advance(wait - talk.now).accept()
    assert room.state is ChannelState.JOINING


def test_an_answer_between_begins_the_count_anew() -> None:
    talk = Conversation(PATIENT).connect()
    room = talk.joining("room:1", timeout=1000)
    close_with_1009(talk)
    close_with_1009(talk)
    talk.reply(room.join_ref, "error", {})
    talk.advance(1)
    close_with_1009(talk)
    close_with_1009(talk)
    assert room.state is ChannelState.JOINING


def test_joins_that_were_under_way_with_the_one_to_blame_do_not_fail_with_it() -> None:
    talk = Conversation().connect()
    rooms = [talk.joining(f"room:{number}", timeout=1000) for number in range(5)]
    talk.sent()
    close_with_1009(talk)
    for room in rooms[:3]:
        assert join_topics(talk) == [room.topic]  # one by one
        talk.reply(room.join_ref)
    assert join_topics(talk) == ["room:3"]  # which is too big
    close_with_1009(talk)
    assert join_topics(talk) == ["room:3"]
    close_with_1009(talk)
    assert rooms[3].state is ChannelState.CLOSED
    assert join_topics(talk) == ["room:0", "room:1", "room:2", "room:4"]


def test_suspects_come_first_and_the_others_all_at_once_behind_them() -> None:
    talk = Conversation().connect()
    quiet = [talk.joined(f"quiet:{number}") for number in range(3)]
    suspects = [talk.joining(f"room:{number}", timeout=1000) for number in range(2)]
    talk.sent()
    close_with_1009(talk)
    assert join_topics(talk) == ["room:0"]
    talk.reply(suspects[0].join_ref)
    assert join_topics(talk) == ["room:1"]
    talk.reply(suspects[1].join_ref)
    assert join_topics(talk) == [room.topic for room in quiet]


def test_a_push_that_is_lost_to_a_close_tells_it() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.push(room, "shout", EMPTY)
    talk.drop(1009, "")
    error = talk.event(PushFailed).error
    assert "1009" in str(error)
    assert error.__cause__ == error.why  # type: ignore[attr-defined]


def test_a_ping_that_is_lost_to_a_close_tells_it() -> None:
    talk = Conversation().connect()
    talk.answers_heartbeats = False
    talk.ping()
    talk.drop(1001, "away")
    assert "1001 (going away): away" in str(talk.event(PushFailed).error)


def test_a_suspect_that_was_left_is_forgotten() -> None:
    talk = Conversation().connect()
    first, second = (talk.joining(f"room:{number}", timeout=1000) for number in range(2))
    talk.drop(1009, "")
    talk.leave(first)
    talk.leave(second)
    others = [talk.joining(f"other:{number}") for number in range(2)]
    talk.sent()
    talk.advance(0.01).accept()
    assert join_topics(talk) == [room.topic for room in others]
    assert not [event for event in talk.events() if isinstance(event, ChannelErrored)]


def test_a_client_that_has_ended_holds_no_suspect() -> None:
    talk = Conversation().connect()
    talk.joining("room:1")
    talk.drop(1009)
    talk.proto.abort(talk.now)
    assert not list(talk.proto._sockets.first._suspects)
