import json
import sys
from copy import deepcopy
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto.errors import InvalidFrame
from phx_proto.presence import Entries, Presence, PresenceChange, sync_diff, sync_state

RECORDED = Path(__file__).parents[1] / "conformance" / "transcripts" / "presence.v2.jsonl"


def meta(ref: str, **fields: Any) -> dict[str, Any]:
    return {"phx_ref": ref, **fields}


def entry(*refs: str, **fields: Any) -> dict[str, Any]:
    return {"metas": [meta(ref) for ref in refs], **fields}


def synced(**entries: Any) -> Presence:
    presence = Presence()
    presence.joined()
    presence.receive("presence_state", entries)
    return presence


def diff(joins: dict[str, Any] | None = None, leaves: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"joins": joins or {}, "leaves": leaves or {}}


# ---- diffs

ANN = {"ann": entry("a1", "a2", age=1)}


@pytest.mark.parametrize(
    ("payload", "state", "joins", "leaves"),
    [
        pytest.param(diff(), ANN, {}, {}, id="nothing"),
        pytest.param(
            diff({"bob": entry("b1", age=9)}),
            ANN | {"bob": entry("b1", age=9)},
            {"bob": entry("b1", age=9)},
            {},
            id="a new key",
        ),
        pytest.param(
            diff({"ann": entry("a3", age=2)}),
            {"ann": entry("a1", "a2", "a3", age=2)},
            {"ann": entry("a3", age=2)},
            {},
            id="another meta is appended and the other fields are the join's",
        ),
        pytest.param(
            diff({"ann": entry("a3")}),
            {"ann": entry("a1", "a2", "a3")},
            {"ann": entry("a3")},
            {},
            id="a field that the join has not is gone",
        ),
        pytest.param(
            diff({"ann": {"metas": [meta("a1", mood="ok")]}}),
            {"ann": {"metas": [meta("a2"), meta("a1", mood="ok")]}},
            {"ann": {"metas": [meta("a1", mood="ok")]}},
            {},
            id="a meta of the same ref replaces the old one",
        ),
        pytest.param(
            diff({"ann": entry("a1", age=1)}),
            {"ann": entry("a2", "a1", age=1)},
            {},
            {},
            id="a join of what is there changes nothing",
        ),
        pytest.param(
            diff({}, {"ann": entry("a1")}),
            {"ann": entry("a2", age=1)},
            {},
            {"ann": entry("a1", age=1)},
            id="one of two metas leaves",
        ),
        pytest.param(
            diff({}, {"ann": entry("a1", "a2")}),
            {},
            {},
            {"ann": entry("a1", "a2", age=1)},
            id="a key without metas is gone",
        ),
        pytest.param(diff({}, {"bob": entry("b1")}), ANN, {}, {}, id="a leave of an unknown key"),
        pytest.param(diff({}, {"ann": entry("a9")}), ANN, {}, {}, id="a leave of an unknown meta"),
        pytest.param(
            diff({}, {"bob": entry("b1"), "ann": entry("a1", "a2")}),
            {},
            {},
            {"ann": entry("a1", "a2", age=1)},
            id="a leave of an unknown key before one of a known",
        ),
        pytest.param(
            diff({"ann": entry("a3", age=1)}, {"ann": entry("a1")}),
            {"ann": entry("a2", "a3", age=1)},
            {"ann": entry("a3", age=1)},
            {"ann": entry("a1", age=1)},
            id="an update is a join and a leave",
        ),
        pytest.param(
            diff({"bob": entry("b1")}, {"bob": entry("b1")}), ANN, {}, {}, id="joins are applied before leaves"
        ),
        pytest.param(diff({"bob": entry()}), ANN, {}, {}, id="a join without metas is nobody"),
    ],
)
def test_a_diff_is_merged(payload: Any, state: Any, joins: Any, leaves: Any) -> None:
    assert sync_diff(ANN, payload) == (state, PresenceChange(joins, leaves))


# ---- states


@pytest.mark.parametrize(
    ("new", "joins", "leaves"),
    [
        pytest.param(ANN, {}, {}, id="nothing"),
        pytest.param({}, {}, ANN, id="all gone"),
        pytest.param(ANN | {"bob": entry("b1")}, {"bob": entry("b1")}, {}, id="one more"),
        pytest.param(
            {"ann": entry("a2", "a3", age=2)},
            {"ann": entry("a3", age=2)},
            {"ann": entry("a1", age=1)},
            id="a meta came and one went",
        ),
    ],
)
def test_a_state_is_taken_as_the_truth_and_compared_with_what_was_known(new: Any, joins: Any, leaves: Any) -> None:
    assert sync_state(ANN, new) == (new, PresenceChange(joins, leaves))


