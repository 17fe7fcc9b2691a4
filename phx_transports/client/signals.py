"""SIGINT and SIGTERM for clients that run, and for steps that must not be interrupted halfway.

Signals belong to the process, so this module has global state.
"""

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import FrameType
from typing import Any, Final, Literal, ParamSpec, TypeAlias, TypeVar, get_args

P = ParamSpec("P")
T = TypeVar("T")

#: Which of SIGINT and SIGTERM `run` handles: those without another handler, both in any case, or none. A signal that is
#: ignored, or has a handler of other code (a web server, say), is claimed; one with Python's or asyncio's own handling
#: of SIGINT is not.
SignalPolicy: TypeAlias = Literal["unclaimed", "all", "none"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)

_heard_by: Final[dict[signal.Signals, list[Callable[[int], None]]]] = {number: [] for number in _SIGNALS}
_previous: Final[dict[signal.Signals, Any]] = {}


@contextmanager
def signals_to(tell: Callable[[int], None], policy: SignalPolicy) -> Generator[bool, None, None]:
    """Call `tell` with the number of each SIGINT and SIGTERM that the policy allows, during a block.

    It is called between any two steps of the main thread, so it may only schedule work. Several blocks may be open at
    once, and each gets every signal. The earlier handlers are restored after the last block, unless others were set
    since then. Outside the main thread this does nothing. It yields whether there is any signal to call for.

    Raises:
        ValueError: There is no such policy.
    """
    numbers = _to_take(policy)
    for number in numbers:
        if signal.getsignal(number) is not _on_signal:
            _previous[number] = signal.signal(number, _on_signal)
        _heard_by[number].append(tell)
    try:
        yield bool(numbers)
    finally:
        for number in numbers:
            _heard_by[number].remove(tell)
            if not _heard_by[number]:
                previous = _previous.pop(number)
                if signal.getsignal(number) is _on_signal:
                    signal.signal(number, signal.SIG_DFL if previous is None else previous)


def _to_take(policy: SignalPolicy) -> tuple[signal.Signals, ...]:
    """The signals to handle now by this policy, in this thread."""
    if policy not in get_args(SignalPolicy):
        raise ValueError(f"signals is {policy!r}; it must be one of {', '.join(map(repr, get_args(SignalPolicy)))}")
    if policy == "none" or threading.current_thread() is not threading.main_thread():
        return ()
    return tuple(number for number in _SIGNALS if policy == "all" or _is_unclaimed(signal.getsignal(number)))


def _is_unclaimed(handler: Any) -> bool:
    if handler in (signal.SIG_DFL, signal.default_int_handler, _on_signal):
        return True
    method = handler.func if isinstance(handler, partial) else handler  # `asyncio.Runner` sets a partial
    return type(getattr(method, "__self__", None)).__module__ == "asyncio.runners"


def uninterrupted(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a step that Ctrl+C must not interrupt halfway: `KeyboardInterrupt` is raised after it.

    A second Ctrl+C interrupts the step, because it may call slow application code. Only Python's own handling of SIGINT
    is delayed, and only the main thread has it. It costs one or two microseconds.
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


_raw: Final[Any] = import_module("_signal")  # `signal` wraps these in enum look-ups, at ten times the cost
_SIGINT: Final = int(signal.SIGINT)
_RAISE: Final = signal.default_int_handler


def _on_signal(number: int, frame: FrameType | None) -> None:
    for tell in _heard_by[signal.Signals(number)]:
        tell(number)
