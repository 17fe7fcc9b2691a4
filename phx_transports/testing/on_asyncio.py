"""A client on asyncio, at the peer's end: the transport that it gets instead of the network."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from phx_proto.commands import Command, Resolve

from ..asyncio.transport import resolve
from ..client.driver import Driver
from .clock import Timer
from .connection import PeerClient, PeerNetwork


class AsyncioPeerClient(PeerClient):
    """Fulfils `phx_transports.asyncio.interfaces.ClientTransport` for the client, and `PeerClient` for the peer."""

    writable = True

    def __init__(self, peer: PeerNetwork, driver: Driver) -> None:
        self.now = peer.clock.now
        self._peer = peer
        self._driver = driver
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()  # that resolve params
        self._later: list[asyncio.TimerHandle] = []
        self._over = False  # the client has ended: what it has not handled it never will

    # ---- for the client ----------------------------------------------------------------------------------------------

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Have something called when the test's clock says so."""
        return self._peer.clock.call_at(when, callback)

    def perform(self, command: Command) -> None:
        """Do what the core wants done."""
        if isinstance(command, Resolve):
            self._peer.resolving(self)
            self._spawn(resolve(command, self._driver))
        else:
            self._peer.perform(command, self)

    async def wait_writable(self) -> None:
        """Give the loop a turn, as the real one does."""
        await asyncio.sleep(0)

    async def end(self) -> None:
        """Give up what is under way."""
        self._over = True
        for handle in self._later:
            handle.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ---- for the peer ------------------------------------------------------------------------------------------------

    def tell(self, call: Callable[[float], None], /) -> None:
        """Give the core an input, and do what it wants done."""
        self._driver.step(call)

    def soon(self, call: Callable[[], None], /) -> None:
        """Have something called in the loop's next turn."""
        self._loop.call_soon(call)

    def fail(self, error: BaseException, /) -> None:
        """End the client with this error."""
        self._driver.fail(error)

    def after(self, seconds: float, call: Callable[[], None], /) -> None:
        """Have something called when so many real seconds have passed."""
        self._later.append(self._loop.call_later(seconds, call))

    @property
    def backlog(self) -> int:
        """How many messages the client has not handled, and still may."""
        return 0 if self._over else self._driver.proto.stats.backlog

    def rest(self, timeout: float, /) -> bool:
        """Whether all is handled; no other thread would come to it while this one waits."""
        return not self.backlog

    # ---- private -----------------------------------------------------------------------------------------------------

    def _spawn(self, run: Coroutine[Any, Any, None]) -> None:
        task = asyncio.Task(run, loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
