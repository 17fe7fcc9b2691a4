"""Waiting that a signal can end: where nobody awaits, what blocks does so a slice at a time.

Python raises `KeyboardInterrupt`, and calls signal handlers, in the main thread between two of its steps. A signal that
comes just before the thread falls asleep on a lock does not wake it, and on Windows none ever does.
"""

from math import inf
from time import monotonic
from typing import Final

SLICE: Final = 0.5  # seconds


def deadline_after(timeout: float | None) -> float:
    """When a wait of so many seconds is over; `None` for one that ends by itself."""
    return inf if timeout is None else monotonic() + timeout


def slice_until(deadline: float) -> float:
    """Seconds for which to wait now; none are left where it is zero."""
    return max(0.0, min(SLICE, deadline - monotonic()))
