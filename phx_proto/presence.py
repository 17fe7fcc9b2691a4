"""The presence of a topic: presence state and diffs, merged as phoenix.js does (`presence.js`).

A server pushes the whole state after a join and broadcasts a diff for each change. Entries are mappings with a list of
`metas`, one for each place from which the key is present; a meta is identified by its `phx_ref`. The rules:

- In a diff joins are applied before leaves. Joined metas replace those of the same `phx_ref` and are appended to the
  rest; the entry's other fields become the join's. A leave of a key that is not present is ignored. A key without metas
  is removed.
- A diff may come before the state that includes it. Diffs wait for the state of the current join and are applied to it.
- The state of an earlier join is kept until that of the new one comes: the change is then what really happened while
  the client was disconnected, and not a join of every key.

Payloads are checked completely before anything is changed, and are never changed themselves. What is returned shares
their parts and is read-only.

The cost of a diff depends on what it changes, not on the number of entries: they are one dict that is changed in place.
A snapshot reads that dict, and keeps what each later change replaces.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

import msgspec

from .errors import InvalidFrame
from .shown import Record, shown

__all__ = [
    "PRESENCE_DIFF",
    "PRESENCE_JOIN",
    "PRESENCE_LEAVE",
    "PRESENCE_STATE",
    "Entries",
    "Entry",
    "Meta",
    "Presence",
    "PresenceChange",
    "sync_diff",
    "sync_state",
]

#: The event with the whole state.
PRESENCE_STATE: Final = "presence_state"
#: The event with a change.
PRESENCE_DIFF: Final = "presence_diff"

#: Real changes, as messages for the handlers and streams of these events; no server sends them.
PRESENCE_JOIN: Final = "presence_join"
#: The same for leaves.
PRESENCE_LEAVE: Final = "presence_leave"

#: One presence of a key: `phx_ref`, and what the server adds.
Meta: TypeAlias = dict[str, Any]
#: `{"metas": [{"phx_ref": …, …}, …]}` and whatever fields the server adds beside them.
Entry: TypeAlias = dict[str, Any]
#: All entries, by key.
Entries: TypeAlias = Mapping[str, Entry]


class PresenceChange(Record, frozen=True):
    """What really changed: the difference between the entries before and after.

    Attributes:
        joins: Keys with the metas that are new, or new in content.
        leaves: Keys with the metas that are gone, as they last were. An update is in both.
    """

    joins: dict[str, Entry]
    leaves: dict[str, Entry]


class Presence:
    """The presence of one topic.

    Attributes:
        state_event: The event with the whole state; a server may use another name (`presence.js`, `events`).
        diff_event: The event with a change.
        synced: Whether the state of the current join has come.

    >>> presence = Presence()
    >>> presence.joined()
    >>> presence.receive("presence_state", {"ann": {"metas": [{"phx_ref": "a"}]}})
    PresenceChange(joins={'ann': {'metas': [{'phx_ref': 'a'}]}}, leaves={})
    >>> list(presence.entries)
    ['ann']
    """

    def __init__(self, *, state_event: str = PRESENCE_STATE, diff_event: str = PRESENCE_DIFF) -> None:
        self.state_event = state_event
        self.diff_event = diff_event
        self._entries: dict[str, Entry] = {}
        self.synced = False
        self._snapshot: _Snapshot | None = None  # the latest one that reads this dict
        self._undone = 0  # the size of the undo data of earlier ones
        self._pending: deque[tuple[_Diff, int]] = deque()  # with the size of each
        self._pending_size = 0

    @property
    def entries(self) -> Entries:
        """All entries known now: a snapshot, which later changes do not alter."""
        if self._snapshot is None:
            self._snapshot = _Snapshot(self._entries)
        return self._snapshot

    def joined(self) -> None:
        """The topic was joined, or joined again: its state is yet to come. Call it at the join's reply."""
        self.synced = False
        self._forget_pending()

    def receive(self, event: str, payload: Any) -> PresenceChange | None:
        """Take a message of the topic, of its current join.

        Args:
            event: Its event; any other than the two of presence is ignored.
            payload: Its payload.

        Returns:
            What changed, perhaps nothing; `None` if the message was ignored or waits for the state.

        Raises:
            InvalidFrame: The payload is not what Phoenix sends. The entries are as before.
        """
        try:
            if event == self.state_event:
                return self._receive_state(_checked_entries(event, payload))
            if event == self.diff_event:
                return self._receive_diff(_Diff.checked(event, payload))
        except RecursionError:  # a value may be shallow enough to decode and too deep to compare
            raise InvalidFrame(f"the payload of {shown(event)} is nested too deeply") from None
        return None

    def _receive_state(self, state: dict[str, Entry]) -> PresenceChange:
        for diff, _ in self._pending:
            _merge(state, diff)
        change = _change(self._entries, state, [*self._entries, *state])
        self._forget_pending()
        self._snapshot = None  # it keeps the old dict
        self._undone = 0
        self._entries = state
        self.synced = True
        return change

    def _receive_diff(self, diff: "_Diff") -> PresenceChange | None:
        if not self.synced:
            self._wait(diff)
            return None
        keys = dict.fromkeys((*diff.joins, *diff.leaves))  # a dict keeps the order; a set's differs from run to run
        before = {key: self._entries[key] for key in keys if key in self._entries}
        after = dict(before)
        _merge(after, diff)
        change = _change(_concerned(before, diff), _concerned(after, diff), keys)
        self._keep_snapshot({key: before.get(key) for key in keys})
        _put(self._entries, {key: after.get(key) for key in keys})
        return change

    def _keep_snapshot(self, undo: Mapping[str, Entry | None]) -> None:
        """Preserve the contents of the latest snapshot while the entries change."""
        if self._snapshot is None:
            return
        self._undone += len(undo)
        if self._undone > len(self._entries) + _MOST_PENDING:  # an application may keep a snapshot forever
            self._entries = dict(self._entries)
            self._snapshot = None
            self._undone = 0
            return
        following = _Snapshot(self._entries)
        self._snapshot.outdate(following, undo)
        self._snapshot = following

    def _wait(self, diff: "_Diff") -> None:
        """Keep the diff for the state; only so many, for servers that never push a state.

        The oldest are dropped first: a state that is still to come includes them.
        """
        size = _size((diff.joins, diff.leaves))
        self._pending.append((diff, size))
        self._pending_size += size
        while len(self._pending) > _MOST_PENDING or self._pending_size > _LARGEST_PENDING:
            self._pending_size -= self._pending.popleft()[1]

    def _forget_pending(self) -> None:
        self._pending.clear()
        self._pending_size = 0


