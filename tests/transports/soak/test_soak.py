"""Lives of clients one after the other: connections, cuts, floods, slow handlers, given-up calls, leaves, polls.

When they are over, descriptors, threads, tasks and timers are as they were before the first, and memory is as it was
after a warm-up. `--soak-seconds` says for how long. The server has a process of its own, and nothing is logged, for
pytest keeps a test's log: what is measured is what clients leave behind.
"""

import asyncio
import gc
import logging
import os
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic, sleep

import pytest
from behaviour.adapters import Adapter, Asyncio, Threads, Wsproto
from behaviour.test_long_polling import QUICK
from peer import timers
from serving_in_thread import until

from phx_proto.core import Stats
from phx_proto.errors import PushTimeout
from phx_proto.flow import FlowLimits
from phx_proto.states import ChannelState

from .served import served

#: The threads of executors that a test gives a client are not the client's.
_GIVEN = "test-handler"

#: By where handlers run, if it is not where they do by default.
ADAPTERS: dict[str, Callable[[], Adapter]] = {
    "asyncio": Asyncio,
    "asyncio, plain handlers": partial(Asyncio, plain=True),
    "threads": Threads,
    "threads, executor": lambda: Threads(executor=ThreadPoolExecutor(4, thread_name_prefix=_GIVEN)),
    "wsproto": Wsproto,
}

#: Bytes by which memory may grow, and more for each life: CPython 3.11 keeps the names of attributes that C code looks
#: up (4,096 of some 55 bytes at most), and `urllib` the addresses that it has split.
TOLERANCE = 50_000
A_LIFE = 500

WARM_UP = 4  # lives

#: A flood reaches each bound.
OPTIONS = replace(QUICK, flow=FlowLimits(high=20, low=5, hard=40))


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


@pytest.fixture
def no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("phx_transports"), "disabled", True)


@dataclass(frozen=True)
class Counts:
    """What this process holds; tasks and set timers are those of the loop of a client on asyncio."""

    descriptors: int
    threads: int
    tasks: int = 0
    timers: int = 0

    @staticmethod
    def now(adapter: Adapter) -> "Counts":
        on_loop = adapter.call(_tasks_and_timers) if isinstance(adapter, Asyncio) else (0, 0)
        threads = [thread for thread in threading.enumerate() if not thread.name.startswith(_GIVEN)]
        return Counts(len(os.listdir("/proc/self/fd")), len(threads), *on_loop)


def _tasks_and_timers() -> tuple[int, int]:
    """But for the task that asks."""
    return len(asyncio.all_tasks()) - 1, len(timers())


def memory() -> tuple[int, int]:
    """Bytes that Python has allocated, and those of the process."""
    for _ in range(3):
        gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return tracemalloc.get_traced_memory()[0], resident


def live(adapter: Adapter, url: str, number: int) -> Stats:
    handlers = adapter.handlers()
    handlers.add(lambda message: message.payload, "quick")
    handlers.add(lambda message: sleep(0.001), "slow")
    transport = "longpoll" if number % 4 == 3 else "websocket"
    client = adapter.connect(url, transport=transport, options=OPTIONS, router=handlers)
    channels = [client.join(f"room:{topic}") for topic in range(4)]
    for channel in channels:
        assert channel.push("echo", {"n": number}).response == {"n": number}
    channels[0].cast("burst", {"count": 100, "event": "quick"})
    channels[1].cast("burst", {"count": 100, "event": "slow"})
    channels[1].push("echo", {})  # answered behind the flood: while a call waits, what is over the bound is dropped
    with pytest.raises(PushTimeout):
        channels[1].push("silence", timeout=0.02)
    adapter.interrupt(lambda: channels[2].push("silence"), after=lambda: None)
    if transport == "websocket":
        channels[3].cast("cut")
        until(lambda: client.stats.connects == 2)
        until(lambda: all(channel.state is ChannelState.JOINED for channel in channels))
    channels[2].leave()
    client.close() if number % 2 else client.abort()
    for kept in ("_opened", "_natives", "_tasks"):  # by the adapter, to look at them at the end
        getattr(adapter, kept, []).clear()
    return client.stats


@pytest.mark.usefixtures("no_log")
def test_nothing_is_kept(adapter: Adapter, seconds: float) -> None:
    with served() as url:
        idle = Counts.now(adapter)
        tracemalloc.start()
        try:
            dropped, lives = sum(live(adapter, url, number).dropped for number in range(WARM_UP)), 0
            before, end = memory(), monotonic() + seconds
            while monotonic() < end or lives % 4:
                dropped += live(adapter, url, lives).dropped
                lives += 1
            after = memory()
        finally:
            tracemalloc.stop()
        with suppress(AssertionError):
            until(lambda: Counts.now(adapter) == idle)
        left = Counts.now(adapter)
    print(f"{type(adapter).__name__}: {lives} lives; {before} -> {after} bytes; {idle} -> {left}")
    assert dropped, "the floods did not reach the bounds"
    assert left == idle, lives
    assert after[0] - before[0] <= TOLERANCE + A_LIFE * lives, (lives, before, after)
