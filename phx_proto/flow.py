"""Back-pressure: how many messages may wait for their handlers, and when reading stops for them.

The only remedy against a flood is not to read, and that is per connection. At the high mark reading pauses; at the low
mark it goes on. But a server cuts a connection whose reader stands still for 30 s, and all that was buffered on the way
is lost with it; so a pause lasts 10 s at most, then 1 MiB is read whatever the backlog. At the hard bound messages are
dropped, and counted: memory ends somewhere. While a call waits for a reply, reading goes on up to the hard bound: the
handler that waits may be the one that fills the inbox, and would wait for ever.

While reading is paused, the peer cannot be heard and must not be judged. The reading clock stands still then, and the
core measures silence with it (heartbeats, joins without an answer); what a caller waits for runs on the real one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

from .commands import PauseReading, ResumeReading
from .timers import Timer
from .wire import Wire

#: Seconds by which differences of readings of the clock may be off.
TOLERANCE: Final = 1e-6

_BYTES_BETWEEN_PAUSES: Final = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowLimits:
    """Bounds on messages received and not yet handled; one read may come on top of each.

    Attributes:
        high: Where reading pauses.
        low: Where it goes on.
        hard: Where messages are dropped; by default 64 times `high`.
        longest_pause: Seconds. Servers cut a reader that stands still for 30.
    """

    high: int = 1000
    low: int = 250
    hard: int = 0
    longest_pause: float = 10.0

    def __post_init__(self) -> None:
        if self.hard == 0:
            object.__setattr__(self, "hard", 64 * self.high)
        if not 0 <= self.low < self.high <= self.hard:
            raise ValueError(f"0 <= low < high <= hard is needed, not {self.low}, {self.high}, {self.hard}")
        if not 0 < self.longest_pause < inf:
            raise ValueError(f"longest_pause is positive, finite seconds, not {self.longest_pause!r}")


class Flow:
    """The backlog of one client, and whether its connection is read.

    Attributes:
        backlog: Messages received and not yet handled.
    """

    __slots__ = ("_allowance", "_limits", "_paused_at", "_stood", "_timer", "_wire", "backlog")

    def __init__(self, limits: FlowLimits, wire: Wire) -> None:
        self._limits = limits
        self._wire = wire
        self.backlog = 0
        self._paused_at = 0.0
        self._stood = 0.0  # seconds for which reading was paused, all in all
        self._allowance = 0  # bytes to be read before the next pause
        self._timer: Timer | None = None  # set while paused

    @property
    def paused(self) -> bool:
        """Whether reading stands still."""
        return self._timer is not None

    @property
    def full(self) -> bool:
        """Whether the hard bound is reached."""
        return self.backlog >= self._limits.hard

    def received(self, messages: int, frames: Sequence[str | bytes], now: float) -> None:
        """One read brought so many messages for handlers; it may be the last for a while."""
        self.backlog += messages
        if self._allowance > 0:
            self._allowance -= sum(map(len, frames))
        elif self.backlog >= self._limits.high and not self.paused and not self._wire.awaiting:
            self._pause(now)

    def handled(self, messages: int, now: float) -> None:
        """So many messages were handled."""
        self.backlog -= messages
        if self.backlog <= self._limits.low:
            self._allowance = 0
            self.resume(now)

    def resume(self, now: float) -> None:
        """Read on, if reading stands still: there is room, or a call waits for a reply."""
        if self._timer is None:
            return
        self._timer.cancel()
        self._timer = None
        self._stood += now - self._paused_at
        if self._wire.link is not None:
            self._wire.commands.append(ResumeReading(self._wire.link))

    def disconnected(self, now: float) -> None:
        """The connection that was paused is gone."""
        self._allowance = 0
        self.resume(now)

    def clock(self, now: float) -> float:
        """The reading clock: seconds for which the peer could be heard."""
        standing = now - self._paused_at if self._timer is not None else 0.0
        return now - self._stood - standing

    def after(self, seconds: float, now: float) -> float:
        """When the reading clock will have gone on by `seconds`, if a pause lasts as long as it may."""
        return seconds + (now if self._timer is None else self._timer.deadline)

    def _pause(self, now: float) -> None:
        assert self._wire.link is not None
        self._paused_at = now
        self._timer = self._wire.timers.at(now + self._limits.longest_pause, self._paused_long_enough)
        self._wire.commands.append(PauseReading(self._wire.link))

    def _paused_long_enough(self, now: float) -> None:
        self._allowance = _BYTES_BETWEEN_PAUSES
        self.resume(now)
