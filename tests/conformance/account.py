"""The expected results of a recorded connection: a model after PROTOCOL.md, much simpler than the core.

Its inputs are the application's calls and the server's frames; it returns how each call ends and which messages are to
be delivered. It knows nothing of time, retries or buffers. All refs are those that the core chose.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from phx_proto.errors import (
    ChannelClosedByClient,
    ChannelClosedByServer,
    ChannelCrashed,
    ConnectionClosed,
    ConnectionClosedByClient,
    JoinCancelled,
    JoinRefused,
    PushLost,
)
from phx_proto.events import (
    BadFrame,
    ChannelEnded,
    ChannelErrored,
    ChannelJoined,
    Closed,
    Disconnected,
    Event,
    JoinFailed,
    LeaveEnd,
    LeaveEnded,
    PingAnswered,
    PushFailed,
    ReplyReceived,
)
from phx_proto.message import HEARTBEAT, PHOENIX_TOPIC, PHX_CLOSE, PHX_ERROR, PHX_REPLY, Message

#: What happened, without objects: a name and what belongs to it.
Outcome: TypeAlias = tuple[Any, ...]


#: What the server answers to the join of one topic too many.
TOO_MANY = {"reason": "too many channels joined"}


def plain(event: Event) -> Outcome:
    """An event as an outcome."""
    match event:
        case ChannelJoined(topic, ref, _, response):
            return "joined", topic, ref, response
        case JoinFailed(topic, ref, JoinRefused(_, response, status)):
            return "refused", topic, ref, status, response
        case JoinFailed(topic, ref, error):
            return "join failed", topic, ref, type(error)
        case ChannelErrored(topic, ChannelCrashed(_, payload)):
            return "crashed", topic, payload
        case ChannelErrored(topic, ConnectionClosed(code)):
            return "interrupted", topic, code
        case ChannelEnded(topic):
            return "ended", topic
        case LeaveEnded(topic, ref, end):
            return "left", topic, ref, end
        case ReplyReceived(topic, name, ref, reply):
            return "replied", topic, name, ref, reply.status, reply.response
        case PushFailed(topic, name, ref, PushLost(sent=sent)):
            return "lost", topic, name, ref, sent
        case PushFailed(topic, name, ref, error):
            return "failed", topic, name, ref, type(error)
        case PingAnswered(ref):
            return "pong", ref
        case Disconnected(code, reason):
            return "disconnected", code, reason
        case Closed(error):
            return "closed", error
        case BadFrame():
            return ("bad frame",)
        case _:
            return "unforeseen", event


@dataclass(eq=False, slots=True)
class Membership:
    """One channel, as the account has it."""

    topic: str
    join_ref: str = ""
    state: str = "joining"
    join: str | None = None  # the ref of the call that still waits
    leave: str | None = None
    pushes: dict[str, tuple[str, bool]] = field(default_factory=dict[str, tuple[str, bool]])  # event, whether sent


@dataclass(eq=False, slots=True)
class Account:
    """One connection.

    Attributes:
        here: The channels that are joined or want to be, by topic.
        leaving: Those that were left and not yet told so.
        pings: Refs of heartbeats that wait for their answers.
    """

    here: dict[str, Membership] = field(default_factory=dict[str, Membership])
    leaving: list[Membership] = field(default_factory=list[Membership])
    pings: list[str] = field(default_factory=list[str])

    # ---- the application's calls ------------------------------------------------------------------------------------

    def left(self, topic: str, ref: str) -> list[Outcome]:
        """The channel of the topic is left by a call of that ref."""
        who = self.here.pop(topic)
        outcomes: list[Outcome] = []
        if who.join is not None:
            outcomes.append(("join failed", topic, who.join, JoinCancelled))
        for push, (event, sent) in list(who.pushes.items()):
            if not sent:
                del who.pushes[push]
                outcomes.append(("failed", topic, event, push, ChannelClosedByClient))
        who.state, who.leave, who.join = "leaving", ref, None
        self.leaving.append(who)
        return outcomes

    # ---- the server's frames ---------------------------------------------------------------------------------------

    def received(self, message: Message[Any]) -> tuple[list[Outcome], bool]:
        """What the frame brings to calls, and whether it is to be delivered."""
        who = self.here.get(message.topic)
        if message.event == PHX_REPLY:
            return self._replied(message), False
        addressed = who is not None and message.join_ref in (None, who.join_ref)
        if message.event == PHX_CLOSE:
            return self._closed(message, who if addressed else None), False
        if message.event == PHX_ERROR:
            return self._crashed(message, who if addressed else None), False
        return [], who is not None and addressed and who.state == "joined"

    def lost(self, outcome: Outcome, code: int | None) -> list[Outcome]:
        """The connection is gone; channels wait for the next."""
        outcomes = [outcome, *(("lost", PHOENIX_TOPIC, HEARTBEAT, ref, True) for ref in self.pings)]
        for who in self.leaving:
            outcomes += [*self._lost(who), ("left", who.topic, who.leave, LeaveEnd.DISCONNECTED), ("ended", who.topic)]
        for who in self.here.values():
            outcomes += self._lost(who, unsent=False)
            outcomes += [("interrupted", who.topic, code)] if who.state == "joined" else []
            who.state = "waiting"
        self.leaving, self.pings = [], []
        return outcomes

    def gone(self) -> list[Outcome]:
        """The client is closed."""
        outcomes: list[Outcome] = [("lost", PHOENIX_TOPIC, HEARTBEAT, ref, True) for ref in self.pings]
        for who in [*self.leaving, *self.here.values()]:
            outcomes += self._lost(who)
            if who.leave is not None:
                outcomes.append(("left", who.topic, who.leave, LeaveEnd.DISCONNECTED))
            if who.join is not None:
                outcomes.append(("join failed", who.topic, who.join, ConnectionClosedByClient))
            outcomes.append(("ended", who.topic))
        self.here, self.leaving, self.pings = {}, [], []
        return outcomes

    # ---- private ----------------------------------------------------------------------------------------------------

    def _replied(self, message: Message[Any]) -> list[Outcome]:
        ref, reply = message.ref or "", message.payload
        topic, status, response = message.topic, reply["status"], reply["response"]
        if ref in self.pings:
            self.pings.remove(ref)
            return [("pong", ref)]
        for who in [*self.leaving, *self.here.values()]:
            if ref in who.pushes:
                event, _ = who.pushes.pop(ref)
                return [("replied", topic, event, ref, status, response)]
            if ref == who.leave:
                return self._over(who, LeaveEnd.REPLY)
            if ref == who.join_ref and who.state == "joining":
                older = [gone for gone in self.leaving if gone.topic == topic]
                superseded = [outcome for gone in older for outcome in self._over(gone, LeaveEnd.SUPERSEDED)]
                return [*superseded, *self._joined(who, status, response)]
        return []

    def _joined(self, who: Membership, status: str, response: Any) -> list[Outcome]:
        if response == TOO_MANY and any(other.state == "joined" for other in self.here.values()):
            who.join_ref = ""  # it is joined on another connection, and of that nothing comes here
            return []
        join, who.join = who.join, None
        if status == "ok":
            who.state = "joined"
            who.pushes = {ref: (event, True) for ref, (event, _) in who.pushes.items()}
            return [("joined", who.topic, join, response)]
        if join is None:
            return [("unforeseen", "a rejoin was refused")]
        return [("refused", who.topic, join, status, response), *self._end(who)]

    def _closed(self, message: Message[Any], who: Membership | None) -> list[Outcome]:
        if who is not None:
            return self._end(who)
        return [outcome for gone in self._left(message) for outcome in self._over(gone, LeaveEnd.CLOSE)]

    def _crashed(self, message: Message[Any], who: Membership | None) -> list[Outcome]:
        if who is not None:
            who.state = "crashed"
            return [*self._lost(who, unsent=False), ("crashed", who.topic, message.payload)]
        return [outcome for gone in self._left(message) for outcome in self._lost(gone)]

    def _left(self, message: Message[Any]) -> list[Membership]:
        """The channel that the message tells the end of, if it is one that was left."""
        mine = [gone for gone in self.leaving if gone.topic == message.topic]
        return [gone for gone in mine if message.join_ref in (None, gone.join_ref)][:1]

    def _over(self, who: Membership, end: LeaveEnd) -> list[Outcome]:
        self.leaving.remove(who)
        return [("left", who.topic, who.leave, end), *self._end(who)]

    def _end(self, who: Membership) -> list[Outcome]:
        if self.here.get(who.topic) is who:
            del self.here[who.topic]
        closed = ChannelClosedByServer if who.leave is None else ChannelClosedByClient
        failed = [("failed", who.topic, event, ref, closed) for ref, (event, _) in who.pushes.items()]
        return [*failed, ("ended", who.topic)]

    def _lost(self, who: Membership, *, unsent: bool = True) -> list[Outcome]:
        lost = {ref: push for ref, push in who.pushes.items() if unsent or push[1]}
        who.pushes = {ref: push for ref, push in who.pushes.items() if ref not in lost}
        return [("lost", who.topic, event, ref, sent) for ref, (event, sent) in lost.items()]
