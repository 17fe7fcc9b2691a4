from math import inf

import pytest

from phx_transports.client.options import first_timeout


@pytest.mark.parametrize(
    ("given", "wait", "seconds"), [(None, True, 10.0), (None, False, inf), (3.0, True, 3.0), (3.0, False, 3.0)]
)
def test_who_does_not_wait_for_the_first_connection_sets_it_no_bound(
    given: float | None, wait: bool, seconds: float
) -> None:
    assert first_timeout(given, wait=wait) == seconds
