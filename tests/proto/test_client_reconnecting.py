"""Staying connected: lost connections, the ones that the application drops, and links that no longer count."""

from random import Random
from typing import Any

import pytest
from conversation import EMPTY, STEPS, Conversation, dialling, opening

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.commands import AbortTransport
from phx_proto.errors import CertificateError, ConnectError, ConnectionClosed, ConnectTimeout
from phx_proto.events import (
    BadFrame,
    ChannelErrored,
    Closed,
    Connected,
    ConnectFailed,
    Connecting,
    Disconnected,
    PushFailed,
)
from phx_proto.options import ClientOptions
from phx_proto.states import SocketState

# ---- lost and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "earliest", "latest"),
    [
        (None, 0.005, 0.01),
        (1000, 0.005, 0.01),
        (1001, 0.005, 0.01),
        (1002, 0.005, 0.01),
        (1006, 0.005, 0.01),
        (1011, 0.005, 0.01),
        (1012, 0.0, 5.0),
        (1013, 5.0, 30.0),
        (4000, 0.005, 0.01),
    ],
)
def test_a_lost_connection_tells_its_code_and_when_it_will_be_tried_again(
    code: int | None, earliest: float, latest: float
) -> None:
    expected = Random(7).uniform(earliest, latest)
    talk = Conversation(rng=Random(7)).connect()
    talk.link.closed(code, "why", talk.now)
    assert talk.events() == [Disconnected(code, "why", expected)]
    assert talk.proto.next_timeout() == talk.now + expected


def test_a_connection_that_is_back_says_so() -> None:
    talk = Conversation().connect()
    talk.drop()
    talk.advance(0.01)
    talk.link.opened(None, talk.now)
    assert talk.events() == [Disconnected(None, "cut", 0.01), Connecting(2), Connected(None, reconnected=True)]
    assert talk.proto.stats.reconnects == 1


def test_a_close_code_that_the_policy_calls_final_ends_the_client() -> None:
    talk = Conversation(ClientOptions(reconnect=ReconnectPolicy(final_codes=frozenset({1000})))).connect()
    talk.link.closed(1000, "bye", talk.now)
    error = talk.event(Closed).error
    assert isinstance(error, ConnectionClosed)
    assert (error.code, error.reason) == (1000, "bye")


def test_an_adapter_that_reports_a_failure_of_an_open_connection_is_understood() -> None:
    talk = Conversation().connect()
    talk.link.failed(ConnectError("broken pipe"), talk.now)
    assert talk.events() == [Disconnected(None, "broken pipe", 0.01)]


def drop_again_and_again(open_for: float, times: int) -> list[float | None]:
    talk = Conversation().connect()
    waits = []
    for _ in range(times):
        talk.advance(open_for)
        talk.drop()
        waits.append(talk.event(Disconnected).retry_in)
        talk.advance(waits[-1] or 0.0)
        talk.accept()
    return waits


def test_a_server_that_accepts_and_drops_is_tried_ever_more_rarely() -> None:
    assert drop_again_and_again(4.9, 12) == [*STEPS, 5, 5]


def test_a_connection_that_proved_stable_makes_the_waits_start_anew() -> None:
    assert drop_again_and_again(5.0, 4) == [0.01] * 4


def test_how_long_is_stable_is_the_policys_to_say() -> None:
    options = ClientOptions(reconnect=ReconnectPolicy(schedule=Backoff((1, 2)), stable_after=60.0))
    talk = Conversation(options).connect()
    for wait in (1, 2):
        talk.advance(59.0).drop()
        assert talk.event(Disconnected).retry_in == wait
        talk.advance(wait).accept()


# ---- reconnecting because the application says so -------------------------------------------------------------------


def test_reconnect_drops_the_connection_and_opens_another_at_once() -> None:
    talk = Conversation().connect()
    channel = talk.joined()
    talk.push(channel)
    old = talk.link
    talk.proto.reconnect(talk.now)
    disconnected, errored, failed, connecting = talk.events()
    assert disconnected == Disconnected(None, "the application reconnects", 0.0)
    assert connecting == Connecting(1)
    assert {type(event) for event in (errored, failed)} == {ChannelErrored, PushFailed}
    assert talk.commands()[0] == AbortTransport(old)
    assert talk.link is not old
    assert talk.proto._sockets.first.connection is None


def test_reconnect_reads_the_token_again() -> None:
    talk = dialling(auth_token=lambda: "")
    talk.resolve("old")
    talk.accept()
    talk.proto.reconnect(talk.now)
    talk.resolve("new")
    assert opening(talk).subprotocols[1].endswith("bmV3")


def test_reconnect_ends_the_wait_for_the_next_attempt() -> None:
    talk = Conversation().connect()
    talk.drop(1013)
    talk.proto.reconnect(talk.now)
    assert talk.proto.state.value == "opening"
    assert talk.proto.next_timeout() == talk.now + 10.0


def test_reconnect_replaces_an_attempt_under_way() -> None:
    talk = dialling()
    old = talk.link
    talk.advance(9.0)
    talk.proto.reconnect(talk.now)
    talk.advance(9.0)
    assert talk.proto.state.value == "opening"
    assert AbortTransport(old) in talk.commands()
    talk.accept()
    assert talk.proto.state is SocketState.OPEN


