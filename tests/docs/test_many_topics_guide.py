"""docs/many-topics.md: its tests are tests of this module."""

from pathlib import Path

from snippets import blocks, run

NAMES = run(blocks(Path(__file__).parents[2] / "docs" / "many-topics.md"), name="guide")

test_250_topics_need_three_sockets = NAMES["test_250_topics_need_three_sockets"]
test_the_topics_of_another_socket_notice_nothing = NAMES["test_the_topics_of_another_socket_notice_nothing"]
