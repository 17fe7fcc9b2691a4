"""The contract between the bench and its runners; standard library only, for it runs in every client's environment.

A runner is a module run as `python -m NAME TASK`, where TASK is the JSON of a `Task`. It connects to the feed, joins
the topics, reads the fields of each message in a handler, and prints the JSON of a `Result` as its last line. The
burst's beginning is told by the feed (`done`), its end is when the last message's handler ran.
"""

import asyncio
import gc
import json
import sys
import time
import tracemalloc
from dataclasses import asdict, dataclass, field
from typing import Any
from urllib.parse import quote

#: Seconds without progress after which a runner gives up waiting for messages.
PATIENCE = 5.0


@dataclass(frozen=True)
class Task:
    """What a runner is to do.

    Attributes:
        work: `"messages"`, `"pushes"`, `"joins"`, `"rejoins"` or `"memory"` of a client; `"broadcast"` or `"load"` of a
            server; `"batches"` of an executor.
        port: The feed's.
        n: Messages to receive or to deliver, or pushes to have answered.
        topics: How many to join.
        sockets: How many a server has.
        kind: `"broadcast"` or `"push"`, see `bench.feed.Plan`.
        shape: `"plain"` or `"supabase"`.
        in_flight: Pushes that await their reply at a time.
        options: What one runner alone understands.
    """

    work: str
    port: int
    n: int
    topics: int = 1
    sockets: int = 1
    kind: str = "broadcast"
    shape: str = "plain"
    in_flight: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def socket(self) -> str:
        """The socket's mount."""
        return f"ws://127.0.0.1:{self.port}/socket"

    @property
    def plan(self) -> str:
        """The feed's plan, to be given as the URL's parameter `plan`."""
        n = 0 if self.work == "pushes" else self.n
        return json.dumps({"n": n, "topics": self.topics, "kind": self.kind, "shape": self.shape})

    @property
    def query(self) -> str:
        """The plan as a part of a URL."""
        return f"plan={quote(self.plan)}"

    @property
    def names(self) -> list[str]:
        """The topics to join."""
        return [f"sim:{894450017 + number}" for number in range(self.topics)]


@dataclass(frozen=True)
class Result:
    """What came of a task.

    Attributes:
        count: Messages handled or delivered, or pushes answered.
        seconds: How long that took; 0.0 if nothing can be said.
        bytes_a_topic: Of the work `"memory"`; of `"load"` those of a socket.
        problem: Why there is no result, else empty.
    """

    count: int = 0
    seconds: float = 0.0
    bytes_a_topic: float = 0.0
    problem: str = ""


def task() -> Task:
    """The task given on the command line."""
    return Task(**json.loads(sys.argv[1]))


def report(result: Result) -> None:
    """Prints the result, for the bench to read."""
    print(json.dumps(asdict(result)), flush=True)


class Meter:
    """Counts messages in handlers; `balance` and `done` are to be called with each such event's payload."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.count = 0
        self.started = 0.0
        self.ended = 0.0

    def balance(self, payload: Any) -> None:
        """The work of every handler: the payload's fields are read."""
        if payload["id"] and payload["currency"] and payload["balance"] > 0 and payload["seq"] >= 0:
            self.count += 1
        if self.count == self.n:
            self.ended = time.monotonic()

    def typed(self, payload: Any) -> None:
        """The same, of a payload that was decoded into a type."""
        if payload.id and payload.currency and payload.balance > 0 and payload.seq >= 0:
            self.count += 1
        if self.count == self.n:
            self.ended = time.monotonic()

    def done(self, payload: Any) -> None:
        # Some client makes a Decimal of every float.
        self.started = float(payload["started"])

    @property
    def complete(self) -> bool:
        return self.count >= self.n and self.started > 0.0

    @property
    def result(self) -> Result:
        return Result(self.count, self.ended - self.started if self.complete else 0.0)

    async def wait(self) -> Result:
        """Until all is handled, or nothing has come for a while."""
        watch = _Watch(self)
        while watch.goes_on():
            await asyncio.sleep(0.02)
        return self.result

    def wait_blocking(self) -> Result:
        """The same for a client of threads."""
        watch = _Watch(self)
        while watch.goes_on():
            time.sleep(0.02)
        return self.result


class _Watch:
    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._seen = -1
        self._since = time.monotonic()

    def goes_on(self) -> bool:
        if self._meter.complete:
            return False
        if self._meter.count != self._seen:
            self._seen = self._meter.count
            self._since = time.monotonic()
        return time.monotonic() - self._since < PATIENCE


class Memory:
    """What is allocated in Python between its making and `a_topic`; start it before anything is joined."""

    def __init__(self) -> None:
        tracemalloc.start()
        gc.collect()
        self._before = tracemalloc.get_traced_memory()[0]

    def a_topic(self, topics: int) -> float:
        """Bytes a topic, by now."""
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - self._before) / topics
