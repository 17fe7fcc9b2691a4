"""Checks options and timeouts of calls from the application: invalid ones are refused at once.

As a deadline, NaN would keep every other from being due. A value of a wrong type would raise only on first use: within
a callback of the loop, or on the thread that reads, where no caller gets the error. A policy is used for the first time
when a connection is lost, perhaps after months.
"""

from math import inf
from typing import Final, TypeGuard

from .errors import InvalidTimeout
from .shown import shown

_TOO_LARGE: Final = 2**1023  # for a float; an integer may be larger


def check_seconds(
    name: str, value: object, *, zero: bool = False, endless: bool = False, optional: bool = False
) -> None:
    """Refuse a value that is not a duration.

    Args:
        name: The option's name, for the error.
        value: The given value.
        zero: Whether 0 is allowed.
        endless: Whether `math.inf` is allowed.
        optional: Whether `None` is allowed.

    Raises:
        TypeError: It is not a number.
        ValueError: It is not a possible duration.
    """
    if optional and value is None:
        return
    if not _is_number(value):
        raise TypeError(f"{name} is a number of seconds, not {shown(value)}")
    if not (0 < value < _TOO_LARGE or (zero and value == 0) or (endless and value == inf)):
        least = "zero or positive" if zero else "positive"
        most = " seconds, or math.inf" if endless else ", finite seconds"
        raise ValueError(f"{name} is {least}{most}, not {shown(value)}")


def check_count(name: str, value: object, *, least: int = 1, optional: bool = False) -> None:
    """Refuse a value that is not a count, or is too small; `None` too, unless it is `optional`.

    Raises:
        TypeError: It is not a whole number.
        ValueError: It is less than `least`.
    """
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is a whole number, not {shown(value)}")
    if value < least:
        raise ValueError(f"{name} is at least {least}, not {value}")


def check_kind(name: str, value: object, kind: type) -> None:
    """Refuse a value of another type.

    Raises:
        TypeError: It is of another type.
    """
    if not isinstance(value, kind):
        raise TypeError(f"{name} is a {kind.__name__}, not {shown(value)}")


def checked_timeout(call: str, timeout: object, default: float = inf) -> float:
    """The timeout of an application's call, unchanged; `None` stands for the default. One below 0 is over at once.

    Raises:
        InvalidTimeout: It is not a number of seconds.
    """
    if timeout is None:
        return default
    if not _is_number(timeout) or not (abs(timeout) < _TOO_LARGE or abs(timeout) == inf):
        raise InvalidTimeout(call, timeout)
    return timeout


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
