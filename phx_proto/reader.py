"""Decodes received frames to messages, and passes the messages to handlers and streams.

The unit of work is a read. Its messages go straight into the inboxes of their channels, without an event or object
for each; the loop of `receive_all` is the one place of the core that is optimized for speed first. It leaves everything
to the slower code below it except messages of a joined channel that wait in one place: in its topic's line, or in the
own queue of the only handler.

If the last messages of two reads were for the same single handler, and it declares a plain struct, payloads of the next
read are decoded along with their frames, in little more than half the time. The first message that is not for that
handler ends this, until two reads are like that again: see `Reader._expect`.

The rules: a reply is matched by its ref alone, and the first one counts. A message with a null join_ref belongs to the
topic's channel. If the topic has no channel, handlers with `unjoined` get it; without such handlers it is stale. A
message with a join_ref that is not the channel's current one is stale, whatever its event. Stale messages are dropped
and counted.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from .client_state import ClientState
from .connection import Connection, Member
from .errors import InvalidFrame
from .events import BadFrame, InboxOverflow, PresenceChanged, UnclaimedMessages
from .formats import V2, decode_reply
from .formats.soundness import UNREADABLE
from .handlers.handler import Handler
from .handlers.payloads import UNFIT
from .inbox import SLOW, Inbox, Route
from .message import PHOENIX_TOPIC, PHX_CLOSE, PHX_ERROR, PHX_JOIN, PHX_LEAVE, PHX_REPLY, Message
from .presence import PRESENCE_JOIN, PRESENCE_LEAVE, PresenceChange
from .queues import Claim, DeliveryQueue, Drop, HandlerQueue, Place
from .resume import Position
from .shown import Secrets, shown

#: Messages on topics without a channel that are reported to the application: one or two may follow any leave.
_MANY: Final = 3

#: Bad frames of one read that get an event each.
_MOST_TOLD: Final = 100

_NO_INBOXES: Final[dict[str, Inbox]] = {}

#: Characters up to which a text frame is short: it cannot be nested too deeply, and counts as that many bytes. A longer
#: one that is not ASCII counts as the memory it takes: with one emoji, Python uses four bytes a character for all.
_SHORT: Final = 256

#: What decoding may raise in the loop of `Reader.receive_all`; such a frame is decoded again, by `Reader._decode`.
_UNDECODED: Final = (InvalidFrame, *UNFIT)


class Reader:
    """Processes what one client receives, over all its connections.

    While the client is closing, messages are dropped; replies are still processed.

    Args:
        client: The client's state.
        unjoined: The inbox for messages on topics without a channel.
    """

    __slots__ = (
        "_bad_frames",
        "_client",
        "_decode_short",
        "_expected",
        "_last_bad",
        "_overflow",
        "_plain",
        "_unclaimed",
        "_unjoined",
    )

    def __init__(self, client: ClientState, *, unjoined: Inbox) -> None:
        serializer = client.serializer
        self._client = client
        # A subclass of V2 may override `decode`.
        self._plain = serializer.decode_short if type(serializer) is V2 else serializer.decode
        self._decode_short = self._plain  # for the next read's short frames
        self._expected: tuple[Handler, ...] | None = None  # the handlers of the last message of the read before
        self._overflow: Counter[str | None] = Counter()  # dropped in this read, by topic; None for the whole client
        self._bad_frames = 0  # of this read
        self._last_bad: tuple[str | bytes, InvalidFrame] | None = None  # the latest without an event of its own
        self._unjoined = unjoined
        self._unclaimed = 0  # messages of topics without a channel that no handler took

    def receive_all(self, connection: Connection, frames: Sequence[str | bytes], now: float) -> None:
        """Process the frames of one read. Raises nothing, whatever they contain."""
        client = self._client
        connection.heartbeat.heard()
        draining = connection.draining
        live = _NO_INBOXES if draining or connection.flow.full else connection.live
        decode, decode_short, plain = client.serializer.decode, self._decode_short, self._plain
        expected = self._expected
        topic = event = routes = None  # of the message before, like the next five
        handlers, own = SLOW
        inbox = self._unjoined
        queue: DeliveryQueue = inbox
        ready: list[Any] = client.runnable  # gets the queue
        undelivered = unhandled = size = 0
        for frame in frames:
            length = len(frame)
            try:
                if length <= _SHORT and type(frame) is str:
                    message = decode_short(frame)
                else:
                    if not frame.isascii():
                        length = frame.__sizeof__()
                    message = decode(frame)
            except _UNDECODED:
                decode_short = plain
                again = self._decode(connection, frame, now)
                if again is None:
                    topic = routes = None  # it may have ended the channel
                    undelivered += 1
                    continue
                message = again
            # A read often has several messages of one topic in a row, and topics often share their routes.
            if message.topic != topic:
                topic = message.topic
                found = live.get(topic)
                if found is None:
                    routes, event, handlers = None, message.event, None
                else:
                    inbox = queue = found
                    if inbox.fast_routes is not routes:
                        routes, event = inbox.fast_routes, None
                    elif own is not None:
                        queue = inbox.queue(*own)
            if message.event != event:
                event = message.event
                handlers, own = SLOW if routes is None else routes.get(event, inbox.default)
                queue = inbox if own is None else inbox.queue(*own)
                ready = client.executable if own is not None and own[1] is Place.EXECUTOR else client.runnable
                if decode_short is not plain and handlers is not expected:
                    decode_short = plain
                    message = decode(frame)
            if handlers is not None:
                join_ref = message.join_ref
                if join_ref is None or join_ref == inbox.channel.join_ref:
                    if not handlers:
                        unhandled += 1
                        continue
                    deliveries = queue.deliveries  # from here on `DeliveryQueue.put`, inlined
                    if type(deliveries) is list:
                        deliveries.append((handlers, message, length))
                    elif deliveries:
                        queue.deliveries = [deliveries, (handlers, message, length)]  # type: ignore[list-item]
                    else:
                        queue.deliveries = (handlers, message, length)
                        if deliveries is None:
                            ready.append(queue)
                    size += length
                    continue
            topic = routes = None  # this message may have ended the channel, or changed its routes
            if decode_short is not plain:
                decode_short = plain
                message = decode(frame)
            try:
                deliveries_made = self._other(connection, message, length, now)
            except InvalidFrame as error:
                self._bad(connection, frame, error, now)
                deliveries_made = 0
            size += deliveries_made * length
            undelivered += 1 - deliveries_made
        delivered = len(frames) - undelivered - unhandled
        client.stats.received += len(frames)  # `_bad` subtracts bad ones
        client.stats.delivered += delivered
        client.stats.unhandled += unhandled
        if not draining:  # else reading goes on: no messages are kept, and replies are still needed
            connection.flow.received(delivered, size, frames, now)
        if handlers is not expected or decode_short is not self._decode_short:  # the second: it was given up meanwhile
            self._expected, self._decode_short = handlers, plain
        elif handlers and own is None and decode_short is plain:
            self._decode_short = self._expect(handlers)
        if self._overflow:
            self._report_overflow()
        if self._bad_frames:
            self._sum_up_bad_frames(connection)

    def _expect(self, handlers: tuple[Handler, ...]) -> Callable[[str], Message[Any]]:
        """The decoder of short frames for the next read, if all its messages are probably for these handlers.

        It decodes the payload as well if there is one handler, for it is decoded for each handler alone, and if that
        runs no code of the application: the core never does.
        """
        serializer, decoder = self._client.serializer, handlers[0].decoder
        if type(serializer) is V2 and len(handlers) == 1 and decoder is not None and decoder.struct is not None:
            return serializer.decode_short_into(decoder.struct)
        return self._plain

    def _decode(self, connection: Connection, frame: str | bytes, now: float) -> Message[Any] | None:
        """Decode a frame that the loop could not decode. `None`, and a `BadFrame` event, if it has no message."""
        try:
            return self._client.serializer.decode(frame)
        except InvalidFrame as error:
            self._bad(connection, frame, error, now)
            return None

    def _other(self, connection: Connection, message: Message[Any], size: int, now: float) -> int:
        """Process a message that the loop has no fast route for. Returns how many messages were delivered.

        A change of presence may add messages: see `_tell_change`.
        """
        event = message.event
        if event in self._reserved:
            self._reserved[event](self, connection, message, now)
            return False
        inbox = connection.live.get(message.topic)
        if message.join_ref is None and message.topic not in self._client.channels:
            route = self._unjoined.unjoined_route(message.topic, event)
            if not route.wanted:
                self._unclaimed_message(message)
                return False
            return self._admit(connection, self._unjoined, route, message, size, None)
        if inbox is None or (message.join_ref is not None and message.join_ref != inbox.channel.join_ref):
            self._client.stats.stale += 1
            return False
        delivered = 0
        presence = inbox.presence
        if presence is not None and event in (presence.state_event, presence.diff_event):
            change = presence.receive(event, _sound_payload(message))
            if change is not None:
                self._client.events.append(PresenceChanged(message.topic, change))
                delivered = self._tell_change(connection, inbox, message, change, size)
        route = inbox.route(event)
        if route.wanted:
            return delivered + self._admit(connection, inbox, route, message, size, inbox.position)
        if not delivered:
            self._client.stats.unhandled += 1
            if inbox.position is not None:
                inbox.position.expect(message, size, places=0)
        return delivered

    def _tell_change(
        self, connection: Connection, inbox: Inbox, cause: Message[Any], change: PresenceChange, size: int
    ) -> int:
        """Deliver `presence_join` and `presence_leave` to their handlers and streams. Returns how many messages."""
        told = 0
        for event, entries in ((PRESENCE_JOIN, change.joins), (PRESENCE_LEAVE, change.leaves)):
            route = inbox.change_route(event)
            if entries and route.wanted:
                message = Message[Any](join_ref=cause.join_ref, topic=cause.topic, event=event, payload=entries)
                told += self._admit(connection, inbox, route, message, size, None)
        return told

    def _admit(
        self,
        connection: Connection,
        inbox: Inbox,
        route: Route,
        message: Message[Any],
        size: int,
        position: Position | None,
    ) -> bool:
        """Deliver it, unless the client is closing or a hard bound is reached. Returns whether it was delivered."""
        if connection.draining or connection.flow.full:
            if connection.draining:
                self._client.stats.dropped += 1
            else:
                self._overflow[None] += 1
            if position is not None:
                position.lose()
            return False
        return self._deliver(inbox, route, message, size, position)

    def _deliver(self, inbox: Inbox, route: Route, message: Message[Any], size: int, position: Position | None) -> bool:
        """Put it into the queues and streams of its route. Returns whether there were any."""
        if route.only is not None and position is None and inbox.bound is None:  # for speed: the rest does the same
            self._enqueue(inbox.queue(*route.only), message, size)
            return True
        queues = [inbox.queue(handler, place) for handler, place in route.queued]
        if inbox.bound is not None:
            queues = [queue for queue in queues if self._has_room(queue)]
        in_line = bool(route.line) and self._has_room(inbox)
        places = in_line + len(queues) + len(route.taps)
        if position is None:
            claim = self._client.held.claim(size, places)
        else:
            claim = position.expect(message, size, places)
            if places:
                self._client.held.track()
        if in_line and inbox.put((route.line, message, claim)):
            self._client.runnable.append(inbox)
        for queue in queues:
            self._enqueue(queue, message, claim)
        for tap in route.taps:
            self._client.tapped.append((tap, ((), message, claim)))
        return places > 0

    def _enqueue(self, queue: HandlerQueue, message: Message[Any], claim: int | Claim) -> None:
        if queue.put((queue.handlers, message, claim)):
            (self._client.executable if queue.place is Place.EXECUTOR else self._client.runnable).append(queue)

    def _has_room(self, queue: DeliveryQueue) -> bool:
        """Whether one more message may be added; the oldest may be dropped for it."""
        if not queue.full:
            return True
        self._overflow[queue.channel.topic] += 1
        assert queue.bound is not None
        if queue.bound.drop is Drop.NEWEST:
            return False
        self._client.held.drop(queue.drop_oldest())
        return True

    def _reply(self, connection: Connection, message: Message[Any], now: float) -> None:
        awaiting = connection.requests.find(message.ref)
        if awaiting is not None:
            reply = decode_reply(message, raw=awaiting.raw)
            connection.requests.forget(message.ref)
            awaiting.replied(reply, now)
        elif message.topic != PHOENIX_TOPIC:  # answers to heartbeats are not stale replies
            self._client.stats.stale += 1

    def _end(self, connection: Connection, message: Message[Any], now: float) -> None:
        channel = self._addressed(connection, message)
        if channel is None:
            self._client.stats.stale += 1
        elif message.event == PHX_CLOSE:
            channel.closed_by_server(now)
        else:
            channel.crashed(_sound_payload(message), now)

    def _stale(self, connection: Connection, message: Message[Any], now: float) -> None:
        self._client.stats.stale += 1

    def _unclaimed_message(self, message: Message[Any]) -> None:
        self._client.stats.stale += 1
        self._unclaimed += 1
        if self._unclaimed == _MANY:
            self._client.notices.append(UnclaimedMessages(message.topic, message.event, self._unclaimed))

    def _addressed(self, connection: Connection, message: Message[Any]) -> Member | None:
        """The channel that a phx_close or phx_error ends: by the join_ref, or by the topic if that is null."""
        join_ref = message.join_ref
        holder = self._client.channels.get(message.topic)
        if (
            holder is not None
            and holder.connection is connection
            and holder.join_ref is not None
            and join_ref in (None, holder.join_ref)
        ):
            return holder
        if join_ref is not None:
            return connection.leaving.get(join_ref)
        return next(iter(connection.leaving_topic(message.topic)), None)

    def _bad(self, connection: Connection, frame: str | bytes, error: InvalidFrame, now: float) -> None:
        self._client.stats.received -= 1
        self._client.stats.bad_frames += 1
        self._bad_frames += 1
        if self._bad_frames <= _MOST_TOLD:
            self._tell_bad(connection, frame, error)
        else:
            self._last_bad = frame, error
        envelope = error.envelope
        if envelope is None:
            return
        if envelope.event == PHX_REPLY:
            awaiting = connection.requests.find(envelope.ref)
            if awaiting is not None:
                connection.requests.forget(envelope.ref)
                awaiting.unreadable(error.problem, now)
        elif envelope.event in (PHX_CLOSE, PHX_ERROR):  # these need no payload
            self._reserved[envelope.event](self, connection, envelope, now)

    def _tell_bad(self, connection: Connection, frame: str | bytes, error: InvalidFrame, *, count: int = 1) -> None:
        self._client.events.append(BadFrame(str(error), _excerpt(frame, connection.secrets), len(frame), count))

    def _sum_up_bad_frames(self, connection: Connection) -> None:
        if self._last_bad is not None:
            self._tell_bad(connection, *self._last_bad, count=self._bad_frames - _MOST_TOLD)
            self._last_bad = None
        self._bad_frames = 0

    def _report_overflow(self) -> None:
        for topic, dropped in self._overflow.items():
            self._client.stats.dropped += dropped
            self._client.events.append(InboxOverflow(topic, dropped, self._client.held.messages))
        self._overflow.clear()

    _reserved: ClassVar[dict[str, Callable[["Reader", Connection, Message[Any], float], None]]] = {
        PHX_REPLY: _reply,
        PHX_CLOSE: _end,
        PHX_ERROR: _end,
        PHX_JOIN: _stale,  # only a client sends these two
        PHX_LEAVE: _stale,
    }


def _sound_payload(message: Message[Any]) -> Any:
    try:
        return message.payload
    except UNREADABLE as error:
        problem = f"the payload of {shown(message.event)} is not sound ({type(error).__name__})"
        raise InvalidFrame(problem, message.with_payload(None)) from None


_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)


def _excerpt(frame: str | bytes, secrets: Secrets) -> str:
    """The beginning of a frame, for logs: JSON strings masked; for a binary frame only the header's bytes."""
    if isinstance(frame, bytes):
        return frame[:5].hex(" ")
    return secrets.escaped(_QUOTED.sub('"…"', frame[:200]), 60)
