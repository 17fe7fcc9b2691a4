"""The differences of Phoenix releases and web servers, as in PROTOCOL.md: one table for each sentence."""

from typing import Any

import pytest
from serving import Server, end

from phx_proto.formats import V2Server
from phx_proto.server.events import (
    HOSTS,
    RELEASES,
    Abort,
    ChannelTerminated,
    Close,
    Host,
    JoinRequested,
    Release,
    ServerEvent,
    ServerOptions,
    SocketClosed,
    Termination,
)
from phx_proto.server.protocol import ServerProtocol

RELEASE = {release.value: release for release in Release}
BANDIT, COWBOY = Host.BANDIT, Host.COWBOY


def test_every_release_and_host_has_its_rules() -> None:
    assert set(RELEASES) == set(Release)
    assert set(HOSTS) == set(Host)
    assert list(RELEASE) == [f"1.8.{n}" for n in range(2, 13)]


# ---- releases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("release", "code"), [("1.8.2", 1000), ("1.8.7", 1000), ("1.8.8", 1001), ("1.8.9", 1001), ("1.8.12", 1001)]
)
def test_disconnect_closes_with_1000_up_to_1_8_7_and_1001_since(release: str, code: int) -> None:
    server = Server(release=RELEASE[release])
    server.disconnect()
    assert server.commands() == [Close(code)]
    assert server.events() == [SocketClosed(code, "disconnected by the application")]


@pytest.mark.parametrize(("release", "limit"), [("1.8.2", None), ("1.8.8", None), ("1.8.9", 100), ("1.8.12", 100)])
def test_a_hundred_channels_a_socket_since_1_8_9(release: str, limit: int | None) -> None:
    assert channels_of(Server(release=RELEASE[release])) == (limit or 130)


@pytest.mark.parametrize(("limit", "expected"), [(None, 130), (3, 3), (120, 120)])
@pytest.mark.parametrize("release", ["1.8.8", "1.8.12"])
def test_a_limit_that_is_told_counts_in_every_release(release: str, limit: int | None, expected: int) -> None:
    assert channels_of(Server(release=RELEASE[release], max_channels=limit)) == expected


def channels_of(server: Server) -> int:
    """How many of 130 topics a client may join."""
    joins = 0
    for n in range(130):
        for event in server.hear([str(n), str(n), f"room:{n}", "phx_join", {}]):
            assert isinstance(event, JoinRequested)
            server.accept(event.channel)
            joins += 1
    return joins


@pytest.mark.parametrize(
    ("release", "payload"),
    [
        ("1.8.2", {}),
        ("1.8.9", {}),
        ("1.8.10", {"reason": "channel_crash"}),
        ("1.8.12", {"reason": "channel_crash"}),
    ],
)
def test_phx_error_carries_a_reason_since_1_8_10(release: str, payload: dict[str, Any]) -> None:
    server = Server(release=RELEASE[release])
    channel = server.joined("1")
    server.crash(channel)
    assert server.said() == [end("1", event="phx_error", **payload)]
    assert server.events() == [ChannelTerminated(channel, Termination.CRASHED)]


TAKEN = [  # join_ref of the join, of the message, and whether it is taken, in each kind of releases
    ("1", "1", (True, True, True)),
    ("1", "2", (True, False, False)),
    ("1", 1, (True, False, False)),
    (1, 1, (True, True, True)),
    (1, True, (True, False, False)),
    (1, 1.0, (True, False, False)),
    ("", "", (True, True, True)),
    ("1", None, (True, False, True)),
    (None, None, (True, True, True)),
    (None, "5", (True, True, False)),
]
KINDS = {"1.8.2": 0, "1.8.3": 1, "1.8.9": 1, "1.8.11": 1, "1.8.12": 2}


@pytest.mark.parametrize("release", list(KINDS))
@pytest.mark.parametrize(("joined", "sent", "taken"), TAKEN)
def test_a_push_is_ignored_if_it_is_stale_since_1_8_3_and_if_it_has_no_join_ref_up_to_1_8_11(
    release: str, joined: Any, sent: Any, taken: tuple[bool, ...]
) -> None:
    assert bool(heard(release, joined, sent, "shout")) is taken[KINDS[release]]


