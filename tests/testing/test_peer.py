"""`Peer` against a bare `ClientProtocol`: what a test of a client reads like, and how it fails."""

from collections.abc import Callable, Iterator
from math import nan
from random import Random
from typing import Any

import msgspec
import pytest

from phx_proto.backoff import ReconnectPolicy
from phx_proto.client import ClientProtocol
from phx_proto.errors import (
    ConnectionClosed,
    ConnectTimeout,
    HandshakeRefused,
    InvalidPayload,
    JoinRefused,
    JoinTimeout,
    PushLost,
    PushTimeout,
)
from phx_proto.events import ChannelEnded, ChannelErrored, Connected, ConnectFailed, Disconnected, PresenceChanged
from phx_proto.flow import FlowLimits
from phx_proto.formats import V1
from phx_proto.handlers.router import Router
from phx_proto.inbox import Tap
from phx_proto.message import Reply
from phx_proto.options import ClientOptions
from phx_proto.states import SocketState
from phx_transports.testing import ANYTHING, CannotPlay, Peer, PeerDriver, Side, UnexpectedConversation

LOBBY = "room:lobby"


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


def joined(peer: Peer, topic: str = LOBBY) -> PeerDriver:
    """A client that is connected and has joined the topic."""
    client = peer.driver().connect()
    peer.expect_join(topic).reply()
    client.join(topic).result(0)
    return client


# ---- joins ----------------------------------------------------------------------------------------------------------


def test_a_join_expected_before_is_answered_when_it_comes(peer: Peer) -> None:
    peer.expect_join(LOBBY).reply({"ok": 1})
    assert peer.driver().connect().join(LOBBY).result(0) == {"ok": 1}
    assert peer.joined == [LOBBY]


def test_a_join_expected_afterwards_is_taken_from_what_has_come(peer: Peer) -> None:
    joining = peer.driver().connect().join(LOBBY)
    assert not joining.done()
    peer.expect_join(LOBBY).reply({"ok": 1})
    assert joining.result(0) == {"ok": 1}


def test_a_join_may_be_answered_long_after_it_was_expected(peer: Peer) -> None:
    join = peer.expect_join(LOBBY)
    joining = peer.driver().connect().join(LOBBY)
    assert join.came
    peer.clock.advance(3)
    join.reply()
    assert joining.result(0) == {}


def test_a_join_can_be_refused(peer: Peer) -> None:
    peer.expect_join(LOBBY).refuse({"reason": "full"})
    with pytest.raises(JoinRefused) as refused:
        peer.driver().connect().join(LOBBY).result(0)
    assert refused.value.response == {"reason": "full"}


def test_topics_over_the_limit_of_a_connection_are_joined_on_others() -> None:
    topics = [f"room:{number}" for number in range(350)]
    with Peer(max_channels=100) as peer:
        peer.allow_join("room:*")
        client = peer.driver().connect()
        joining = [client.join(topic) for topic in topics]
        assert [one.result(0) for one in joining] == [{}] * 350
        assert [len(connection.joined) for connection in peer.connections] == [100, 100, 100, 50]
        peer.push("room:349", "shout", 7)
        peer.push("room:0", "shout", 8)
        assert [message.payload for message in client.messages] == [7, 8]


def test_the_connection_of_a_topic_can_be_cut_and_the_topics_of_others_notice_nothing() -> None:
    with Peer(max_channels=1) as peer:
        peer.allow_join("room:*")
        client = peer.driver().connect()
        for topic in ("room:1", "room:2", "room:3"):
            client.join(topic).result(0)
        peer.cut("room:2")
        assert peer.joined == ["room:1", "room:3"]
        peer.close(1012, topic="room:1")
        assert peer.joined == ["room:3"]
        peer.clock.advance(10.0)
        assert sorted(peer.joined) == ["room:1", "room:2", "room:3"]


def test_an_event_can_be_sent_on_a_topic_that_was_never_joined() -> None:
    router = Router()
    router.add(lambda message: None, "data", topic="__absinthe__:*", unjoined=True)
    with Peer() as peer:
        client = peer.driver(ClientProtocol(peer.url, router=router)).connect()
        peer.push_unjoined("__absinthe__:doc:1", "data", {"n": 1})
        assert [(message.topic, message.payload) for message in client.messages] == [("__absinthe__:doc:1", {"n": 1})]


