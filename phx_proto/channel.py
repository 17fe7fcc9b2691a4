"""One topic's channel: its joins and rejoins, its leave, its pushes and its inbox.

A channel is used once: made by `client.channel(topic)`, joined, rejoined as often as needed, and closed for good by a
leave, a refusal of its first join, the server (`phx_close`) or the client's end. The state machine is the table
`states.CHANNEL`; this file has the actions. The meaning of the messages is in PROTOCOL.md; the retries are those of
phoenix.js (`channel.js`).

Every attempt to join has a join_ref of its own. When a join that was sent is given up (timed out, cancelled), a
phx_leave follows, because the server may have accepted it meanwhile; if its ok comes late, another phx_leave is sent.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from .client_socket import Socket
from .client_state import ClientState
from .commands import Provider
from .connection import Connection
from .errors import (
    MESSAGE_TOO_BIG,
    ChannelClosed,
    ChannelClosedByClient,
    ChannelClosedByServer,
    ChannelCrashed,
    ConnectionClosed,
    ConnectionClosedByClient,
    InvalidReply,
    InvalidState,
    JoinCancelled,
    JoinRefused,
    JoinTimeout,
    LocalError,
    NotJoined,
    PhxError,
    RemoteError,
    ResolveFailed,
)
from .events import (
    ChannelEnded,
    ChannelErrored,
    ChannelEvent,
    ChannelJoined,
    JoinFailed,
    LeaveEnd,
    LeaveEnded,
    PatternJoined,
)
from .flow import TOLERANCE
from .handlers.handler import WILDCARD, Handler
from .handlers.payloads import P, PayloadType
from .handlers.router import HandlerFunction
from .inbox import Inbox, Tap
from .link import Link
from .message import PHX_JOIN, Message, Reply
from .options import Refusal, ServerClose
from .presence import Entries, Presence
from .pushes import Push, Pushes
from .shown import secrets_in
from .sockets import Sockets
from .states import CHANNEL, JOIN_SENT, LEAVE_BEGUN, PUSHES, ChannelInput, ChannelState, PushRule
from .timers import Action, Timer, checked_timeout

_LEFT = "it was left"

#: Closes with 1009 in a row that a join under way may see before it is taken for their cause.
_MOST_TOO_BIG = 3


@dataclass(slots=True, eq=False)
class _Call:
    """A join or leave that the application waits for."""

    ref: str
    timeout: float
    timer: Timer | None

    def stop(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


@dataclass(frozen=True, slots=True, eq=False)
class _LeaveSent:
    """A phx_leave that was sent: any reply ends the leave."""

    channel: "Channel"

    def replied(self, reply: Reply, now: float) -> None:
        self.channel.left(LeaveEnd.REPLY, now)

    def unreadable(self, problem: str, now: float) -> None:
        self.channel.left(LeaveEnd.REPLY, now)


class Channel:
    """One topic on one client.

    Attributes:
        topic: The topic.
        state: Where it stands.
        socket: The socket that it is joined on, or will be joined on.
        join_ref: The ref of the latest join sent on this connection; `None` if none was.
        inbox: Its messages that wait for their handlers.
        response: What the server answered to the latest join, any JSON value or bytes; `None` before.
        context: The adapter's own data about the channel.
    """

    __slots__ = (
        "_began",
        "_client",
        "_end_error",
        "_join",
        "_last_error",
        "_leave",
        "_params",
        "_pushes",
        "_request",
        "_sent_params",
        "_sockets",
        "_timer",
        "_too_big",
        "_tries",
        "context",
        "inbox",
        "join_ref",
        "response",
        "socket",
        "state",
        "topic",
    )

    def __init__(self, topic: str, params: Any, *, client: ClientState, sockets: Sockets, inbox: Inbox) -> None:
        self.topic = topic
        self.socket: Socket = sockets.first
        self.state = ChannelState.IDLE
        self.join_ref: str | None = None
        self.inbox = inbox
        inbox.channel = self
        self.response: Any = None
        self.context: Any = None
        self._params = params
        self._client = client
        self._sockets = sockets
        self._pushes: Pushes | None = None  # made on first use: most channels only listen
        self._join: _Call | None = None
        self._leave: _Call | None = None
        self._request: int | None = None  # the question for params that is open
        self._timer: Timer | None = None  # of the attempt under way, or of the next one
        self._began = 0.0  # the attempt, on the reading clock; or the joined state
        self._tries = 0  # attempts that failed in a row
        self._last_error: PhxError | None = None  # what ended the latest attempt, since it was last joined
        self._end_error: PhxError | None = None  # what ended the channel
        self._sent_params: Any = None  # of its latest join
        self._too_big = 0  # closes with 1009 in a row in which its join was under way

    def __repr__(self) -> str:
        return f"Channel({self.topic!r}, {self.state.value})"

    # ---- what the application asks for ------------------------------------------------------------------------------

    def join(self, now: float, *, timeout: float | None = None) -> str:
        """Join the topic, now or as soon as the connection is open. It is rejoined whenever that is needed.

        Args:
            now: Monotonic seconds.
            timeout: Seconds from this call until the join is given up; `None` for the policy's, `math.inf` for none.

        Returns:
            The call's ref; it ends in `ChannelJoined` or `JoinFailed`.

        Raises:
            InvalidState: It was joined before.
            ChannelClosed: It is closed; make a new one.
            InvalidPayload: The params cannot be encoded.
            InvalidTimeout: The timeout is no number.
        """
        patience = checked_timeout("join", timeout, self._client.options.join.timeout)
        if self.state in LEAVE_BEGUN:
            raise self._closed_by(self.topic, "a channel lives once; make a new one to join again")
        if not self._may(ChannelInput.JOIN):
            advice = "it is called once, and the channel is rejoined by itself whenever it has to be"
            raise InvalidState("join", self.state.value, advice, self.topic)
        if not callable(self._params):
            self._encode_join("0", self._params)
        ref = self._client.new_ref()
        self._join = self._call(ref, patience, self._join_timed_out, now)
        self._advance(ChannelInput.JOIN)
        self._sockets.place(self, now)
        if self.topic.endswith(WILDCARD):
            self._client.notices.append(PatternJoined(self.topic))
        self._ask_for_turn(now)
        return ref

    def leave(self, now: float, *, timeout: float | None = None) -> str:
        """Leave the topic. No message is delivered any more; those in the inbox stay there.

        Args:
            now: Monotonic seconds.
            timeout: Seconds to wait for the server's answer; `None` for the options', `math.inf` for no bound.

        Returns:
            The call's ref; it ends in `LeaveEnded`. A second call gets the first's.

        Raises:
            InvalidTimeout: The timeout is no number.
        """
        patience = self.patience("leave", timeout)
        if self._leave is not None:
            return self._leave.ref
        if self._join is not None:
            self._fail_join(JoinCancelled(self.topic))
        if self.join_ref is None or not self._may(ChannelInput.LEAVE):
            return self._leave_locally(now)
        connection = self._connected
        self._forget_attempt(now)
        connection.requests.forget(self.join_ref)
        self._withdraw()
        self._advance(ChannelInput.LEAVE)
        connection.leaving[self.join_ref] = self
        ref = connection.send_leave(self.topic, self.join_ref)
        connection.requests.expect(ref, _LeaveSent(self))
        connection.flow.resume(now)
        self._leave = self._call(ref, patience, self._leave_timed_out, now)
        if self._pushes is not None:
            self._pushes.close_unsent(ChannelClosedByClient, _LEFT)
        return ref

    def push(self, event: str, payload: Any, now: float, *, timeout: float | None = None, raw: bool = False) -> str:
        """Send an event and expect a reply. It is sent at once if the channel is joined, else after its join.

        Args:
            event: The event's name.
            payload: Any JSON value, or bytes. Leave it as it is until it is sent.
            now: Monotonic seconds.
            timeout: Seconds from this call; `None` for the options', `math.inf` for no bound.
            raw: Whether the response of an ok reply is left undecoded: a message whose payload it is, for the
                `PayloadDecoder` of a type.

        Returns:
            The push's ref; it ends in `ReplyReceived` or `PushFailed`.

        Raises:
            NotJoined: The channel was never asked to join.
            ChannelClosed: It is closed, or being left.
            InvalidPayload: The payload cannot be sent as JSON.
            FieldTooLong: A field of a binary message is over 255 bytes.
            BinaryNotSupported: Bytes, on a serializer that has no binary form.
            BufferFull: Too many pushes wait for their joins.
            InvalidTimeout: The timeout is no number.
        """
        push = Push(self._client.new_ref(), event, payload, self.patience("push", timeout), wants_reply=True, raw=raw)
        self._push(push, now)
        if self.connection is not None:  # the caller may be a handler, which waits for the reply before it ends
            self.connection.flow.resume(now)
        return push.ref

    def patience(self, call: str, timeout: float | None) -> float:
        """Seconds that a push or leave may take: those given, or the client's.

        Raises:
            InvalidTimeout: The timeout is no number.
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
        if self._join is not None and self._join.ref == ref:
            self._end("its join was cancelled", now, error=JoinCancelled(self.topic))
        elif self._leave is not None and self._leave.ref == ref:
            self.left(LeaveEnd.CANCELLED, now)
        elif self._pushes is not None:
            self._pushes.cancel(ref)

    def cancel_join(self, ref: str, now: float) -> None:
        """Cancel a join whose caller no longer waits: if it was accepted already, the topic is left."""
        self.cancel(ref, now)
        if self._may(ChannelInput.END):
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
        """Give this channel a handler of its own, after the router's. The arguments are those of `Router.add`.

        Raises:
            InvalidHandler: It could never be called rightly.
        """
        handler = self.inbox.make(function, event, payload=payload, concurrency=concurrency, executor=executor)
        self.inbox.add(handler)
        return handler

    def off(self, what: Handler | Callable[..., Any] | str) -> tuple[Handler, ...]:
        """Remove handlers of this channel's own, as `Router.off` does.

        Raises:
            NotRegistered: There is none (any more).
        """
        return self.inbox.off(what)

    def attach(self, tap: Tap) -> None:
        """Add a tap, which gets the channel's messages and lifecycle events from here on."""
        self.inbox.attach(tap)

    def detach(self, tap: Tap) -> None:
        """Remove a tap; one that is not there is ignored."""
        self.inbox.detach(tap)

    def track_presence(self, *, state: str | None = None, diff: str | None = None) -> Presence:
        """Track the topic's presence, best before the join. Returns the same object every time.

        Changes come as `PresenceChanged`; and as messages `presence_join` and `presence_leave`, whose payloads are the
        entries by key, to the handlers and taps that name these events. Such a handler or tap begins to track, too.

        Args:
            state: The event that brings the whole state; `None` for `"presence_state"`, or what was given before.
            diff: The event that brings a change; `None` for `"presence_diff"`, or what was given before.

        Raises:
            InvalidEvent: No message can be of such an event.
        """
        return self.inbox.track_presence(state=state, diff=diff)

    @property
    def last_seen(self) -> Any:
        """The id of the message that was handled last, or that it began with; `None` for none, or without `resume`.

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
        """What the server said, as text that is safe to show: bounded, escaped, with secrets masked."""
        return self.socket.secrets.also(secrets_in(self._sent_params)).shown(value)

    # ---- what the connection brings ---------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection | None:
        """The open connection of its socket."""
        return self.socket.connection

    @property
    def link(self) -> Link | None:
        """Where what it sends goes now; `None` where there is no connection."""
        connection = self.socket.connection
        return None if connection is None else connection.requests.link

    def start_join(self, now: float) -> None:
        """It is this channel's turn to join (from `JoinQueue`)."""
        self._began = self._connected.flow.clock(now)
        self._timer = self._client.timers.at(now + self._client.options.join.timeout, self._attempt_expired)
        position = self.inbox.position
        if callable(self._params) or (position is not None and callable(position.resume.by)):
            provider: Provider = self._params if position is None else self._read_params
            self._request = self._client.resolve(provider, self)
        else:
            self._send_join(self._params, now)

    def move(self, now: float) -> None:
        """Its socket takes no more topics: join on another."""
        self._forget_attempt(now)
        self.join_ref = None
        self._advance(ChannelInput.MOVE)
        self.socket.remove(self, now)
        self._sockets.place(self, now)
        self._ask_for_turn(now)

    def resolved(self, request: int, value: Any, now: float) -> None:
        """The callable for the params returned them."""
        self._request = None
        self._send_join(value, now)

    def resolve_failed(self, request: int, error: BaseException, now: float) -> None:
        """The callable for the params raised."""
        self._request = None
        what = "params" if self.inbox.position is None else "params or the position"
        problem = f"the callable for the {what} of topic {self.topic!r} raised {type(error).__name__}"
        self._fail(ResolveFailed(problem, raised=error), now)

    def replied(self, reply: Reply, now: float) -> None:
        """The reply to its join came."""
        connection = self._connected
        assert self.join_ref is not None
        connection.note_join_answer(now)
        self._too_big = 0
        if not reply.ok and self._sockets.learn(connection, self.join_ref, reply):
            for channel in (self, *connection.joins.dismiss()):
                channel.move(now)
            return
        self._forget_attempt(now)
        for older in [channel for channel in connection.leaving.values() if channel.topic == self.topic]:
            older.superseded(now)
        if reply.ok:
            self._accepted(reply.response, now)
        else:
            self._refused(JoinRefused(self.topic, reply.response, reply.status, self.shown(reply.response)), now)

    def unreadable(self, problem: str, now: float) -> None:
        """The reply to its join came, and cannot be read."""
        assert self.join_ref is not None
        connection = self._connected
        connection.note_join_answer(now)
        connection.send_leave(self.topic, self.join_ref)  # the answer may have been ok
        error = InvalidReply(self.topic, PHX_JOIN, problem)
        if self._join is not None:
            self._end("the reply to its join cannot be read", now, error=error)
        else:
            self._fail(error, now)

    def crashed(self, payload: Any, now: float) -> None:
        """A `phx_error` came for its current join, or for the join that it is leaving."""
        error = ChannelCrashed(self.topic, payload, self.shown(payload))
        if self._leave is not None:
            if self._pushes is not None:
                self._pushes.lose_sent(error)
            self.left(LeaveEnd.CRASH, now)
        elif self.state in JOIN_SENT:
            self._fail(error, now)

    def closed_by_server(self, now: float) -> None:
        """A `phx_close` came for its current join, or for the join that it is leaving."""
        if self._leave is not None:
            self.left(LeaveEnd.CLOSE, now)
        elif self.state in JOIN_SENT:
            error = ChannelClosedByServer(self.topic, "the server closed it")
            if self._client.options.join.server_close is ServerClose.REJOIN:
                self._fail(error, now)
            else:
                self._end(error.reason, now, error=error)

    def superseded(self, now: float) -> None:
        """A newer join of its topic was answered while its leave was not."""
        self.left(LeaveEnd.SUPERSEDED, now)

    def left(self, end: LeaveEnd, now: float, *, why: PhxError | None = None) -> None:
        """Its leave has ended."""
        assert self._leave is not None
        assert self.join_ref is not None
        call, self._leave = self._leave, None
        call.stop()
        if self.connection is not None:
            self.connection.requests.forget(call.ref)
            del self.connection.leaving[self.join_ref]
        self._client.events.append(LeaveEnded(self.topic, call.ref, end))
        if self._pushes is not None and end is LeaveEnd.DISCONNECTED:
            self._pushes.lose(why)
        self._end(_LEFT, now, error=None)

    def disconnected(self, error: ConnectionClosed, now: float) -> None:
        """The connection has ended; the topic is joined again on the next one."""
        if self._leave is not None:
            self.left(LeaveEnd.DISCONNECTED, now, why=error)
            return
        too_big = error.code == MESSAGE_TOO_BIG and self._awaits_answer
        self._too_big = self._too_big + 1 if too_big else 0
        if self._too_big == _MOST_TOO_BIG:
            self._end("its join was too big for the server", now, error=error)
            return
        joined = self._joined
        self._forget_attempt(now)
        self._tries = 0
        self.join_ref = None
        self._advance(ChannelInput.LOST)
        if self._pushes is not None:
            self._pushes.lose_sent(error)
        if joined:
            self._tell(ChannelErrored(self.topic, error, None))

    def client_closed(self, error: PhxError | None, now: float) -> None:
        """The client has ended; without an error, the application closed it."""
        if self._leave is not None:
            self.left(LeaveEnd.DISCONNECTED, now, why=error)
            return
        if self._pushes is not None:
            self._pushes.lose(error)
        self._end(str(error or "the application closed the client"), now, error=error)

    # ---- private: joining -------------------------------------------------------------------------------------------

    def _send_join(self, params: Any, now: float) -> None:
        connection = self._connected
        ref = self._client.new_ref()
        try:
            frame = self._encode_join(ref, params)
        except LocalError as error:  # of a callable's params, or of static ones that were changed since the call
            self._fail(ResolveFailed(str(error)), now)
            return
        self._began = connection.flow.clock(now)
        self._sent_params = params
        self.join_ref = ref
        connection.requests.expect(ref, self)
        self._advance(ChannelInput.SEND)
        connection.requests.send_frame(frame)
        connection.flow.resume(now)  # a handler may wait for it, as with `push`

    def _read_params(self) -> Any:
        """Called by the adapter, for it may call the application's functions: that of the position, too."""
        assert self.inbox.position is not None
        self.inbox.position.read()
        return self._params() if callable(self._params) else self._params

    def _encode_join(self, ref: str, params: Any) -> str | bytes:
        position = self.inbox.position
        if position is not None:
            params = position.join_params(self.topic, params)
        payload: Any = {} if params is None else params
        join = Message[Any](join_ref=ref, ref=ref, topic=self.topic, event=PHX_JOIN, payload=payload)
        return self._client.serializer.encode(join)

    def _accepted(self, response: Any, now: float) -> None:
        assert self.join_ref is not None
        connection = self._connected
        self._advance(ChannelInput.OK)
        self.response = response
        self._last_error = None
        self._began = connection.flow.clock(now)
        connection.live[self.topic] = self.inbox
        self.inbox.joined(self.join_ref)
        ref = None
        if self._join is not None:
            ref = self._join.ref
            self._join.stop()
            self._join = None
        self._tell(ChannelJoined(self.topic, ref, self.join_ref, response))
        if self._pushes is not None:
            self._pushes.flush(self.join_ref)

    def _refused(self, error: JoinRefused, now: float) -> None:
        rule = self._client.options.join.refusal
        if rule is Refusal.FINAL or (rule is Refusal.FIRST_IS_FINAL and self._join is not None):
            self._end("its join was refused", now, error=error)
        else:
            self._fail(error, now)

    def _attempt_expired(self, now: float) -> None:
        connection, timeout = self._connected, self._client.options.join.timeout
        rest = timeout - (connection.flow.clock(now) - max(self._began, connection.join_answered))
        if rest > TOLERANCE:
            self._timer = self._client.timers.at(connection.flow.after(rest, now), self._attempt_expired)
            return
        self._fail(JoinTimeout(self.topic, timeout), now)

    def _fail(self, error: PhxError, now: float) -> None:
        """An attempt to join failed; another follows."""
        connection, policy = self._connected, self._client.options.join
        if self._joined and connection.flow.clock(now) - self._began >= policy.stable_after:
            self._tries = 0
        self._abandon_unanswered()  # before the next one's turn: its phx_leave goes ahead of that one's phx_join
        self._forget_attempt(now)
        connection.live.pop(self.topic, None)
        self._advance(ChannelInput.FAIL)
        delay = policy.backoff.delay(self._tries, self._client.rng)
        self._tries += 1
        self._timer = self._client.timers.at(now + delay, self._retry)
        if self._pushes is not None:
            self._pushes.lose_sent(error)
        self._last_error = error
        self._tell(ChannelErrored(self.topic, error, delay))

    def _retry(self, now: float) -> None:
        self._advance(ChannelInput.RETRY)
        self._ask_for_turn(now)

    def _ask_for_turn(self, now: float) -> None:
        """Join when the queue lets it; without a connection, the next one asks all that are pending."""
        if self.connection is not None:
            self.connection.joins.ask(self, now)

    def _forget_attempt(self, now: float) -> None:
        """No attempt to join is under way or planned any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._request is not None:
            self._client.resolving.pop(self._request, None)
            self._request = None
        if self.connection is not None:
            self.connection.joins.done(self, now)

    def _abandon_unanswered(self) -> None:
        connection, ref = self.connection, self.join_ref
        if connection is not None and ref is not None and connection.requests.is_awaited(ref):
            connection.abandon(self.topic, ref)

    def _join_timed_out(self, now: float) -> None:
        assert self._join is not None
        problem, last = self._hindrance()
        self._end("its join timed out", now, error=JoinTimeout(self.topic, self._join.timeout, problem, last))

    def _hindrance(self) -> tuple[str, PhxError | None]:
        """Why it is not joined, in words, and the error of the latest attempt."""
        if self.connection is None:
            return "there is no connection", self.socket.last_error
        if self._awaits_answer:
            return "", self._last_error
        if self._request is not None:
            return "the callable for its params did not answer", self._last_error
        if self._last_error is None:
            return "other joins were before it, and the server did not answer them", None
        refused = isinstance(self._last_error, JoinRefused)
        return "every attempt was refused" if refused else "every attempt failed", self._last_error

    def _fail_join(self, error: PhxError) -> None:
        assert self._join is not None
        self._join.stop()
        self._client.events.append(JoinFailed(self.topic, self._join.ref, error))
        self._join = None

    # ---- private: leaving and ending --------------------------------------------------------------------------------

    def _leave_locally(self, now: float) -> str:
        ref = self._client.new_ref()
        self._client.events.append(LeaveEnded(self.topic, ref, LeaveEnd.LOCAL))
        self._end(_LEFT, now, error=None)
        return ref

    def _leave_timed_out(self, now: float) -> None:
        self.left(LeaveEnd.TIMEOUT, now)

    def _end(self, reason: str, now: float, *, error: PhxError | None) -> None:
        """Close the channel for good and end all calls on it. Without an error, the application closed it."""
        if not self._may(ChannelInput.END):
            return
        self._abandon_unanswered()
        self._forget_attempt(now)
        self._withdraw()
        self._advance(ChannelInput.END)
        self.socket.remove(self, now)
        if self._join is not None:
            self._fail_join(error or ConnectionClosedByClient(None, reason))
        self._end_error = error
        if self._pushes is not None:
            self._pushes.close(self._closed_by, reason)
        self._tell(ChannelEnded(self.topic, error))

    def _withdraw(self) -> None:
        """The topic is free for another channel."""
        if self._client.channels.get(self.topic) is self:
            del self._client.channels[self.topic]
            if self.connection is not None:
                self.connection.live.pop(self.topic, None)

    # ---- private: small things --------------------------------------------------------------------------------------

    @property
    def _connected(self) -> Connection:
        """The open connection of its socket; there must be one."""
        assert self.socket.connection is not None
        return self.socket.connection

    @property
    def _joined(self) -> bool:
        return self.state is ChannelState.JOINED

    @property
    def _awaits_answer(self) -> bool:
        """Whether its join was sent and is not answered."""
        return self._may(ChannelInput.OK)

    def _push(self, push: Push, now: float) -> None:
        rule = PUSHES[self.state]
        if rule is PushRule.UNJOINED:
            raise NotJoined(self.topic)
        if rule is PushRule.ENDED:
            raise self._closed_by(self.topic, "nothing can be pushed any more; make a new channel and join it")
        if self._pushes is None:
            self._pushes = Pushes(self, self._client)
        self._pushes.call(push, self.join_ref if rule is PushRule.SENT else None, now)

    def _call(self, ref: str, timeout: float, action: Action, now: float) -> _Call:
        return _Call(ref, timeout, None if timeout == inf else self._client.timers.at(now + timeout, action))

    @property
    def _closed_by(self) -> type[ChannelClosed]:
        """The kind of error for a call on this closed channel: closed by the client or by the server."""
        return ChannelClosedByServer if isinstance(self._end_error, RemoteError) else ChannelClosedByClient

    def _tell(self, event: ChannelEvent) -> None:
        self._client.events.append(event)
        self._client.tapped += [(tap, event) for tap in self.inbox.taps]

    def _may(self, by: ChannelInput) -> bool:
        return (self.state, by) in CHANNEL

    def _advance(self, by: ChannelInput) -> None:
        self.state = CHANNEL[self.state, by]
