"""Connecting, and what else a client does as a whole.

How it comes back: test_client_reconnecting.py; how it ends: test_client_ending.py.
"""

from math import inf
from random import Random
from typing import Any

import pytest
from conversation import EMPTY, START, STEPS, Conversation, dialling, opening

from phx_proto.client import ClientProtocol
from phx_proto.commands import AbortTransport, OpenTransport
from phx_proto.errors import (
    CertificateError,
    ConnectError,
    ConnectTimeout,
    HandshakeRefused,
    InvalidEndpoint,
    InvalidState,
    PushLost,
    ResolveFailed,
    StillRefused,
    TopicInUse,
)
from phx_proto.events import (
    Closed,
    Connected,
    ConnectFailed,
    Connecting,
    PingAnswered,
    PushFailed,
)
from phx_proto.formats import V2
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.states import ChannelState, SocketState

# ---- connecting -----------------------------------------------------------------------------------------------------


def test_connecting_opens_the_address_with_everything_in_it() -> None:
    talk = dialling(url="wss://example.com/socket", params={"user": 7}, auth_token="s3cret", headers={"x-app": "1"})
    command = opening(talk)
    assert command.url == "wss://example.com/socket/websocket?user=7&vsn=2.0.0"
    assert command.subprotocols == ("phoenix", "base64url.bearer.phx.czNjcmV0")
    assert command.headers == (("x-app", "1"),)
    assert talk.events() == [Connecting(1)]


@pytest.mark.parametrize(("vsn", "asked"), [(1, "1.0.0"), (2, "2.0.0")])
def test_the_serializer_says_which_version_is_asked_for(vsn: int, asked: str) -> None:
    assert opening(dialling(vsn=vsn)).url.endswith(f"?vsn={asked}")


def test_a_client_has_a_serializer_a_router_and_options_without_being_given_any() -> None:
    proto = ClientProtocol("ws://localhost/socket")
    proto.connect(0.0)
    (command,) = proto.commands()
    assert isinstance(command, OpenTransport)
    assert command.url.endswith("vsn=2.0.0")
    assert proto.next_timeout() == 10.0


def test_an_open_connection_is_told_with_its_subprotocol() -> None:
    talk = dialling()
    talk.link.opened("phoenix", talk.now)
    assert talk.events() == [Connecting(1), Connected("phoenix", reconnected=False)]
    assert talk.proto.state is SocketState.OPEN


def test_an_address_that_cannot_be_is_refused_when_the_client_is_made() -> None:
    with pytest.raises(InvalidEndpoint):
        ClientProtocol("ftp://example.com")


def test_params_that_became_unsendable_are_a_failed_attempt() -> None:
    params: dict[str, Any] = {"user": 7}
    talk = Conversation(params=params)
    params["user"] = object()
    talk.proto.connect(talk.now)
    _, failed = talk.events()
    assert isinstance(failed, ConnectFailed)
    assert isinstance(failed.error, ResolveFailed)
    params["user"] = 8
    talk.advance(failed.retry_in)
    assert "user=8" in opening(talk).url


def test_params_that_are_a_callable_are_asked_for_first() -> None:
    talk = dialling(params=dict)
    assert talk.proto.state.value == "resolving"
    assert not [command for command in talk.commands() if isinstance(command, OpenTransport)]
    assert [question.provider for question in talk.questions] == [dict]
    talk.resolve({"user": 7})
    assert "user=7" in opening(talk).url
    assert talk.proto.state.value == "opening"


def test_params_and_token_are_both_waited_for() -> None:
    talk = dialling(params=lambda: EMPTY, auth_token=lambda: "")
    talk.resolve({"user": 7})
    assert talk.proto.state.value == "resolving"
    talk.resolve("s3cret")
    command = opening(talk)
    assert "user=7" in command.url
    assert command.subprotocols[0] == "phoenix"


def test_a_callable_is_read_again_at_every_attempt() -> None:
    talk = dialling(auth_token=lambda: "")
    talk.resolve("first")
    before = opening(talk).subprotocols
    talk.drop()
    talk.advance(0.01)
    talk.resolve("second")
    assert opening(talk).subprotocols != before


def test_static_params_are_read_again_too() -> None:
    params = {"since": 1}
    talk = Conversation(params=params).connect()
    params["since"] = 2
    talk.drop()
    talk.advance(0.01)
    assert "since=2" in opening(talk).url


