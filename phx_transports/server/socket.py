"""A client's socket: the face an application sees, and the driver behind it.

The driver is the pump: every input (a read, the timer, an application's call) goes into the `ServerProtocol`; then its
commands are carried out on the wire, its events go to the runners of the channels, and the one timer is armed for what
it wants next. No protocol decision is made here, and no code of the application runs inside the pump.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from phx_proto.formats import ServerSerializer
from phx_proto.server.events import (
    Abort,
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

from ..websocket.cutter import Received
from .channel import Context, Runner
from .wire import Wire


class ServerSocket:
    """One client's connection, as an application sees it; first in `connect`, then in each of its channels.

    Attributes:
        params: Of the URL, as Plug reads them (`a[b]=1` is nested), `vsn` included.
        headers: Of the handshake, names in lower case.
        auth_token: The token the client offered as a subprotocol.
        id: Set it in `connect`: the name for `Server.disconnect`, e.g. `"user:7"`.
        assigns: The application's own.
        ended: How the connection ended; `None` until then.
    """

    def __init__(self, *, params: dict[str, Any], headers: Mapping[str, str], auth_token: str | None) -> None:
        self.params = params
        self.headers = headers
        self.auth_token = auth_token
        self.id: str | None = None
        self.assigns: dict[str, Any] = {}
        self.ended: SocketClosed | None = None
        self._driver: Driver | None = None

    def attach(self, driver: "Driver") -> None:
        """The connection is open; called by the server."""
        self._driver = driver

    def disconnect(self) -> None:
        """Close the connection; the client is meant to come back."""
        if self._driver is not None:
            self._driver.disconnect()

    def abort(self) -> None:
        """Drop the connection without a close frame."""
        if self._driver is not None:
            self._driver.abort()

    async def writable(self) -> None:
        """Wait until the client has read enough of what was sent to it, for whoever sends much. Nothing else waits."""
        if self._driver is not None:
            await self._driver.wire.writable()


class Driver:
    """Drives one `ServerProtocol` over one wire."""

    def __init__(
        self,
        context: Context,
        socket: ServerSocket,
        serializer: ServerSerializer,
        wire: Wire,
        options: ServerOptions,
    ) -> None:
        self.socket = socket
        self.wire = wire
        self.serializer = serializer
        self._context = context
        self._loop = asyncio.get_running_loop()
        self._runners: dict[ChannelHandle, Runner] = {}
        self._timer: asyncio.TimerHandle | None = None
        topics = tuple(context.definitions)
        self.protocol = ServerProtocol(serializer, topics, options=options, last_words=True, now=self._loop.time())
        socket.attach(self)
        wire.begin(self)
        self.pump()

    # ---- from the wire -----------------------------------------------------------------------------------------------

    def received(self, messages: list[Received], /) -> None:
        now = self._loop.time()
        if messages:
            self.protocol.receive_all(messages, now)
        else:
            self.protocol.touched(now)
        self.pump()

    def closed(self, code: int | None, reason: str, /) -> None:
        self.protocol.closed(code, reason)
        self.pump()

    # ---- from the application ----------------------------------------------------------------------------------------

    def fastlane(self, topic: str, frame: str | bytes, /) -> None:
        self.protocol.fastlane(topic, frame)
        self.pump()

    def disconnect(self) -> None:
        self.protocol.disconnect()
        self.pump()

    def shutdown(self) -> None:
        self.protocol.shutdown()
        self.pump()

    def abort(self) -> None:
        self.protocol.abort()
        self.pump()

    # ---- the pump ----------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Carry out what the core wants; after every input."""
        self._send()
        for event in self.protocol.events():
            match event:
                case JoinRequested(channel):
                    runner = self._runners[channel] = Runner(self._context, self, event)
                    runner.put(event)
                case MessageIn(channel):
                    self._runners[channel].put(event)
                case ChannelTerminated(channel):
                    self._runners.pop(channel).put(event)
                    self._send()  # the end of one that has no last words
                case SocketClosed():
                    self.socket.ended = event
        self.wire.want(more=not self.protocol.full)
        self._arm()

    def forget(self, channel: ChannelHandle) -> None:
        """The join was not accepted: nothing more will be told of the channel."""
        self._runners.pop(channel, None)

    def _send(self) -> None:
        for command in self.protocol.commands():
            match command:
                case Send(data):
                    self.wire.put(data)
                case Close(code):
                    self.wire.end(code)
                case Abort():
                    self.wire.drop()

    def _arm(self) -> None:
        deadline = self.protocol.next_timeout()
        timer = self._timer
        if timer is not None:
            if deadline is not None and timer.when() <= deadline:
                return  # early is a no-op, and cheaper than a new timer at every read
            timer.cancel()
        self._timer = None if deadline is None else self._loop.call_at(deadline, self._due)

    def _due(self) -> None:
        self._timer = None
        self.protocol.handle_timeout(self._loop.time())
        self.pump()
