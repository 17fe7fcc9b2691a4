"""Presence of the channels of one server, as Phoenix.Presence keeps it on one node.

    async def joined(self):
        self.presence.track(self.params["name"], {"mood": "ok"})
        self.presence.push_state()

What a channel tracks ends with the channel. Each change is broadcast at once to everyone who has the topic joined. The
state is pushed where the application wants it to be: after `track`, as above, it holds the client itself.
"""

from collections.abc import Callable
from typing import Any

from phx_proto.presence import PRESENCE_DIFF, PRESENCE_STATE, Entry
from phx_proto.server.tracker import Diff, Tracker

from .hub import Hub


class ChannelPresence:
    """What one channel does with the presence of its topic; in a channel it is `self.presence`.

    As with every call into a channel, nothing happens once it has ended.
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
            key: Whose presence, e.g. a user's id. Several channels may track the same key; each has its own meta.
            meta: A JSON object.

        Returns:
            The meta's `phx_ref`; empty if the channel has ended.

        Raises:
            InvalidPresence: This channel tracks the key already, or the meta is no object.
            InvalidPayload: The meta cannot be sent.
        """
        return self._change(self._tracker.track, key, meta)

    def update(self, key: str, meta: Any) -> str:
        """Replace the meta of a key that this channel tracks.

        Returns:
            The new meta's `phx_ref`; empty if the channel has ended.

        Raises:
            InvalidPresence: This channel does not track the key, or the meta is no object.
            InvalidPayload: The meta cannot be sent.
        """
        return self._change(self._tracker.update, key, meta)

    def untrack(self, key: str | None = None) -> None:
        """Take back what this channel tracks: one key, or everything. Nothing happens if that is nothing."""
        diff = self._tracker.untrack(self._topic, self, key)
        if diff is not None:
            self._tell(diff)

    def list(self) -> dict[str, Entry]:
        """Everybody on the topic, by key: `{"metas": [...]}` each. To be read only."""
        return self._tracker.state(self._topic)

    def push_state(self) -> None:
        """Send everybody on the topic to this channel's client, as `presence_state`."""
        self._push(PRESENCE_STATE, self.list())

    def end(self) -> None:
        """The channel has ended; done by the server."""
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
