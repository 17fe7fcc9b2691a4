from concurrent.futures import ThreadPoolExecutor

import pytest
from conversation import Conversation

from phx_proto.channel import Channel
from phx_proto.errors import InvalidState, NotRegistered
from phx_proto.events import ChannelEnded, ChannelErrored, ChannelJoined, PresenceChanged
from phx_proto.handlers.router import Router
from phx_proto.inbox import Tap
from phx_proto.message import PHX_JOIN, PHX_LEAVE, PHX_REPLY, Message
from phx_proto.states import ChannelState


def nobody(item: object) -> None:
    raise AssertionError("the core calls nobody")


def listening(vsn: int = 2) -> tuple[Conversation, Channel]:
    talk = Conversation(vsn=vsn).connect()
    room = talk.joined("room:1")
    room.add(print, "tick")
    return talk, room


# ---- whose message it is


def test_a_push_of_the_current_join_and_a_broadcast_are_delivered_in_their_order() -> None:
    talk, room = listening()
    talk.serve("room:1", "tick", {"n": 1}, join_ref=room.join_ref)
    talk.serve("room:1", "tick", {"n": 2})
    talk.serve("room:1", "tick", b"\x00\xff", join_ref=room.join_ref)
    assert talk.deliveries() == [
        ("room:1", "tick", {"n": 1}),
        ("room:1", "tick", {"n": 2}),
        ("room:1", "tick", b"\x00\xff"),
    ]


def rejoined() -> tuple[Conversation, Channel, str]:
    """A channel that crashed and was joined again, and the ref of its first join."""
    talk, room = listening()
    older = room.join_ref
    assert older is not None
    talk.crash_channel("room:1", older)
    talk.advance(1)
    talk.reply(room.join_ref)
    talk.sent()
    talk.events()
    return talk, room, older


@pytest.mark.parametrize("event", ["tick", "phx_close", "phx_error", PHX_JOIN, PHX_LEAVE, "presence_diff"])
def test_whatever_belongs_to_an_older_join_is_dropped(event: str) -> None:
    talk, room, older = rejoined()
    talk.serve("room:1", event, {"n": 1}, join_ref=older, ref=older)
    assert talk.deliveries() == []
    assert talk.events() == []
    assert room.state is ChannelState.JOINED
    assert talk.proto.stats.stale == 1


def test_a_reply_of_an_older_join_to_nobody_is_dropped() -> None:
    talk, _, older = rejoined()
    talk.serve("room:1", PHX_REPLY, {"status": "ok", "response": {}}, join_ref=older, ref=older)
    assert talk.events() == []
    assert talk.sent() == []


def test_a_broadcast_for_an_older_join_may_follow_the_newer_joins_reply() -> None:
    talk, _, _ = rejoined()
    talk.serve("room:1", "tick", {"n": 1})
    assert talk.deliveries() == [("room:1", "tick", {"n": 1})]


@pytest.mark.parametrize("state", ["no channel", "idle", "joining", "errored", "closed"])
def test_a_message_for_a_topic_that_is_not_joined_is_dropped(state: str) -> None:
    talk = Conversation().connect()
    if state != "no channel":
        room = talk.channel("room:1")
        room.add(print, "tick")
        if state != "idle":
            talk.join(room)
        if state in ("errored", "closed"):
            talk.reply(room.join_ref)
        if state == "errored":
            talk.crash_channel("room:1", room.join_ref)
        if state == "closed":
            talk.close_channel("room:1", room.join_ref)
    talk.serve("room:1", "tick")
    assert talk.deliveries() == []
    assert talk.proto.stats.stale == 1


def test_a_message_on_a_new_connection_before_the_rejoins_reply_is_dropped() -> None:
    talk, _ = listening()
    talk.reconnect()
    talk.serve("room:1", "tick")
    assert talk.deliveries() == []
    assert talk.proto.stats.stale == 1


def test_a_phx_close_with_a_null_join_ref_is_for_whoever_has_the_topic() -> None:
    talk, room = listening()
    talk.close_channel("room:1", None)
    assert room.state is ChannelState.CLOSED


def test_a_phx_error_with_a_null_join_ref_is_for_whoever_has_the_topic() -> None:
    talk, room = listening()
    talk.crash_channel("room:1", None)
    assert room.state is ChannelState.ERRORED


@pytest.mark.parametrize("state", ["idle", "errored"])
@pytest.mark.parametrize("how", ["close_channel", "crash_channel"])
def test_the_end_of_a_channel_that_is_not_joined_changes_nothing(how: str, state: str) -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    if state == "errored":
        talk.join(room)
        talk.crash_channel("room:1", room.join_ref)
    talk.events()
    getattr(talk, how)("room:1", room.join_ref)
    assert talk.events() == []
    assert room.state.value == state


# ---- version 1, whose server sends no join_ref


def test_v1_a_join_its_reply_and_messages() -> None:
    talk, room = listening(vsn=1)
    talk.serve("room:1", "tick", {"n": 1})
    assert room.state is ChannelState.JOINED
    assert talk.deliveries() == [("room:1", "tick", {"n": 1})]


