"""For mkdocs and griffe: what the site shows is written once, for readers of the repository.

The examples are pages of the site, so that links to their files lead there. Doctests of docstrings are shown as code.
"""

import re
from itertools import takewhile
from pathlib import Path
from typing import Any, Final

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

_ROOT: Final = Path(__file__).parents[1]
_LINK: Final = re.compile(r"(?<=\]\()((?:\.\./)+)(examples/[\w./]+?)/?(?=[)#])")
_DOCTEST: Final = re.compile(r"^>>> .*\n(?:.+\n?)*", re.MULTILINE)


class Docstrings(griffe.Extension):
    """Fences around the doctests of docstrings; comments that begin with `#:` as docstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each object that has been loaded."""
        if obj.is_function and obj.name.startswith("__") and obj.name != "__init__":
            obj.docstring = None  # of no use to a reader
        if obj.is_attribute and not obj.docstring and isinstance(obj.filepath, Path):
            above = reversed(obj.lines_collection[obj.filepath][: (obj.lineno or 1) - 1])
            comment = [
                line.strip()[2:].strip() for line in takewhile(lambda line: line.strip().startswith("#:"), above)
            ]
            obj.docstring = griffe.Docstring("\n".join(reversed(comment)), parent=obj) if comment else None
        if obj.docstring:
            obj.docstring.value = _DOCTEST.sub(
                lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", obj.docstring.value
            )


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """A page for each example."""
    for path in sorted(_ROOT.glob("examples/**/*")):
        name = path.relative_to(_ROOT).as_posix()
        if path.suffix == ".md":
            files.append(_page(config, name, path.read_text("utf-8")))
        elif path.suffix == ".py" and path.stat().st_size:
            code = path.read_text("utf-8")
            files.append(_page(config, f"{name}.md", f"# {name}\n\n````python\n{code}````\n"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to an example lead to its page; those to a folder, to what it says of itself."""
    if page.file.src_uri.startswith("examples/"):
        return re.sub(r"\]\(([\w/]+\.py)\)", r"](\1.md)", markdown)
    return _LINK.sub(lambda found: found[1].removeprefix("../") + _target(found[2]), markdown)


def _target(name: str) -> str:
    return f"{name}.md" if name.endswith(".py") else f"{name}/README.md"


def _page(config: MkDocsConfig, name: str, content: str) -> File:
    file = File.generated(config, name, content=content)
    file.inclusion = InclusionLevel.NOT_IN_NAV
    return file
