"""Received frames: every kind in every state of a channel, and any other input of a peer."""

import json
from typing import Any

import pytest
from conversation import Conversation
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto.channel import Channel
from phx_proto.errors import ChannelCrashed, InvalidReply, JoinRefused
from phx_proto.events import (
    BadFrame,
    ChannelErrored,
    ChannelJoined,
    JoinFailed,
    LeaveEnd,
    LeaveEnded,
    PingAnswered,
    PushFailed,
    ReplyReceived,
)
from phx_proto.flow import FlowLimits
from phx_proto.formats import V2
from phx_proto.handlers.router import Router
from phx_proto.message import Message, Reply
from phx_proto.options import ClientOptions
from phx_proto.queues import Bound, Drop
from phx_proto.states import ChannelState, SocketState

GOOD = '[null,null,"room:1","tick",{"n":1}]'


def listening(vsn: int = 2, **settings: Any) -> tuple[Conversation, Channel]:
    """Joined to room:1, with a handler for every event."""
    router = Router()
    router.add(lambda message: None, "*")
    talk = Conversation(vsn=vsn, router=router, **settings).connect()
    return talk, talk.joined("room:1")


def test_a_serializer_that_extends_v2_decodes_every_frame_with_its_own_decode() -> None:
    class Renaming(V2):
        def decode(self, frame: str | bytes, /) -> Message[Any]:
            return super().decode(str(frame).replace('"tick"', '"tock"'))

    talk, _ = listening(serializer=Renaming())
    talk.receive(GOOD)
    assert talk.deliveries() == [("room:1", "tock", {"n": 1})]


# ---- many in one read: the route of the message before is kept -------------------------------------------------------


def test_messages_of_one_read_are_routed_each_by_its_topic_event_and_join_ref() -> None:
    router = Router()
    router.add(lambda message: None, "tick", topic="room:1")
    router.add(lambda message: None, "tock", topic="room:2")
    talk = Conversation(router=router).connect()
    first, second = talk.joined("room:1"), talk.joined("room:2")
    frames = [
        (None, "room:1", "tick", 1),
        (None, "room:2", "tick", 2),  # unhandled
        (None, "room:2", "tock", 3),
        (None, "room:1", "tock", 4),  # unhandled
        (first.join_ref, "room:1", "tick", 5),
        (second.join_ref, "room:1", "tick", 6),  # stale
        (None, "room:3", "tick", 7),  # stale
        (None, "room:1", "tick", 8),
    ]
    talk.receive(*(json.dumps([join_ref, None, *rest]) for join_ref, *rest in frames))
    assert sorted(talk.deliveries()) == [("room:1", "tick", n) for n in (1, 5, 8)] + [("room:2", "tock", 3)]
    assert (talk.proto.stats.unhandled, talk.proto.stats.stale) == (2, 2)


def test_a_message_behind_the_close_of_its_topic_in_the_same_read_is_stale() -> None:
    talk, room = listening()
    talk.receive(GOOD, json.dumps([room.join_ref, room.join_ref, "room:1", "phx_close", {}]), GOOD)
    assert talk.deliveries() == [("room:1", "tick", {"n": 1})]
    assert talk.proto.stats.stale == 1


@pytest.mark.parametrize("event", ["phx_close", "phx_error"])
def test_a_message_behind_an_end_of_its_topic_that_cannot_be_read_is_stale(event: str) -> None:
    talk, room = listening()
    talk.receive(GOOD, f'["{room.join_ref}","{room.join_ref}","room:1","{event}",{DEEP}]', GOOD)
    assert talk.deliveries() == [("room:1", "tick", {"n": 1})]
    assert (talk.proto.stats.bad_frames, talk.proto.stats.stale) == (1, 1)


# ---- garbage --------------------------------------------------------------------------------------------------------

