"""A server's socket: refs, what the application sends, heartbeats, time and the end."""

import json
from typing import Any

import pytest
from serving import UNMATCHED, Server, end, reply

from phx_proto.errors import BinaryNotSupported, InvalidState
from phx_proto.formats import V1Server, V2Server, serializer_for
from phx_proto.server.events import (
    Abort,
    BroadcastOut,
    ChannelHandle,
    ChannelTerminated,
    Close,
    JoinRequested,
    MessageIn,
    Send,
    SocketClosed,
    Termination,
)
from phx_proto.server.protocol import ServerProtocol

# ---- refs -----------------------------------------------------------------------------------------------------------


def test_a_channel_joined_without_a_join_ref_goes_by_the_ref_of_its_join() -> None:
    server = Server()
    channel = server.ask(None, ref="50")
    server.accept(channel)
    server.reply(server.message(None, "51"))
    server.push(channel, "tick", {})
    server.stop(channel)
    assert server.said() == [reply(None, "50"), reply("50", "51"), ["50", None, "room:a", "tick", {}], end(None)]


DEEP = json.loads("[" * 31 + '{"a":1}' + "]" * 31)


@pytest.mark.parametrize("ref", [None, 4, 10**40, 1.5, True, ["a"], {"a": [1]}, DEEP])
def test_a_ref_of_any_type_comes_back(ref: Any) -> None:
    server = Server()
    server.hear([None, ref, "phoenix", "heartbeat", {}])
    assert server.said() == [reply(None, ref, "phoenix")]


@pytest.mark.parametrize(
    "fields", [("{deep}", '"2"', '"room:a"'), ('"1"', "{deep}", '"room:a"'), ('"1"', '"2"', "{deep}")]
)
@pytest.mark.parametrize("deep", ["[" * 33 + "]" * 33, '{"a":' * 33 + "1" + "}" * 33])
def test_a_field_too_deep_to_be_sent_back_closes_the_socket(fields: tuple[str, ...], deep: str) -> None:
    server = Server()
    frame = f'[{",".join(fields)},"phx_leave",{{}}]'.replace("{deep}", deep)
    server.receive(frame, 0.0)
    assert server.commands() == [Close(1011)]
    assert server.events() == [SocketClosed(1011, "a ref or a topic is nested too deeply to be sent back")]


# ---- the application speaks -----------------------------------------------------------------------------------------


def test_a_push_carries_the_join_ref() -> None:
    server = Server()
    server.push(server.joined("7"), "tick", {"n": 1})
    assert server.said() == [["7", None, "room:a", "tick", {"n": 1}]]


def test_a_broadcast_goes_to_a_joined_topic_alone() -> None:
    server = Server()
    server.joined("1")
    server.broadcast("room:a", "news", {"n": 1})
    server.broadcast("room:b", "news", {"n": float("nan")})
    assert server.said() == [[None, None, "room:a", "news", {"n": 1}]]


def test_a_broadcast_is_encoded_once_for_many() -> None:
    frame = V2Server().broadcast("room:a", "news", {"n": 1})
    for server in (Server(), Server()):
        server.joined("1")
        server.fastlane("room:a", frame)
        (sent,) = server.commands()
        assert isinstance(sent, Send)
        assert sent.data is frame


def test_a_frame_for_a_topic_that_is_not_joined_is_dropped() -> None:
    server = Server()
    server.joined("1")
    server.fastlane("room:b", V2Server().broadcast("room:b", "news", {}))
    assert server.commands() == []


def test_a_broadcast_to_a_topic_that_is_being_joined_is_not_for_this_socket() -> None:
    server = Server()
    channel = server.ask()
    server.broadcast("room:a", "news", {})
    server.accept(channel)
    assert server.said() == [reply("1", "1")]


def test_a_broadcast_after_the_channel_ended_is_dropped_even_before_the_news() -> None:
    server = Server()
    channel = server.joined("1")
    joining = server.ask("9", "room:b")
    server.broadcast("room:a", "before", {})
    server.stop(channel)
    server.broadcast("room:a", "after", {})
    server.accept(joining)
    assert server.said()[1:] == [[None, None, "room:a", "before", {}], end("1")]


# ---- intercepted broadcasts -----------------------------------------------------------------------------------------


