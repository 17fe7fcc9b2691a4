"""A pytest plugin for CI: a test that would be skipped fails, because CI has everything that the tests need.

`.ci/run` loads it through `PYTEST_PLUGINS`.
"""

from collections.abc import Generator
from typing import Any

import pytest

#: Beginnings of reasons for which a test may be skipped all the same. None so far.
ALLOWED: tuple[str, ...] = ()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _judged((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _judged((yield))


def _judged(report: Any) -> Any:
    if report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return report
    reason = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"a test may not be skipped here ({reason})"
    return report
