"""One topic's channel: its joins and rejoins, its leave, its pushes and its inbox.

A channel is used once: made by `client.channel(topic)`, joined, rejoined as often as needed, and closed for good by a
leave, a refusal of its first join, the server (`phx_close`) or the client's end. The state machine is the table
`states.CHANNEL`; the actions are here, those of a join in `attempts.py`.
"""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any, Final

from msgspec import Struct

from .attempts import Attempts
from .checks import checked_timeout
from .client_socket import Socket
from .client_state import ClientState
from .connection import Connection
from .errors import (
    ChannelClosed,
    ChannelClosedByClient,
    ChannelClosedByServer,
    ChannelCrashed,
    ConnectionClosed,
    ConnectionClosedByClient,
    InvalidState,
    JoinCancelled,
    NotJoined,
    PhxError,
    RemoteError,
)
from .events import ChannelEnded, ChannelErrored, ChannelEvent, ChannelJoined, LeaveEnd, LeaveEnded, PatternJoined
from .handlers.handler import WILDCARD, Handler
from .handlers.payloads import P, PayloadDecoder, PayloadType
from .handlers.router import HandlerFunction
from .inbox import Inbox, Tap
from .link import Link
from .message import Reply
from .options import ServerClose
from .presence import Entries, Presence
from .pushes import Push, Pushes
from .shown import secrets_in
from .sockets import Sockets
from .states import CHANNEL, JOIN_SENT, LEAVE_BEGUN, PUSHES, ChannelInput, ChannelState, PushRule
from .timers import Timer

_LEFT: Final = "it was left"

#: Ends of a leave that the server has perhaps not handled yet.
_UNANSWERED: Final = (LeaveEnd.TIMEOUT, LeaveEnd.CANCELLED)

_NOBODY: Any = None

#: For every channel that has not pushed yet: most channels only listen.
_NO_PUSHES: Final = Pushes(_NOBODY, _NOBODY)


class _Leave(Struct, frozen=True, eq=False):
    """A leave that was sent: any reply ends it."""

    channel: "Channel"
    ref: str
    join_ref: str
    timer: Timer
    raw: bool = False

    def replied(self, reply: Reply, now: float) -> None:
        self.channel.left(LeaveEnd.REPLY, now)

    def unreadable(self, problem: str, now: float) -> None:
        self.channel.left(LeaveEnd.REPLY, now)


