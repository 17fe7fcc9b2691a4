"""What the parts of one client share for its whole life: the way out, the timers, the counters, the names it gives.

Nothing here decides anything, and nothing here belongs to one connection: see `connection.py` for that. `Core` is
private to the package; adapters meet `ClientProtocol` and `Link`.
"""

from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from .commands import Command, Provider, Resolve
from .events import Event
from .formats import Serializer
from .inbox import Tap, TapItem
from .queues import DeliveryQueue, HandlerQueue
from .timers import Timers

if TYPE_CHECKING:
    from random import Random


class Polled(Protocol):
    """A link that is polled; see `longpoll.py`."""

    def flush(self) -> None: ...


class Resolving(Protocol):
    """What awaits the value of a callable."""

    def resolved(self, request: int, value: Any, now: float) -> None: ...
    def resolve_failed(self, request: int, error: BaseException, now: float) -> None: ...


class Stats(msgspec.Struct):
    """Counters over a client's life.

    Attributes:
        received: Frames that were Phoenix messages.
        delivered: Messages given to handlers and streams.
        handled: Messages of which every handler and every stream is done.
        unhandled: Messages of a joined channel that no handler wants; never parsed.
        stale: Messages of an older join, of a topic without a channel, or replies that no call waits for (any more):
            the server's answers to `cast` are among them, so a large number is no sign of trouble where casts are used.
        dropped: Messages dropped at a bound, or while closing.
        bad_frames: Frames that were no Phoenix messages.
        connects: Connections opened, on all sockets.
        reconnects: Those of them that were not a socket's first.
        backlog: Messages delivered and not yet handled, now.
        backlog_bytes: Bytes of their frames.
        sockets: Sockets that the client has, open or not, now: several where the server takes only so many topics on
            each.
    """

    received: int = 0
    delivered: int = 0
    handled: int = 0
    unhandled: int = 0
    stale: int = 0
    dropped: int = 0
    bad_frames: int = 0
    connects: int = 0
    reconnects: int = 0
    backlog: int = 0
    backlog_bytes: int = 0
    sockets: int = 1


class Core:
    """Shared by a client, its connections, its channels and its helpers.

    Attributes:
        commands: For the adapter, in order.
        events: For the application, in order.
        notices: What looks like a mistake of the application's.
        runnable: Queues that wait for a worker of the adapter's, in order.
        executable: Queues that wait for an executor, in order.
        tapped: What came for taps, in order.
        polls: Links that are polled, as long as they live.
        resolving: What awaits the answer to a `Resolve` request.
    """

    __slots__ = (
        "_refs",
        "_requests",
        "commands",
        "events",
        "executable",
        "notices",
        "polls",
        "resolving",
        "rng",
        "runnable",
        "serializer",
        "stats",
        "tapped",
        "timers",
    )

    def __init__(self, serializer: Serializer, rng: "Random | None") -> None:
        self.serializer = serializer
        self.rng = rng
        self.timers = Timers()
        self.stats = Stats()
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.notices: list[Event] = []
        self.runnable: list[DeliveryQueue] = []
        self.executable: list[HandlerQueue] = []
        self.tapped: list[tuple[Tap, TapItem]] = []
        self.polls: list[Polled] = []
        self.resolving: dict[int, Resolving] = {}
        self._refs = 0
        self._requests = 0

    def new_ref(self) -> str:
        """A ref that no other request of this client has had."""
        self._refs += 1
        return str(self._refs)

    def resolve(self, provider: Provider, resolving: Resolving) -> int:
        """Have the adapter call `provider`; gives the request's number."""
        self._requests += 1
        self.resolving[self._requests] = resolving
        self.commands.append(Resolve(self._requests, provider))
        return self._requests
