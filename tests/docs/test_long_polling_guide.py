"""docs/long-polling.md: its tests are tests of this module."""

from pathlib import Path

import pytest
from snippets import blocks, run

NAMES = run(blocks(Path(__file__).parents[2] / "docs" / "long-polling.md"), name="guide")

test_polling = pytest.mark.asyncio(NAMES["test_polling"])
test_falling_back = pytest.mark.asyncio(NAMES["test_falling_back"])
