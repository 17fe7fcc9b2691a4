"""Channels of a server's socket: joins, leaves and messages."""

from collections.abc import Callable
from typing import Any

import pytest
from serving import UNMATCHED, Server, end, reply

from phx_proto.errors import InvalidPayload, InvalidState
from phx_proto.formats import V2Server
from phx_proto.server.events import Abort, ChannelHandle, ChannelTerminated, JoinRequested, MessageIn, Send, Termination
from phx_proto.server.protocol import ServerProtocol

# ---- joins ----------------------------------------------------------------------------------------------------------


def test_a_join_is_put_to_the_application() -> None:
    (event,) = Server().hear(["1", "2", "room:a", "phx_join", {"token": "x"}])
    assert isinstance(event, JoinRequested)
    assert (event.channel.topic, event.channel.serial, event.pattern, event.payload) == (
        "room:a",
        1,
        "room:*",
        {"token": "x"},
    )


@pytest.mark.parametrize(
    ("answer", "status", "response"),
    [
        (lambda server, channel: server.accept(channel), "ok", {}),
        (lambda server, channel: server.accept(channel, None), "ok", None),
        (lambda server, channel: server.accept(channel, {"a": 1}), "ok", {"a": 1}),
        (lambda server, channel: server.refuse(channel), "error", {}),
        (lambda server, channel: server.refuse(channel, {"reason": "no"}), "error", {"reason": "no"}),
        (lambda server, channel: server.crash_join(channel), "error", {"reason": "join crashed"}),
    ],
)
def test_a_join_is_answered(answer: Callable[[Server, ChannelHandle], None], status: str, response: Any) -> None:
    server = Server()
    answer(server, server.ask("1"))
    assert server.said() == [reply("1", "1", payload={"status": status, "response": response})]


def test_a_join_may_be_answered_in_binary() -> None:
    server = Server()
    server.accept(server.ask("1"), b"\x01")
    assert server.commands() == [Send(b"\x01\x01\x01\x06\x0211room:aok\x01")]


def test_a_refused_topic_is_not_joined() -> None:
    server = Server()
    server.refuse(server.ask())
    server.hear(["1", "2", "room:a", "shout", {}])
    assert server.said()[1:] == [reply(None, "2", payload=UNMATCHED)]


@pytest.mark.parametrize("topic", ["room:", "room:a:b", "exact"])
def test_topics_are_matched_by_pattern(topic: str) -> None:
    assert Server().ask(topic=topic).topic == topic


@pytest.mark.parametrize(
    "topic", ["", "room", "rooms:a", "exact:a", "phoenix", None, 5, True, ["room:a"], {"room:a": 1}]
)
def test_a_topic_that_no_pattern_matches_is_answered_without_the_application(topic: Any) -> None:
    server = Server()
    assert server.hear(["1", "2", topic, "phx_join", {}]) == []
    assert server.said() == [reply(None, "2", topic, UNMATCHED)]


def test_the_first_pattern_that_matches_is_named() -> None:
    server = ServerProtocol(V2Server(), ("room:lobby", "room:*"), now=0.0)
    server.receive('["1","1","room:lobby","phx_join",{}]', 0.0)
    (event,) = server.events()
    assert isinstance(event, JoinRequested)
    assert event.pattern == "room:lobby"


def test_an_answer_that_cannot_be_encoded_leaves_the_join_waiting() -> None:
    server = Server()
    channel = server.ask()
    with pytest.raises(InvalidPayload):
        server.accept(channel, {"x": float("nan")})
    server.crash_join(channel)
    assert server.said()[0][4]["response"] == {"reason": "join crashed"}


@pytest.mark.parametrize("call", ["accept", "refuse", "crash_join"])
def test_a_join_is_answered_once(call: str) -> None:
    server = Server()
    channel = server.joined()
    with pytest.raises(InvalidState) as caught:
        getattr(server, call)(channel)
    assert (caught.value.call, caught.value.state) == (call, "answered already")


def test_only_the_join_that_waits_can_be_answered() -> None:
    server = Server()
    first = server.joined()
    server.ask("2", "room:b")
    with pytest.raises(InvalidState):
        server.refuse(first)


@pytest.mark.parametrize("call", ["push", "intercept", "reply", "finish", "stop", "crash"])
def test_a_channel_takes_no_calls_before_its_join_is_accepted(call: str) -> None:
    server = Server()
    channel = server.ask()
    message = MessageIn(channel, "2", "shout", {})
    arguments: dict[str, tuple[Any, ...]] = {"push": ("tick", {}), "intercept": ("tick", {}), "reply": ("ok", {})}
    with pytest.raises(InvalidState) as caught:
        getattr(server, call)(message if call in ("reply", "finish") else channel, *arguments.get(call, ()))
    assert (caught.value.call, caught.value.state) == (call, "joining")


