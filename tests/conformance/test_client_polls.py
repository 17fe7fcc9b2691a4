"""`ClientProtocol` over long polling against the sessions recorded from a real server; see `recorded_poller.py`."""

from collections import Counter
from functools import cache
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
import recorded
from polls import Exchange, Session, exchanges, sessions
from recorded_poller import RecordedPoller

from phx_proto.client import ClientProtocol
from phx_proto.commands import SendRequest
from phx_proto.errors import HandshakeRefused
from phx_proto.events import Closed, ConnectFailed

SESSIONS: Final = [session for name in recorded.names() for session in sessions(name)]
REFUSED: Final = [
    exchange
    for name in recorded.names()
    for exchange in exchanges(name)
    if exchange.method == "GET" and exchange.token is None and exchange.answer.get("status") != 410
]

#: Counted by hand, so that a replay which plays nothing cannot pass.
HAPPENS: Final = {
    "longpoll.v2": {
        "joined": 2,
        "replied": 9,
        "refused": 1,
        "pong": 2,
        "crashed": 1,
        "bad frame": 2,
        "disconnected": 2,
        "delivered": 6,
    }
}


def label(session: Session) -> str:
    return f"{session.opening.session}-{session.opening.index}"


@cache
def _played(name: str, index: int) -> RecordedPoller:
    (session,) = [each for each in SESSIONS if (each.opening.session, each.opening.index) == (name, index)]
    client = RecordedPoller(session)
    told = [(exchange.request.time, 0, exchange) for exchange in session.exchanges if exchange.method == "POST"]
    told += [(exchange.response.time, 1, exchange) for exchange in session.exchanges]
    for _, answered, exchange in sorted(told, key=lambda each: each[:2]):
        (client.answered if answered else client.posts)(exchange)
    client.finish(max([session.opening.response.time, *(time for time, *_ in told)]) + 1)
    return client


def played(session: Session) -> RecordedPoller:
    return _played(session.opening.session, session.opening.index)


@pytest.mark.parametrize("session", SESSIONS, ids=label)
def test_every_answer_of_the_server_brings_what_it_should(session: Session) -> None:
    assert played(session).problems == []


@pytest.mark.parametrize("session", SESSIONS, ids=label)
def test_every_call_ends_once(session: Session) -> None:
    client = played(session)
    assert {ref: client.ended[ref] for ref in client.calls} == dict.fromkeys(client.calls, 1)


@pytest.mark.parametrize("session", SESSIONS, ids=label)
def test_the_requests_are_those_that_the_server_took(session: Session) -> None:
    opening, *others = played(session).made
    token = session.opening.answer["token"]
    assert urlsplit(opening.url).path == urlsplit(session.opening.request.target).path
    assert params_of(opening.url) == sorted(session.opening.params)
    for request in others:
        url, _, last = request.url.rpartition("&")
        assert params_of(url) == sorted(session.opening.params)
        assert unquote(last) == f"token={token}"
        assert dict(request.headers)["x-phoenix-longpoll-token"] == token


def params_of(url: str) -> list[tuple[str, str]]:
    """The version is always said, also where the recorded client left it out."""
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    return sorted(pair for pair in pairs if pair != ("vsn", "1.0.0"))


@pytest.mark.parametrize("name", [name for name in HAPPENS if name in recorded.names()])
def test_what_a_session_was_recorded_for_happens(name: str) -> None:
    clients = [played(session) for session in SESSIONS if session.opening.session == name]
    happened = Counter(outcome for client in clients for outcome, *_ in client.seen)
    happened["delivered"] = sum(len(client.delivered) for client in clients)
    assert {outcome: happened[outcome] for outcome in HAPPENS[name]} == HAPPENS[name]


def test_what_the_server_refused_is_told() -> None:
    for exchange in REFUSED:
        assert refusal(exchange).status == exchange.answer.get("status", exchange.response.status)


def refusal(exchange: Exchange) -> HandshakeRefused:
    core = ClientProtocol("ws://recorded/socket", transport="longpoll")
    core.connect(0.0)
    (request,) = core.commands()
    assert isinstance(request, SendRequest)
    body = str(exchange.response.fields.get("body") or "").encode()
    request.exchange.answered(exchange.response.status, exchange.response.headers, body, 0.0)
    (error,) = [event.error for event in core.events() if isinstance(event, Closed | ConnectFailed)]
    assert isinstance(error, HandshakeRefused)
    return error
