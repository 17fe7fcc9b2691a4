"""The code blocks of a document, for the tests that run them.

    [snippet] = blocks(README, marker="testing")        # the block below <!-- testing -->
    names = run([snippet])                              # what a module of that code would hold
    names["test_a_balance_is_saved"]()

`blocks(path)` gives all of them, in order. A block that wants a process of its own is written to a file: `code`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

#: A heading, or a fenced block with its marker; what looks like a heading within a block is passed over with it.
_PART: Final = re.compile(
    r"^#+ (?P<heading>.*)$"
    r"|(?:^<!-- (?P<marker>.*?) -->\n)?^```(?P<language>\w*)\n(?P<code>(?:.*\n)*?)^```$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Snippet:
    """A fenced block of a document.

    Attributes:
        path: The document.
        line: Where its code begins there, counted from 1.
        section: The heading above it.
        marker: Of the comment `<!-- marker -->` in the line above the fence; empty where there is none.
        language: Of the fence, e.g. `"python"`.
        code: What stands between the fences.
    """

    path: Path
    line: int
    section: str
    marker: str
    language: str
    code: str


def blocks(path: Path, *, language: str = "python", marker: str | None = None) -> list[Snippet]:
    """The blocks of a document in a language, in order.

    Args:
        path: A Markdown file.
        language: Of the fence.
        marker: Only those with this marker; `None` for all.
    """
    return [one for one in _snippets(path) if one.language == language and marker in (None, one.marker)]


def run(snippets: Iterable[Snippet], *, name: str = "snippets") -> dict[str, Any]:
    """Run blocks one after another as one module; gives its names. Tracebacks show the document's own lines.

    Args:
        snippets: Which.
        name: The module's.
    """
    names: dict[str, Any] = {"__name__": name}
    for snippet in snippets:
        padding = "\n" * (snippet.line - 1)
        exec(compile(padding + snippet.code, str(snippet.path), "exec"), names)
    return names


def _snippets(path: Path) -> Iterator[Snippet]:
    text, section = path.read_text(), ""
    for found in _PART.finditer(text):
        if found["heading"] is not None:
            section = found["heading"]
            continue
        yield Snippet(
            path=path,
            line=text.count("\n", 0, found.start("code")) + 1,
            section=section,
            marker=found["marker"] or "",
            language=found["language"],
            code=found["code"],
        )