GARBAGE: dict[str, str | bytes] = {
    "no JSON": "{not json",
    "too short": "[1,2]",
    "null": "null",
    "empty text": "",
    "white space": "  \n",
    "a number": "17",
    "an object": '{"topic":"room:1","event":"tick","payload":{},"ref":null}',
    "an empty array": "[]",
    "a topic that is a number": '[null,null,1,"tick",{}]',
    "an event that is null": '[null,null,"room:1",null,{}]',
    "cut short": GOOD[:-4],
    "two at once": GOOD + GOOD,
    "a lone surrogate": '[null,null,"\ud800","tick",{}]',
    "nested too deeply": "[null,null,null,null," + "[" * 100_000,
    "no bytes": b"",
    "an unknown kind": b"\x07\x00\x00\x00\x00",
    "a client's kind of frame": b"\x03",
    "a header alone": b"\x00",
    "less than its header says": b"\x02\xff\xff12345",
    "a topic that is not UTF-8": b"\x02\x02\x04\xff\xfetick{}",
    "random": bytes(range(255, 200, -1)),
    "JSON in a binary frame": GOOD.encode(),
}


@pytest.mark.parametrize("frame", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_told_once_and_harms_nobody(frame: str | bytes) -> None:
    talk, room = listening()
    talk.receive(GOOD, frame, GOOD)
    (bad,) = talk.events()
    assert isinstance(bad, BadFrame)
    assert bad.size == len(frame)
    assert bad.problem
    assert talk.deliveries() == [("room:1", "tick", {"n": 1})] * 2
    assert (room.state, talk.proto.state) == (ChannelState.JOINED, SocketState.OPEN)
    assert talk.proto.stats.bad_frames == 1


@pytest.mark.parametrize(("more", "told"), [(0, [1] * 100), (1, [1] * 101), (900, [1] * 100 + [900])])
def test_of_a_flood_of_garbage_the_rest_is_told_at_once(more: int, told: list[int]) -> None:
    talk = Conversation().connect()
    for _ in range(2):  # each read anew
        talk.receive(GOOD, *(["?"] * 99), *(["!?"] * (more + 1)), GOOD)
        events = [event for event in talk.events() if isinstance(event, BadFrame)]
        assert [event.count for event in events] == told
        assert (events[0].size, events[-1].size) == (1, 2)
    assert (talk.proto.stats.received, talk.proto.stats.bad_frames) == (4, 2 * (100 + more))
    talk.receive("?")
    assert talk.event(BadFrame).count == 1


@pytest.mark.parametrize("frame", [*GARBAGE.values(), GOOD, GOOD.encode()])
def test_garbage_is_told_once_in_version_one_too(frame: str | bytes) -> None:
    talk, room = listening(vsn=1)
    if frame == GARBAGE["an object"]:
        frame = '{"topic":"room:1"}'
    talk.receive(frame)
    (bad,) = talk.events()
    assert isinstance(bad, BadFrame)
    assert room.state is ChannelState.JOINED


@pytest.mark.parametrize(
    ("frame", "excerpt"),
    [
        ('{"token":"s3cret",', '{"…":"…",'),
        ('["s3\\"cret', '["…"'),
        ('["s3\\\ncret"', '["…"'),
        ('{"a":"' + "s3cret" * 100 + '"', '{"…":"…"'),
        ('"' + "s3cret" * 33 + '"s', '"…"'),
        ("{not json", "{not json"),
        ("x" * 300, f"{'x' * 59}…"),
        ("x" * 60, "x" * 60),
        ("\0" * 20, ("\\x00" * 20)[:59] + "…"),
        ("", ""),
        (b"\x07s3cret", "07 73 33 63 72"),
        (b"", ""),
    ],
)
def test_the_excerpt_of_a_bad_frame_shows_how_it_begins_and_nothing_in_quotes(frame: str | bytes, excerpt: str) -> None:
    talk, _ = listening()
    talk.receive(frame)
    bad = talk.event(BadFrame)
    assert bad.excerpt == excerpt


@given(st.text(), st.text(alphabet='"\\ab\n{}:,', max_size=40))
def test_no_string_of_a_bad_frame_is_shown_whatever_it_holds(secret: str, tail: str) -> None:
    talk, _ = listening()
    talk.receive("{" + json.dumps(f"s3cret{secret}s3cret") + tail)
    (bad,) = talk.events()
    assert isinstance(bad, BadFrame)
    assert "s3cret" not in bad.excerpt
    Conversation.check_all()


# ---- replies --------------------------------------------------------------------------------------------------------

MALFORMED_REPLIES: dict[str, Any] = {
    "a list": [],
    "null": None,
    "no status": {"response": {}},
    "a status that is a number": {"status": 1, "response": {}},
    "a string": "ok",
}


@pytest.mark.parametrize("payload", MALFORMED_REPLIES.values(), ids=MALFORMED_REPLIES)
def test_a_malformed_reply_is_a_bad_frame_and_ends_its_push(payload: Any) -> None:
    talk, room = listening()
    ref = talk.push(room)
    talk.serve("room:1", "phx_reply", payload, ref=ref)
    bad, failed = talk.events()
    assert isinstance(bad, BadFrame)
    assert isinstance(failed, PushFailed)
    assert isinstance(failed.error, InvalidReply)
    assert failed.error.problem == bad.problem
    talk.reply(ref, "ok", 7)
    assert (talk.events(), talk.proto.stats.stale) == ([], 1)


DEEP = "[" * 1000 + "]" * 1000

ILLEGIBLE: dict[str, tuple[str, str]] = {
    "a number out of range": ('{"status":"ok","response":{"n":1e400}}', "Number out of range - at"),
    "no JSON": ('{"status":"ok","response":NaN}', "JSON is malformed"),
    "nested too deeply": (f'{{"response":{DEEP},"status":"ok"}}', "nested too deeply"),
    "no text": ('{"status":"ok","response":"\\x"}', "JSON is malformed"),
}

each_illegible = pytest.mark.parametrize(("payload", "problem"), ILLEGIBLE.values(), ids=ILLEGIBLE)
each_form = pytest.mark.parametrize(
    ("vsn", "form"),
    [
        (2, '[null,"{ref}","[room]:1","{event}",{payload}]'),
        (1, '{{"event":"{event}","payload":{payload},"ref":"{ref}","topic":"room:1"}}'),
        (1, '{{"ref":"{ref}","topic":"[room]:1","event":"{event}","payload":{payload}}} '),
    ],
    ids=["v2", "v1", "v1, the payload last"],
)


@each_form
@each_illegible
def test_a_reply_that_cannot_be_read_ends_its_push_and_says_why(
    vsn: int, form: str, payload: str, problem: str
) -> None:
    talk, room = listening(vsn)
    ref = talk.push(room)
    talk.receive(form.format(ref=ref, event="phx_reply", payload=payload))
    failed = talk.event(PushFailed)
    assert (failed.topic, failed.event, failed.ref) == ("room:1", "shout", ref)
    assert isinstance(failed.error, InvalidReply)
    assert failed.error.problem.startswith(problem)


@each_form
@each_illegible
def test_a_join_whose_answer_cannot_be_read_ends_and_the_topic_is_left(
    vsn: int, form: str, payload: str, problem: str
) -> None:
    talk = Conversation(vsn=vsn).connect()
    room = talk.joining()
    ref = room.join_ref
    talk.sent()
    talk.receive(form.format(ref=ref, event="phx_reply", payload=payload))
    failed = talk.event(JoinFailed)
    assert isinstance(failed.error, InvalidReply)
    assert failed.error.problem.startswith(problem)
    assert room.state is ChannelState.CLOSED
    assert [(frame.topic, frame.event, frame.join_ref) for frame in talk.sent()] == [("room:1", "phx_leave", ref)]


def test_a_reply_to_nobody_that_cannot_be_read_is_a_bad_frame_and_no_more() -> None:
    talk, _ = listening()
    talk.receive('[null,"999","room:1","phx_reply",{"status":NaN}]')
    (bad,) = talk.events()
    assert isinstance(bad, BadFrame)


def test_a_rejoin_whose_answer_cannot_be_read_is_tried_again() -> None:
    talk, room = listening()
    talk.crash_channel("room:1", room.join_ref)
    talk.advance(1.0)
    talk.events()
    talk.serve("room:1", "phx_reply", [], ref=room.join_ref)
    assert isinstance(talk.event(ChannelErrored).error, InvalidReply)
    talk.advance(2.0)
    talk.reply(room.join_ref)
    assert room.state is ChannelState.JOINED


@each_form
def test_a_leave_and_a_ping_are_answered_whatever_the_reply_holds(vsn: int, form: str) -> None:
    talk, room = listening(vsn)
    talk.answers_heartbeats = False
    left, ping = talk.leave(room), talk.ping()
    for ref in (left, ping):
        talk.receive(form.format(ref=ref, event="phx_reply", payload='{"status":"ok","response":1e400}'))
    ended = [event for event in talk.events() if not isinstance(event, BadFrame)]
    assert LeaveEnded("room:1", left, LeaveEnd.REPLY) in ended
    assert PingAnswered(ping, 0.0) in ended


@each_form
@pytest.mark.parametrize("payload", ["1e400", DEEP, '{"reason":NaN}'])
def test_a_crash_whose_payload_cannot_be_read_is_a_crash(vsn: int, form: str, payload: str) -> None:
    talk, room = listening(vsn)
    pushed = talk.push(room)
    topic_form = form.replace("[room]:1", "room:1")
    talk.receive(topic_form.format(ref=room.join_ref, event="phx_error", payload=payload))
    bad, lost, errored = talk.events()
    assert isinstance(bad, BadFrame)
    assert isinstance(lost, PushFailed)
    assert lost.ref == pushed
    assert isinstance(errored, ChannelErrored)
    assert isinstance(errored.error, ChannelCrashed)
    assert errored.error.payload is None


def test_a_close_whose_payload_cannot_be_read_is_a_close() -> None:
    talk, room = listening()
    talk.receive(f'["{room.join_ref}","{room.join_ref}","room:1","phx_close",{DEEP}]')
    assert room.state is ChannelState.CLOSED


def test_half_a_character_in_a_payload_does_not_cost_the_message() -> None:
    talk, room = listening()
    ref = talk.push(room)
    talk.receive(
        '[null,null,"room:1","tick",{"text":"a\\ud83d","n":1}]',
        f'[null,"{ref}","room:1","phx_reply",{{"status":"ok","response":"\\udc00"}}]',
        f'["{room.join_ref}",null,"room:1","phx_error",{{"reason":"\\ud83d"}}]',
    )
    assert talk.deliveries() == [("room:1", "tick", {"text": "a\ufffd", "n": 1})]
    replied, errored = talk.events()
    assert replied == ReplyReceived("room:1", "shout", ref, Reply("ok", "\ufffd"))
    assert isinstance(errored, ChannelErrored)
    assert isinstance(errored.error, ChannelCrashed)
    assert errored.error.payload == {"reason": "\ufffd"}


@pytest.mark.parametrize("kind", [0, 2])
def test_bytes_that_call_themselves_a_reply_answer_nobody(kind: int) -> None:
    talk, room = listening()
    ref = talk.push(room)
    fields = [b"", b"room:1", b"phx_reply"][kind // 2 :]
    talk.receive(bytes([kind, *map(len, fields)]) + b"".join(fields) + b"ok")
    assert (talk.events(), talk.proto.stats.stale) == ([], 1)
    talk.reply(ref)


def test_a_malformed_answer_to_a_join_that_was_given_up_may_be_an_ok_so_the_topic_is_left() -> None:
    talk = Conversation().connect()
    room = talk.joining(timeout=2.0)
    ref = room.join_ref
    talk.advance(2.0)
    talk.events()
    talk.sent()
    talk.serve("room:1", "phx_reply", [], ref=ref)
    assert isinstance(talk.events()[0], BadFrame)
    assert [(frame.event, frame.join_ref) for frame in talk.sent()] == [("phx_leave", ref)]


@pytest.mark.parametrize(("status", "answered_with"), [("ok", ["phx_leave"]), ("error", [])])
def test_a_late_answer_to_a_join_that_was_given_up(status: str, answered_with: list[str]) -> None:
    talk = Conversation().connect()
    room = talk.joining(timeout=2.0)
    ref = room.join_ref
    talk.advance(2.0)
    talk.sent()
    talk.reply(ref, status)
    assert [frame.event for frame in talk.sent()] == answered_with


def test_a_join_of_a_topic_that_the_server_does_not_know_is_refused() -> None:
    talk = Conversation().connect()
    room = talk.joining("nobody:1")
    reply = {"status": "error", "response": {"reason": "unmatched topic"}}
    talk.serve("nobody:1", "phx_reply", reply, ref=room.join_ref)
    failed = talk.event(JoinFailed)
    assert isinstance(failed.error, JoinRefused)
    assert failed.error.response == {"reason": "unmatched topic"}


def test_replies_are_matched_by_their_ref_alone() -> None:
    talk, room = listening()
    ref = talk.push(room)
    talk.serve("elsewhere", "phx_reply", {"status": "ok", "response": 1}, ref=ref)
    assert talk.events() == [ReplyReceived("room:1", "shout", ref, Reply("ok", 1))]


def test_the_first_reply_counts() -> None:
    talk, room = listening()
    ref = talk.push(room)
    talk.reply(ref, "ok", 1)
    talk.reply(ref, "error", 2)
    assert talk.events() == [ReplyReceived("room:1", "shout", ref, Reply("ok", 1))]
    assert talk.proto.stats.stale == 1


@pytest.mark.parametrize("ref", [None, "", "999"])
def test_a_reply_to_nobody_is_stale(ref: str | None) -> None:
    talk, _ = listening()
    talk.serve("room:1", "phx_reply", {"status": "ok", "response": {}}, ref=ref)
    assert (talk.events(), talk.proto.stats.stale) == ([], 1)


def test_a_reply_to_nobody_is_not_even_parsed() -> None:
    talk, _ = listening()
    talk.receive('[null,"999","room:1","phx_reply",1e999]')
    assert (talk.events(), talk.proto.stats.stale) == ([], 1)


def test_a_binary_reply_answers_a_push() -> None:
    talk, room = listening()
    ref = talk.push(room, payload=b"ping")
    talk.reply(ref, "ok", b"pong")
    assert talk.events() == [ReplyReceived("room:1", "shout", ref, Reply("ok", b"pong"))]


# ---- one read -------------------------------------------------------------------------------------------------------


def test_what_one_read_brings_is_taken_in_its_order() -> None:
    talk, room = listening()
    ref = talk.push(room)
    join_ref = room.join_ref
    talk.receive(
        '[null,null,"room:1","tick",1]',
        "garbage",
        f'[null,"{ref}","room:1","phx_reply",{{"status":"ok","response":7}}]',
        f'["{join_ref}",null,"room:1","tock",2]',
        b"\x02\x06\x03room:1bin\xff",
        f'["{join_ref}","{join_ref}","room:1","phx_close",{{}}]',
        '[null,null,"room:1","tick",3]',
    )
    bad, reply, ended = talk.events()
    assert isinstance(bad, BadFrame)
    assert isinstance(reply, ReplyReceived)
    assert type(ended).__name__ == "ChannelEnded"
    assert talk.deliveries() == [("room:1", "tick", 1), ("room:1", "tock", 2), ("room:1", "bin", b"\xff")]
    assert talk.proto.stats.stale == 1


def test_messages_behind_a_joins_reply_in_the_same_read_are_delivered() -> None:
    router = Router()
    router.add(lambda message: None, "tick")
    talk = Conversation(router=router).connect()
    room = talk.joining()
    ref = room.join_ref
    talk.receive(
        f'["{ref}","{ref}","room:1","phx_reply",{{"status":"ok","response":{{}}}}]',
        f'["{ref}",null,"room:1","tick",1]',
        '[null,null,"room:1","tick",2]',
    )
    assert talk.event(ChannelJoined).join_ref == ref
    assert [payload for _, _, payload in talk.deliveries()] == [1, 2]


def test_one_frame_at_a_time_is_the_same_as_many_in_one_read() -> None:
    frames = [f'[null,null,"room:1","tick",{number}]' for number in range(10)]
    one, _ = listening()
    for frame in frames:
        one.link.receive(frame, one.now)
    many, _ = listening()
    many.receive(*frames)
    assert one.deliveries() == many.deliveries()
    assert one.proto.stats == many.proto.stats


def test_an_empty_read_is_nothing() -> None:
    talk, _ = listening()
    before = talk.proto.stats
    talk.receive()
    assert (talk.proto.stats, talk.events()) == (before, [])


# ---- every kind of frame at every state of a channel ----------------------------------------------------------------


def at(state: str, vsn: int = 2, bound: Bound | None = None) -> tuple[Conversation, Channel]:
    """A client with room:1 in that state, and everything that a message can meet."""
    router = Router()
    router.add(lambda message: None, "tick")
    talk = Conversation(vsn=vsn, router=router)
    room = talk.channel("room:1", bound=bound)
    room.track_presence()
    if state not in ("idle", "pending"):
        talk.connect()
    if state != "idle":
        talk.join(room)
    if state == "pending":
        talk.connect()
        talk.drop()
        talk.advance(0.01)
        talk.link.opened(None, talk.now)
    if state in ("joined", "leaving", "closed", "errored"):
        talk.reply(room.join_ref)
    if state == "errored":
        talk.crash_channel("room:1", room.join_ref)
    if state in ("leaving", "closed"):
        ref = talk.leave(room)
        if state == "closed":
            talk.reply(ref)
    if state == "idle":
        talk.connect()
    talk.events()
    return talk, room


@pytest.mark.parametrize("event", ["tick", "presence_state"])
def test_a_message_of_an_older_join_is_stale(event: str) -> None:
    talk, room = at("joined")
    talk.serve("room:1", event, join_ref=f"{room.join_ref}0")
    assert (talk.deliveries(), talk.events(), talk.proto.stats.stale) == ([], [], 1)


@pytest.mark.parametrize("event", ["tick", "phx_close", "phx_error"])
@pytest.mark.parametrize("ref", ["1", "[]", "true"])
def test_a_message_of_a_join_whose_ref_is_no_text_is_stale(event: str, ref: str) -> None:
    """A server echoes whatever it got for a ref; ours are text."""
    talk, room = at("joined")
    talk.receive(f'[{ref},{ref},"room:1","{event}",{{}}]')
    assert (talk.deliveries(), talk.events(), talk.proto.stats.stale) == ([], [], 1)
    assert room.state is ChannelState.JOINED


STATES = ["idle", "pending", "joining", "joined", "errored", "leaving", "closed"]
JOIN_REFS = ["current", "older", "null"]
EVENTS = ["tick", "tock", "phx_reply", "phx_close", "phx_error", "phx_join", "phx_leave", "presence_state", "heartbeat"]
PAYLOADS: list[Any] = [{}, [], "x", None, {"status": "ok", "response": {}}, b"\x00"]


@pytest.mark.parametrize("join_ref", JOIN_REFS)
@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", STATES)
def test_every_message_at_every_state_leaves_the_client_sound(state: str, event: str, join_ref: str) -> None:
    for payload in PAYLOADS:
        talk, room = at(state)
        ref = {"current": room.join_ref, "older": "0", "null": None}[join_ref]
        before = talk.proto.stats.received + talk.proto.stats.bad_frames
        talk.serve("room:1", event, payload, join_ref=ref, ref=ref)
        talk.serve("room:1", event, payload, join_ref=ref)
        assert talk.proto.state is SocketState.OPEN
        assert talk.proto.stats.received + talk.proto.stats.bad_frames == before + 2
        assert talk.proto.stats.backlog == len(talk.deliveries()) <= (2 if state == "joined" else 0)
        Conversation.check_all()


def test_what_the_server_says_to_unknown_topics_is_dropped_quietly() -> None:
    talk, _ = listening()
    for event in EVENTS:
        talk.serve("nobody:1", event, {"status": "ok", "response": {}}, join_ref="1")
    assert (talk.events(), talk.deliveries(), talk.proto.stats.stale) == ([], [], len(EVENTS))


def test_a_message_of_the_heartbeats_topic_reaches_nobody() -> None:
    talk, _ = listening()
    talk.serve("phoenix", "heartbeat")
    talk.serve("phoenix", "phx_error")
    assert (talk.events(), talk.deliveries()) == ([], [])


# ---- whatever a peer may send ---------------------------------------------------------------------------------------

fields = st.one_of(st.none(), st.sampled_from(["1", "2", "3", "room:1", "phoenix", *EVENTS]), st.text(max_size=5))
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
presences = st.fixed_dictionaries(
    {name: st.dictionaries(st.text(max_size=2), json_values) for name in ("joins", "leaves")}
)
payloads = st.one_of(json_values, presences, st.fixed_dictionaries({"status": fields, "response": json_values}))
v2_texts = st.tuples(fields, fields, fields, fields, payloads).map(json.dumps)
v1_texts = st.fixed_dictionaries(
    {"topic": fields, "event": fields, "ref": fields, "payload": payloads}, optional={"join_ref": fields}
).map(json.dumps)
binaries = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda kind, parts, data: bytes([kind, *map(len, parts)]) + b"".join(parts) + data,
        st.integers(0, 3),
        st.lists(fields.map(lambda field: (field or "").encode()), min_size=2, max_size=4),
        st.binary(max_size=10),
    ),
)
texts = st.one_of(
    st.text(st.characters()),
    st.text('[]{}",:\\u0123eE+-.ntfalsr ', max_size=60),
    json_values.map(json.dumps),
    v1_texts,
    v2_texts,
)