def test_a_join_that_is_never_answered_times_out_on_the_clock(peer: Peer) -> None:
    peer.expect_join(LOBBY).ignore()
    joining = peer.driver().connect().join(LOBBY, timeout=3.0)
    peer.clock.advance(2.9)
    assert not joining.done()
    peer.clock.advance(0.2)
    with pytest.raises(JoinTimeout):
        joining.result(0)


def test_the_params_of_a_join_can_be_looked_at(peer: Peer) -> None:
    join = peer.expect_join(LOBBY, {"since": ANYTHING}).reply()
    peer.driver().connect().join(LOBBY, {"since": 7}).result(0)
    assert join.payload == {"since": 7}


def test_a_crashed_channel_is_rejoined(peer: Peer) -> None:
    client = joined(peer)
    peer.crash(LOBBY)
    peer.expect_join(LOBBY).reply()
    peer.clock.advance(1)
    assert peer.joined == [LOBBY]
    assert any(isinstance(event, ChannelErrored) for event in client.events)


def test_a_channel_that_the_server_closes_has_ended(peer: Peer) -> None:
    client = joined(peer)
    peer.close_channel(LOBBY)
    (ended,) = [event for event in client.events if isinstance(event, ChannelEnded)]
    assert LOBBY in str(ended.error)
    assert peer.joined == []


def test_a_leave_needs_no_expectation(peer: Peer) -> None:
    client = joined(peer)
    client.leave(LOBBY).result(0)
    assert peer.joined == []


def test_a_leave_can_be_expected(peer: Peer) -> None:
    client = joined(peer)
    leave = peer.expect_leave(LOBBY)
    client.leave(LOBBY).result(0)
    assert leave.came


def test_a_leave_can_be_ignored(peer: Peer) -> None:
    client = joined(peer)
    peer.expect_leave(LOBBY).ignore()
    leaving = client.leave(LOBBY, timeout=2.0)
    assert not leaving.done()
    peer.clock.advance(2)
    assert leaving.result(0) is None


def test_a_topic_that_was_left_can_be_joined_again(peer: Peer) -> None:
    client = joined(peer)
    client.leave(LOBBY).result(0)
    peer.expect_join(LOBBY).reply()
    client.join(LOBBY).result(0)


def test_joins_that_are_allowed_need_not_be_expected_and_need_not_come(peer: Peer) -> None:
    peer.allow_join("room:*", {"hello": True})
    peer.allow_join("sim:*")
    client = peer.driver().connect()
    assert [client.join(topic).result(0) for topic in ("room:1", "room:2")] == [{"hello": True}] * 2


def test_what_is_allowed_comes_after_what_is_expected(peer: Peer) -> None:
    peer.allow_join("room:*")
    peer.expect_join(LOBBY).refuse()
    with pytest.raises(JoinRefused):
        peer.driver().connect().join(LOBBY).result(0)


# ---- pushes ---------------------------------------------------------------------------------------------------------


def test_a_push_is_answered(peer: Peer) -> None:
    client = joined(peer)
    peer.expect_push(LOBBY, "shout", {"body": "hi"}).reply({"id": 7})
    assert client.push(LOBBY, "shout", {"body": "hi"}).result(0) == Reply("ok", {"id": 7})


def test_a_push_is_refused(peer: Peer) -> None:
    client = joined(peer)
    peer.expect_push(LOBBY, "shout").refuse({"reason": "rude"})
    assert client.push(LOBBY, "shout").result(0) == Reply("error", {"reason": "rude"})


def test_a_push_that_is_never_answered_times_out(peer: Peer) -> None:
    client = joined(peer)
    peer.expect_push(LOBBY, "shout").ignore()
    pushing = client.push(LOBBY, "shout")
    peer.clock.advance(10)
    with pytest.raises(PushTimeout):
        pushing.result(0)


def test_the_time_passes_by_itself_when_a_message_comes_that_is_ignored(peer: Peer) -> None:
    client = peer.driver().connect()
    peer.expect_join(LOBBY).ignore(advance=10)
    with pytest.raises(JoinTimeout):
        client.join(LOBBY).result(0)


