"""`ClientProtocol`: a client's whole connection, with no I/O at all.

Its inputs are application calls, what a link received, and the time. Its outputs are commands for the adapter, events
for the application, and messages in the inboxes of its channels. The same inputs always give the same outputs.

An adapter owns a connection and a clock. After every input it does the same four things: carry out `commands()`,
deliver `events()`, run the queues of `runnable()`, and arm one timer for `next_timeout()`:

    proto.commands() ──▶ OpenTransport(link, …), SendText, …         the transport reports to the link
    proto.events()   ──▶ Connected, ChannelJoined, ReplyReceived, …
        proto.runnable() ──▶ queues: `while deliveries := queue.take(): …`, then `proto.handled(deliveries, now)`
        proto.executable() ──▶ the same for an executor; proto.tapped() ──▶ items for streams
    proto.next_timeout() ──▶ the time at which to call `handle_timeout(now)`

All times are monotonic seconds, of one clock.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from .channel import Channel
from .checks import checked_timeout
from .client_socket import Socket
from .client_state import ClientState
from .commands import Command, Provider
from .connection import Connection, Member
from .core import FrameObserver, Stats
from .endpoint import Endpoint, Headers, Params
from .errors import ConnectionClosedByClient, ConnectionLost, InvalidState, PhxError, TopicInUse
from .events import Closed, Event, SocketEnded
from .formats import V2, Serializer
from .handlers.handler import WILDCARD, Handler
from .handlers.router import Router
from .inbox import Inbox, RouteTables, Tap, TapItem
from .longpoll import carried
from .options import ClientOptions
from .queues import Bound, Delivery, DeliveryQueue, HandlerQueue, Placement, by_concurrency
from .reader import Reader
from .resume import Resume
from .shown import Secrets
from .sockets import Sockets
from .states import CLOSE_BEGUN, ENDING, SocketInput, SocketState
from .timers import NO_TIMER
from .transports import TransportName, Transports

if TYPE_CHECKING:
    from random import Random


class ClientProtocol:
    """One client: one socket that is kept connected, or several (see `sockets.py`), and its channels.

    Args:
        url: Where the server mounts the socket, e.g. `"wss://example.com/socket"`.
        params: For the server's `connect/3`; a mapping, or a callable (plain or async) called at every connect.
        auth_token: For a socket with `auth_token: true`; a string, or a callable likewise.
        headers: To send with the handshake.
        path: Follows the URL instead of `/websocket` or `/longpoll`; see `Endpoint`.
        transport: What carries the messages.
        fallback: Seconds in which a WebSocket must open and carry a message; otherwise, or if it fails, long polling is
            tried. `None` for WebSockets alone. See `transports.py`.
        serializer: The wire format.
        router: The handlers.
        options: The client's behaviour.
        rng: Random source for the waits before retries. Without it every wait is the longest of its range, and clients
            that lost a server together reconnect together.
        placement: The adapter's choice of the queue for each handler's messages.
        confidential: Secrets that the adapter sends itself, such as a proxy's credentials: masked in a peer's texts.

    Attributes:
        unfinished: Handlers that still had messages when a drain timed out; `None` if no drain did.
        unjoined: A channel that is never joined: its inbox has the messages on topics without a channel.

    Raises:
        InvalidEndpoint: The URL, params, token or headers cannot be sent.
    """

    def __init__(
        self,
        url: str,
        *,
        params: Params | Provider | None = None,
        auth_token: str | Provider | None = None,
        headers: Headers = (),
        path: str | None = None,
        transport: TransportName = "websocket",
        fallback: float | None = None,
        serializer: Serializer | None = None,
        router: Router | None = None,
        options: ClientOptions | None = None,
        rng: "Random | None" = None,
        placement: Placement = by_concurrency,
        confidential: Iterable[str] = (),
    ) -> None:
        transports = Transports(transport, fallback)
        self.endpoint = Endpoint(
            url, params=params, auth_token=auth_token, headers=headers, path=path, transport=transport
        )
        self.router = router or Router()
        self.options = options or ClientOptions()
        self._client = ClientState(
            serializer or V2(),
            rng,
            endpoint=self.endpoint,
            confidential=tuple(confidential),
            options=self.options,
            transports=transports,
        )
        self._sockets = Sockets(self._client, self)
        self._tables = RouteTables(self.router, placement)
        self.unjoined = self._make_channel(WILDCARD, None)
        self._reader = Reader(self._client, unjoined=self.unjoined.inbox)
        self._drain_ends = inf
        self._drain_timer = NO_TIMER
        self._cause: BaseException | None = None  # why the application closes it, if it has said so
        self._error: PhxError | None = None  # what ended it, unless the application did
        self.unfinished: frozenset[Handler] | None = None

    def __repr__(self) -> str:
        return f"ClientProtocol({self.endpoint.redacted!r}, {self.state.value})"

    # ---- what the application asks for ------------------------------------------------------------------------------

    @property
    def state(self) -> SocketState:
        """The client's state as a whole.

        That is the state of the socket that is farthest from open: `OPEN` means that every topic has its connection. A
        further socket, opened for more topics, counts once an attempt has failed.
        """
        return self._sockets.state

    @property
    def stats(self) -> Stats:
        """Current counters: a copy."""
        held = self._client.held
        return replace(
            self._client.stats,
            handled=held.handled,
            backlog=held.messages,
            backlog_bytes=held.size,
            sockets=len(self._sockets.all),
        )

    @property
    def secrets(self) -> Secrets:
        """The secrets of the latest attempt to connect; for an adapter that quotes a peer."""
        return self._sockets.secrets

    @property
    def channels(self) -> Mapping[str, Member]:
        """Each topic's channel, from its creation to its leave or end; never a copy."""
        return MappingProxyType(self._client.channels)

    def connect(self, now: float, *, timeout: float | None = None) -> None:
        """Connect, and stay connected until closed.

        Ends in `Connected`, or in `Closed` with the error: a final refusal, or `ConnectTimeout`.

        Args:
            now: The time.
            timeout: Seconds after which the first connect is given up; `None` to keep trying. Reconnects have no limit.

        Raises:
            InvalidState: It was called before.
            InvalidTimeout: The timeout is not a number.
        """
        if not self._sockets.first.may(SocketInput.CONNECT):
            raise InvalidState("connect", self.state.value, "it is called once; reconnect connects anew")
        self._sockets.first.connect(now, checked_timeout("connect", timeout))

    def channel(
        self, topic: str, params: Any = None, *, bound: Bound | None = None, resume: Resume | None = None
    ) -> Channel:
        """Make a channel; it does nothing until it is joined.

        Args:
            topic: The topic.
            params: Payload of its joins, any JSON value or bytes; or a callable (plain or async) called at every join,
                e.g. to resume from the last message seen.
            bound: A limit of waiting messages, above which some are dropped; `None` for none.
            resume: How its joins continue after the message handled last; its param is added to `params`.

        Raises:
            TopicInUse: A live channel of the topic exists.
            ConnectionClosed: The client is closed; it names the error that ended it, if there was one.
        """
        if self.state in ENDING:
            if self._error is not None:
                raise ConnectionLost(None, f"the client has ended: {self._error}") from self._error
            raise ConnectionClosedByClient(None, "the client was closed")
        if topic in self._client.channels:
            raise TopicInUse(topic)
        channel = self._client.channels[topic] = self._make_channel(topic, params, bound, resume)
        return channel

    def ping(self, now: float, *, timeout: float | None = None) -> str:
        """Send a heartbeat now, on the first open socket, to measure its answer's time; `timeout` is as for a push.

        Returns:
            The call's ref; it ends in `PingAnswered` or `PushFailed`. `cancel_ping` gives it up.

        Raises:
            InvalidState: There is no open connection.
            InvalidTimeout: The timeout is not a number.
        """
        connection = next(self._sockets.connections, None)
        if connection is None:
            raise InvalidState("ping", self.state.value, "it needs an open connection, see wait_connected")
        return connection.heartbeat.ping(now, checked_timeout("ping", timeout, self.options.timeout))

    def cancel_ping(self, ref: str) -> None:
        """Give a ping up; one that has ended is ignored."""
        for connection in self._sockets.connections:
            connection.heartbeat.cancel(ref)

    def reconnect(self, now: float) -> None:
        """Drop the connections, or skip the wait for the next attempt, and connect at once, e.g. with a new token.

        Raises:
            InvalidState: It was never connected, or is closed.
        """
        sockets = [socket for socket in self._sockets.all if socket.may(SocketInput.RECONNECT)]
        if not sockets:
            raise InvalidState("reconnect", self.state.value, "it needs a client that was connected and is not closed")
        for socket in sockets:
            socket.reconnect(now)

    def close(self, now: float, *, timeout: float = 10.0, error: BaseException | None = None) -> None:
        """Close gracefully: take no new messages, let handlers finish (pushes still work), leave, close with 1000.

        Ends in `Closed`. Does nothing if the client is closing already.

        Args:
            now: The time.
            timeout: Seconds after which the connection is dropped, even if work is left; `math.inf` for no limit.
            error: As for `abort`.

        Raises:
            InvalidTimeout: The timeout is not a number.
        """
        checked_timeout("close", timeout)
        sockets = [socket for socket in self._sockets.all if socket.may(SocketInput.DRAIN)]
        if not sockets:
            return
        self._cause = self._cause or error
        for socket in sockets:
            socket.drain(now)
        self._drain_ends = now + timeout
        self._drain_timer = self._client.timers.at(self._drain_ends, self._drain_timed_out)
        self._go_on_draining(now)

    def disconnect(self, now: float) -> None:
        """Close at once, with the closing handshake: calls that wait for a reply are lost. Ends in `Closed`.

        Like phoenix.js's `disconnect`; no face has it.
        """
        if self.state in CLOSE_BEGUN:
            return
        channels = self._all_channels()
        self._drain_timer.cancel()
        for socket in self._sockets.all:
            socket.close(min(now + self.options.close_timeout, self._drain_ends), now)
        for channel in channels:
            channel.client_closed(None, now)
        self.socket_over(now)

    def abort(self, now: float, *, error: BaseException | None = None) -> None:
        """Close at once, without a handshake. Ends in `Closed`.

        Args:
            now: The time.
            error: The reason, e.g. a handler's error; it is in the `Closed` event.
        """
        if self.state is not SocketState.CLOSED:
            self._cause = self._cause or error
            self._end(None, now)

    # ---- what the adapter brings ------------------------------------------------------------------------------------

    def resolved(self, request: int, value: Any, now: float) -> None:
        """The callable of a `Resolve` command returned a value."""
        if resolving := self._client.resolving.pop(request, None):
            resolving.resolved(request, value, now)

    def resolve_failed(self, request: int, error: BaseException, now: float) -> None:
        """It raised."""
        if resolving := self._client.resolving.pop(request, None):
            resolving.resolve_failed(request, error, now)

    def handled(self, deliveries: Sequence[Delivery], now: float) -> None:
        """These deliveries are handled: a queue's `take` returned them, or they came through a tap."""
        self.release(deliveries)
        for socket in self._sockets.all:  # not `connections`: a generator for each call costs a tenth of a message
            if socket.connection is not None:
                socket.connection.flow.handled(now)
        self._go_on_draining(now)

    @property
    def release(self) -> Callable[[Sequence[Delivery]], None]:
        """The first half of `handled`: these deliveries no longer count as waiting.

        The second half, `handled((), now)`, may follow once for many calls. So an adapter need not keep handled
        messages until its next step.
        """
        return self._client.held.release

    def handle_timeout(self, now: float) -> None:
        """Do what is due at this time, if anything is."""
        self._client.timers.fire(now)
        self._go_on_draining(now)  # the leave that it waited for may have timed out

    def observe(self, observer: FrameObserver) -> None:
        """Report each frame from now on to an observer, which replaces the one before."""
        self._client.observer = observer

    def next_timeout(self) -> float | None:
        """When to call `handle_timeout` next; `None` while no timer is set."""
        return self._client.timers.next()

    def commands(self) -> list[Command]:
        """The commands to carry out, in order; each is returned once."""
        if self._client.polls:
            return carried(self._client)
        if commands := self._client.commands:
            self._client.commands = []
        return commands

    def events(self) -> list[Event]:
        """The events for the application, in order; each is returned once."""
        if events := self._client.events:
            self._client.events = []
        return events

    def notices(self) -> list[Event]:
        """Events about probable mistakes of the application, to log: `UnclaimedMessages`, `PatternJoined`."""
        if notices := self._client.notices:
            self._client.notices = []
        return notices

    @property
    def has_news(self) -> bool:
        """Whether `events`, `notices`, `tapped`, `executable` or `runnable` would return anything."""
        client = self._client
        return bool(client.events or client.runnable or client.tapped or client.executable or client.notices)

    def runnable(self) -> list[DeliveryQueue]:
        """Queues that need a worker of the adapter, in order; each is to be drained with `take`."""
        if runnable := self._client.runnable:
            self._client.runnable = []
        return runnable

    def executable(self) -> list[HandlerQueue]:
        """Queues that need an executor, in order; drain each with `take` too."""
        if executable := self._client.executable:
            self._client.executable = []
        return executable

    def tapped(self) -> list[tuple[Tap, TapItem]]:
        """Items for taps, in order; give each to its tap's `put`, and report deliveries to `handled` when read."""
        if tapped := self._client.tapped:
            self._client.tapped = []
        return tapped

    # ---- callbacks of its sockets (see `client_socket.py`) ----------------------------------------------------------

    def socket_opened(self, now: float) -> None:
        """A connection is open, the first of all: connect the further sockets, which have waited."""
        for socket in self._sockets.all:
            if socket.may(SocketInput.CONNECT):
                socket.connect(now)

    def socket_received(self, connection: Connection, frames: Sequence[str | bytes], now: float) -> None:
        """One read of the connection brought frames."""
        if self._tables.outdated():
            for channel in (self.unjoined, *self._client.channels.values()):
                channel.inbox.refresh()
        self._reader.receive_all(connection, frames, now)
        if connection.flow.paused:  # held messages are bounded for all sockets together
            for other in self._sockets.connections:
                other.flow.pause(now)
        self._go_on_draining(now)

    def socket_failed(self, socket: Socket, error: PhxError, now: float) -> None:
        """A socket has given up: this ends the client, unless the socket was never open and others are."""
        if socket.was_open or socket is self._sockets.first:
            self._end(error, now)
            return
        channels = list(socket.members)
        self._client.events.append(SocketEnded(error, socket.number))
        socket.end(error)
        for channel in channels:
            channel.client_closed(error, now)
        self._sockets.forget_ended()

    def socket_empty(self, socket: Socket, now: float) -> None:
        """A socket has had no topic for some time: close it."""
        self._client.events.append(SocketEnded(None, socket.number))
        socket.close(now + self.options.close_timeout, now)
        self._sockets.forget_ended()

    def socket_over(self, now: float) -> None:
        """A connection has ended during a close, or during a drain."""
        self._sockets.forget_ended()
        if self.state is SocketState.CLOSED:
            self._tell_end(None)
        else:
            self._go_on_draining(now)

    # ---- private: ending --------------------------------------------------------------------------------------------

    def _go_on_draining(self, now: float) -> None:
        """During a drain: leave when handlers are done, close when the leaves have ended."""
        if self._sockets.first.state is not SocketState.DRAINING or self._client.held.messages > 0:
            return
        connections = list(self._sockets.connections)
        if connections:
            for channel in list(self._client.channels.values()):
                channel.leave(now, timeout=inf)  # the drain's own timeout bounds it
        if not any(connection.leaving for connection in connections):
            self.disconnect(now)

    def _drain_timed_out(self, now: float) -> None:
        if self._client.held.messages:
            inboxes = [channel.inbox for channel in (self.unjoined, *self._client.channels.values())]
            busy = (inbox.busy_handlers() for inbox in inboxes)
            self.unfinished = frozenset[Handler]().union(*busy)
        self._end(None, now)

    def _end(self, error: PhxError | None, now: float) -> None:
        """Drop everything, for good."""
        channels = self._all_channels()
        self._drain_timer.cancel()
        for socket in self._sockets.all:
            socket.end(error)
        for channel in channels:
            channel.client_closed(error, now)
        self._tell_end(error)

    def _all_channels(self) -> list[Member]:
        """Every channel that must be informed of the end."""
        members = (channel for socket in self._sockets.all for channel in socket.members)
        return list(dict.fromkeys([*self._client.channels.values(), *members]))

    def _tell_end(self, error: PhxError | None) -> None:
        self._error = error
        self._client.events.append(Closed(error or self._cause))

    def _make_channel(
        self, topic: str, params: Any, bound: Bound | None = None, resume: Resume | None = None
    ) -> Channel:
        inbox = Inbox(topic, self._tables, bound, self._client.held, resume)
        return Channel(topic, params, inbox, self._sockets.first, self._client, self._sockets)