def test_an_intercepted_broadcast_goes_out_as_a_push_after_the_reply_of_what_caused_it() -> None:
    server = Server()
    channel = server.joined("1")
    message = server.message("1", "2")
    server.intercept(channel, "news", {"n": 1})
    assert server.events() == []
    server.reply(message)
    server.finish(message)
    (out,) = server.events()
    assert isinstance(out, BroadcastOut)
    assert (out.channel, out.event, out.payload) == (channel, "news", {"n": 1})
    server.push(channel, out.event, out.payload)
    server.finish(out)
    assert server.said() == [reply("1", "2"), ["1", None, "room:a", "news", {"n": 1}]]


def test_intercepted_broadcasts_and_messages_take_their_turns_in_the_order_in_which_they_came() -> None:
    server = Server()
    channel = server.joined("1")
    message = server.message("1", "2", event="first")
    server.intercept(channel, "second", {})
    server.hear(["1", "3", "room:a", "third", {}])
    server.intercept(channel, "fourth", {})
    server.hear(["1", "4", "room:a", "phx_leave", {}])
    turns: list[str] = []
    server.finish(message)
    while isinstance((event := server.events()[0]), MessageIn | BroadcastOut):
        turns.append(event.event)
        server.finish(event)
    assert turns == ["second", "third", "fourth"]
    assert event == ChannelTerminated(channel, Termination.LEFT)


def test_what_a_channel_intercepts_goes_with_it() -> None:
    server = Server(last_words=True)
    channel = server.joined("1")
    message = server.message()
    server.intercept(channel, "news", {})
    server.stop(channel)
    server.intercept(channel, "news", {})
    server.finish(message)
    server.terminated(channel)
    server.intercept(channel, "news", {})
    assert server.events() == [ChannelTerminated(channel, Termination.STOPPED)]
    with pytest.raises(InvalidState):
        server.intercept(server.ask("2"), "news", {})


def test_what_waits_to_be_handled_for_a_broadcast_does_not_count_against_the_client() -> None:
    server = Server(max_waiting=0)
    server.intercept(server.joined("1"), "news", {"n": "x" * 1_000})
    server.intercept(server.joined("2", "room:b"), "news", {})
    assert not server.full


def test_a_stopped_channel_is_closed_and_the_others_live_on() -> None:
    server = Server()
    channel = server.joined("1")
    other = server.joined("2", "room:b")
    server.stop(channel)
    server.stop(channel)
    server.push(other, "tick", {})
    assert server.said() == [end("1"), ["2", None, "room:b", "tick", {}]]
    assert server.events() == [ChannelTerminated(channel, Termination.STOPPED)]


def test_what_a_stopped_channel_had_not_read_is_never_handled() -> None:
    server = Server()
    server.joined("1")
    message, *_ = server.hear(["1", "2", "room:a", "one", {}], ["1", "3", "room:a", "two", {}])
    assert isinstance(message, MessageIn)
    server.reply(message)
    server.stop(message.channel)
    server.finish(message)
    assert [type(event) for event in server.events()] == [ChannelTerminated]
    assert server.said() == [reply("1", "2"), end("1")]


def test_bytes_toward_a_v1_client_are_refused_at_the_call() -> None:
    server = ServerProtocol(V1Server(), ("room:*",), now=0.0)
    server.receive('{"topic":"room:a","event":"phx_join","payload":{},"ref":"1"}', 0.0)
    (join,) = server.events()
    assert isinstance(join, JoinRequested)
    server.accept(join.channel)
    server.receive('{"topic":"room:a","event":"shout","payload":{},"ref":"2"}', 0.0)
    (message,) = server.events()
    assert isinstance(message, MessageIn)
    with pytest.raises(BinaryNotSupported):
        server.reply(message, "ok", b"")
    with pytest.raises(BinaryNotSupported):
        server.push(message.channel, "tick", b"")
    with pytest.raises(BinaryNotSupported):
        server.broadcast("room:a", "news", b"")
    assert len(server.commands()) == 1


