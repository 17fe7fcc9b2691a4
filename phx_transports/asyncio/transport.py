"""The connections of one client: carries out the core's commands, and reports to each link what its connection saw.

A link is an attempt to connect: first a task, then a connection. The core decides when it ends. What is sent is written
at the end of the loop iteration, so code that sends much must let the loop run (`wait_writable`), and wait while the
write buffer is full.
"""

import asyncio
import inspect
from collections.abc import Coroutine
from functools import partial
from typing import Any, Final

from phx_proto.commands import (
    OpenTransport,
    PauseSending,
    Resolve,
    ResumeSending,
    SendBinary,
    SendRequest,
    SendText,
)
from phx_proto.errors import ConnectError
from phx_proto.link import Link

from ..client.driver import Driver
from ..client.transport import CommandTransport, LinkProgress
from ..websocket.options import AsyncFactory, NetworkOptions
from .connection import Connection, open_connection
from .polling import Requests
from .workers import is_stopped

_TURN: Final = 2**16  # bytes that are sent before the loop must run to write them


class Transport(CommandTransport[asyncio.Task[None], Connection]):
    """Connects for one client, sends, and calls its `params` and `auth_token`."""

    def __init__(self, driver: Driver, network: NetworkOptions[AsyncFactory]) -> None:
        super().__init__()
        self.driver = driver
        self.step = driver.step
        self.now = asyncio.get_running_loop().time
        self.call_at = asyncio.get_running_loop().call_at
        self._loop = asyncio.get_running_loop()
        self._network = network
        self._tasks: set[asyncio.Task[None]] = set()  # that open connections or resolve params
        self._lingering: set[asyncio.Task[None]] = set()  # that wait for the end of dropped connections
        self._requests = Requests(
            network,
            driver.step,
            spawn=partial(self._spawn, self._tasks),
            linger=partial(self._spawn, self._lingering),
        )
        self._queued = 0  # bytes sent since the loop last ran
        self._blocked: dict[Link | None, asyncio.Future[None]] = {}  # links whose write buffers are full

    def writable(self, link: Link | None) -> bool:
        """Whether more can be sent there without waiting; if not, `wait_writable` comes first."""
        return link not in self._blocked and self._queued < _TURN

    async def wait_writable(self, link: Link | None) -> None:
        """Let the loop run to write what was sent, and wait while the write buffer is full."""
        self._queued = 0
        await asyncio.sleep(0)
        while (room := self._blocked.get(link)) is not None:
            await asyncio.shield(room)

    async def end(self) -> None:
        """After the core has ended: stop what still runs, and wait until everything is released."""
        for task in self._tasks:
            task.cancel()
        while pending := self._tasks | self._lingering:
            await asyncio.wait(pending)

    # ---- the core's commands ----------------------------------------------------------------------------------------

    def _open(self, command: OpenTransport) -> None:
        self.attempts[command.link] = self._spawn(self._tasks, self._connect(command))

    async def _connect(self, command: OpenTransport) -> None:
        link = command.link
        try:
            connection = await open_connection(
                command.url,
                subprotocols=command.subprotocols,
                headers=command.headers,
                network=self._network,
                receiver=_Receiver(self, link),
            )
        except ConnectError as error:
            self.attempts.pop(link, None)
            self.step(partial(link.failed, error))
        else:
            if not link.current:  # given up in the meantime, by a factory that ignored its cancellation
                self._drop(link, connection)
                return
            del self.attempts[link]
            self.connections[link] = connection
            self.step(partial(link.opened, connection.subprotocol))

    def _send_text(self, command: SendText) -> None:
        self._queued += len(command.data)
        self.connections[command.link].send_text(command.data)  # without `super()`, which is 1 % of a push

    def _send_binary(self, command: SendBinary) -> None:
        self._queued += len(command.data)
        super()._send_binary(command)

    def _drop(self, link: Link, connection: Connection) -> None:
        connection.abort()
        self._let_go(link, connection)

    def _resolve(self, command: Resolve) -> None:
        self._spawn(self._tasks, resolve(command, self.driver))

    def _send_request(self, command: SendRequest) -> None:
        self._requests.send(command)

    def _drop_requests(self, link: Link) -> bool:
        dropped = self._requests.drop(link)
        if dropped:
            self.unblocked(link)
        return dropped

    def _pause_sending(self, command: PauseSending) -> None:
        self.blocked(command.link)

    def _resume_sending(self, command: ResumeSending) -> None:
        self.unblocked(command.link)

    # ---- callbacks of connections -----------------------------------------------------------------------------------

    def closed(self, link: Link, code: int | None, reason: str) -> None:
        """The connection of a link is over."""
        connection = self.connections.pop(link, None)
        if connection is not None:
            self._let_go(link, connection)
        self.step(partial(link.closed, code, reason))

    def blocked(self, link: Link) -> None:
        """The write buffer of a link's connection is full."""
        if link not in self._blocked:
            self._blocked[link] = self._loop.create_future()

    def unblocked(self, link: Link) -> None:
        """The write buffer has room again, or the connection is gone."""
        room = self._blocked.pop(link, None)
        if room is not None:
            room.set_result(None)

    # ---- private ----------------------------------------------------------------------------------------------------

    def _let_go(self, link: Link, connection: Connection) -> None:
        self.unblocked(link)
        self._spawn(self._lingering, connection.wait_closed())

    def _spawn(self, tasks: set[asyncio.Task[None]], run: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Not `create_task`: an eager task factory would run it within a step.
        task = asyncio.Task(run, loop=self._loop)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(self._look_at)
        return task

    def _look_at(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.driver.fail(error)


async def resolve(command: Resolve, driver: Driver) -> None:
    """Call the provider of params or token, and pass the result to the core."""
    try:
        value = command.provider()
        if inspect.isawaitable(value):
            value = await value
    except (Exception, asyncio.CancelledError) as error:
        if is_stopped(error):
            raise
        driver.step(partial(driver.proto.resolve_failed, command.request, error))
    else:
        driver.step(partial(driver.proto.resolved, command.request, value))


class _Receiver(LinkProgress):
    """Passes what one link's connection sees to the core."""

    __slots__ = ("_transport",)

    def __init__(self, transport: Transport, link: Link) -> None:
        super().__init__(link, transport.step)
        self._transport = transport

    def frames(self, frames: list[str | bytes]) -> None:
        self._step(partial(self._link.receive_all, frames))

    def progress(self) -> None:
        self._step(self._link.progressed)

    def closed(self, code: int | None, reason: str) -> None:
        self._transport.closed(self._link, code, reason)

    def blocked(self) -> None:
        self._transport.blocked(self._link)

    def writable(self) -> None:
        self._transport.unblocked(self._link)
