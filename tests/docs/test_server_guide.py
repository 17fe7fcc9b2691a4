"""docs/server.md: the tests in it are tests of this module; each section is a module of its own."""

from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from snippets import blocks, run

from phx_transports.server import Host, ServerOptions

GUIDE = Path(__file__).parents[2] / "docs" / "server.md"

MODULES: dict[str, dict[str, Any]] = {
    section: run(found, name="guide") for section, found in groupby(blocks(GUIDE), lambda block: block.section)
}
TESTS = [(name, value) for module in MODULES.values() for name, value in module.items() if name.startswith("test_")]


@pytest.mark.asyncio
@pytest.mark.parametrize("test", [pytest.param(function, id=name) for name, function in TESTS])
async def test_the_guide(test: Any) -> None:
    await test()


def test_every_section_but_the_last_has_a_test() -> None:
    *sections, last = MODULES.values()
    assert all(any(name.startswith("test_") for name in section) for section in sections)
    assert last["server"].options == ServerOptions(release=last["Release"].V1_8_8, host=Host.COWBOY, timeout=45.0)
