"""`background`: a call that blocks, while the test goes on."""

import pydoc
import threading

import pytest

import phx_transports.testing
from phx_transports.testing import background

PATIENCE = 30.0


def test_a_call_runs_beside_the_test() -> None:
    gate = threading.Event()
    waiting = background(gate.wait, timeout=PATIENCE)
    assert not waiting.done()
    gate.set()
    assert waiting.result(PATIENCE)


def test_what_it_raises_is_raised_where_the_test_waits() -> None:
    failing = background(int, "seven")
    with pytest.raises(ValueError, match="seven"):
        failing.result(PATIENCE)


def test_the_end_of_the_interpreter_is_only_the_calls_end() -> None:
    assert isinstance(background(exit, 3).exception(PATIENCE), SystemExit)


def test_a_call_that_never_ends_fails_only_the_wait_for_it() -> None:
    gate = threading.Event()
    waiting = background(gate.wait)
    with pytest.raises(TimeoutError):
        waiting.result(0)
    assert all(thread.daemon for thread in threading.enumerate() if thread.name == "phx-test-background")
    gate.set()
    waiting.result(PATIENCE)


def test_help_shows_the_kit() -> None:
    told = pydoc.plain(pydoc.render_doc(phx_transports.testing))
    assert "class Peer" in told
    assert "deliver(router" in told
