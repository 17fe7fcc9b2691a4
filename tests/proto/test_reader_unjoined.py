"""Messages on topics that have no channel: the handlers that take them, and the report if there is none."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from conversation import Conversation

from phx_proto.errors import NotJoined
from phx_proto.events import InboxOverflow, PatternJoined, UnclaimedMessages
from phx_proto.flow import FlowLimits
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions

DOC = "__absinthe__:doc:1"
DATA = "subscription:data"


def take(message: Message[Any]) -> None:
    """Nobody calls it."""


def listening(vsn: int = 2, *, topic: str = "__absinthe__:*", event: str = DATA, **settings: Any) -> Conversation:
    """A client with a handler for messages of topics that it did not join."""
    router = Router()
    router.add(take, event, topic=topic, unjoined=True)
    return Conversation(vsn=vsn, router=router, **settings).connect()


@pytest.mark.parametrize("vsn", [1, 2])
@pytest.mark.parametrize(("topic", "event"), [(DOC, DATA), ("__absinthe__:*", DATA), ("*", DATA), (DOC, "*")])
def test_a_message_of_a_topic_never_joined_goes_to_the_handlers_that_take_such(
    vsn: int, topic: str, event: str
) -> None:
    talk = listening(vsn, topic=topic, event=event)
    talk.serve(DOC, DATA, {"n": 1})
    talk.serve(DOC, DATA, {"n": 2})
    assert talk.deliveries() == [(DOC, DATA, {"n": 1}), (DOC, DATA, {"n": 2})]
    assert (talk.proto.stats.stale, talk.proto.stats.delivered, talk.proto.stats.backlog) == (0, 2, 0)


def test_bytes_come_too() -> None:
    talk = listening()
    talk.serve(DOC, DATA, b"\x00")
    assert talk.deliveries() == [(DOC, DATA, b"\x00")]


def while_joining(talk: Conversation) -> None:
    talk.joining(DOC)
    talk.serve(DOC, DATA, {})


ELSEWHERE: dict[str, Callable[[Conversation], object]] = {
    "another topic": lambda talk: talk.serve("other:1", DATA, {}),
    "another event": lambda talk: talk.serve(DOC, "other", {}),
    "an older join's": lambda talk: talk.serve(DOC, DATA, {}, join_ref="97"),
    "of a channel that is not joined yet": while_joining,
    "phx_close": lambda talk: talk.close_channel(DOC, None),
    "phx_error": lambda talk: talk.crash_channel(DOC, None),
}


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_else_is_stale_stays_so(name: str) -> None:
    talk = listening()
    ELSEWHERE[name](talk)
    assert talk.deliveries() == []
    assert talk.proto.stats.stale == 1


def test_a_handler_that_does_not_take_such_gets_none() -> None:
    router = Router()
    router.add(take, DATA)
    talk = Conversation(router=router).connect()
    talk.serve(DOC, DATA, {})
    assert talk.deliveries() == []
    assert talk.proto.stats.stale == 1


def test_a_handler_that_takes_such_gets_those_of_joined_topics_too() -> None:
    talk = listening()
    room = talk.joined(DOC)
    talk.serve(DOC, DATA, {"n": 1}, join_ref=room.join_ref)
    assert talk.deliveries() == [(DOC, DATA, {"n": 1})]


def test_a_handler_may_come_later_and_go() -> None:
    talk = Conversation().connect()
    handler = talk.proto.router.add(take, DATA, topic=DOC, unjoined=True)
    talk.serve(DOC, DATA, {"n": 1})
    talk.proto.router.off(handler)
    talk.serve(DOC, DATA, {"n": 2})
    assert talk.deliveries() == [(DOC, DATA, {"n": 1})]


def test_a_drain_that_is_over_its_time_tells_of_a_handler_that_came_later() -> None:
    talk = Conversation().connect()
    talk.serve(DOC, DATA, {})
    handler = talk.proto.router.add(take, DATA, unjoined=True)
    talk.serve(DOC, DATA, {})
    (inbox,) = talk.proto.runnable()
    assert len(inbox.take()) == 1
    talk.proto.close(talk.now, timeout=1.0)
    talk.advance(1.0)
    assert talk.proto.unfinished == frozenset({handler})


def test_they_count_towards_the_bounds_and_are_dropped_at_the_hard_one() -> None:
    talk = listening(options=ClientOptions(flow=FlowLimits(high=2, low=0, hard=2)))
    for _ in range(3):
        talk.serve(DOC, DATA, {})
    assert talk.event(InboxOverflow).dropped == 1
    assert len(talk.deliveries()) == 2


def test_they_are_dropped_while_the_client_closes() -> None:
    talk = listening()
    talk.joined("room:1")
    talk.proto.close(talk.now)
    talk.serve(DOC, DATA, {})
    assert talk.deliveries() == []
    assert talk.proto.stats.dropped == 1


def test_nothing_can_be_pushed_where_they_come() -> None:
    talk = listening()
    with pytest.raises(NotJoined):
        talk.proto.unjoined.push("shout", {}, talk.now)


def test_the_decorator_takes_it_and_it_travels() -> None:
    router = Router()
    router.on(DATA, topic=DOC, unjoined=True)(take)
    (handler,) = router.handlers
    copy: Handler = pickle.loads(pickle.dumps(handler))
    assert (handler.unjoined, copy.unjoined) == (True, True)
    assert router.unjoined(DOC, DATA) == (handler,)
    assert router.unjoined("other", DATA) == ()


# ---- what is told ---------------------------------------------------------------------------------------------------


def test_messages_that_nobody_takes_are_counted_and_told_of_once() -> None:
    talk = Conversation().connect()
    for number in range(10):
        talk.serve(f"__absinthe__:doc:{number}", DATA, {})
    assert talk.proto.notices() == [UnclaimedMessages("__absinthe__:doc:2", DATA, 3)]
    assert talk.proto.stats.stale == 10
    talk.reconnect()
    for _ in range(10):
        talk.serve(DOC, DATA, {})
    assert talk.proto.notices() == []


def test_a_message_or_two_that_follow_a_leave_are_nothing_to_tell_of() -> None:
    talk = Conversation().connect()
    talk.reply(talk.leave(talk.joined("room:1")))
    talk.serve("room:1", "tick", {})
    talk.serve("room:1", "tick", {})
    assert talk.proto.notices() == []


@pytest.mark.parametrize(("topic", "told"), [("sim:*", True), ("*", True), ("sim:1", False), ("a*b", False)])
def test_a_pattern_that_is_joined_is_warned_of(topic: str, told: bool) -> None:
    talk = Conversation().connect()
    talk.joining(topic)
    assert talk.proto.notices() == ([PatternJoined(topic)] if told else [])
    assert [frame.topic for frame in talk.sent()] == [topic]
