"""A thread that waits for the end of a call."""

import threading
from collections.abc import Callable
from typing import Any

from ..blocking.waits import deadline_after, slice_until


class BlockedThread:
    """What one thread waits on; a `session.Waiter`.

    It is a lock that the end of the call releases. (A `concurrent.futures.Future`, for any number of threads, takes
    thirty Python calls for that.) It is released after the client's lock, because the waiting thread may need that lock
    at once.

    Args:
        later: Calls something after the client's lock is released.
    """

    __slots__ = ("_ended", "_error", "_later", "_pending", "_result")

    def __init__(self, later: Callable[[Callable[[], None]], None]) -> None:
        self._later = later
        self._ended = False
        self._result: Any = None
        self._error: BaseException | None = None
        self._pending = threading.Lock()
        self._pending.acquire()

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._ended

    def set_result(self, result: Any, /) -> None:
        """End the call with this result; under the client's lock."""
        self._ended, self._result = True, result
        self._later(self._pending.release)

    def set_exception(self, exception: BaseException, /) -> None:
        """End the call with this error; under the client's lock."""
        self._ended, self._error = True, exception
        self._later(self._pending.release)

    def wait(self, timeout: float | None) -> None:
        """Wait until the call has ended; raises `TimeoutError` if it has not in so many seconds."""
        deadline = deadline_after(timeout)
        while not self._pending.acquire(timeout=slice_until(deadline)):
            if not slice_until(deadline):
                raise TimeoutError("it took too long")

    def result(self) -> Any:
        """The call's result, returned or raised. Called once, after the wait."""
        error = self._error
        try:
            if error is not None:
                raise error
            return self._result
        finally:
            del error, self._error  # else the error, its traceback and this hold each other
