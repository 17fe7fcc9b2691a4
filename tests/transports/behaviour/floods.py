"""What the tests of handlers and of faults share."""

import pytest
from peer import push
from serving_in_thread import Wire

from .adapters import TOPIC

#: Besides the three adapters: their plain handlers in an executor.
in_every_way = pytest.mark.parametrize(
    "adapter", ["asyncio", "asyncio-executor", "threads", "threads-executor", "wsproto"], indirect=True
)


def flood(wire: Wire, count: int, size: int = 10_000) -> None:
    """More than fits between the two, if it is many."""
    wire.send(*(push(TOPIC, "n", [number, "x" * size]) for number in range(count)))