def test_a_v1_client_that_sends_a_join_ref_gets_it_when_the_channel_ends() -> None:
    server = ServerProtocol(V1Server(), ("room:*",), now=0.0)
    server.receive('{"topic":"room:a","event":"phx_join","payload":{},"ref":"1","join_ref":"1"}', 0.0)
    (join,) = server.events()
    assert isinstance(join, JoinRequested)
    server.accept(join.channel)
    server.stop(join.channel)
    sent = [json.loads(command.data) for command in server.commands() if isinstance(command, Send)]
    assert sent[1] == {"topic": "room:a", "event": "phx_close", "ref": "1", "payload": {}}


# ---- heartbeats and malformed frames --------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [{}, {"x": 1}, [], None])
def test_a_heartbeat_is_answered_without_a_join_ref(payload: Any) -> None:
    server = Server()
    assert server.hear(["7", "1", "phoenix", "heartbeat", payload]) == []
    assert server.said() == [reply(None, "1", "phoenix")]


@pytest.mark.parametrize("event", ["ping", None])
def test_another_event_on_the_heartbeat_topic_is_unmatched(event: Any) -> None:
    server = Server()
    server.hear([None, "1", "phoenix", event, {}])
    assert server.said() == [reply(None, "1", "phoenix", UNMATCHED)]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ("", "Input data was truncated"),
        ("{", "Expected `array`, got `object`"),
        ("null", "Expected `array`, got `null`"),
        ("[]", "Expected `array` of at least length 5, got 0"),
        ('["1","2","room:a","x"]', "Expected `array` of at least length 5, got 4"),
        ('["1","2","room:a","x",NaN]', "JSON is malformed: invalid character (byte 22)"),
        (b"", "a binary frame without a byte"),
        (b"\x01", "a binary frame of kind 1, which is none of [0]"),
    ],
)
def test_a_malformed_frame_closes_the_socket(frame: str | bytes, reason: str) -> None:
    server = Server()
    channel = server.joined("1")
    server.receive_all([frame, '[null,"1","phoenix","heartbeat",{}]'], 0.0)
    assert server.commands() == [Close(1011)]
    assert server.events() == [
        ChannelTerminated(channel, Termination.CONNECTION),
        SocketClosed(1011, reason),
    ]


# ---- time -----------------------------------------------------------------------------------------------------------


def test_a_frame_or_any_bytes_put_the_end_off() -> None:
    server = Server(timeout=3.0)
    server.receive('[null,"1","phoenix","heartbeat",{}]', 2.0)
    assert server.next_timeout() == 5.0
    server.touched(4.5)
    server.handle_timeout(5.0)
    assert server.next_timeout() == 7.5


def test_what_the_server_sends_does_not_put_the_end_off() -> None:
    server = Server(timeout=3.0)
    server.push(server.joined(), "tick", {})
    assert server.next_timeout() == 3.0


def test_without_a_timeout_a_client_may_be_silent_for_ever() -> None:
    server = Server(timeout=None)
    assert server.next_timeout() is None
    server.handle_timeout(1e9)
    assert server.commands() == []


def test_the_close_of_a_silent_client_waits_for_a_join() -> None:
    server = Server()
    channel = server.ask()
    server.handle_timeout(60.0)
    assert server.next_timeout() is None
    assert server.commands() == []
    server.accept(channel)
    assert server.commands()[1:] == [Close(1002)]


# ---- the end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["disconnect", "drain", "shutdown"])
def test_a_close_by_the_application_waits_for_a_join(call: str) -> None:
    server = Server()
    channel = server.ask()
    getattr(server, call)()
    assert server.commands() == []
    server.accept(channel)
    assert [type(command) for command in server.commands()] == [Send, Close]


def test_a_clients_close_waits_for_a_join() -> None:
    server = Server()
    channel = server.ask()
    server.closed(1000, "bye")
    assert server.commands() == []
    server.accept(channel)
    assert [type(command) for command in server.commands()] == [Send, Close]
    assert server.events() == [ChannelTerminated(channel, Termination.CONNECTION), SocketClosed(1000, "bye")]


def test_a_connection_that_breaks_while_its_close_waits_is_over() -> None:
    server = Server()
    server.ask()
    server.closed(1000, "bye")
    server.closed(None, "gone")
    assert server.commands() == []
    assert server.events()[-1] == SocketClosed(None, "gone")


def test_an_abort_does_not_wait() -> None:
    server = Server()
    channel = server.ask()
    server.abort()
    assert server.commands() == [Abort()]
    assert server.events() == [
        ChannelTerminated(channel, Termination.CONNECTION),
        SocketClosed(None, "aborted by the application"),
    ]


