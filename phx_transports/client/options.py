"""How a client runs its handlers and how it ends: the options that `connect` passes to the client's parts."""

from concurrent.futures import Executor
from dataclasses import dataclass
from math import inf

from phx_proto.checks import check_seconds

from .reports import OnHandlerError, log_handler_error


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """How a client runs its handlers, and how it ends; see `connect` for each."""

    executor: Executor | None = None
    on_handler_error: OnHandlerError = log_handler_error
    fail_fast: bool = False
    drain_timeout: float = 10.0

    def __post_init__(self) -> None:
        check_seconds("drain_timeout", self.drain_timeout, zero=True, endless=True)


def first_timeout(given: float | None, *, wait: bool) -> float:
    """Seconds after which the first connect is given up."""
    if given is None:
        return 10.0 if wait else inf
    check_seconds("timeout", given, zero=True, endless=True)
    return given
