"""The diagrams in the docs show the tables that the core runs on."""

import runpy
from pathlib import Path

import pytest

from phx_proto import states

DIAGRAMS = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "diagrams.py"))


@pytest.mark.parametrize("path", DIAGRAMS["files"](), ids=lambda path: path.name)
def test_a_file_is_up_to_date(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == DIAGRAMS["files"]()[path], "run python docs/diagrams.py"


@pytest.mark.parametrize("table", [states.SOCKET, states.CHANNEL], ids=["socket", "channel"])
def test_every_transition_has_its_arrow_and_its_row(table: states.SocketTable | states.ChannelTable) -> None:
    arrows, picture = DIAGRAMS["arrows"](table), DIAGRAMS["picture"](table)
    page = DIAGRAMS["files"]()[DIAGRAMS["HERE"] / "states.md"]
    for (state, by), after in table.items():
        inputs = arrows[state, after]
        assert by.value in inputs
        assert f"| {state.value} | {', '.join(inputs)} | {after.value} |" in page
    assert picture.count("<path ") == len(arrows)
    assert all(f">{', '.join(inputs)}</text>" in picture for inputs in arrows.values())
