"""Presences of the peer's topics, and the server's messages about them."""

from collections.abc import Iterable, Mapping
from itertools import count
from typing import Any, cast

from .errors import CannotPlay

__tracebackhide__ = True  # for pytest: a failing test shows its own lines


class Presences:
    """Keeps every topic's metas by key, so that a test uses keys and not refs."""

    def __init__(self) -> None:
        self._topics: dict[str, dict[str, list[dict[str, Any]]]] = {}
        self._refs = count(1)

    def state(self, topic: str, entries: Mapping[str, Any] | None) -> dict[str, Any]:
        """The payload of a `presence_state`; without entries, of the presences so far."""
        if entries is not None:
            self._topics[topic] = {key: self._metas(given) for key, given in entries.items()}
        return _packed(self._topics.get(topic, {}))

    def diff(self, topic: str, joins: Mapping[str, Any], leaves: Iterable[str]) -> dict[str, Any]:
        """The payload of a `presence_diff`. Raises `CannotPlay` if a key that leaves is not present."""
        there = self._topics.setdefault(topic, {})
        left: dict[str, list[dict[str, Any]]] = {}
        for key in leaves:
            if key not in there:
                raise CannotPlay(f'"{key}" is not present on "{topic}"; present are: {", ".join(there) or "none"}')
            left[key] = there.pop(key)
        joined = {key: self._metas(given) for key, given in joins.items()}
        for key, metas in joined.items():
            if key in left:  # an update
                metas[0].setdefault("phx_ref_prev", left[key][0]["phx_ref"])
            there[key] = [*there.get(key, []), *metas]
        return {"joins": _packed(joined), "leaves": _packed(left)}

    def _metas(self, given: Any) -> list[dict[str, Any]]:
        metas = cast("list[dict[str, Any]]", given if isinstance(given, list) else [given])
        return [{"phx_ref": f"ref-{next(self._refs)}"} | meta for meta in metas]


def _packed(entries: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return {key: {"metas": metas} for key, metas in entries.items()}
