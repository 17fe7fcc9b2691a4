"""The presence of a server's topics: metas by topic and key, and the diff of each change.

`presence.py` is the client's side, which merges these diffs. The rules are Phoenix.Tracker's:

- Every meta has an owner, which tracks a key of a topic at most once. A key has the metas of all its owners, in the
  order of their arrival, and is removed with the last one. An owner is usually a channel: one join of one topic.
- Every meta has a `phx_ref` of its own. It is random: after a restart of the server, a client that reconnects must not
  take a new meta for an old one. An update is the leave of the old meta and the join of the new one in one diff; the
  new one keeps its place and names the old one in `phx_ref_prev`.

A meta is stored in the form that clients will get: copied, as JSON. A key or a meta that cannot be sent is refused at
once, so that every state and every diff can be sent. Returned values share its parts and are read-only.
"""

from base64 import urlsafe_b64encode
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from ..errors import InvalidPresence
from ..formats.text import to_text
from ..presence import PRESENCE_DIFF, Entry, Meta

if TYPE_CHECKING:
    from random import Random

#: The payload of a `presence_diff`: `{"joins": {key: entry}, "leaves": {key: entry}}`.
Diff: TypeAlias = dict[str, dict[str, Entry]]


class Tracker:
    """The metas of all topics. A change is returned as a diff, for the caller to broadcast on the topic.

    Args:
        rng: Draws the refs.

    >>> from random import Random
    >>> tracker = Tracker(Random(1))
    >>> ref, diff = tracker.track("room:1", "a channel", "ann", {"mood": "ok"})
    >>> diff == {"joins": {"ann": {"metas": [{"mood": "ok", "phx_ref": ref}]}}, "leaves": {}}
    True
    """

    def __init__(self, rng: "Random") -> None:
        self._rng = rng
        self._owned: dict[tuple[str, Hashable], dict[str, Meta]] = {}
        self._owners: dict[str, dict[str, dict[Hashable, None]]] = {}  # by topic and key, in their order

    def track(self, topic: str, owner: Hashable, key: str, meta: Any) -> tuple[str, Diff]:
        """Add a meta.

        Args:
            topic: The topic.
            owner: What tracks the meta, e.g. a channel.
            key: What the meta is about, e.g. a user's id.
            meta: A JSON object. `phx_ref` and `phx_ref_prev` are the tracker's own.

        Returns:
            The meta's ref, and the diff.

        Raises:
            InvalidPresence: The owner tracks the key already, the key is not text, or the meta is not an object.
            InvalidPayload: The key or the meta cannot be sent.
        """
        new = self._stamped(topic, key, meta)
        if self.find(topic, owner, key) is not None:
            raise InvalidPresence(topic, key, "is tracked already by this owner: update it")
        self._owned.setdefault((topic, owner), {})[key] = new
        self._owners.setdefault(topic, {}).setdefault(key, {})[owner] = None
        return new["phx_ref"], {"joins": _entries({key: new}), "leaves": {}}

    def update(self, topic: str, owner: Hashable, key: str, meta: Any) -> tuple[str, Diff]:
        """Replace a meta.

        Returns:
            The new meta's ref, and the diff.

        Raises:
            InvalidPresence: The owner does not track the key, or the meta is not an object.
            InvalidPayload: The meta cannot be sent.
        """
        new = self._stamped(topic, key, meta)
        old = self.find(topic, owner, key)
        if old is None:
            raise InvalidPresence(topic, key, "is not tracked by this owner: track it")
        new["phx_ref_prev"] = old["phx_ref"]
        self._owned[topic, owner][key] = new
        return new["phx_ref"], {"joins": _entries({key: new}), "leaves": _entries({key: old})}

    def untrack(self, topic: str, owner: Hashable, key: str | None = None) -> Diff | None:
        """Remove what an owner tracks on a topic: one key, or everything.

        Returns:
            The diff; `None` if there was nothing.
        """
        owned = self._owned.get((topic, owner), {})
        keys = [each for each in owned if key in (None, each)]
        if not keys:
            return None
        gone = {each: owned.pop(each) for each in keys}
        if not owned:
            del self._owned[topic, owner]
        owners = self._owners[topic]
        for each in keys:
            del owners[each][owner]
            if not owners[each]:
                del owners[each]
        if not owners:
            del self._owners[topic]
        return {"joins": {}, "leaves": _entries(gone)}

    def find(self, topic: str, owner: Hashable, key: str) -> Meta | None:
        """The meta of a key that an owner tracks."""
        return self._owned.get((topic, owner), {}).get(key)

    def state(self, topic: str) -> dict[str, Entry]:
        """All entries of a topic: the payload of a `presence_state`."""
        return {
            key: {"metas": [self._owned[topic, owner][key] for owner in owners]}
            for key, owners in self._owners.get(topic, {}).items()
        }

    def _stamped(self, topic: str, key: Any, meta: Any) -> Meta:
        if not isinstance(key, str):  # as JSON, 7 would be the key "7" a second time
            raise InvalidPresence(topic, key, "needs a key that is text")
        to_text(key, (), topic, PRESENCE_DIFF, key)
        text = to_text(meta, (), topic, PRESENCE_DIFF, meta)
        try:
            copy = _decode_meta(text)
        except msgspec.ValidationError:
            raise InvalidPresence(topic, key, "needs a meta that is an object") from None
        copy.pop("phx_ref_prev", None)  # from a meta that was read here and is passed in again, changed
        copy["phx_ref"] = urlsafe_b64encode(self._rng.randbytes(12)).decode()
        return copy


_decode_meta = msgspec.json.Decoder(Meta).decode


def _entries(metas: dict[str, Meta]) -> dict[str, Entry]:
    return {key: {"metas": [meta]} for key, meta in metas.items()}
