"""The network of a client on asyncio, in memory."""

import asyncio
from collections.abc import Callable
from typing import Any

from phx_proto.commands import Resolve
from phx_proto.link import Link

from ..asyncio.transport import resolve
from ..client.driver import Driver
from .clock import Timer
from .connection import PeerClient


class AsyncioPeerClient(PeerClient[Driver]):
    """Implements `phx_transports.asyncio.interfaces.ClientTransport`."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()  # tasks that resolve params
        self._later: list[asyncio.TimerHandle] = []

    # ---- for the client ----------------------------------------------------------------------------------------------

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        return self._clock.call_at(when, callback)

    def writable(self, link: Link | None, /) -> bool:
        return True

    async def wait_writable(self, link: Link | None, /) -> None:
        await asyncio.sleep(0)

    async def end(self) -> None:
        self._over = True
        for handle in self._later:
            handle.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # ---- for the peer ------------------------------------------------------------------------------------------------

    def resolve(self, command: Resolve) -> None:
        task = asyncio.Task(resolve(command, self.driver), loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def soon(self, call: Callable[[], None]) -> None:
        self._loop.call_soon(call)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        self._later.append(self._loop.call_later(seconds, call))
