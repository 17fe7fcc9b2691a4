"""What several of the files here need."""

import pytest
from peer import push
from serving_in_thread import LONG, Wire, start

from .adapters import TOPIC
from .faces import Channel

#: Besides the three adapters: their plain handlers in an executor.
in_every_way = pytest.mark.parametrize(
    "adapter", ["asyncio", "asyncio-executor", "threads", "threads-executor", "wsproto"], indirect=True
)

#: Where several calls of one client may wait at once.
several_calls = pytest.mark.parametrize("adapter", ["asyncio", "threads"], indirect=True)


def leave(channel: Channel, wire: Wire) -> None:
    leaving = start(channel.leave)
    wire.let_go(channel.topic)
    leaving.result(LONG)


def numbers(count: int, topic: str = TOPIC) -> list[str]:
    """Messages that carry 0, 1, 2 …"""
    return [push(topic, "n", number) for number in range(count)]


def flood(wire: Wire, count: int, size: int = 10_000) -> None:
    """More than fits between the two, if it is many."""
    wire.send(*(push(TOPIC, "n", [number, "x" * size]) for number in range(count)))
