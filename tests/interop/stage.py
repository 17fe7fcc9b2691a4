"""The other side of the scenarios: a local site with the page and the scripts, and the stage that they act through.

The stage is a WebSocket of the site. It gives each scenario a server of its own, does to that server what the scenario
asks for (`restart`, `cut`, `disconnect`, `broadcast`), and records the reports of the scenario and of the
server.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

from rooms import Entry, Rooms
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from phx_transports.server import RunningServer

HERE: Final = Path(__file__).parent
MODULES: Final = HERE / "node_modules"

_FILES: Final = {
    "/": (HERE / "page.html", "text/html"),
    "/scenarios.mjs": (HERE / "scenarios.mjs", "text/javascript"),
    "/phoenix.mjs": (MODULES / "phoenix" / "priv" / "static" / "phoenix.mjs", "text/javascript"),
}


@dataclass(frozen=True, slots=True)
class Result:
    """How a scenario went.

    Attributes:
        error: What the client found wrong; empty if nothing.
        journal: What the server saw.
        closes: How connections ended on the server, those that ended before the scenario did.
    """

    error: str
    journal: list[Entry]
    closes: list[tuple[int | None, str]]


class Stage:
    """One run of all scenarios.

    Attributes:
        address: Of the site, e.g. `127.0.0.1:4000`.
        results: By scenario.
        finished: Set when the last one is over.
    """

    def __init__(self) -> None:
        self.address = ""
        self.results: dict[str, Result] = {}
        self.finished = asyncio.Event()
        self._rooms = Rooms("")
        self._running: RunningServer | None = None
        self._serving = AsyncExitStack()

    @asynccontextmanager
    async def open(self) -> AsyncGenerator["Stage"]:
        """Serve the site while in the context."""
        async with serve(self._act, "127.0.0.1", 0, process_request=self._file) as site:
            self.address = f"127.0.0.1:{site.sockets[0].getsockname()[1]}"
            try:
                yield self
            finally:
                await self._serving.aclose()

    # ---- the site ----------------------------------------------------------------------------------------------------

    def _file(self, connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/stage":
            return None
        file = request.path.partition("?")[0]
        if file not in _FILES:
            return connection.respond(HTTPStatus.NOT_FOUND, "")
        path, kind = _FILES[file]
        body = path.read_bytes()
        headers = Headers({"Content-Type": kind, "Content-Length": str(len(body)), "Connection": "close"})
        return Response(200, "OK", headers, body)

    async def _act(self, connection: ServerConnection) -> None:
        async for text in connection:
            try:
                answer = {"result": await self._do(**json.loads(text))}
            except Exception as error:
                answer = {"error": repr(error)}
            await connection.send(json.dumps(answer))

    # ---- what a scenario may ask for ---------------------------------------------------------------------------------

    async def _do(self, what: str, **details: Any) -> Any:
        match what:
            case "begin":
                self._rooms = Rooms(details["name"])
                return (await self._serve()).url
            case "restart":
                assert self._running is not None
                port = self._running.port
                await self._serving.aclose()
                await self._serve(port)
            case "cut":
                assert self._running is not None
                self._running.cut()
            case "disconnect":
                self._rooms.server.disconnect(details["id"])
            case "broadcast":
                self._rooms.server.broadcast(details["topic"], details["event"], details["payload"])
            case "end":
                closes = self._rooms.curtain()
                self.results[details["name"]] = Result(details["error"], self._rooms.journal, closes)
                await self._serving.aclose()
            case "finish":
                self.finished.set()
            case _:
                raise ValueError(f"nobody knows how to {what}")
        return None

    async def _serve(self, port: int = 0) -> RunningServer:
        self._running = await self._serving.enter_async_context(self._rooms.server.serve(port=port))
        return self._running
