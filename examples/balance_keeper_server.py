"""A server for examples/balance_keeper: SIM cards that are used, and topped up when they ask for it.

    python examples/balance_keeper_server.py

It numbers the events of each `sim:*` topic and remembers them while it runs, so a keeper that was away gets what it
missed: it says at its join what it has seen.
"""

import asyncio
import contextlib
import random
import sys
from typing import Any

from phx_transports.server import Refuse, Server, ServerChannel, on

server = Server()
history: dict[str, list[tuple[str, dict[str, int]]]] = {}


def record(topic: str, event: str, cents: int) -> None:
    """Something has happened to a card: tell everyone who has joined its topic."""
    events = history.setdefault(topic, [])
    events.append((event, {"id": len(events) + 1, "cents": cents}))
    server.broadcast(topic, *events[-1])


@server.channel("sim:*")
class Sim(ServerChannel):
    async def join(self, topic: str, params: Any) -> None:
        self.since = int(params["since"])
        if self.since > len(history.get(topic, [])):
            raise Refuse({"reason": "these events were never sent"})

    async def joined(self) -> None:
        for event, payload in history.get(self.topic, [])[self.since :]:
            self.push(event, payload)

    @on("top_up")
    async def top_up(self, payload: Any) -> dict[str, Any]:
        record(self.topic, "topped_up", int(payload["cents"]))
        return {}


@server.channel("policy")
class Policy(ServerChannel):
    async def joined(self) -> None:
        self.push("reserve", {"cents": 500})


async def use(topics: list[str], *, every: float) -> None:
    """Charge one of the cards now and then, whether somebody listens or not."""
    while True:
        record(random.choice(topics), "charged", random.randrange(1, 300))
        await asyncio.sleep(every)


async def main(port: int = 4000) -> None:
    async with server.serve(port=port) as running:
        print(running.url, flush=True)
        await use(["sim:1", "sim:2"], every=0.2)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
