from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.backoff import RECONNECT, REJOIN, Attempt, Backoff, ReconnectPolicy
from phx_proto.errors import CertificateError, ConnectError, HandshakeRefused, ProxyError, ResolveFailed

FIRST = Attempt(number=0, ever_connected=False, renewable=False)
FIRST_RENEWABLE = Attempt(number=0, ever_connected=False, renewable=True)
LATER = Attempt(number=0, ever_connected=True, renewable=False)
LATER_RENEWABLE = Attempt(number=0, ever_connected=True, renewable=True)

POLICY = ReconnectPolicy(schedule=Backoff((2, 4)))


def at(number: int, situation: Attempt) -> Attempt:
    return Attempt(number=number, ever_connected=situation.ever_connected, renewable=situation.renewable)


def refusal(status: int, retry_after: str | None = None) -> HandshakeRefused:
    headers = {} if retry_after is None else {"retry-after": retry_after}
    return HandshakeRefused(status=status, headers=headers)


# ---- schedules


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (RECONNECT, [0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1, 2, 5, 5, 5]),
        (REJOIN, [1, 2, 5, 10, 10, 10]),
        (Backoff((3,)), [3, 3]),
    ],
)
def test_without_a_random_source_the_steps_are_taken_in_full_and_the_last_repeats(
    backoff: Backoff, expected: list[float]
) -> None:
    assert [backoff.delay(attempt) for attempt in range(len(expected))] == expected


@given(st.integers(0, 30), st.integers())
def test_jitter_shortens_a_step_by_half_at_most(attempt: int, seed: int) -> None:
    step = RECONNECT.delay(attempt)
    assert step / 2 <= RECONNECT.delay(attempt, Random(seed)) <= step


def test_jitter_spreads_a_fleet_over_the_whole_range() -> None:
    rng = Random(1)
    waits = [REJOIN.delay(3, rng) for _ in range(1000)]
    assert min(waits) < 5.1
    assert max(waits) > 9.9


def test_the_same_random_source_gives_the_same_waits() -> None:
    one, other = Random(7), Random(7)
    assert [RECONNECT.delay(n, one) for n in range(9)] == [RECONNECT.delay(n, other) for n in range(9)]


def test_a_step_may_be_shorter_than_a_second() -> None:
    assert Backoff((0.25,)).delay(0) == 0.25


@pytest.mark.parametrize("seed", range(5))
def test_a_policy_spreads_the_waits_of_its_schedule(seed: int) -> None:
    expected = POLICY.schedule.delay(1, Random(seed))
    assert POLICY.after_close(None, 1, Random(seed)) == expected < 4
    assert POLICY.after_failure(ConnectError("down"), at(1, LATER), Random(seed)) == expected
    assert POLICY.after_failure(refusal(503), at(1, LATER), Random(seed)) == expected


def test_a_schedule_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^a schedule needs at least one step$"):
        Backoff(())


@pytest.mark.parametrize("seconds", [0, 0.5])
def test_a_connection_may_count_as_stable_soon_or_at_once(seconds: float) -> None:
    assert ReconnectPolicy(stable_after=seconds).stable_after == seconds


# ---- after a close


@pytest.mark.parametrize("code", [None, 1000, 1001, 1002, 1006, 1009, 1011, 4000])
def test_any_close_is_followed_by_the_schedule(code: int | None) -> None:
    assert [POLICY.after_close(code, attempt) for attempt in range(3)] == [2, 4, 4]


def test_a_close_waits_by_phoenix_steps_unless_told_otherwise() -> None:
    assert ReconnectPolicy().after_close(1001, 0) == 0.01


@pytest.mark.parametrize(("code", "low", "high"), [(1012, 0, 5), (1013, 5, 30)])
def test_a_restarting_or_overloaded_server_is_given_time_whatever_the_attempt(
    code: int, low: float, high: float
) -> None:
    rng = Random(2)
    waits = [wait for n in range(500) if (wait := POLICY.after_close(code, n, rng)) is not None]
    assert len(waits) == 500
    assert low <= min(waits) < low + 0.5
    assert high - 0.5 < max(waits) <= high


@pytest.mark.parametrize(("code", "wait"), [(1012, 5), (1013, 30)])
def test_without_a_random_source_the_longest_wait_is_taken(code: int, wait: float) -> None:
    assert POLICY.after_close(code, 0) == wait