def test_a_callable_that_raises_is_a_failed_attempt_that_does_not_show_what_it_said() -> None:
    talk = dialling(params=lambda: EMPTY, auth_token=lambda: "")
    raised = KeyError("s3cret")
    talk.resolve_failed(raised)
    _, failed = talk.events()
    assert isinstance(failed, ConnectFailed)
    assert isinstance(failed.error, ResolveFailed)
    assert str(failed.error) == "the callable for params raised KeyError"
    assert (failed.error.raised, failed.retry_in) == (raised, 0.01)


def test_what_another_callable_says_after_one_has_raised_finds_nobody() -> None:
    talk = dialling(params=lambda: EMPTY, auth_token=lambda: "")
    talk.resolve_failed(OSError())
    talk.resolve("s3cret")
    assert talk.proto.state is SocketState.WAITING


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (["a", "list"], "params must be a mapping, not list"),
        ({"x": object()}, "param 'x' cannot carry object: "),
        (7, "params must be a mapping, not int"),
    ],
)
def test_a_callable_that_gives_what_cannot_be_sent_is_a_failed_attempt(value: Any, problem: str) -> None:
    talk = dialling(params=lambda: EMPTY)
    talk.resolve(value)
    _, failed = talk.events()
    assert isinstance(failed, ConnectFailed)
    assert isinstance(failed.error, ResolveFailed)
    assert failed.error.problem.startswith(problem)


def test_an_answer_that_comes_after_its_attempt_finds_nobody() -> None:
    talk = dialling(params=lambda: EMPTY)
    talk.advance(10.0 + 0.01)
    late, current = (question.request for question in talk.questions)
    talk.proto.resolved(late, {"user": "late"}, talk.now)
    talk.proto.resolve_failed(late, OSError(), talk.now)
    assert talk.proto.state.value == "resolving"
    talk.proto.resolved(current, {"user": "current"}, talk.now)
    assert "user=current" in opening(talk).url


# ---- attempts that fail ---------------------------------------------------------------------------------------------


def test_an_attempt_that_fails_is_told_and_followed_by_the_next() -> None:
    talk = dialling()
    error = ConnectError("no route to host")
    talk.link.failed(error, talk.now)
    assert talk.events() == [Connecting(1), ConnectFailed(error, 1, 0.01)]
    assert talk.proto.state is SocketState.WAITING
    assert talk.proto.next_timeout() == talk.now + 0.01
    talk.advance(0.01)
    assert talk.events() == [Connecting(2)]


def test_a_connection_that_closes_before_it_is_open_is_a_failed_attempt() -> None:
    talk = dialling()
    talk.drop(reason="reset by peer")
    _, failed = talk.events()
    assert isinstance(failed, ConnectFailed)
    assert str(failed.error) == "the connection is closed without a close code: reset by peer"


def test_failed_attempts_wait_by_the_steps_and_go_on_for_ever_by_default() -> None:
    talk = dialling()
    waits = []
    for _ in range(30):
        talk.link.failed(ConnectError("refused"), talk.now)
        waits.append(talk.event(ConnectFailed).retry_in)
        talk.advance(waits[-1])
    assert waits == [*STEPS, *[5] * 20]


def test_waits_are_spread_downward_by_the_random_source() -> None:
    expected = Random(7)
    talk = dialling(rng=Random(7))
    for step in STEPS:
        talk.link.failed(ConnectError("refused"), talk.now)
        wait = talk.event(ConnectFailed).retry_in
        assert wait == expected.uniform(step / 2, step)
        talk.advance(wait)


def test_waits_after_a_refused_handshake_are_spread_too() -> None:
    expected = Random(7)
    talk = dialling(rng=Random(7))
    for step in STEPS:
        talk.link.refused(503, {}, b"", talk.now)
        wait = talk.event(ConnectFailed).retry_in
        assert wait == max(expected.uniform(step / 2, step), expected.uniform(0, 0))
        talk.advance(wait)


def test_an_attempt_is_dropped_when_it_takes_too_long() -> None:
    talk = dialling()
    link = talk.link
    talk.advance(9.999)
    assert talk.proto.state.value == "opening"
    talk.advance(0.001)
    assert AbortTransport(link) in talk.commands()
    failed = talk.event(ConnectFailed)
    assert str(failed.error) == "the server did not answer the handshake within 10 s"


def test_the_time_for_an_attempt_includes_its_callables() -> None:
    talk = dialling(params=lambda: EMPTY)
    talk.advance(6.0)
    talk.resolve({})
    talk.advance(4.0)
    assert talk.event(ConnectFailed).retry_in == 0.01


