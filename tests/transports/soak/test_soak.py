"""Lives of clients, one after the other: connections, cuts, floods, cancelled calls, leaves, long polling.

After a warm-up, memory, descriptors and threads stay as they are. `--soak-seconds` says for how long.
"""

import gc
import os
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any

import pytest
from behaviour.adapters import Adapter, Asyncio, Threads, Wsproto
from behaviour.test_long_polling import QUICK, Site, site
from serving_in_thread import until

from phx_proto.errors import PushTimeout
from phx_proto.states import ChannelState

ADAPTERS: dict[str, type[Adapter]] = {"asyncio": Asyncio, "threads": Threads, "wsproto": Wsproto}

#: Bytes by which memory may grow, whatever the number of lives. asyncio keeps a cancelled timer until it would be due,
#: and the server has some of 60 s: 2 kB a life, for a minute.
TOLERANCE = 1_000_000
WARM_UP = 4  # lives


@pytest.fixture(params=ADAPTERS)
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    adapter = ADAPTERS[request.param]()
    try:
        yield adapter
    finally:
        adapter.close()


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    given: float = request.config.getoption("--soak-seconds")
    return given


@dataclass(frozen=True)
class Held:
    """What this process holds."""

    memory: int
    descriptors: int
    threads: int

    @staticmethod
    def now() -> "Held":
        for _ in range(3):
            gc.collect()
        memory, _ = tracemalloc.get_traced_memory()
        return Held(memory, len(os.listdir("/proc/self/fd")), threading.active_count())


def live(adapter: Adapter, served: Site, number: int) -> None:
    handlers = adapter.handlers()
    seen: list[Any] = []
    handlers.add(lambda message: seen.append(message.payload), "n")
    transport = "longpoll" if number % 4 == 3 else "websocket"
    client = adapter.connect(served.running.url, transport=transport, options=QUICK, router=handlers)
    channels = [client.join(f"room:{topic}") for topic in range(4)]
    for channel in channels:
        assert channel.push("echo", {"n": number}).response == {"n": number}
    channels[0].push("burst", {"n": 500})
    with suppress(PushTimeout):
        channels[1].push("silence", timeout=0.01)
    if transport == "websocket":
        served.do(served.running.cut)
        until(lambda: client.stats.connects == 2)
        until(lambda: all(channel.state is ChannelState.JOINED for channel in channels))
    channels[2].leave()
    client.close() if number % 2 else client.abort()
    for kept in ("_opened", "_natives", "_tasks"):  # by the adapter, to look at them at the end
        getattr(adapter, kept, []).clear()


def test_nothing_is_kept(adapter: Adapter, seconds: float) -> None:
    tracemalloc.start()
    try:
        with site() as served:
            for number in range(WARM_UP):
                live(adapter, served, number)
            until(lambda: not served.server.sockets)
            before, lives, end = Held.now(), 0, monotonic() + seconds
            while monotonic() < end or lives % 4:
                live(adapter, served, lives)
                lives += 1
            until(lambda: not served.server.sockets)
            until(lambda: Held.now().descriptors <= before.descriptors)
            after = Held.now()
    finally:
        tracemalloc.stop()
    print(f"{type(adapter).__name__}: {lives} lives; {before}; {after}")
    assert after.memory - before.memory <= TOLERANCE, (lives, before, after)
    assert after.threads <= before.threads, (lives, before, after)
