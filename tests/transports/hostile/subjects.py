"""The process that is under attack: a client of each adapter, or a server.

`python -m hostile.subjects` imports everything once, and forks for each order that comes in, a line of JSON. So a run
has a process of its own, and begins at once. `Gauge` reports to the test over a connection.
"""

import asyncio
import contextlib
import importlib
import json
import logging
import os
import pkgutil
import signal
import socket
import sys
import threading
import time
from typing import Any

import msgspec

import phx_transports.asyncio
import phx_transports.server
import phx_transports.threads
import phx_transports.wsproto
from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.errors import PhxError
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_transports.server import Server, ServerChannel, ServerOptions, ServerSocket, on

TOPIC = "room:1"

#: Seconds that the slow handler takes for a message.
SLOW = 0.5

#: Seconds after which a process that nobody stops ends itself.
_LONGEST = 300

#: What `work: "cast"` sends, again and again.
LOAD = {"data": "x" * 50_000}

_KEPT: list[Any] = []  # by `work: "keep"`


class Gauge:
    """Measures this process, from `start` on, and reports.

    Args:
        control: The connection to the test.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lines = 0
        logging.basicConfig(handlers=[_Counting(self)], force=True)
        self.start()

    def start(self) -> None:
        """It is idle now."""
        self._idle = resident()
        self._cpu, self._wall = time.process_time(), time.monotonic()

    def line(self) -> None:
        """A line was logged."""
        self._lines += 1

    def tell(self, **values: Any) -> None:
        self._control.sendall(json.dumps(values).encode() + b"\n")

    def wait(self) -> None:
        """Until the test says so."""
        self._control.recv(1)

    def report(self) -> None:
        """Reports, and ends the process with all that is under way."""
        with open("/proc/self/status", encoding="ascii") as file:  # `ru_maxrss` has that of the process before a fork
            peak = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM"))
        wall, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        self.tell(above=peak - self._idle, cpu=cpu, wall=wall, lines=self._lines)
        os._exit(0)


class _Counting(logging.Handler):
    def __init__(self, gauge: Gauge) -> None:
        super().__init__(logging.WARNING)
        self._gauge = gauge

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)
        self._gauge.line()


def resident() -> int:
    """Bytes that this process takes now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- clients --------------------------------------------------------------------------------------------------------


def slow(message: Message[Any]) -> None:
    message.payload  # noqa: B018
    time.sleep(SLOW)


async def slow_async(message: Message[Any]) -> None:
    message.payload  # noqa: B018
    await asyncio.sleep(SLOW)


def quick(message: Message[Any]) -> None:
    message.payload  # noqa: B018


async def quick_async(message: Message[Any]) -> None:
    message.payload  # noqa: B018


def keep(message: Message[Any]) -> None:
    _KEPT.append(message.payload)


async def keep_async(message: Message[Any]) -> None:
    _KEPT.append(message.payload)


#: The handler of `n`, by what the client does: for the blocking adapters, and for asyncio.
HANDLERS = {"slow": (slow, slow_async), "quick": (quick, quick_async), "keep": (keep, keep_async)}

#: At its defaults, but for the waits between reconnects: so that more of them are met.
OPTIONS = ClientOptions(reconnect=ReconnectPolicy(schedule=Backoff((0.01,))), poll_timeout=5.0)


def _router(work: str, *, on_asyncio: bool) -> Router:
    router = Router()
    if work in HANDLERS:
        router.add(HANDLERS[work][on_asyncio], "n")
    return router


async def on_asyncio(gauge: Gauge, url: str, work: str, seconds: float, **network: Any) -> None:
    router = _router(work, on_asyncio=True)
    connect = phx_transports.asyncio.connect
    client = await connect(url, router=router, options=OPTIONS, timeout=seconds, **network)
    channel = client.channel(TOPIC)
    if work == "presence":
        channel.track_presence()
    await channel.join()
    gauge.start()
    await channel.cast("go")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            match work:
                case "call":
                    await channel.push("never", timeout=seconds)
                case "stream":
                    async with channel.messages():
                        await client.run(signals="none")
                case "cast":
                    while True:
                        await channel.cast("n", LOAD)
                case _:
                    await client.run(signals="none")
    gauge.report()


def blocking(connect: Any, gauge: Gauge, url: str, work: str, seconds: float, **network: Any) -> None:
    client = connect(url, router=_router(work, on_asyncio=False), options=OPTIONS, timeout=seconds, **network)
    channel = client.channel(TOPIC)
    if work == "presence":
        channel.track_presence()
    channel.join()
    gauge.start()
    channel.cast("go")
    with contextlib.suppress(TimeoutError):
        match work:
            case "call":
                channel.push("never", timeout=seconds)
            case "stream":
                with channel.messages():
                    client.run(timeout=seconds, signals="none")
            case "cast":
                threading.Timer(seconds, gauge.report).start()
                while True:
                    channel.cast("n", LOAD)
            case _:
                client.run(timeout=seconds, signals="none")
    gauge.report()


def client(adapter: str, gauge: Gauge, **order: Any) -> None:
    """Reports also where there is no connection to be had, and where one is ended for good."""
    with contextlib.suppress(PhxError):
        match adapter:
            case "asyncio":
                asyncio.run(on_asyncio(gauge, **order))
            case "threads":
                blocking(phx_transports.threads.connect, gauge, **order)
            case _:
                order.pop("proxy", None)
                blocking(phx_transports.wsproto.connect, gauge, **order)
    gauge.report()


# ---- the server -----------------------------------------------------------------------------------------------------


async def serve(gauge: Gauge, stands_still_in: str, options: dict[str, Any], **serving: Any) -> None:
    """The application echoes, sends what is asked of it, and may stand still in `connect`, `join` or a handler."""

    async def stand_still(where: str) -> None:
        if where == stands_still_in:
            await asyncio.sleep(_LONGEST)

    async def connect(socket: ServerSocket) -> None:
        await stand_still("connect")

    server = Server(connect=connect, options=msgspec.convert(options, ServerOptions), **serving)

    @server.channel("room:*")
    class Room(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any:
            await stand_still("join")

        @on("n")
        async def n(self, payload: Any) -> Any:
            await stand_still("handle")
            return payload

        @on("send")
        async def send(self, payload: Any) -> Any:
            for _ in range(payload["count"]):
                self.push("n", {"data": "x" * payload["size"]})
            return {}

    async with server.serve() as running:
        gauge.start()
        gauge.tell(port=running.port)
        await asyncio.to_thread(gauge.wait)
        gauge.report()


# ---- the process ----------------------------------------------------------------------------------------------------


def run(order: dict[str, Any]) -> None:
    signal.alarm(_LONGEST)
    gauge = Gauge(socket.create_connection(("127.0.0.1", order.pop("control"))))
    who = order.pop("who")
    if who == "server":
        asyncio.run(serve(gauge, **order))
    else:
        client(who, gauge, **order)


def _import_all() -> None:
    for package in ("asyncio", "threads", "wsproto", "websocket", "longpoll", "server"):
        path = importlib.import_module(f"phx_transports.{package}").__path__
        for module in pkgutil.iter_modules(path, f"phx_transports.{package}."):
            importlib.import_module(module.name)


def main() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    _import_all()
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            try:
                run(json.loads(line))
            finally:
                os._exit(1)


if __name__ == "__main__":
    main()