def test_callables_that_do_not_answer_are_given_up_in_the_same_time() -> None:
    talk = dialling(ClientOptions(open_timeout=3.0), params=lambda: EMPTY)
    talk.advance(3.0)
    failed = talk.event(ConnectFailed)
    assert str(failed.error) == "the callables for params and token did not answer within 3 s"


def test_an_open_connection_has_no_time_to_be_opened_in() -> None:
    talk = Conversation(ClientOptions(heartbeat=100.0)).connect()
    talk.advance(99.0)
    assert talk.proto.state is SocketState.OPEN


# ---- the first connect as a whole -----------------------------------------------------------------------------------


def test_the_first_connect_is_given_up_after_its_timeout_and_tells_the_last_error() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now, timeout=2.0)
    last = ConnectError("refused")
    for _ in range(5):
        talk.link.failed(last, talk.now)
        talk.advance(talk.event(ConnectFailed).retry_in)
    talk.advance(2.0)
    closed = talk.event(Closed)
    assert isinstance(closed.error, ConnectTimeout)
    assert (closed.error.timeout, closed.error.last) == (2.0, last)
    assert talk.now == pytest.approx(START + 2.0 + 0.51)
    assert talk.proto.state is SocketState.CLOSED


def test_a_connect_timeout_drops_the_attempt_under_way() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now, timeout=2.0)
    link = talk.link
    talk.advance(2.0)
    assert talk.commands()[-1] == AbortTransport(link)
    error = talk.event(Closed).error
    assert isinstance(error, ConnectTimeout)
    assert str(error.last) == "the server did not answer the handshake within 2 s"


def test_what_an_attempt_waits_for_is_told_when_its_time_is_over() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now)
    talk.link.waits("example.com:80 (192.0.2.1) did not accept a TCP connection")
    talk.advance(10.0)
    error = talk.event(ConnectFailed).error
    assert str(error) == "example.com:80 (192.0.2.1) did not accept a TCP connection within 10 s"


def test_the_body_of_a_refusal_is_waited_for_a_second_however_it_trickles() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now)
    link = talk.link
    talk.advance(5.0)
    for body in (b"", b"n", b"no"):
        link.refusing(HandshakeRefused(status=403, body=body), talk.now)
        talk.advance(0.3)
    talk.advance(0.05)
    assert talk.proto.state is SocketState.OPENING
    talk.advance(0.1)
    assert talk.commands()[-1] == AbortTransport(link)
    error = talk.event(Closed).error
    assert isinstance(error, HandshakeRefused)
    assert (error.status, error.body, error.url) == (403, b"no", talk.proto.endpoint.redacted)


def test_a_refusal_whose_body_is_coming_is_told_at_the_end_of_the_first_connect() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now, timeout=2.0)
    talk.advance(1.5)
    talk.link.refusing(HandshakeRefused(status=503), talk.now)
    talk.advance(0.5)
    error = talk.event(Closed).error
    assert isinstance(error, StillRefused)
    assert (error.status, error.url) == (503, talk.proto.endpoint.redacted)


def test_a_refusal_told_to_a_link_of_the_past_changes_nothing() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now)
    link = talk.link
    talk.advance(10.0)
    link.refusing(HandshakeRefused(status=403), talk.now)
    assert talk.proto.state is SocketState.WAITING


def test_a_refusal_told_to_a_link_that_is_open_changes_nothing() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now)
    talk.link.opened(None, talk.now)
    talk.link.refusing(HandshakeRefused(status=403), talk.now)
    talk.advance(2.0)
    assert talk.proto.state is SocketState.OPEN


def test_a_connect_timeout_runs_while_callables_are_asked() -> None:
    talk = Conversation(params=lambda: EMPTY)
    talk.proto.connect(talk.now, timeout=2.0)
    talk.advance(2.0)
    assert isinstance(talk.event(Closed).error, ConnectTimeout)
    talk.resolve({})
    assert talk.proto.state is SocketState.CLOSED


def test_an_endless_connect_timeout_sets_no_timer() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now, timeout=inf)
    assert talk.proto.next_timeout() == talk.now + 10.0


def test_a_reconnect_has_no_timeout() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now, timeout=2.0)
    talk.accept().drop()
    talk.advance(3600.0)
    assert talk.proto.state is not SocketState.CLOSED


# ---- refused and failed for good ------------------------------------------------------------------------------------

CLIENT_ERRORS = (400, 404, 410, 426)
TRY_AGAIN = (408, 425, 429, 500, 502, 503, 599)
CREDENTIALS = (401, 403)

