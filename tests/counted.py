"""A pytest plugin that says, at the end of a run, how many of the collected tests need no event loop.

A test runs on an event loop if it is a coroutine function; every other is synchronous, whatever it may start itself.
The root `conftest.py` loads this. With `--sync-floor=90` a run of fewer percent fails: `.ci/run` asks for it where the
whole suite is collected, for a selection has a share of its own that says nothing.
"""

import inspect
from collections.abc import Iterable

import pytest

#: How many collected tests are synchronous, and how many there are.
COUNT = pytest.StashKey[tuple[int, int]]()

#: Under which name a pytest-xdist worker, who alone collects there, hands its count to the process that prints it.
SENT = "phx_counted"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--sync-floor",
        type=float,
        default=0.0,
        metavar="PERCENT",
        help="fail the run if fewer percent of the collected tests are synchronous",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.pluginmanager.hasplugin("xdist"):
        config.pluginmanager.register(_FromWorkers(config))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    # After deselection: these are the tests that run.
    _keep(session.config, _count(session.items))


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    count = config.stash.get(COUNT, None)
    if count is None:
        return
    if hasattr(config, "workeroutput"):
        config.workeroutput[SENT] = count
    elif session.exitstatus == pytest.ExitCode.OK and _is_under_the_floor(config, count):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter", config: pytest.Config) -> None:
    count = config.stash.get(COUNT, None)
    if count is None or not count[1]:
        return
    terminalreporter.write_line(sentence(*count))
    if _is_under_the_floor(config, count):
        floor = config.getoption("--sync-floor")
        terminalreporter.write_line(f"At least {floor:g} % of the tests are to be synchronous.", red=True)


def sentence(synchronous: int, total: int) -> str:
    return f"{synchronous:,} of {total:,} tests are synchronous ({percent(synchronous, total):.1f} %)"


def percent(synchronous: int, total: int) -> float:
    return 100 * synchronous / total


class _FromWorkers:
    """With pytest-xdist each worker collects everything, and the process that prints collects nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object) -> None:
        sent = getattr(node, "workeroutput", {}).get(SENT)
        if sent is not None:
            _keep(self._config, tuple(sent))


def _keep(config: pytest.Config, count: tuple[int, int]) -> None:
    if count[1]:
        config.stash[COUNT] = count


def _count(items: Iterable[pytest.Item]) -> tuple[int, int]:
    on_a_loop = [inspect.iscoroutinefunction(_function(item)) for item in items]
    return on_a_loop.count(False), len(on_a_loop)


def _function(item: pytest.Item) -> object:
    function = getattr(item, "obj", None)
    # Hypothesis wraps what it is given in a plain function.
    return getattr(getattr(function, "hypothesis", None), "inner_test", function)


def _is_under_the_floor(config: pytest.Config, count: tuple[int, int]) -> bool:
    return bool(count[1]) and percent(*count) < config.getoption("--sync-floor")
