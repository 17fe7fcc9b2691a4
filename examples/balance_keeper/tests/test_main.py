"""The command line."""

import signal
import threading
from pathlib import Path

import pytest

from phx_transports.testing import Peer, background

from ..__main__ import main
from ..store import Account, Store

SIM = "sim:1"
PATIENCE = 10.0  # real seconds, of which a test that passes takes next to none


def test_balances_are_kept_in_the_file_until_a_topic_is_closed(phx_peer: Peer, tmp_path: Path) -> None:
    path = tmp_path / "balances.db"
    phx_peer.allow_join("policy")
    ended = background(main, [phx_peer.url, SIM, "--db", str(path)], transport=phx_peer)
    phx_peer.expect_join(SIM, {"since": 0}).wait(PATIENCE).reply()
    phx_peer.push(SIM, "topped_up", {"id": 1, "cents": 500})
    phx_peer.settle()
    phx_peer.close_channel(SIM)
    failure = ended.exception(PATIENCE)
    assert isinstance(failure, SystemExit)
    assert str(failure).startswith("balance_keeper: the channel of topic 'sim:1' is closed: ")
    with Store(path) as store:
        assert store.account(SIM) == Account(cents=500, last_id=1)


def test_all_topics_named_are_joined(phx_peer: Peer) -> None:
    phx_peer.allow_join("policy")
    phx_peer.expect_join("sim:1").reply()
    phx_peer.expect_join("sim:2").refuse({"reason": "not yours"})
    with pytest.raises(SystemExit) as ended:
        main([phx_peer.url, "sim:1", "sim:2", "--db", ":memory:"], transport=phx_peer)
    assert "balance_keeper: the server refused the join of topic 'sim:2': {'reason': 'not yours'}" in str(ended.value)


def test_ctrl_c_ends_it_while_it_still_joins(phx_peer: Peer) -> None:
    phx_peer.allow_join("policy")
    joining = phx_peer.expect_join(SIM)

    def interrupt() -> None:
        joining.wait(PATIENCE)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    interrupted = background(interrupt)
    main([phx_peer.url, SIM, "--db", ":memory:"], transport=phx_peer)
    interrupted.result(PATIENCE)


def test_a_connection_that_is_refused_ends_in_a_line_of_text(phx_peer: Peer) -> None:
    phx_peer.refuse_connect(403)
    with pytest.raises(SystemExit, match=r"balance_keeper: the server refused the handshake of .* with HTTP 403"):
        main([phx_peer.url, SIM, "--db", ":memory:"], transport=phx_peer)


def test_a_file_that_cannot_be_opened_ends_in_a_line_of_text(phx_peer: Peer, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="balance_keeper: unable to open database file"):
        main([phx_peer.url, SIM, "--db", str(tmp_path / "none" / "balances.db")], transport=phx_peer)


def test_a_topic_must_be_named(phx_peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([phx_peer.url], transport=phx_peer)
    assert "required: topic" in capsys.readouterr().err


def test_help_says_what_is_what(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert text.startswith("usage: balance_keeper [-h] [--db DB] url topic [topic ...] Keep the balances of SIM cards.")
    for line in (
        "url the socket's mount, e.g. ws://127.0.0.1:4000/socket",
        "topic a card's topic, e.g. sim:1",
        "--db DB the SQLite file (default: balances.db)",
    ):
        assert line in text
