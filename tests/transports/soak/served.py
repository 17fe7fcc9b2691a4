"""The server of the soak, in a process of its own, so that its memory is not counted as the client's.

`python -m soak.served` prints its URL in a line, and ends when its input ends.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from phx_transports.server import Server, ServerChannel, ServerOptions, on

_ROOT = Path(__file__).parents[3]


async def serve() -> None:
    server = Server(options=ServerOptions(poll_window=3.0))

    @server.channel("room:*")
    class Room(ServerChannel):
        @on("echo")
        async def echo(self, payload: Any) -> Any:
            return payload

        @on("silence")
        async def silence(self, payload: Any) -> None:
            """Is never answered."""

        @on("burst")
        async def burst(self, payload: Any) -> None:
            for number in range(payload["count"]):
                self.push(payload["event"], {"n": number, "data": "x" * 1000})

        @on("cut")
        async def cut(self, payload: Any) -> None:
            running.cut()

    async with server.serve() as running:
        print(running.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)


@contextmanager
def served() -> Iterator[str]:
    """The URL of a server that runs meanwhile."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), str(_ROOT / "tests" / "transports")])}
    command = [sys.executable, "-m", "soak.served"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


if __name__ == "__main__":
    asyncio.run(serve())
