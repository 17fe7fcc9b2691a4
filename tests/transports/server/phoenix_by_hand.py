"""A client that speaks Phoenix by hand, and an application for it to talk to: for the tests of the server."""

import asyncio
import base64
import json
import socket as sockets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from phx_transports.server import (
    CallbackError,
    Refuse,
    Reply,
    RunningServer,
    Server,
    ServerChannel,
    Termination,
    on,
)

LONG = 5  # seconds until a wait that should be short fails
OK = {"status": "ok", "response": {}}


# ---- a client by hand, and an application ---------------------------------------------------------------------------


class Client:
    """Speaks Phoenix by hand, vsn 2.0.0 or 1.0.0."""

    def __init__(self, websocket: ClientConnection, vsn: str) -> None:
        self.websocket = websocket
        self.vsn = vsn

    async def send(self, join_ref: Any, ref: Any, topic: Any, event: Any, payload: Any = None) -> None:
        fields = [join_ref, ref, topic, event, {} if payload is None else payload]
        if self.vsn == "1.0.0":
            names = ("join_ref", "ref", "topic", "event", "payload")
            await self.websocket.send(json.dumps(dict(zip(names, fields, strict=True))))
        else:
            await self.websocket.send(json.dumps(fields))

    async def next(self) -> Any:
        """The next message."""
        async with asyncio.timeout(LONG):
            data = await self.websocket.recv()
        return data if isinstance(data, bytes) else json.loads(data)

    async def ask(self, *fields: Any) -> Any:
        """The next message after sending one."""
        await self.send(*fields)
        return await self.next()

    async def join(self, topic: str = "room:a", ref: str = "1", payload: Any = None) -> None:
        answer = await self.ask(ref, ref, topic, "phx_join", payload)
        assert (answer["payload"] if self.vsn == "1.0.0" else answer[4])["status"] == "ok"

    async def alive(self) -> None:
        """Everything sent so far was read, and the socket lives."""
        assert await self.ask(None, "beat", "phoenix", "heartbeat") == [None, "beat", "phoenix", "phx_reply", OK]

    async def closed(self) -> int | None:
        """The code of the server's close frame, once nothing more comes; `None` if none came."""
        with pytest.raises(ConnectionClosed) as caught:
            async with asyncio.timeout(LONG):
                await self.websocket.recv()
        assert caught.value.rcvd is None or caught.value.rcvd_then_sent
        return None if caught.value.rcvd is None else int(caught.value.rcvd.code)


@asynccontextmanager
async def connected(url: str, vsn: str = "2.0.0", **options: Any) -> AsyncIterator[Client]:
    address = f"{url}/websocket?vsn={vsn}"
    async with connect(address, proxy=None, ping_interval=None, max_size=None, **options) as websocket:
        yield Client(websocket, vsn)


class Log:
    """What happened, for a test to wait for."""

    def __init__(self) -> None:
        self.entries: list[Any] = []
        self._changed = asyncio.Event()

    def add(self, entry: Any) -> None:
        self.entries.append(entry)
        self._changed.set()

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(LONG):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_count(self, count: int) -> list[Any]:
        await self.until(lambda: len(self.entries) >= count)
        return self.entries


class Application(Server):
    """A server with one room that does what it is told, and a log of its ends and errors."""

    def __init__(self, **options: Any) -> None:
        self.joining = Log()
        self.terminated = Log()
        self.errors = Log()
        self.rooms: list[Room] = []
        self.url = ""
        super().__init__(on_error=self.errors.add, **options)
        self.channel("room:*")(lambda: Room(self))


