"""Who is where, as Phoenix.Presence keeps it: metas by topic and key, each owned by a channel."""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeAlias

Meta: TypeAlias = dict[str, Any]
Diff: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Entry:
    """One meta of one key."""

    owner: Hashable
    key: str
    meta: Meta


@dataclass(eq=False)
class Tracker:
    """All topics' entries, in the order in which they came. A change is returned as a diff, for the caller to send."""

    _topics: dict[str, list[Entry]] = field(default_factory=dict)
    _serials: Iterable[int] = field(default_factory=lambda: count(1))

    def track(self, topic: str, owner: Hashable, key: str, meta: Meta) -> tuple[str, Diff]:
        """Add a meta; its ref, and what changed."""
        entry = Entry(owner, key, {"phx_ref": self._ref(), **meta})
        self._topics.setdefault(topic, []).append(entry)
        return entry.meta["phx_ref"], _diff(joins=[entry])

    def update(self, topic: str, owner: Hashable, key: str, meta: Meta) -> tuple[str, Diff]:
        """Replace a meta that is there; its new ref, and what changed."""
        entries = self._topics[topic]
        old = next(entry for entry in entries if (entry.owner, entry.key) == (owner, key))
        new = Entry(owner, key, {"phx_ref": self._ref(), "phx_ref_prev": old.meta["phx_ref"], **meta})
        entries[entries.index(old)] = new
        return new.meta["phx_ref"], _diff(joins=[new], leaves=[old])

    def untrack(self, topic: str, owner: Hashable, key: str | None = None) -> Diff:
        """Take away an owner's metas, of one key or of all; what changed."""
        entries = self._topics.get(topic, [])
        gone = [entry for entry in entries if entry.owner == owner and key in (None, entry.key)]
        self._topics[topic] = [entry for entry in entries if entry not in gone]
        return _diff(leaves=gone)

    def find(self, topic: str, owner: Hashable, key: str) -> Meta | None:
        """An owner's meta of a key."""
        entries = self._topics.get(topic, [])
        return next((entry.meta for entry in entries if (entry.owner, entry.key) == (owner, key)), None)

    def state(self, topic: str) -> dict[str, Any]:
        """Everybody there."""
        return _grouped(self._topics.get(topic, []))

    def _ref(self) -> str:
        return f"F{next(iter(self._serials)):015}"


def _diff(*, joins: Iterable[Entry] = (), leaves: Iterable[Entry] = ()) -> Diff:
    return {"joins": _grouped(joins), "leaves": _grouped(leaves)}


def _grouped(entries: Iterable[Entry]) -> dict[str, Any]:
    grouped: dict[str, Any] = {}
    for entry in entries:
        grouped.setdefault(entry.key, {"metas": []})["metas"].append(entry.meta)
    return grouped
