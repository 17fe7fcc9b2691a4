"""How a client runs its handlers and how it ends: the options that `connect` passes to the client's parts."""

from concurrent.futures import Executor
from dataclasses import dataclass
from math import inf

from .reports import OnHandlerError, log_handler_error


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How a client runs its handlers, and how it ends; see `connect` for each."""

    executor: Executor | None = None
    on_handler_error: OnHandlerError = log_handler_error
    fail_fast: bool = False
    drain_timeout: float = 10.0


def first_timeout(given: float | None, *, wait: bool) -> float:
    """Seconds after which the first connect is given up."""
    if given is not None:
        return given
    return 10.0 if wait else inf
