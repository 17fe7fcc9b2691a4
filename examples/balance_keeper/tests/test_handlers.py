"""What each event does, with `deliver`: no connection, and a channel that keeps what was sent on it."""

import logging
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto import PhxError, Router
from phx_proto.errors import PayloadMismatch, PushLost, PushTimeout
from phx_transports.testing import FakeChannel, NothingHandled, Sent, deliver

from ..handlers import Handlers
from ..store import Account, EventsMissed, Store

SIM = "sim:1"


@pytest.fixture
def router(store: Store) -> Router:
    return Handlers(store).router()


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel(SIM).reply("top_up")


@pytest.mark.parametrize(
    ("event", "cents", "balance"), [("charged", 300, 700), ("topped_up", 300, 1300), ("corrected", -300, -300)]
)
def test_an_event_changes_the_balance(store: Store, router: Router, event: str, cents: int, balance: int) -> None:
    store.add(SIM, 1, 1000)
    deliver(router, SIM, event, {"id": 2, "cents": cents}).check()
    assert store.account(SIM) == Account(cents=balance, last_id=2)


@pytest.mark.parametrize("event", ["charged", "topped_up", "corrected"])
def test_an_event_that_comes_again_counts_once(store: Store, router: Router, event: str) -> None:
    deliver(router, SIM, "topped_up", {"id": 1, "cents": 1000}).check()
    deliver(router, SIM, event, {"id": 1, "cents": 300}).check()
    assert store.account(SIM) == Account(cents=1000, last_id=1)


@pytest.mark.parametrize("event", ["charged", "topped_up", "corrected"])
def test_an_event_that_is_missing_is_missed(router: Router, event: str) -> None:
    with pytest.raises(EventsMissed, match="sim:1"):
        deliver(router, SIM, event, {"id": 2, "cents": 300}).check()


@pytest.mark.parametrize("event", ["charged", "topped_up", "corrected"])
@pytest.mark.parametrize(
    "payload",
    [{"cents": 5}, {"id": 1}, {"id": 0, "cents": 5}, {"id": 1, "cents": "5"}, {"id": 1, "cents": 0.5}, [1, 5], b"5"],
    ids=["no id", "no cents", "id zero", "text", "a fraction", "a list", "bytes"],
)
def test_what_is_no_event_is_not_counted(store: Store, router: Router, event: str, payload: Any) -> None:
    (error,) = deliver(router, SIM, event, payload).errors
    assert isinstance(error, PayloadMismatch)
    assert store.account(SIM) == Account()


@pytest.mark.parametrize("event", ["charged", "topped_up"])
def test_an_amount_is_above_zero(router: Router, event: str) -> None:
    (error,) = deliver(router, SIM, event, {"id": 1, "cents": 0}).errors
    assert isinstance(error, PayloadMismatch)


def test_each_change_is_told_to_the_log(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "balance_keeper")
    deliver(router, SIM, "topped_up", {"id": 1, "cents": 1005}).check()
    deliver(router, SIM, "charged", {"id": 2, "cents": 400}).check()
    deliver(router, SIM, "charged", {"id": 2, "cents": 400}).check()
    deliver(router, SIM, "corrected", {"id": 3, "cents": 7}).check()
    assert caplog.messages == [
        "sim:1 has 10.05 (event 1)",
        "sim:1 has 6.05 (event 2)",
        "sim:1 has 0.07 (event 3)",
    ]


@pytest.mark.parametrize(
    ("topic", "event"),
    [
        ("room:1", "charged"),
        ("room:1", "topped_up"),
        ("room:1", "corrected"),
        (SIM, "reserve"),
        (SIM, "renamed"),
    ],
)
def test_what_is_no_business_of_the_keeper_is_handled_by_nobody(router: Router, topic: str, event: str) -> None:
    with pytest.raises(NothingHandled):
        deliver(router, topic, event, {"id": 1, "cents": 5}).check()


def test_the_reserve_is_what_the_policy_says(store: Store, router: Router) -> None:
    deliver(router, "policy", "reserve", {"cents": 300}).check()
    assert store.reserve() == 300


def test_a_reserve_is_not_negative(router: Router) -> None:
    (error,) = deliver(router, "policy", "reserve", {"cents": -1}).errors
    assert isinstance(error, PayloadMismatch)


# ---- asking for more -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("charge", "asked"), [(699, False), (700, False), (701, True)])
def test_more_is_asked_for_below_the_reserve(store: Store, channel: FakeChannel, charge: int, asked: bool) -> None:
    store.add(SIM, 1, 1000)
    store.set_reserve(300)
    router = Handlers(store, top_up=5000).router()
    deliver(router, SIM, "charged", {"id": 2, "cents": charge}, channel=channel).check()
    assert channel.pushes == [Sent("top_up", {"cents": 5000, "after": 2})] * asked


