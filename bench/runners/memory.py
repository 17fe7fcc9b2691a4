"""One client, or a server, that meets a hostile peer; prints the memory that it takes idle and at its peak.

Run by `bench.memory` as `python -m bench.runners.memory ADAPTER CASE PORT SECONDS`, as a process of its own. Everything
is at its defaults but the waits between reconnects. What it prints is one line of JSON, in bytes.
"""

import asyncio
import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import phx_transports.asyncio
import phx_transports.threads
import phx_transports.wsproto
from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_transports.server import Server, ServerChannel, ServerSocket, on

TOPIC = "room:1"
#: Seconds that a handler takes for a message.
SLOW = 0.5

OPTIONS = ClientOptions(reconnect=ReconnectPolicy(schedule=Backoff((0.01,))))


def resident() -> int:
    """Bytes that this process takes now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def report(idle: int, **numbers: int) -> None:
    with open("/proc/self/status", encoding="ascii") as file:  # `ru_maxrss` has the parent's, from before its `exec`
        peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
    print(json.dumps({"idle": idle, "peak": peak, **numbers}), flush=True)
    os._exit(0)  # what is under way ends with the process


def of(stats: Any) -> dict[str, int]:
    return {name: getattr(stats, name) for name in ("received", "dropped", "backlog", "backlog_bytes", "connects")}


def slow(message: Message[Any]) -> None:
    message.payload  # noqa: B018
    time.sleep(SLOW)


async def slow_async(message: Message[Any]) -> None:
    message.payload  # noqa: B018
    await asyncio.sleep(SLOW)


def router(case: str, handler: Callable[..., Any]) -> Router:
    made = Router()
    if case != "stream":
        made.add(handler, "n")
    return made


async def on_asyncio(case: str, url: str, seconds: float) -> None:
    made = router(case, slow_async)
    async with phx_transports.asyncio.connect(url, router=made, options=OPTIONS, proxy=None) as client:
        channel = await client.join(TOPIC)
        idle = resident()
        asking = asyncio.create_task(channel.push("never", timeout=600.0)) if case == "call" else None
        stream = channel.messages()
        if case == "stream":
            await stream.__aenter__()
        await channel.cast("go")
        await asyncio.sleep(seconds)
        report(idle, asking=asking is not None, **of(client.stats))


def on_threads(case: str, url: str, seconds: float) -> None:
    with phx_transports.threads.connect(url, router=router(case, slow), options=OPTIONS, proxy=None) as client:
        channel = client.join(TOPIC)
        idle = resident()
        if case == "call":
            threading.Thread(target=channel.push, args=("never",), kwargs={"timeout": 600.0}, daemon=True).start()
        stream = channel.messages()
        if case == "stream":
            stream.__enter__()
        channel.cast("go")
        time.sleep(seconds)
        report(idle, **of(client.stats))


def on_wsproto(case: str, url: str, seconds: float) -> None:
    with phx_transports.wsproto.connect(url, router=router(case, slow), options=OPTIONS) as client:
        channel = client.join(TOPIC)
        idle = resident()
        stream = channel.messages()
        if case == "stream":
            stream.__enter__()
        channel.cast("go")
        if case == "call":
            with contextlib.suppress(TimeoutError):
                channel.push("never", timeout=seconds)
        else:
            client.run(timeout=seconds)
        report(idle, **of(client.stats))


async def serve(case: str, seconds: float) -> None:
    """The application stands still in `connect`, `join` or a handler (row 42); prints its URL first."""

    async def connect(socket: ServerSocket) -> None:
        if case == "connect":
            await asyncio.sleep(600.0)

    server = Server(connect=connect)

    @server.channel("room:*")
    class Room(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any:
            if case == "join":
                await asyncio.sleep(600.0)

        @on("n")
        async def stand_still(self, payload: Any) -> None:
            await asyncio.sleep(600.0)

    async with server.serve() as running:
        idle = resident()
        print(running.url, flush=True)
        await asyncio.sleep(seconds)
        report(idle)


def main() -> None:
    adapter, case, port, limit = sys.argv[1:]
    logging.disable()
    url, seconds = f"ws://127.0.0.1:{port}/socket", float(limit)
    match adapter:
        case "asyncio":
            asyncio.run(on_asyncio(case, url, seconds))
        case "threads":
            on_threads(case, url, seconds)
        case "wsproto":
            on_wsproto(case, url, seconds)
        case _:
            asyncio.run(serve(case, seconds))


if __name__ == "__main__":
    main()
