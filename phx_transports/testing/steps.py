"""A server's possible actions as values: a conversation is a list of them, to be played against a client.

for step in conversation:
    step.play(peer)
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from .errors import CannotPlay
from .peer import Peer


@dataclass(frozen=True, slots=True)
class Step:
    """One action of a server: a method of `Peer`, or a function whose first argument is one, with its arguments."""

    action: Callable[..., None]
    arguments: tuple[Any, ...]

    def __repr__(self) -> str:
        return f"{self.action.__name__}{self.arguments!r}"

    def play(self, peer: Peer) -> None:
        """Do it. An action that is impossible at this point is skipped, so that any list can be played."""
        with suppress(CannotPlay):
            self.action(peer, *self.arguments)


def end_connection(peer: Peer, code: int | None) -> None:
    """Close the connection with this code, or without a close frame if it is `None`."""
    if code is None:
        peer.cut()
    else:
        peer.close(code)


def go_down(peer: Peer, status: int, times: int) -> None:
    """Cut the connection, and refuse so many attempts to connect with this HTTP status."""
    if peer.connected:
        peer.refuse_connect(status, times=times)
        peer.cut()


def wait(peer: Peer, seconds: float) -> None:
    peer.clock.advance(seconds)
