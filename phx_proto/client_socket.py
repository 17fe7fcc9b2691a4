"""One socket of a client: its attempts to connect, its connection, its retries, and its channels.

The state machine is the table `states.SOCKET`; this file has the actions. A client has one socket, or several if the
server limits the topics on each (`sockets.py`). What concerns the client as a whole, above all its end, is in
`client.py`.
"""

from collections.abc import Sequence
from math import inf
from typing import Protocol

from .backoff import Attempt
from .client_state import ClientState
from .commands import AbortTransport, CloseTransport, OpenTransport
from .connection import Connection, Member
from .dialer import Dialer
from .endpoint import Address
from .errors import (
    CertificateError,
    ConnectError,
    ConnectionClosed,
    ConnectionClosedByClient,
    ConnectionLost,
    ConnectTimeout,
    HandshakeRefused,
    PhxError,
    ProxyError,
    ResolveFailed,
    StillRefused,
)
from .events import Connected, ConnectFailed, Connecting, Disconnected
from .link import Link
from .longpoll import PollingLink
from .shown import NO_SECRETS, Secrets
from .states import CLOSE_BEGUN, ENDING, LINK_ENDS, SOCKET, ChannelState, LinkEnd, SocketInput, SocketState
from .timers import NO_TIMER
from .transports import TransportName
from .wording import MESSAGE_TOO_BIG


class SocketOwner(Protocol):
    """The client, as used by its sockets: see `ClientProtocol`."""

    def socket_opened(self, now: float) -> None: ...
    def socket_received(self, connection: Connection, frames: Sequence[str | bytes], now: float) -> None: ...
    def socket_failed(self, socket: "Socket", error: PhxError, now: float) -> None: ...
    def socket_empty(self, socket: "Socket", now: float) -> None: ...
    def socket_over(self, now: float) -> None: ...


