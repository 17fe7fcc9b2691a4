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

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from .backoff import Attempt
from .channel import Channel
from .client_state import ClientState
from .commands import AbortTransport, CloseTransport, Command, OpenTransport, Provider
from .connection import Connection, Member
from .core import Stats
from .dialer import Dialer
from .endpoint import Address, Endpoint, Headers, Params
from .errors import (
    MESSAGE_TOO_BIG,
    ConnectError,
    ConnectionClosed,
    ConnectionClosedByClient,
    ConnectionLost,
    ConnectTimeout,
    HandshakeRefused,
    InvalidState,
    PhxError,
    StillRefused,
    TopicInUse,
)
from .events import Closed, Connected, ConnectFailed, Connecting, Disconnected, Event
from .formats import V2, Serializer
from .handlers.handler import WILDCARD, Handler
from .handlers.router import Router
from .inbox import Inbox, RouteTables, Tap, TapItem
from .joins import Joining
from .link import Link
from .options import ClientOptions
from .queues import Backlog, Bound, Delivery, DeliveryQueue, HandlerQueue, Placement, by_concurrency
from .reader import Reader
from .shown import Secrets
from .states import CLOSE_BEGUN, ENDING, LINK_ENDS, ChannelState, LinkEnd, SocketInput, SocketState
from .timers import Timer, checked_timeout

if TYPE_CHECKING:
    from random import Random