def test_v1_every_message_of_a_join_carries_its_join_ref() -> None:
    talk = Conversation(vsn=1).connect()
    room = talk.joining("room:1")
    talk.reply(room.join_ref)
    talk.push(room)
    talk.leave(room)
    assert [frame.join_ref for frame in talk.sent()] == [room.join_ref] * 3


def test_v1_a_phx_close_with_the_joins_ref_closes_the_channel() -> None:
    talk, room = listening(vsn=1)
    talk.close_channel("room:1", room.join_ref)
    assert room.state is ChannelState.CLOSED


def test_v1_a_phx_error_with_the_joins_ref_is_a_crash() -> None:
    talk, room = listening(vsn=1)
    talk.crash_channel("room:1", room.join_ref)
    assert room.state is ChannelState.ERRORED


def test_v1_the_close_of_a_replaced_join_is_told_from_that_of_the_new_one() -> None:
    talk, older = listening(vsn=1)
    talk.leave(older)
    newer = talk.joined("room:1")
    talk.close_channel("room:1", older.join_ref)
    assert newer.state is ChannelState.JOINED


# ---- who is to have it


def test_the_routers_handlers_come_before_the_channels_own() -> None:
    router = Router()
    first = router.add(print, "tick")
    talk = Conversation(router=router).connect()
    room = talk.joined("room:1")
    second = room.add(repr, "tick")
    talk.serve("room:1", "tick")
    ((handlers, _, _),) = room.inbox.take()
    assert handlers == (first, second)


def test_a_channels_own_handler_is_told_its_payload_type_and_concurrency() -> None:
    room = Conversation().channel("room:1")
    plain, told = room.add(print, "tick"), room.add(print, "tick", payload=int, concurrency=3)
    assert [(handler.payload_type, handler.concurrency) for handler in (plain, told)] == [(None, None), (int, 3)]


def test_a_handler_that_was_taken_back_gets_nothing() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    handler = room.add(print, "tick")
    assert room.off(print) == (handler,)
    with pytest.raises(NotRegistered, match="channel 'room:1' itself has no such handler"):
        room.off(handler)
    talk.serve("room:1", "tick")
    assert talk.deliveries() == []
    assert talk.proto.stats.unhandled == 1


def test_a_tap_reads_every_message_and_the_lifecycle_in_order() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    tap = Tap(nobody)
    room.attach(tap)
    talk.join(room)
    talk.reply(room.join_ref)
    talk.serve("room:1", "tick")
    talk.crash_channel("room:1", room.join_ref)
    talk.leave(room)
    talk.drop()
    assert [type(item) for item in talk.tapped()] == [ChannelJoined, Message, ChannelErrored, ChannelEnded]
    assert talk.proto.stats.backlog == 0


def test_a_tap_that_was_detached_reads_no_more() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    tap = Tap(nobody)
    room.attach(tap)
    room.detach(tap)
    room.detach(tap)
    talk.serve("room:1", "tick")
    talk.crash_channel("room:1", room.join_ref)
    assert talk.tapped() == []


def test_a_channel_is_runnable_once_until_it_was_drained() -> None:
    talk, room = listening()
    for _ in range(3):
        talk.serve("room:1", "tick")
    assert talk.proto.runnable() == [room.inbox]
    assert [len(room.inbox.take(2)), len(room.inbox.take(2))] == [2, 1]
    talk.serve("room:1", "tick")
    assert talk.proto.runnable() == []
    assert [len(room.inbox.take()), len(room.inbox.take())] == [1, 0]
    talk.serve("room:1", "tick")
    assert talk.proto.runnable() == [room.inbox]


# ---- presence

STATE = {"ann": {"metas": [{"phx_ref": "a"}]}}


def test_a_handler_of_a_channel_is_as_it_was_asked_for() -> None:
    executor = ThreadPoolExecutor()  # which starts no thread
    handler = Conversation().channel().add(print, "balance", payload=dict, concurrency=2, executor=executor)
    asked = (handler.event, handler.payload_type, handler.concurrency, handler.executor)
    assert asked == ("balance", dict, 2, executor)


@pytest.mark.parametrize("when", ["before the join", "after the join"])
def test_presence_is_tracked_from_the_join_that_stands(when: str) -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    if when == "before the join":
        room.track_presence()
    talk.join(room)
    talk.reply(room.join_ref)
    talk.events()
    presence = room.track_presence()
    assert room.track_presence() is presence
    talk.serve("room:1", "presence_state", STATE, join_ref=room.join_ref)
    assert talk.event(PresenceChanged).topic == "room:1"


def test_who_is_present_is_not_known_until_it_is_tracked() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    with pytest.raises(InvalidState) as caught:
        _ = room.present
    advice = "track_presence comes first, best before the join"
    assert vars(caught.value) == {"call": "present", "state": "joined", "topic": "room:1", "advice": advice}
    assert room.track_presence().entries == room.present == {}
