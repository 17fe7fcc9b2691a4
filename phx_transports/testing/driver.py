"""A bare `ClientProtocol`, driven: the smallest adapter there is, for tests of what a client does.

Calls return a `concurrent.futures.Future` that ends as the same call ends in the real adapters: `result(0)` gives what
they return or raises what they raise, and while the server has not answered, `done()` is false. Nothing runs in the
background: what happens, happens within the test's own calls.

Messages are not handled but kept (`messages`), whoever they are for; handlers are tested with `deliver`.
"""

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from math import inf
from typing import Any, Self, TypeVar

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import Resolve
from phx_proto.events import Event
from phx_proto.inbox import Tap, TapItem
from phx_proto.message import Message, Reply
from phx_proto.queues import DeliveryQueue
from phx_proto.states import ChannelState, SocketState

from ..client.session import Session
from .clock import Timer
from .connection import PeerNetwork

T = TypeVar("T")


class PeerDriver:
    """Plays the adapter of one client. Made by `Peer.driver`.

    Attributes:
        proto: The core; what is called on it directly is seen after `pump`.
        events: Everything that happened to the client and its channels, in order.
        messages: Every message of a joined channel, in order.
    """

    def __init__(self, peer: PeerNetwork, proto: ClientProtocol, settle: Callable[[], None]) -> None:
        self.proto = proto
        self.events: list[Event] = []
        self.messages: list[Message[Any]] = []
        self._peer = peer
        self._settle = settle
        self._session = Session()
        self._session.listeners.append(self.events.append)
        self._timer: Timer | None = None
        self._channels: dict[str, Channel] = {}

    def __repr__(self) -> str:
        return f"PeerDriver({self.proto!r})"

    # ---- what an application does ------------------------------------------------------------------------------------

    @property
    def state(self) -> SocketState:
        """Where the connection stands."""
        return self.proto.state

    def connect(self, *, timeout: float = inf) -> Self:
        """Begin to connect; a peer that is not told otherwise has accepted when this returns. See `connected`."""
        self.tell(lambda now: self.proto.connect(now, timeout=timeout))
        return self

    def connected(self) -> "Future[None]":
        """Ends when the connection is open, or with what ended the client."""
        waiter: Future[None] = Future()
        self._session.wait_connected(waiter)
        return waiter

    def closed(self) -> "Future[None]":
        """Ends when the client has ended: with its error, if it has one."""
        waiter: Future[None] = Future()
        self._session.wait_closed(waiter)
        return waiter

    def channel(self, topic: str, params: Any = None) -> Channel:
        """The live channel of the topic; a new one, with these params, where there is none."""
        channel = self._channels.get(topic)
        if channel is None or channel.state in (ChannelState.LEAVING, ChannelState.CLOSED):
            channel = self._channels[topic] = self.proto.channel(topic, params)
            channel.inbox.attach(Tap(self._keep))
        return channel

    def join(self, topic: str, params: Any = None, *, timeout: float | None = None) -> "Future[Any]":
        """Join; ends in what the server answered."""
        channel = self.channel(topic, params)
        return self._ask(lambda now: channel.join(now, timeout=timeout))

    def leave(self, topic: str, *, timeout: float = 10.0) -> "Future[None]":
        """Leave; ends when the server knows."""
        channel = self._channels.get(topic) or self.channel(topic)  # one that is being left is left once
        return self._ask(lambda now: channel.leave(now, timeout=timeout))

    def push(self, topic: str, event: str, payload: Any = None, *, timeout: float = 10.0) -> "Future[Reply]":
        """Send an event; ends in the reply, whatever its status."""
        payload = {} if payload is None else payload
        return self._ask(lambda now: self.channel(topic).push(event, payload, now, timeout=timeout))

    def cast(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event, and want no reply."""
        self.tell(lambda now: self.channel(topic).cast(event, {} if payload is None else payload, now))

    def ping(self, *, timeout: float = 10.0) -> "Future[float]":
        """Send a heartbeat; ends in the seconds that the answer took."""
        return self._ask(lambda now: self.proto.ping(now, timeout=timeout))

    def reconnect(self) -> None:
        """Drop the connection and connect anew."""
        self.tell(self.proto.reconnect)

    def close(self, *, timeout: float = 10.0) -> "Future[None]":
        """Close gracefully; ends when the client has ended."""
        self.tell(lambda now: self.proto.drain(now, timeout=timeout))
        return self.closed()

    def abort(self) -> None:
        """Close at once."""
        self.tell(self.proto.abort)

    # ---- what an adapter does ----------------------------------------------------------------------------------------

    def tell(self, call: Callable[[float], T]) -> T:
        """Give the core an input, and have everything happen that follows from it."""
        result = call(self._peer.clock.now())
        self.pump()
        self._settle()
        return result

    def soon(self, call: Callable[[], None]) -> None:
        """Does nothing: the caller of the core settles afterwards."""

    def fail(self, error: BaseException) -> None:
        """End the client with this error."""
        self._session.fail(error)
        self.abort()

    def after(self, seconds: float, call: Callable[[], None], /) -> None:
        """Never: nothing waits here."""

    @property
    def backlog(self) -> int:
        """How many messages are not handled: none, unless the test holds some."""
        return self.proto.stats.backlog

    def rest(self, timeout: float, /) -> bool:
        """Whether all is handled; no other thread would come to it while this one waits."""
        return not self.backlog

    def pump(self) -> None:
        """Do what the core wants done."""
        proto = self.proto
        questions: list[Resolve] = []
        for tap, item in proto.tapped():
            tap.put(item)
        self._handle(proto.runnable())
        while commands := proto.commands():
            for command in commands:
                if isinstance(command, Resolve):
                    questions.append(command)
                else:
                    self._peer.perform(command, self)
        self._session.settle(proto.events())
        self._arm()
        for question in questions:
            self._resolve(question)

    # ---- private -----------------------------------------------------------------------------------------------------

    def _ask(self, call: Callable[[float], str]) -> "Future[Any]":
        waiter: Future[Any] = Future()
        self.tell(lambda now: self._session.wait(call(now), waiter))
        return waiter

    def _handle(self, queues: list[DeliveryQueue]) -> None:
        for queue in queues:
            while deliveries := queue.take():
                if queue.channel is self.proto.unjoined:  # of a channel's messages a tap has told
                    self.messages += [message for _, message, _ in deliveries]
                self.proto.handled(deliveries, self._peer.clock.now())

    def _keep(self, item: TapItem) -> None:
        if isinstance(item, tuple):
            self.messages.append(item[1])
            self.proto.handled([item], self._peer.clock.now())

    def _arm(self) -> None:
        deadline = self.proto.next_timeout()
        if self._timer is not None and self._timer.cancelled:
            self._timer = None
        if deadline is not None and (self._timer is None or deadline < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._peer.clock.call_at(deadline, lambda: self.tell(self.proto.handle_timeout))

    def _resolve(self, question: Resolve) -> None:
        try:
            value = question.provider()
            if inspect.iscoroutine(value):
                value = asyncio.run(value)
        except Exception as error:
            failure = error
            self.tell(lambda now: self.proto.resolve_failed(question.request, failure, now))
        else:
            self.tell(lambda now: self.proto.resolved(question.request, value, now))