def test_twenty_is_asked_for_unless_told_otherwise(router: Router, channel: FakeChannel) -> None:
    deliver(router, SIM, "charged", {"id": 1, "cents": 1}, channel=channel).check()
    assert channel.pushes == [Sent("top_up", {"cents": 2000, "after": 1})]


def test_a_charge_that_comes_again_does_not_ask_again(router: Router, channel: FakeChannel) -> None:
    for _ in range(2):
        deliver(router, SIM, "charged", {"id": 1, "cents": 1}, channel=channel).check()
    assert len(channel.pushes) == 1


def test_more_is_asked_for_once_until_it_comes(router: Router, channel: FakeChannel) -> None:
    deliver(router, SIM, "charged", {"id": 1, "cents": 1}, channel=channel).check()
    deliver(router, SIM, "charged", {"id": 2, "cents": 1}, channel=channel).check()
    deliver(router, SIM, "topped_up", {"id": 3, "cents": 1}).check()
    deliver(router, SIM, "charged", {"id": 4, "cents": 1}, channel=channel).check()
    assert channel.pushes == [Sent("top_up", {"cents": 2000, "after": after}) for after in (1, 4)]


def test_a_top_up_that_comes_again_is_not_the_one_that_is_waited_for(router: Router, channel: FakeChannel) -> None:
    deliver(router, SIM, "topped_up", {"id": 1, "cents": 1}).check()
    deliver(router, SIM, "charged", {"id": 2, "cents": 5}, channel=channel).check()
    deliver(router, SIM, "topped_up", {"id": 1, "cents": 1}).check()
    deliver(router, SIM, "charged", {"id": 3, "cents": 5}, channel=channel).check()
    assert len(channel.pushes) == 1


def test_each_card_asks_for_itself(router: Router) -> None:
    channels = [FakeChannel(topic).reply("top_up") for topic in ("sim:1", "sim:2")]
    for channel in channels:
        deliver(router, channel.topic, "charged", {"id": 1, "cents": 1}, channel=channel).check()
    assert [len(channel.pushes) for channel in channels] == [1, 1]


def test_what_was_refused_is_asked_for_again(router: Router) -> None:
    channel = FakeChannel(SIM).refuse("top_up").reply("top_up")
    for event_id in (1, 2, 3):
        deliver(router, SIM, "charged", {"id": event_id, "cents": 1}, channel=channel).check()
    assert [sent.payload["after"] for sent in channel.pushes] == [1, 2]


@pytest.mark.parametrize(
    "error",
    [PushTimeout(SIM, "top_up", 5.0), PushLost(SIM, "top_up", sent=True)],
    ids=lambda error: type(error).__name__,
)
def test_a_charge_counts_though_nobody_answers(
    store: Store, router: Router, error: PhxError, caplog: pytest.LogCaptureFixture
) -> None:
    channel = FakeChannel(SIM).fail("top_up", error)
    deliver(router, SIM, "charged", {"id": 1, "cents": 5}, channel=channel).check()
    assert store.account(SIM) == Account(cents=-5, last_id=1)
    assert caplog.messages == [f"no top-up: {error}"]


def test_a_charge_counts_though_more_is_refused(store: Store, router: Router, caplog: pytest.LogCaptureFixture) -> None:
    channel = FakeChannel(SIM).refuse("top_up", {"reason": "no credit"})
    deliver(router, SIM, "charged", {"id": 1, "cents": 5}, channel=channel).check()
    assert store.account(SIM) == Account(cents=-5, last_id=1)
    assert "no credit" in caplog.text


# ---- any order of events ---------------------------------------------------------------------------------------------


@given(events=st.lists(st.tuples(st.sampled_from(["charged", "topped_up"]), st.integers(1, 10_000)), max_size=8))
@settings(max_examples=20, deadline=None)
def test_the_balance_is_the_sum_whatever_comes_again(events: list[tuple[str, int]]) -> None:
    with Store() as store:
        router, channel = Handlers(store).router(), FakeChannel(SIM).reply("top_up")
        total = 0
        for last, (event, cents) in enumerate(events, 1):
            total += cents if event == "topped_up" else -cents
            for event_id, (again, amount) in enumerate(events[:last], 1):  # everything so far, as after a rejoin
                deliver(router, SIM, again, {"id": event_id, "cents": amount}, channel=channel).check()
            assert store.account(SIM) == Account(cents=total, last_id=last)
