"""SIGINT and SIGTERM for clients that run. Signals are the process's, so this module has state of its own."""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_heard_by: list[Callable[[], None]] = []
_previous: dict[signal.Signals, Any] = {}


@contextmanager
def signals_to(tell: Callable[[], None]) -> Generator[None, None, None]:
    """Have `tell` called at each SIGINT and SIGTERM, for the length of a block.

    It is called between any two steps of the main thread, so it must do no more than have something done elsewhere.
    Several may be told at once. The handlers that were there come back after the last. Outside the main thread signals
    are another's business, and nothing is done.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _heard_by:
        _previous.update((number, signal.signal(number, _on_signal)) for number in _SIGNALS)
    _heard_by.append(tell)
    try:
        yield
    finally:
        _heard_by.remove(tell)
        if not _heard_by:
            for number, handler in _previous.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    for tell in _heard_by:
        tell()