@pytest.mark.parametrize("code", [1000, 1012])
def test_a_final_code_ends_it(code: int) -> None:
    policy = ReconnectPolicy(final_codes=frozenset({code}))
    assert policy.after_close(code, 0) is None
    assert policy.after_close(1001, 0) is not None
    assert policy.after_close(None, 0) is not None


# ---- after a refused handshake


ALWAYS = {FIRST, FIRST_RENEWABLE, LATER, LATER_RENEWABLE}
IF_RENEWABLE = {FIRST_RENEWABLE, LATER_RENEWABLE}
ONCE_CONNECTED = {LATER, LATER_RENEWABLE}


@pytest.mark.parametrize(
    ("status", "retried"),
    [
        (200, ONCE_CONNECTED),
        (301, ONCE_CONNECTED),
        (400, ONCE_CONNECTED),
        (401, IF_RENEWABLE),
        (403, IF_RENEWABLE),
        (404, ONCE_CONNECTED),
        (408, ALWAYS),
        (414, ONCE_CONNECTED),
        (425, ALWAYS),
        (426, ONCE_CONNECTED),
        (429, ALWAYS),
        (500, ALWAYS),
        (503, ALWAYS),
        (599, ALWAYS),
        (600, ONCE_CONNECTED),
    ],
)
def test_a_refusal_is_retried_where_the_answer_may_change(status: int, retried: set[Attempt]) -> None:
    for situation in ALWAYS:
        expected = 2 if situation in retried else None
        assert POLICY.after_failure(refusal(status), situation) == expected


def test_a_refusal_is_retried_by_the_schedule() -> None:
    assert [POLICY.after_failure(refusal(503), at(number, FIRST)) for number in range(3)] == [2, 4, 4]


@pytest.mark.parametrize("status", [429, 503])
@given(seed=st.integers())
def test_retry_after_is_never_undercut(status: int, seed: int) -> None:
    wait = POLICY.after_failure(refusal(status, "7"), FIRST, Random(seed))
    assert wait is not None
    assert 7 <= wait <= 10.5


def test_a_fleet_that_was_told_when_to_retry_does_not_come_back_at_one_moment() -> None:
    rng = Random(1)
    waits = [POLICY.after_failure(refusal(429, "100"), FIRST, rng) or 0 for _ in range(1000)]
    assert min(waits) < 101
    assert max(waits) > 149


def test_retry_after_does_not_make_a_final_refusal_retried() -> None:
    assert POLICY.after_failure(refusal(403, "7"), FIRST) is None


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("0", 2),
        ("1", 2),
        (" 8 ", 12),
        ("86400", 5400),
        ("9" * 5000, 5400),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 2),
        ("-5", 2),
        ("1.5", 2),
        ("٣٠", 2),
        ("", 2),
        ("soon", 2),
    ],
)
def test_retry_after_counts_whole_seconds_up_to_an_hour_and_else_the_schedule_holds(header: str, wait: float) -> None:
    assert POLICY.after_failure(refusal(429, header), FIRST) == wait


# ---- after a failed attempt


@pytest.mark.parametrize("error", [ConnectError("refused"), ResolveFailed("raised")])
def test_a_network_failure_is_retried_by_the_schedule(error: ConnectError) -> None:
    for situation in ALWAYS:
        assert [POLICY.after_failure(error, at(number, situation)) for number in range(3)] == [2, 4, 4]


@pytest.mark.parametrize("status", [None, 400, 403, 407])
def test_a_proxy_that_lets_nobody_through_is_final_at_the_first_connect_only(status: int | None) -> None:
    error = ProxyError("no way", status)
    assert POLICY.after_failure(error, FIRST) is None
    assert POLICY.after_failure(error, FIRST_RENEWABLE) is None
    assert POLICY.after_failure(error, LATER) == 2


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_proxy_that_finds_no_way_yet_is_asked_again(status: int) -> None:
    assert POLICY.after_failure(ProxyError("not yet", status), FIRST) == 2


def test_an_untrusted_certificate_is_final_at_the_first_connect_only() -> None:
    error = CertificateError("self-signed")
    assert POLICY.after_failure(error, FIRST) is None
    assert POLICY.after_failure(error, FIRST_RENEWABLE) is None
    assert POLICY.after_failure(error, LATER) == 2
