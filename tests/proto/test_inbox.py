"""Inboxes: which handlers get a message, what waits, and what is dropped."""

from typing import Any

import pytest
from conversation import Conversation

from phx_proto.channel import Channel
from phx_proto.errors import InvalidEvent
from phx_proto.events import BadFrame, ChannelEnded, ChannelErrored, ChannelJoined, InboxOverflow, PresenceChanged
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.inbox import Inbox, RouteTables, Tap
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.presence import PresenceChange
from phx_proto.queues import LARGEST_TURN, Backlog, Bound, Drop, HandlerQueue, Place, by_concurrency

OVER_RANGE = '[null,null,"room:1","{}",1e999]'  # JSON by its form, and no number by its content


def nobody(item: object) -> None:
    raise AssertionError("the core calls nobody")


def joined(router: Router | None = None, **settings: Any) -> tuple[Conversation, Channel]:
    talk = Conversation(router=router).connect()
    room = talk.channel("room:1", **settings)
    talk.join(room)
    talk.reply(room.join_ref)
    talk.events()
    return talk, room


def consumers(talk: Conversation, room: Channel, event: str) -> tuple[Any, ...]:
    """Who is to have a broadcast of the event: the line's handlers, then those with queues of their own, then taps."""
    talk.serve("room:1", event)
    got: list[Any] = []
    for queue in [*talk.proto.runnable(), *talk.proto.executable()]:
        while taken := queue.take():
            got += taken[0][0]
            talk.proto.handled(taken, talk.now)
    for tap, item in talk.proto.tapped():
        assert isinstance(item, tuple)
        got.append(tap)
        talk.proto.handled([item], talk.now)
    assert talk.proto.stats.backlog == 0
    return tuple(got)


def test_busy_are_the_handlers_of_what_waits_and_all_of_the_line_while_a_worker_has_the_last() -> None:
    talk, room = joined()
    first, second = room.add(print, "a"), room.add(print, "b")
    talk.serve("room:1", "a")
    talk.serve("room:1", "b")
    assert room.inbox.busy_handlers() == {first, second}
    taken = room.inbox.take(1)
    assert room.inbox.busy_handlers() == {second}
    taken += room.inbox.take(1)
    assert room.inbox.busy_handlers() == {first, second}
    talk.proto.handled(taken, talk.now)


# ---- taking ---------------------------------------------------------------------------------------------------------


def test_nothing_waits_in_a_new_inbox() -> None:
    inbox = Inbox("room:1", RouteTables(Router(), by_concurrency), None, Backlog())
    assert (inbox.take(10), inbox.deliveries) == ([], None)


def test_deliveries_are_taken_in_order_and_in_parts() -> None:
    talk, room = joined()
    room.add(print, "tick")
    for number in range(5):
        talk.serve("room:1", "tick", {"n": number})
    parts = [numbers(room.inbox.take(2)) for _ in range(4)]
    assert parts == [[0, 1], [2, 3], [4], []]


def test_a_part_is_of_256_deliveries_where_it_is_not_told() -> None:
    talk, room = joined()
    room.add(print, "tick")
    for _ in range(300):
        talk.serve("room:1", "tick")
    assert [len(room.inbox.take()) for _ in range(3)] == [256, 44, 0]


def test_a_channel_at_work_is_not_runnable_again_until_its_turn_ended() -> None:
    talk, room = joined()
    room.add(print, "tick")
    talk.serve("room:1", "tick")
    assert talk.proto.has_news
    assert talk.proto.runnable() == [room.inbox]
    assert not talk.proto.has_news
    room.inbox.take()
    talk.serve("room:1", "tick")
    assert talk.proto.runnable() == []
    assert len(room.inbox.take()) == 1
    assert room.inbox.take() == []
    talk.serve("room:1", "tick")
    assert talk.proto.runnable() == [room.inbox]


