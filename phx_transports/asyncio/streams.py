"""Streams: a channel's messages, or a client's events, one after another with `async for`.

Each is an async context manager, and gets what arrives while it is open. Several readers of one stream share its items.
"""

import asyncio
from collections.abc import Callable
from typing import Generic, Self, TypeVar

from phx_proto.events import Event

from ..client.queues import Queue

T = TypeVar("T")


class _Stream(Generic[T]):
    """Waits for the items of a queue."""

    def __init__(self, queue: Queue[T], check_loop: Callable[[], None]) -> None:
        self._queue = queue
        self._check_loop = check_loop
        self._changed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._check_loop()
        self._queue.open(self._changed.set)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._queue.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        queue = self._queue
        while True:
            while not queue.waiting:
                if queue.ended:
                    raise queue.error or StopAsyncIteration
                self._check_loop()
                self._changed.clear()
                await self._changed.wait()
            item = queue.take()
            if queue.accept is None:
                return item
            if (accepted := queue.accept(item)) is not None:
                return accepted


class MessageStream(_Stream[T]):
    """A channel's messages, one after another. Made by `Channel.messages` and `Channel.stream`."""


class EventStream(_Stream[Event]):
    """A client's events, one after another. Made by `Client.events`.

    It ends with the client. A reader that falls far behind loses the oldest events.
    """

    @property
    def dropped(self) -> int:
        """The number of events lost."""
        return self._queue.dropped
