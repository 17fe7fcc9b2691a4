"""Heartbeats, by which a dead connection is told from a quiet one.

Every interval a heartbeat goes out, whether or not the last was answered, for the server too closes a connection on
which it hears nothing. The connection is dead when a heartbeat is unanswered for an interval and nothing at all was
received in it: behind a backlog or a slow join its reply merely waits, and whatever comes shows that the peer lives.
Silence is measured on the reading clock (see `flow.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any

from .errors import PhxError, PushCancelled, PushLost, PushTimeout
from .events import PingAnswered, PushFailed
from .flow import TOLERANCE, Flow
from .message import HEARTBEAT, PHOENIX_TOPIC, Message, Reply
from .timers import Timer
from .wire import Wire


@dataclass(frozen=True, slots=True)
class _Ping:
    sent_at: float
    timer: Timer | None


class Heartbeat:
    """The heartbeats of one client, over all its connections."""

    __slots__ = ("_flow", "_interval", "_on_silence", "_pings", "_silent_since", "_timer", "_wire")

    def __init__(self, interval: float, on_silence: Callable[[float], None], wire: Wire, flow: Flow) -> None:
        self._interval = interval
        self._on_silence = on_silence
        self._wire = wire
        self._flow = flow
        self._timer: Timer | None = None
        self._silent_since: float | None = None  # reading clock, of the first heartbeat since something was heard
        self._pings: dict[str, _Ping] = {}

    def start(self, now: float) -> None:
        """A connection is open."""
        self._silent_since = None
        self._timer = self._wire.timers.at(now + self._interval, self._beat)

    def stop(self, why: PhxError | None) -> None:
        """It is gone, because of this; pings under way are lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for ref in list(self._pings):
            self._fail(ref, PushLost(PHOENIX_TOPIC, HEARTBEAT, sent=True, why=why))

    def heard(self) -> None:
        """Something came in."""
        self._silent_since = None

    def ping(self, now: float, timeout: float) -> str:
        """Send a heartbeat now, for somebody who waits for its answer."""
        ref = self._send()
        timer = None
        if timeout != inf:
            error = PushTimeout(PHOENIX_TOPIC, HEARTBEAT, timeout)
            timer = self._wire.timers.at(now + timeout, lambda at: self._fail(ref, error))
        self._pings[ref] = _Ping(now, timer)
        self._wire.awaiting[ref] = self
        self._flow.resume(now)
        return ref

    def cancel(self, ref: str) -> None:
        """Nobody waits for that ping any more; one that has ended is ignored."""
        if ref in self._pings:
            self._fail(ref, PushCancelled(PHOENIX_TOPIC, HEARTBEAT, sent=True))

    def replied(self, ref: str, reply: Reply, now: float) -> None:
        """The answer to a ping came."""
        ping = self._forget(ref)
        self._wire.events.append(PingAnswered(ref, now - ping.sent_at))

    def answered_illegibly(self, ref: str, problem: str, now: float) -> None:
        """The answer to a ping came and cannot be read; that it came is all that a ping asks for."""
        self.replied(ref, Reply("error"), now)

    def _beat(self, now: float) -> None:
        clock = self._flow.clock(now)
        if self._silent_since is None:
            self._silent_since = clock
        rest = self._interval - (clock - self._silent_since)
        if rest <= TOLERANCE:
            self._on_silence(now)
            return
        self._send()
        self._timer = self._wire.timers.at(min(now + self._interval, self._flow.after(rest, now)), self._beat)

    def _send(self) -> str:
        ref = self._wire.new_ref()
        self._wire.send(
            self._wire.serializer.encode(Message[Any](ref=ref, topic=PHOENIX_TOPIC, event=HEARTBEAT, payload={}))
        )
        return ref

    def _fail(self, ref: str, error: PhxError) -> None:
        self._forget(ref)
        self._wire.events.append(PushFailed(PHOENIX_TOPIC, HEARTBEAT, ref, error))

    def _forget(self, ref: str) -> _Ping:
        ping = self._pings.pop(ref)
        self._wire.awaiting.pop(ref, None)
        if ping.timer is not None:
            ping.timer.cancel()
        return ping
