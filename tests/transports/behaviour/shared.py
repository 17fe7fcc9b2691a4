"""Helpers for several of these files."""

import os
from pathlib import Path

import pytest
from peer import push
from reported import Reports as Reports
from serving_in_thread import LONG, Wire, start, until

from .adapters import TOPIC
from .faces import Channel, Client

#: Besides the three adapters: their plain handlers in an executor.
in_every_way = pytest.mark.parametrize(
    "adapter", ["asyncio", "asyncio-executor", "threads", "threads-executor", "wsproto"], indirect=True
)

#: Where several calls of one client may wait at once.
several_calls = pytest.mark.parametrize("adapter", ["asyncio", "threads"], indirect=True)


class Gate:
    """A named pipe at which a handler in another process waits until the test lets it pass."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = str(path)

    def open(self) -> None:
        """Wait until a handler stands before it, and let it pass."""
        start(Path(self.path).write_text, "").result(LONG)


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


def settled(client: Client, delivered: int) -> None:
    """All that was received is handled, and the counters say so."""
    until(lambda: client.stats.delivered == delivered)
    until(lambda: client.stats.backlog == 0)
    stats = client.stats
    assert (stats.handled, stats.dropped) == (delivered, 0)
