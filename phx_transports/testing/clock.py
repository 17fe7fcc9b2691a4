"""A clock that moves only when the test moves it.

All timers are in one queue. `advance` goes from one due time to the next, and lets everything caused by it finish
first: so a heartbeat at 30 s is answered before the next one at 60 s.
"""

import asyncio
import heapq
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

from phx_proto.checks import check_seconds

_MOST: Final = 100_000  # timers in one `advance`, or iterations of a loop; more never end
_QUIET: Final = 16  # iterations without a change, after which there will be none: no chain of callbacks here is longer


def forward(seconds: float) -> float:
    """The seconds; refused if no such time can pass."""
    check_seconds("the time that passes", seconds, zero=True)
    return seconds


@dataclass(slots=True, eq=False)
class Timer:
    """A scheduled call; may be cancelled."""

    _at: float
    callback: Callable[[], object] | None

    def when(self) -> float:
        return self._at

    def cancel(self) -> None:
        """Do not call it; does nothing if it was called already."""
        self.callback = None


class Clock:
    """Virtual time, in seconds from 0. Any thread may use it.

    >>> clock = Clock()
    >>> timer = clock.call_at(5.0, lambda: print("due at", clock.now()))
    >>> clock.advance(4.9)
    >>> clock.advance(0.2)
    due at 5.0
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = threading.Lock()
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = count()
        self._between: list[Callable[[], object]] = []

    def __repr__(self) -> str:
        return f"Clock({self._now:.3f})"

    def now(self) -> float:
        """Seconds since the clock was made."""
        return self._now

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Call something at that time, on the thread that advances the clock; never within this call."""
        timer = Timer(when, callback)
        with self._lock:
            heapq.heappush(self._timers, (when, next(self._numbers), timer))
        return timer

    def between(self, callback: Callable[[], object]) -> None:
        """Call something between one due time and the next: it lets everything settle."""
        self._between.append(callback)

    def advance(self, seconds: float) -> None:
        """Let time pass: call what is due, in order, each at its time.

        Application code on an event loop does not run in between; see `elapse`.

        Raises:
            ValueError: The seconds are negative.
        """
        for _ in self._steps(seconds):
            pass

    async def elapse(self, seconds: float) -> None:
        """Let time pass, and let the event loop run between one due time and the next.

        Raises:
            ValueError: The seconds are negative.
        """
        for _ in self._steps(seconds):
            await settle_loop(lambda: len(self._timers))

    def _steps(self, seconds: float) -> Iterator[None]:
        """Go from one due time to the next and at last to the end, settling before, between and after."""
        end, going_on = self._now + forward(seconds), True
        for _ in range(_MOST):
            for callback in self._between:
                callback()
            yield
            if not going_on:
                return
            going_on = self._step(end)
        raise RuntimeError("timers set each other anew without end")

    def _step(self, end: float) -> bool:
        """Go to the next due time up to `end` and call what is due then; returns whether there was any."""
        with self._lock:
            while self._timers and self._timers[0][2].callback is None:
                heapq.heappop(self._timers)
            if not self._timers or self._timers[0][0] > end:
                self._now = max(self._now, end)  # a callback may have advanced it further
                return False
            when, _, timer = heapq.heappop(self._timers)
            self._now = max(self._now, when)
        callback, timer.callback = timer.callback, None
        if callback is not None:
            callback()
        return True


async def settle_loop(signs: Callable[[], object]) -> None:
    """Let everything on the event loop run as far as possible without time passing: until nothing changes.

    Raises:
        RuntimeError: It never settles.
    """
    seen, still = signs(), 0
    for _ in range(_MOST):
        await asyncio.sleep(0)
        now = signs()
        still = still + 1 if now == seen else 0
        if still == _QUIET:
            return
        seen = now
    raise RuntimeError("the event loop never comes to rest")
