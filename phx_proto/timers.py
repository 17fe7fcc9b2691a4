"""Deadlines with actions. The core has no clock: its driver passes in the time.

The driver asks `next()` for the earliest deadline and calls `fire(now)` when that has passed. Most timers are cancelled
long before they are due (a push is answered, and its timeout is not needed), so cancelling is cheap: the entry stays in
the heap, marked as cancelled. Two rules limit the cost. The heap's top is never a cancelled entry, so `next()` is exact
and O(1). And when the cancelled entries outnumber the others by more than a few, the heap is rebuilt without them, so
memory follows the timers in use, at a constant amortized cost for each cancellation.
"""

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Final, TypeAlias

from msgspec import Struct

Action: TypeAlias = Callable[[float], None]

_FEW: Final = 64  # dead entries that are not worth a rebuild


class Timer(Struct, eq=False):
    """One deadline with its action.

    Attributes:
        deadline: Monotonic seconds.
        action: Called with the time when the deadline has passed; `None` once it was run or cancelled.
    """

    deadline: float
    action: Action | None
    _release: Callable[[], None]

    @property
    def pending(self) -> bool:
        """Whether it was neither run nor cancelled."""
        return self.action is not None

    def cancel(self) -> None:
        """The action will not run. Does nothing if it was run or cancelled."""
        if self.action is not None:
            self.action = None
            self._release()


#: Means that no timer is set.
NO_TIMER: Final = Timer(inf, None, lambda: None)


class Timers:
    """All deadlines of one core.

    >>> timers = Timers()
    >>> timer = timers.at(12.5, lambda now: print(f"at {now}"))
    >>> timers.next()
    12.5
    >>> timers.fire(13.0)
    at 13.0
    """

    __slots__ = ("_heap", "_live", "_release", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._live = 0
        self._sequence = count()
        self._release = self._released  # bound once, not for each timer

    def __len__(self) -> int:
        """How many timers are set, neither run nor cancelled."""
        return self._live

    def at(self, deadline: float, action: Action) -> Timer:
        """Call `action(now)` in the first `fire` at or after `deadline`; never if that is `math.inf`."""
        if deadline == inf:
            return NO_TIMER
        timer = Timer(deadline, action, self._release)
        self._live += 1
        heappush(self._heap, (deadline, next(self._sequence), timer))
        return timer

    def next(self) -> float | None:
        """The earliest deadline, or `None` if none is set."""
        return self._heap[0][0] if self._heap else None

    def fire(self, now: float) -> None:
        """Run what is due at `now`, by deadline; timers of one deadline run in the order in which they were set.

        An action may set and cancel timers. One that it cancels does not run. One that it sets waits for the next
        `fire`, even if it is due already, so actions that set each other again cannot make this call endless;
        `next()` gives its deadline. If an action raises, its timer is used up, and the later ones stay set.
        """
        heap = self._heap
        due: list[tuple[float, int, Timer]] = []
        while heap and heap[0][0] <= now:
            due.append(heappop(heap))
        self._drop_dead_top()
        due.reverse()
        try:
            while due:
                timer = due.pop()[2]
                action = timer.action
                if action is not None:
                    timer.action = None
                    self._live -= 1
                    action(now)
        finally:
            for entry in due:
                heappush(heap, entry)
            self._drop_dead_top()

    def _released(self) -> None:
        self._live -= 1
        self._drop_dead_top()
        heap = self._heap
        if len(heap) > 2 * self._live + _FEW:
            heap[:] = [entry for entry in heap if entry[2].action is not None]
            heapify(heap)

    def _drop_dead_top(self) -> None:
        heap = self._heap
        while heap and heap[0][2].action is None:
            heappop(heap)