def test_keys_without_metas_are_not_there() -> None:
    assert sync_state({}, {"ann": entry()}) == ({}, PresenceChange({}, {}))


# ---- one topic


def test_nobody_is_there_before_the_state() -> None:
    presence = Presence()
    assert (presence.entries, presence.synced) == ({}, False)
    presence.joined()
    assert (presence.entries, presence.synced) == ({}, False)


def test_the_first_state_is_told_as_joins() -> None:
    presence = Presence()
    presence.joined()
    change = presence.receive("presence_state", ANN)
    assert change == PresenceChange(ANN, {})
    assert presence.entries == ANN
    assert presence.synced


def test_an_empty_state_is_told_too() -> None:
    presence = Presence()
    presence.joined()
    assert presence.receive("presence_state", {}) == PresenceChange({}, {})


def test_a_diff_before_the_state_is_applied_to_it() -> None:
    presence = Presence()
    presence.joined()
    assert presence.receive("presence_diff", diff({"bob": entry("b1")})) is None
    assert presence.receive("presence_diff", diff({}, {"ann": entry("a1")})) is None
    assert presence.entries == {}
    change = presence.receive("presence_state", ANN)
    assert presence.entries == {"ann": entry("a2", age=1), "bob": entry("b1")}
    assert change == PresenceChange({"ann": entry("a2", age=1), "bob": entry("b1")}, {})


def test_a_diff_after_the_state_is_applied_at_once() -> None:
    presence = synced(ann=entry("a1"))
    change = presence.receive("presence_diff", diff({"bob": entry("b1")}))
    assert change == PresenceChange({"bob": entry("b1")}, {})
    assert presence.entries == {"ann": entry("a1"), "bob": entry("b1")}


def test_a_diff_is_applied_once() -> None:
    presence = Presence()
    presence.joined()
    presence.receive("presence_diff", diff({"bob": entry("b1")}))
    presence.receive("presence_state", {})
    presence.receive("presence_state", {})
    assert presence.entries == {}


def test_after_a_rejoin_the_old_state_stands_until_the_new_one_comes() -> None:
    presence = synced(ann=entry("a1"))
    presence.joined()
    assert presence.receive("presence_diff", diff({"bob": entry("b1")})) is None
    assert presence.entries == {"ann": entry("a1")}
    assert not presence.synced


def test_a_state_after_a_rejoin_tells_what_happened_meanwhile() -> None:
    presence = synced(ann=entry("a1"), bob=entry("b1"))
    presence.joined()
    change = presence.receive("presence_state", {"bob": entry("b1"), "eve": entry("e1")})
    assert change == PresenceChange({"eve": entry("e1")}, {"ann": entry("a1")})


def test_diffs_of_an_older_join_are_forgotten() -> None:
    presence = Presence()
    presence.joined()
    presence.receive("presence_diff", diff({"ghost": entry("g1")}))
    presence.joined()
    presence.receive("presence_state", ANN)
    assert presence.entries == ANN


def test_other_events_are_ignored() -> None:
    presence = synced(**ANN)
    assert presence.receive("shout", {}) is None
    assert presence.entries == ANN


def test_a_server_that_never_pushes_a_state_fills_nothing() -> None:
    presence = Presence()
    presence.joined()
    for number in range(1_200):
        presence.receive("presence_diff", diff({str(number): entry("x")}))
    presence.receive("presence_state", {})
    assert list(presence.entries) == [str(number) for number in range(200, 1_200)]


def test_entries_are_a_snapshot() -> None:
    presence = synced(ann=entry("a1"))
    before = presence.entries
    presence.receive("presence_diff", diff({"ann": entry("a2")}, {"ann": entry("a1")}))
    presence.receive("presence_diff", diff({"bob": entry("b1")}))
    assert before == {"ann": entry("a1")}


