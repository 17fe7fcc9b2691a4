"""The first connect and its end: a server that starts in time is reached, and errors describe the last attempt."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from conversation import EMPTY, Conversation, dialling

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.errors import ConnectError, ConnectTimeout, HandshakeRefused, StillRefused
from phx_proto.events import Closed
from phx_proto.options import ClientOptions
from phx_proto.states import SocketState


def attempts(talk: Conversation, *, until: float, fail: Callable[[Conversation], object]) -> list[float]:
    """Seconds after its call at which a client tries its first connect while the server is down."""
    began, tried = talk.now, []
    while talk.now < began + until and talk.proto.state is not SocketState.CLOSED:
        if talk.proto.state is SocketState.OPENING:
            tried.append(talk.now - began)
            fail(talk)
        wait = talk.proto.next_timeout()
        if wait is None:
            break
        talk.advance(wait - talk.now)
    return tried


def down(talk: Conversation) -> None:
    talk.link.failed(ConnectError("down"), talk.now)


def refusing(status: int, **headers: str) -> Callable[[Conversation], object]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda talk: talk.link.refused(status, fields, b"not now", talk.now)


@pytest.mark.parametrize("seed", range(100))
@pytest.mark.parametrize("share", [0.6, 0.75, 0.87, 0.95])
@pytest.mark.parametrize("timeout", [1.0, 10.0, 60.0])
def test_a_server_that_comes_up_in_time_is_met(timeout: float, share: float, seed: int) -> None:
    tried = attempts(dialling(timeout=timeout, rng=Random(seed)), until=timeout, fail=down)
    assert any(share * timeout <= at < timeout for at in tried)


@pytest.mark.parametrize("seed", range(20))
def test_a_server_that_takes_its_time_for_a_handshake_is_met_too(seed: int) -> None:
    tried = attempts(dialling(timeout=10.0, rng=Random(seed)), until=10.0, fail=down)
    assert any(6.0 <= at <= 9.0 for at in tried)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_not_tried_more_often_than_it_needs(seed: int) -> None:
    late = [at for at in attempts(dialling(timeout=10.0, rng=Random(seed)), until=10.0, fail=down) if at > 5.0]
    assert len(late) <= 7


def test_the_last_try_leaves_time_for_its_handshake() -> None:
    assert max(attempts(dialling(timeout=10.0), until=10.0, fail=down)) == pytest.approx(9.7)
    assert max(attempts(dialling(timeout=1.0), until=1.0, fail=down)) == pytest.approx(0.97)
    assert max(attempts(dialling(timeout=600.0), until=600.0, fail=down)) == pytest.approx(599.7)


def test_an_endless_first_connect_keeps_to_the_schedule() -> None:
    options = ClientOptions(reconnect=ReconnectPolicy(schedule=Backoff((4.0,))))
    tried = attempts(dialling(options), until=13.0, fail=down)
    assert tried == pytest.approx([0.0, 4.0, 8.0, 12.0])


def test_a_later_connect_keeps_to_the_schedule() -> None:
    options = ClientOptions(reconnect=ReconnectPolicy(schedule=Backoff((4.0,))))
    talk = dialling(options, timeout=10.0).accept()
    talk.drop()
    assert talk.proto.next_timeout() == talk.now + 4.0


def test_what_a_server_asked_to_wait_is_waited() -> None:
    tried = attempts(dialling(timeout=10.0), until=10.0, fail=refusing(429, retry_after="6"))
    assert tried == pytest.approx([0.0, 9.0])


# ---- what is raised -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_a_refusal_that_was_retried_is_raised_at_the_end(status: int) -> None:
    talk = dialling(timeout=3.0)
    attempts(talk, until=5.0, fail=refusing(status))
    error = talk.event(Closed).error
    assert isinstance(error, HandshakeRefused)
    assert isinstance(error, ConnectTimeout)
    assert (error.status, error.body, error.timeout) == (status, b"not now", 3.0)


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("name", ["params", "auth_token"])
def test_a_refusal_of_what_a_callable_gave_is_retried_and_raised_at_the_end(name: str, status: int) -> None:
    settings: dict[str, Any] = {name: lambda: None}
    talk = dialling(timeout=3.0, **settings)
    value = EMPTY if name == "params" else "t"
    tried = 0
    while talk.proto.state is not SocketState.CLOSED:
        talk.commands()
        if talk.questions:
            talk.resolve(value)
            refusing(status)(talk)
            tried += 1
        wait = talk.proto.next_timeout()
        if wait is not None:
            talk.advance(wait - talk.now)
    error = talk.event(Closed).error
    assert isinstance(error, StillRefused)
    assert (error.status, tried > 3) == (status, True)


def test_the_latest_attempt_tells_what_is_raised() -> None:
    talk = dialling(timeout=3.0)
    refusing(503)(talk)
    talk.advance(0.01)
    attempts(talk, until=5.0, fail=down)
    error = talk.event(Closed).error
    assert isinstance(error, ConnectTimeout)
    assert not isinstance(error, HandshakeRefused)
    assert str(error.last) == "down"