#: status, connected before, credentials from a callable: whether another attempt follows
REFUSALS = [
    *[(status, False, renewable, False) for status in CLIENT_ERRORS for renewable in (False, True)],
    *[(status, True, renewable, True) for status in CLIENT_ERRORS for renewable in (False, True)],
    *[(status, again, renewable, renewable) for status in CREDENTIALS for again in (0, 1) for renewable in (0, 1)],
    *[(status, again, renewable, True) for status in TRY_AGAIN for again in (0, 1) for renewable in (0, 1)],
]


def attempt(*, again: bool, renewable: bool) -> Conversation:
    """An attempt that awaits the server's answer."""
    talk = dialling(params=(lambda: EMPTY) if renewable else None)
    for _ in range(1 + again):
        if renewable:
            talk.resolve({})
        if again and talk.proto.stats.connects == 0:
            talk.accept().drop()
            talk.advance(0.01)
    talk.events()
    return talk


@pytest.mark.parametrize(("status", "again", "renewable", "retried"), REFUSALS)
def test_a_refused_handshake_is_retried_or_not(status: int, again: bool, renewable: bool, retried: bool) -> None:
    talk = attempt(again=again, renewable=renewable)
    talk.link.refused(status, {"X-Why": "because"}, b"no", talk.now)
    (event,) = talk.events()
    assert isinstance(event, ConnectFailed if retried else Closed)
    assert isinstance(event.error, HandshakeRefused)
    assert (event.error.status, event.error.body, event.error.headers) == (status, b"no", {"x-why": "because"})


def test_a_server_that_asks_for_patience_gets_it() -> None:
    talk = dialling()
    talk.link.refused(429, {"Retry-After": "20"}, b"", talk.now)
    assert talk.event(ConnectFailed).retry_in == 30.0


@pytest.mark.parametrize("again", [False, True])
def test_a_certificate_that_is_not_accepted_is_final_at_the_first_connect(again: bool) -> None:
    talk = attempt(again=again, renewable=False)
    error = CertificateError("it has expired")
    talk.link.failed(error, talk.now)
    (event,) = talk.events()
    assert isinstance(event, ConnectFailed if again else Closed)
    assert event.error is error


def test_a_refusal_for_good_closes_the_channels_with_its_error() -> None:
    talk = Conversation()
    channel = talk.joining()
    talk.proto.connect(talk.now)
    talk.link.refused(403, {}, b"", talk.now)
    assert channel.state is ChannelState.CLOSED
    assert isinstance(talk.event(Closed).error, HandshakeRefused)


# ---- channels and pings ---------------------------------------------------------------------------------------------


def test_a_topic_has_one_live_channel() -> None:
    talk = Conversation().connect()
    first = talk.channel("room:1")
    with pytest.raises(TopicInUse) as caught:
        talk.channel("room:1")
    assert caught.value.topic == "room:1"
    first.leave(talk.now)
    assert talk.channel("room:1") is not first


def test_a_ping_is_a_heartbeat_whose_answer_is_told() -> None:
    talk = Conversation().connect()
    talk.answers_heartbeats = False
    ref = talk.ping()
    assert talk.sent() == [(None, ref, "phoenix", "heartbeat", {})]
    talk.advance(0.25)
    talk.reply(ref)
    assert talk.events() == [PingAnswered(ref, 0.25)]


def test_a_ping_under_way_is_lost_with_the_connection() -> None:
    talk = Conversation().connect()
    talk.answers_heartbeats = False
    ref = talk.ping()
    talk.drop()
    failed = talk.event(PushFailed)
    assert failed.ref == ref
    assert isinstance(failed.error, PushLost)
    assert failed.error.sent


# ---- as a whole -----------------------------------------------------------------------------------------------------


def test_the_client_shows_where_it_is_connected_to_and_its_state() -> None:
    proto = ClientProtocol("wss://example.com/socket?api_key=s3cret", params={"token": "s3cret"})
    assert repr(proto) == "ClientProtocol('wss://example.com/socket/websocket', idle)"


def test_stats_are_a_copy_that_stays_as_it_was() -> None:
    talk = Conversation().connect()
    stats = talk.proto.stats
    talk.receive("garbage")
    assert (stats.bad_frames, talk.proto.stats.bad_frames) == (0, 1)


