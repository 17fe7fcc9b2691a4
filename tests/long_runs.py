"""Options for tests that are short by default, and can run for any time by hand; see CONTRIBUTING.md."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("long runs")
    group.addoption("--hostile-seconds", type=float, default=0.1, help="of each attack in tests/transports/hostile")
    group.addoption("--soak-seconds", type=float, default=0.1, help="of each adapter in tests/transports/soak")
