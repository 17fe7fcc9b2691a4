"""The pushes of one channel: those that wait for its join, and those that wait for their replies.

Each push ends in exactly one event: `ReplyReceived` or `PushFailed`. A cast expects no reply, and has an event only if
it could not be sent.
"""

from math import inf
from typing import Any

from msgspec import Struct

from .client_state import ClientState
from .connection import Member
from .errors import BufferFull, ChannelClosed, InvalidReply, LocalError, PhxError, PushCancelled, PushLost, PushTimeout
from .events import PushFailed, ReplyReceived
from .message import Message, Reply
from .timers import Timer


class Push(Struct, eq=False):
    """One push under way.

    Attributes:
        ref: Its own, unique on this client.
        timeout: Seconds from the call; `math.inf` for a cast.
        wants_reply: `False` for a cast.
        raw: Whether the response of an ok reply stays undecoded.
        sent: Whether it is on the wire.
    """

    ref: str
    event: str
    payload: Any
    timeout: float
    wants_reply: bool
    raw: bool = False
    sent: bool = False
    timer: Timer | None = None
    pushes: "Pushes | None" = None

    def replied(self, reply: Reply, now: float) -> None:
        """Its reply came; its connection no longer awaits it."""
        assert self.pushes is not None
        self.pushes.replied(self, reply)

    def unreadable(self, problem: str, now: float) -> None:
        """Its reply came and cannot be read."""
        assert self.pushes is not None
        self.pushes.unreadable(self, problem)


class Pushes:
    """A channel's pushes, in the order of their calls."""

    __slots__ = ("_by_ref", "_channel", "_client")

    def __init__(self, channel: Member, client: ClientState) -> None:
        self._channel = channel
        self._client = client
        self._by_ref: dict[str, Push] = {}

    def call(self, push: Push, join_ref: str | None, now: float) -> None:
        """Take a push: send it at once if `join_ref` is that of an accepted join, else keep it.

        Raises:
            InvalidPayload: It cannot be encoded.
            FieldTooLong: A field of a binary message is too long.
            BinaryNotSupported: The serializer has no binary form.
            BufferFull: Too many wait already.
        """
        frame = self._encode(push, join_ref)  # raises before anything is changed
        if join_ref is not None:
            self._send(push, frame)
        else:
            limit = self._client.options.push_buffer
            if self._client.unsent >= limit:
                raise BufferFull(self._channel.topic, limit)
            self._client.unsent += 1
            self._by_ref[push.ref] = push
        if push.timeout != inf:
            push.timer = self._client.timers.at(now + push.timeout, lambda at: self._timed_out(push))

    def flush(self, join_ref: str) -> None:
        """The channel is joined: send the waiting pushes, in order."""
        for push in self._unsent():
            self._forget(push)
            try:
                frame = self._encode(push, join_ref)
            except LocalError as error:  # the payload was changed while it waited
                self._fail(push, error)
                continue
            self._send(push, frame)

    def replied(self, push: Push, reply: Reply) -> None:
        """The reply to a sent push came; its connection no longer awaits it."""
        del self._by_ref[push.ref]
        self._stop_timer(push)
        self._client.events.append(ReplyReceived(self._channel.topic, push.event, push.ref, reply))

    def unreadable(self, push: Push, problem: str) -> None:
        """The reply to a sent push came and cannot be read."""
        self._drop(push, InvalidReply(self._channel.topic, push.event, problem))

    def cancel(self, ref: str) -> None:
        """Cancel a push; a ref of a push that has ended is ignored."""
        push = self._by_ref.get(ref)
        if push is not None:
            self._drop(push, PushCancelled(self._channel.topic, push.event, push.sent))

    def lose_sent(self, why: PhxError) -> None:
        """The connection or the channel's process has ended: sent pushes are lost, unsent ones keep waiting."""
        for push in self._sent():
            self._drop(push, PushLost(self._channel.topic, push.event, push.sent, why))

    def lose(self, why: PhxError | None) -> None:
        """The client has ended: all pushes are lost."""
        for push in self._all():
            self._drop(push, PushLost(self._channel.topic, push.event, push.sent, why))

    def close_unsent(self, kind: type[ChannelClosed], reason: str) -> None:
        """Fail the unsent pushes: the channel is being left."""
        for push in self._unsent():
            self._drop(push, kind(self._channel.topic, reason))

    def close(self, kind: type[ChannelClosed], reason: str) -> None:
        """Fail all pushes: the channel has ended."""
        for push in self._all():
            self._drop(push, kind(self._channel.topic, reason))

    def _all(self) -> list[Push]:
        return list(self._by_ref.values())

    def _sent(self) -> list[Push]:
        return [push for push in self._by_ref.values() if push.sent]

    def _unsent(self) -> list[Push]:
        return [push for push in self._by_ref.values() if not push.sent]

    def _encode(self, push: Push, join_ref: str | None) -> str | bytes:
        # Without a join, the push's own ref replaces the join_ref: only whether it can be encoded matters then.
        return self._client.serializer.encode(
            Message(
                join_ref=push.ref if join_ref is None else join_ref,
                ref=push.ref,
                topic=self._channel.topic,
                event=push.event,
                payload=push.payload,
            )
        )

    def _send(self, push: Push, frame: str | bytes) -> None:
        connection = self._channel.connection
        assert connection is not None, "its channel is joined"
        connection.requests.send_frame(frame)
        push.sent = True
        push.payload = None
        if push.wants_reply:
            self._by_ref[push.ref] = push
            push.pushes = self
            connection.requests.expect(push.ref, push)

    def _timed_out(self, push: Push) -> None:
        self._drop(push, PushTimeout(self._channel.topic, push.event, push.timeout, push.sent))

    def _drop(self, push: Push, error: PhxError) -> None:
        self._forget(push)
        self._fail(push, error)

    def _fail(self, push: Push, error: PhxError) -> None:
        self._stop_timer(push)
        self._client.events.append(PushFailed(self._channel.topic, push.event, push.ref, error))

    def _forget(self, push: Push) -> None:
        del self._by_ref[push.ref]
        if not push.sent:
            self._client.unsent -= 1
        elif self._channel.connection is not None:
            self._channel.connection.requests.forget(push.ref)

    def _stop_timer(self, push: Push) -> None:
        if push.timer is not None:
            push.timer.cancel()