def test_every_snapshot_stays_as_it_was_however_much_changes() -> None:
    presence = synced(ann=entry("a1"))
    rng = Random(7)
    snapshots: list[tuple[Entries, dict[str, Any]]] = []
    truth: dict[str, Any] = dict(presence.entries)
    for number in range(4_000):
        key = str(rng.randrange(20))
        joins = {key: entry(f"r{number}")}
        leaves = {key: entry(*[meta["phx_ref"] for meta in truth.pop(key, {"metas": []})["metas"]])}
        truth |= joins
        if rng.random() < 0.1:
            leaves |= {"gone": entry("x")}
        if rng.random() < 0.3:
            joins, leaves = {}, {key: {"metas": [*leaves[key]["metas"], {"phx_ref": f"r{number}"}]}}
            del truth[key]
        presence.receive("presence_diff", diff(joins, leaves))
        if rng.random() < 0.01:
            snapshots.append((presence.entries, dict(truth)))
    assert len(snapshots) > 20
    rng.shuffle(snapshots)
    for snapshot, then in snapshots:
        assert snapshot == then
        assert repr(snapshot) == repr(dict(snapshot))
        assert len(snapshot) == len(then)
        assert "ann" in snapshot


@pytest.mark.parametrize("entries", [1, 500])
def test_a_snapshot_that_is_kept_keeps_no_more_than_its_entries_and_a_thousand_changes(entries: int) -> None:
    state = {str(number): entry("x") for number in range(entries)}
    presence = synced(**state)

    def kept_after(changes: int) -> int:
        """How many later snapshots one keeps that was taken before so many changes."""
        snapshot: Any = presence.entries
        for number in range(changes):
            presence.receive("presence_diff", diff({"0": entry(f"r{number}")}, {"0": entry(f"r{number - 1}")}))
        kept = 0
        while (following := snapshot._next) is not None:
            snapshot, kept = following, kept + 1
        presence.receive("presence_diff", diff({}, {"0": entry(f"r{changes - 1}")}))
        presence.receive("presence_diff", diff({"0": entry("x")}))
        return kept

    for _ in range(2):  # once after another
        assert kept_after(entries + 2_000) == entries + 1_000
        presence.receive("presence_state", state)
        assert kept_after(entries + 1_000) == entries + 1_000
        presence.receive("presence_state", state)


def test_a_snapshot_may_be_iterated_while_the_entries_change() -> None:
    presence = synced(ann=entry("a1"), bob=entry("b1"))
    seen: list[str] = []
    for key in presence.entries:
        seen.append(key)
        presence.receive("presence_diff", diff({"zoe": entry("z1")}, {key: entry(f"{key[0]}1")}))
    assert seen == ["ann", "bob"]
    assert list(presence.entries) == ["zoe"]


@pytest.mark.parametrize("held", [False, True])
def test_a_diff_costs_what_it_changes(*, held: bool) -> None:
    def touched(count: int) -> int:
        """How many lines of Python run for 50 diffs among so many entries; C works on whole dicts in none."""
        presence = synced(**{f"user{number}": entry(f"r{number}") for number in range(count)})
        copies: list[Entries] = []
        lines = 0

        def count_lines(frame: Any, event: str, arg: Any) -> Any:
            nonlocal lines
            lines += event == "line"
            return count_lines

        before = sys.gettrace()
        sys.settrace(count_lines)
        try:
            for number in range(50):
                presence.receive("presence_diff", diff({f"new{number}": entry("n")}))
                if held:
                    copies.append(presence.entries)
        finally:
            sys.settrace(before)
        return lines

    assert touched(10) == touched(1_000)


def test_diffs_that_wait_for_a_state_are_bounded_in_size_and_the_oldest_go_first() -> None:
    presence = Presence()
    presence.joined()
    for number in range(10):
        large = {str(number): {"metas": [{"phx_ref": "r", "text": "x" * 2**20}]}}
        presence.receive("presence_diff", diff(large))
    presence.receive("presence_state", {})
    assert list(presence.entries) == [str(number) for number in range(3, 10)]


@pytest.mark.parametrize(("more", "kept"), [(0, ["ann", "bob"]), (1, ["bob"])])
def test_diffs_that_wait_for_a_state_take_eight_mebibytes_at_most(more: int, kept: list[str]) -> None:
    presence = Presence()
    for _ in range(2):  # each join anew
        presence.joined()
        # 64 bytes for each of the ten values of a diff with one entry, and one for each character
        besides = 2 * (10 * 64 + len("ann") + len("metas") + len("phx_ref"))
        for key, size in (("ann", 4 * 2**20), ("bob", 4 * 2**20 - besides + more)):
            presence.receive("presence_diff", diff({key: entry("x" * size)}))
        presence.receive("presence_state", {})
        assert list(presence.entries) == kept


def test_diffs_that_were_forgotten_take_no_room_from_later_ones() -> None:
    presence = Presence()
    for _ in range(9):
        presence.joined()
        large = {"ann": {"metas": [{"phx_ref": "r", "text": "x" * 2**20}]}}
        presence.receive("presence_diff", diff(large))
    presence.joined()
    presence.receive("presence_diff", diff(ANN))
    presence.receive("presence_state", {})
    assert presence.entries == ANN