def test_a_handlers_own_queue_is_one_for_each_topic_whatever_comes_between() -> None:
    router = Router()
    own, line = router.add(print, "tick", concurrency=1), router.add(print, "tock")
    talk = Conversation(router=router).connect()
    rooms = [talk.joined(f"room:{number}") for number in (1, 2)]
    came = [(1, "tick"), (2, "tick"), (1, "tick"), (1, "tock"), (2, "tock"), (2, "tick"), (3, "tick"), (1, "tick")]
    talk.receive(*(f'[null,null,"room:{room}","{event}",{{"n":{n}}}]' for n, (room, event) in enumerate(came)))
    got = {queue: queue.take() for queue in talk.proto.runnable()}
    assert {(taken[0][0], *numbers(taken)) for taken in got.values()} == {
        ((own,), 0, 2, 7),
        ((own,), 1, 5),
        ((line,), 3),
        ((line,), 4),
    }
    assert {queue for queue in got if not isinstance(queue, HandlerQueue)} == {room.inbox for room in rooms}
    assert talk.proto.stats.stale == 1  # room:3 is nobody's


def test_channels_become_runnable_in_the_order_of_their_first_messages() -> None:
    router = Router()
    router.add(print, "tick")
    talk = Conversation(router=router).connect()
    rooms = {topic: talk.joined(topic) for topic in ("room:1", "room:2", "room:3")}
    talk.receive(*(f'[null,null,"room:{number}","tick",{{}}]' for number in (3, 1, 3, 2)))
    assert talk.proto.runnable() == [rooms[topic].inbox for topic in ("room:3", "room:1", "room:2")]


# ---- who is to have it ----------------------------------------------------------------------------------------------


def test_handlers_of_the_event_and_of_every_event_get_it_in_the_order_of_registration() -> None:
    router = Router()
    every = router.add(print, "*", topic="room:*")
    tick = router.add(print, "tick")
    elsewhere = router.add(print, "tick", topic="lobby")
    talk, room = joined(router)
    assert consumers(talk, room, "tick") == (every, tick)
    assert consumers(talk, room, "tock") == (every,)
    assert elsewhere not in consumers(talk, room, "tick")


def test_taps_come_last() -> None:
    talk, room = joined()
    first, second = Tap(nobody), Tap(nobody)
    room.attach(first)
    handler = room.add(print, "tick")
    room.attach(second)
    assert consumers(talk, room, "tick") == (handler, first, second)
    assert consumers(talk, room, "tock") == (first, second)


def test_a_tap_may_read_one_event_alone() -> None:
    talk, room = joined()
    handler = room.add(print, "*")
    every, tick, unheard = Tap(nobody), Tap(nobody, "tick"), Tap(nobody, "unheard")
    for tap in (tick, every, unheard):
        room.attach(tap)
    assert consumers(talk, room, "tick") == (handler, tick, every)
    assert consumers(talk, room, "tock") == (handler, every)
    room.detach(every)
    assert consumers(talk, room, "tock") == (handler,)


NO_EVENTS: dict[Any, str] = {
    "": "its event is empty",
    "phx_close": "event 'phx_close' is the protocol's own; joins, replies and closings are events of the client",
    "ti*": "event 'ti*' is no pattern: name one event, or use '*' for all",
    5: "its event is 5, and must be a string",
}


@pytest.mark.parametrize(("event", "problem"), NO_EVENTS.items())
def test_a_tap_of_what_is_no_event_is_refused_and_says_why(event: Any, problem: str) -> None:
    with pytest.raises(InvalidEvent) as caught:
        Tap(nobody, event)
    assert caught.value.problem == problem


def test_handlers_that_come_and_go_while_the_channel_is_joined_are_heeded() -> None:
    router = Router()
    talk, room = joined(router)
    assert consumers(talk, room, "tick") == ()
    handler = router.add(print, "tick")
    assert consumers(talk, room, "tick") == (handler,)
    own = room.add(print, "*")
    assert consumers(talk, room, "tick") == (handler, own)
    router.off(handler)
    assert consumers(talk, room, "tick") == (own,)
    room.off(own)
    assert consumers(talk, room, "tick") == ()


def test_a_message_keeps_the_consumers_that_it_had_when_it_came() -> None:
    talk, room = joined()
    handler = room.add(print, "tick")
    talk.serve("room:1", "tick")
    room.off(handler)
    assert room.inbox.take()[0][0] == (handler,)


@pytest.mark.parametrize("event", ["phx_join", "phx_leave", "phx_reply"])
def test_the_protocols_own_events_are_no_messages(event: str) -> None:
    talk, room = joined()
    room.add(print, "*")
    room.attach(Tap(nobody))
    talk.serve("room:1", event, {"status": "ok", "response": {}})
    assert talk.deliveries() == []


