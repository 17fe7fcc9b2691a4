"""The server that is polled, a process of its own: `python -m bench.polled` prints its port, and ends with its stdin.

It is our own server, for all clients alike: it answers `echo`, and on `go` pushes a burst as fast as the polls take it.
"""

import asyncio
import sys
import time
from typing import Any

from bench.feed import example
from phx_transports.server import Server, ServerChannel, on

server = Server()


@server.channel("sim:*")
class Sim(ServerChannel):
    """A topic of the bench."""

    @on("echo")
    async def echo(self, payload: Any) -> Any:
        return payload

    @on("go")
    async def go(self, payload: Any) -> None:
        started = time.monotonic()
        for seq in range(payload["n"]):
            self.push("balance", example(seq))
            if seq % 100 == 0:
                await self.socket.writable()
                await asyncio.sleep(0)
        self.push("done", {"started": started})


async def _main() -> None:
    async with server.serve() as running:
        print(running.port, flush=True)
        loop = asyncio.get_running_loop()
        stdin = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
        await stdin.read()


if __name__ == "__main__":
    asyncio.run(_main())