# ---- malformed payloads

BAD_ENTRIES: list[Any] = [
    None,
    [],
    "text",
    7,
    {"ann": None},
    {"ann": []},
    {"ann": {}},
    {"ann": {"metas": None}},
    {"ann": {"metas": {"phx_ref": "a1"}}},
    {"ann": {"metas": [None]}},
    {"ann": {"metas": [{}]}},
    {"ann": {"metas": [{"phx_ref": None}]}},
    {"ann": {"metas": [{"phx_ref": []}]}},
    {"bob": entry("b1"), "ann": {"metas": [meta("a1"), {"phx_ref": 1}]}},
]
BAD_DIFFS: list[Any] = [None, [], b"bytes", {}, {"joins": {}}, {"leaves": {}}]
BAD: list[tuple[str, Any]] = [
    *(("presence_state", entries) for entries in BAD_ENTRIES),
    *(("presence_diff", {"joins": entries, "leaves": {}}) for entries in BAD_ENTRIES),
    *(("presence_diff", {"joins": {"bob": entry("b1")}, "leaves": entries}) for entries in BAD_ENTRIES),
    *(("presence_diff", payload) for payload in BAD_DIFFS),
]


@pytest.mark.parametrize(("event", "payload"), BAD)
def test_a_malformed_payload_is_told_and_changes_nothing(event: str, payload: Any) -> None:
    presence = synced(**ANN)
    with pytest.raises(InvalidFrame, match=f"^{event}"):
        presence.receive(event, payload)
    assert presence.entries == ANN
    assert presence.synced


def test_a_malformed_diff_before_the_state_is_told_when_it_comes() -> None:
    presence = Presence()
    presence.joined()
    with pytest.raises(InvalidFrame):
        presence.receive("presence_diff", {"joins": {}})
    presence.receive("presence_state", ANN)
    assert presence.entries == ANN


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ([], "presence_state is not an object"),
        ({"ann": 1}, "presence_state['ann'] is not an object"),
        ({"ann": {}}, "presence_state['ann'].metas is not an array"),
        ({"ann": {"metas": [3]}}, "presence_state['ann'].metas[0] is not an object"),
        ({"ann": {"metas": [meta("a1"), {}]}}, "presence_state['ann'].metas[1] has no phx_ref"),
    ],
)
def test_the_error_tells_where_the_payload_is_wrong(payload: Any, problem: str) -> None:
    with pytest.raises(InvalidFrame) as caught:
        sync_state({}, payload)
    assert str(caught.value) == problem


def test_the_error_tells_of_which_half_of_a_diff_it_is() -> None:
    for bad, half in ((diff({"ann": 1}), "joins"), (diff({}, {"ann": 1}), "leaves")):
        with pytest.raises(InvalidFrame) as caught:
            sync_diff({}, bad)
        assert str(caught.value) == f"presence_diff.{half}['ann'] is not an object"


def test_metas_too_deep_to_be_compared_are_told_and_change_nothing() -> None:
    class Deep:  # some Pythons compare lists of any depth; what one of V1 or V2 may have is bounded (soundness.py)
        def __eq__(self, other: object) -> bool:
            raise RecursionError

    def state(name: str) -> Any:
        return {"a": {"metas": [{"phx_ref": "1", "name": name, "deep": Deep()}]}}

    presence = Presence()
    presence.joined()
    presence.receive("presence_state", state("first"))
    with pytest.raises(InvalidFrame, match="'presence_state' is nested too deeply"):
        presence.receive("presence_state", state("first"))
    with pytest.raises(InvalidFrame, match="'presence_diff' is nested too deeply"):
        presence.receive("presence_diff", {"joins": state("first"), "leaves": {}})
    assert presence.entries["a"]["metas"][0]["name"] == "first"


def test_the_error_does_not_repeat_a_long_key() -> None:
    with pytest.raises(InvalidFrame) as caught:
        sync_state({}, {"k" * 10_000: 1})
    assert str(caught.value) == f"presence_state['{'k' * 49}] is not an object"


