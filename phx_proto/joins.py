"""The pacing of joins: a server handles one socket's joins one by one, so only a few are under way at once.

If a thousand channels rejoined at once after a reconnect, each would wait for the others and seem unanswered. And
the timeout of a join counts from the last answer to any join, `Connection.join_answered`: while answers come, the
server is working.

If the server closed the connection because a message was too big, any join under way may have been that message. On the
next connection these joins come first and one by one, so that only the join at fault fails.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from msgspec import Struct, field


class Joining(Protocol):
    """A channel that waits to join."""

    def start_join(self, now: float) -> None: ...


J = TypeVar("J", bound=Joining)


class JoinQueue(Struct, Generic[J], eq=False):
    """Decides which channel joins next on one connection.

    Attributes:
        stopped: Whether no further channel may join.
    """

    _limit: int  # how many joins may be under way at once
    _suspects: dict[J, None] = {}  # their joins may have ended the connection before this one
    stopped: bool = False
    _starting: bool = False
    _waiting: OrderedDict[J, None] = field(default_factory=OrderedDict[J, None])
    _under_way: dict[J, None] = {}  # a set that keeps the order

    def open(self, pending: Iterable[J], now: float) -> None:
        """The connection is open: start the pending joins."""
        self._waiting = OrderedDict.fromkeys(pending)
        self._suspects = {channel: None for channel in self._suspects if channel in self._waiting}
        for channel in reversed(self._suspects):
            self._waiting.move_to_end(channel, last=False)
        self._start(now)

    def suspects(self, *, too_big: bool) -> dict[J, None]:
        """The suspects for the next connection, now that this one is gone.

        Args:
            too_big: Whether a message was too big, which may have been one of the joins under way.
        """
        return self._under_way if too_big else self._suspects

    def dismiss(self) -> list[J]:
        """Remove and return the waiting channels: they join on another socket."""
        waiting = list(self._waiting)
        self._waiting.clear()
        return waiting

    def ask(self, channel: J, now: float) -> None:
        """Let the channel join when the limit allows it."""
        self._waiting[channel] = None
        self._start(now)

    def done(self, channel: J, now: float) -> None:
        """The channel's join is answered or given up, or it no longer waits."""
        self._waiting.pop(channel, None)
        self._under_way.pop(channel, None)
        self._suspects.pop(channel, None)
        self._start(now)

    def _start(self, now: float) -> None:
        if self._starting:  # a join that cannot be sent is done while it starts: the loop below goes on
            return
        self._starting = True
        try:
            while self._waiting and not self.stopped and len(self._under_way) < (1 if self._suspects else self._limit):
                channel, _ = self._waiting.popitem(last=False)
                self._under_way[channel] = None
                channel.start_join(now)
            if not self._waiting:
                self._waiting.clear()  # emptied item by item, it would keep its memory: 40 bytes for each
        finally:
            self._starting = False
