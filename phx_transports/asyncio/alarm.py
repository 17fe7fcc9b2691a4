"""The one timer of a client. It calls when its deadline has passed, and is set again only for an earlier one."""

from collections.abc import Callable
from math import inf

from .interfaces import Timer


class Alarm:
    """Calls when a deadline has passed.

    Attributes:
        armed: The deadline, by the given clock; `math.inf` for none.
    """

    def __init__(
        self, call_at: Callable[[float, Callable[[], object]], Timer], on_due: Callable[[float], object]
    ) -> None:
        self.armed = inf
        self._call_at = call_at
        self._on_due = on_due
        self._timer: Timer | None = None

    def arm(self, deadline: float) -> None:
        """Set an earlier deadline."""
        self.stop()
        self.armed = deadline
        self._timer = self._call_at(deadline, self._due)

    def stop(self) -> None:
        """Stop calling, until it is set again."""
        self.armed = inf
        if self._timer is not None:
            self._timer.cancel()

    def _due(self) -> None:
        at, self.armed = self.armed, inf  # the callback sets the next one
        self._on_due(at)