# Shapes near the real ones, so that some are sound.
json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["joins", "leaves", "metas", "phx_ref", "ann"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.sampled_from(["presence_state", "presence_diff"]), json_values)
def test_any_json_is_either_refused_or_merged(event: str, payload: Any) -> None:
    presence = synced(**ANN)
    try:
        presence.receive(event, payload)
    except InvalidFrame:
        assert presence.entries == ANN
    assert all(meta["phx_ref"] is not None for entry in presence.entries.values() for meta in entry["metas"])
    assert all(entry["metas"] for entry in presence.entries.values())


# ---- a recorded server


def test_a_recorded_session_leaves_every_client_with_the_servers_state() -> None:
    clients: dict[str, Presence] = {}
    joined: dict[str, str] = {}  # the join_ref of those whose channel lives
    requests: dict[tuple[str, str], str] = {}
    compared = 0
    for line in RECORDED.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if record["dir"] == "tcp_close" or record.get("op") == "close":
            joined.pop(record["c"], None)
        if record.get("op") != "text":
            continue
        join_ref, ref, _topic, event, payload = json.loads(record["data"])
        connection = record["c"]
        if record["dir"] == "send":
            requests[connection, ref] = event
            continue
        truth = None
        request = requests.get((connection, ref)) if event == "phx_reply" else None
        if request == "phx_join":
            clients.setdefault(connection, Presence()).joined()
            joined[connection] = join_ref
        elif request == "list":
            truth = payload["response"]
        elif event in ("phx_close", "phx_error") and joined.get(connection) == join_ref:
            del joined[connection]
        elif connection in joined and join_ref in (None, joined[connection]):
            clients[connection].receive(event, payload)
            truth = payload if event == "presence_state" else None
        if truth is not None:
            for name in joined:
                assert clients[name].entries == truth, (name, record["t_ms"])
                compared += 1
    assert compared == 22


# ---- a model server


class Server:
    """Tracks metas by ref; every step is a list of changes that go out as one diff."""

    def __init__(self) -> None:
        self.metas: dict[str, str] = {}  # ref -> key
        self.refs = 0

    def step(self, changes: list[tuple[str, int]]) -> Any:
        made = diff()
        for what, pick in changes:
            if what != "track" and not self.metas:
                continue
            ref = list(self.metas)[pick % len(self.metas)] if what != "track" else ""
            key = self.metas[ref] if ref else "abc"[pick % 3]
            if ref:
                del self.metas[ref]
                made["leaves"].setdefault(key, entry())["metas"].append(meta(ref))
            if what != "untrack":
                self.refs += 1
                self.metas[f"r{self.refs}"] = key
                made["joins"].setdefault(key, entry())["metas"].append(meta(f"r{self.refs}"))
        return made

    def state(self) -> Any:
        state: dict[str, Any] = {}
        for ref, key in self.metas.items():
            state.setdefault(key, entry())["metas"].append(meta(ref))
        return state


changes = st.lists(st.tuples(st.sampled_from(["track", "untrack", "update"]), st.integers(0, 20)), max_size=3)
#: The steps while one join lasts; which of them the state is taken after, and which it is sent after.
sessions = st.tuples(st.lists(changes, max_size=8), st.integers(0, 8), st.integers(0, 8))


def refs(entries: Entries) -> dict[str, set[str]]:
    return {key: {meta["phx_ref"] for meta in entry["metas"]} for key, entry in entries.items()}


def flat(entries: Entries) -> set[tuple[str, str]]:
    return {(key, meta["phx_ref"]) for key, entry in entries.items() for meta in entry["metas"]}


@given(st.lists(sessions, min_size=1, max_size=3))
@settings(max_examples=2 * settings().max_examples)
def test_whenever_the_state_comes_the_client_ends_with_the_servers(script: Any) -> None:
    server, presence = Server(), Presence()
    mirror: set[tuple[str, str]] = set()  # kept from the changes alone
    for steps, taken, sent in script:
        presence.joined()
        diffs, states = [], [server.state()]
        for step in steps:
            diffs.append(server.step(step))
            states.append(server.state())
        wire: list[tuple[str, Any]] = [("presence_diff", payload) for payload in diffs]
        wire.insert(min(sent, len(steps)), ("presence_state", states[min(taken, len(steps))]))
        for event, payload in wire:
            as_it_came = deepcopy(payload)
            change = presence.receive(event, payload)
            assert payload == as_it_came
            if change is not None:
                assert mirror.isdisjoint(flat(change.joins))
                assert mirror >= flat(change.leaves)
                mirror = (mirror | flat(change.joins)) - flat(change.leaves)
            assert mirror == flat(presence.entries)
        assert refs(presence.entries) == refs(server.state())
        server.step([("track", 1), ("untrack", 0)])  # what happens while nobody listens
