"""The driver's part that the blocking face needs: how calls and readers wait."""

import inspect
from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from phx_proto.client import ClientProtocol
from phx_proto.errors import InvalidEndpoint, InvalidHandler, InvalidPayload
from phx_proto.handlers.handler import Handler, HandlerKind
from phx_proto.link import Link
from phx_proto.message import PHX_JOIN

from ..client.calls import Call
from ..client.driver import Driver
from ..client.options import ClientSettings
from ..client.queues import Queue
from ..client.session import Waiter
from ..client.signals import SignalPolicy, uninterrupted

T = TypeVar("T")


class BlockingDriver(Driver):
    """Drives the core of one client, and blocks the calling thread while it waits."""

    def __init__(self, proto: ClientProtocol, settings: ClientSettings) -> None:
        super().__init__(proto, settings)
        for handler in proto.router.handlers:
            self.accept(handler)

    # ---- handlers ---------------------------------------------------------------------------------------------------

    def accept(self, handler: Handler) -> None:
        """Refuse a handler of a kind that cannot run here, by `InvalidHandler`."""
        if handler.kind is HandlerKind.ASYNC:
            problem = "it is a coroutine function, and nobody awaits it here: make it a plain one"
            raise InvalidHandler(handler.name, problem)

    def check(self, handler: Handler) -> None:
        """Refuse a handler that cannot run here, by `InvalidHandler`."""
        self.accept(handler)
        super().check(handler)

    def check_channel(self, topic: str, params: Any) -> None:
        """Refuse a topic with a handler that cannot run here, by `InvalidHandler`; and params that cannot be sent."""
        if inspect.iscoroutinefunction(params):
            problem = "are a coroutine function, and nobody awaits it here: make it a plain one"
            raise InvalidPayload(topic, PHX_JOIN, "the params", problem)
        for handler in self.proto.router.routes(topic).all:
            self.accept(handler)
        super().check_channel(topic, params)

    @property
    @abstractmethod
    def in_handler(self) -> bool:
        """Whether the caller must not wait for the client's end: within a handler."""

    # ---- waiting ----------------------------------------------------------------------------------------------------

    def send(self, call: Callable[[float], None]) -> None:
        """Have the core send something without waiting for a result."""
        uninterrupted(self.step, call)

    @abstractmethod
    def writable(self, link: Link | None) -> bool:
        """Whether more can be sent there without waiting; if not, `wait_writable` comes first."""

    @abstractmethod
    def wait_writable(self, link: Link | None, timeout: float | None = None) -> bool:
        """Wait while there is no room; returns whether there is room now."""

    def ask(self, call: Call[T]) -> T:
        """Make a call of the core, and wait for its end. An interrupt gives the call up."""
        refs: list[str] = []

        def begin(waiter: Waiter, now: float) -> None:
            refs.append(self.session.begin(call.begin, waiter, now))

        try:
            outcome = self.wait(begin)
        except BaseException:
            for ref in refs:
                uninterrupted(self.step, partial(call.give_up, ref))
            raise
        return call.result(outcome())

    def wait_connected(self, timeout: float | None) -> None:
        """Wait until the connection is open; raises why the client ended, or `TimeoutError`."""
        self.wait(lambda waiter, now: self.session.wait_connected(waiter), timeout)()

    @abstractmethod
    def wait(self, begin: Callable[[Waiter, float], None], timeout: float | None = None) -> Callable[[], Any]:
        """Begin something in a step that will end a waiter, and wait for that.

        Returns:
            A callable that returns or raises the outcome.

        Raises:
            TimeoutError: It had not ended in so many seconds.
        """

    @abstractmethod
    def wait_ended(self, timeout: float | None = None) -> bool:
        """Wait until the client has ended and released everything; returns whether it has.

        Within a handler it waits only for the core's end.
        """

    @abstractmethod
    def run(self, timeout: float | None, signals: SignalPolicy) -> bool:
        """As `wait_ended`, with SIGINT and SIGTERM handled."""

    # ---- readers ----------------------------------------------------------------------------------------------------

    @abstractmethod
    def open(self, queue: Queue[Any]) -> None:
        """Let a stream's queue take items from now on."""

    def close(self, queue: Queue[Any]) -> None:
        """Let it take no further items."""
        uninterrupted(self.step, lambda now: queue.close())

    @abstractmethod
    def take(self, queue: Queue[T], deadline: float) -> T:
        """Wait for the next item.

        Raises:
            TimeoutError: There was none until the deadline.
            StopIteration: There are no more.
            PhxError: What ended the channel.
        """

    # ---- the end ----------------------------------------------------------------------------------------------------

    def end(self) -> None:
        """Wait for the end, except within a handler."""
        if self.session.is_here and not self.in_handler:
            self.wait_ended()

    def abort(self) -> None:
        """Close at once, and wait for the end."""
        self.drop()
        self.end()


def check_providers(**providers: object) -> None:
    """Refuse providers that would have to be awaited.

    Raises:
        InvalidEndpoint: One of them is a coroutine function.
    """
    for name, provider in providers.items():
        if inspect.iscoroutinefunction(provider):
            raise InvalidEndpoint(f"{name} is a coroutine function, and nobody awaits it here: make it a plain one")
