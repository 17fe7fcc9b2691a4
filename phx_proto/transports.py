"""The transports: a WebSocket or long polling, and which of them the next attempt uses.

A client with a fallback begins with a WebSocket. If that fails, or has not opened and carried a message within the
fallback's seconds, long polling is tried at once. If that fails too, the WebSocket is tried again after the usual wait.
They alternate until one of them has carried a message; that one is kept for the client's life (phoenix.js
`connectWithFallback`).
"""

from typing import Literal, TypeAlias

from .checks import check_seconds

__all__ = ["TransportName", "Transports"]

TransportName: TypeAlias = Literal["websocket", "longpoll"]


class Transports:
    """Decides which transport the next attempt uses.

    Args:
        first: The first transport to use.
        fallback: Seconds for a WebSocket to open and to carry a message; `None` for no other transport.

    Attributes:
        current: The transport of this attempt, or of the next.
    """

    def __init__(self, first: TransportName, fallback: float | None) -> None:
        if first not in ("websocket", "longpoll"):
            raise ValueError(f"transport is 'websocket' or 'longpoll', not {first!r}")
        check_seconds("fallback", fallback, optional=True)
        self.current: TransportName = first
        self._fallback = fallback if first == "websocket" else None  # None once it is decided
        self._final_delay: float | None = None

    @property
    def trial(self) -> float | None:
        """Seconds for a WebSocket to carry a message before the fallback is used; `None` for no limit."""
        return self._fallback if self.current == "websocket" else None

    def keep(self) -> None:
        """The current transport has carried a message: it is kept."""
        self._fallback = None

    def after_failure(self, delay: float | None) -> float | None:
        """The current transport has failed. Returns the wait before the next attempt; `None` for the end.

        Args:
            delay: The policy's wait after the failure.
        """
        if self._fallback is None:
            return delay
        if self.current == "websocket":
            self.current, self._final_delay = "longpoll", delay
            return 0.0
        self.current = "websocket"
        return self._final_delay if delay is None else delay
