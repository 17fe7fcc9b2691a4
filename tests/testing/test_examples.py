"""The examples in the kit's docstrings run."""

import doctest
from types import ModuleType

import pytest

from phx_transports.testing import calls, clock, delivery


@pytest.mark.parametrize("module", [calls, clock, delivery], ids=lambda module: module.__name__)
def test_the_examples_of_a_module_run(module: ModuleType) -> None:
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
