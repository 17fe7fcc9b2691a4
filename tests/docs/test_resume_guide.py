"""docs/resume.md: its test is one of this module."""

from pathlib import Path

from snippets import blocks, run

GUIDE = Path(__file__).parents[2] / "docs" / "resume.md"

test_what_was_lost_at_a_cut_is_asked_for = run(blocks(GUIDE), name="guide")["test_what_was_lost_at_a_cut_is_asked_for"]
