"""What carries the messages between client and server: a WebSocket, or long polling; and which of them is next.

A client with a fallback begins with a WebSocket. Where that does not open, or nothing comes through it, within the
fallback's seconds, and wherever it fails, long polling is tried at once; where that fails too, the WebSocket is tried
again after the usual wait. So they take turns until one of them has carried a message, and that one is kept for the
client's life (phoenix.js `connectWithFallback`).
"""

from math import inf
from typing import Literal, TypeAlias

__all__ = [
    "TransportName",
    "Transports",
]

TransportName: TypeAlias = Literal["websocket", "longpoll"]


class Transports:
    """Which transport the next attempt is made with.

    Args:
        first: To begin with.
        fallback: Seconds that a WebSocket has to open, and then to carry a message; `None` for no other transport.

    Attributes:
        current: The one of this attempt, or of the next.
    """

    __slots__ = ("_fallback", "_final_delay", "current")

    def __init__(self, first: TransportName, fallback: float | None) -> None:
        if first not in ("websocket", "longpoll"):
            raise ValueError(f"transport is 'websocket' or 'longpoll', not {first!r}")
        if fallback is not None and not 0 < fallback < inf:
            raise ValueError(f"fallback is positive, finite seconds, or None, not {fallback!r}")
        self.current: TransportName = first
        self._fallback = fallback if first == "websocket" else None  # None once it is decided
        self._final_delay: float | None = None

    @property
    def trial(self) -> float | None:
        """Seconds that the current one has, where it is a WebSocket that has to prove itself."""
        return self._fallback if self.current == "websocket" else None

    def keep(self) -> None:
        """The current one has carried a message: it stays."""
        self._fallback = None

    def after_failure(self, delay: float | None) -> float | None:
        """The current one has failed: how long to wait for the next attempt, `None` for the end.

        Args:
            delay: What the policy says of the failure.
        """
        if self._fallback is None:
            return delay
        if self.current == "websocket":
            self.current, self._final_delay = "longpoll", delay
            return 0.0
        self.current = "websocket"
        return self._final_delay if delay is None else delay
