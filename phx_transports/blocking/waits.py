"""Waits that a signal can interrupt: a blocking wait is made of short slices.

Python raises `KeyboardInterrupt`, and calls signal handlers, in the main thread between two bytecode instructions. A
signal that arrives just before the thread blocks on a lock does not wake it, and on Windows no signal does.
"""

from math import inf
from time import monotonic
from typing import Final

from phx_proto.checks import checked_timeout

SLICE: Final = 0.5  # seconds


def deadline_after(timeout: float | None) -> float:
    """The time at which a wait of so many seconds is over; `None` means no timeout.

    Raises:
        InvalidTimeout: It is not a number of seconds.
    """
    return inf if timeout is None else monotonic() + checked_timeout("a wait", timeout)


def slice_until(deadline: float) -> float:
    """Seconds to wait now; zero after the deadline."""
    left = deadline - monotonic()
    return SLICE if left > SLICE else max(0.0, left)