def test_it_passes_at_once_for_one_that_has_come(peer: Peer) -> None:
    joining = peer.driver().connect().join(LOBBY)
    peer.expect_join(LOBBY).ignore(advance=10)
    with pytest.raises(JoinTimeout):
        joining.result(0)


def test_it_passes_within_a_time_that_the_test_lets_pass(peer: Peer) -> None:
    client = peer.driver().connect()
    peer.allow_join(LOBBY)
    client.join(LOBBY)
    peer.cut()
    peer.expect_join(LOBBY).ignore(advance=10)
    peer.clock.advance(1)
    assert peer.clock.now() == pytest.approx(10.01)


@pytest.mark.parametrize(
    "script",
    [
        lambda peer: peer.expect_join(LOBBY).ignore(advance=-1),
        lambda peer: peer.refuse_connect(advance=-1),
        lambda peer: peer.fail_connect(advance=-1),
        lambda peer: peer.hold_connect(advance=-1),
    ],
)
def test_it_does_not_pass_backwards(script: Callable[[Peer], object]) -> None:
    with pytest.raises(ValueError, match="the time that passes is zero or positive, finite seconds, not -1"):
        script(Peer())


@pytest.mark.parametrize(
    ("option", "value"), [("patience", nan), ("patience", "10"), ("max_channels", -1), ("max_channels", 1.5)]
)
def test_an_option_that_cannot_be_is_refused_by_name(option: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{option} is "):
        Peer(**{option: value})


def test_a_cast_wants_no_reply(peer: Peer) -> None:
    client = joined(peer)
    client.cast(LOBBY, "shout", {"body": "hi"})
    assert peer.expect_push(LOBBY, "shout").payload == {"body": "hi"}


def test_a_payload_is_compared_as_it_is_on_the_wire() -> None:
    class Shout(msgspec.Struct):
        body: str

    with Peer() as peer:
        client = joined(peer)
        client.cast(LOBBY, "shout", Shout("hi"))
        peer.expect_push(LOBBY, "shout", Shout("hi"))


def test_what_could_never_come_is_expected_in_vain() -> None:
    peer = Peer()
    client = joined(peer)
    peer.expect_push(LOBBY, "shout", {"body": object(), "since": {1, ANYTHING}})
    client.cast(LOBBY, "shout", {"body": "hi"})
    with pytest.raises(UnexpectedConversation, match="<object object at"):
        peer.verify()


def test_bytes_travel_both_ways(peer: Peer) -> None:
    client = joined(peer)
    peer.expect_push(LOBBY, "frame", b"\x00").reply(b"\x01")
    assert client.push(LOBBY, "frame", b"\x00").result(0) == Reply("ok", b"\x01")
    peer.push(LOBBY, "frame", b"\x02")
    assert client.messages[0].payload == b"\x02"


def test_a_push_under_which_the_connection_is_cut_is_lost(peer: Peer) -> None:
    client = joined(peer)
    peer.expect_push(LOBBY, "shout")
    pushing = client.push(LOBBY, "shout")
    peer.cut()
    with pytest.raises(PushLost):
        pushing.result(0)


def test_pushes_that_are_allowed_are_answered(peer: Peer) -> None:
    client = joined(peer)
    peer.allow_push(LOBBY, "tick", {"n": 1})
    assert [client.push(LOBBY, "tick").result(0).response for _ in range(2)] == [{"n": 1}] * 2


def test_a_pattern_allows_every_push_of_a_topic_and_neither_its_join_nor_its_leave(peer: Peer) -> None:
    client = joined(peer)
    peer.allow_push("room:*", "*")
    assert [client.push(LOBBY, event).result(0).status for event in ("tick", "tock")] == ["ok", "ok"]
    leave = peer.expect_leave(LOBBY)
    client.leave(LOBBY).result(0)
    assert leave.came


def test_a_pattern_is_expected_once(peer: Peer) -> None:
    peer.expect_join("room:*").reply({"n": 1})
    peer.expect_join("room:*").reply({"n": 2})
    client = peer.driver().connect()
    assert [client.join(topic).result(0)["n"] for topic in ("room:1", "room:2")] == [1, 2]


@pytest.mark.parametrize(("topic", "event"), [("ro*m:lobby", "shout"), ("room:lobby", "*_msg")])
def test_a_pattern_that_is_none_is_refused(topic: str, event: str) -> None:
    with pytest.raises(ValueError, match=r'the "\*" must be the last character'):
        Peer().allow_push(topic, event)


def test_a_pattern_that_is_mistyped_is_noted() -> None:
    peer = Peer()
    peer.allow_join("romo:*")
    peer.driver().connect().join(LOBBY)
    with pytest.raises(UnexpectedConversation) as failure:
        peer.verify()
    words, _, _ = str(failure.value).partition("The conversation:")
    assert words.splitlines()[1:] == [
        "Came, and was not expected:",
        '  join of "room:lobby" {}',
        "Was allowed, and did not come:",
        '  join of "romo:*"',
    ]


def test_a_response_that_cannot_be_sent_is_refused_where_it_is_given() -> None:
    with pytest.raises(InvalidPayload):
        Peer().expect_push(LOBBY, "shout").reply({"n": float("nan")})


# ---- what the server sends ------------------------------------------------------------------------------------------


def test_a_push_and_a_broadcast_reach_the_client_in_order(peer: Peer) -> None:
    client = joined(peer)
    peer.push(LOBBY, "one", {"n": 1})
    peer.broadcast(LOBBY, "two")
    one, two = client.messages
    assert (one.event, one.payload, one.join_ref is None) == ("one", {"n": 1}, False)
    assert (two.event, two.payload, two.join_ref is None) == ("two", {}, True)


def test_a_client_that_speaks_the_older_version_is_answered_in_it(peer: Peer) -> None:
    client = peer.driver(ClientProtocol(peer.url, serializer=V1())).connect()
    peer.expect_join(LOBBY).reply()
    client.join(LOBBY).result(0)
    peer.push(LOBBY, "shout", {"body": "hi"})
    assert client.messages[0].payload == {"body": "hi"}
    assert "(vsn 1.0.0)" in str(peer.transcript)


def test_how_a_client_ended_is_told_by_the_code_of_its_close_frame(peer: Peer) -> None:
    peer.driver().connect().close()
    peer.driver().connect().abort()
    assert [connection.close_code for connection in peer.connections] == [1000, None]


def test_garbage_is_dropped_and_the_client_goes_on(peer: Peer) -> None:
    client = joined(peer)
    peer.send_raw("{not json")
    peer.push(LOBBY, "shout")
    assert [message.event for message in client.messages] == ["shout"]


def test_who_is_present_is_told_by_names_alone(peer: Peer) -> None:
    client = peer.driver().connect()
    presence = client.channel(LOBBY).track_presence()
    peer.expect_join(LOBBY).reply()
    client.join(LOBBY).result(0)
    peer.presence_state(LOBBY, {"ann": {"mood": "ok"}, "bob": [{"at": 1}, {"at": 2}]})
    peer.presence_diff(LOBBY, joins={"cid": {}, "ann": {"mood": "bad"}}, leaves=["ann", "bob"])
    assert sorted(presence.entries) == ["ann", "cid"]
    assert presence.entries["ann"]["metas"][0]["mood"] == "bad"
    assert len([event for event in client.events if isinstance(event, PresenceChanged)]) == 2


def test_who_is_present_is_told_again_after_a_rejoin(peer: Peer) -> None:
    client = peer.driver().connect()
    presence = client.channel(LOBBY).track_presence()
    peer.allow_join(LOBBY)
    client.join(LOBBY).result(0)
    peer.presence_state(LOBBY, {"ann": {}})
    peer.crash(LOBBY)
    peer.clock.advance(1)
    peer.presence_state(LOBBY)
    assert list(presence.entries) == ["ann"]


def test_nobody_can_leave_who_is_not_present(peer: Peer) -> None:
    joined(peer)
    peer.presence_state(LOBBY, {"ann": {}})
    with pytest.raises(CannotPlay) as failure:
        peer.presence_diff(LOBBY, leaves=["bob"])
    assert str(failure.value) == '"bob" is not present on "room:lobby"; present are: ann'


# ---- the connection -------------------------------------------------------------------------------------------------


def test_a_lost_connection_is_made_anew_and_its_topics_rejoined(peer: Peer) -> None:
    client = joined(peer)
    peer.cut()
    assert not peer.connected
    peer.expect_join(LOBBY).reply()
    peer.clock.advance(0.01)
    assert peer.joined == [LOBBY]
    assert [type(event) for event in client.events if isinstance(event, Connected | Disconnected)] == [
        Connected,
        Disconnected,
        Connected,
    ]


def test_a_close_tells_its_code(peer: Peer) -> None:
    client = peer.driver().connect()
    peer.close(1012, "restart")
    (lost,) = [event for event in client.events if isinstance(event, Disconnected)]
    assert (lost.code, lost.reason) == (1012, "restart")


def test_a_refused_connect_tells_status_and_body(peer: Peer) -> None:
    peer.refuse_connect(401, body="who are you?")
    with pytest.raises(HandshakeRefused) as refused:
        peer.driver().connect().connected().result(0)
    assert (refused.value.status, refused.value.body) == (401, b"who are you?")


def test_a_server_that_is_down_is_tried_again(peer: Peer) -> None:
    peer.fail_connect("connection refused", times=3)
    client = peer.driver().connect()
    peer.clock.advance(0.2)
    assert client.connected().done()
    assert len([event for event in client.events if isinstance(event, ConnectFailed)]) == 3


def test_a_server_that_does_not_answer_is_given_up(peer: Peer) -> None:
    peer.hold_connect()
    client = peer.driver().connect(timeout=5.0)
    peer.clock.advance(5)
    with pytest.raises(ConnectTimeout):
        client.connected().result(0)


def test_an_attempt_that_is_held_can_be_accepted_later(peer: Peer) -> None:
    peer.hold_connect()
    client = peer.driver().connect()
    assert not peer.connected
    peer.accept_connect(subprotocol="phoenix")
    assert client.connected().done()
    assert client.events[-1] == Connected("phoenix", False)


def test_heartbeats_are_answered_for_hours(peer: Peer) -> None:
    client = peer.driver().connect()
    peer.clock.advance(3 * 3600)
    assert client.proto.stats.connects == 1


def test_a_server_that_falls_silent_is_left(peer: Peer) -> None:
    client = peer.driver().connect()
    peer.stop_answering_heartbeats()
    peer.clock.advance(60)
    (lost,) = [event for event in client.events if isinstance(event, Disconnected)]
    assert lost.reason == "nothing was heard for 30 s after a heartbeat"
    peer.answer_heartbeats()
    peer.clock.advance(3600)
    assert client.proto.stats.connects == 2


def test_a_ping_is_answered_at_once(peer: Peer) -> None:
    assert peer.driver().connect().ping().result(0) == 0.0


def test_a_client_that_reads_nothing_is_told_nothing() -> None:
    options = ClientOptions(flow=FlowLimits(high=1, low=0, hard=10))
    with Peer() as peer:
        client = peer.driver(ClientProtocol(peer.url, options=options)).connect()
        peer.expect_join(LOBBY).reply()
        client.join(LOBBY).result(0)
        unread: list[Any] = []
        slow = Tap(unread.append)
        client.channel(LOBBY).attach(slow)
        peer.push(LOBBY, "one")
        peer.push(LOBBY, "two")
        assert [message.event for message in client.messages] == ["one"]
        client.channel(LOBBY).detach(slow)
        client.tell(lambda now: client.proto.handled(unread, now))
        assert [message.event for message in client.messages] == ["one", "two"]
        assert str(peer.transcript).endswith("client  reads on")


def test_a_client_can_close_gracefully(peer: Peer) -> None:
    client = joined(peer)
    assert client.close().result(0) is None
    assert client.state is SocketState.CLOSED
    assert not peer.connected


def test_a_client_can_reconnect(peer: Peer) -> None:
    client = joined(peer)
    client.reconnect()
    peer.expect_join(LOBBY).reply()
    assert len(peer.connections) == 2


def test_params_and_headers_of_a_connection_can_be_looked_at(peer: Peer) -> None:
    proto = ClientProtocol(peer.url, params={"user": "ann", "token": "s3cret"}, headers={"x-app": "1"})
    peer.driver(proto).connect()
    (connection,) = peer.connections
    assert connection.params == {"user": "ann", "token": "s3cret"}
    assert connection.headers["x-app"] == "1"


@pytest.mark.parametrize("form", ["plain", "async"])
def test_params_that_are_callables_are_read_at_every_connect(form: str) -> None:
    users = iter(["ann", "bob"])

    def plain() -> dict[str, str]:
        return {"user": next(users)}

    async def awaited() -> dict[str, str]:
        return plain()

    with Peer() as peer:
        peer.driver(ClientProtocol(peer.url, params=plain if form == "plain" else awaited)).connect()
        peer.cut()
        peer.clock.advance(1)
        assert [connection.params["user"] for connection in peer.connections] == ["ann", "bob"]


def test_params_whose_callable_raises_are_asked_for_again() -> None:
    answers: list[Any] = [OSError("vault"), {"user": "ann"}]

    def give() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    with Peer() as peer:
        client = peer.driver(ClientProtocol(peer.url, params=give)).connect()
        peer.clock.advance(1)
        assert client.connected().done()


def test_a_client_that_fails_tells_whoever_waits_for_its_end(peer: Peer) -> None:
    client = peer.driver().connect()
    closed = client.closed()
    client.fail(RuntimeError("broken"))
    with pytest.raises(RuntimeError, match="broken"):
        closed.result(0)


def test_a_policy_of_the_clients_own_is_kept() -> None:
    options = ClientOptions(reconnect=ReconnectPolicy(final_codes=frozenset({1000})))
    with Peer() as peer:
        client = peer.driver(ClientProtocol(peer.url, options=options, rng=Random(1))).connect()
        peer.close(1000)
        with pytest.raises(ConnectionClosed):
            client.closed().result(0)


def test_the_end_of_the_context_verifies() -> None:
    def fail() -> None:
        with Peer() as peer:
            peer.expect_join(LOBBY)

    with pytest.raises(UnexpectedConversation):
        fail()


def test_what_the_server_may_allow_itself_to_send_is_checked(peer: Peer) -> None:
    joined(peer)
    with pytest.raises(InvalidPayload):
        peer.push(LOBBY, "shout", {"n": float("nan")})


def test_a_rejoin_of_a_topic_that_is_joined_ends_the_old_channel_as_a_real_server_does(peer: Peer) -> None:
    client = joined(peer)
    peer.expect_leave(LOBBY).ignore()
    leaving = client.leave(LOBBY)
    peer.expect_join(LOBBY).reply()
    client.join(LOBBY).result(0)
    assert leaving.done()
    assert [entry.words for entry in peer.transcript][-2:] == [
        'answers the join of "room:lobby" with ok',
        'closes "room:lobby"',
    ]
    assert peer.joined == [LOBBY]


# ---- how a test fails -----------------------------------------------------------------------------------------------


def test_what_was_not_expected_fails_with_the_conversation() -> None:
    peer = Peer()
    client = joined(peer)
    peer.clock.advance(1.5)
    client.cast(LOBBY, "shout", {"body": "hi"})
    with pytest.raises(UnexpectedConversation) as failure:
        peer.verify()
    assert (
        str(failure.value)
        == """\
The conversation did not go as expected.
Came, and was not expected:
  push "shout" on "room:lobby" {"body":"hi"}
The conversation:
    0.000  client  connects to ws://peer.test/socket/websocket (vsn 2.0.0)
    0.000  server  accepts the connection
    0.000  client  joins "room:lobby" {}
    0.000  server  answers the join of "room:lobby" with ok {}
    1.500  client  pushes "shout" to "room:lobby" {"body":"hi"}"""
    )


def test_what_did_not_come_fails_with_the_conversation() -> None:
    peer = Peer()
    peer.driver().connect()
    peer.expect_join(LOBBY, {"since": 7})
    peer.expect_push(LOBBY, "shout", {"id": ANYTHING})
    peer.expect_leave(LOBBY)
    peer.refuse_connect(503)
    peer.accept_connect()
    peer.fail_connect()
    peer.hold_connect()
    with pytest.raises(UnexpectedConversation) as failure:
        peer.verify()
    assert (
        str(failure.value)
        == """\
The conversation did not go as expected.
Was expected, and did not come:
  join of "room:lobby" {"since":7}
  push "shout" on "room:lobby" {"id":"ANYTHING"}
  leave of "room:lobby"
  an attempt to connect, to be refused
  an attempt to connect, to be accepted
  an attempt to connect, to fail
  an attempt to connect, to be held
The conversation:
    0.000  client  connects to ws://peer.test/socket/websocket (vsn 2.0.0)
    0.000  server  accepts the connection"""
    )


def test_a_push_with_another_payload_is_named_on_both_sides() -> None:
    peer = Peer()
    client = joined(peer)
    peer.expect_push(LOBBY, "shout", {"body": "hello"})
    client.cast(LOBBY, "shout", {"body": "hi"})
    with pytest.raises(UnexpectedConversation) as failure:
        peer.verify()
    assert str(failure.value).startswith("""\
The conversation did not go as expected.
Came, and was not expected:
  push "shout" on "room:lobby" {"body":"hi"}
Was expected, and did not come:
  push "shout" on "room:lobby" {"body":"hello"}
The conversation:
""")


def test_everything_that_can_be_said_reads_well(peer: Peer) -> None:
    peer.fail_connect()
    peer.refuse_connect(503)
    peer.allow_join(LOBBY)
    client = peer.driver(ClientProtocol(peer.url, params={"user": "ann", "auth_token": "s3cret"})).connect()
    client.join(LOBBY, {"token": "s3cret", "since": 7})
    peer.clock.advance(1)
    peer.push(LOBBY, "key", {"api_key": "s3cret", "list": [{"password": "s3cret"}]})
    peer.push(LOBBY, "frame", b"123")
    peer.broadcast(LOBBY, "shout")
    peer.send_raw("null")
    client.channel(LOBBY)
    peer.crash(LOBBY)
    peer.clock.advance(1)
    peer.close_channel(LOBBY)
    peer.note("and now the end")
    peer.clock.advance(29)
    peer.close(1012, "bye")
    peer.hold_connect()
    peer.clock.advance(5)
    client.abort()
    assert "s3cret" not in str(peer.transcript)
    assert (
        str(peer.transcript)
        == """\
    0.000  client  connects to ws://peer.test/socket/websocket (vsn 2.0.0) with user=ann&auth_token=…
    0.000  note  no server is there: connection refused
    0.010  client  connects to ws://peer.test/socket/websocket (vsn 2.0.0) with user=ann&auth_token=…
    0.010  server  refuses the connection with HTTP 503
    0.060  client  connects to ws://peer.test/socket/websocket (vsn 2.0.0) with user=ann&auth_token=…
    0.060  server  accepts the connection
    0.060  client  joins "room:lobby" {"token":"…","since":7}
    0.060  server  answers the join of "room:lobby" with ok {}
    1.000  server  pushes "key" to "room:lobby" {"api_key":"…","list":[{"password":"…"}]}
    1.000  server  pushes "frame" to "room:lobby" <3 bytes>
    1.000  server  broadcasts "shout" to "room:lobby" {}
    1.000  server  sends a frame of its own, of size 4
    1.000  server  crashes "room:lobby" {"reason":"channel_crash"}
    2.000  client  joins "room:lobby" {"token":"…","since":7}
    2.000  server  answers the join of "room:lobby" with ok {}
    2.000  server  closes "room:lobby"
    2.000  note  and now the end
   30.060  client  sends a heartbeat
   30.060  server  answers the heartbeat
   31.000  server  closes the connection with 1012 (bye)
   36.000  client  connects to ws://peer.test/socket/websocket (vsn 2.0.0) with user=ann&auth_token=…
   36.000  note  the handshake is not answered yet
   36.000  client  gives up connecting"""
    )


def test_an_error_that_passes_the_peer_gets_the_conversation_as_a_note() -> None:
    def fail() -> None:
        with Peer() as peer:
            peer.driver().connect()
            raise KeyError("mine")

    with pytest.raises(KeyError) as error:
        fail()
    assert error.value.__notes__ == [
        "The conversation:\n"
        "    0.000  client  connects to ws://peer.test/socket/websocket (vsn 2.0.0)\n"
        "    0.000  server  accepts the connection"
    ]


def test_nothing_can_be_pushed_to_a_topic_that_is_not_joined(peer: Peer) -> None:
    joined(peer)
    with pytest.raises(CannotPlay) as failure:
        peer.push("room:other", "shout")
    assert str(failure.value).startswith(
        'The server cannot push "shout": "room:other" is not joined, but "room:lobby".\nThe conversation:\n'
    )


def test_nothing_can_be_closed_without_a_connection() -> None:
    with Peer() as peer, pytest.raises(CannotPlay) as failure:
        peer.close()
    assert str(failure.value) == (
        "The server cannot end the connection: no connection is open.\nThe conversation:\n   (nothing was said)"
    )


def test_nothing_is_answered_twice(peer: Peer) -> None:
    join = peer.expect_join(LOBBY).reply()
    peer.driver().connect().join(LOBBY)
    with pytest.raises(CannotPlay) as failure:
        join.refuse()
    assert str(failure.value) == 'What the server does with the join of "room:lobby" is decided already.'


def test_nothing_is_answered_after_its_connection(peer: Peer) -> None:
    join = peer.expect_join(LOBBY)
    peer.driver().connect().join(LOBBY)
    peer.cut()
    with pytest.raises(CannotPlay) as failure:
        join.reply()
    assert str(failure.value).startswith('The join of "room:lobby" {} cannot be answered: its connection is gone.')


def test_what_has_not_come_has_no_payload(peer: Peer) -> None:
    push = peer.expect_push(LOBBY, "shout")
    with pytest.raises(UnexpectedConversation) as failure:
        _ = push.payload
    assert str(failure.value).startswith('The push "shout" on "room:lobby" did not come.\nThe conversation:\n')
    joined(peer).cast(LOBBY, "shout")


def test_what_is_waited_for_in_vain_fails_the_test() -> None:
    peer = Peer()
    with pytest.raises(UnexpectedConversation, match='The join of "room:lobby" did not come'):
        peer.expect_join(LOBBY).wait(timeout=0.01)


def test_what_came_before_it_was_waited_for_is_told(peer: Peer) -> None:
    joined(peer)
    peer.clock.advance(2)
    expectation = peer.expect_join(LOBBY)
    with pytest.raises(UnexpectedConversation) as failure:
        expectation.wait(timeout=0.01)
    assert str(failure.value).startswith(
        'The join of "room:lobby" did not come. One came at 0.000, and something else had expected or allowed it.\n'
    )
    peer.driver().connect().join(LOBBY)
    expectation.reply()


def test_of_a_long_conversation_a_failure_shows_the_beginning_and_the_end(peer: Peer) -> None:
    joined(peer)
    peer.clock.advance(3600)
    with pytest.raises(CannotPlay) as failure:
        peer.push("room:other", "shout")
    lines = str(failure.value).splitlines()[2:]
    assert len(lines) == 51
    assert lines[12] == "           … 194 more lines, which `print(transcript)` shows …"
    assert [lines[0], lines[-1]] == [str(peer.transcript.entries[0]), str(peer.transcript.entries[-1])]


def test_the_transcript_can_be_read_entry_by_entry(peer: Peer) -> None:
    joined(peer)
    join = [entry for entry in peer.transcript if entry.event == "phx_join"]
    assert [(entry.side, entry.topic, entry.payload) for entry in join] == [
        (Side.CLIENT, LOBBY, {}),
        (Side.SERVER, LOBBY, {}),
    ]
    assert len(peer.transcript) == 4


def test_an_entry_of_the_transcript_does_not_show_its_payload_in_its_repr(peer: Peer) -> None:
    peer.allow_join(LOBBY)
    peer.driver().connect().join(LOBBY, {"pin": "1234"})
    assert "1234" not in repr(peer.transcript.entries)


def test_a_push_to_a_channel_that_has_crashed_is_answered_as_by_a_real_server(peer: Peer) -> None:
    client = joined(peer)
    peer._network.connections[0].joined.clear()
    assert client.push(LOBBY, "shout").result(0) == Reply("error", {"reason": "unmatched topic"})
