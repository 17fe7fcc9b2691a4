"""What a server may do, as values: a whole conversation is a list of them, to be played against a client.

    for step in conversation:
        step.play(peer)

A step that a server could not do at that point (push to a topic that is not joined, say) is passed over, so that any
list can be played.
"""

from dataclasses import dataclass, field
from typing import Any, TypeAlias

from .peer import Peer


@dataclass(frozen=True, slots=True)
class Pushes:
    """The server pushes an event."""

    topic: str
    event: str
    payload: Any = field(default_factory=dict[str, Any])

    def play(self, peer: Peer) -> None:
        """Have it happen."""
        if self.topic in peer.joined:
            peer.push(self.topic, self.event, self.payload)


@dataclass(frozen=True, slots=True)
class Broadcasts:
    """It broadcasts an event."""

    topic: str
    event: str
    payload: Any = field(default_factory=dict[str, Any])

    def play(self, peer: Peer) -> None:
        """Have it happen."""
        if self.topic in peer.joined:
            peer.broadcast(self.topic, self.event, self.payload)


@dataclass(frozen=True, slots=True)
class Crashes:
    """A channel crashes."""

    topic: str

    def play(self, peer: Peer) -> None:
        """Have it happen."""
        if self.topic in peer.joined:
            peer.crash(self.topic)


@dataclass(frozen=True, slots=True)
class ClosesConnection:
    """It closes the connection.

    Attributes:
        code: Of the close frame; `None` where the connection is cut without one.
    """

    code: int | None

    def play(self, peer: Peer) -> None:
        """Have it happen."""
        if not peer.connected:
            return
        if self.code is None:
            peer.cut()
        else:
            peer.close(self.code)


@dataclass(frozen=True, slots=True)
class GoesDown:
    """It cuts the connection, and refuses the next attempts to connect.

    Attributes:
        status: HTTP's, of the refusals.
        times: How many.
    """

    status: int
    times: int = 1

    def play(self, peer: Peer) -> None:
        """Have it happen."""
        if peer.connected:
            peer.refuse_connect(self.status, times=self.times)
            peer.cut()


@dataclass(frozen=True, slots=True)
class SendsGarbage:
    """It sends what is no Phoenix message."""

    frame: str | bytes

    def play(self, peer: Peer) -> None:
        """Have it happen."""
        if peer.connected:
            peer.send_raw(self.frame)


@dataclass(frozen=True, slots=True)
class Waits:
    """Time passes.

    Attributes:
        seconds: How much.
    """

    seconds: float

    def play(self, peer: Peer) -> None:
        """Have it happen."""
        peer.clock.advance(self.seconds)


Step: TypeAlias = Pushes | Broadcasts | Crashes | ClosesConnection | GoesDown | SendsGarbage | Waits