class _Snapshot(Mapping[str, Entry]):
    """The entries at one time.

    It reads a shared dict. Before that changes, the snapshot gets its successor, and the entries in which they differ.
    """

    __slots__ = ("_entries", "_next", "_undo")

    def __init__(self, entries: dict[str, Entry]) -> None:
        self._entries = entries
        self._next: _Snapshot | None = None
        self._undo: Mapping[str, Entry | None] = {}

    def __getitem__(self, key: str) -> Entry:
        return self._current()[key]

    def __iter__(self) -> Iterator[str]:
        return iter((*self._current(),))  # the dict may change during an iteration

    def __len__(self) -> int:
        return len(self._current())

    def __contains__(self, key: object) -> bool:
        return key in self._current()

    def __repr__(self) -> str:
        return repr(self._current())

    def outdate(self, following: "_Snapshot", undo: Mapping[str, Entry | None]) -> None:
        """The dict is about to change: `following` is the next snapshot, `undo` has the changed keys' old entries."""
        self._next = following
        self._undo = undo

    def _current(self) -> dict[str, Entry]:
        """The dict to read: the shared one, until that has changed."""
        if self._next is not None:
            undos: list[Mapping[str, Entry | None]] = []
            at = self
            while at._next is not None:
                undos.append(at._undo)
                at = at._next
            self._entries = dict(at._entries)
            for undo in reversed(undos):
                _put(self._entries, undo)
            self._next = None
        return self._entries


def sync_state(current: Entries, new: Any) -> tuple[dict[str, Entry], PresenceChange]:
    """The entries after a `presence_state`, and what it changed.

    Raises:
        InvalidFrame: `new` is not the payload of one.
    """
    state = _checked_entries(PRESENCE_STATE, new)
    return state, _change(current, state, [*current, *state])


