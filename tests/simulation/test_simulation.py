"""Clients and servers of the real cores on one virtual clock, over a network that delays, cuts, refuses and injects.

A machine has possible steps and invariants. A seed of it is played for 10,000 steps, in runs that end well or ill;
the same seed is the same run. A failure names its seed and is shrunk to the steps that it takes:

    python -m pytest -n 2 tests/simulation --steps 2000000
    python -m pytest tests/simulation --first-seed 7 -k Conversation      # one seed again
"""

import pytest
from conversation_rules import Conversation
from player import Machine, play
from polling_rules import Polling
from sockets_rules import Sockets


@pytest.mark.parametrize("machine", [Conversation, Sockets, Polling])
def test_all_that_must_hold_holds(machine: type[Machine], simulated_seed: int, steps_of_a_seed: int) -> None:
    play(machine, simulated_seed, steps_of_a_seed)
