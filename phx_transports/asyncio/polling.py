"""The HTTP connections of links that use long polling, on an event loop: at most two for each link, reused."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, TypeAlias

from phx_proto.commands import SendRequest
from phx_proto.errors import ConnectError
from phx_proto.link import Link

from ..client.session import Step
from ..client.transport import LinkProgress
from ..longpoll.http import HttpDialogue
from ..websocket.connection import DROPPED
from ..websocket.options import AsyncFactory, NetworkOptions
from .dialing import dial

#: Begins a task of the client's.
Spawn: TypeAlias = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class HttpConnection(asyncio.Protocol):
    """One connection, with a request under way or idle."""

    def __init__(self, http: HttpDialogue, step: Step) -> None:
        self.http = http
        self._step = step
        self._gone = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport

    def send(self, command: SendRequest) -> None:
        self._transport.write(self.http.request(command))

    def abort(self) -> None:
        self.http.over = True
        self._transport.abort()

    async def wait_closed(self) -> None:
        await asyncio.shield(self._gone)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._step(partial(self.http.receive, data))
        if self.http.over:
            self._transport.abort()

    def eof_received(self) -> None:
        self.data_received(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone.set_result(None)
        error = ConnectError(DROPPED if exc is None else f"the connection broke: {exc}")
        self._step(partial(self.http.failed, error))


class Requests:
    """The HTTP connections of all long-polling links of one client.

    Args:
        spawn: Starts a task that connects.
        linger: Starts one that the client's end waits for.
    """

    def __init__(self, network: NetworkOptions[AsyncFactory], step: Step, *, spawn: Spawn, linger: Spawn) -> None:
        self._network = network
        self._step = step
        self._spawn = spawn
        self._linger = linger
        self._now = asyncio.get_running_loop().time
        self._connections: dict[Link, set[HttpConnection]] = {}
        self._tasks: dict[Link, set[asyncio.Task[None]]] = {}

    def send(self, command: SendRequest) -> None:
        """Send a request, on an open connection or a new one."""
        for connection in self._connections.setdefault(command.link, set()):
            if connection.http.may_be_used(self._now()):
                connection.send(command)
                return
            if connection.http.idle:
                connection.abort()
        tasks = self._tasks.setdefault(command.link, set())
        task = self._spawn(self._dial(command))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def drop(self, link: Link) -> bool:
        """Drop all connections of a link; returns whether it had any."""
        connections = self._connections.pop(link, None)
        for task in self._tasks.pop(link, ()):
            task.cancel()
        for connection in connections or ():
            connection.abort()
        return connections is not None

    async def _dial(self, command: SendRequest) -> None:
        connections = self._connections[command.link]
        try:
            http = HttpDialogue(command, self._network)
            connection = HttpConnection(http, self._step)
            await dial(http.address, self._network, LinkProgress(command.link, self._step), connection)
            self._linger(connection.wait_closed())
            connections -= {one for one in connections if one.http.over}
            connections.add(connection)
            if self._connections.get(command.link) is not connections:
                connection.abort()  # dropped in the meantime, by a factory that ignored its cancellation
                return
            connection.send(command)
        except ConnectError as error:
            self._step(partial(command.exchange.failed, error))
