"""docs/testing.md: its tests are tests of this module, and those that must fail print the text of the guide.

Each section of the guide is a module of its own, so that it can be copied as it is.
"""

import re
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from snippets import blocks, run

pytest_plugins = ["pytester"]

GUIDE = Path(__file__).parents[2] / "docs" / "testing.md"


def modules() -> dict[str, dict[str, Any]]:
    """What each section defines, by its heading."""
    sections = groupby(blocks(GUIDE, marker=""), lambda block: block.section)
    return {heading: run(found, name="guide") for heading, found in sections}


def _tests(module: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in module.items() if re.match(r"test_|\w+Test$|anyio_backend$", name)}


MODULES = modules()
for _module in MODULES.values():
    globals().update(_tests(_module))


def test_every_section_has_tests_of_its_own() -> None:
    names = [name for module in MODULES.values() for name in _tests(module)]
    assert names
    assert all(map(_tests, MODULES.values()))
    assert len(names) == len(set(names))


def test_every_block_of_python_passes_or_fails_as_told() -> None:
    assert {block.marker for block in blocks(GUIDE)} == {"", "fails"}
    assert len(blocks(GUIDE, language="text")) == len(blocks(GUIDE, marker="fails"))


def test_its_links_lead_somewhere() -> None:
    text = GUIDE.read_text()
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    anchors = {f"#{re.sub(r'[^a-z -]', '', heading.lower()).replace(' ', '-')}" for heading in headings}
    links = re.findall(r"\]\(([^)]*)\)", text)
    assert links
    for link in links:
        known = link in anchors or link.startswith("https://")
        assert known or (GUIDE.parent / link).exists(), link


def test_the_failures_print_as_they_stand_there(pytester: pytest.Pytester) -> None:
    failing = blocks(GUIDE, marker="fails")
    pytester.makepyfile("\n".join(block.code for block in failing))
    plugins = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")  # not needed, and imported anew
    options = (*plugins, "-o", "asyncio_default_fixture_loop_scope=function")
    result = pytester.runpytest_inprocess(*options)
    result.assert_outcomes(failed=len(failing))
    for printed in blocks(GUIDE, language="text", marker="prints"):
        assert printed.code in f"{result.stdout}\n"
