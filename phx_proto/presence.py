"""Who is on a topic: presence state and diffs, merged as phoenix.js does (`presence.js`).

A server pushes the whole state after a join and broadcasts a diff for each change. Entries are mappings with a list of
`metas`, one for each place from which the key is present; a meta is known by its `phx_ref`. The rules:

- In a diff joins are applied before leaves. Joined metas replace those of the same `phx_ref` and are appended to the
  rest; the entry's other fields become the join's. A leave of what is not there is ignored. A key without metas is
  gone.
- A diff may come before the state that includes it. Diffs wait for the state of the current join and are applied to it.
- The state of an earlier join is kept until that of the new one comes: the change it brings is then what really
  happened while the client was away, and not everybody joining again.

Payloads are checked whole before anything is changed, and are never changed themselves; what is handed out shares their
parts and is to be read only.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from .errors import InvalidFrame

PRESENCE_STATE: Final = "presence_state"
PRESENCE_DIFF: Final = "presence_diff"

Meta: TypeAlias = dict[str, Any]
#: `{"metas": [{"phx_ref": …, …}, …]}` and whatever fields the server adds beside them.
Entry: TypeAlias = dict[str, Any]
Entries: TypeAlias = Mapping[str, Entry]


class PresenceChange(msgspec.Struct, frozen=True):
    """What really changed: the difference between the entries before and after.

    Attributes:
        joins: Keys with the metas that are new, or new in content.
        leaves: Keys with the metas that are gone, as they last were. An update is in both.
    """

    joins: dict[str, Entry]
    leaves: dict[str, Entry]


class Presence:
    """The presence of one topic.

    >>> presence = Presence()
    >>> presence.joined("1")
    >>> presence.receive("presence_state", {"ann": {"metas": [{"phx_ref": "a"}]}}, join_ref="1")
    PresenceChange(joins={'ann': {'metas': [{'phx_ref': 'a'}]}}, leaves={})
    >>> list(presence.entries)
    ['ann']
    """

    __slots__ = ("_entries", "_join_ref", "_pending", "_synced")

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._join_ref: str | None = None
        self._synced = False
        # The bound is for servers that never push a state. It drops the oldest, which a late state includes anyway.
        self._pending: deque[_Diff] = deque(maxlen=1000)

    @property
    def entries(self) -> Entries:
        """Who is there now, as far as is known: a snapshot, which later changes leave alone."""
        return MappingProxyType(self._entries)

    @property
    def synced(self) -> bool:
        """Whether the state of the current join has come."""
        return self._synced

    def joined(self, join_ref: str) -> None:
        """The topic was joined, or joined again: its state is yet to come. To be called at the join's reply."""
        self._join_ref = join_ref
        self._synced = False
        self._pending.clear()

    def receive(self, event: str, payload: Any, *, join_ref: str | None) -> PresenceChange | None:
        """Take a message of the topic.

        Args:
            event: Its event; any other than the two of presence is ignored.
            payload: Its payload.
            join_ref: Its join_ref; `None` for a broadcast. One of another join than the current is ignored.

        Returns:
            What changed, perhaps nothing; `None` if the message was ignored or waits for the state.

        Raises:
            InvalidFrame: The payload is not what Phoenix sends. The entries are as before.
        """
        if join_ref is not None and join_ref != self._join_ref:
            return None
        try:
            if event == PRESENCE_STATE:
                return self._receive_state(_checked_entries(event, payload))
            if event == PRESENCE_DIFF:
                return self._receive_diff(_Diff.checked(payload))
        except RecursionError:  # what was shallow enough to be decoded need not be so to be compared
            raise InvalidFrame(f"the payload of {event!r} is nested too deeply") from None
        return None

    def _receive_state(self, state: dict[str, Entry]) -> PresenceChange:
        for diff in self._pending:
            state = _merged(state, diff)
        change = _change(self._entries, state, [*self._entries, *state])
        self._pending.clear()
        self._entries = state
        self._synced = True
        return change

    def _receive_diff(self, diff: "_Diff") -> PresenceChange | None:
        if not self._synced:
            self._pending.append(diff)
            return None
        state = _merged(self._entries, diff)
        change = _change(self._entries, state, [*diff.joins, *diff.leaves])
        self._entries = state
        return change


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
    checked = _Diff.checked(diff)
    state = _merged(current, checked)
    return state, _change(current, state, [*checked.joins, *checked.leaves])


# ---- private --------------------------------------------------------------------------------------------------------


class _Diff(msgspec.Struct, frozen=True):
    joins: dict[str, Entry]
    leaves: dict[str, Entry]

    @classmethod
    def checked(cls, payload: Any) -> "_Diff":
        fields = _object(PRESENCE_DIFF, payload)
        return cls(*(_checked_entries(f"{PRESENCE_DIFF}.{name}", fields.get(name)) for name in ("joins", "leaves")))


def _merged(current: Entries, diff: _Diff) -> dict[str, Entry]:
    state = dict(current)
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
    return state


def _change(before: Entries, after: Entries, keys: Iterable[str]) -> PresenceChange:
    change = PresenceChange({}, {})
    for key in dict.fromkeys(keys):  # in order: a set's differs from run to run
        was, now = before.get(key, _NOBODY), after.get(key, _NOBODY)
        old, new = _by_ref(was), _by_ref(now)
        joined = [meta for ref, meta in new.items() if old.get(ref) != meta]
        left = [meta for ref, meta in old.items() if ref not in new]
        if joined:
            change.joins[key] = {**now, "metas": joined}
        if left:
            change.leaves[key] = {**was, "metas": left}
    return change


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