# ---- a join holds everything else up --------------------------------------------------------------------------------


def test_nothing_is_read_while_a_join_waits() -> None:
    server = Server()
    server.joined("1")
    first = server.ask("2", "room:b")
    assert server.hear([None, "3", "phoenix", "heartbeat", {}], ["4", "4", "room:c", "phx_join", {}]) == []
    assert server.hear(["1", "5", "room:a", "shout", {}]) == []
    assert server.said() == []
    server.accept(first)
    (second,) = server.events()
    assert isinstance(second, JoinRequested)
    assert server.said() == [reply("2", "2", "room:b"), reply(None, "3", "phoenix")]
    server.refuse(second.channel)
    assert [type(event) for event in server.events()] == [MessageIn]


def test_what_is_sent_while_a_join_waits_follows_its_reply() -> None:
    server = Server()
    channel = server.joined("1")
    message = server.message()
    joining = server.ask("9", "room:b")
    server.push(channel, "tick", {})
    server.reply(message)
    server.broadcast("room:a", "news", {})
    server.stop(channel)
    assert server.said() == []
    server.accept(joining)
    assert server.said() == [
        reply("9", "9", "room:b"),
        ["1", None, "room:a", "tick", {}],
        reply("1", "2"),
        [None, None, "room:a", "news", {}],
        end("1"),
    ]


def test_a_channel_works_on_while_another_joins() -> None:
    server = Server()
    server.joined("1")
    events = server.hear(
        ["1", "2", "room:a", "one", {}], ["1", "3", "room:a", "two", {}], ["9", "9", "room:b", "phx_join", {}]
    )
    assert [type(event) for event in events] == [JoinRequested, MessageIn]
    assert isinstance(events[1], MessageIn)
    server.finish(events[1])
    (second,) = server.events()
    assert isinstance(second, MessageIn)
    assert second.event == "two"


# ---- duplicate joins ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", ["accept", "refuse"])
def test_the_old_channel_is_closed_after_the_answer_to_the_new_join(answer: str) -> None:
    server = Server()
    old = server.joined("1")
    ended, asked = server.hear(["2", "2", "room:a", "phx_join", {}])
    assert ended == ChannelTerminated(old, Termination.REPLACED)
    assert isinstance(asked, JoinRequested)
    getattr(server, answer)(asked.channel)
    first, second = server.said()
    assert first[:4] == ["2", "2", "room:a", "phx_reply"]
    assert second == end("1")


def test_a_replaced_channel_takes_what_it_has_not_read_with_it() -> None:
    server = Server()
    server.joined("1")
    events = server.hear(
        ["1", "2", "room:a", "shout", {}], ["1", "3", "room:a", "phx_leave", {}], ["4", "4", "room:a", "phx_join", {}]
    )
    assert [type(event) for event in events] == [ChannelTerminated, JoinRequested]
    assert isinstance(events[1], JoinRequested)
    server.accept(events[1].channel)
    assert server.said() == [reply("4", "4"), end("1")]


def test_a_reply_to_a_message_of_a_replaced_channel_is_dropped() -> None:
    server = Server()
    server.joined("1")
    message = server.message()
    server.joined("3")
    server.reply(message)
    server.finish(message)
    server.push(message.channel, "tick", {})
    assert server.said() == []


def test_a_channel_that_ended_unnoticed_is_replaced_with_one_close() -> None:
    server = Server()
    old = server.joined("1")
    other = server.ask("2", "room:b")
    server.hear(["3", "3", "room:a", "phx_join", {}])
    server.crash(old)
    server.accept(other)
    events = server.events()
    assert [type(event) for event in events] == [ChannelTerminated, JoinRequested]
    assert isinstance(events[1], JoinRequested)
    server.accept(events[1].channel)
    assert server.said() == [reply("2", "2", "room:b"), reply("3", "3"), end("1")]


# ---- the limit ------------------------------------------------------------------------------------------------------


def test_a_join_over_the_limit_is_refused_by_itself() -> None:
    server = Server(max_channels=1)
    server.joined("1")
    assert server.hear(["2", "2", "room:b", "phx_join", {}]) == []
    assert server.said() == [
        reply("2", "2", "room:b", {"status": "error", "response": {"reason": "too many channels joined"}})
    ]


