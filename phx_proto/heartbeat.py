"""Heartbeats: they distinguish a dead connection from a quiet one.

A heartbeat is sent at every interval, answered or not, because the server also closes a connection on which it receives
nothing. The connection counts as dead when a heartbeat is unanswered for an interval and nothing at all was received in
that time. A backlog or a slow join only delays the answer, and anything received shows that the peer is alive. Silence
is measured on the reading clock (see `flow.py`).
"""

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from .core import Core
from .errors import PhxError, PushCancelled, PushLost, PushTimeout
from .events import PingAnswered, PushFailed
from .flow import TOLERANCE, Flow
from .message import HEARTBEAT, PHOENIX_TOPIC, Message, Reply
from .requests import Requests
from .timers import Timer


class _Ping(Struct, frozen=True, eq=False):
    """A heartbeat that the application waits for."""

    ref: str
    sent_at: float
    heartbeat: "Heartbeat"
    timer: Timer
    raw: bool = False

    def replied(self, reply: Reply, now: float) -> None:
        self.heartbeat.answered(self, now)

    def unreadable(self, problem: str, now: float) -> None:
        self.heartbeat.answered(self, now)  # an answer of any kind is enough


class Heartbeat:
    """The heartbeats of one connection, from its beginning; none if the interval is `math.inf`."""

    def __init__(
        self,
        interval: float,
        *,
        on_silence: Callable[[float], None],
        core: Core,
        requests: Requests,
        flow: Flow,
        now: float,
    ) -> None:
        self._interval = interval
        self._on_silence = on_silence
        self._core = core
        self._requests = requests
        self._flow = flow
        self._silent_since: float | None = None  # reading clock, of the first heartbeat since anything was received
        self._pings: dict[str, _Ping] = {}
        self._timer = core.timers.at(now + interval, self._beat)

    def end(self, why: PhxError | None) -> None:
        """The connection is gone, for this reason; unanswered pings are lost."""
        self._timer.cancel()
        for ping in list(self._pings.values()):
            self._fail(ping, PushLost(PHOENIX_TOPIC, HEARTBEAT, sent=True, why=why))

    def heard(self) -> None:
        """Something was received."""
        self._silent_since = None

    def send(self) -> str:
        """Send a heartbeat now; returns its ref."""
        ref = self._core.new_ref()
        self._requests.send(Message[Any](ref=ref, topic=PHOENIX_TOPIC, event=HEARTBEAT, payload={}))
        return ref

    def ping(self, now: float, timeout: float) -> str:
        """Send a heartbeat now, for a caller that waits for its answer."""
        ref = self.send()
        error = PushTimeout(PHOENIX_TOPIC, HEARTBEAT, timeout)
        timer = self._core.timers.at(now + timeout, lambda at: self._fail(ping, error))
        ping = self._pings[ref] = _Ping(ref, now, self, timer)
        self._requests.expect(ref, ping)
        self._flow.resume(now)
        return ref

    def cancel(self, ref: str) -> None:
        """Cancel a ping; one that has ended is ignored."""
        ping = self._pings.get(ref)
        if ping is not None:
            self._fail(ping, PushCancelled(PHOENIX_TOPIC, HEARTBEAT, sent=True))

    def answered(self, ping: _Ping, now: float) -> None:
        """The answer to a ping came."""
        self._forget(ping)
        self._core.events.append(PingAnswered(ping.ref, now - ping.sent_at))

    def _beat(self, now: float) -> None:
        clock = self._flow.clock(now)
        if self._silent_since is None:
            self._silent_since = clock
        rest = self._interval - (clock - self._silent_since)
        if rest <= TOLERANCE:
            self._on_silence(now)
            return
        self.send()
        self._timer = self._core.timers.at(min(now + self._interval, self._flow.after(rest, now)), self._beat)

    def _fail(self, ping: _Ping, error: PhxError) -> None:
        self._forget(ping)
        self._core.events.append(PushFailed(PHOENIX_TOPIC, HEARTBEAT, ping.ref, error))

    def _forget(self, ping: _Ping) -> None:
        del self._pings[ping.ref]
        self._requests.forget(ping.ref)
        ping.timer.cancel()