class Room(ServerChannel):
    def __init__(self, application: Application) -> None:
        self.application = application
        self.gate = asyncio.Event()
        application.rooms.append(self)

    async def join(self, topic: str, params: Any) -> Any:
        self.application.joining.add(topic)
        match params:
            case {"refuse": response}:
                raise Refuse(response)
            case {"crash": _}:
                raise RuntimeError("join")
            case {"answer": "unencodable"}:
                return float("nan")
            case {"answer": response}:
                return response
            case {"gate": _}:
                await self.gate.wait()
        return None

    async def joined(self) -> None:
        if self.params == {"crash_joined": True}:
            raise RuntimeError("joined")
        if self.params == {"welcome": True}:
            self.push("welcome", {"topic": self.topic})

    async def terminate(self, reason: Termination) -> None:
        self.application.terminated.add((self.topic, reason))
        if self.params == {"crash_terminate": True}:
            raise RuntimeError("terminate")

    @on("echo")
    @on("mirror")
    async def echo(self, payload: Any) -> Any:
        return payload

    @on("plain")
    def plain(self, payload: Any) -> Any:
        return {"plain": payload}

    @on("refused")
    async def refused(self, payload: Any) -> None:
        raise Refuse({"why": payload})

    @on("status")
    async def status(self, payload: Any) -> Reply:
        return Reply(payload["status"], payload["response"])

    @on("silent")
    async def silent(self, payload: Any) -> None: ...

    @on("later")
    async def later(self, payload: Any) -> None:
        message = self.message
        assert message is not None

        async def answer() -> None:
            await self.gate.wait()
            self.reply(message, payload, status="late")

        self.spawn(answer())

    @on("gate")
    async def wait(self, payload: Any) -> Any:
        await self.gate.wait()
        return {}

    @on("push")
    async def push_it(self, payload: Any) -> None:
        self.push("pushed", payload)

    @on("broadcast")
    async def broadcast_it(self, payload: Any) -> Any:
        self.broadcast("shout", payload)
        return {}

    @on("broadcast_binary")
    async def broadcast_bytes(self, payload: Any) -> Any:
        self.broadcast("shout", b"\x00\x01")
        return {}

    @on("broadcast_from")
    async def broadcast_from_it(self, payload: Any) -> Any:
        self.broadcast_from("shout", payload)
        return {}

    @on("stop")
    async def stop_it(self, payload: Any) -> Any:
        self.stop()
        return payload

    @on("nan")
    async def nan(self, payload: Any) -> Any:
        return {"price": float("nan")}

    @on("cancelled")
    async def cancelled(self, payload: Any) -> Any:
        raise asyncio.CancelledError

    @on("spawn_crash")
    async def spawn_crash(self, payload: Any) -> None:
        async def work() -> None:
            raise RuntimeError("spawned")

        self.spawn(work())


@asynccontextmanager
async def serving(application: Application | None = None) -> AsyncIterator[tuple[Application, RunningServer]]:
    """The application, listening; its errors must have been looked at when the test ends."""
    application = application or Application()
    async with asyncio.timeout(2 * LONG), application.serve() as running:
        application.url = running.url
        yield application, running
        assert application.errors.entries == []


@asynccontextmanager
async def conversation(**options: Any) -> AsyncIterator[tuple[Application, Client]]:
    """An application with one client that has joined room:a with ref 1."""
    async with serving(Application(**options)) as (application, running), connected(running.url) as client:
        await client.join()
        yield application, client


def errors(application: Application) -> list[tuple[str, str | None, str | None, str]]:
    """The errors so far, which are then forgotten."""
    reports: list[CallbackError] = [*application.errors.entries]
    application.errors.entries.clear()
    return [(report.call, report.topic, report.event, type(report.error).__name__) for report in reports]


# ---- a client without a library -----


@asynccontextmanager
async def slow_reader(url: str) -> AsyncIterator[sockets.socket]:
    """A client that joins room:a and reads nothing from then on."""
    loop = asyncio.get_running_loop()
    address, port = url.removeprefix("ws://").partition("/")[0].split(":")
    with sockets.socket() as sock:
        sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await loop.sock_connect(sock, (address, int(port)))
        await loop.sock_sendall(sock, handshake("/socket/websocket?vsn=2.0.0"))
        response = b""
        while b"\r\n\r\n" not in response:
            response += await loop.sock_recv(sock, 1000)
        join = b'["1","1","room:a","phx_join",{}]'
        await loop.sock_sendall(sock, masked(join))
        assert b"phx_reply" in await loop.sock_recv(sock, 1000)
        yield sock


def masked(message: bytes) -> bytes:
    """The frame of a message of up to 125 bytes."""
    return bytes([0x81, 0x80 | len(message), 0, 0, 0, 0]) + message


def handshake(target: str, *headers: str) -> bytes:
    lines = [
        f"GET {target} HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(b'0123456789abcdef').decode()}",
        *headers,
    ]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode()
