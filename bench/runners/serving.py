"""The asyncio server and, beside it, a bare `websockets` server with its own `broadcast`, before a crowd of sockets.

`broadcast`: every payload is encoded once and sent to all; the time runs until the crowd has received the last byte.
`load`: the memory of a socket that has joined and sends heartbeats.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias

import orjson
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.frames import Frame, Opcode

from bench.crowd import allow_sockets
from bench.feed import example
from bench.meter import Memory, Result, Task, report, task
from phx_transports.server import Server

TOPIC = "sim:all"
PAYLOAD = example(0)

#: A port, and what broadcasts a payload.
Serving: TypeAlias = tuple[int, Callable[[Any], None]]


async def run(task: Task) -> Result:
    allow_sockets(task.sockets)
    memory = _Memory(task) if task.work == "load" else None
    contender = CONTENDERS[task.options["contender"]]
    async with contender() as (port, send), _crowd(port, task.sockets) as crowd:
        if memory is not None:
            await crowd.told("beat 5")
            return Result(task.n, bytes_a_topic=memory.a_socket())
        rounds = max(task.n // task.sockets, 1)
        size = len(Frame(Opcode.TEXT, _encoded(PAYLOAD).encode()).serialize(mask=False))
        done = asyncio.create_task(crowd.told(f"receive {rounds * task.sockets * size}"))
        started = monotonic()
        for _ in range(rounds):
            send(PAYLOAD)
            await asyncio.sleep(0)
        await done
        return Result(rounds * task.sockets, monotonic() - started)


# ---- the contenders -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _ours() -> AsyncIterator[Serving]:
    server = Server()

    @server.on("never", topic="sim:*")
    def never(channel: Any, payload: Any) -> None: ...

    async with server.serve() as running:
        yield running.port, lambda payload: server.broadcast(TOPIC, "balance", payload)


@asynccontextmanager
async def _bare() -> AsyncIterator[Serving]:
    async def handle(connection: ServerConnection) -> None:
        async for message in connection:
            join_ref, ref, topic, _event, _payload = orjson.loads(message)
            await connection.send(_reply(join_ref, ref, topic))

    def send(payload: Any) -> None:
        broadcast(server.connections, _encoded(payload))

    async with serve(handle, "127.0.0.1", 0, compression=None, ping_interval=None, max_queue=None) as server:
        yield next(iter(server.sockets)).getsockname()[1], send


CONTENDERS = {"ours": _ours, "bare": _bare}


def _reply(join_ref: str | None, ref: str, topic: str) -> str:
    return orjson.dumps([join_ref, ref, topic, "phx_reply", {"status": "ok", "response": {}}]).decode()


def _encoded(payload: Any) -> str:
    return orjson.dumps([None, None, TOPIC, "balance", payload]).decode()


# ---- the crowd and the memory ---------------------------------------------------------------------------------------


class _Crowd:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    async def says(self, word: str) -> None:
        assert self.process.stdout is not None
        said = (await self.process.stdout.readline()).decode().strip()
        assert said == word, f"the crowd said {said!r} instead of {word!r}"

    async def told(self, command: str) -> None:
        """Has the crowd do something, and waits until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n".encode())
        await self.says("done")


@asynccontextmanager
async def _crowd(port: int, sockets: int) -> AsyncIterator[_Crowd]:
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "bench.crowd", str(port), str(sockets), TOPIC)
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    crowd = _Crowd(process)
    try:
        await crowd.says("ready")
        yield crowd
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


class _Memory:
    """Bytes a socket: what Python allocates, or, with the option `resident`, what the process has grown by."""

    def __init__(self, task: Task) -> None:
        self._sockets = task.sockets
        self._allocated = None if task.options.get("resident") else Memory()
        self._before = _resident()

    def a_socket(self) -> float:
        if self._allocated is not None:
            return self._allocated.a_topic(self._sockets)
        return (_resident() - self._before) / self._sockets


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096.0


if __name__ == "__main__":
    report(asyncio.run(run(task())))
