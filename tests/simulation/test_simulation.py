"""Clients and servers of the real cores on one virtual clock, over a network that delays, cuts, refuses and injects.

A machine is what may happen and what must hold. A seed of it is played for 10,000 steps, in runs that end well or ill;
the same seed is the same run. A failure names its seed and is shrunk to the steps that it takes:

    python -m pytest -n 2 tests/simulation --steps 2000000
    python -m pytest tests/simulation --first-seed 7 -k Conversation      # one seed again
"""

import hypothesis
import pytest
from conversation_rules import Conversation
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, run_state_machine_as_test
from sockets_rules import Sockets

PLAYED = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    database=None,
    derandomize=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("machine", [Conversation, Sockets])
def test_all_that_must_hold_holds(
    machine: type[RuleBasedStateMachine], simulated_seed: int, steps_of_a_seed: int
) -> None:
    steps = 0

    class Counted(machine):  # type: ignore[misc, valid-type]
        @invariant()
        def counted(self) -> None:
            nonlocal steps
            steps += 1

    part = 0
    while steps < steps_of_a_seed:
        run_state_machine_as_test(hypothesis.seed(1000 * simulated_seed + part)(Counted), settings=PLAYED)
        part += 1
