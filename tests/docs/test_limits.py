"""The table of limits: each row names attacks that there are, with the bound that is measured."""

import re
from pathlib import Path

import pytest
from hostile import test_clients, test_server
from hostile.measuring import MB, Bounds

PAGE = (Path(__file__).parents[2] / "docs" / "limits.md").read_text("utf-8")

TABLES: dict[str, dict[str, Bounds]] = {
    "test_an_open_connection": {name: one.bounds for name, one in test_clients.OPEN.items()},
    "test_a_handshake": {name: one.bounds for name, one in test_clients.HANDSHAKE.items()},
    "test_long_polling": {name: one.bounds for name, one in test_clients.POLLING.items()},
    "test_a_server": {name: one.bounds for name, one in test_server.SCENARIOS.items()},
}


@pytest.mark.parametrize("test", TABLES)
def test_every_attack_has_a_row_with_its_bound(test: str) -> None:
    section = PAGE.partition(f"(`{test}`)")[2].partition("\n## ")[0]
    told: dict[str, int] = {}
    for names, megabytes in re.findall(r"^\| (`.*?`) \|.*\| (\d+) MB \|", section, re.MULTILINE):
        told |= dict.fromkeys(re.findall("`(.*?)`", names), int(megabytes))
    assert told == {name: bounds.memory // MB for name, bounds in TABLES[test].items()}