def test_a_message_that_nobody_wants_is_counted_and_never_parsed() -> None:
    talk, _ = joined()
    talk.receive(OVER_RANGE.format("tick"))
    assert talk.events() == []
    assert (talk.proto.stats.unhandled, talk.proto.stats.delivered) == (1, 0)


def test_messages_that_nobody_wants_hide_none_that_come_behind_them_in_one_read() -> None:
    talk, room = joined()
    room.add(print, "tick")
    talk.receive(*['[null,null,"room:1","tock",{}]'] * 2, '[null,null,"room:1","tick",{}]')
    assert (talk.proto.stats.unhandled, len(room.inbox.take())) == (2, 1)


def test_a_message_is_delivered_unparsed() -> None:
    talk, room = joined()
    room.add(print, "tick")
    talk.receive(OVER_RANGE.format("tick"))
    ((_, message, _),) = room.inbox.take()
    with pytest.raises(ValueError, match="out of range"):
        _ = message.payload


# ---- taps -----------------------------------------------------------------------------------------------------------


def test_a_tap_reads_the_lifecycle_among_the_messages() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    room.attach(Tap(nobody))
    talk.join(room)
    talk.reply(room.join_ref)
    talk.serve("room:1", "tick")
    talk.crash_channel("room:1", room.join_ref)
    talk.advance(1.0)
    talk.reply(room.join_ref)
    talk.serve("room:1", "tock")
    talk.close_channel("room:1", room.join_ref)
    items = [item.event if isinstance(item, Message) else type(item) for item in talk.tapped()]
    assert items == [ChannelJoined, "tick", ChannelErrored, ChannelJoined, "tock", ChannelEnded]


def test_a_message_that_a_tap_has_not_read_counts_toward_the_backlog_and_the_lifecycle_does_not() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    room.attach(Tap(nobody))
    talk.join(room)
    talk.reply(room.join_ref)
    talk.serve("room:1", "tick")
    assert talk.proto.stats.backlog == 1
    talk.tapped()
    assert (talk.proto.stats.backlog, talk.proto.stats.handled) == (0, 1)


def test_a_tap_has_a_message_at_once_whatever_the_handlers_do() -> None:
    talk, room = joined()
    room.add(print, "tick")
    room.attach(Tap(nobody))
    for number in range(3):
        talk.serve("room:1", "tick", number)
    assert [item.payload for item in talk.tapped() if isinstance(item, Message)] == [0, 1, 2]
    assert (talk.proto.stats.backlog, talk.proto.stats.handled) == (3, 0)  # for the handler has had none


def test_handlers_do_not_get_the_lifecycle() -> None:
    talk, room = joined()
    room.add(print, "*")
    talk.crash_channel("room:1", room.join_ref)
    assert room.inbox.take() == []


def test_detaching_a_tap_that_is_not_there_does_nothing() -> None:
    talk, room = joined()
    tap = Tap(nobody)
    room.attach(tap)
    room.detach(Tap(nobody))
    assert consumers(talk, room, "tick") == (tap,)


# ---- bounds ---------------------------------------------------------------------------------------------------------


def bounded(limit: int, drop: Drop) -> tuple[Conversation, Channel]:
    router = Router()
    router.add(print, "tick")
    return joined(router, bound=Bound(limit, drop))


def numbers(taken: list[Any]) -> list[int]:
    return [message.payload["n"] for _, message, _ in taken]


@pytest.mark.parametrize(("drop", "kept"), [(Drop.OLDEST, [3, 4, 5]), (Drop.NEWEST, [0, 1, 2])])
def test_a_full_inbox_drops_what_its_bound_says(drop: Drop, kept: list[int]) -> None:
    talk, room = bounded(3, drop)
    for number in range(6):
        talk.serve("room:1", "tick", {"n": number})
    assert talk.proto.stats.backlog == 3
    assert numbers(room.inbox.take()) == kept
    assert talk.proto.stats.dropped == 3


