"""Every fuzzing target, for a moment: its corpus, and some inputs made from it. `python -m fuzz` goes on from there."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.inputs import inputs
from fuzz.targets import TARGETS, Target

each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


@each_target
def test_what_once_broke_a_target_no_longer_does(target: Target) -> None:
    for data in target.corpus():
        target.check(data)


@each_target
@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_inputs_like_those_of_the_corpus(target: Target, data: st.DataObject) -> None:
    target.check(data.draw(inputs(target)))


def test_the_command_feeds_the_targets_that_are_named() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "fuzz", "tunnel", "request", "--seconds", "0"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 0
    assert run.stdout.endswith("nothing was found\n")