def test_a_duplicate_join_does_not_count() -> None:
    server = Server(max_channels=1)
    server.joined("1")
    assert server.joined("2").topic == "room:a"


def test_a_leave_makes_room() -> None:
    server = Server(max_channels=1)
    server.joined("1")
    server.hear(["1", "2", "room:a", "phx_leave", {}])
    assert server.joined("3", "room:b").topic == "room:b"


def test_a_hundred_channels_by_default_and_any_number_on_demand() -> None:
    limits: tuple[tuple[dict[str, Any], int], ...] = (({}, 100), ({"max_channels": None}, 101))
    for limit, expected in limits:
        server = Server(**limit)
        asked = 0
        for n in range(101):
            for event in server.hear([str(n), str(n), f"room:{n}", "phx_join", {}]):
                assert isinstance(event, JoinRequested)
                server.accept(event.channel)
                asked += 1
        assert asked == expected


# ---- leaves ---------------------------------------------------------------------------------------------------------


def test_a_leave_is_answered_and_closes_the_channel() -> None:
    server = Server()
    channel = server.joined("1")
    assert server.hear(["1", "2", "room:a", "phx_leave", {}]) == [ChannelTerminated(channel, Termination.LEFT)]
    assert server.said() == [reply("1", "2"), end("1")]


@pytest.mark.parametrize("topic", ["room:a", "nope", 5, None])
def test_a_leave_of_a_topic_that_is_not_joined_is_answered(topic: Any) -> None:
    server = Server()
    server.hear(["7", "2", topic, "phx_leave", {}])
    assert server.said() == [reply("7", "2", topic)]


def test_a_leave_waits_for_the_handler_before_it() -> None:
    server = Server()
    channel = server.joined("1")
    message = server.message()
    assert server.hear(["1", "3", "room:a", "phx_leave", {}]) == []
    assert server.said() == []
    server.reply(message)
    server.finish(message)
    assert server.events() == [ChannelTerminated(channel, Termination.LEFT)]
    assert server.said() == [reply("1", "2"), reply("1", "3"), end("1")]


def test_a_second_leave_in_the_same_read_is_not_answered() -> None:
    server = Server()
    server.joined("1")
    server.hear(["1", "2", "room:a", "phx_leave", {}], ["1", "3", "room:a", "phx_leave", {}])
    assert server.said() == [reply("1", "2"), end("1")]


# ---- messages -------------------------------------------------------------------------------------------------------


def test_a_message_is_put_to_the_application() -> None:
    server = Server()
    channel = server.joined("1")
    (message,) = server.hear(["1", "2", "room:a", "shout", {"x": [1]}])
    assert isinstance(message, MessageIn)
    assert (message.channel, message.ref, message.event, message.payload) == (channel, "2", "shout", {"x": [1]})


def test_a_binary_message_is_answered_in_binary_or_not() -> None:
    server = Server()
    server.joined("1")
    server.receive(b"\x00\x01\x01\x06\x0512room:ashout\xff", 0.0)
    (message,) = server.events()
    assert isinstance(message, MessageIn)
    assert message.payload == b"\xff"
    server.reply(message, "ok", b"\xfe")
    server.reply(message, "ok", {"n": 1})
    binary, text = server.said()
    assert binary == Send(b"\x01\x01\x01\x06\x0212room:aok\xfe")
    assert text == reply("1", "2", payload={"status": "ok", "response": {"n": 1}})


def test_a_channel_is_given_one_message_at_a_time() -> None:
    server = Server()
    server.joined("1")
    (first,) = server.hear(["1", "2", "room:a", "one", {}], ["1", "3", "room:a", "two", {}])
    assert server.hear(["1", "4", "room:a", "three", {}]) == []
    heard = []
    while first is not None:
        assert isinstance(first, MessageIn)
        heard.append(first.event)
        server.finish(first)
        first = next(iter(server.events()), None)  # type: ignore[assignment]
    assert heard == ["one", "two", "three"]


def test_channels_do_not_wait_for_each_other() -> None:
    server = Server()
    server.joined("1")
    server.joined("2", "room:b")
    events = server.hear(["1", "3", "room:a", "one", {}], ["2", "4", "room:b", "two", {}])
    assert [event.event for event in events if isinstance(event, MessageIn)] == ["one", "two"]


