"""The documentation: every page has its place in the navigation, and what code it shows is run by a test."""

import re
from pathlib import Path

import pytest
from snippets import blocks

from phx_proto import errors

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
TESTS = "\n".join(path.read_text("utf-8") for path in ROOT.glob("tests/**/test_*.py"))


def test_every_page_is_in_the_navigation_once() -> None:
    config = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert sorted(re.findall(r"^ +- (?:.*: )?(\S+\.md)$", config, re.MULTILINE)) == PAGES


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(DOCS / page)])
def test_a_page_with_code_has_a_test_that_runs_it(page: str) -> None:
    assert f'"{page}"' in TESTS


def test_every_error_has_its_cause_and_remedy() -> None:
    page = (DOCS / "reference" / "errors.md").read_text("utf-8")
    absent = [name for name in errors.__all__ if f"`{name}`" not in page]
    assert not absent