def test_reconnect_replaces_questions_under_way() -> None:
    talk = dialling(params=lambda: EMPTY)
    talk.proto.reconnect(talk.now)
    talk.resolve({"user": "old"})
    assert talk.proto.state.value == "resolving"
    talk.resolve({"user": "new"})
    assert "user=new" in opening(talk).url


def test_reconnect_does_not_prolong_the_first_connect() -> None:
    talk = Conversation()
    talk.proto.connect(talk.now, timeout=12.0)
    talk.advance(8.0)
    talk.proto.reconnect(talk.now)
    talk.advance(4.0)
    assert isinstance(talk.event(Closed).error, ConnectTimeout)


def test_reconnecting_from_a_stable_connection_makes_the_waits_start_anew() -> None:
    talk = dialling()
    for _ in range(5):
        talk.link.failed(ConnectError("refused"), talk.now)
        talk.advance(talk.event(ConnectFailed).retry_in)
    talk.accept().advance(3600.0)
    talk.proto.reconnect(talk.now)
    talk.link.failed(ConnectError("refused"), talk.now)
    assert talk.event(ConnectFailed).retry_in == 0.01


# ---- links that no longer count -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tell",
    [
        lambda link, now: link.opened(None, now),
        lambda link, now: link.refused(403, {}, b"", now),
        lambda link, now: link.failed(CertificateError("it has expired"), now),
        lambda link, now: link.receive("garbage", now),
        lambda link, now: link.receive_all(["garbage"], now),
        lambda link, now: link.progressed(now),
        lambda link, now: link.closed(1000, "late", now),
    ],
    ids=["opened", "refused", "failed", "receive", "receive_all", "progressed", "closed"],
)
@pytest.mark.parametrize("open_again", [False, True])
def test_a_link_that_no_longer_counts_is_not_heard(tell: Any, open_again: bool) -> None:
    talk = Conversation().connect()
    old = talk.link
    talk.proto.reconnect(talk.now)
    if open_again:
        talk.accept()
    talk.commands(), talk.events()
    before = (talk.proto.state, talk.proto.next_timeout(), talk.proto.stats)
    assert not old.current
    tell(old, talk.now)
    assert (talk.proto.state, talk.proto.next_timeout(), talk.proto.stats) == before
    assert (talk.commands(), talk.events()) == ([], [])


def test_what_an_old_link_calls_a_secret_is_none_for_the_new_one() -> None:
    talk = Conversation().connect()
    old = talk.link
    talk.reconnect()
    old.confided(["tick"])
    talk.receive("tick tock")
    assert talk.event(BadFrame).excerpt == "tick tock"


def test_a_link_says_its_number() -> None:
    talk = Conversation().connect()
    assert repr(talk.link) == "Link(1)"
    talk.reconnect()
    assert repr(talk.link) == "Link(2)"


def test_being_opened_twice_is_being_opened_once() -> None:
    talk = Conversation().connect()
    talk.link.opened(None, talk.now)
    assert (talk.events(), talk.proto.stats.connects) == ([], 1)


# ---- time bounds every attempt, not the first alone -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["params", "auth_token"])
def test_callables_that_do_not_answer_at_a_reconnect_are_a_failed_attempt(name: str) -> None:
    settings: dict[str, Any] = {name: lambda: None}
    talk = Conversation(ClientOptions(open_timeout=3.0), **settings)
    talk.proto.connect(talk.now)
    talk.resolve(None)
    talk.accept()
    talk.drop()
    talk.advance(0.01)
    assert talk.proto.state is SocketState.RESOLVING
    talk.events()
    talk.advance(2.999)
    assert talk.events() == []
    talk.advance(0.001)
    assert "did not answer within 3 s" in str(talk.event(ConnectFailed).error)
    talk.advance(0.05)
    assert len(talk.questions) == 2  # it is asked anew; the older answer is nobody's
    talk.resolve(None)
    assert talk.proto.state.value == "resolving"
    talk.resolve(None)
    assert talk.proto.state.value == "opening"


@pytest.mark.parametrize("how", ["drop", "reconnect"])
def test_a_handshake_that_is_not_answered_at_a_reconnect_is_a_failed_attempt(how: str) -> None:
    talk = Conversation(ClientOptions(open_timeout=3.0)).connect()
    if how == "drop":
        talk.drop()
        talk.advance(0.01)
    else:
        talk.proto.reconnect(talk.now)
    assert talk.proto.state is SocketState.OPENING
    talk.advance(3.0)
    assert "did not answer the handshake within 3 s" in str(talk.event(ConnectFailed).error)


def test_an_attempt_after_a_wait_is_bounded_like_any() -> None:
    talk = Conversation(ClientOptions(open_timeout=3.0), params=lambda: EMPTY)
    talk.proto.connect(talk.now)
    for _ in range(5):
        talk.advance(3.0 + 0.2)
    assert sum(isinstance(event, ConnectFailed) for event in talk.events()) == 5
