"""What a server may do, as values: a whole conversation is a list of them, to be played against a client.

    for step in conversation:
        step.play(peer)

A step that a server could not do at that point (push to a topic that is not joined, say) is passed over, so that any
list can be played.
"""

from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .errors import CannotPlay
from .peer import Peer


class Step(ABC):
    """Something that a server may do."""

    __slots__ = ()

    def play(self, peer: Peer) -> None:
        """Have it happen, if it can."""
        with suppress(CannotPlay):
            self._play(peer)

    @abstractmethod
    def _play(self, peer: Peer) -> None: ...


@dataclass(frozen=True, slots=True)
class Pushes(Step):
    """The server pushes an event."""

    topic: str
    event: str
    payload: Any = field(default_factory=dict[str, Any])

    def _play(self, peer: Peer) -> None:
        peer.push(self.topic, self.event, self.payload)


@dataclass(frozen=True, slots=True)
class Broadcasts(Pushes):
    """It broadcasts an event."""

    def _play(self, peer: Peer) -> None:
        peer.broadcast(self.topic, self.event, self.payload)


@dataclass(frozen=True, slots=True)
class Closes(Step):
    """A channel is stopped."""

    topic: str

    def _play(self, peer: Peer) -> None:
        peer.close_channel(self.topic)


@dataclass(frozen=True, slots=True)
class Crashes(Step):
    """A channel crashes."""

    topic: str

    def _play(self, peer: Peer) -> None:
        peer.crash(self.topic)


@dataclass(frozen=True, slots=True)
class ClosesConnection(Step):
    """It closes the connection: with this code, or without a close frame where that is `None`."""

    code: int | None

    def _play(self, peer: Peer) -> None:
        if self.code is None:
            peer.cut()
        else:
            peer.close(self.code)


@dataclass(frozen=True, slots=True)
class GoesDown(Step):
    """It cuts the connection, and refuses so many attempts to connect with this HTTP status."""

    status: int
    times: int = 1

    def _play(self, peer: Peer) -> None:
        if peer.connected:
            peer.refuse_connect(self.status, times=self.times)
            peer.cut()


@dataclass(frozen=True, slots=True)
class SendsGarbage(Step):
    """It sends what is no Phoenix message."""

    frame: str | bytes

    def _play(self, peer: Peer) -> None:
        peer.send_raw(self.frame)


@dataclass(frozen=True, slots=True)
class Waits(Step):
    """So many seconds pass."""

    seconds: float

    def _play(self, peer: Peer) -> None:
        peer.clock.advance(self.seconds)