@pytest.mark.parametrize("release", list(KINDS))
@pytest.mark.parametrize(("joined", "sent", "taken"), TAKEN)
def test_a_stale_leave_is_ignored_in_every_release(
    release: str, joined: Any, sent: Any, taken: tuple[bool, ...]
) -> None:
    kind = KINDS[release] or 1  # before 1.8.3 leaves were treated as all messages were after it
    assert bool(heard(release, joined, sent, "phx_leave")) is taken[kind]


def heard(release: str, joined: Any, sent: Any, event: str) -> list[ServerEvent]:
    server = Server(release=RELEASE[release])
    server.joined(joined, ref="1")
    events = server.hear([sent, "9", "room:a", event, {}])
    assert bool(server.said()) is (bool(events) and event == "phx_leave")
    return events


# ---- web servers ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "timeout", "heard", "at", "code"),
    [
        (BANDIT, 60.0, 0.0, 60.0, 1002),
        (BANDIT, 60.0, 7.0, 67.0, 1002),
        (COWBOY, 60.0, 0.0, 66.0, 1000),
        (COWBOY, 60.0, 5.0, 66.0, 1000),
        (COWBOY, 60.0, 7.0, 72.0, 1000),
        (COWBOY, 3.0, 0.0, 3.3, 1000),
    ],
)
def test_a_silent_client_is_closed_at_once_by_bandit_and_at_the_next_tenth_of_the_timeout_by_cowboy(
    host: Host, timeout: float, heard: float, at: float, code: int
) -> None:
    server = Server(host=host, timeout=timeout)
    server.touched(heard)
    assert server.next_timeout() == pytest.approx(at)
    server.handle_timeout(at - 0.001)
    assert server.commands() == []
    server.handle_timeout(at + 0.001)
    assert server.commands() == [Close(code)]
    assert server.events() == [SocketClosed(code, "the client was silent for too long")]
    assert server.next_timeout() is None


def test_cowboys_tenths_are_counted_from_the_opening() -> None:
    server = ServerProtocol(V2Server(), (), options=ServerOptions(host=COWBOY, timeout=60.0), now=101.0)
    server.touched(108.0)
    assert server.next_timeout() == 101.0 + 72.0


@pytest.mark.parametrize("host", list(Host))
@pytest.mark.parametrize("joined", [False, True])
def test_a_drain_closes_with_1012(host: Host, *, joined: bool) -> None:
    server = Server(host=host)
    if joined:
        server.joined()
    server.drain()
    assert server.commands() == [Close(1012)]
    assert server.events()[-1] == SocketClosed(1012, "drained by the application")


@pytest.mark.parametrize(
    ("host", "joined", "command"),
    [(BANDIT, True, Close(1012)), (BANDIT, False, Close(1000)), (COWBOY, True, Close(1012)), (COWBOY, False, Abort())],
)
def test_a_shutdown_drains_the_sockets_with_a_channel(host: Host, joined: bool, command: Close | Abort) -> None:
    server = Server(host=host)
    if joined:
        server.joined()
    server.shutdown()
    assert server.commands() == [command]
    code = command.code if isinstance(command, Close) else None
    assert server.events()[-1] == SocketClosed(code, "the server shuts down")


BANDIT_CODES = {
    1000: (1000, 1001, 1002, 1003, 1005, 1007, 1008, 1009, 1010, 1011, 3000, 4999),
    1002: (0, 999, 1004, 1006, 1012, 1013, 1015, 2999),
}


@pytest.mark.parametrize(
    ("answer", "code"), [(answer, code) for answer, codes in BANDIT_CODES.items() for code in codes]
)
def test_a_clients_close_code_is_mapped_by_bandit_and_echoed_by_cowboy(answer: int, code: int) -> None:
    for host, expected in ((BANDIT, answer), (COWBOY, code)):
        server = Server(host=host)
        server.closed(code, "bye")
        assert server.commands() == [Close(expected)]
        assert server.events() == [SocketClosed(code, "bye")]


def test_a_request_line_has_its_limit() -> None:
    assert {host: rules.max_request_line for host, rules in HOSTS.items()} == {BANDIT: 10_000, COWBOY: 8_000}