def test_what_a_bound_drops_is_told_once_a_read() -> None:
    talk, _ = bounded(2, Drop.OLDEST)
    talk.receive(*['[null,null,"room:1","tick",{}]'] * 5)
    assert talk.events() == [InboxOverflow("room:1", 3, 2)]
    talk.receive('[null,null,"room:1","tick",{}]')
    assert talk.events() == [InboxOverflow("room:1", 1, 2)]


@pytest.mark.parametrize(("drop", "delivered"), [(Drop.OLDEST, 5), (Drop.NEWEST, 2)])
def test_what_was_delivered_is_what_was_put_into_the_inbox(drop: Drop, delivered: int) -> None:
    talk, room = bounded(2, drop)
    for number in range(5):
        talk.serve("room:1", "tick", {"n": number})
    talk.proto.handled(room.inbox.take(), talk.now)
    stats = talk.proto.stats
    assert (stats.delivered, stats.handled, stats.backlog) == (delivered, 2, 0)


@pytest.mark.parametrize("drop", Drop)
def test_an_inbox_that_was_taken_from_has_room_again(drop: Drop) -> None:
    talk, room = bounded(2, drop)
    for number in range(4):
        talk.serve("room:1", "tick", {"n": number})
        if number == 1:
            assert numbers(room.inbox.take(1)) == [0]
    assert numbers(room.inbox.take()) == ([2, 3] if drop is Drop.OLDEST else [1, 2])


@pytest.mark.parametrize("drop", Drop)
def test_an_inbox_that_was_emptied_after_it_was_full_has_all_its_room(drop: Drop) -> None:
    talk, room = bounded(2, drop)
    for number in range(5):
        talk.serve("room:1", "tick", {"n": number})
    room.inbox.take()
    talk.serve("room:1", "tick", {"n": 5})
    talk.serve("room:1", "tick", {"n": 6})
    assert numbers(room.inbox.take()) == [5, 6]


@pytest.mark.parametrize("drop", Drop)
def test_a_bound_holds_for_each_queue_and_not_for_taps(drop: Drop) -> None:
    talk, room = bounded(1, drop)
    room.attach(Tap(nobody))
    own = room.add(print, "tick", concurrency=1)
    talk.serve("room:1", "tick", {"n": 1})
    line, queue = talk.proto.runnable()
    talk.proto.handled(queue.take(), talk.now)
    talk.serve("room:1", "tick", {"n": 2})
    assert numbers(line.take()) == [2 if drop is Drop.OLDEST else 1]
    ((handlers, message, _),) = queue.take()
    assert (handlers, message.payload) == ((own,), {"n": 2})
    assert [item.payload["n"] for item in talk.tapped() if isinstance(item, Message)] == [1, 2]
    assert talk.proto.stats.dropped == 1


def test_a_bound_drops_no_messages_of_other_topics() -> None:
    talk, _ = bounded(1, Drop.NEWEST)
    talk.joined("room:2")
    talk.receive(*['[null,null,"room:2","tick",{}]'] * 5)
    assert (talk.events(), talk.proto.stats.backlog) == ([], 5)


def test_messages_that_nobody_wants_take_no_room() -> None:
    talk, room = bounded(1, Drop.NEWEST)
    talk.serve("room:1", "tock")
    talk.serve("room:1", "tick", {"n": 1})
    assert numbers(room.inbox.take()) == [1]
    assert talk.proto.stats.unhandled == 1


# ---- presence -------------------------------------------------------------------------------------------------------

ANN = {"ann": {"metas": [{"phx_ref": "a"}]}}


def test_presence_is_tracked_where_it_is_asked_for_and_its_messages_are_delivered_too() -> None:
    talk, room = joined()
    handler = room.add(print, "presence_state")
    presence = room.track_presence()
    talk.serve("room:1", "presence_state", ANN, join_ref=room.join_ref)
    assert talk.events() == [PresenceChanged("room:1", PresenceChange(joins=ANN, leaves={}))]
    assert dict(presence.entries) == ANN
    assert [handlers for handlers, _, _ in room.inbox.take()] == [(handler,)]


def test_presence_without_handlers_is_counted_as_unhandled() -> None:
    talk, room = joined()
    room.track_presence()
    talk.serve("room:1", "presence_state", ANN, join_ref=room.join_ref)
    talk.serve("room:1", "presence_diff", {"joins": {}, "leaves": ANN})
    assert talk.proto.stats.unhandled == 2


