"""The README's example of the test kit runs as it stands there."""

from pathlib import Path
from typing import Any

import pytest
from snippets import blocks, run

README = Path(__file__).parents[2] / "README.md"
TESTS = ["test_a_balance_is_saved", "test_balances_come_in_again_after_a_cut"]


def example() -> dict[str, Any]:
    return run(blocks(README, marker="testing"), name="readme")


def test_these_are_its_tests() -> None:
    assert [name for name in example() if name.startswith("test_")] == TESTS


@pytest.mark.parametrize("name", TESTS)
def test_it_passes(name: str) -> None:
    example()[name]()