class Channel(Struct, eq=False):
    """One topic on one client.

    Attributes:
        topic: The topic.
        params: The join's params, or a callable for them.
        inbox: Its messages that wait for their handlers.
        socket: The socket that it is joined on, or will be joined on.
        state: Its current state.
        join_ref: The ref of the latest join sent on this connection; `None` if none was.
        response: The server's answer to the latest join, in the join's type; `None` before.
        context: The adapter's own data about the channel.
        sent_params: The params of the latest attempt to join.
        decoder: Of the server's answers to its joins, if their type was given.
    """

    topic: str
    params: Any
    inbox: Inbox
    socket: Socket
    _client: ClientState
    _sockets: Sockets
    state: ChannelState = ChannelState.IDLE
    join_ref: str | None = None
    response: Any = None
    context: Any = None
    sent_params: Any = None
    decoder: PayloadDecoder | None = None
    _attempts: Attempts | None = None  # most joined channels have none, which saves 160 bytes each
    _pushes: Pushes = _NO_PUSHES
    _leave: _Leave | None = None
    _end_error: PhxError | None = None  # what ended the channel

    def __post_init__(self) -> None:
        self.inbox.channel = self

    def __repr__(self) -> str:
        return f"Channel({self.topic!r}, {self.state.value})"

    # ---- what the application asks for ------------------------------------------------------------------------------

    def join(self, now: float, *, timeout: float | None = None, response: Any = None) -> str:
        """Join the topic, now or as soon as the connection is open. It is rejoined whenever that is needed.

        Args:
            now: Monotonic seconds.
            timeout: Seconds from this call until the join is given up; `None` for the policy's, `math.inf` for none.
            response: The type of the server's answer, to this join and to every rejoin. If an answer does not fit, it
                counts as unreadable: the topic is left.

        Returns:
            The call's ref; it ends in `ChannelJoined` or `JoinFailed`.

        Raises:
            InvalidState: It was joined before.
            ChannelClosed: It is closed; make a new one.
            InvalidPayload: The params cannot be encoded.
            InvalidPayloadType: No answer can be of the type.
            InvalidTimeout: The timeout is not a number.
        """
        patience = checked_timeout("join", timeout, self._client.options.join.timeout)
        if self.state in LEAVE_BEGUN:
            raise self._closed_by(self.topic, "a channel lives once; make a new one to join again")
        if not self.may(ChannelInput.JOIN):
            advice = "it is called once, and the channel is rejoined by itself whenever it has to be"
            raise InvalidState("join", self.state.value, advice, self.topic)
        ref = self._joining.call(patience, response, now)
        self.advance(ChannelInput.JOIN)
        self._sockets.place(self, now)
        if self.topic.endswith(WILDCARD):
            self._client.notices.append(PatternJoined(self.topic))
        self._joining.ask(now)
        return ref

    def leave(self, now: float, *, timeout: float | None = None) -> str:
        """Leave the topic. No further message is delivered; those in the inbox stay there.

        Args:
            now: Monotonic seconds.
            timeout: Seconds to wait for the server's answer; `None` for the options', `math.inf` for no bound.

        Returns:
            The call's ref; it ends in `LeaveEnded`. A second call gets the first's.

        Raises:
            InvalidTimeout: The timeout is not a number.
        """
        patience = self.patience("leave", timeout)
        if self._leave is not None:
            return self._leave.ref
        if self._attempts is not None:
            self._attempts.fail_call(JoinCancelled(self.topic))
        connection, join_ref = self.connection, self.join_ref
        if connection is None or join_ref is None or not self.may(ChannelInput.LEAVE):
            ref = self._client.new_ref()
            self._client.events.append(LeaveEnded(self.topic, ref, LeaveEnd.LOCAL))
            self.end(_LEFT, now, error=None)
            return ref
        connection.requests.forget(join_ref)
        self._withdraw()
        self.advance(ChannelInput.LEAVE)
        connection.add_leaving(join_ref, self)
        ref = connection.send_leave(self.topic, join_ref)
        if self._attempts is not None:
            self._attempts.forget(now)  # not before: then another channel may join, after this leave
        timer = self._client.timers.at(now + patience, partial(self.left, LeaveEnd.TIMEOUT))
        self._leave = _Leave(self, ref, join_ref, timer)
        connection.requests.expect(ref, self._leave)
        connection.flow.resume(now)
        self._pushes.close_unsent(ChannelClosedByClient, _LEFT)
        return ref

    def push(self, event: str, payload: Any, now: float, *, timeout: float | None = None, raw: bool = False) -> str:
        """Send an event and expect a reply. It is sent at once if the channel is joined, else after its join.

        Args:
            event: The event's name.
            payload: Any JSON value, or bytes. Do not change it before it is sent.
            now: Monotonic seconds.
            timeout: Seconds from this call; `None` for the options', `math.inf` for no bound.
            raw: Whether the response of an ok reply stays undecoded: the reply then has a message with it as payload,
                for the `PayloadDecoder` of a type.

        Returns:
            The push's ref; it ends in `ReplyReceived` or `PushFailed`.

        Raises:
            NotJoined: `join` was never called.
            ChannelClosed: It is closed, or being left.
            InvalidPayload: The payload cannot be sent as JSON.
            FieldTooLong: A field of a binary message is over 255 bytes.
            BinaryNotSupported: Bytes, on a serializer that has no binary form.
            BufferFull: Too many pushes wait for their joins.
            InvalidTimeout: The timeout is not a number.
        """
        # `patience` and `connection`, inlined: two calls are 2 % of a push.
        patience = self._client.options.timeout if timeout is None else checked_timeout("push", timeout)
        push = Push(self._client.new_ref(), event, payload, patience, wants_reply=True, raw=raw)
        self._push(push, now)
        connection = self.socket.connection
        if connection is not None:  # the caller may be a handler, which waits for the reply before it ends
            connection.flow.resume(now)
        return push.ref

    def patience(self, call: str, timeout: float | None) -> float:
        """Seconds that a push or leave may take: the given ones, or the client's.

        Raises:
            InvalidTimeout: The timeout is not a number.
        """
        return checked_timeout(call, timeout, self._client.options.timeout)

    def cast(self, event: str, payload: Any, now: float) -> None:
        """Send an event without a reply. Raises as `push`."""
        self._push(Push(self._client.new_ref(), event, payload, inf, wants_reply=False), now)

    def cancel(self, ref: str, now: float) -> None:
        """Cancel a join, leave or push; one that has ended is ignored.

        An unsent push is never sent, a late reply is dropped; a cancelled join closes the channel; a cancelled leave is
        no longer waited for.
        """
        if self._attempts is not None and self._attempts.is_call(ref):
            self.end("its join was cancelled", now, error=JoinCancelled(self.topic))
        elif self._leave is not None and self._leave.ref == ref:
            self.left(LeaveEnd.CANCELLED, now)
        else:
            self._pushes.cancel(ref)

    def cancel_join(self, ref: str, now: float) -> None:
        """Cancel a join whose caller no longer waits: if it was accepted already, the topic is left."""
        self.cancel(ref, now)
        if self.may(ChannelInput.END):
            self.leave(now)

    # ---- its messages -----------------------------------------------------------------------------------------------

    def add(
        self,
        function: HandlerFunction[P],
        event: str,
        *,
        payload: PayloadType[P] = None,
        concurrency: int | None = None,
        executor: Any = None,
    ) -> Handler:
        """Register a handler for this channel alone, after the router's. The arguments are those of `Router.add`.

        Raises:
            InvalidHandler: It can never be called correctly.
        """
        handler = self.inbox.make(function, event, payload=payload, concurrency=concurrency, executor=executor)
        self.inbox.add(handler)
        return handler

    def off(self, what: Handler | Callable[..., Any] | str) -> tuple[Handler, ...]:
        """Remove handlers of this channel, as `Router.off` does.

        Raises:
            NotRegistered: There is none (any more).
        """
        return self.inbox.off(what)

    def attach(self, tap: Tap) -> None:
        """Add a tap, which gets the channel's messages and lifecycle events from now on."""
        self.inbox.attach(tap)

    def detach(self, tap: Tap) -> None:
        """Remove a tap; an unknown one is ignored."""
        self.inbox.detach(tap)

    def track_presence(self, *, state: str | None = None, diff: str | None = None) -> Presence:
        """Track the topic's presence, best before the join. Returns the same object every time.

        Changes come as `PresenceChanged`. They also come as messages `presence_join` and `presence_leave`, with the
        entries by key, to the handlers and taps of these events; adding one of those also starts tracking.

        Args:
            state: The event with the whole state; `None` for `"presence_state"`, or for the event given before.
            diff: The event with a change; `None` for `"presence_diff"`, or for the event given before.

        Raises:
            InvalidEvent: No message can be of such an event.
        """
        return self.inbox.track_presence(state=state, diff=diff)

    @property
    def last_seen(self) -> Any:
        """The id of the message handled last, or the one to start with; `None` for none, or without `resume`.

        It may call the function of `resume`, and raises what that raises.
        """
        return None if self.inbox.position is None else self.inbox.position.read()

    @property
    def present(self) -> Entries:
        """The presence entries now, by key.

        Raises:
            InvalidState: It is not tracked.
        """
        if self.inbox.presence is None:
            raise InvalidState(
                "present", self.state.value, "track_presence comes first, best before the join", self.topic
            )
        return self.inbox.presence.entries

    def shown(self, value: Any) -> str:
        """Text from the server in a safe form: bounded, escaped, with secrets masked."""
        return self.socket.secrets.also(secrets_in(self.sent_params)).shown(value)

    # ---- what the connection brings ---------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection | None:
        """The open connection of its socket."""
        return self.socket.connection

    @property
    def link(self) -> Link | None:
        """The link to send on now; `None` without a connection."""
        connection = self.socket.connection
        return None if connection is None else connection.requests.link

    def start_join(self, now: float) -> None:
        """`JoinQueue` lets this channel join now."""
        self._joining.start(now)

    def move(self, now: float) -> None:
        """Its socket takes no more topics: join on another."""
        self._joining.forget(now)
        self.join_ref = None
        self.advance(ChannelInput.MOVE)
        self.socket.remove(self, now)
        self._sockets.place(self, now)
        self._joining.ask(now)

    def joined(self, ref: str | None, response: Any) -> None:
        """The server has accepted the join; `ref` is that of the call that ends now, `None` for a rejoin."""
        connection, join_ref = self.connection, self.join_ref
        assert connection is not None
        assert join_ref is not None
        self.advance(ChannelInput.OK)
        self.response = response
        if not self._joining.failed:
            self._attempts = None
        connection.live[self.topic] = self.inbox
        self.inbox.joined()
        self._tell(ChannelJoined(self.topic, ref, join_ref, response))
        self._pushes.flush(join_ref)

    def errored(self, error: PhxError, delay: float) -> None:
        """An attempt to join, or the joined state, has ended; another attempt follows after `delay` seconds."""
        self._pushes.lose_sent(error)
        self._tell(ChannelErrored(self.topic, error, delay))

    def crashed(self, payload: Any, now: float) -> None:
        """A `phx_error` came for its current join, or for the join that it is leaving."""
        error = ChannelCrashed(self.topic, payload, self.shown(payload))
        if self._leave is not None:
            self._pushes.lose_sent(error)
            self.left(LeaveEnd.CRASH, now)
        elif self.state in JOIN_SENT:
            self._joining.fail(error, now)

    def closed_by_server(self, now: float) -> None:
        """A `phx_close` came for its current join, or for the join that it is leaving."""
        if self._leave is not None:
            self.left(LeaveEnd.CLOSE, now)
        elif self.state in JOIN_SENT:
            error = ChannelClosedByServer(self.topic, "the server closed it")
            if self._client.options.join.server_close is ServerClose.REJOIN:
                self._joining.fail(error, now)
            else:
                self.end(error.reason, now, error=error)

    def left(self, end: LeaveEnd, now: float, *, why: PhxError | None = None) -> None:
        """Its leave has ended."""
        leave, self._leave = self._leave, None
        assert leave is not None
        leave.timer.cancel()
        if self.connection is not None:
            self.connection.requests.forget(leave.ref)
            self.connection.remove_leaving(leave.join_ref)
            if end in _UNANSWERED:
                self.connection.given_up.append(int(leave.ref))
        self._client.events.append(LeaveEnded(self.topic, leave.ref, end))
        if end is LeaveEnd.DISCONNECTED:
            self._pushes.lose(why)
        self.end(_LEFT, now, error=None)

    def disconnected(self, error: ConnectionClosed, now: float) -> None:
        """The connection has ended; the topic is joined again on the next one."""
        if self._leave is not None:
            self.left(LeaveEnd.DISCONNECTED, now, why=error)
        elif self._joining.disconnected(error, now):
            joined = self.state is ChannelState.JOINED
            self.join_ref = None
            self.advance(ChannelInput.LOST)
            self._pushes.lose_sent(error)
            if joined:
                self._tell(ChannelErrored(self.topic, error, None))
        else:
            self.end("its join was too big for the server", now, error=error)

    def client_closed(self, error: PhxError | None, now: float) -> None:
        """The client has ended; without an error, the application closed it."""
        if self._leave is not None:
            self.left(LeaveEnd.DISCONNECTED, now, why=error)
            return
        self._pushes.lose(error)
        self.end(str(error or "the application closed the client"), now, error=error)

    def end(self, reason: str, now: float, *, error: PhxError | None) -> None:
        """Close the channel for good and end all calls on it. Without an error, the application closed it."""
        if not self.may(ChannelInput.END):
            return
        if self._attempts is not None:
            self._attempts.end(error or ConnectionClosedByClient(None, reason), now)
        self._withdraw()
        self.advance(ChannelInput.END)
        self.socket.remove(self, now)
        self._end_error = error
        self._pushes.close(self._closed_by, reason)
        self._tell(ChannelEnded(self.topic, error))

    def may(self, by: ChannelInput) -> bool:
        """Whether the table has this input for the current state."""
        return (self.state, by) in CHANNEL

    def advance(self, by: ChannelInput) -> None:
        """Go to the table's next state."""
        self.state = CHANNEL[self.state, by]

    # ---- private ----------------------------------------------------------------------------------------------------

    @property
    def _joining(self) -> Attempts:
        """Its attempts to join; new ones if it has none, see `joined`."""
        if self._attempts is None:
            self._attempts = Attempts(self, self._client, self._sockets)
        return self._attempts

    def _withdraw(self) -> None:
        """Free the topic for another channel."""
        if self._client.channels.get(self.topic) is self:
            del self._client.channels[self.topic]
            if self.connection is not None:
                self.connection.live.pop(self.topic, None)

    def _push(self, push: Push, now: float) -> None:
        rule = PUSHES[self.state]
        if rule is PushRule.UNJOINED:
            raise NotJoined(self.topic)
        if rule is PushRule.ENDED:
            raise self._closed_by(self.topic, "nothing can be pushed any more; make a new channel and join it")
        if self._pushes is _NO_PUSHES:
            self._pushes = Pushes(self, self._client)
        self._pushes.call(push, self.join_ref if rule is PushRule.SENT else None, now)

    @property
    def _closed_by(self) -> type[ChannelClosed]:
        """The kind of error for a call on this closed channel: closed by the client or by the server."""
        return ChannelClosedByServer if isinstance(self._end_error, RemoteError) else ChannelClosedByClient

    def _tell(self, event: ChannelEvent) -> None:
        self._client.events.append(event)
        self._client.tapped += [(tap, event) for tap in self.inbox.taps]
