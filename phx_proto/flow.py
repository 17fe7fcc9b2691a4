"""Back-pressure: limits on the messages, and their bytes, that wait for their handlers; reading pauses at the limits.

`Backlog` counts the messages that were received and not yet handled, in queues, in streams and in handlers, and the
bytes of their frames. Both numbers have three marks: low, high and hard. The first mark reached counts.

The only remedy against a flood is to stop reading, and that is per connection. Reading pauses at the high mark and
resumes at the low mark. But a server cuts a connection that is not read for 30 s, and everything buffered on the way is
lost; so a pause lasts 10 s at most, and then 1 MiB is read whatever the backlog. At the hard mark messages are dropped
and counted. While a call waits for a reply, reading goes on up to the hard mark: the handler that waits may be the one
that fills the inbox, and would otherwise wait forever.

While reading is paused, nothing can be received, and the peer must not count as silent. So heartbeats and unanswered
joins are measured on the reading clock, which stops during a pause. Timeouts of calls use the real clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from .checks import check_count, check_seconds
from .commands import PauseReading, ResumeReading
from .core import Core
from .queues import Backlog
from .requests import Requests
from .timers import Timer

__all__ = ["MIB", "FlowLimits"]

#: Seconds by which differences of clock readings may be off.
TOLERANCE: Final = 1e-6

#: Bytes of a mebibyte.
MIB: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLimits:
    """Bounds on messages received and not yet handled, and on their bytes.

    One read of the socket may exceed each.

    With the defaults, a client whose handlers are blocked stays within some 100 MB, whatever the size of the messages.

    Attributes:
        high: Messages at which reading pauses.
        low: Messages at which it goes on.
        hard: Messages at which more are dropped; by default 64 times `high`.
        high_bytes: Bytes of their frames at which reading pauses.
        low_bytes: Bytes at which it goes on; by default a quarter of `high_bytes`.
        hard_bytes: Bytes at which more messages are dropped; by default 3 times `high_bytes`.
        longest_pause: Seconds. Servers cut a connection that is not read for 30 s.
    """

    high: int = 1000
    low: int = 250
    hard: int = 0
    high_bytes: int = 8 * MIB
    low_bytes: int = 0
    hard_bytes: int = 0
    longest_pause: float = 10.0

    def __post_init__(self) -> None:
        for name in ("high", "low", "hard", "high_bytes", "low_bytes", "hard_bytes"):
            check_count(name, getattr(self, name), least=0)
        check_seconds("longest_pause", self.longest_pause)
        for name, default in (
            ("hard", 64 * self.high),
            ("low_bytes", self.high_bytes // 4),
            ("hard_bytes", 3 * self.high_bytes),
        ):
            if getattr(self, name) == 0:
                object.__setattr__(self, name, default)
        for unit in ("", "_bytes"):
            low, high, hard = (getattr(self, mark + unit) for mark in ("low", "high", "hard"))
            if not low < high <= hard:
                names = f"low{unit} < high{unit} <= hard{unit}"
                raise ValueError(f"{names} is needed, not {low}, {high}, {hard}")


class Flow(Struct, eq=False):
    """Whether one connection is read, and for how long it was not."""

    _limits: FlowLimits
    _held: Backlog
    _requests: Requests
    _core: Core
    _paused_at: float = 0.0
    _stood: float = 0.0  # seconds for which reading was paused, in total
    _allowance: int = 0  # bytes to be read before the next pause
    _timer: Timer | None = None  # set while paused

    def end(self) -> None:
        """The connection has ended."""
        if self._timer is not None:
            self._timer.cancel()

    @property
    def paused(self) -> bool:
        """Whether reading is paused."""
        return self._timer is not None

    @property
    def full(self) -> bool:
        """Whether a hard bound is reached."""
        return self._reached(self._limits.hard, self._limits.hard_bytes)

    def received(self, messages: int, size: int, frames: Sequence[str | bytes], now: float) -> None:
        """A read delivered this many messages, of this many bytes. Reading may pause now."""
        self._held.add(messages, size)
        if self._allowance > 0:
            self._allowance -= sum(map(len, frames))
        elif self._reached(self._limits.high, self._limits.high_bytes):
            self.pause(now)

    def handled(self, now: float) -> None:
        """Messages were handled: reading may resume."""
        if self._held.messages <= self._limits.low and self._held.size <= self._limits.low_bytes:
            self._allowance = 0
            self.resume(now)

    def pause(self, now: float) -> None:
        """Pause reading, unless a call waits for a reply, or the longest pause has just ended."""
        if not (self.paused or self._allowance > 0 or self._requests.awaited):
            self._pause(now)

    def resume(self, now: float) -> None:
        """Resume reading, if it is paused: there is room, or a call waits for a reply."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._stood += now - self._paused_at
        self._core.commands.append(ResumeReading(self._requests.link))

    def clock(self, now: float) -> float:
        """The reading clock of this connection: seconds for which the peer could be heard."""
        standing = now - self._paused_at if self._timer is not None else 0.0
        return now - self._stood - standing

    def after(self, seconds: float, now: float) -> float:
        """When the reading clock will have advanced by `seconds`, even if a pause lasts as long as it may."""
        return seconds + (now if self._timer is None else self._timer.deadline)

    def _reached(self, messages: int, size: int) -> bool:
        return self._held.messages >= messages or self._held.size >= size

    def _pause(self, now: float) -> None:
        self._paused_at = now
        self._timer = self._core.timers.at(now + self._limits.longest_pause, self._paused_long_enough)
        self._core.commands.append(PauseReading(self._requests.link))

    def _paused_long_enough(self, now: float) -> None:
        self._allowance = MIB
        self.resume(now)
