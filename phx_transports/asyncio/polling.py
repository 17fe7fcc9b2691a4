"""The HTTP connections of links that are polled, on an event loop: two a link at most, used again and again."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any, Protocol

from phx_proto.commands import SendRequest
from phx_proto.errors import ConnectError
from phx_proto.link import Link

from ..client.session import Step
from ..client.transport import LinkProgress
from ..longpoll.http import REUSED_WITHIN, HttpDialogue, address_of_request
from ..websocket.connection import DROPPED
from ..websocket.options import AsyncFactory, NetworkOptions
from .dialing import dial


class RequestOwner(Protocol):
    """The transport, as its requests see it."""

    def dialling(self, run: Coroutine[Any, Any, None], /) -> asyncio.Task[None]:
        """Have something run that connects."""
        ...

    def lingering(self, run: Coroutine[Any, Any, None], /) -> object:
        """Have something run that the client's end waits for."""


class HttpConnection(asyncio.Protocol):
    """One connection, with a request under way or idle."""

    def __init__(self, http: HttpDialogue, requests: "Requests", link: Link) -> None:
        self._http = http
        self._requests = requests
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None  # once it is connected
        self._gone = self._loop.create_future()
        self._command: SendRequest | None = None  # that has no answer yet
        self._used_at = 0.0

    @property
    def fresh(self) -> bool:
        """Whether it may be used again."""
        return self._loop.time() - self._used_at < REUSED_WITHIN

    def connected(self, transport: asyncio.Transport) -> None:
        """It is open, TLS included."""
        self._transport = transport

    def send(self, command: SendRequest) -> None:
        """Send a request, and tell its exchange what comes.

        Raises:
            ConnectError: It cannot be sent.
        """
        assert self._transport is not None, "it was dialled"
        self._transport.write(self._http.request(command))
        self._command = command

    def abort(self) -> None:
        """Drop it; nothing more is told."""
        self._command = None
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until nothing of it is left."""
        await asyncio.shield(self._gone)

    def data_received(self, data: bytes) -> None:
        """A read brought this."""
        command = self._command
        if command is None:  # nothing was asked
            self.abort()
            return
        try:
            answer = self._http.receive(data)
        except ConnectError as error:
            self.abort()
            self._requests.step(partial(command.exchange.failed, error))
            return
        if answer is None:
            self._requests.step(command.exchange.progressed)
            return
        self._command = None
        self._used_at = self._loop.time()
        if self._http.reusable:
            self._requests.idle(self._link, self)
        else:
            self.abort()
        self._requests.step(partial(command.exchange.answered, answer.status, answer.headers, answer.body))

    def eof_received(self) -> None:
        """The peer has ended the connection."""
        if self._command is not None:
            self.data_received(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is left of it."""
        self._gone.set_result(None)
        self._requests.gone(self._link, self)
        command, self._command = self._command, None
        if command is not None:
            error = ConnectError(DROPPED if exc is None else f"the connection broke: {exc}")
            self._requests.step(partial(command.exchange.failed, error))


class Requests:
    """The HTTP connections of all links of one client that are polled.

    Args:
        network: How connections are opened.
        step: A step of the client's driver.
        owner: The client's transport.
    """

    def __init__(self, network: NetworkOptions[AsyncFactory], step: Step, owner: RequestOwner) -> None:
        self.step = step
        self._network = network
        self._owner = owner
        self._connections: dict[Link, set[HttpConnection]] = {}
        self._idle: dict[Link, list[HttpConnection]] = {}
        self._tasks: dict[Link, set[asyncio.Task[None]]] = {}

    def send(self, command: SendRequest) -> None:
        """Send a request, on a connection that is there or a new one."""
        idle = self._idle.setdefault(command.link, [])
        while idle:
            connection = idle.pop()
            if connection.fresh:
                connection.send(command)
                return
            connection.abort()
        tasks = self._tasks.setdefault(command.link, set())
        task = self._owner.dialling(self._dial(command))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def drop(self, link: Link) -> bool:
        """Drop all that a link has; gives whether it has anything."""
        tasks = self._tasks.pop(link, None)
        if tasks is None:
            return False
        for task in tasks:
            task.cancel()
        del self._idle[link]
        for connection in self._connections.pop(link, ()):
            connection.abort()
        return True

    def idle(self, link: Link, connection: HttpConnection) -> None:
        """A connection can be used again."""
        if link in self._idle:
            self._idle[link].append(connection)

    def gone(self, link: Link, connection: HttpConnection) -> None:
        """Nothing is left of a connection."""
        self._connections.get(link, set()).discard(connection)
        if connection in self._idle.get(link, ()):
            self._idle[link].remove(connection)

    async def _dial(self, command: SendRequest) -> None:
        link = command.link
        try:
            address = address_of_request(command, self._network)
            connection = HttpConnection(HttpDialogue(address, self._network), self, link)
            connection.connected(await dial(address, self._network, LinkProgress(link, self.step), connection))
            self._owner.lingering(connection.wait_closed())
            if link not in self._tasks:  # dropped meanwhile, and a factory did not let itself be cancelled
                connection.abort()
                return
            self._connections.setdefault(link, set()).add(connection)
            connection.send(command)
        except ConnectError as error:
            self.step(partial(command.exchange.failed, error))