@given(
    st.lists(st.one_of(texts, binaries), max_size=12),
    st.sampled_from(STATES),
    st.sampled_from([1, 2]),
    st.sampled_from([None, Bound(1, Drop.OLDEST), Bound(1, Drop.NEWEST)]),
)
@settings(max_examples=2 * settings().max_examples)
def test_nothing_that_a_peer_sends_raises(frames: list[str | bytes], state: str, vsn: int, bound: Bound | None) -> None:
    talk, room = at(state, vsn, bound)
    before = talk.proto.stats
    talk.receive(*frames)
    after = talk.proto.stats
    assert (after.received - before.received) + (after.bad_frames - before.bad_frames) == len(frames)
    assert talk.proto.state is SocketState.OPEN
    taken = room.inbox.take(1000)
    assert after.backlog == len(taken)
    talk.proto.handled(taken, talk.now)
    assert talk.proto.stats.backlog_bytes == 0
    Conversation.check_all()


@pytest.mark.parametrize("depth", [10, 100, *range(900, 1000, 2)])
def test_presence_that_is_nested_deeply_never_raises(depth: int) -> None:
    talk, room = at("joined")
    deep = "[" * depth + "]" * depth
    state = f'["{room.join_ref}",null,"room:1","presence_state",{{"a":{{"metas":[{{"phx_ref":"1","deep":{deep}}}]}}}}]'
    talk.receive(state)
    talk.receive(state)
    assert talk.proto.state is SocketState.OPEN
    Conversation.check_all()


def test_frames_that_come_while_the_hard_bound_is_reached_are_told_apart_as_ever() -> None:
    router = Router()
    router.add(lambda message: None, "tick")
    options = ClientOptions(flow=FlowLimits(high=1, low=0, hard=1))
    talk = Conversation(options, router=router).connect()
    room = talk.joined("room:1")
    talk.receive('[null,null,"room:1","tick",{}]')
    ref = talk.push(room)
    talk.receive(
        '[null,null,"room:1","tick",{}]',
        '[null,null,"room:1","tock",{}]',
        '["0",null,"room:1","tick",{}]',
        "garbage",
        f'[null,"{ref}","room:1","phx_reply",{{"status":"ok"}}]',
    )
    stats = talk.proto.stats
    assert (stats.dropped, stats.unhandled, stats.stale, stats.bad_frames) == (1, 1, 1, 1)
    assert isinstance(talk.events()[1], ReplyReceived)
