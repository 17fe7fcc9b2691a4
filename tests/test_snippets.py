"""Finding and running the code blocks of documents."""

from pathlib import Path

import pytest
from snippets import Snippet, blocks, run

DOCUMENT = """\
# A guide

```sh
pip install it
```

## First

<!-- add -->
```python
# Not a heading
def add(a, b):
    return a + b
```

Words between.

```python

total = add(1, 2)
```
"""


@pytest.fixture
def guide(tmp_path: Path) -> Path:
    path = tmp_path / "guide.md"
    path.write_text(DOCUMENT)
    return path


def test_a_block_says_where_it_stands(guide: Path) -> None:
    first, second = blocks(guide)
    code = "# Not a heading\ndef add(a, b):\n    return a + b\n"
    assert first == Snippet(guide, 11, "First", "add", "python", code)
    assert second == Snippet(guide, 19, "First", "", "python", "\ntotal = add(1, 2)\n")


def test_blocks_are_chosen_by_their_language(guide: Path) -> None:
    assert [block.code for block in blocks(guide, language="sh")] == ["pip install it\n"]


def test_blocks_are_chosen_by_their_marker(guide: Path) -> None:
    assert [block.marker for block in blocks(guide, marker="add")] == ["add"]


def test_blocks_run_as_one_module(guide: Path) -> None:
    names = run(blocks(guide), name="guide")
    assert (names["total"], names["__name__"]) == (3, "guide")


def test_a_traceback_names_the_line_of_the_document(guide: Path) -> None:
    with pytest.raises(NameError) as failure:
        run(blocks(guide)[1:])
    last = failure.traceback[-1]
    assert (Path(last.path), last.lineno + 1) == (guide, 20)
