"""For `tests/simulation`: how much is played, and from which seed on."""

from typing import Final

import pytest

STEPS_OF_A_SEED: Final = 10_000


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("simulation")
    group.addoption("--steps", type=int, default=0, help="of each machine, at least; a moment, if it is not given")
    group.addoption("--first-seed", type=int, default=0, help="the seeds that are played begin with it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A seed is played for so many steps: a failure names it, and can be played again by itself."""
    if "simulated_seed" in metafunc.fixturenames:
        config = metafunc.config
        first: int = config.getoption("--first-seed")
        metafunc.parametrize(
            "simulated_seed", range(first, first + max(1, config.getoption("--steps") // STEPS_OF_A_SEED))
        )


@pytest.fixture
def steps_of_a_seed() -> int:
    return STEPS_OF_A_SEED
