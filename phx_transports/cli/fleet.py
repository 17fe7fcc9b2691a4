"""The demo's server: a fleet of SIM cards whose balances change all the time.

Every topic numbers its events from 1 and keeps the latest of them. A client joins with the number of the last event it
saw, and first gets the events after that: nothing else is needed to lose nothing when a connection is cut.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import msgspec

from ..server import Refuse, RefuseConnect, Server, ServerChannel, ServerSocket, on

FLEETS: Final = ("fleet:europe", "fleet:asia", "fleet:americas")
SIMS: Final = ("sim:8944501", "sim:8944502", "sim:8944503", "sim:8944504", "sim:8944505")
TOPICS: Final[tuple[str, ...]] = (*FLEETS, *SIMS)
UNKNOWN: Final = "fleet:atlantis"  # joins to it are refused

_WEIGHTS: Final = (6, 8, 4, 1, 2, 1, 3, 1)
_TICK: Final = 0.01  # seconds between two bursts of events
_LARGEST_BURST: Final = 2000
_KEPT: Final = 100_000  # events of a topic
_FURTHEST_BEHIND: Final = 50_000  # events that may wait for a client before the feed pauses


class Balance(msgspec.Struct, frozen=True):
    """A SIM card's balance; `id` counts the topic's events, from 1."""

    id: int
    sim: str
    cents: int


@dataclass(slots=True)
class Log:
    """What was sent on a topic: the number of events, which is also the latest id, and those that are kept."""

    sent: int = 0
    latest: deque[Balance] = field(default_factory=lambda: deque[Balance](maxlen=_KEPT))

    def add(self, sim: str, cents: int) -> Balance:
        """The next event."""
        self.sent += 1
        balance = Balance(self.sent, sim, cents)
        self.latest.append(balance)
        return balance

    def since(self, seen: int) -> list[Balance]:
        """The kept events after the one with this id."""
        missed = min(self.sent - seen, len(self.latest))
        return list(islice(self.latest, len(self.latest) - missed, None))


class Fleet:
    """The application of the server: what was sent, and the balances, by topic."""

    def __init__(self) -> None:
        self.logs = {topic: Log() for topic in TOPICS}
        self.server = Server(connect=self._welcome, on_error=lambda report: None)  # crashes are part of the demo
        for pattern in ("fleet:*", "sim:*"):
            self.server.channel(pattern)(lambda: _Account(self))
        self.cents: dict[str, int] = dict.fromkeys(TOPICS, 2500)
        self._away_until = 0.0

    @property
    def sent(self) -> int:
        """Events sent on all topics."""
        return sum(log.sent for log in self.logs.values())

    def go_away(self, seconds: float) -> None:
        """Refuse new connections for a while, like a server that restarts behind its proxy."""
        self._away_until = asyncio.get_running_loop().time() + seconds

    def emit(self, topic: str, cents: int) -> None:
        """Send one event to all clients on the topic; the log keeps it for the others."""
        sim = topic.partition(":")[2] if topic in SIMS else str(random.randrange(8944000, 8945000))
        self.server.broadcast(topic, "balance", self.logs[topic].add(sim, cents))

    async def feed(self, rate: float, behind: Callable[[], int]) -> None:
        """Send so many events a second, over all topics, until cancelled.

        If too many are not handled yet (`behind` returns how many), it waits for the client.
        """
        loop = asyncio.get_running_loop()
        owed, last = 0.0, loop.time()
        while True:
            now = loop.time()
            owed, last = min(owed + (now - last) * rate, _LARGEST_BURST), now
            if behind() < _FURTHEST_BEHIND:
                for topic in random.choices(TOPICS, _WEIGHTS, k=int(owed)):
                    self.emit(topic, self._spend(topic))
                owed %= 1
            await asyncio.sleep(_TICK)

    def _spend(self, topic: str) -> int:
        left = self.cents[topic] - random.randrange(1, 20)
        self.cents[topic] = left if left >= 100 else left + 2500
        return self.cents[topic]

    def _welcome(self, socket: ServerSocket) -> None:
        if asyncio.get_running_loop().time() < self._away_until:
            raise RefuseConnect(503, "restarting")


class _Account(ServerChannel):
    """One client's subscription of a topic. It joins with `{"since": id}`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def join(self, topic: str, params: Any) -> Any:
        log = self._fleet.logs.get(topic)
        if log is None:
            raise Refuse({"reason": f"there is no {topic.partition(':')[2]}"})
        return {"missed": len(log.since(params["since"]))}

    async def joined(self) -> None:
        # No `await` here: newer events must be sent after these.
        for balance in self._fleet.logs[self.topic].since(self.params["since"]):
            self.push("balance", balance)

    @on("top_up")
    async def top_up(self, payload: Any) -> Any:
        return {"cents": self._fleet.cents[self.topic] + payload["cents"]}

    @on("crash")
    async def crash(self, payload: Any) -> Any:
        raise RuntimeError("asked to")
