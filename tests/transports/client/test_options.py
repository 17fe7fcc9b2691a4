from math import inf

import pytest

from phx_transports.client.options import ClientSettings, first_timeout


@pytest.mark.parametrize(
    ("given", "wait", "seconds"),
    [(None, True, 10.0), (None, False, inf), (3.0, True, 3.0), (3.0, False, 3.0), (0, True, 0), (inf, True, inf)],
)
def test_who_does_not_wait_for_the_first_connection_sets_it_no_bound(
    given: float | None, wait: bool, seconds: float
) -> None:
    assert first_timeout(given, wait=wait) == seconds


def test_settings_that_cannot_be_are_refused_by_their_name() -> None:
    for given in (0, inf):
        assert ClientSettings(drain_timeout=given).drain_timeout == given
    for refused, name in (
        (lambda: ClientSettings(drain_timeout=-1.0), "drain_timeout"),
        (lambda: first_timeout(-1.0, wait=True), "timeout"),
    ):
        with pytest.raises(ValueError, match=f"^{name} is .*, not -1.0$"):
            refused()
