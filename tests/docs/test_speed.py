"""The plots of the docs show what `python -m bench` printed."""

from pathlib import Path

import pytest

from bench import plots

PRINTED = Path(__file__).parents[2] / "docs" / "speed.txt"
PICTURES = plots.pictures(PRINTED)


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_plot_is_up_to_date(path: Path) -> None:
    assert path.read_text("utf-8") == PICTURES[path], "run python -m bench.plots docs/speed.txt"


def test_the_page_shows_each_plot() -> None:
    page = PRINTED.with_suffix(".md").read_text("utf-8")
    assert all(f"({path.name})" in page for path in PICTURES)


def test_a_row_is_read_with_its_range_and_note() -> None:
    printed = """\
others: 12,000 messages, 1 topic
                  messages a second            µs each   ratio to the first
  bare loop       24,510 [14,015 to 32,349]    40.80     1
  other 0.1       2,576 [1,332 to 3,001]       388.16    0.10 [0.08 to 0.13]   V1; on Tuesdays
  broken          -                            -         -                     received 0 of 12,000
"""
    [(title, bars)] = plots.tables(printed)
    assert title == "others: 12,000 messages, 1 topic"
    assert bars == [plots.Bar("bare loop", "the measure", 1, 1, 1), plots.Bar("other 0.1", "V1", 0.1, 0.08, 0.13)]
