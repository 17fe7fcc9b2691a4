"""The connection, against a server that the test plays, on a clock that the test moves."""

import pytest

from phx_proto.errors import (
    ChannelClosed,
    HandshakeRefused,
    JoinRefused,
    JoinTimeout,
    PayloadMismatch,
)
from phx_transports.testing import Peer, background

from ..keeper import Keeper
from ..store import Account, EventsMissed, Store

SIM = "sim:1"
PATIENCE = 10.0  # real seconds, of which a test that passes takes next to none


def keep(peer: Peer, store: Store, *topics: str) -> Keeper:
    """A keeper of the topics, all of which it may join."""
    peer.allow_join("policy")
    peer.allow_join("sim:*")
    return Keeper(peer.url, topics or [SIM], store, transport=peer)


def send(peer: Peer, event: str, event_id: int, cents: int) -> None:
    """The server sends an event, and it is handled."""
    peer.push(SIM, event, {"id": event_id, "cents": cents})
    peer.settle()


# ---- joining ---------------------------------------------------------------------------------------------------------


def test_every_card_is_joined_and_the_policy(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store, "sim:1", "sim:2"):
        assert phx_peer.joined == ["policy", "sim:1", "sim:2"]


def test_a_card_that_nothing_is_known_of_is_joined_from_the_beginning(phx_peer: Peer, store: Store) -> None:
    phx_peer.expect_join(SIM, {"since": 0}).reply()
    with keep(phx_peer, store):
        pass


