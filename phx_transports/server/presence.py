"""Presence of the channels of one server, like Phoenix.Presence on one node.

    async def joined(self):
        self.presence.track(self.params["name"], {"mood": "ok"})
        self.presence.push_state()

What a channel tracks ends with the channel. Each change is broadcast at once to all clients that have joined the topic.
The application decides when to push the state: after `track`, as above, it includes the client itself.
"""

from collections.abc import Callable
from typing import Any

from phx_proto.presence import PRESENCE_DIFF, PRESENCE_STATE, Entry
from phx_proto.server.tracker import Diff, Tracker

from .hub import Hub


class ChannelPresence:
    """The presence of a channel's topic; in a channel it is `self.presence`.

    As all calls to a channel, these do nothing once it has ended.
    """

    __slots__ = ("_ended", "_hub", "_push", "_topic", "_tracker")

    def __init__(self, tracker: Tracker, hub: Hub, topic: str, push: Callable[[str, Any], None]) -> None:
        self._tracker = tracker
        self._hub = hub
        self._topic = topic
        self._push = push
        self._ended = False

    def track(self, key: str, meta: Any) -> str:
        """Add a presence to the topic, and broadcast it.

        Args:
            key: The presence's key, e.g. a user's id. Several channels may track the same key; each has its own meta.
            meta: A JSON object.

        Returns:
            The meta's `phx_ref`; empty if the channel has ended.

        Raises:
            InvalidPresence: This channel tracks the key already, the key is not text, or the meta is not an object.
            InvalidPayload: The key or the meta cannot be sent.
        """
        return self._change(self._tracker.track, key, meta)

    def update(self, key: str, meta: Any) -> str:
        """Replace the meta of a key that this channel tracks.

        Returns:
            The new meta's `phx_ref`; empty if the channel has ended.

        Raises:
            InvalidPresence: This channel does not track the key, or the meta is not an object.
            InvalidPayload: The meta cannot be sent.
        """
        return self._change(self._tracker.update, key, meta)

    def untrack(self, key: str | None = None) -> None:
        """Stop tracking one key, or everything. Does nothing if this channel does not track it."""
        diff = self._tracker.untrack(self._topic, self, key)
        if diff is not None:
            self._tell(diff)

    def list(self) -> dict[str, Entry]:
        """All presences of the topic, by key: `{"metas": [...]}` each. Do not change it."""
        return self._tracker.state(self._topic)

    def push_state(self) -> None:
        """Send all presences of the topic to this channel's client, as `presence_state`."""
        self._push(PRESENCE_STATE, self.list())

    def end(self) -> None:
        """The channel has ended; called by the server."""
        self._ended = True
        self.untrack()

    def _change(self, change: Callable[..., tuple[str, Diff]], key: str, meta: Any) -> str:
        if self._ended:
            return ""
        ref, diff = change(self._topic, self, key, meta)
        self._tell(diff)
        return ref

    def _tell(self, diff: Diff) -> None:
        self._hub.broadcast(self._topic, PRESENCE_DIFF, diff)
