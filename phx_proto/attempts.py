"""One channel's attempts to join, and the application's call that waits for the first success.

Every attempt has a join_ref of its own. When one that was sent is given up (timed out, cancelled), a phx_leave follows,
because the server may have accepted it in the meantime; if its ok comes late, another phx_leave is sent. The retries
are those of phoenix.js (`channel.js`).
"""

from dataclasses import dataclass
from typing import Any, Protocol

from msgspec import Struct

from .client_state import ClientState
from .commands import Provider
from .connection import Connection
from .errors import (
    ConnectionClosed,
    InvalidReply,
    JoinRefused,
    JoinTimeout,
    LocalError,
    PayloadMismatch,
    PhxError,
    ResolveFailed,
)
from .events import JoinFailed, LeaveEnd
from .flow import TOLERANCE
from .handlers.payloads import PayloadDecoder, payload_decoder
from .message import PHX_JOIN, Message, Reply
from .options import Refusal
from .sockets import Placed, Sockets
from .states import ChannelInput, ChannelState
from .timers import NO_TIMER, Timer
from .wording import MESSAGE_TOO_BIG

#: Closes with 1009 in a row during a join after which the join counts as their cause.
_MOST_TOO_BIG = 3


class Joinable(Placed, Protocol):
    """The channel, as used by its attempts to join: see `Channel`."""

    params: Any
    sent_params: Any
    decoder: PayloadDecoder | None

    def may(self, by: ChannelInput) -> bool: ...
    def advance(self, by: ChannelInput) -> None: ...
    def joined(self, ref: str | None, response: Any) -> None: ...
    def errored(self, error: PhxError, delay: float) -> None: ...
    def end(self, reason: str, now: float, *, error: PhxError | None) -> None: ...
    def shown(self, value: Any) -> str: ...


class _Call(Struct, eq=False):
    """A join that the application waits for."""

    ref: str
    timeout: float
    timer: Timer


