"""Options that are numbers (seconds, counts, bytes) or policies. Invalid ones are refused at once, by name."""

from collections.abc import Callable
from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.client import ClientProtocol
from phx_proto.flow import FlowLimits
from phx_proto.options import ClientOptions, JoinPolicy
from phx_proto.queues import Bound, Drop
from phx_proto.server.events import ServerOptions

#: Beyond every float.
HUGE = 10**400

NO_SECONDS: list[Any] = ["10", True, timedelta(seconds=1), [1]]
NO_DURATION: list[Any] = [-1, nan, -inf, HUGE]
NO_COUNT: list[Any] = ["10", True, 1.5, nan, inf, timedelta(seconds=1)]

Make = Callable[..., Any]


def client(**options: Any) -> ClientProtocol:
    return ClientProtocol("ws://example.com/socket", **options)


#: What has the option, its name, and what else it must not be.
SECONDS: list[tuple[Make, str, list[Any]]] = [
    (ClientOptions, "heartbeat", [0, inf, None]),
    (ClientOptions, "poll_timeout", [0, inf, None]),
    (ClientOptions, "open_timeout", [0, inf, None]),
    (ClientOptions, "close_timeout", [0, inf, None]),
    (ClientOptions, "timeout", [0, None]),
    (JoinPolicy, "timeout", [0, inf, None]),
    (JoinPolicy, "stable_after", [inf, None]),
    (ReconnectPolicy, "stable_after", [inf, None]),
    (FlowLimits, "longest_pause", [0, inf, None]),
    (client, "fallback", [0, inf]),
    (ServerOptions, "timeout", [0]),
    (ServerOptions, "poll_window", [0, inf, None]),
]

COUNTS: list[tuple[Make, str, list[Any]]] = [
    (ClientOptions, "joins_in_flight", [0, None]),
    (ClientOptions, "push_buffer", [-1, None]),
    (ClientOptions, "topics_per_socket", [0]),
    *((FlowLimits, mark, [-1, None]) for mark in ("high", "low", "hard", "high_bytes", "low_bytes", "hard_bytes")),
    (ServerOptions, "max_channels", [-1]),
    (ServerOptions, "max_topic", [0, None]),
    (ServerOptions, "max_waiting", [-1]),
]


def rows(options: list[tuple[Make, str, list[Any]]], everywhere: list[Any]) -> list[Any]:
    return [
        pytest.param(make, name, value, id=f"{make.__name__}-{name}-{str(value)[:10]}")
        for make, name, further in options
        for value in [*everywhere, *further]
    ]


@pytest.mark.parametrize(("make", "name", "value"), rows(SECONDS, NO_SECONDS + NO_DURATION))
def test_seconds_that_cannot_be_are_refused_by_name(make: Make, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name} is .*seconds"):
        make(**{name: value})


@pytest.mark.parametrize(("make", "name", "value"), rows(COUNTS, NO_COUNT))
def test_counts_that_cannot_be_are_refused_by_name(make: Make, name: str, value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"^{name} is "):
        make(**{name: value})


@pytest.mark.parametrize("value", NO_SECONDS + NO_DURATION + [0, inf, None])
def test_a_step_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^a step of a schedule is "):
        Backoff((1, value))


@pytest.mark.parametrize(
    ("make", "name", "value", "kind"),
    [
        (ClientOptions, "reconnect", Backoff((1,)), "ReconnectPolicy"),
        (ClientOptions, "join", None, "JoinPolicy"),
        (ClientOptions, "flow", {"high": 100}, "FlowLimits"),
        (ReconnectPolicy, "schedule", (1, 2, 5), "Backoff"),
        (ReconnectPolicy, "final_codes", 4001, "Set"),
        (JoinPolicy, "backoff", (1, 2, 5), "Backoff"),
        (JoinPolicy, "refusal", "FINAL", "Refusal"),
        (JoinPolicy, "server_close", True, "ServerClose"),
        (Backoff, "steps", 5, "tuple"),
        (Backoff, "steps", iter([1, 2, 5]), "tuple"),
        (ServerOptions, "release", "1.8.9", "Release"),
        (ServerOptions, "host", "bandit", "Host"),
    ],
)
def test_an_option_of_another_type_is_refused_by_name(make: Make, name: str, value: Any, kind: str) -> None:
    with pytest.raises(TypeError, match=rf"^{name} is a {kind}, not "):
        make(**{name: value})


@pytest.mark.parametrize("value", [*NO_COUNT, 0, -1, None])
def test_a_bound_that_cannot_be_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^limit is "):
        Bound(value, Drop.OLDEST)


def test_what_is_no_number_is_a_type_error_and_what_is_too_small_a_value_error() -> None:
    with pytest.raises(TypeError, match=r"^heartbeat is a number of seconds, not '30'$"):
        ClientOptions(heartbeat="30")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^heartbeat is positive, finite seconds, not -1$"):
        ClientOptions(heartbeat=-1)
    with pytest.raises(TypeError, match=r"^joins_in_flight is a whole number, not 1\.5$"):
        ClientOptions(joins_in_flight=1.5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^joins_in_flight is at least 1, not 0$"):
        ClientOptions(joins_in_flight=0)


def test_what_has_a_meaning_is_taken() -> None:
    assert ClientOptions(timeout=inf, push_buffer=0, topics_per_socket=None).timeout == inf
    assert ClientOptions(heartbeat=1e300).heartbeat == 1e300
    assert JoinPolicy(stable_after=0).stable_after == 0
    assert ServerOptions(timeout=None, max_channels=0, max_waiting=None).max_channels == 0
    assert client(fallback=None).options == ClientOptions()
