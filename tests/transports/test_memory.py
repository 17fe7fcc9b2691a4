"""Memory is bounded, whatever a peer sends: the peak of a process of its own, everything at its defaults."""

import pytest

from bench.memory import ADAPTERS, BOUND, CASES, measure

SECONDS = 1.5


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("case", CASES)
def test_a_client_before_a_hostile_server_stays_within_its_bound(adapter: str, case: str) -> None:
    outcome = measure(adapter, case, SECONDS)
    assert outcome.sent > 1_000_000
    assert outcome.above < BOUND
