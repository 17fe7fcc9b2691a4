"""The diagrams in the docs show the tables that the core runs on."""

import runpy
from pathlib import Path

import pytest

from phx_proto import states

DIAGRAMS = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "diagrams.py"))


def test_the_page_is_up_to_date() -> None:
    written = DIAGRAMS["PAGE"].read_text(encoding="utf-8")
    assert written == DIAGRAMS["page"](), "run python docs/diagrams.py"


@pytest.mark.parametrize("table", [states.SOCKET, states.CHANNEL], ids=["socket", "channel"])
def test_every_transition_has_its_arrow(table: states.SocketTable | states.ChannelTable) -> None:
    arrows = [line.strip() for line in DIAGRAMS["page"]().splitlines() if " --> " in line]
    for (state, by), after in table.items():
        start = f"{state.value} --> {after.value}: "
        assert any(arrow.startswith(start) and by.value in arrow[len(start) :].split(", ") for arrow in arrows)
