"""What comes in: frames to messages, messages to whoever is to have them.

The unit of work is a read. Its messages go straight into the inboxes of their channels, with no event or object made
for each; the loop of `receive_all` is the one place of the core that is written for speed first. All that is not a
message of a joined channel with a handler for it takes the slower way below the loop.

The rules of the way (PROTOCOL.md): a reply is matched by its ref alone, the first one counts; a null join_ref is for
whoever has the topic; one that is not the channel's current join is stale, whatever the event, and dropped. With a null
one, on a topic without a channel, it is for the handlers that take such (`unjoined`); where there are none it is stale.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Final

from .channel import Channel
from .errors import InvalidFrame
from .events import BadFrame, InboxOverflow, PresenceChanged, UnclaimedMessages
from .flow import Flow
from .formats import decode_reply
from .formats.soundness import UNREADABLE
from .heartbeat import Heartbeat
from .inbox import PRESENCE_EVENTS, Inbox, Route
from .message import PHOENIX_TOPIC, PHX_CLOSE, PHX_ERROR, PHX_JOIN, PHX_LEAVE, PHX_REPLY, Message
from .queues import DeliveryQueue, Drop, Place
from .shown import Secrets, escaped, shown
from .wire import Wire

#: Messages of topics without a channel, of which the application is told: one or two may follow any leave.
_MANY: Final = 3

_NOBODY: Final[dict[str, Inbox]] = {}

#: Characters up to which a frame counts as that many bytes. One that is longer, and not ASCII, is asked for its memory:
#: Python holds a text in which there is one emoji in four bytes a character.
_SHORT: Final = 256


class Reader:
    """The way in of one client, over all its connections.

    Args:
        unjoined: The inbox for messages of topics that have no channel.

    Attributes:
        draining: Whether the client is closing: messages are dropped, replies still heard.
    """

    __slots__ = ("_flow", "_heartbeat", "_overflow", "_unclaimed", "_unjoined", "_wire", "draining")

    def __init__(self, wire: Wire, flow: Flow, heartbeat: Heartbeat, *, unjoined: Inbox) -> None:
        self._wire = wire
        self._flow = flow
        self._heartbeat = heartbeat
        self._overflow: Counter[str | None] = Counter()  # dropped in this read, by topic; None for the whole client
        self._unjoined = unjoined
        self._unclaimed = 0  # messages of topics without a channel that no handler took
        self.draining = False

    def receive_all(self, frames: Sequence[str | bytes], now: float) -> None:
        """Take what one read brought. Raises nothing, whatever it is."""
        wire = self._wire
        self._heartbeat.heard()
        live = _NOBODY if self.draining or self._flow.full else wire.live
        decode = wire.serializer.decode
        runnable = wire.runnable
        delivered = unhandled = size = 0
        for frame in frames:
            try:
                message = decode(frame)
            except InvalidFrame as error:
                self._bad(frame, error, now)
                continue
            inbox = live.get(message.topic)
            if inbox is not None:
                join_ref = message.join_ref
                if join_ref is None or join_ref == inbox.channel.join_ref:
                    route = inbox.fast_routes.get(message.event, inbox.default)
                    if isinstance(route, tuple):
                        if route:
                            length = len(frame)
                            if length > _SHORT and not frame.isascii():
                                length = frame.__sizeof__()
                            deliveries = inbox.deliveries
                            if deliveries is None:
                                inbox.deliveries = [(route, message, length)]
                                runnable.append(inbox)
                            else:
                                deliveries.append((route, message, length))
                            delivered += 1
                            size += length
                        else:
                            unhandled += 1
                        continue
                    if route is not None:
                        length = len(frame) if frame.isascii() else frame.__sizeof__()
                        self._deliver(inbox, route, message, length)  # without a bound there is room
                        delivered += 1
                        size += length
                        continue
            try:
                length = len(frame) if frame.isascii() else frame.__sizeof__()
                if self._other(message, length, now):
                    delivered += 1
                    size += length
            except InvalidFrame as error:
                self._bad(frame, error, now)
        wire.stats.received += len(frames)  # less the bad ones, see `_bad`
        wire.stats.delivered += delivered
        wire.stats.unhandled += unhandled
        if not self.draining:  # nothing can fill up any more, and replies and leaves have to be heard
            self._flow.received(delivered, size, frames, now)
        if self._overflow:
            self._report_overflow()

    def _other(self, message: Message[Any], size: int, now: float) -> bool:
        """A message that the loop has no quick way for; gives whether it was delivered, and so is held now."""
        event = message.event
        if event in self._reserved:
            self._reserved[event](self, message, now)
            return False
        inbox = self._wire.live.get(message.topic)
        if message.join_ref is None and message.topic not in self._wire.channels:
            route = self._unjoined.unjoined_route(message.topic, event)
            if not route.wanted:
                self._nobodys(message)
                return False
            return self._admit(self._unjoined, route, message, size)
        if inbox is None or (message.join_ref is not None and message.join_ref != inbox.channel.join_ref):
            self._stale(message, now)
            return False
        if event in PRESENCE_EVENTS and inbox.presence is not None:
            change = inbox.presence.receive(event, _sound_payload(message), join_ref=message.join_ref)
            if change is not None:
                self._wire.events.append(PresenceChanged(message.topic, change))
        route = inbox.route(event)
        if not route.wanted:
            self._wire.stats.unhandled += 1
            return False
        return self._admit(inbox, route, message, size)

    def _admit(self, inbox: Inbox, route: Route, message: Message[Any], size: int) -> bool:
        """Put it into the inbox, unless there is no room or no time left; tells whether it was put there."""
        if self.draining:
            self._wire.stats.dropped += 1
            return False
        if self._flow.full:
            self._overflow[None] += 1
            return False
        return self._deliver(inbox, route, message, size)

    def _deliver(self, inbox: Inbox, route: Route, message: Message[Any], size: int) -> bool:
        """Put it wherever it is to wait; gives whether that is anywhere."""
        queues = [inbox.queue(handler, place) for handler, place in route.queued]
        if inbox.bound is not None:
            queues = [queue for queue in queues if self._has_room(queue)]
        in_line = bool(route.line) and self._has_room(inbox)
        places = in_line + len(queues) + len(route.taps)
        claim = self._flow.held.claim(size, places)
        if in_line and inbox.put((route.line, message, claim)):
            self._wire.runnable.append(inbox)
        for queue in queues:
            if queue.put((queue.handlers, message, claim)):
                (self._wire.executable if queue.place is Place.EXECUTOR else self._wire.runnable).append(queue)
        for tap in route.taps:
            self._wire.tapped.append((tap, ((), message, claim)))
        return places > 0

    def _has_room(self, queue: DeliveryQueue) -> bool:
        """Whether one more message may wait there; the oldest may have to go for it."""
        if not queue.full:
            return True
        self._overflow[queue.channel.topic] += 1
        assert queue.bound is not None
        if queue.bound.drop is Drop.NEWEST:
            return False
        self._flow.held.release([queue.drop_oldest()])
        return True

    def _reply(self, message: Message[Any], now: float) -> None:
        wire = self._wire
        ref = message.ref or ""
        who = wire.awaiting.get(ref)
        if who is not None:
            reply = decode_reply(message)
            del wire.awaiting[ref]
            who.replied(ref, reply, now)
        elif ref in wire.abandoned:
            reply = decode_reply(message)
            topic = wire.abandoned.pop(ref)
            wire.join_answered = self._flow.clock(now)
            if reply.ok:
                wire.send_leave(topic, ref)
        elif message.topic != PHOENIX_TOPIC:  # the answers to heartbeats have been heard, and are no more than that
            wire.stats.stale += 1

    def _close(self, message: Message[Any], now: float) -> None:
        channel = self._addressed(message)
        if channel is None:
            self._stale(message, now)
        else:
            channel.server_closed(now)

    def _error(self, message: Message[Any], now: float) -> None:
        channel = self._addressed(message)
        if channel is None:
            self._stale(message, now)
        else:
            channel.crashed(_sound_payload(message), now)

    def _stale(self, message: Message[Any], now: float) -> None:
        self._wire.stats.stale += 1

    def _nobodys(self, message: Message[Any]) -> None:
        self._wire.stats.stale += 1
        self._unclaimed += 1
        if self._unclaimed == _MANY:
            self._wire.notices.append(UnclaimedMessages(message.topic, message.event, self._unclaimed))

    def _addressed(self, message: Message[Any]) -> Channel | None:
        """Whose end a phx_close or phx_error tells: by its join_ref, or whoever has the topic."""
        join_ref = message.join_ref
        holder = self._wire.channels.get(message.topic)
        if holder is not None and holder.join_ref is not None and join_ref in (None, holder.join_ref):
            return holder
        if join_ref is not None:
            return self._wire.leaving.get(join_ref)
        return next((channel for channel in self._wire.leaving.values() if channel.topic == message.topic), None)

    def _bad(self, frame: str | bytes, error: InvalidFrame, now: float) -> None:
        self._wire.stats.received -= 1
        self._wire.stats.bad_frames += 1
        self._wire.events.append(BadFrame(str(error), _excerpt(frame, self._wire.secrets), len(frame)))
        envelope = error.envelope
        if envelope is None:
            return
        if envelope.event == PHX_REPLY:
            self._illegible_reply(envelope.ref or "", error.problem, now)
        elif envelope.event in (PHX_CLOSE, PHX_ERROR):  # what they say needs no payload
            self._reserved[envelope.event](self, envelope, now)

    def _illegible_reply(self, ref: str, problem: str, now: float) -> None:
        """Whoever awaits this reply need not wait any longer."""
        who = self._wire.awaiting.pop(ref, None)
        if who is not None:
            who.answered_illegibly(ref, problem, now)
        elif ref in self._wire.abandoned:  # it may have been ok, and a leave of what is not joined does no harm
            self._wire.join_answered = self._flow.clock(now)
            self._wire.send_leave(self._wire.abandoned.pop(ref), ref)

    def _report_overflow(self) -> None:
        for topic, dropped in self._overflow.items():
            self._wire.stats.dropped += dropped
            self._wire.events.append(InboxOverflow(topic, dropped, self._flow.held.messages))
        self._overflow.clear()

    _reserved: ClassVar[dict[str, Callable[["Reader", Message[Any], float], None]]] = {
        PHX_REPLY: _reply,
        PHX_CLOSE: _close,
        PHX_ERROR: _error,
        PHX_JOIN: _stale,  # these two are a client's to send
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
    """How a frame begins, for a log: names and values in quotes masked, of a binary one its sizes alone."""
    if isinstance(frame, bytes):
        return frame[:5].hex(" ")
    return escaped(secrets.masked(_QUOTED.sub('"…"', frame[:200]))[:60], 600)