class ClientProtocol:
    """One client: a connection that is kept up, and its channels.

    Args:
        url: Where the server mounts the socket, e.g. `"wss://example.com/socket"`.
        params: For the server's `connect/3`; a mapping, or a callable (plain or async) read again at every connect.
        auth_token: For a socket with `auth_token: true`; likewise.
        headers: To send with the handshake.
        path: Follows the URL instead of `/websocket`; see `Endpoint`.
        serializer: The wire format.
        router: The handlers.
        options: How it behaves.
        rng: Spreads retries. Without one every wait is the longest of its range, so a fleet would come back as one.
        placement: Where the adapter has handlers wait for their messages.
        confidential: Secrets that the adapter sends besides, a proxy's credentials: masked in what others say.

    Attributes:
        unfinished: Handlers that had messages left when a drain was over its time; `None` where there was none.
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
        confidential: Iterable[str] = (),
    ) -> None:
        self.endpoint = Endpoint(url, params=params, auth_token=auth_token, headers=headers, path=path)
        self.router = Router() if router is None else router
        self.options = ClientOptions() if options is None else options
        self._client = ClientState(V2() if serializer is None else serializer, rng, self.options)
        self._tables = RouteTables(self.router, placement)
        self._held = Backlog()
        self.unjoined = self._make_channel(WILDCARD, None, None)
        self._reader = Reader(self._client, self._held, unjoined=self.unjoined.inbox)
        self._dialer = Dialer(self.endpoint, self._client, on_address=self._open, on_failure=self._attempt_failed)
        self._link: Link | None = None  # the attempt or connection that counts
        self._suspects: Iterable[Joining] = ()  # channels whose joins may have ended the latest connection
        self._confidential = tuple(confidential)
        self._links = 0
        self._retries = 0  # since the last stable connection
        self._opened_at = 0.0
        self._connect_timeout = inf
        self._latest_first_try = inf  # when the first connect is to be tried for the last time
        self._drain_ends = inf
        self._cause: BaseException | None = None  # why the application closes, where it says so
        self.unfinished: frozenset[Handler] | None = None
        self._timer: Timer | None = None  # of the state: open, retry, close or drain timeout
        self._connect_timer: Timer | None = None  # of the first connect as a whole

    def __repr__(self) -> str:
        return f"ClientProtocol({self.endpoint.redacted!r}, {self.state.value})"

    # ---- what the application asks for ------------------------------------------------------------------------------

    @property
    def state(self) -> SocketState:
        """Where the connection stands."""
        return self._client.state

    @property
    def stats(self) -> Stats:
        """Counters, as they are now: a copy."""
        return replace(
            self._client.stats, handled=self._held.handled, backlog=self._held.messages, backlog_bytes=self._held.size
        )

    @property
    def secrets(self) -> Secrets:
        """What was sent in confidence at the latest attempt to connect; for an adapter that quotes what others said."""
        return self._client.secrets

    @property
    def channels(self) -> Mapping[str, Member]:
        """Each topic's channel, from its making to its leave or end; always as they are now."""
        return MappingProxyType(self._client.channels)

    def connect(self, now: float, *, timeout: float | None = None) -> None:
        """Connect, and stay connected until closed.

        Ends in `Connected`, or in `Closed` with the error: refused for good, or `ConnectTimeout`.

        Args:
            now: The time.
            timeout: Seconds after which the first connect is given up; `None` to keep trying. Later ones are never.

        Raises:
            InvalidState: It was called before.
            InvalidTimeout: The timeout is no number.
        """
        if not self._client.may(SocketInput.CONNECT):
            raise InvalidState("connect", self.state.value, "it is called once; reconnect connects anew")
        patience = checked_timeout("connect", timeout)
        if patience != inf:
            self._connect_timeout = patience
            self._latest_first_try = now + patience - min(_LAST_TRY * patience, _LONGEST_LAST_TRY)
            self._connect_timer = self._client.timers.at(now + patience, self._connect_timed_out)
        self._client.advance(SocketInput.CONNECT)
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
        if self.state in ENDING:
            raise ConnectionClosedByClient(None, "the client was closed")
        if topic in self._client.channels:
            raise TopicInUse(topic)
        channel = self._client.channels[topic] = self._make_channel(topic, params, bound)
        return channel

    def ping(self, now: float, *, timeout: float | None = None) -> str:
        """Send a heartbeat now, to see how long its answer takes; `timeout` is a push's.

        Returns:
            The call's ref; it ends in `PingAnswered` or `PushFailed`. `cancel_ping` gives it up.

        Raises:
            InvalidState: There is no open connection.
            InvalidTimeout: The timeout is no number.
        """
        if self._client.connection is None:
            raise InvalidState("ping", self.state.value, "it needs an open connection, see wait_connected")
        patience = checked_timeout("ping", timeout, self._client.options.timeout)
        return self._client.connection.heartbeat.ping(now, patience)

    def cancel_ping(self, ref: str) -> None:
        """Give a ping up; one that has ended is ignored."""
        if self._client.connection is not None:
            self._client.connection.heartbeat.cancel(ref)

    def reconnect(self, now: float) -> None:
        """Drop the connection, or the wait for the next attempt, and connect anew at once, e.g. with a new token.

        Raises:
            InvalidState: It was never connected, or is closed.
        """
        if not self._client.may(SocketInput.RECONNECT):
            raise InvalidState("reconnect", self.state.value, "it needs a client that was connected and is not closed")
        self._stop_timer()
        self._drop_attempt()
        if self._client.connection is not None:
            self._forget_old_retries(now)
            error = ConnectionClosedByClient(None, "the application reconnects")
            self._disconnected(error, SocketInput.RECONNECT, 0.0, now)
        else:
            self._client.advance(SocketInput.RECONNECT)
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
        if not self._client.may(SocketInput.DRAIN):
            return
        self._cause = self._cause or error
        self._stop_timer()
        self._stop_connect_timer()
        self._client.advance(SocketInput.DRAIN)
        connection = self._client.connection
        if connection is None:
            self._drop_attempt()
        else:
            connection.joins.stop()
            connection.flow.resume(now)
        self._drain_ends = now + timeout
        if timeout != inf:
            self._timer = self._client.timers.at(self._drain_ends, self._drain_timed_out)
        self._go_on_draining(now)

    def close(self, now: float) -> None:
        """Close at once, with the closing handshake: what waits for a reply is lost. Ends in `Closed`."""
        if self.state in CLOSE_BEGUN:
            return
        connection = self._client.connection
        self._stop_timer()
        if connection is None:
            self._end(None, now)
            return
        self._client.advance(SocketInput.CLOSE)
        connection.flow.resume(now)  # the server's close frame has to be read
        self._close_channels(None, now)
        self._client.commands.append(CloseTransport(connection.requests.link, 1000, ""))
        ends = min(now + self.options.close_timeout, self._drain_ends)
        self._timer = self._client.timers.at(ends, self._close_timed_out)

    def abort(self, now: float, *, error: BaseException | None = None) -> None:
        """Close at once, without a handshake. Ends in `Closed`.

        Args:
            now: The time.
            error: Why, where the application gives up: a handler's error, say. `Closed` tells it.
        """
        if self._client.may(SocketInput.END):
            self._cause = self._cause or error
            self._end(None, now)

    # ---- what the adapter brings ------------------------------------------------------------------------------------

    def resolved(self, request: int, value: Any, now: float) -> None:
        """The callable of a `Resolve` command gave a value."""
        resolving = self._client.resolving.pop(request, None)
        if resolving is not None:
            resolving.resolved(request, value, now)

    def resolve_failed(self, request: int, error: BaseException, now: float) -> None:
        """It raised."""
        resolving = self._client.resolving.pop(request, None)
        if resolving is not None:
            resolving.resolve_failed(request, error, now)

    def handled(self, deliveries: Sequence[Delivery], now: float) -> None:
        """These deliveries, that a queue's `take` gave, or that came through a tap, are done with."""
        self.release(deliveries)
        if self._client.connection is not None:
            self._client.connection.flow.handled(now)
        self._go_on_draining(now)

    def release(self, deliveries: Sequence[Delivery]) -> None:
        """The first half of `handled`: they count no more. The second, `handled((), now)`, may follow once for many.

        So an adapter need not keep what is done with until it tells the core the time.
        """
        self._held.release(deliveries)

    def handle_timeout(self, now: float) -> None:
        """Do what is due; does nothing when nothing is."""
        self._client.timers.fire(now)
        self._go_on_draining(now)  # the leave that it waited for may have timed out

    def next_timeout(self) -> float | None:
        """When `handle_timeout` is wanted next; `None` while nothing is pending."""
        return self._client.timers.next()

    def commands(self) -> list[Command]:
        """What is to be done now, in order; each is given once."""
        commands = self._client.commands
        if commands:
            self._client.commands = []
        return commands

    def events(self) -> list[Event]:
        """What has happened, in order; each is given once."""
        events = self._client.events
        if events:
            self._client.events = []
        return events

    def notices(self) -> list[Event]:
        """What looks like a mistake of the application: `UnclaimedMessages`, `PatternJoined`. For an adapter to log."""
        notices = self._client.notices
        if notices:
            self._client.notices = []
        return notices

    def runnable(self) -> list[DeliveryQueue]:
        """Queues that want a worker of the adapter's, in order; each is to be drained with `take`."""
        runnable = self._client.runnable
        if runnable:
            self._client.runnable = []
        return runnable

    def executable(self) -> list[HandlerQueue]:
        """Queues that want an executor, likewise."""
        executable = self._client.executable
        if executable:
            self._client.executable = []
        return executable

    def tapped(self) -> list[tuple[Tap, TapItem]]:
        """What came for taps, in order; each is to be given to the tap's `put`, and reported to `handled` when read."""
        tapped = self._client.tapped
        if tapped:
            self._client.tapped = []
        return tapped

    # ---- what the link brings (see `link.py`) -----------------------------------------------------------------------

    @property
    def current_link(self) -> Link | None:
        """The attempt or connection that counts; any other is ignored."""
        return self._link

    def link_opened(self, subprotocol: str | None, now: float) -> None:
        """The handshake succeeded."""
        if not self._client.may(SocketInput.OPENED):
            return
        assert self._link is not None
        self._stop_timer()
        self._stop_connect_timer()
        self._client.advance(SocketInput.OPENED)
        self._opened_at = now
        connection = self._client.connection = Connection(
            self._link,
            self._client,
            self.options,
            held=self._held,
            suspects=self._suspects,
            on_silence=self._peer_is_silent,
            now=now,
        )
        self._client.stats.connects += 1
        self._client.events.append(Connected(subprotocol, self._client.stats.connects > 1))
        pending = [channel for channel in self._client.channels.values() if channel.state is ChannelState.PENDING]
        connection.joins.open(pending, now)

    def link_refusing(self, now: float) -> None:
        """The server refuses the handshake, and the body that says why is coming."""
        assert self._timer is not None, "an attempt is bounded"
        if self._client.may(SocketInput.OPENED) and self._timer.deadline > now + _BODY_PATIENCE:
            self._stop_timer()
            self._timer = self._client.timers.at(now + _BODY_PATIENCE, self._open_timed_out)

    def link_failed(self, error: ConnectError, now: float) -> None:
        """The attempt failed."""
        if LINK_ENDS[self.state] is LinkEnd.FAILED:
            self._attempt_failed(error, now)
        else:
            self.link_closed(None, str(error), now)

    def link_received(self, frames: Sequence[str | bytes], now: float) -> None:
        """One read brought frames."""
        connection = self._client.connection
        if connection is None:  # closing: what comes now is not wanted any more
            return
        if self._tables.outdated():
            for channel in (self.unjoined, *self._client.channels.values()):
                channel.inbox.refresh()
        self._reader.receive_all(connection, frames, now)
        self._go_on_draining(now)

    def link_progressed(self, now: float) -> None:
        """Part of a message came."""
        if self._client.connection is not None:
            self._client.connection.heartbeat.heard()

    def link_closed(self, code: int | None, reason: str, now: float) -> None:
        """The connection is over."""
        error = ConnectionLost(code, self._client.secrets.masked(reason[:_LONGEST_REASON]))
        self._link = None
        match LINK_ENDS[self.state]:
            case LinkEnd.FAILED:
                self._attempt_failed(ConnectError(str(error)), now)
            case LinkEnd.LOST:
                self._lost(error, now)
            case LinkEnd.DRAINED:
                self._disconnected(error, SocketInput.LOST, None, now)
                self._go_on_draining(now)
            case _:  # LinkEnd.CLOSED
                self._end(None, now)

    # ---- private: connecting ----------------------------------------------------------------------------------------

    def _dial(self, now: float) -> None:
        self._client.events.append(Connecting(self._retries + 1))
        self._timer = self._client.timers.at(now + self.options.open_timeout, self._open_timed_out)
        self._dialer.begin(now)

    def _open(self, address: Address, now: float) -> None:
        self._client.advance(SocketInput.DIAL)
        self._links += 1
        self._link = Link(self, self._links)
        self._client.secrets = Secrets((*address.secrets(), *self._confidential))
        self._client.commands.append(
            OpenTransport(self._link, address.url, address.subprotocols, address.headers, address.shown)
        )

    def _attempt_failed(self, error: ConnectError, now: float) -> None:
        error.mask(self._client.secrets)
        if isinstance(error, HandshakeRefused):
            error.url = self.endpoint.redacted
        self._link = None
        self._client.last_error = error
        policy = self.options.reconnect
        attempt = Attempt(
            number=self._retries,
            ever_connected=self._client.stats.connects > 0,
            renewable=self.endpoint.renewable,
            rest=self._latest_first_try - now,
        )
        if isinstance(error, HandshakeRefused):
            delay = policy.after_refusal(error.status, error.headers, attempt, self._client.rng)
        else:
            delay = policy.after_failure(error, attempt, self._client.rng)
        if delay is None:
            self._end(error, now)
            return
        self._stop_timer()
        self._client.advance(SocketInput.LOST)
        self._client.events.append(ConnectFailed(error, self._retries + 1, delay))
        self._timer = self._client.timers.at(now + delay, self._retry)

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
        last = self._client.last_error
        if last is None or (self._link is not None and self._link.refusal is not None):
            last = self._unfinished(self._connect_timeout)
        if isinstance(last, HandshakeRefused):
            last.url = self.endpoint.redacted
            self._end(StillRefused.after(self._connect_timeout, last), now)
            return
        assert not isinstance(last, ConnectionClosed), "there was no connection yet"
        self._end(ConnectTimeout(timeout=self._connect_timeout, last=last), now)

    def _retry(self, now: float) -> None:
        self._retries += 1
        self._client.advance(SocketInput.RETRY)
        self._dial(now)

    def _drop_attempt(self) -> None:
        self._dialer.stop()
        if self._link is not None:
            self._client.commands.append(AbortTransport(self._link))
            self._link = None

    # ---- private: losing the connection -----------------------------------------------------------------------------

    def _lost(self, error: ConnectionClosed, now: float) -> None:
        self._forget_old_retries(now)
        delay = self.options.reconnect.after_close(error.code, self._retries, self._client.rng)
        if delay is None:
            self._end(error, now)
            return
        self._disconnected(error, SocketInput.LOST, delay, now)
        self._timer = self._client.timers.at(now + delay, self._retry)

    def _forget_old_retries(self, now: float) -> None:
        """Waits start anew after a connection that has proved stable."""
        if now - self._opened_at >= self.options.reconnect.stable_after:
            self._retries = 0

    def _disconnected(self, error: ConnectionClosed, by: SocketInput, delay: float | None, now: float) -> None:
        self._client.advance(by)
        self._client.last_error = error
        self._client.events.append(Disconnected(error.code, error.reason, delay))
        for channel in self._drop_connection(error):
            channel.disconnected(error, now)

    def _drop_connection(self, why: PhxError | None) -> list[Member]:
        """Forget the connection, if there is one; gives all channels, which have to be told.

        Args:
            why: What ended it; `None` where the application closed the client.
        """
        connection, self._client.connection = self._client.connection, None
        if connection is None:
            return list(self._client.channels.values())
        too_big = isinstance(why, ConnectionClosed) and why.code == MESSAGE_TOO_BIG
        self._suspects = connection.joins.suspects(too_big=too_big)
        connection.end(why)
        return [*connection.leaving.values(), *self._client.channels.values()]

    def _peer_is_silent(self, now: float) -> None:
        reason = f"nothing was heard for {self.options.heartbeat:g} s after a heartbeat"
        self._drop_attempt()
        self.link_closed(None, reason, now)

    # ---- private: ending --------------------------------------------------------------------------------------------

    def _go_on_draining(self, now: float) -> None:
        """Where the client is being drained: leave when handlers are done, close when the leaves are over."""
        if self.state is not SocketState.DRAINING or self._held.messages > 0:
            return
        connection = self._client.connection
        if connection is None:
            self._end(None, now)
            return
        for channel in list(self._client.channels.values()):
            channel.leave(now, timeout=inf)  # the drain's own timeout bounds it
        if not connection.leaving:
            self.close(now)

    def _drain_timed_out(self, now: float) -> None:
        if self._held.messages:
            inboxes = [channel.inbox for channel in (self.unjoined, *self._client.channels.values())]
            busy = (inbox.busy_handlers() for inbox in inboxes)
            self.unfinished = frozenset[Handler]().union(*busy)
        self._end(None, now)

    def _close_timed_out(self, now: float) -> None:
        self._end(None, now)

    def _end(self, error: PhxError | None, now: float) -> None:
        self._stop_timer()
        self._stop_connect_timer()
        self._drop_attempt()
        self._client.advance(SocketInput.END)
        self._close_channels(error, now)
        self._client.events.append(Closed(error or self._cause))

    def _close_channels(self, error: PhxError | None, now: float) -> None:
        for channel in self._drop_connection(error):
            channel.client_closed(error, now)

    def _make_channel(self, topic: str, params: Any, bound: Bound | None) -> Channel:
        return Channel(topic, params, client=self._client, inbox=Inbox(topic, self._tables, bound, self._held))

    # ---- private: small things --------------------------------------------------------------------------------------

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