def test_presence_of_one_topic_leaves_the_routes_alone_that_others_share() -> None:
    router = Router()
    router.add(print, "tick")
    talk, room = joined(router)
    other = talk.joined("room:2")
    shared = dict(other.inbox.fast_routes)
    room.track_presence()
    assert dict(other.inbox.fast_routes) == shared


def test_asking_for_presence_twice_gives_the_same() -> None:
    _, room = joined()
    assert room.track_presence() is room.track_presence()


def test_a_diff_that_changes_nothing_yet_is_not_told() -> None:
    talk, room = joined()
    room.track_presence()
    talk.serve("room:1", "presence_diff", {"joins": ANN, "leaves": {}})
    assert talk.events() == []


def test_other_events_of_a_topic_with_presence_are_delivered_as_ever() -> None:
    talk, room = joined()
    room.track_presence()
    handler = room.add(print, "tick")
    assert consumers(talk, room, "tick") == (handler,)


def test_presence_messages_of_a_topic_that_does_not_track_it_are_messages_as_any() -> None:
    talk, room = joined(bound=Bound(5, Drop.NEWEST))
    handler = room.add(print, "presence_state")
    assert consumers(talk, room, "presence_state") == (handler,)
    assert talk.events() == []


def test_a_presence_message_that_is_none_is_a_bad_frame_and_reaches_no_handler() -> None:
    talk, room = joined()
    room.track_presence()
    room.add(print, "*")
    talk.serve("room:1", "presence_state", [1, 2], join_ref=room.join_ref)
    talk.receive(OVER_RANGE.format("presence_state"), b"\x02\x06\x0eroom:1presence_state")
    assert [event.problem for event in talk.events() if isinstance(event, BadFrame)] == [
        "presence_state is not an object",
        "the payload of 'presence_state' is not sound (ValidationError)",
        "presence_state is not an object",
    ]
    assert room.inbox.take() == []


def test_presence_is_kept_up_when_handlers_are_too_slow() -> None:
    talk, room = joined(bound=Bound(1, Drop.NEWEST))
    room.add(print, "*")
    presence = room.track_presence()
    talk.serve("room:1", "tick")
    talk.serve("room:1", "presence_state", ANN, join_ref=room.join_ref)
    assert dict(presence.entries) == ANN


BOB = {"bob": {"metas": [{"phx_ref": "b"}]}}
CHANGES = ["presence_join", "presence_leave"]


def told(talk: Conversation) -> list[tuple[str, Any]]:
    """What handlers get: events and payloads, all of the one topic."""
    deliveries = talk.deliveries()
    assert {topic for topic, _, _ in deliveries} <= {"room:1"}
    return [(event, payload) for _, event, payload in deliveries]


def test_who_joins_and_who_leaves_is_told_to_handlers_that_name_these_events() -> None:
    router = Router()
    for event in CHANGES:
        router.add(print, event)
    talk, room = joined(router)
    talk.serve("room:1", "presence_diff", {"joins": BOB, "leaves": {}})  # waits for the state
    talk.serve("room:1", "presence_state", ANN, join_ref=room.join_ref)
    talk.serve("room:1", "presence_diff", {"joins": {}, "leaves": ANN})
    talk.serve("room:1", "presence_diff", {"joins": ANN, "leaves": BOB})
    assert told(talk) == [
        ("presence_join", ANN | BOB),
        ("presence_leave", ANN),
        ("presence_join", ANN),
        ("presence_leave", BOB),
    ]
    assert dict(room.present) == ANN
    stats = talk.proto.stats
    assert (stats.delivered, stats.handled, stats.unhandled, stats.backlog) == (4, 4, 1, 0)  # the diff that waited


def test_who_joins_is_not_told_to_handlers_of_every_event() -> None:
    talk, room = joined()
    room.add(print, "*")
    room.attach(Tap(nobody))
    named = room.add(print, "presence_join")
    talk.serve("room:1", "presence_state", ANN, join_ref=room.join_ref)
    deliveries = room.inbox.take()
    assert [(message.event, message.join_ref, named in handlers) for handlers, message, _ in deliveries] == [
        ("presence_join", room.join_ref, True),
        ("presence_state", room.join_ref, False),
    ]
    assert [len(handlers) for handlers, _, _ in deliveries] == [1, 1]
    talk.proto.handled(deliveries, talk.now)
    assert [item.event for item in talk.tapped() if isinstance(item, Message)] == ["presence_state"]
    assert talk.proto.stats.backlog == 0