def test_a_message_is_finished_once() -> None:
    server = Server()
    server.joined("1")
    message = server.message()
    server.finish(message)
    with pytest.raises(InvalidState) as caught:
        server.finish(message)
    assert (caught.value.call, caught.value.state) == ("finish", "finished already")


def test_a_reply_may_come_after_the_next_one() -> None:
    server = Server()
    server.joined("1")
    late = server.message(ref="2")
    server.finish(late)
    server.reply(server.message(ref="3"), "error", {"x": 1})
    server.reply(late, "maybe", None)
    assert server.said() == [
        reply("1", "3", payload={"status": "error", "response": {"x": 1}}),
        reply("1", "2", payload={"status": "maybe", "response": None}),
    ]


def test_a_message_without_a_channel_is_answered_with_unmatched_topic() -> None:
    server = Server()
    assert server.hear(["1", "2", "room:a", "shout", {}]) == []
    assert server.said() == [reply(None, "2", payload=UNMATCHED)]


@pytest.mark.parametrize("event", [None, 5, [], {}])
def test_an_event_that_is_no_text_crashes_its_channel(event: Any) -> None:
    server = Server()
    channel = server.joined("1")
    assert server.hear(["1", "2", "room:a", event, {}]) == [ChannelTerminated(channel, Termination.CRASHED)]
    assert server.said() == [end("1", event="phx_error", reason="channel_crash")]


@pytest.mark.parametrize("event", ["", "phx_reply", "phx_close", "phx_error", "heartbeat"])
def test_reserved_and_empty_events_are_ordinary_from_a_client(event: str) -> None:
    server = Server()
    server.joined("1")
    assert server.message(event=event).event == event


def test_a_message_that_comes_before_the_news_of_its_channels_end_is_lost() -> None:
    server = Server()
    channel = server.joined("1")
    joining = server.ask("9", "room:b")
    server.hear(["1", "2", "room:a", "shout", {}])
    server.stop(channel)
    server.hear(["1", "3", "room:a", "shout", {}])
    server.accept(joining)
    assert server.said() == [reply("9", "9", "room:b"), end("1"), reply(None, "3", payload=UNMATCHED)]


# ---- last words -----------------------------------------------------------------------------------------------------


def end_by(server: Server, how: str, channel: ChannelHandle) -> None:
    if how == "phx_leave":
        assert server.hear(["1", "9", "room:a", "phx_leave", {}])[-1] == ChannelTerminated(channel, Termination.LEFT)
    else:
        getattr(server, how)(channel)
        server.events()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("phx_leave", [reply("1", "9")]),
        ("stop", []),
        ("crash", []),
    ],
)
def test_last_words_are_sent_before_the_end(how: str, told: list[Any]) -> None:
    server = Server(last_words=True)
    channel = server.joined()
    end_by(server, how, channel)
    assert server.said() == told
    server.push(channel, "bye", {})
    server.broadcast("room:a", "news", {})
    assert server.said() == [["1", None, "room:a", "bye", {}], [None, None, "room:a", "news", {}]]
    server.terminated(channel)
    assert server.said() == [end("1", event="phx_error", reason="channel_crash") if how == "crash" else end("1")]
    server.terminated(channel)
    server.push(channel, "bye", {})
    assert server.said() == []


def test_a_channel_that_fails_on_its_last_words_has_crashed() -> None:
    server = Server(last_words=True)
    channel = server.joined()
    server.stop(channel)
    server.stop(channel)
    server.crash(channel)
    assert server.events() == [ChannelTerminated(channel, Termination.STOPPED)]
    server.terminated(channel)
    assert server.said() == [end("1", event="phx_error", reason="channel_crash")]


def test_a_channel_with_last_words_reads_no_more() -> None:
    server = Server(last_words=True)
    channel = server.joined()
    server.stop(channel)
    server.events()
    assert server.hear(["1", "2", "room:a", "shout", {}]) == []
    server.terminated(channel)
    assert server.said() == [end("1")]


def test_a_new_join_cuts_last_words_short() -> None:
    server = Server(last_words=True)
    channel = server.joined()
    server.stop(channel)
    server.events()
    new = server.ask("2")
    server.push(channel, "bye", {})
    server.terminated(channel)
    server.accept(new)
    server.terminated(channel)
    assert server.said() == [reply("2", "2"), end("1")]


def test_the_end_of_a_connection_leaves_no_last_words() -> None:
    server = Server(last_words=True)
    channel = server.joined()
    server.stop(channel)
    server.abort()
    server.push(channel, "bye", {})
    server.terminated(channel)
    assert server.commands() == [Abort()]
