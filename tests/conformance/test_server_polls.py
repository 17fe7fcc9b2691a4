"""`Polls` and `ServerProtocol` under the recorded application, against recorded long polling; see `replay_polls.py`."""

from typing import Any

import pytest
import recorded
from polls import Exchange, exchanges
from replay_polls import best_replay, compared, polled

TOLERANCE = 0.2  # how far a recorded server was from its own clock

SESSIONS = sorted({(name, each.token) for name in recorded.names() for each in exchanges(name) if each.token})
EXCHANGES = [exchange for name in recorded.names() for exchange in exchanges(name)]


def label(value: Any) -> str | None:
    return f"{value.session}-{value.index}" if isinstance(value, Exchange) else None


@pytest.mark.parametrize("exchange", [each for each in EXCHANGES if not each.clipped], ids=label)
def test_the_server_answers_as_the_recorded_one(exchange: Exchange) -> None:
    theirs, ours = compared(best_replay(exchange.session), exchange)
    assert ours == theirs


@pytest.mark.parametrize("exchange", [each for each in EXCHANGES if not each.clipped], ids=label)
def test_the_server_answers_when_the_recorded_one_did(exchange: Exchange) -> None:
    answered = best_replay(exchange.session).answers[exchange.index]
    assert abs(answered.time - exchange.response.time) < TOLERANCE


@pytest.mark.parametrize(("name", "token"), SESSIONS, ids=lambda value: value[-16:])
def test_polls_bring_what_the_recorded_ones_did(name: str, token: str) -> None:
    theirs, ours = polled(best_replay(name), token)
    assert ours == theirs


def test_there_are_exchanges() -> None:
    assert EXCHANGES
