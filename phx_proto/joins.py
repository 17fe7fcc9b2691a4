"""Joins, paced: a server handles one socket's joins one by one, so only so many are under way at once.

A thousand channels that rejoin after a reconnect are not sent at once, for each would then wait behind all the others
and seem unanswered. And the patience with a join counts from the last answer to any join, `Wire.join_answered`: as long
as answers come, the server is at work.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol


class Joining(Protocol):
    """Who wants to join."""

    def start_join(self, now: float) -> None: ...


class JoinQueue:
    """Whose turn it is to join."""

    __slots__ = ("_limit", "_open", "_starting", "_under_way", "_waiting")

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"at least one join must be allowed under way, not {limit}")
        self._limit = limit
        self._open = False
        self._starting = False
        self._waiting: OrderedDict[Joining, None] = OrderedDict()
        self._under_way: set[Joining] = set()

    def open(self, pending: Iterable[Joining], now: float) -> None:
        """A connection is open: let those join that want to."""
        self._open = True
        self._waiting = OrderedDict.fromkeys(pending)
        self._start(now)

    def close(self) -> None:
        """The connection is gone; whoever wants to join asks again at the next one."""
        self._open = False
        self._waiting.clear()
        self._under_way.clear()

    def ask(self, channel: Joining, now: float) -> None:
        """Let the channel join when its turn has come; without a connection, that is for `open` to do."""
        if self._open:
            self._waiting[channel] = None
            self._start(now)

    def done(self, channel: Joining, now: float) -> None:
        """The channel's join is answered or given up, or it no longer wants its turn."""
        self._waiting.pop(channel, None)
        self._under_way.discard(channel)
        self._start(now)

    def _start(self, now: float) -> None:
        if self._starting:  # a join that could not even be sent is done while it starts: the loop below goes on
            return
        self._starting = True
        try:
            while self._waiting and len(self._under_way) < self._limit:
                channel, _ = self._waiting.popitem(last=False)
                self._under_way.add(channel)
                channel.start_join(now)
        finally:
            self._starting = False
