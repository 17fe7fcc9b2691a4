"""State that the parts of one client share for its whole life: commands, events, timers, counters and refs.

There are no decisions here, and no state of one connection: see `connection.py` for that. `Core` is private to the
package; adapters use `ClientProtocol` and `Link`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
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
    """A link that uses long polling; see `longpoll.py`."""

    def flush(self) -> None: ...


class Resolving(Protocol):
    """Awaits the value of a callable."""

    def resolved(self, request: int, value: Any, now: float) -> None: ...
    def resolve_failed(self, request: int, error: BaseException, now: float) -> None: ...


class FrameObserver(Protocol):
    """Called with each frame of a client's connections and the connection's number. Must not raise."""

    def sent(self, connection: int, frame: str | bytes, /) -> None: ...
    def received(self, connection: int, frames: Sequence[str | bytes], /) -> None: ...
    def lost(self, connection: int, code: int | None, reason: str, /) -> None: ...


class Stats(msgspec.Struct):
    """Counters over a client's life.

    Attributes:
        received: Frames that were Phoenix messages.
        delivered: Messages given to handlers and streams.
        handled: Messages that all their handlers and streams have finished.
        unhandled: Messages of a joined channel that have no handler; their payloads are never parsed.
        stale: Messages of an older join or of a topic without a channel, and replies that no call waits for. Answers to
            `cast` are among these replies, so a large number is normal if casts are used.
        dropped: Messages dropped at a bound, or while closing.
        bad_frames: Frames that were no Phoenix messages.
        connects: Connections opened, on all sockets.
        reconnects: Connections that were not the first of their socket.
        backlog: Messages delivered and not yet handled, now.
        backlog_bytes: Bytes of their frames.
        sockets: Sockets that the client has now, open or not; several if the server limits the topics on each.
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


@dataclass(eq=False, repr=False)
class Core:
    """The state that a client, its connections and its channels share.

    Attributes:
        commands: For the adapter, in order.
        events: For the application, in order.
        notices: Events about probable mistakes of the application.
        runnable: Queues that wait for a worker of the adapter, in order.
        executable: Queues that wait for an executor, in order.
        tapped: Items for taps, in order.
        observer: Called with every frame; `None` for none.
        polls: The existing links that use long polling.
        resolving: What awaits the answer to a `Resolve` request.
    """

    serializer: Serializer
    rng: "Random | None"
    timers: Timers = field(default_factory=Timers)
    stats: Stats = field(default_factory=Stats)
    commands: list[Command] = field(default_factory=list[Command])
    events: list[Event] = field(default_factory=list[Event])
    notices: list[Event] = field(default_factory=list[Event])
    runnable: list[DeliveryQueue] = field(default_factory=list[DeliveryQueue])
    executable: list[HandlerQueue] = field(default_factory=list[HandlerQueue])
    tapped: list[tuple[Tap, TapItem]] = field(default_factory=list[tuple[Tap, TapItem]])
    observer: FrameObserver | None = None
    polls: list[Polled] = field(default_factory=list[Polled])
    resolving: dict[int, Resolving] = field(default_factory=dict[int, Resolving])
    _refs: Iterator[int] = field(default_factory=lambda: count(1))
    _requests: Iterator[int] = field(default_factory=lambda: count(1))

    def new_ref(self) -> str:
        """A ref that no other request of this client has had."""
        return str(next(self._refs))

    def resolve(self, provider: Provider, resolving: Resolving) -> int:
        """Have the adapter call `provider`; returns the request's number."""
        request = next(self._requests)
        self.resolving[request] = resolving
        self.commands.append(Resolve(request, provider))
        return request