def test_stats_count_what_became_of_every_frame() -> None:
    router = Router()
    router.add(lambda message: None, "tick")
    talk = Conversation(router=router).connect()
    room = talk.joined("room:1")
    ref = talk.push(room)
    talk.reply(ref)
    before = talk.proto.stats
    assert (before.received, before.connects, before.reconnects) == (2, 1, 0)
    talk.receive("garbage")
    for event in ("tick", "tick", "tick", "unheard"):
        talk.serve("room:1", event)
    talk.serve("room:2", "tick")
    stats = talk.proto.stats
    assert (stats.received, stats.bad_frames) == (7, 1)
    assert (stats.delivered, stats.unhandled, stats.stale, stats.dropped) == (3, 1, 1, 0)
    assert (stats.handled, stats.backlog) == (0, 3)
    talk.deliveries()
    assert (talk.proto.stats.handled, talk.proto.stats.backlog) == (3, 0)


def scripted_session() -> list[Any]:
    """A session with a bit of everything, and all that came of it."""
    router = Router()
    router.add(lambda message: None, "*")
    talk = Conversation(router=router, rng=Random(11), params=lambda: EMPTY)
    talk.proto.connect(talk.now, timeout=60.0)
    talk.resolve({"user": 7})
    rooms = [talk.joining(f"room:{number}") for number in range(50)]
    talk.link.refused(503, {}, b"", talk.now)
    talk.advance(0.01)
    talk.resolve({"user": 7})
    outputs: list[Any] = [talk.commands(), talk.events()]
    talk.accept()
    for room in rooms[:40]:
        talk.reply(room.join_ref)
    refs = [talk.push(room, "shout", {"n": 1}) for room in rooms[:30]]
    talk.reply(refs[3])
    talk.receive("garbage", '[null,null,"room:1","tick",{}]')
    talk.crash_channel("room:5", rooms[5].join_ref)
    talk.advance(1.0)
    talk.drop(1012)
    outputs += [talk.commands(), talk.events(), talk.sent(), talk.deliveries()]
    talk.advance(40.0)
    talk.proto.close(talk.now)
    talk.advance(40.0)
    outputs += [talk.commands(), talk.events(), talk.sent(), talk.proto.stats]
    return outputs


def test_the_same_inputs_give_the_same_outputs() -> None:
    assert repr(scripted_session()) == repr(scripted_session())


def test_a_serializer_of_ones_own_is_used_both_ways() -> None:
    class Upside(V2):
        def encode(self, message: Message[Any], /) -> str | bytes:
            frame = super().encode(message)
            assert isinstance(frame, str)
            return frame[::-1]

        def decode(self, frame: str | bytes, /) -> Message[Any]:
            assert isinstance(frame, str)
            return super().decode(frame[::-1])

    proto = ClientProtocol("ws://localhost/socket", serializer=Upside())
    proto.connect(0.0)
    (command,) = proto.commands()
    assert isinstance(command, OpenTransport)
    command.link.opened(None, 0.0)
    ref = proto.ping(0.0)
    (sent,) = proto.commands()
    assert getattr(sent, "data") == f'[null,"{ref}","phoenix","heartbeat",{{}}]'[::-1]  # noqa: B009
    command.link.receive(f'[null,"{ref}","phoenix","phx_reply",{{"status":"ok"}}]'[::-1], 1.0)
    assert proto.events()[-1] == PingAnswered(ref, 1.0)


def test_an_adapter_can_mask_what_was_sent_to_connect() -> None:
    talk = Conversation(params={"token": "s3cret-token"})
    talk.proto.connect(talk.now)
    assert "s3cret-token" not in talk.proto.secrets.masked("you sent s3cret-token")


def test_the_channels_of_a_client_are_found_by_topic_until_they_end() -> None:
    talk = Conversation().connect()
    channels = talk.proto.channels
    rooms = {topic: talk.joined(topic) for topic in ("room:1", "room:2")}
    assert dict(channels) == rooms
    talk.leave(rooms["room:1"])
    assert list(channels) == ["room:2"]


def test_the_command_to_connect_shows_no_param_of_its_path() -> None:
    talk = dialling(url="ws://localhost:4000/socket", path="/:key", params={"key": "s3cret"})
    command = opening(talk)
    assert command.url == "ws://localhost:4000/socket/s3cret?vsn=2.0.0"
    assert command.shown == "ws://localhost:4000/socket/:key"
    assert repr(command) == "OpenTransport(link=Link(1), url='ws://localhost:4000/socket/:key', …)"


def test_what_is_not_possible_now_says_when_it_is() -> None:
    talk = Conversation()
    for call, advice in (
        (talk.proto.ping, "it needs an open connection, see wait_connected"),
        (talk.proto.reconnect, "it needs a client that was connected and is not closed"),
        (lambda now: talk.connect().proto.connect(now), "it is called once; reconnect connects anew"),
    ):
        with pytest.raises(InvalidState) as caught:
            call(talk.now)
        assert caught.value.advice == advice
