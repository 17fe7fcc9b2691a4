"""Drives a bare `ClientProtocol`: the smallest adapter, for tests of what a client does.

Calls return a `concurrent.futures.Future` that ends like the same call of the real adapters: `result(0)` returns or
raises the same; until the server has answered, `done()` is false. Nothing runs in the background, only within the
test's own calls.

Messages are not handled but kept (`messages`), whatever handlers there are; test handlers with `deliver`.
"""

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from math import inf
from typing import Any, Self, TypeVar

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import Resolve
from phx_proto.events import Event
from phx_proto.inbox import Tap, TapItem
from phx_proto.message import Message, Reply
from phx_proto.queues import Delivery, DeliveryQueue
from phx_proto.states import ChannelState, SocketState

from ..asyncio.alarm import Alarm
from ..client import calls
from ..client.calls import Call
from ..client.driver import Driver
from ..client.options import ClientSettings
from .connection import PeerClient
from .network import Network

T = TypeVar("T")


class PeerDriver:
    """A client without an adapter. Made by `Peer.driver`.

    Attributes:
        proto: The core; after a direct call to it, call `pump`.
        events: All events of the client and its channels, in order.
        messages: All messages of joined channels, in order.
    """

    def __init__(self, proto: ClientProtocol, network: Network) -> None:
        self.proto = proto
        self.events: list[Event] = []
        self.messages: list[Message[Any]] = []
        self._driver = _SteppedDriver(self, network)
        self._channels: dict[str, Channel] = {}

    def __repr__(self) -> str:
        return f"PeerDriver({self.proto!r})"

    @property
    def state(self) -> SocketState:
        """The connection's current state."""
        return self.proto.state

    def connect(self, *, timeout: float = inf) -> Self:
        """Begin to connect; by default the peer has accepted when this returns. See `connected`."""
        self._driver.start(timeout)
        return self

    def connected(self) -> "Future[None]":
        """Ends when the connection is open, or with the client's error."""
        return _waiter(self._driver.session.wait_connected)

    def closed(self) -> "Future[None]":
        """Ends when the client has ended: with its error, if it has one."""
        return _waiter(self._driver.session.wait_closed)

    def channel(self, topic: str, params: Any = None) -> Channel:
        """The live channel of the topic; if there is none, a new one with these params."""
        channel = self._channels.get(topic)
        if channel is None or channel.state in (ChannelState.LEAVING, ChannelState.CLOSED):
            channel = self._channels[topic] = self.proto.channel(topic, params)
            channel.inbox.attach(Tap(self._driver.keep))
        return channel

    def join(self, topic: str, params: Any = None, *, timeout: float | None = None) -> "Future[Any]":
        """Join; ends with the server's answer."""
        return self._ask(calls.join(self.channel(topic, params), timeout=timeout))

    def leave(self, topic: str, *, timeout: float = 10.0) -> "Future[None]":
        """Leave; ends with the server's answer."""
        channel = self._channels.get(topic) or self.channel(topic)  # a channel that is being left is not left again
        return self._ask(calls.leave(channel, timeout=timeout))

    def push(self, topic: str, event: str, payload: Any = None, *, timeout: float = 10.0) -> "Future[Reply]":
        """Send an event; ends with the reply, whatever its status."""
        return self._ask(calls.push(self.channel(topic), event, {} if payload is None else payload, timeout=timeout))

    def cast(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event without a reply."""
        self.tell(calls.cast(self.channel(topic), event, {} if payload is None else payload))

    def ping(self, *, timeout: float = 10.0) -> "Future[float]":
        """Send a heartbeat; ends with the seconds until the answer."""
        return self._ask(calls.ping(self.proto, timeout=timeout))

    def reconnect(self) -> None:
        """Drop the connection and connect again."""
        self.tell(self.proto.reconnect)

    def close(self, *, timeout: float = 10.0) -> "Future[None]":
        """Close gracefully; ends when the client has ended."""
        self.tell(lambda now: self.proto.close(now, timeout=timeout))
        return self.closed()

    def abort(self) -> None:
        """Close at once."""
        self._driver.drop()

    def fail(self, error: BaseException) -> None:
        """End the client with this error."""
        self._driver.fail(error)

    def tell(self, call: Callable[[float], T]) -> T:
        """Pass an input to the core, and let everything happen that follows from it."""
        return self._driver.step(call)

    def pump(self) -> None:
        """Carry out the core's commands."""
        self._driver.step(lambda now: None)

    def _ask(self, call: Call[Any]) -> "Future[Any]":
        return _waiter(partial(self._driver.begin, call))


def _waiter(register: "Callable[[Future[Any]], object]") -> "Future[Any]":
    waiter: Future[Any] = Future()
    register(waiter)
    return waiter


class _SteppedDriver(Driver):
    """Drives the core in the caller's own steps, on the test's clock; its workers keep the messages."""

    def __init__(self, face: PeerDriver, network: Network) -> None:
        super().__init__(face.proto, ClientSettings())
        self._face = face
        self._settle = network.settle
        self._later: deque[Callable[[], object]] = deque()  # calls to make after the step
        client = _SteppedClient(self, network.clock, network.perform)
        self.attach(now=client.now, perform=client.perform, workers=self, alarm=Alarm(network.clock.call_at, self.due))

    def step(self, call: Callable[[float], T]) -> T:
        result = super().step(call)
        while self._later:
            self._later.popleft()()
        self._settle()
        return result

    def later(self, call: Callable[[], object]) -> None:
        self._later.append(call)

    def record(self, event: Event) -> None:
        self._face.events.append(event)

    def keep(self, item: TapItem) -> None:
        if isinstance(item, tuple):
            self._face.messages.append(item[1])
            self.handled([item])

    def add(self, queues: Sequence[DeliveryQueue]) -> None:
        """Mark messages for handlers as handled; a channel's tap has already recorded its messages."""
        for queue in queues:
            while deliveries := queue.take():
                if queue.channel is self.proto.unjoined:
                    self._face.messages += [message for _, message, _ in deliveries]
                self.handled(deliveries)

    execute = add

    def halt(self) -> None:
        """There are no handlers to stop."""

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        self.later(partial(super().step, lambda now: self.proto.handled(deliveries, now)))

    def on_closed(self) -> None:
        """There is nothing to end."""


class _SteppedClient(PeerClient[_SteppedDriver]):
    def resolve(self, command: Resolve) -> None:
        self.driver.later(partial(self._resolve, command))

    def _resolve(self, command: Resolve) -> None:
        proto = self.driver.proto
        try:
            value = command.provider()
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
        except Exception as error:
            self.driver.step(partial(proto.resolve_failed, command.request, error))
        else:
            self.driver.step(partial(proto.resolved, command.request, value))