def test_an_application_closes_with_a_code_and_a_reason_of_its_own() -> None:
    server = Server()
    channel = server.joined("1")
    server.close(4001, "pay first")
    server.close(4002)
    assert server.commands() == [Close(4001, "pay first")]
    assert server.events() == [
        ChannelTerminated(channel, Termination.CONNECTION),
        SocketClosed(4001, "pay first"),
    ]


def test_a_close_without_a_reason_is_told_in_words_here_alone() -> None:
    server = Server()
    server.close()
    assert (server.commands(), server.events()) == ([Close(1000)], [SocketClosed(1000, "closed by the application")])


@pytest.mark.parametrize(
    ("code", "reason"),
    [(999, ""), (1005, ""), (1015, ""), (2999, ""), (5000, ""), (1000, "\u00e9" * 62), (1000, "\ud800")],
)
def test_what_no_close_frame_can_carry_is_refused(code: int, reason: str) -> None:
    server = Server()
    with pytest.raises(ValueError, match=r"close|surrogates"):
        server.close(code, reason)
    assert server.commands() == []


def test_a_close_code_is_a_whole_number() -> None:
    server = Server()
    code: Any = 1000.0
    with pytest.raises(TypeError, match="code is a int"):
        server.close(code)
    assert server.commands() == []


def test_a_reason_may_fill_its_close_frame() -> None:
    server = Server()
    server.close(1000, "x" * 123)
    assert server.commands() == [Close(1000, "x" * 123)]


def test_a_lost_connection_ends_every_channel_and_the_waiting_join() -> None:
    server = Server()
    first, second = server.joined("1"), server.joined("2", "room:b")
    waiting = server.ask("3", "room:c")
    server.stop(first)
    server.closed(None, "gone")
    assert server.commands() == []
    assert server.events() == [
        ChannelTerminated(first, Termination.STOPPED),
        ChannelTerminated(second, Termination.CONNECTION),
        ChannelTerminated(waiting, Termination.CONNECTION),
        SocketClosed(None, "gone"),
    ]


def test_after_the_end_nothing_does_anything() -> None:
    server = Server()
    server.joined("1")
    message = server.message()
    channel = message.channel
    waiting = server.ask("3", "room:b")
    server.closed(None, "")
    server.commands(), server.events()
    server.receive("{", 1.0)
    server.touched(1.0)
    server.handle_timeout(1e9)
    server.accept(waiting)
    server.refuse(waiting)
    server.crash_join(waiting)
    server.reply(message)
    server.finish(message)
    server.push(channel, "tick", {})
    server.stop(channel)
    server.crash(channel)
    server.broadcast("room:a", "news", {})
    server.disconnect()
    server.drain()
    server.shutdown()
    server.abort()
    server.closed(1000, "")
    assert (server.commands(), server.events(), server.next_timeout()) == ([], [], None)


# ---- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vsn", "served"),
    [
        (None, "1.0.0"),
        ("1.0.0", "1.0.0"),
        ("1.0.7", "1.0.0"),
        ("2.0.0", "2.0.0"),
        ("2.0.5", "2.0.0"),
        ("2.0.10+build.1", "2.0.0"),
        ("2.0.5-rc.1", "2.0.0"),
        ("1.0.1-0.x-y+b", "1.0.0"),
        *(
            (vsn, None)
            for vsn in (
                "",
                "1",
                "2.0",
                "2.1.0",
                "1.1.0",
                "3.0.0",
                "v2.0.0",
                "2.0.0-rc.1",
                "2.0.5-01",
                "2.0.5-",
                "2.1.0-rc.1",
                "2.0.05",
                "2.0.0\n",
                "٢.0.0",
            )
        ),
    ],
)
def test_versions_by_which_a_client_may_ask(vsn: str | None, served: str | None) -> None:
    serializer = serializer_for(vsn)
    assert (None if serializer is None else serializer.vsn) == served


def test_reprs_keep_secrets() -> None:
    join = JoinRequested(ChannelHandle(1, "room:a"), "room:*", {"token": "secret"})
    assert "secret" not in repr(join)
    assert repr(Send("secret")) == "Send(6 characters)"
    assert repr(Send(b"secret")) == "Send(6 bytes)"


