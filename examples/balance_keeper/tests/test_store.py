"""Balances and what has been seen of their events: in memory, or in a file where it matters that there is one."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ..store import Account, EventsMissed, Store

SIM = "sim:1"


def test_a_card_that_nothing_is_known_of_has_nothing(store: Store) -> None:
    assert store.account(SIM) == Account(cents=0, last_id=0)


def test_adding_gives_the_account_after_it(store: Store) -> None:
    assert store.add(SIM, 1, 500) == Account(cents=500, last_id=1)
    assert store.add(SIM, 2, -200) == Account(cents=300, last_id=2)


def test_a_balance_is_kept_with_its_last_event(store: Store) -> None:
    store.add(SIM, 1, 500)
    assert store.account(SIM) == Account(cents=500, last_id=1)


def test_a_balance_may_fall_below_zero(store: Store) -> None:
    assert store.add(SIM, 1, -200) == Account(cents=-200, last_id=1)


def test_a_correction_replaces_the_balance(store: Store) -> None:
    store.add(SIM, 1, 500)
    assert store.correct(SIM, 2, 123) == Account(cents=123, last_id=2)


def test_cards_have_balances_of_their_own(store: Store) -> None:
    store.add(SIM, 1, 500)
    store.add("sim:2", 1, 700)
    assert (store.account(SIM).cents, store.account("sim:2").cents) == (500, 700)


@pytest.mark.parametrize("seen", [1, 2], ids=["older", "last"])
def test_an_event_that_has_been_seen_changes_nothing(store: Store, seen: int) -> None:
    store.add(SIM, 1, 500)
    store.add(SIM, 2, 500)
    assert store.add(SIM, seen, 500) is None
    assert store.account(SIM) == Account(cents=1000, last_id=2)


@pytest.mark.parametrize(("known", "got"), [(0, 2), (1, 3), (1, 9)])
def test_an_event_that_is_not_the_next_is_refused_and_changes_nothing(store: Store, known: int, got: int) -> None:
    for event_id in range(1, known + 1):
        store.add(SIM, event_id, 500)
    before = store.account(SIM)
    with pytest.raises(EventsMissed) as missed:
        store.add(SIM, got, 500)
    assert (missed.value.topic, missed.value.expected, missed.value.got) == (SIM, known + 1, got)
    assert store.account(SIM) == before


def test_the_error_says_what_to_do() -> None:
    assert str(EventsMissed(SIM, 2, 4)) == "topic 'sim:1': event 4 came where 2 was expected; join again from there"


def test_what_cannot_be_written_changes_nothing(store: Store) -> None:
    store.add(SIM, 1, 500)
    with pytest.raises(OverflowError):
        store.add(SIM, 2, 2**63)
    assert store.account(SIM) == Account(cents=500, last_id=1)


def test_no_reserve_is_wanted_unless_it_is_set(store: Store) -> None:
    assert store.reserve() == 0
    store.set_reserve(300)
    store.set_reserve(400)
    assert store.reserve() == 400


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with Store(tmp_path / "balances.db") as before:
        before.add(SIM, 1, 500)
        before.set_reserve(300)
    with Store(tmp_path / "balances.db") as after:
        assert after.account(SIM) == Account(cents=500, last_id=1)
        assert after.reserve() == 300


def test_threads_write_beside_each_other(store: Store) -> None:
    def fill(topic: str) -> None:
        for event_id in range(1, 26):
            store.add(topic, event_id, 1)

    topics = [f"sim:{number}" for number in range(4)]
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(fill, topics))
    assert {store.account(topic) for topic in topics} == {Account(cents=25, last_id=25)}
