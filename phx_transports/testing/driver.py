"""A bare `ClientProtocol`, driven: the smallest adapter there is, for tests of what a client does.

Calls return a `concurrent.futures.Future` that ends as the same call ends in the real adapters: `result(0)` gives what
they return or raises what they raise, and while the server has not answered, `done()` is false. Nothing runs in the
background: what happens, happens within the test's own calls.

Messages are not handled but kept (`messages`), whoever they are for; handlers are tested with `deliver`.
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
        proto: The core; what is called on it directly is seen after `pump`.
        events: Everything that happened to the client and its channels, in order.
        messages: Every message of a joined channel, in order.
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
        """Where the connection stands."""
        return self.proto.state

    def connect(self, *, timeout: float = inf) -> Self:
        """Begin to connect; a peer that is not told otherwise has accepted when this returns. See `connected`."""
        self._driver.start(timeout)
        return self

    def connected(self) -> "Future[None]":
        """Ends when the connection is open, or with what ended the client."""
        return _waiter(self._driver.session.wait_connected)

    def closed(self) -> "Future[None]":
        """Ends when the client has ended: with its error, if it has one."""
        return _waiter(self._driver.session.wait_closed)

    def channel(self, topic: str, params: Any = None) -> Channel:
        """The live channel of the topic; a new one, with these params, where there is none."""
        channel = self._channels.get(topic)
        if channel is None or channel.state in (ChannelState.LEAVING, ChannelState.CLOSED):
            channel = self._channels[topic] = self.proto.channel(topic, params)
            channel.inbox.attach(Tap(self._driver.keep))
        return channel

    def join(self, topic: str, params: Any = None, *, timeout: float | None = None) -> "Future[Any]":
        """Join; ends in what the server answered."""
        return self._ask(calls.join(self.channel(topic, params), timeout=timeout))

    def leave(self, topic: str, *, timeout: float = 10.0) -> "Future[None]":
        """Leave; ends when the server knows."""
        channel = self._channels.get(topic) or self.channel(topic)  # one that is being left is left once
        return self._ask(calls.leave(channel, timeout=timeout))

    def push(self, topic: str, event: str, payload: Any = None, *, timeout: float = 10.0) -> "Future[Reply]":
        """Send an event; ends in the reply, whatever its status."""
        return self._ask(calls.push(self.channel(topic), event, {} if payload is None else payload, timeout=timeout))

    def cast(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event, and want no reply."""
        self.tell(calls.cast(self.channel(topic), event, {} if payload is None else payload))

    def ping(self, *, timeout: float = 10.0) -> "Future[float]":
        """Send a heartbeat; ends in the seconds that the answer took."""
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
        """Give the core an input, and have everything happen that follows from it."""
        return self._driver.step(call)

    def pump(self) -> None:
        """Do what the core wants done."""
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
        self._later: deque[Callable[[], object]] = deque()  # what is to be done after the step
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
        """Handle what waits for handlers; of a channel's messages its tap has told."""
        for queue in queues:
            while deliveries := queue.take():
                if queue.channel is self.proto.unjoined:
                    self._face.messages += [message for _, message, _ in deliveries]
                self.handled(deliveries)

    execute = add

    def halt(self) -> None:
        """There is no handler to be begun."""

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        self.later(partial(super().step, lambda now: self.proto.handled(deliveries, now)))

    def on_closed(self) -> None:
        """Nothing is left to be ended."""


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