def sync_diff(current: Entries, diff: Any) -> tuple[dict[str, Entry], PresenceChange]:
    """The entries after a `presence_diff`, and what it changed.

    Raises:
        InvalidFrame: `diff` is not the payload of one.
    """
    checked = _Diff.checked(PRESENCE_DIFF, diff)
    state = dict(current)
    _merge(state, checked)
    return state, _change(current, state, [*checked.joins, *checked.leaves])


# ---- private --------------------------------------------------------------------------------------------------------


class _Diff(msgspec.Struct, frozen=True):
    joins: dict[str, Entry]
    leaves: dict[str, Entry]

    @classmethod
    def checked(cls, where: str, payload: Any) -> "_Diff":
        fields = _object(where, payload)
        return cls(*(_checked_entries(f"{where}.{name}", fields.get(name)) for name in ("joins", "leaves")))


#: How many diffs may wait for a state, and their total size by `_size`.
_MOST_PENDING: Final = 1_000
_LARGEST_PENDING: Final = 8 * 2**20


def _size(value: Any) -> int:
    """The approximate size of a JSON value in memory, in bytes. A loop, because it may be nested deeply."""
    size, waiting = 0, [value]
    while waiting:
        value = waiting.pop()
        size += 64
        if isinstance(value, dict):
            waiting += value
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(value, str):
            size += len(value)
    return size


def _merge(state: dict[str, Entry], diff: _Diff) -> None:
    for key, entry in diff.joins.items():
        rest = _without(state.get(key, _NOBODY), _by_ref(entry))
        state[key] = {**entry, "metas": [*rest, *entry["metas"]]}
    for key, entry in diff.leaves.items():
        there = state.get(key)
        if there is None:
            continue
        metas = _without(there, _by_ref(entry))
        if metas:
            state[key] = {**there, "metas": metas}
        else:
            del state[key]


def _change(before: Entries, after: Entries, keys: Iterable[str]) -> PresenceChange:
    change = PresenceChange({}, {})
    for key in dict.fromkeys(keys):  # a dict keeps the order; a set's differs from run to run
        was, now = before.get(key, _NOBODY), after.get(key, _NOBODY)
        old, new = _by_ref(was), _by_ref(now)
        joined = [meta for ref, meta in new.items() if old.get(ref) != meta]
        left = [meta for ref, meta in old.items() if ref not in new]
        if joined:
            change.joins[key] = {**now, "metas": joined}
        if left:
            change.leaves[key] = {**was, "metas": left}
    return change


def _put(entries: dict[str, Entry], changed: Mapping[str, Entry | None]) -> None:
    """Change entries in place; `None` removes one."""
    for key, entry in changed.items():
        if entry is None:
            entries.pop(key, None)
        else:
            entries[key] = entry


def _concerned(entries: Entries, diff: _Diff) -> Entries:
    """The entries with only the metas in the diff: a key may have very many."""
    concerned: dict[str, Entry] = {}
    for key, entry in entries.items():
        refs = {meta["phx_ref"] for side in (diff.joins, diff.leaves) for meta in side.get(key, _NOBODY)["metas"]}
        concerned[key] = {**entry, "metas": [meta for meta in entry["metas"] if meta["phx_ref"] in refs]}
    return concerned


_NOBODY: Final[Entry] = {"metas": []}


def _by_ref(entry: Entry) -> dict[str, Meta]:
    return {meta["phx_ref"]: meta for meta in entry["metas"]}


def _without(entry: Entry, refs: Iterable[str]) -> list[Meta]:
    return [meta for meta in entry["metas"] if meta["phx_ref"] not in refs]


def _checked_entries(where: str, value: Any) -> dict[str, Entry]:
    """The entries that have metas."""
    entries = {key: _checked_entry(f"{where}[{repr(key)[:50]}]", entry) for key, entry in _object(where, value).items()}
    return {key: entry for key, entry in entries.items() if entry["metas"]}


def _checked_entry(where: str, value: Any) -> Entry:
    entry = _object(where, value)
    metas = entry.get("metas")
    if not isinstance(metas, list):
        raise InvalidFrame(f"{where}.metas is not an array")
    for index, meta in enumerate(metas):  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
        if not isinstance(_object(f"{where}.metas[{index}]", meta).get("phx_ref"), str):
            raise InvalidFrame(f"{where}.metas[{index}] has no phx_ref")
    return entry


def _object(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidFrame(f"{where} is not an object")
    return value  # pyright: ignore[reportUnknownVariableType]
