"""The handler of examples/balances.py, tested as its user would: with the kit. Its process is run in test_cli.py."""

import runpy
from pathlib import Path

import pytest

from phx_proto.errors import PayloadMismatch
from phx_proto.handlers.router import Router
from phx_transports.testing import deliver

EXAMPLE = Path(__file__).parents[2] / "examples" / "balances.py"
ROUTER: Router = runpy.run_path(str(EXAMPLE))["router"]


def test_a_balance_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    deliver(ROUTER, "sim:8944501", "balance", {"cents": 1234}).check()
    assert capsys.readouterr().out == "sim:8944501 has 12.34\n"


def test_a_balance_that_is_no_number_of_cents_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    (error,) = deliver(ROUTER, "sim:8944501", "balance", {"cents": "many"}).errors
    assert isinstance(error, PayloadMismatch)
    assert capsys.readouterr().out == ""


def test_other_topics_are_left_alone() -> None:
    assert not deliver(ROUTER, "room:lobby", "balance", {"cents": 1234})