class Socket:
    """One socket of a client.

    Attributes:
        number: Its number in the client: 0 for the first.
        state: Its state.
        was_open: Whether it has had a connection.
        connection: The open connection; `None` while there is none.
        members: The channels that it has, from the call of `join` to their end, in that order.
        last_error: What ended the latest connection, or attempt to connect.
        secrets: The secrets of the latest attempt to connect.
    """

    def __init__(self, number: int, client: ClientState, owner: SocketOwner) -> None:
        self.number = number
        self.was_open = False
        self.state = SocketState.IDLE
        self.connection: Connection | None = None
        self.members: dict[Member, None] = {}  # a set that keeps the order
        self.last_error: ConnectError | ConnectionClosed | None = None
        self.secrets = self._sent = NO_SECRETS
        self._confided: list[str]  # the latest tokens and cookies from the server, of this attempt
        self._client = client
        self._owner = owner
        self._dialer = Dialer(client.endpoint, client, on_address=self._open, on_failure=self._attempt_failed)
        self._link: Link | None = None  # the current attempt or connection
        self._suspects: dict[Member, None] = {}  # channels whose joins may have ended the latest connection
        self._retries = 0  # since the last stable connection
        self._opened_at: float
        self._address: str  # of this attempt, for errors
        self._patience: float  # seconds for this attempt
        self._connect_timeout: float
        self._latest_first_try: float  # time of the first connect's last attempt
        self._timer = NO_TIMER  # of the state: open, retry or close timeout
        self._connect_timer = NO_TIMER  # of the first connect as a whole
        self._empty_timer = NO_TIMER

    # ---- what the client asks for -----------------------------------------------------------------------------------

    def may(self, by: SocketInput) -> bool:
        """Whether the table has this input for the current state."""
        return (self.state, by) in SOCKET

    @property
    def untried(self) -> bool:
        """Whether no attempt has succeeded or failed yet."""
        return not self.was_open and self.last_error is None

    def connect(self, now: float, patience: float = inf) -> None:
        """Connect, and stay connected; the first connect is given up after `patience` seconds."""
        self._connect_timeout = patience
        self._latest_first_try = now + patience - min(_LAST_TRY * patience, _LONGEST_LAST_TRY)
        self._connect_timer = self._client.timers.at(now + patience, self._connect_timed_out)
        self._advance(SocketInput.CONNECT)
        self._dial(now)

    def reconnect(self, now: float) -> None:
        """Drop the connection, or the wait for the next attempt, and connect again at once."""
        self._timer.cancel()
        self._drop_attempt()
        if self.connection is None:
            self._advance(SocketInput.RECONNECT)
        else:
            self._forget_old_retries(now)
            error = ConnectionClosedByClient(None, "the application reconnects")
            self._disconnected(error, SocketInput.RECONNECT, 0.0, now)
        self._dial(now)

    def remove(self, channel: Member, now: float) -> None:
        """Remove a channel; an unknown one is ignored."""
        self.members.pop(channel, None)
        if not self.members and self.number and not self._empty_timer.pending and self.state not in ENDING:
            self._empty_timer = self._client.timers.at(now + _LONGEST_EMPTY, self._still_empty)

    def drain(self, now: float) -> None:
        """Let no more channels join. The connection stays open."""
        self._stop_timers()
        self._advance(SocketInput.DRAIN)
        if self.connection is None:
            self._drop_attempt()
        else:
            self.connection.drain(now)

    def close(self, until: float, now: float) -> None:
        """Close with the closing handshake, until the given time at most; at once if there is no connection."""
        if self.state in CLOSE_BEGUN:
            return
        connection = self.connection
        if connection is None:
            self.end(None)
            return
        self._stop_timers()
        self._advance(SocketInput.CLOSE)
        connection.flow.resume(now)  # the server's close frame must be read
        self._drop_connection(None)
        self._client.commands.append(CloseTransport(connection.requests.link, 1000, ""))
        self._timer = self._client.timers.at(until, self._close_timed_out)

    def end(self, why: PhxError | None) -> None:
        """End the socket; the caller tells its channels. Does nothing if it has ended already.

        Args:
            why: The reason; `None` if the application ended it.
        """
        if not self.may(SocketInput.END):
            return
        self._stop_timers()
        self._drop_attempt()
        self._advance(SocketInput.END)
        self._drop_connection(why)
        self._suspects = {}

    # ---- what the link brings (see `link.py`) -----------------------------------------------------------------------

    @property
    def current_link(self) -> Link | None:
        """The link of the current attempt or connection; calls of any other link are ignored."""
        return self._link

    def link_opened(self, subprotocol: str | None, now: float) -> None:
        if not self.may(SocketInput.OPENED):
            return
        assert self._link is not None
        client = self._client
        self._timer.cancel()
        self._connect_timer.cancel()
        self._latest_first_try = inf
        self._advance(SocketInput.OPENED)
        self._opened_at = now
        connection = self.connection = Connection(
            self._link,
            client,
            client.options,
            held=client.held,
            secrets=self.secrets,
            suspects=self._suspects,
            on_silence=self._peer_is_silent,
            now=now,
        )
        client.stats.connects += 1
        client.stats.reconnects += self.was_open
        transport: TransportName = "longpoll" if isinstance(self._link, PollingLink) else "websocket"
        client.events.append(Connected(subprotocol, self.was_open, transport, self.number))
        self.was_open = True
        self._begin_trial(now)
        connection.joins.open([channel for channel in self.members if channel.state is ChannelState.PENDING], now)
        if client.stats.connects == 1:
            self._owner.socket_opened(now)

    def link_refusing(self, now: float) -> None:
        """The server refuses the handshake, and its body is still coming."""
        if self.may(SocketInput.OPENED):
            self._timer.cancel()
            until = min(self._timer.deadline, now + _BODY_PATIENCE)
            self._timer = self._client.timers.at(until, self._open_timed_out)

    def link_failed(self, error: ConnectError, now: float) -> None:
        if LINK_ENDS[self.state] is LinkEnd.FAILED:
            self._attempt_failed(error, now)
        else:
            self.link_closed(None, str(error), now)

    def link_received(self, frames: Sequence[str | bytes], now: float) -> None:
        connection = self.connection
        if connection is not None:  # while closing, frames are ignored
            if self._client.observer is not None:
                self._client.observer.received(connection.requests.link.number, frames)
            self._owner.socket_received(connection, frames, now)

    def link_progressed(self) -> None:
        if self.connection is not None:
            self.connection.heartbeat.heard()

    def link_confided(self, secrets: Sequence[str]) -> None:
        """The server sent what gives access to the session: these are its token and cookies now."""
        earlier = [secret for secret in self._confided if secret not in secrets]
        self._confided = [*earlier[-_OUTDATED:], *secrets]
        self.secrets = self._sent.also(self._confided)
        if self.connection is not None:
            self.connection.secrets = self.secrets

    def link_closed(self, code: int | None, reason: str, now: float) -> None:
        """The connection is over."""
        error = ConnectionLost(code, self.secrets.masked(reason[:_LONGEST_REASON]))
        self._link = None
        match LINK_ENDS[self.state]:
            case LinkEnd.FAILED:
                self._attempt_failed(ConnectError(str(error)), now)
            case LinkEnd.LOST:
                self._lost(error, now)
            case LinkEnd.DRAINED:
                self._disconnected(error, SocketInput.LOST, None, now)
                self._owner.socket_over(now)
            case _:  # LinkEnd.CLOSED
                self._close_timed_out(now)

    # ---- private: connecting ----------------------------------------------------------------------------------------

    def _dial(self, now: float) -> None:
        self._client.events.append(Connecting(self._retries + 1, self.number))
        self._patience = self._client.options.open_timeout
        self._timer = self._client.timers.at(now + self._patience, self._open_timed_out)
        self._dialer.begin(self._client.transports.current, now)

    def _open(self, address: Address, now: float) -> None:
        self._advance(SocketInput.DIAL)
        client = self._client
        self._address = address.redacted
        self.secrets = self._sent = Secrets((*address.secrets(), *client.confidential))
        self._confided = []
        trial = client.transports.trial
        if trial is not None and trial < self._patience:
            self._timer.cancel()
            self._patience = trial
            self._timer = client.timers.at(now + trial, self._open_timed_out)
        number = next(client.link_numbers)
        if address.transport == "longpoll":
            polling = PollingLink(self, number, address, client, patience=client.options.poll_timeout)
            self._link = polling
            polling.open()
            return
        self._link = Link(self, number)
        client.commands.append(
            OpenTransport(self._link, address.url, address.subprotocols, address.headers, address.shown)
        )

    def _attempt_failed(self, error: ConnectError, now: float) -> None:
        client = self._client
        error.mask(self.secrets)
        if isinstance(error, HandshakeRefused):
            error.url = self._address
        self._link = None
        self.last_error = error
        attempt = Attempt(
            number=self._retries,
            ever_connected=client.stats.connects > 0,
            renewable=bool(client.endpoint.providers),
            rest=self._latest_first_try - now,
        )
        delay = client.options.reconnect.after_failure(error, attempt, client.rng)
        if not isinstance(error, CertificateError | ProxyError | ResolveFailed):  # not caused by the transport
            delay = self._after_failure(delay)
        if delay is None:
            self._owner.socket_failed(self, error, now)
            return
        self._timer.cancel()
        self._advance(SocketInput.LOST)
        client.events.append(ConnectFailed(error, self._retries + 1, delay, self.number))
        self._timer = client.timers.at(now + delay, self._retry)

    def _open_timed_out(self, now: float) -> None:
        error = self._unfinished(self._patience)
        self._drop_attempt()
        self._attempt_failed(error, now)

    def _unfinished(self, seconds: float) -> ConnectError:
        """The error for the current attempt, which is given up after `seconds`."""
        if self._link is None:
            return ConnectError(f"the callables for params and token did not answer within {seconds:g} s")
        return self._link.refusal or ConnectError(f"{self._link.missing} within {seconds:g} s")

    def _begin_trial(self, now: float) -> None:
        """Polling has proved to work; a WebSocket proves it by a message, which matters only if there is a fallback.

        As in phoenix.js, a ping causes that message. The client's first socket decides for all.
        """
        transports = self._client.transports
        if self.number:
            return
        if transports.current == "longpoll":
            transports.keep()
        elif (trial := transports.trial) is not None and self.connection is not None:
            self.connection.heartbeat.send()
            self._timer = self._client.timers.at(now + trial, self._end_trial)

    def _end_trial(self, now: float) -> None:
        if self._client.stats.received:
            self._client.transports.keep()
        else:
            self._drop_attempt()
            self.link_closed(None, "nothing came through the WebSocket", now)

    def _connect_timed_out(self, now: float) -> None:
        last = self.last_error
        if last is None or (self._link is not None and self._link.refusal is not None):
            last = self._unfinished(self._connect_timeout)
        if isinstance(last, HandshakeRefused):
            last.url = self._address
            self._owner.socket_failed(self, StillRefused.after(self._connect_timeout, last), now)
            return
        assert not isinstance(last, ConnectionClosed), "there was no connection yet"
        self._owner.socket_failed(self, ConnectTimeout(timeout=self._connect_timeout, last=last), now)

    def _retry(self, now: float) -> None:
        self._retries += 1
        self._advance(SocketInput.RETRY)
        self._dial(now)

    def _drop_attempt(self) -> None:
        self._dialer.stop()
        if self._link is not None:
            self._client.commands.append(AbortTransport(self._link))
            self._link = None

    # ---- private: losing the connection -----------------------------------------------------------------------------

    def _lost(self, error: ConnectionClosed, now: float) -> None:
        self._forget_old_retries(now)
        self._timer.cancel()
        delay = self._client.options.reconnect.after_close(error.code, self._retries, self._client.rng)
        delay = self._after_failure(delay)
        if delay is None:
            self._owner.socket_failed(self, error, now)
            return
        self._disconnected(error, SocketInput.LOST, delay, now)
        self._timer = self._client.timers.at(now + delay, self._retry)

    def _after_failure(self, delay: float | None) -> float | None:
        """When the next attempt follows, perhaps with the other transport: not if any socket has received messages."""
        if self._client.stats.received:
            self._client.transports.keep()
        if self.number:  # the first socket decides for all
            return delay
        return self._client.transports.after_failure(delay)

    def _forget_old_retries(self, now: float) -> None:
        """Reset the count of retries if the connection has proved stable."""
        if now - self._opened_at >= self._client.options.reconnect.stable_after:
            self._retries = 0

    def _disconnected(self, error: ConnectionClosed, by: SocketInput, delay: float | None, now: float) -> None:
        self._advance(by)
        self.last_error = error
        self._client.events.append(Disconnected(error.code, error.reason, delay, self.number))
        if self._client.observer is not None and self.connection is not None:
            self._client.observer.lost(self.connection.requests.link.number, error.code, error.reason)
        self._drop_connection(error)
        for channel in list(self.members):
            channel.disconnected(error, now)

    def _drop_connection(self, why: PhxError | None) -> None:
        """Drop the state of the connection, if there is one."""
        connection, self.connection = self.connection, None
        if connection is not None:
            too_big = isinstance(why, ConnectionClosed) and why.code == MESSAGE_TOO_BIG
            self._suspects = connection.joins.suspects(too_big=too_big)
            connection.end(why)

    def _peer_is_silent(self, now: float) -> None:
        reason = f"nothing was heard for {self._client.options.heartbeat:g} s after a heartbeat"
        self._drop_attempt()
        self.link_closed(None, reason, now)

    # ---- private: small things --------------------------------------------------------------------------------------

    def _close_timed_out(self, now: float) -> None:
        self.end(None)
        self._owner.socket_over(now)

    def _still_empty(self, now: float) -> None:
        if not self.members:
            self._owner.socket_empty(self, now)

    def _advance(self, by: SocketInput) -> None:
        """Go to the table's next state."""
        self.state = SOCKET[self.state, by]

    def _stop_timers(self) -> None:
        """Stop all timers: the socket ends."""
        self._timer.cancel()
        self._connect_timer.cancel()
        self._empty_timer.cancel()


#: The first connect's last attempt is made before its end by this share of its timeout, or by this many seconds.
_LAST_TRY = 0.03
_LONGEST_LAST_TRY = 0.3

#: Seconds for which a socket without a topic is kept, unless it is the first; another topic may follow.
_LONGEST_EMPTY = 1.0

#: Characters of the reason of a connection's end, at most; a close frame holds 123 bytes.
_LONGEST_REASON = 1000

#: How many of a server's latest tokens and cookies that are no longer valid are still masked in texts.
_OUTDATED = 4

#: Seconds to wait for the body of a refused handshake.
_BODY_PATIENCE = 1.0