def test_a_restart_goes_on_where_it_was(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        send(phx_peer, "topped_up", 1, 500)
    phx_peer.expect_join(SIM, {"since": 1}).reply()
    with keep(phx_peer, store):
        pass


def test_a_join_that_is_refused_names_its_topic(phx_peer: Peer, store: Store) -> None:
    phx_peer.expect_join(SIM).refuse({"reason": "not yours"})
    with pytest.raises(JoinRefused, match=r"'sim:1'.*not yours"), keep(phx_peer, store):
        pass
    assert not phx_peer.connected


def test_a_join_that_is_not_answered_names_its_topic(phx_peer: Peer, store: Store) -> None:
    phx_peer.expect_join(SIM).ignore(advance=10)
    with pytest.raises(JoinTimeout, match="'sim:1'"), keep(phx_peer, store):
        pass
    assert not phx_peer.connected


def test_a_server_that_refuses_the_connection_is_not_asked_twice(phx_peer: Peer, store: Store) -> None:
    phx_peer.refuse_connect(403)
    with pytest.raises(HandshakeRefused), keep(phx_peer, store):
        pass
    assert len(phx_peer.connections) == 1


# ---- keeping ---------------------------------------------------------------------------------------------------------


def test_what_the_server_sends_is_kept(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        send(phx_peer, "topped_up", 1, 500)
        send(phx_peer, "charged", 2, 200)
        assert store.account(SIM) == Account(cents=300, last_id=2)


def test_several_events_at_once_are_kept_in_order(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        for event_id in range(1, 51):
            phx_peer.push(SIM, "topped_up", {"id": event_id, "cents": 100})
        phx_peer.settle()
        assert store.account(SIM) == Account(cents=5000, last_id=50)


def test_the_policy_is_heard(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        phx_peer.broadcast("policy", "reserve", {"cents": 300})
        phx_peer.settle()
        assert store.reserve() == 300


def test_a_low_balance_is_topped_up(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        phx_peer.expect_push(SIM, "top_up", {"cents": 2000, "after": 1}).reply()
        send(phx_peer, "charged", 1, 5)
        send(phx_peer, "topped_up", 2, 2000)
        assert store.account(SIM) == Account(cents=1995, last_id=2)


def test_a_top_up_that_is_not_answered_holds_nothing_up_for_long(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        phx_peer.expect_push(SIM, "top_up").ignore(advance=5)
        send(phx_peer, "charged", 1, 5)
        send(phx_peer, "corrected", 2, 700)
        assert store.account(SIM) == Account(cents=700, last_id=2)
    assert phx_peer.clock.now() == 5


# ---- coming back -----------------------------------------------------------------------------------------------------


def test_after_a_cut_it_goes_on_where_it_was(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        send(phx_peer, "topped_up", 1, 500)
        phx_peer.expect_join(SIM, {"since": 1}).reply()
        phx_peer.cut()
        phx_peer.clock.advance(1)
        send(phx_peer, "charged", 2, 200)
        assert store.account(SIM) == Account(cents=300, last_id=2)


def test_after_a_crash_of_its_channel_it_goes_on_where_it_was(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        send(phx_peer, "topped_up", 1, 500)
        phx_peer.expect_join(SIM, {"since": 1}).reply()
        phx_peer.crash(SIM)
        phx_peer.clock.advance(1)
        send(phx_peer, "charged", 2, 200)
        assert store.account(SIM) == Account(cents=300, last_id=2)


def test_what_the_server_sends_again_counts_once(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        send(phx_peer, "topped_up", 1, 500)
        phx_peer.close(1012)
        phx_peer.clock.advance(5)
        send(phx_peer, "topped_up", 1, 500)
        send(phx_peer, "topped_up", 2, 500)
        assert store.account(SIM) == Account(cents=1000, last_id=2)


def test_a_server_that_hangs_is_left_for_one_that_answers(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        phx_peer.stop_answering_heartbeats()
        phx_peer.clock.advance(61)
        phx_peer.answer_heartbeats()
        assert phx_peer.joined == ["policy", SIM]
        assert len(phx_peer.connections) == 2


def test_a_server_that_is_down_for_a_while_is_waited_for(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store):
        phx_peer.fail_connect(times=5)
        phx_peer.cut()
        phx_peer.clock.advance(5)
        assert phx_peer.joined == ["policy", SIM]


# ---- ending ----------------------------------------------------------------------------------------------------------


def test_a_topic_that_the_server_closes_ends_it_by_name(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store) as keeper:
        running = background(keeper.run)
        phx_peer.close_channel(SIM)
        with pytest.raises(ChannelClosed, match="'sim:1'"):
            running.result(PATIENCE)


def test_a_topic_that_may_not_be_joined_again_ends_it_by_name(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store) as keeper:
        running = background(keeper.run)
        phx_peer.expect_join(SIM).refuse({"reason": "sold"})
        phx_peer.cut()
        phx_peer.clock.advance(1)
        with pytest.raises(JoinRefused, match=r"'sim:1'.*sold"):
            running.result(PATIENCE)


def test_credentials_that_are_refused_end_it(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store) as keeper:
        running = background(keeper.run)
        phx_peer.refuse_connect(403)
        phx_peer.cut()
        phx_peer.clock.advance(1)
        with pytest.raises(HandshakeRefused):
            running.result(PATIENCE)


def test_a_missing_event_ends_it_and_the_next_start_asks_for_it(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store) as keeper:
        running = background(keeper.run)
        send(phx_peer, "topped_up", 1, 500)
        send(phx_peer, "charged", 3, 200)
        with pytest.raises(EventsMissed):
            running.result(PATIENCE)
    phx_peer.expect_join(SIM, {"since": 1}).reply()
    with keep(phx_peer, store):
        pass


def test_an_event_that_cannot_be_read_ends_it(phx_peer: Peer, store: Store) -> None:
    with keep(phx_peer, store) as keeper:
        running = background(keeper.run)
        phx_peer.push(SIM, "charged", {"id": 1, "cents": "a lot"})
        phx_peer.settle()
        with pytest.raises(PayloadMismatch, match="'sim:1'"):
            running.result(PATIENCE)
    assert store.account(SIM) == Account()


def test_at_its_end_it_leaves_and_closes(phx_peer: Peer, store: Store) -> None:
    leave = phx_peer.expect_leave(SIM)
    with keep(phx_peer, store) as keeper:
        running = background(keeper.run)
    running.result(PATIENCE)
    assert leave.came
    assert not phx_peer.connected
