"""`ClientProtocol`: a client's whole connection, with no I/O at all.

It is told what happened (application calls, what a link saw, the time) and answers with commands for the adapter,
events for the application, and messages in the inboxes of its channels. The same inputs give the same outputs, always.

An adapter owns a connection and a clock, and after every input does the same four things: carry out `commands()`, hand
on `events()`, run what `runnable()` gives, and arm one timer for `next_timeout()`:

    proto.commands() ──▶ OpenTransport(link, …), SendText, …         the transport tells the link what it saw
    proto.events()   ──▶ Connected, ChannelJoined, ReplyReceived, …
    proto.runnable() ──▶ queues: `while deliveries := queue.take(): …`, then `proto.handled(deliveries, now)`
    proto.executable() ──▶ queues likewise, for an executor; proto.tapped() ──▶ what streams get at once
    proto.next_timeout() ──▶ seconds at which `handle_timeout(now)` is wanted

All times are monotonic seconds, of one clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from .backoff import Attempt, ReconnectPolicy
from .channel import Channel, JoinPolicy
from .commands import AbortTransport, CloseTransport, Command, OpenTransport, Provider
from .dialer import Dialer
from .endpoint import Address, Endpoint, Headers, Params
from .errors import (
    MESSAGE_TOO_BIG,
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    HandshakeRefused,
    InvalidState,
    PhxError,
    StillRefused,
    TopicInUse,
)
from .events import Closed, Connected, ConnectFailed, Connecting, Disconnected, Event
from .flow import Flow, FlowLimits
from .formats import V2, Serializer
from .handlers.handler import WILDCARD
from .handlers.router import Router
from .heartbeat import Heartbeat
from .inbox import Inbox, RouteTables, Tap, TapItem
from .joins import JoinQueue
from .link import Link
from .queues import Bound, Delivery, DeliveryQueue, HandlerQueue, Placement, by_concurrency
from .reader import Reader
from .shown import Secrets
from .states import SOCKET, ChannelState, SocketInput, SocketState
from .timers import Timer, checked_timeout
from .wire import Stats, Wire

if TYPE_CHECKING:
    from random import Random


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """How a client behaves; the defaults are phoenix.js's where it has them.

    Attributes:
        heartbeat: Seconds between heartbeats, and of silence after one until the connection counts as dead.
        open_timeout: Seconds for an attempt to connect, with the callables for params and token.
        close_timeout: Seconds to wait for the server's close frame.
        reconnect: What follows a lost connection or a failed attempt.
        join: How channels join and rejoin.
        joins_in_flight: How many joins are sent and not yet answered at most.
        push_buffer: How many pushes may wait for their channel's join, on all channels.
        flow: Bounds on messages received and not yet handled.
    """

    heartbeat: float = 30.0
    open_timeout: float = 10.0
    close_timeout: float = 5.0
    reconnect: ReconnectPolicy = field(default_factory=ReconnectPolicy)
    join: JoinPolicy = field(default_factory=JoinPolicy)
    joins_in_flight: int = 32
    push_buffer: int = 1000
    flow: FlowLimits = field(default_factory=FlowLimits)

    def __post_init__(self) -> None:
        for name in ("heartbeat", "open_timeout", "close_timeout"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} is positive, finite seconds, not {getattr(self, name)!r}")


class ClientProtocol:
    """One client: a connection that is kept up, and its channels.

    Args:
        url: The socket's mount, e.g. `"wss://example.com/socket"`.
        params: For the server's `connect/3`; a mapping, or a callable (plain or async) read again at every connect.
        auth_token: For a socket with `auth_token: true`; likewise.
        headers: To send with the handshake.
        path: Follows the mount instead of `/websocket`; see `Endpoint`.
        serializer: The wire format.
        router: The handlers.
        options: How it behaves.
        rng: Spreads retries. Without one every wait is the longest of its range, so a fleet would come back as one.
        placement: Where the adapter has handlers wait for their messages.

    Attributes:
        unjoined: Never joined: its inbox has the messages of topics without a channel, for handlers that take such.

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
        serializer: Serializer | None = None,
        router: Router | None = None,
        options: ClientOptions | None = None,
        rng: "Random | None" = None,
        placement: Placement = by_concurrency,
    ) -> None:
        self.endpoint = Endpoint(url, params=params, auth_token=auth_token, headers=headers, path=path)
        self.router = Router() if router is None else router
        self.options = ClientOptions() if options is None else options
        self._wire = Wire(V2() if serializer is None else serializer, rng)
        self._tables = RouteTables(self.router, placement)
        self._flow = Flow(self.options.flow, self._wire)
        self._joins = JoinQueue(self.options.joins_in_flight)
        self._heartbeat = Heartbeat(self.options.heartbeat, self._peer_is_silent, self._wire, self._flow)
        self.unjoined = self._make_channel(WILDCARD, None, None)
        self._reader = Reader(self._wire, self._flow, self._heartbeat, unjoined=self.unjoined.inbox)
        self._dialer = Dialer(self.endpoint, self._wire, on_address=self._open, on_failure=self._attempt_failed)
        self._state = SocketState.IDLE
        self._link: Link | None = None  # the attempt or connection that counts
        self._links = 0
        self._retries = 0  # since the last stable connection
        self._opened_at = 0.0
        self._connect_timeout = inf
        self._latest_first_try = inf  # when the first connect is to be tried for the last time
        self._drain_ends = inf
        self._cause: BaseException | None = None  # why the application closes, where it says so
        self._timer: Timer | None = None  # of the state: open, retry, close or drain timeout
        self._connect_timer: Timer | None = None  # of the first connect as a whole

    def __repr__(self) -> str:
        return f"ClientProtocol({self.endpoint.redacted!r}, {self._state.value})"

    # ---- what the application asks for ------------------------------------------------------------------------------

    @property
    def state(self) -> SocketState:
        """Where the connection stands."""
        return self._state

    @property
    def stats(self) -> Stats:
        """Counters, as they are now: a copy."""
        return replace(self._wire.stats, backlog=self._flow.held.messages, backlog_bytes=self._flow.held.size)

    @property
    def secrets(self) -> Secrets:
        """What was sent in confidence at the latest attempt to connect; for an adapter that quotes what others said."""
        return self._wire.secrets

    def connect(self, now: float, *, timeout: float = inf) -> None:
        """Connect, and stay connected until closed.

        Ends in `Connected`, or in `Closed` with the error: refused for good, or `ConnectTimeout`.

        Args:
            now: The time.
            timeout: Seconds after which the first connect is given up; `math.inf` to keep trying. Later ones are never.

        Raises:
            InvalidState: It was called before.
            InvalidTimeout: The timeout is no number.
        """
        if self._state is not SocketState.IDLE:
            raise InvalidState("connect", self._state.value)
        if checked_timeout("connect", timeout) != inf:
            self._connect_timeout = timeout
            self._latest_first_try = now + timeout - min(_LAST_TRY * timeout, _LONGEST_LAST_TRY)
            self._connect_timer = self._wire.timers.at(now + timeout, self._connect_timed_out)
        self._dial(now)

    def channel(self, topic: str, params: Any = None, *, bound: Bound | None = None) -> Channel:
        """Make a channel; it does nothing until it is joined.

        Args:
            topic: The topic.
            params: Payload of its joins, any JSON value or bytes; or a callable (plain or async) read at every join,
                e.g. to resume from what was seen last.
            bound: Where to drop messages that wait, if anywhere.

        Raises:
            TopicInUse: A live channel of the topic exists.
            ConnectionClosed: The client is closed.
        """
        if self._state in _ENDING:
            raise ConnectionClosed(None, "the client was closed")
        if topic in self._wire.channels:
            raise TopicInUse(topic)
        channel = self._wire.channels[topic] = self._make_channel(topic, params, bound)
        return channel

    def ping(self, now: float, *, timeout: float = 10.0) -> str:
        """Send a heartbeat now, to see how long its answer takes.

        Returns:
            The call's ref; it ends in `PingAnswered` or `PushFailed`. `cancel_ping` gives it up.

        Raises:
            InvalidState: There is no open connection.
            InvalidTimeout: The timeout is no number.
        """
        if self._wire.link is None:
            raise InvalidState("ping", self._state.value)
        return self._heartbeat.ping(now, checked_timeout("ping", timeout))

    def cancel_ping(self, ref: str) -> None:
        """Nobody waits for that ping any more; one that has ended is ignored."""
        self._heartbeat.cancel(ref)

    def reconnect(self, now: float) -> None:
        """Drop the connection, or the wait for the next attempt, and connect anew at once, e.g. with a new token.

        Raises:
            InvalidState: It was never connected, or is closed.
        """
        if self._state in _ENDING or self._state is SocketState.IDLE:
            raise InvalidState("reconnect", self._state.value)
        was_open = self._wire.link is not None
        self._stop_timer()
        self._drop_attempt()
        if was_open:
            self._forget_old_retries(now)
            self._disconnected(ConnectionClosed(None, "the application reconnects"), 0.0, now)
        elif self._state is not SocketState.WAITING:
            self._advance(SocketInput.LOST)
        self._dial(now)

    def drain(self, now: float, *, timeout: float = 10.0, error: BaseException | None = None) -> None:
        """Close gracefully: take no new messages, let handlers finish (pushes still work), leave, close with 1000.

        Ends in `Closed`. Does nothing if the client is closing already.

        Args:
            now: The time.
            timeout: Seconds after which the connection is dropped, whatever is left to do; `math.inf` for none.
            error: As for `abort`.

        Raises:
            InvalidTimeout: The timeout is no number.
        """
        checked_timeout("drain", timeout)
        if self._state in _ENDING:
            return
        self._cause = self._cause or error
        self._stop_timer()
        self._stop_connect_timer()
        self._advance(SocketInput.DRAIN)
        self._reader.draining = True
        self._joins.close()
        if self._wire.link is None:
            self._drop_attempt()
        self._drain_ends = now + timeout
        if timeout != inf:
            self._timer = self._wire.timers.at(self._drain_ends, self._drain_timed_out)
        self._flow.resume(now)
        self._go_on_draining(now)

    def close(self, now: float) -> None:
        """Close at once, with the closing handshake: what waits for a reply is lost. Ends in `Closed`."""
        if self._state in (SocketState.CLOSING, SocketState.CLOSED):
            return
        link = self._wire.link
        self._stop_timer()
        if link is None:
            self._end(None, now)
            return
        self._advance(SocketInput.CLOSE)
        self._flow.resume(now)  # the server's close frame has to be read
        self._close_channels(None, now)
        self._wire.commands.append(CloseTransport(link, 1000, ""))
        ends = min(now + self.options.close_timeout, self._drain_ends)
        self._timer = self._wire.timers.at(ends, self._close_timed_out)

    def abort(self, now: float, *, error: BaseException | None = None) -> None:
        """Close at once, without a handshake. Ends in `Closed`.

        Args:
            now: The time.
            error: Why, where the application gives up: a handler's error, say. `Closed` tells it.
        """
        if self._state is not SocketState.CLOSED:
            self._cause = self._cause or error
            self._end(None, now)

    # ---- what the adapter brings ------------------------------------------------------------------------------------

    def resolved(self, request: int, value: Any, now: float) -> None:
        """The callable of a `Resolve` command gave a value."""
        who = self._wire.resolving.pop(request, None)
        if who is not None:
            who.resolved(request, value, now)

    def resolve_failed(self, request: int, error: BaseException, now: float) -> None:
        """It raised."""
        who = self._wire.resolving.pop(request, None)
        if who is not None:
            who.resolve_failed(request, error, now)

    def handled(self, deliveries: Sequence[Delivery], now: float) -> None:
        """These deliveries, that a queue's `take` gave, or that came through a tap, are done with."""
        self._wire.stats.handled += self._flow.handled(deliveries, now)
        if self._state is SocketState.DRAINING:
            self._go_on_draining(now)

    def handle_timeout(self, now: float) -> None:
        """Do what is due; does nothing when nothing is."""
        self._wire.timers.fire(now)
        if self._state is SocketState.DRAINING:  # the leave that it waited for may have timed out
            self._go_on_draining(now)

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is wanted next; `None` while nothing is pending."""
        return self._wire.timers.next()

    def commands(self) -> list[Command]:
        """What is to be done now, in order; each is given once."""
        commands = self._wire.commands
        if commands:
            self._wire.commands = []
        return commands

    def events(self) -> list[Event]:
        """What has happened, in order; each is given once."""
        events = self._wire.events
        if events:
            self._wire.events = []
        return events

    def notices(self) -> list[Event]:
        """What looks like a mistake of the application: `UnclaimedMessages`, `PatternJoined`. For an adapter to log."""
        notices = self._wire.notices
        if notices:
            self._wire.notices = []
        return notices

    def runnable(self) -> list[DeliveryQueue]:
        """Queues that want a worker of the adapter's, in order; each is to be drained with `take`."""
        runnable = self._wire.runnable
        if runnable:
            self._wire.runnable = []
        return runnable

    def executable(self) -> list[HandlerQueue]:
        """Queues that want an executor, likewise."""
        executable = self._wire.executable
        if executable:
            self._wire.executable = []
        return executable

    def tapped(self) -> list[tuple[Tap, TapItem]]:
        """What came for taps, in order; each is to be given to the tap's `put`, and reported to `handled` when read."""
        tapped = self._wire.tapped
        if tapped:
            self._wire.tapped = []
        return tapped

    # ---- what the link brings (see `link.py`) -----------------------------------------------------------------------

    @property
    def current_link(self) -> Link | None:
        """The attempt or connection that counts; any other is ignored."""
        return self._link

    def link_opened(self, subprotocol: str | None, now: float) -> None:
        """The handshake succeeded."""
        if self._state is not SocketState.OPENING:
            return
        self._stop_timer()
        self._stop_connect_timer()
        self._advance(SocketInput.OPENED)
        self._opened_at = now
        self._wire.link = self._link
        self._wire.stats.connects += 1
        self._heartbeat.start(now)
        self._wire.events.append(Connected(subprotocol, self._wire.stats.connects > 1))
        pending = [channel for channel in self._wire.channels.values() if channel.state is ChannelState.PENDING]
        self._joins.open(pending, now)

    def link_refusing(self, now: float) -> None:
        """The server refuses the handshake, and the body that says why is coming."""
        assert self._timer is not None, "an attempt is bounded"
        if self._state is SocketState.OPENING and self._timer.deadline > now + _BODY_PATIENCE:
            self._stop_timer()
            self._timer = self._wire.timers.at(now + _BODY_PATIENCE, self._open_timed_out)

    def link_failed(self, error: ConnectError, now: float) -> None:
        """The attempt failed."""
        if self._state is SocketState.OPENING:
            self._attempt_failed(error, now)
        else:
            self.link_closed(None, str(error), now)

    def link_received(self, frames: Sequence[str | bytes], now: float) -> None:
        """One read brought frames."""
        if self._wire.link is None:  # closing: nobody is interested any more
            return
        if self._tables.outdated():
            for channel in self._wire.channels.values():
                channel.inbox.refresh()
        self._reader.receive_all(frames, now)
        if self._state is SocketState.DRAINING:
            self._go_on_draining(now)

    def link_progressed(self, now: float) -> None:
        """Part of a message came."""
        self._heartbeat.heard()

    def link_closed(self, code: int | None, reason: str, now: float) -> None:
        """The connection is over."""
        error = ConnectionClosed(code, self._wire.secrets.masked(reason[:_LONGEST_REASON]))
        if self._state is SocketState.OPENING:
            self._attempt_failed(ConnectError(str(error)), now)
            return
        self._link = None
        if self._state is SocketState.CLOSING:
            self._end(None, now)
        elif self._state is SocketState.DRAINING:
            self._disconnected(error, None, now)
            self._go_on_draining(now)
        else:
            self._lost(error, now)

    # ---- private: connecting ----------------------------------------------------------------------------------------

    def _dial(self, now: float) -> None:
        self._wire.events.append(Connecting(self._retries + 1))
        self._timer = self._wire.timers.at(now + self.options.open_timeout, self._open_timed_out)
        self._advance(SocketInput.RESOLVE)
        self._dialer.begin(now)

    def _open(self, address: Address, now: float) -> None:
        self._advance(SocketInput.DIAL)
        self._links += 1
        self._link = Link(self, self._links)
        self._wire.secrets = Secrets(address.secrets())
        self._wire.commands.append(
            OpenTransport(self._link, address.url, address.subprotocols, address.headers, address.shown)
        )

    def _attempt_failed(self, error: ConnectError, now: float) -> None:
        error.mask(self._wire.secrets)
        self._link = None
        self._wire.last_error = error
        policy = self.options.reconnect
        attempt = Attempt(
            number=self._retries,
            ever_connected=self._wire.stats.connects > 0,
            renewable=self.endpoint.renewable,
            rest=self._latest_first_try - now,
        )
        if isinstance(error, HandshakeRefused):
            delay = policy.after_refusal(error.status, error.headers, attempt, self._wire.rng)
        else:
            delay = policy.after_failure(error, attempt, self._wire.rng)
        if delay is None:
            self._end(error, now)
            return
        self._stop_timer()
        self._advance(SocketInput.LOST)
        self._wire.events.append(ConnectFailed(error, self._retries + 1, delay))
        self._timer = self._wire.timers.at(now + delay, self._retry)

    def _open_timed_out(self, now: float) -> None:
        error = self._unfinished(self.options.open_timeout)
        self._drop_attempt()
        self._attempt_failed(error, now)

    def _unfinished(self, seconds: float) -> ConnectError:
        """What is to be said of the attempt that is under way, and is given up."""
        if self._link is None:
            return ConnectError(f"the callables for params and token did not answer within {seconds:g} s")
        return self._link.refusal or ConnectError(f"{self._link.missing} within {seconds:g} s")

    def _connect_timed_out(self, now: float) -> None:
        self._connect_timer = None
        last = self._wire.last_error
        if last is None or (self._link is not None and self._link.refusal is not None):
            last = self._unfinished(self._connect_timeout)
        if isinstance(last, HandshakeRefused):
            self._end(StillRefused.after(self._connect_timeout, last), now)
            return
        assert not isinstance(last, ConnectionClosed), "there was no connection yet"
        self._end(ConnectTimeout(timeout=self._connect_timeout, last=last), now)

    def _retry(self, now: float) -> None:
        self._retries += 1
        self._dial(now)

    def _drop_attempt(self) -> None:
        self._dialer.stop()
        if self._link is not None:
            self._wire.commands.append(AbortTransport(self._link))
            self._link = None

    # ---- private: losing the connection -----------------------------------------------------------------------------

    def _lost(self, error: ConnectionClosed, now: float) -> None:
        self._forget_old_retries(now)
        delay = self.options.reconnect.after_close(error.code, self._retries, self._wire.rng)
        if delay is None:
            self._end(error, now)
            return
        self._disconnected(error, delay, now)
        self._timer = self._wire.timers.at(now + delay, self._retry)

    def _forget_old_retries(self, now: float) -> None:
        """Waits start anew after a connection that has proved stable."""
        if now - self._opened_at >= self.options.reconnect.stable_after:
            self._retries = 0

    def _disconnected(self, error: ConnectionClosed, delay: float | None, now: float) -> None:
        self._advance(SocketInput.LOST)
        self._wire.last_error = error
        self._wire.events.append(Disconnected(error.code, error.reason, delay))
        self._unplug(error, now)
        for channel in [*self._wire.leaving.values(), *self._wire.channels.values()]:
            channel.disconnected(error, now)
        self._wire.awaiting.clear()

    def _peer_is_silent(self, now: float) -> None:
        reason = f"nothing was heard for {self.options.heartbeat:g} s after a heartbeat"
        self._drop_attempt()
        self.link_closed(None, reason, now)

    # ---- private: ending --------------------------------------------------------------------------------------------

    def _go_on_draining(self, now: float) -> None:
        if self._flow.held.messages > 0:
            return
        if self._wire.link is None:
            self._end(None, now)
            return
        for channel in list(self._wire.channels.values()):
            channel.leave(now, timeout=inf)  # the drain's own timeout bounds it
        if not self._wire.leaving:
            self.close(now)

    def _drain_timed_out(self, now: float) -> None:
        self._end(None, now)

    def _close_timed_out(self, now: float) -> None:
        self._end(None, now)

    def _end(self, error: PhxError | None, now: float) -> None:
        self._stop_timer()
        self._stop_connect_timer()
        self._drop_attempt()
        self._advance(SocketInput.END)
        self._close_channels(error, now)
        self._wire.events.append(Closed(error or self._cause))

    def _close_channels(self, error: PhxError | None, now: float) -> None:
        self._unplug(error, now)
        for channel in [*self._wire.leaving.values(), *self._wire.channels.values()]:
            channel.client_closed(error, now)
        self._wire.awaiting.clear()

    def _unplug(self, why: PhxError | None, now: float) -> None:
        """Nothing can be sent any more; without an error, the application closed the client."""
        self._wire.link = None
        self._wire.abandoned.clear()
        self._joins.close(one_by_one=isinstance(why, ConnectionClosed) and why.code == MESSAGE_TOO_BIG)
        self._flow.disconnected(now)
        self._heartbeat.stop(why)

    def _make_channel(self, topic: str, params: Any, bound: Bound | None) -> Channel:
        return Channel(
            topic,
            params,
            wire=self._wire,
            flow=self._flow,
            joins=self._joins,
            inbox=Inbox(topic, self._tables, bound, self._flow.held),
            policy=self.options.join,
            push_limit=self.options.push_buffer,
        )

    # ---- private: small things --------------------------------------------------------------------------------------

    def _advance(self, by: SocketInput) -> None:
        self._state = SOCKET[self._state, by]

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _stop_connect_timer(self) -> None:
        if self._connect_timer is not None:
            self._connect_timer.cancel()
            self._connect_timer = None
            self._latest_first_try = inf


#: The first connect is tried for the last time when so much of its timeout is left, or so many seconds.
_LAST_TRY = 0.03
_LONGEST_LAST_TRY = 0.3

#: Characters of what is told of a connection's end; a close frame holds 123 bytes.
_LONGEST_REASON = 1000

#: Seconds for which the body of a refused handshake is waited for.
_BODY_PATIENCE = 1.0

_ENDING = frozenset({SocketState.DRAINING, SocketState.CLOSING, SocketState.CLOSED})
