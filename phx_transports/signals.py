"""SIGINT and SIGTERM for clients that run, and for steps that must not be left half done.

Signals are the process's, so this module has state of its own.
"""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any, Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

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


def uninterrupted(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a step that Ctrl+C must not leave half done: `KeyboardInterrupt` is raised after it.

    A second Ctrl+C ends the step all the same, for the application's code may be part of it and take its time. Only
    Python's own handling of SIGINT is put off, and only the main thread has it. It costs a microsecond or two.
    """
    if threading.get_ident() != threading.main_thread().ident or _raw.getsignal(_SIGINT) is not _RAISE:
        return step(*args, **kwargs)
    interrupted = False

    def put_off(number: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            _RAISE(number, frame)
        interrupted = True

    _raw.signal(_SIGINT, put_off)
    try:
        result = step(*args, **kwargs)
    finally:
        _raw.signal(_SIGINT, _RAISE)
        if interrupted:
            raise KeyboardInterrupt
    return result


_raw: Final[Any] = import_module("_signal")  # what `signal` wraps into look-ups of its enums, at ten times the cost
_SIGINT: Final = int(signal.SIGINT)
_RAISE: Final = signal.default_int_handler


def _on_signal(number: int, frame: FrameType | None) -> None:
    for tell in _heard_by:
        tell()
