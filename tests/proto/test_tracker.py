"""The server's half of presence; together with the client's half, which must have the same result."""

import copy
import re
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto.errors import InvalidPayload, InvalidPresence
from phx_proto.presence import Presence
from phx_proto.server.tracker import Tracker

ROOM = "room:lobby"


@pytest.fixture
def tracker() -> Tracker:
    return Tracker(Random(1))


def metas(tracker: Tracker, key: str, topic: str = ROOM) -> list[dict[str, Any]]:
    return list(tracker.state(topic)[key]["metas"])


def test_a_tracked_meta_joins_with_a_ref(tracker: Tracker) -> None:
    ref, diff = tracker.track(ROOM, "A", "ann", {"mood": "ok"})
    assert diff == {"joins": {"ann": {"metas": [{"mood": "ok", "phx_ref": ref}]}}, "leaves": {}}


def test_the_marks_of_the_tracker_are_not_the_callers_to_give(tracker: Tracker) -> None:
    ref, _ = tracker.track(ROOM, "A", "ann", {"phx_ref": "mine", "phx_ref_prev": "mine"})
    assert metas(tracker, "ann") == [{"phx_ref": ref}]


def test_the_state_holds_every_meta_of_a_key_in_the_order_they_came(tracker: Tracker) -> None:
    tracker.track(ROOM, "A", "ann", {"device": 1})
    tracker.track(ROOM, "B", "bob", {"device": 2})
    tracker.track(ROOM, "C", "ann", {"device": 3})
    state = tracker.state(ROOM)
    assert {key: [meta["device"] for meta in entry["metas"]] for key, entry in state.items()} == {
        "ann": [1, 3],
        "bob": [2],
    }


def test_one_owner_may_track_several_keys(tracker: Tracker) -> None:
    tracker.track(ROOM, "A", "ann", {})
    tracker.track(ROOM, "A", "ann's phone", {})
    assert list(tracker.state(ROOM)) == ["ann", "ann's phone"]


def test_topics_are_apart(tracker: Tracker) -> None:
    tracker.track(ROOM, "A", "ann", {})
    tracker.track("room:other", "A", "ann", {})
    tracker.untrack(ROOM, "A")
    assert tracker.state(ROOM) == {}
    assert list(tracker.state("room:other")) == ["ann"]


def test_an_update_leaves_and_joins_in_one_diff_and_names_the_old_ref(tracker: Tracker) -> None:
    old, _ = tracker.track(ROOM, "A", "ann", {"mood": "ok"})
    new, diff = tracker.update(ROOM, "A", "ann", {"mood": "great"})
    assert diff == {
        "joins": {"ann": {"metas": [{"mood": "great", "phx_ref": new, "phx_ref_prev": old}]}},
        "leaves": {"ann": {"metas": [{"mood": "ok", "phx_ref": old}]}},
    }
    assert metas(tracker, "ann") == diff["joins"]["ann"]["metas"]


def test_an_updated_meta_keeps_its_place(tracker: Tracker) -> None:
    tracker.track(ROOM, "A", "ann", {"device": 1})
    tracker.track(ROOM, "B", "ann", {"device": 2})
    tracker.update(ROOM, "A", "ann", {"device": 1.5})
    assert [meta["device"] for meta in metas(tracker, "ann")] == [1.5, 2]


def test_a_meta_that_was_read_can_be_changed_and_given_back(tracker: Tracker) -> None:
    tracker.track(ROOM, "A", "ann", {"mood": "ok", "phx_ref_prev": "mine"})
    first, _ = tracker.update(ROOM, "A", "ann", {**metas(tracker, "ann")[0], "mood": "great"})
    second, _ = tracker.update(ROOM, "A", "ann", {**metas(tracker, "ann")[0], "mood": "sad"})
    assert metas(tracker, "ann") == [{"mood": "sad", "phx_ref": second, "phx_ref_prev": first}]


def test_untracking_a_key_leaves_the_owners_others(tracker: Tracker) -> None:
    ref, _ = tracker.track(ROOM, "A", "ann", {})
    tracker.track(ROOM, "A", "ann's phone", {})
    assert tracker.untrack(ROOM, "A", "ann") == {"joins": {}, "leaves": {"ann": {"metas": [{"phx_ref": ref}]}}}
    assert list(tracker.state(ROOM)) == ["ann's phone"]


def test_untracking_an_owner_takes_all_it_tracks_in_one_diff(tracker: Tracker) -> None:
    tracker.track(ROOM, "A", "ann", {})
    tracker.track(ROOM, "B", "ann", {})
    tracker.track(ROOM, "A", "ann's phone", {})
    diff = tracker.untrack(ROOM, "A")
    assert diff is not None
    assert list(diff["leaves"]) == ["ann", "ann's phone"]
    assert len(metas(tracker, "ann")) == 1
    assert tracker.find(ROOM, "A", "ann") is None
    assert tracker.find(ROOM, "B", "ann") == metas(tracker, "ann")[0]


@pytest.mark.parametrize("key", [None, "bob"])
def test_untracking_what_is_not_there_changes_nothing(tracker: Tracker, key: str | None) -> None:
    tracker.track(ROOM, "A", "ann", {})
    assert tracker.untrack(ROOM, "B", key) is None
    assert tracker.untrack(ROOM, "A", "bob") is None
    assert list(tracker.state(ROOM)) == ["ann"]


