"""Drives a client on asyncio: the driver with the loop's clock, its timer, and awaited calls."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from math import inf
from typing import Any, TypeVar, cast

from phx_proto.checks import checked_timeout
from phx_proto.client import ClientProtocol
from phx_proto.core import Stats
from phx_proto.errors import OtherLoop
from phx_proto.queues import Delivery

from ..client.calls import Call
from ..client.driver import Driver
from ..client.options import ClientSettings
from ..websocket.options import AsyncFactory, NetworkOptions
from .alarm import Alarm
from .handlers import Runner
from .interfaces import ClientTransport, TransportFactory

T = TypeVar("T")


class AsyncioDriver(Driver):
    """Drives the core of one client, on the running loop.

    Attributes:
        transport: Its connections.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        settings: ClientSettings,
        *,
        network: NetworkOptions[AsyncFactory],
        transport: TransportFactory | None,
    ) -> None:
        super().__init__(proto, settings)
        self._loop = asyncio.get_running_loop()
        self.transport: ClientTransport
        if transport is None:
            from .transport import Transport  # not earlier: see websocket/options.py

            self.transport = Transport(self, network)
        else:
            self.transport = transport.asyncio_transport(self)
        executor = settings.executor
        self._own_executor = ThreadPoolExecutor(thread_name_prefix="phx-handler") if executor is None else None
        self._runner = Runner(
            executor or cast("Executor", self._own_executor),
            release=proto.release,
            on_done=lambda: self._loop.call_soon(self.report),
            on_error=self.handler_failed,
            fail_fast=settings.fail_fast,
        )
        self._timer = Alarm(self.transport.call_at, self.due)
        self.attach(now=self.transport.now, perform=self.transport.perform, workers=self._runner, alarm=self._timer)
        self._idle = asyncio.Event()  # after the core's end: handlers are no longer waited for
        self._finishing: asyncio.Task[None] | None = None

    # ---- handlers ---------------------------------------------------------------------------------------------------

    @property
    def in_handler(self) -> bool:
        """Whether this is called from within a handler."""
        return self._runner.is_current

    @property
    def stats(self) -> Stats:
        self.report()
        return self.proto.stats

    def report(self) -> None:
        """Report handled messages to the core."""
        self.step(lambda now: self.proto.handled(self._runner.report(), now))

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        """Report what a stream's reader has taken as handled."""
        self._runner.handled(deliveries)

    # ---- waiting ----------------------------------------------------------------------------------------------------

    async def ask(self, call: Call[T]) -> T:
        """Make a call of the core, and wait for its end. Cancellation gives the call up."""
        self.check_loop()
        waiter: asyncio.Future[Any] = self._loop.create_future()
        ref = self.begin(call, waiter)
        try:
            return call.result(await waiter)
        except asyncio.CancelledError:
            self.step(lambda now: call.give_up(ref, now))
            raise

    def check_loop(self) -> None:
        """Refuse a call from another event loop, by `OtherLoop`: it would work by chance, or wait without end."""
        try:
            elsewhere = asyncio.get_running_loop() is not self._loop
        except RuntimeError:  # in a fork, which `check_process` sees to
            return
        if elsewhere and not self.session.closed:
            raise OtherLoop

    async def wait(self, register: "Callable[[asyncio.Future[None]], None]", timeout: float | None = None) -> None:
        """Wait for the connection or the end, whichever `register` (of the session) waits for."""
        self.session.check_process()
        self.check_loop()
        waiter: asyncio.Future[None] = self._loop.create_future()
        register(waiter)
        try:
            async with self.timeout(timeout):
                await waiter
        finally:
            self.session.forget(waiter)

    async def wait_closed(self, timeout: float | None = None) -> None:
        """Wait until the client has ended and released everything; raises why it ended."""
        async with self.timeout(timeout):
            try:
                await self.wait(self.session.wait_closed)
            finally:
                if self._finishing is not None and not self.in_handler:
                    await asyncio.shield(self._finishing)

    @contextlib.asynccontextmanager
    async def timeout(self, seconds: float | None) -> AsyncGenerator[None]:
        """Like `asyncio.timeout`, by the client's clock; raises `InvalidTimeout` if it is not a number of seconds."""
        async with asyncio.timeout(None) as bound:
            seconds = checked_timeout("a wait", seconds)
            if seconds == inf:
                yield
                return
            timer = self.transport.call_at(self.now() + seconds, lambda: bound.reschedule(self._loop.time()))
            try:
                yield
            finally:
                timer.cancel()

    # ---- the end ----------------------------------------------------------------------------------------------------

    def on_closed(self) -> None:
        """The core has ended."""
        if self._finishing is None:
            self._finishing = asyncio.Task(self._finish(), loop=self._loop)
        if not self.handlers_wanted:
            self._idle.set()

    async def _finish(self) -> None:
        """Let handlers finish, then release everything."""
        with contextlib.suppress(TimeoutError):
            async with self.timeout(self.handlers_until - self.now()):
                await self._idle.wait()
        await self._runner.close()
        self.session.end_readers()
        self._timer.stop()
        await self.transport.end()
        if self._own_executor is not None:
            self._own_executor.shutdown(wait=False, cancel_futures=True)
