"""The sockets of a server by topic; a broadcast is encoded once for each version of the format."""

from collections.abc import Collection
from itertools import islice
from typing import Any, Protocol

from .driver import SocketDriver


class Join(Protocol):
    """A socket's join of a topic, and the events whose broadcasts go to `intercept`, not to the client."""

    intercepts: Collection[str]

    def intercept(self, event: str, payload: Any, /) -> None:
        """Schedule the handling of a broadcast; never handles it within the call."""


class Hub:
    """The subscribers by topic, in the order in which they joined."""

    def __init__(self) -> None:
        self._subscribers: dict[str, dict[SocketDriver, Join]] = {}

    def subscribe(self, topic: str, subscriber: SocketDriver, join: Join) -> None:
        """Send the topic's broadcasts to the subscriber from now on, until this join, or a later one, ends."""
        self._subscribers.setdefault(topic, {})[subscriber] = join

    def unsubscribe(self, topic: str, subscriber: SocketDriver, join: Join) -> None:
        """Stop that; does nothing if it was not subscribed, or has subscribed again for a later join."""
        subscribers = self._subscribers.get(topic, {})
        if subscribers.get(subscriber) is join:
            del subscribers[subscriber]
            if not subscribers:
                del self._subscribers[topic]

    def broadcast(self, topic: str, event: str, payload: Any, *, but: SocketDriver | None = None) -> None:
        """Send to every socket that has joined the topic, except one. If it raises `LocalError`, nothing was sent."""
        receivers: list[SocketDriver] = []
        intercepting: list[Join] = []
        subscribers = self._subscribers.get(topic, {})
        for first in islice(subscribers, 1):
            first.check_loop()
        for subscriber, join in subscribers.items():
            if subscriber is but:
                continue
            if event in join.intercepts:
                intercepting.append(join)
            else:
                receivers.append(subscriber)
        serializers = {receiver.serializer.vsn: receiver.serializer for receiver in receivers}
        frames = {vsn: serializer.broadcast(topic, event, payload) for vsn, serializer in serializers.items()}
        for receiver in receivers:
            receiver.fastlane(topic, frames[receiver.serializer.vsn])
        for join in intercepting:
            join.intercept(event, payload)
