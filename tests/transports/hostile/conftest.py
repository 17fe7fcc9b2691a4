"""The processes under attack, how long they are attacked, and a table of the resources they used."""

from collections.abc import Iterator

import pytest

from .measuring import RECORDED, Subjects


@pytest.fixture(scope="session")
def subjects() -> Iterator[Subjects]:
    subjects = Subjects()
    yield subjects
    subjects.close()


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    """Of an attack."""
    given: float = request.config.getoption("--hostile-seconds")
    return given


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """With `-v` each measurement."""
    if terminalreporter.verbosity > 0:
        terminalreporter.write_line("\n".join(RECORDED))