def test_a_tap_of_who_leaves_begins_to_track() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1")
    room.attach(Tap(nobody, "presence_leave"))
    talk.join(room)
    talk.reply(room.join_ref)
    talk.serve("room:1", "presence_state", ANN | BOB, join_ref=room.join_ref)
    talk.serve("room:1", "presence_diff", {"joins": {}, "leaves": BOB})
    items = talk.tapped()
    assert [(item.event, item.payload) for item in items if isinstance(item, Message)] == [("presence_leave", BOB)]


def test_nothing_is_tracked_where_nobody_asks() -> None:
    router = Router()
    router.add(print, "presence_join", topic="room:2")
    router.add(print, "*")
    talk, room = joined(router)
    talk.serve("room:1", "presence_state", ANN, join_ref=room.join_ref)
    assert told(talk) == [("presence_state", ANN)]
    assert talk.events() == []
    assert room.inbox.presence is None


@pytest.mark.parametrize("bound", [None, Bound(10, Drop.NEWEST)])
def test_presence_may_have_events_of_other_names(bound: Bound | None) -> None:
    talk, room = joined(bound=bound)
    presence = room.track_presence(state="here")
    assert room.track_presence(diff="moved") is room.track_presence() is presence
    room.add(print, "presence_join")
    talk.serve("room:1", "presence_state", BOB, join_ref=room.join_ref)
    talk.serve("room:1", "here", ANN, join_ref=room.join_ref)
    talk.serve("room:1", "moved", {"joins": BOB, "leaves": {}})
    assert told(talk) == [("presence_join", ANN), ("presence_join", BOB)]
    talk.serve("room:1", "moved", [])
    assert [event.problem for event in talk.events() if isinstance(event, BadFrame)] == ["moved is not an object"]


@pytest.mark.parametrize("name", ["state", "diff"])
@pytest.mark.parametrize(("event", "problem"), NO_EVENTS.items())
def test_presence_of_what_is_no_event_is_refused_and_says_why(name: str, event: Any, problem: str) -> None:
    _, room = joined()
    with pytest.raises(InvalidEvent) as caught:
        room.track_presence(**{name: event})
    assert caught.value.problem == problem
    assert room.inbox.presence is None


def test_who_joins_is_dropped_where_there_is_no_room() -> None:
    options = ClientOptions(flow=FlowLimits(high=1, low=0, hard=1))
    talk = Conversation(options=options).connect()
    room = talk.joined("room:1")
    room.add(print, "presence_join")
    for entries in (ANN, {}, BOB):
        talk.serve("room:1", "presence_state", entries, join_ref=room.join_ref)
    assert (talk.proto.stats.dropped, told(talk)) == (1, [("presence_join", ANN)])


@pytest.mark.parametrize("bound", [None, Bound(10, Drop.NEWEST)])
def test_what_a_worker_puts_back_comes_first_again(bound: Bound | None) -> None:
    talk, room = joined(bound=bound)
    room.add(print, "tick")
    for number in range(3):
        talk.serve("room:1", "tick", number)
    first, *rest = room.inbox.take()
    talk.serve("room:1", "tick", 3)
    room.inbox.put_back(rest)
    assert [message.payload for _, message, _ in [first, *room.inbox.take()]] == [0, 1, 2, 3]


# ---- queues of a handler's own ---------------------------------------------------------------------------------------


def test_a_handler_with_a_queue_of_its_own_waits_for_no_other_and_no_other_for_it() -> None:
    talk, room = joined()
    line, own = room.add(print, "tick"), room.add(print, "*", concurrency=1)
    talk.serve("room:1", "tick", 1)
    talk.serve("room:1", "tock", 2)
    first, second = talk.proto.runnable()
    assert [(handlers, message.payload) for handlers, message, _ in first.take()] == [((line,), 1)]
    assert [(handlers, message.payload) for handlers, message, _ in second.take()] == [((own,), 1), ((own,), 2)]


