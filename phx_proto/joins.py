"""Joins, paced: a server handles one socket's joins one by one, so only so many are under way at once.

A thousand channels that rejoin after a reconnect are not sent at once, for each would then wait behind all the others
and seem unanswered. And a join's patience counts from the last answer to any join on the connection: as long as
answers come, the server is at work.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .channel import Channel


class JoinQueue:
    """Whose turn it is to join.

    Attributes:
        last_answer: When a join was last answered on this connection, on the reading clock (see `flow.py`).
    """

    __slots__ = ("_limit", "_open", "_under_way", "_waiting", "last_answer")

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError(f"at least one join must be allowed under way, not {limit}")
        self._limit = limit
        self._open = False
        self._waiting: dict[Channel, None] = {}
        self._under_way: set[Channel] = set()
        self.last_answer = 0.0

    def open(self, pending: list["Channel"], now: float) -> None:
        """A connection is open: let those join that want to."""
        self._open = True
        self._waiting = dict.fromkeys(pending)
        self._start(now)

    def close(self) -> None:
        """The connection is gone; whoever wants to join asks again at the next one."""
        self._open = False
        self._waiting.clear()
        self._under_way.clear()

    def ask(self, channel: "Channel", now: float) -> None:
        """Let the channel join when its turn has come; without a connection, that is for `open` to do."""
        if self._open:
            self._waiting[channel] = None
            self._start(now)

    def done(self, channel: "Channel", now: float) -> None:
        """The channel's join is answered or given up, or it no longer wants its turn."""
        self._waiting.pop(channel, None)
        self._under_way.discard(channel)
        self._start(now)

    def _start(self, now: float) -> None:
        while self._waiting and len(self._under_way) < self._limit:
            channel = next(iter(self._waiting))
            del self._waiting[channel]
            self._under_way.add(channel)
            channel.start_join(now)
