"""docs/connecting.md: its tests are tests of this module."""

from pathlib import Path

from snippets import blocks, run

NAMES = run(blocks(Path(__file__).parents[2] / "docs" / "connecting.md"), name="guide")

test_a_service_is_up_before_its_server = NAMES["test_a_service_is_up_before_its_server"]
test_a_refusal_ends_the_client = NAMES["test_a_refusal_ends_the_client"]