def test_the_queue_of_a_handler_that_went_is_forgotten_and_what_it_holds_is_not() -> None:
    talk, room = joined()
    for _ in range(3):
        own = room.add(print, "tick", concurrency=1)
        talk.serve("room:1", "tick")
        room.off(own)
        talk.serve("room:1", "tick")
        (queue,) = talk.proto.runnable()
        assert [handlers for handlers, _, _ in queue.take()] == [(own,)]
    assert not room.inbox._queues


@pytest.mark.parametrize("concurrency", [1, 2])
def test_a_handler_keeps_its_queue_when_others_come_and_go(concurrency: int) -> None:
    router = Router()
    talk, room = joined(router)
    room.add(print, "tick", concurrency=concurrency)
    queues = []
    for number in range(2 * concurrency):
        other = (router if number % 2 else room).add(print, "tock", concurrency=1)
        talk.serve("room:1", "tick", {"n": number})
        queues += talk.proto.runnable()
        (router if number % 2 else room).off(other)
    assert len(queues) == concurrency, "as many workers as it may have, and no more"
    assert [numbers(queues[-1].take()) for _ in range(2)] == ([[0, 1], []] if concurrency == 1 else [[0], [1]])


def test_a_message_counts_once_however_many_are_to_have_it() -> None:
    talk, room = joined()
    room.add(print, "tick")
    room.add(print, "tick", concurrency=1)
    talk.serve("room:1", "tick")
    queues = talk.proto.runnable()
    for number in range(2):
        for queue in queues:
            assert (talk.proto.stats.backlog, talk.proto.stats.handled) == (1, number)
            talk.proto.handled(queue.take(), talk.now)
        stats = talk.proto.stats
        assert (stats.backlog, stats.backlog_bytes, stats.handled) == (0, 0, number + 1)
        talk.serve("room:1", "tick")


def test_a_turn_that_is_ended_without_taking_again_is_begun_anew_by_the_next_message() -> None:
    talk, room = joined()
    room.add(print, "tick", concurrency=1)
    talk.serve("room:1", "tick", {"n": 0})
    (queue,) = talk.proto.runnable()
    assert numbers(queue.take()) == [0]
    queue.end_turn()
    assert not queue.busy
    talk.serve("room:1", "tick", {"n": 1})
    assert talk.proto.runnable() == [queue]


def test_a_worker_that_ends_its_turn_makes_room_for_one_other_worker() -> None:
    talk, room = joined()
    room.add(print, "tick", concurrency=2)
    for number in range(2):
        talk.serve("room:1", "tick", {"n": number})
    queue, _ = talk.proto.runnable()
    assert [numbers(queue.take()) for _ in range(3)] == [[0], [1], []]  # one of both turns ends
    for number in range(2, 5):
        talk.serve("room:1", "tick", {"n": number})
    assert talk.proto.runnable() == [queue]


def test_a_queue_for_several_at_once_is_given_to_so_many_workers() -> None:
    talk, room = joined()
    room.add(print, "tick", concurrency=2)
    for number in range(4):
        talk.serve("room:1", "tick", {"n": number})
    queue, same = talk.proto.runnable()
    assert queue is same
    assert [numbers(queue.take()) for _ in range(4)] == [[0], [1], [2], [3]]
    assert (queue.take(), queue.busy) == ([], True)
    assert (queue.take(), queue.busy) == ([], False)  # and so both turns have ended
    talk.serve("room:1", "tick", {"n": 4})
    assert talk.proto.runnable() == [queue]


def test_what_an_executor_runs_is_told_apart_and_shared_out_among_its_batches() -> None:
    router = Router()
    plain, several = router.add(print, "tick"), router.add(print, "tick", concurrency=4)
    talk = Conversation(router=router, placement=lambda handler: Place.EXECUTOR).connect()
    talk.joined("room:1")
    talk.receive(*(f'[null,null,"room:1","tick",{{"n":{number}}}]' for number in range(8)))
    assert talk.proto.runnable() == []
    queues = talk.proto.executable()
    assert [(queue.handler, queue.place) for queue in queues] == [(plain, Place.EXECUTOR)] + [
        (several, Place.EXECUTOR)
    ] * 4
    assert repr(queues[0]) == "HandlerQueue('room:1', builtins.print)"
    assert [len(queue.take()) for queue in queues] == [8, 2, 2, 1, 1]
    assert [len(queue.take()) for queue in queues] == [0, 1, 1, 0, 0]
    talk.serve("room:1", "tick")
    assert [queue.handler for queue in talk.proto.executable()] == [plain, several]