# ---- bounds ---------------------------------------------------------------------------------------------------------


def test_a_socket_is_full_while_much_waits_for_a_join() -> None:
    server = Server(max_waiting=3 * 1_100)
    channel = server.ask()
    server.hear(*[[None, str(ref), "phoenix", "heartbeat", {}] for ref in range(3)])
    assert not server.full
    server.hear([None, "3", "phoenix", "heartbeat", {}])
    assert server.full
    server.accept(channel)
    assert not server.full
    assert len(server.said()) == 5


@pytest.mark.parametrize("end", ["finish", "phx_join", "stop", "abort"])
def test_a_socket_is_full_while_much_waits_for_a_channel(end: str) -> None:
    server = Server(max_waiting=2 * 1_100)
    channel = server.joined()
    message = server.message()
    server.hear(*[["1", str(ref), "room:a", "shout", {}] for ref in range(3, 6)])
    assert server.full
    if end == "finish":
        server.finish(message)
    elif end == "phx_join":
        server.hear(["9", "9", "room:a", "phx_join", {}])
    elif end == "stop":
        server.stop(channel)
    else:
        server.abort()
    assert not server.full


def test_what_was_handled_or_needs_no_handling_waits_no_more() -> None:
    server = Server(max_waiting=0)
    channel = server.joined()
    for _ in range(2):
        server.finish(server.message())
        assert not server.full
        for fields in (
            [None, "3", "phoenix", "heartbeat"],
            ["1", "4", "nowhere", "shout"],
            ["9", "5", "room:a", "stale"],
            ["9", "6", "room:b", "phx_leave"],
        ):
            server.hear([*fields, {}])
            assert not server.full
        server.intercept(channel, "shout", {})
        (broadcast,) = server.events()
        assert isinstance(broadcast, BroadcastOut)
        server.finish(broadcast)
        assert not server.full
    server.hear(["1", "7", "room:a", "phx_leave", {}])
    assert not server.full


def test_without_a_bound_a_socket_is_never_full() -> None:
    server = Server(max_waiting=None)
    server.ask()
    server.hear(*[[None, str(ref), "phoenix", "heartbeat", {}] for ref in range(2_000)])
    assert not server.full


def test_a_large_message_counts_by_its_size() -> None:
    server = Server()
    server.ask()
    server.hear([None, "1", "phoenix", "heartbeat", "x" * 2**20])
    assert server.full


def test_a_client_that_is_not_read_from_is_not_silent() -> None:
    server = Server(timeout=60.0, max_waiting=0)
    channel = server.ask()
    server.hear([None, "2", "phoenix", "heartbeat", {}])
    server.handle_timeout(60.0)
    assert server.next_timeout() == 120.0
    server.accept(channel)
    server.commands()
    server.handle_timeout(120.0)
    assert server.commands() == [Close(1002)]


@pytest.mark.parametrize(("topic", "joined"), [("room:" + "x" * 95, True), ("room:" + "x" * 96, False)])
def test_a_topic_that_is_too_long_is_unmatched(topic: str, *, joined: bool) -> None:
    server = Server(max_topic=100)
    events = server.hear(["1", "1", topic, "phx_join", {}])
    assert len(events) == joined
    assert server.said() == ([] if joined else [reply(None, "1", topic, UNMATCHED)])


def test_a_joins_refs_are_as_long_as_its_topic_may_be_where_the_reply_has_128_bytes_besides() -> None:
    besides = len(V2Server().reply("", "1", "", "", {}))
    for more in (0, 1):
        server = Server(max_topic=100)
        event = server.hear(["x" * (100 + 128 - besides + more), "1", "room:a", "phx_join", {}])[-1]
        assert isinstance(event, SocketClosed if more else JoinRequested)


@pytest.mark.parametrize("ref", ["x" * 250, ["x" * 125, "x" * 125], int("9" * 250)])
def test_a_joins_refs_that_are_too_long_close_the_socket(ref: Any) -> None:
    for fields in ([ref, "1"], ["1", ref], [None, ref]):
        server = Server(max_topic=100)
        assert server.hear([*fields, "room:a", "phx_join", {}])[-1] == SocketClosed(
            1011, "the refs of a join are too long to be kept"
        )
        assert server.commands() == [Close(1011)]
