"""When to try again, and when not to.

A `Backoff` is a schedule of waits; a `ReconnectPolicy` is the whole decision after a lost connection or a failed
attempt. Both are pure: the same arguments and the same random source give the same wait. Every wait is drawn from a
range, so that clients which lost a server together do not all reconnect together. Without a random source (`rng=None`)
the wait is the range's upper end: deterministic, for embedders that do not want the spread.

The steps are phoenix.js's (`socket.js`, `channel.js`); jitter, close codes and HTTP statuses are ours.
"""

from collections.abc import Callable, Set
from dataclasses import dataclass
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TypeAlias

from .checks import check_kind, check_seconds
from .errors import CertificateError, ConnectError, HandshakeRefused, ProxyError

if TYPE_CHECKING:
    from random import Random

__all__ = ["RECONNECT", "REJOIN", "Backoff", "ReconnectPolicy"]


@dataclass(frozen=True, slots=True)
class Backoff:
    """A schedule of waits.

    Attributes:
        steps: Seconds to wait before the first retry, the second, and so on; the last repeats.

    >>> Backoff((1, 2, 5)).delay(7)
    5
    """

    steps: tuple[float, ...]

    def __post_init__(self) -> None:
        check_kind("steps", self.steps, tuple)
        if not self.steps:
            raise ValueError("a schedule needs at least one step")
        for step in self.steps:
            check_seconds("a step of a schedule", step)

    def delay(self, attempt: int, rng: "Random | None" = None) -> float:
        """The wait before a retry: its step, times 0.5 to 1.0.

        Args:
            attempt: How many retries were made before this one.
            rng: Draws the factor; without it, the full step is used.

        Returns:
            Seconds.
        """
        step = self.steps[min(attempt, len(self.steps) - 1)]
        return _within(step / 2, step, rng)


#: For connections, as in phoenix.js.
RECONNECT: Final = Backoff((0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1, 2, 5))
#: For channels, as in phoenix.js.
REJOIN: Final = Backoff((1, 2, 5, 10))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The situation in which an attempt to connect failed.

    Attributes:
        number: How many retries were made since a connection last proved stable (or since the start).
        ever_connected: Whether a connection was open before; if not, this is still the first connect.
        rest: Seconds until the latest time for an attempt of the first connect; `math.inf` for no limit.
        renewable: Whether params or token come from callables, and so may differ at the next attempt.
    """

    number: int
    ever_connected: bool
    renewable: bool
    rest: float = inf


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconnectPolicy:
    """What follows a lost connection or a failed attempt: a wait in seconds, or `None` for no further attempt.

    Attributes:
        schedule: The waits, unless the close code or the server asks for another.
        final_codes: Close codes after which the client does not reconnect. None by default: servers close with 1000
            when idle or shutting down, and a service wants to stay subscribed.
        stable_after: Seconds for which a connection must have been open before the count of retries restarts, so that a
            server which accepts and drops connections is not overloaded.
    """

    schedule: Backoff = RECONNECT
    final_codes: frozenset[int] = frozenset()
    stable_after: float = 5.0

    def __post_init__(self) -> None:
        check_kind("schedule", self.schedule, Backoff)
        check_kind("final_codes", self.final_codes, Set)
        check_seconds("stable_after", self.stable_after, zero=True)

    def after_close(self, code: int | None, attempt: int, rng: "Random | None" = None) -> float | None:
        """The server closed an open connection, or it was cut.

        Args:
            code: The close code; `None` for a cut or a heartbeat timeout.
            attempt: How many retries were made since a connection last proved stable.
            rng: Spreads the wait.

        Returns:
            Seconds to wait, or `None` for no further attempt.
        """
        if code in self.final_codes:
            return None
        if code in _SPREAD:
            return _within(*_SPREAD[code], rng)
        return self.schedule.delay(attempt, rng)

    def after_failure(self, error: ConnectError, attempt: Attempt, rng: "Random | None" = None) -> float | None:
        """The attempt failed.

        A `retry-after` of the server in seconds, at most an hour, is the shortest wait, times 1.0 to 1.5. A date in it
        is ignored, because the core has no calendar.

        Args:
            error: What went wrong: `HandshakeRefused` if the server answered with an HTTP error.
            attempt: The situation.
            rng: Spreads the wait.

        Returns:
            Seconds to wait, or `None` for no further attempt.
        """
        if not _rule_after(error)(attempt):
            return None
        delay = self._next(attempt, rng)
        if not isinstance(error, HandshakeRefused):
            return delay
        asked = min(_seconds(error.headers.get("retry-after", "")), _LONGEST_ASKED)
        return max(delay, _within(asked, asked * 1.5, rng))

    def _next(self, attempt: Attempt, rng: "Random | None") -> float:
        """The schedule's wait; for the first connect, at most half of what is left of its timeout.

        So a server that starts in time is reached, even if its handshake is slow.
        """
        delay = self.schedule.delay(attempt.number, rng)
        if attempt.rest <= 0:
            return delay
        return min(delay, attempt.rest if attempt.rest <= _SHORT_REST else attempt.rest / 2)


# ---- private --------------------------------------------------------------------------------------------------------


#: Whether a failed attempt is followed by another, by the situation.
_Rule: TypeAlias = Callable[[Attempt], bool]


def _always(attempt: Attempt) -> bool:
    return True


_if_renewable: _Rule = attrgetter("renewable")
_after_first_connect: _Rule = attrgetter("ever_connected")

# A status that is not here: 5xx is always retried, any other after the first connect (a wrong URL stays wrong, but one
# that worked before may work again, e.g. once a proxy is back).
_REFUSALS: Final = {
    401: _if_renewable,
    403: _if_renewable,
    408: _always,
    425: _always,
    429: _always,
}

#: Close codes by which a server sends many clients away at once, and the range of seconds for their return.
_SPREAD: Final[dict[int | None, tuple[float, float]]] = {1012: (0.0, 5.0), 1013: (5.0, 30.0)}

_LONGEST_ASKED: Final = 3600.0

#: Seconds that are not halved any more: the next attempt is the last one.
_SHORT_REST: Final = 0.25


def _after_status(status: int) -> _Rule:
    return _always if 500 <= status <= 599 else _REFUSALS.get(status, _after_first_connect)


def _rule_after(error: ConnectError) -> _Rule:
    match error:
        case HandshakeRefused(status=status):
            return _after_status(status)
        case ProxyError(status=int(status)):
            rule = _after_status(status)
            return _after_first_connect if rule is _if_renewable else rule  # a proxy does not see params and token
        case ProxyError() | CertificateError():
            return _after_first_connect
        case _:  # name, network, TLS, timeout, or a callable that raised
            return _always


def _seconds(retry_after: str) -> float:
    """The header's delay; 0 if it has none, or a date."""
    text = retry_after.strip()
    return float(text) if text.isascii() and text.isdecimal() else 0.0


def _within(low: float, high: float, rng: "Random | None") -> float:
    return high if rng is None else rng.uniform(low, high)
