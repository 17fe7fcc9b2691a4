"""Drives the `ServerProtocol` of one socket over its wire.

As in a client's driver, every input (a read, the timer, an application's call) is a step: it goes to the core; then the
core's commands are carried out on the wire, its events go to the channels, and the one timer is set. No protocol
decision is made here, and no application code runs within a step.
"""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeAlias, TypeVar

from phx_proto.errors import OtherLoop
from phx_proto.formats import ServerSerializer
from phx_proto.server.events import (
    Abort,
    BroadcastOut,
    ChannelHandle,
    ChannelTerminated,
    Close,
    JoinRequested,
    MessageIn,
    Send,
    ServerOptions,
    SocketClosed,
)
from phx_proto.server.protocol import ServerProtocol

from ..asyncio.alarm import Alarm
from ..websocket.cutter import Received
from .socket import ServerSocket
from .wire import WireEvents

P = ParamSpec("P")
T = TypeVar("T")

ChannelEvent: TypeAlias = JoinRequested | MessageIn | BroadcastOut | ChannelTerminated

#: Takes the core's events of one join, to handle them in order; never within the call.
Put: TypeAlias = Callable[[ChannelEvent], None]


class SocketWire(Protocol):
    """A connection, as its driver uses it; see `ServerWire` and `PollingWire`."""

    def begin(self, events: WireEvents, /) -> None: ...
    def put(self, data: str | bytes, /) -> None: ...
    def end(self, code: int, reason: str = "", /) -> None: ...
    def drop(self) -> None: ...
    def settled(self, protocol: ServerProtocol, /) -> None: ...
    @property
    def full(self) -> bool: ...
    async def writable(self) -> None: ...


class SocketDriver:
    """Drives one `ServerProtocol` over one wire; `begin_join` returns the callback for a join's events."""

    def __init__(
        self,
        socket: ServerSocket,
        serializer: ServerSerializer,
        wire: SocketWire,
        options: ServerOptions,
        *,
        topics: tuple[str, ...],
        begin_join: "Callable[[SocketDriver, JoinRequested], Put]",
    ) -> None:
        self.socket = socket
        self.serializer = serializer
        self._wire = wire
        self._begin_join = begin_join
        self._channels: dict[ChannelHandle, Put] = {}
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop.call_at, self._due)
        self.protocol = ServerProtocol(serializer, topics, options=options, last_words=True, now=self._loop.time())
        socket.attach(self)
        wire.begin(self)
        self.pump()

    # ---- from the wire -----------------------------------------------------------------------------------------------

    def received(self, messages: list[Received], /) -> None:
        now = self._loop.time()
        if messages:
            self.step(self.protocol.receive_all, messages, now)
        else:
            self.step(self.protocol.touched, now)

    def closed(self, code: int | None, reason: str, /) -> None:
        self.step(self.protocol.closed, code, reason)

    # ---- from the application ----------------------------------------------------------------------------------------

    def fastlane(self, topic: str, frame: str | bytes, /) -> None:
        """Send a frame to the client if it has joined the topic; does not wait, and does not raise."""
        self.step(self.protocol.fastlane, topic, frame)

    def check_loop(self) -> None:
        """Refuse a call from another thread or loop, by `OtherLoop`: its frames would wait until this loop wakes up."""
        try:
            elsewhere = asyncio.get_running_loop() is not self._loop
        except RuntimeError:
            elsewhere = True
        if elsewhere and self.socket.ended is None:
            raise OtherLoop

    def call(self, call: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
        """The same as `step`, for a call of the application. Raises `OtherLoop`."""
        self.check_loop()
        return self.step(call, *args, **options)

    def disconnect(self) -> None:
        self.call(self.protocol.disconnect)

    def close(self, code: int, reason: str) -> None:
        self.call(self.protocol.close, code, reason)

    def shutdown(self) -> None:
        self.step(self.protocol.shutdown)

    def abort(self) -> None:
        self.step(self.protocol.abort)

    @property
    def full(self) -> bool:
        return self._wire.full

    async def writable(self) -> None:
        await self._wire.writable()

    # ---- a step ------------------------------------------------------------------------------------------------------

    def step(self, call: Callable[P, T], /, *args: P.args, **options: P.kwargs) -> T:
        """Pass an input to the core, and carry out its commands."""
        result = call(*args, **options)
        self.pump()
        return result

    def pump(self) -> None:
        """Carry out the core's commands."""
        protocol = self.protocol
        self._send()
        for event in protocol.events():
            match event:
                case JoinRequested(channel):
                    put = self._channels[channel] = self._begin_join(self, event)
                    put(event)
                case MessageIn(channel) | BroadcastOut(channel):
                    self._channels[channel](event)
                case ChannelTerminated(channel):
                    self._channels.pop(channel)(event)
                    self._send()  # the end of a channel without last words
                case SocketClosed():
                    self.socket.ended = event
        self._wire.settled(protocol)
        deadline = protocol.next_timeout()
        if deadline is None:
            self._alarm.stop()
        elif deadline < self._alarm.armed:
            self._alarm.arm(deadline)

    def forget(self, channel: ChannelHandle) -> None:
        """The join was not accepted: no further events of the channel."""
        self._channels.pop(channel, None)

    def _send(self) -> None:
        for command in self.protocol.commands():
            match command:
                case Send(data):
                    self._wire.put(data)
                case Close(code, reason):
                    self._wire.end(code, reason)
                case Abort():
                    self._wire.drop()

    def _due(self, at: float) -> None:
        self.step(self.protocol.handle_timeout, max(at, self._loop.time()))