@dataclass(slots=True, eq=False)
class Attempts:
    """The attempts to join of one channel, up to the one that the server accepts.

    A channel that joined at the first attempt no longer needs this object: a rejoin makes a new one.
    """

    channel: Joinable
    client: ClientState
    sockets: Sockets
    _call: _Call | None = None
    _request: int | None = None  # the open request for the value of params
    _timer: Timer = NO_TIMER  # of the current attempt, or of the next one
    _began: float = 0.0  # when the attempt, or the joined state, began, on the reading clock
    _tries: int = 0  # attempts that failed in a row
    _last_error: PhxError | None = None  # the latest attempt's error, since it was last joined
    _too_big: int = 0  # closes with 1009 in a row during its join

    # ---- the application's call -------------------------------------------------------------------------------------

    def call(self, patience: float, response: Any, now: float) -> str:
        """Let the application wait for the join; returns the call's ref. Raises as `Channel.join`."""
        self.channel.decoder = None if response is None else payload_decoder(response)
        if not callable(self.channel.params):
            self._encode("0", self.channel.params)
        timer = self.client.timers.at(now + patience, self._timed_out)
        self._call = _Call(self.client.new_ref(), patience, timer)
        return self._call.ref

    def is_call(self, ref: str) -> bool:
        """Whether this is the ref of the waiting call."""
        return self._call is not None and self._call.ref == ref

    def fail_call(self, error: PhxError) -> None:
        """The call has failed, if there is one."""
        if self._call is not None:
            self._call.timer.cancel()
            self.client.events.append(JoinFailed(self.channel.topic, self._call.ref, error))
            self._call = None

    def _timed_out(self, now: float) -> None:
        assert self._call is not None
        error = JoinTimeout(self.channel.topic, self._call.timeout, *self._hindrance())
        self.channel.end("its join timed out", now, error=error)

    def _hindrance(self) -> tuple[str, PhxError | None]:
        """Why it is not joined, as text, and the error of the latest attempt."""
        if self.channel.connection is None:
            return "there is no connection", self.channel.socket.last_error
        if self._unanswered:
            return "", self._last_error
        if self._request is not None:
            return "the callable for its params did not answer", self._last_error
        if self._last_error is None:
            return "other joins were before it, and the server did not answer them", None
        refused = isinstance(self._last_error, JoinRefused)
        return "every attempt was refused" if refused else "every attempt failed", self._last_error

    # ---- an attempt -------------------------------------------------------------------------------------------------

    def ask(self, now: float) -> None:
        """Join when the queue allows it; without a connection, the next one asks all that are pending."""
        if self.channel.connection is not None:
            self.channel.connection.joins.ask(self.channel, now)

    def start(self, now: float) -> None:
        """The queue has reached this channel."""
        self._began = self._connection.flow.clock(now)
        self._timer = self.client.timers.at(now + self.client.options.join.timeout, self._expired)
        params, position = self.channel.params, self.channel.inbox.position
        if callable(params) or (position is not None and callable(position.resume.by)):
            provider: Provider = params if position is None else self._read_params
            self._request = self.client.resolve(provider, self)
        else:
            self._send(params, now)

    def resolved(self, request: int, value: Any, now: float) -> None:
        self._request = None
        self._send(value, now)

    def resolve_failed(self, request: int, error: BaseException, now: float) -> None:
        self._request = None
        what = "params" if self.channel.inbox.position is None else "params or the position"
        problem = f"the callable for the {what} of topic {self.channel.topic!r} raised {type(error).__name__}"
        self.fail(ResolveFailed(problem, raised=error), now)

    @property
    def failed(self) -> bool:
        """Whether the attempt before also failed: then the delay goes on growing unless the join is stable."""
        return self._tries > 0

    @property
    def raw(self) -> bool:
        """Whether the answer stays undecoded, for the decoder of its type."""
        return self.channel.decoder is not None

    def replied(self, reply: Reply, now: float) -> None:
        channel, connection = self.channel, self._connection
        response = reply.response
        if reply.ok and channel.decoder is not None:
            try:
                response = channel.decoder.accept(response).payload
            except PayloadMismatch as misfit:
                self.unreadable(f"its response is not a {misfit.expected}: {misfit.problem}", now)
                return
        assert channel.join_ref is not None
        connection.note_join_answer(now)
        self._too_big = 0
        if not reply.ok and self.sockets.learn(connection, channel.join_ref, reply):
            for each in (channel, *connection.joins.dismiss()):
                each.move(now)
            return
        self.forget(now)
        for older in connection.leaving_topic(channel.topic):
            older.left(LeaveEnd.SUPERSEDED, now)
        if reply.ok:
            self._last_error = None
            self._began = connection.flow.clock(now)
            call, self._call = self._call, None
            if call is not None:
                call.timer.cancel()
            channel.joined(None if call is None else call.ref, response)
            return
        error = JoinRefused(channel.topic, response, reply.status, channel.shown(response))
        rule = self.client.options.join.refusal
        if rule is Refusal.FINAL or (rule is Refusal.FIRST_IS_FINAL and self._call is not None):
            channel.end("its join was refused", now, error=error)
        else:
            self.fail(error, now)

    def unreadable(self, problem: str, now: float) -> None:
        channel, connection = self.channel, self._connection
        assert channel.join_ref is not None
        connection.note_join_answer(now)
        leave_ref = connection.send_leave(channel.topic, channel.join_ref)  # the answer may have been ok
        connection.given_up.append(int(leave_ref))
        error = InvalidReply(channel.topic, PHX_JOIN, problem)
        if self._call is not None:
            channel.end("the reply to its join cannot be read", now, error=error)
        else:
            self.fail(error, now)

    def fail(self, error: PhxError, now: float) -> None:
        """The attempt, or the joined state, has ended; another attempt follows."""
        policy = self.client.options.join
        joined = self.channel.state is ChannelState.JOINED
        if joined and self._connection.flow.clock(now) - self._began >= policy.stable_after:
            self._tries = 0
        self.abandon()  # before the next channel's turn: this phx_leave goes out before its phx_join
        self.forget(now)
        self._connection.live.pop(self.channel.topic, None)
        self.channel.advance(ChannelInput.FAIL)
        delay = policy.backoff.delay(self._tries, self.client.rng)
        self._tries += 1
        self._timer = self.client.timers.at(now + delay, self._retry)
        self._last_error = error
        self.channel.errored(error, delay)

    def disconnected(self, error: ConnectionClosed, now: float) -> bool:
        """The connection has ended. Returns whether to try again on the next one: not if the join is too big."""
        too_big = error.code == MESSAGE_TOO_BIG and self._unanswered
        self._too_big = self._too_big + 1 if too_big else 0
        if self._too_big == _MOST_TOO_BIG:
            return False
        self.forget(now)
        self._tries = 0
        return True

    def forget(self, now: float) -> None:
        """No attempt is under way or planned any more."""
        self._timer.cancel()
        self._timer = NO_TIMER
        if self._request is not None:
            self.client.resolving.pop(self._request, None)
            self._request = None
        if self.channel.connection is not None:
            self.channel.connection.joins.done(self.channel, now)

    def abandon(self) -> None:
        """Leave the topic after a join that was sent and is not answered."""
        connection, ref = self.channel.connection, self.channel.join_ref
        if connection is not None and ref is not None and connection.requests.is_awaited(ref):
            connection.abandon(self.channel.topic, ref)

    def end(self, error: PhxError, now: float) -> None:
        """The channel has ended: a current attempt is given up, and the waiting call fails."""
        self.abandon()
        self.forget(now)
        self.fail_call(error)

    # ---- private ----------------------------------------------------------------------------------------------------

    @property
    def _connection(self) -> Connection:
        """The open connection of its socket; it must have one."""
        assert self.channel.connection is not None
        return self.channel.connection

    @property
    def _unanswered(self) -> bool:
        """Whether its join was sent and is not answered."""
        return self.channel.may(ChannelInput.OK)

    def _send(self, params: Any, now: float) -> None:
        connection = self._connection
        ref = self.client.new_ref()
        try:
            frame = self._encode(ref, params)
        except LocalError as error:  # from a callable's params, or from static ones that were changed since the call
            self.fail(ResolveFailed(str(error)), now)
            return
        self._began = connection.flow.clock(now)
        self.channel.sent_params = params
        self.channel.join_ref = ref
        connection.requests.expect(ref, self)
        self.channel.advance(ChannelInput.SEND)
        connection.requests.send_frame(frame)
        connection.flow.resume(now)  # as with a push, a handler may wait for it

    def _read_params(self) -> Any:
        """Called by the adapter, because it may call application functions, also the position's."""
        assert self.channel.inbox.position is not None
        self.channel.inbox.position.read()
        params = self.channel.params
        return params() if callable(params) else params

    def _encode(self, ref: str, params: Any) -> str | bytes:
        topic, position = self.channel.topic, self.channel.inbox.position
        if position is not None:
            params = position.join_params(topic, params)
        payload: Any = {} if params is None else params
        join: Message[Any] = Message(join_ref=ref, ref=ref, topic=topic, event=PHX_JOIN, payload=payload)
        return self.client.serializer.encode(join)

    def _expired(self, now: float) -> None:
        connection, timeout = self._connection, self.client.options.join.timeout
        rest = timeout - (connection.flow.clock(now) - max(self._began, connection.join_answered))
        if rest > TOLERANCE:
            self._timer = self.client.timers.at(connection.flow.after(rest, now), self._expired)
        else:
            self.fail(JoinTimeout(self.channel.topic, timeout), now)

    def _retry(self, now: float) -> None:
        self.channel.advance(ChannelInput.RETRY)
        self.ask(now)
