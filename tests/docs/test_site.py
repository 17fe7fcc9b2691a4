"""The documentation: every page has its place in the navigation, and what code it shows is run by a test."""

import re
import shlex
from pathlib import Path

import pytest
from snippets import blocks

from phx_proto import errors
from phx_transports.cli.arguments import parsed

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


@pytest.mark.parametrize(
    "path", [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=lambda path: path.name
)
def test_the_links_of_a_file_that_is_no_page_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)]*)\)", path.read_text("utf-8"))
    absent = [link for link in links if not link.startswith("https://") and not (ROOT / link).exists()]
    assert not absent


def test_a_page_that_the_source_names_is_there() -> None:
    sources = [path.read_text("utf-8") for path in ROOT.glob("phx_*/**/*.py")]
    named = set(re.findall(r"[\w/-]+\.md\b", "\n".join(sources)))
    assert "docs/connecting.md" in named
    assert [page for page in sorted(named) if not (ROOT / page).exists()] == []


def test_the_picture_of_the_demo_loads_nothing() -> None:
    picture = (DOCS / "demo.svg").read_text("utf-8")
    assert "Nothing was lost" in picture.replace("&#160;", " ")
    assert not re.search(r"@font-face|@import|href|src", picture)


COMMANDS = [
    command
    for path in [*DOCS.rglob("*.md"), ROOT / "README.md"]
    for block in [*blocks(path, language="sh"), *blocks(path, language="text")]
    for command in re.findall(r"^(?:\$ )?(?:\S*/)?phx (.*)$", block.code, re.MULTILINE)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_that_is_shown_can_be_given(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHX_URL", "wss://example.com/socket")
    words = shlex.split(command, comments=True)
    ends = [at for at, word in enumerate(words) if re.fullmatch(r"[|;&<>]+|[0-9]?>.*", word)]
    parsed(words[: min(ends, default=None)])