def test_nothing_is_kept_of_those_who_went() -> None:
    used, fresh = Tracker(Random(1)), Tracker(Random(1))
    for owner in range(10):
        used.track(ROOM, owner, "ann", {})
    for owner in range(10):
        used.untrack(ROOM, owner)
    assert {**vars(used), "_rng": None} == {**vars(fresh), "_rng": None}


def test_a_key_is_tracked_once_by_an_owner(tracker: Tracker) -> None:
    tracker.track(ROOM, "A", "ann", {"n": 1})
    with pytest.raises(InvalidPresence, match="'ann' on topic 'room:lobby' is tracked already"):
        tracker.track(ROOM, "A", "ann", {"n": 2})
    assert [meta["n"] for meta in metas(tracker, "ann")] == [1]


def test_what_is_not_tracked_cannot_be_updated(tracker: Tracker) -> None:
    tracker.track(ROOM, "B", "ann", {})
    with pytest.raises(InvalidPresence) as caught:
        tracker.update(ROOM, "A", "ann", {})
    assert vars(caught.value) == {"topic": ROOM, "key": "ann", "problem": "is not tracked by this owner: track it"}


@pytest.mark.parametrize("meta", [[], "text", 1, None])
def test_a_meta_is_an_object(tracker: Tracker, meta: Any) -> None:
    tracker.track(ROOM, "A", "ann", {"n": 1})
    for call, key in ((tracker.track, "ann's phone"), (tracker.update, "ann")):
        with pytest.raises(InvalidPresence) as caught:
            call(ROOM, "A", key, meta)
        assert vars(caught.value) == {"topic": ROOM, "key": key, "problem": "needs a meta that is an object"}
    assert list(tracker.state(ROOM)) == ["ann"]


def test_a_meta_that_cannot_be_sent_is_refused_and_changes_nothing(tracker: Tracker) -> None:
    tracker.track(ROOM, "A", "ann", {"n": 1})
    before = copy.deepcopy(tracker.state(ROOM))
    for call, key in ((tracker.track, "ann's phone"), (tracker.update, "ann")):
        with pytest.raises(InvalidPayload) as caught:
            call(ROOM, "A", key, {"n": float("nan")})
        assert (caught.value.topic, caught.value.event, caught.value.where) == (ROOM, "presence_diff", "payload.n")
    assert tracker.state(ROOM) == before


@pytest.mark.parametrize("key", [7, None, [1], b"ann"])
def test_a_key_is_text(tracker: Tracker, key: Any) -> None:
    for call in (tracker.track, tracker.update):
        with pytest.raises(InvalidPresence, match="needs a key that is text"):
            call(ROOM, "A", key, {})
    assert tracker.state(ROOM) == {}


def test_a_key_that_cannot_be_sent_is_refused_and_changes_nothing(tracker: Tracker) -> None:
    with pytest.raises(InvalidPayload, match="lone surrogate"):
        tracker.track(ROOM, "A", "\ud800", {})
    assert tracker.state(ROOM) == {}


def test_a_meta_that_changes_later_does_not_change_what_is_tracked(tracker: Tracker) -> None:
    meta: dict[str, Any] = {"tags": ["a"]}
    tracker.track(ROOM, "A", "ann", meta)
    meta["tags"].append("b")
    assert metas(tracker, "ann")[0]["tags"] == ["a"]


def test_refs_differ_from_each_other_and_from_those_of_another_run() -> None:
    refs = {Tracker(Random(run)).track(ROOM, owner, "ann", {})[0] for run in range(20) for owner in range(20)}
    one = Tracker(Random(1))
    assert len(refs) == 20
    assert len({one.track(ROOM, owner, "ann", {})[0] for owner in range(20)}) == 20


def test_a_ref_is_as_long_as_those_of_phoenix(tracker: Tracker) -> None:
    ref, _ = tracker.track(ROOM, "A", "ann", {})
    assert re.fullmatch("[A-Za-z0-9_-]{16}", ref)


@dataclass
class Watcher:
    """A client that sees every diff of the topic."""

    presence: Presence = field(default_factory=Presence)

    def __post_init__(self) -> None:
        self.presence.joined()
        self.presence.receive("presence_state", {})

    def saw(self, diff: Any) -> None:
        self.presence.receive("presence_diff", copy.deepcopy(diff))


_STEPS = st.lists(
    st.tuples(st.sampled_from(["track", "update", "untrack", "leave"]), st.sampled_from("AB"), st.sampled_from("xyz")),
    max_size=30,
)


@given(_STEPS)
@settings(max_examples=2 * settings().max_examples)
def test_who_follows_the_diffs_sees_the_state(steps: list[tuple[str, str, str]]) -> None:
    tracker, watcher = Tracker(Random(1)), Watcher()
    for number, (what, owner, key) in enumerate(steps):
        there = tracker.find(ROOM, owner, key) is not None
        if what == "track" and not there:
            watcher.saw(tracker.track(ROOM, owner, key, {"n": number})[1])
        elif what == "update" and there:
            watcher.saw(tracker.update(ROOM, owner, key, {"n": number})[1])
        elif what in ("untrack", "leave"):
            diff = tracker.untrack(ROOM, owner, key if what == "untrack" else None)
            if diff is not None:
                watcher.saw(diff)
    assert by_ref(watcher.presence.entries) == by_ref(tracker.state(ROOM))


def by_ref(entries: Any) -> dict[str, dict[str, Any]]:
    """Without the order of a key's metas: a client appends an updated one."""
    return {key: {meta["phx_ref"]: meta for meta in entry["metas"]} for key, entry in entries.items()}
