"""A server for examples/balances.py: every `sim:*` topic gets a `balance` event ten times a second.

python examples/balances_server.py
"""

import asyncio
import contextlib
import random
import sys
from typing import Any

from phx_transports.server import Refuse, Server, ServerChannel

server = Server()


@server.channel("sim:*")
class Sim(ServerChannel):
    async def join(self, topic: str, params: Any) -> None:
        if not topic.removeprefix("sim:").isdecimal():
            raise Refuse({"reason": "not the number of a SIM card"})

    async def joined(self) -> None:
        self.spawn(self.spend())  # beside the channel; cancelled when the client leaves or is gone

    async def spend(self) -> None:
        cents = 2500
        while cents > 0:
            self.push("balance", {"cents": cents})
            cents -= random.randrange(1, 20)
            await asyncio.sleep(0.1)
        self.stop()


async def main(port: int = 4000) -> None:
    async with server.serve(port=port) as running:
        print(running.url, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*map(int, sys.argv[1:])))