@pytest.mark.parametrize(
    ("size", "count", "turns"),
    [(10, 600, [[256, 256, 88], [256, 172, 86, 43]]), (LARGEST_TURN // 2, 6, [[2, 2, 2], [2, 2, 1, 1]])],
)
def test_a_batch_of_an_executor_is_bounded_too(size: int, count: int, turns: list[list[int]]) -> None:
    router = Router()
    router.add(print, "tick", concurrency=1)
    router.add(print, "tick", concurrency=2)
    talk = Conversation(router=router, placement=lambda handler: Place.EXECUTOR).connect()
    talk.joined("room:1")
    talk.receive(*['[null,null,"room:1","tick",{}]'.ljust(size)] * count)
    one, several, _ = talk.proto.executable()
    assert [
        [len(queue.take()) for _ in expected] for queue, expected in zip((one, several), turns, strict=True)
    ] == turns


@pytest.mark.parametrize("drop", Drop)
def test_a_bound_holds_for_a_queue_that_is_alone(drop: Drop) -> None:
    talk, room = joined(bound=Bound(2, drop))
    room.add(print, "tick", concurrency=1)
    for number in range(5):
        talk.serve("room:1", "tick", {"n": number})
    (queue,) = talk.proto.runnable()
    assert numbers(queue.take()) == ([3, 4] if drop is Drop.OLDEST else [0, 1])
    assert talk.proto.stats.dropped == 3


def test_what_a_client_holds_may_be_so_much_that_turns_are_bounded_in_bytes() -> None:
    talk, room = joined()
    own = room.add(print, "tick", concurrency=1)
    talk.serve("room:1", "tick", {"n": "x" * LARGEST_TURN})
    (queue,) = talk.proto.runnable()
    assert isinstance(queue, HandlerQueue)
    assert (queue.handler, queue.heavy) == (own, True)
    talk.proto.handled(queue.take(), talk.now)
    assert not queue.heavy


def test_a_drain_that_is_over_its_time_tells_whose_messages_were_not_handled() -> None:
    talk, room = joined()
    line, own, several = (room.add(print, "tick", concurrency=number) for number in (None, 1, 2))
    idle = room.add(print, "tock", concurrency=1)
    talk.serve("room:1", "tock")
    talk.serve("room:1", "tick")
    for queue in talk.proto.runnable():
        if isinstance(queue, HandlerQueue) and queue.handler is idle:
            talk.proto.handled(queue.take(), talk.now)
            assert queue.take() == []
    talk.proto.close(talk.now, timeout=1.0)
    talk.advance(1.0)
    assert talk.proto.unfinished == frozenset({line, own, several})


def test_what_a_worker_has_in_hand_is_not_handled_either() -> None:
    talk, room = joined()
    line = room.add(print, "tick")
    talk.serve("room:1", "tick")
    room.inbox.take()
    talk.proto.close(talk.now, timeout=1.0)
    talk.advance(1.0)
    assert talk.proto.unfinished == frozenset({line})


@pytest.mark.parametrize("handled", [False, True])
def test_a_client_that_is_aborted_or_has_handled_all_has_left_nothing(handled: bool) -> None:
    talk, room = joined()
    room.add(print, "tick")
    talk.serve("room:1", "tick")
    if handled:
        talk.deliveries()
        talk.proto.close(talk.now, timeout=1.0)
        talk.advance(1.0)  # nobody answers the leave
    else:
        talk.proto.abort(talk.now)
    assert (talk.proto.state.value, talk.proto.unfinished) == ("closed", None)


def test_an_inbox_is_shown_by_its_topic() -> None:
    _, room = joined()
    assert repr(room.inbox) == "Inbox('room:1')"


def test_a_channel_knows_the_link_that_it_sends_on() -> None:
    talk, room = joined()
    assert room.link is talk.link
    talk.link.closed(1006, "cut", talk.now)
    assert room.link is None
