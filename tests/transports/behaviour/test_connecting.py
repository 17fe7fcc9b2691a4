"""The first connection: how it comes about, what is sent with it, and how it fails."""

import asyncio
import logging
import socket
import threading
from dataclasses import replace
from datetime import timedelta
from functools import partial
from math import inf, nan
from random import Random
from typing import Any

import pytest
from certificates import Authority
from peer import push
from serving_in_thread import LONG, ONCE, QUICK, Flag, serving, start, until

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.errors import (
    CertificateError,
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    HandshakeRefused,
    InvalidEndpoint,
    InvalidTimeout,
    ResolveFailed,
    StillRefused,
)
from phx_proto.formats import V1
from phx_proto.states import SocketState

from .adapters import TOPIC, Adapter
from .faces import Client
from .shared import several_calls

SECRET = "hush-hush"


def state(client: Client) -> SocketState:
    return client.state  # where a type checker does not remember it


# ---- it comes about -------------------------------------------------------------------------------------------------


def test_connect_as_a_context_manager_closes_at_the_end_with_1000(adapter: Adapter) -> None:
    with serving() as peer:
        with adapter.connecting(peer.url) as client:
            assert state(client) is SocketState.OPEN
            wire = peer.wire()
            channel, _ = adapter.join(client, wire)
            leaving = start(wire.let_go, channel.topic)
        leaving.result(LONG)
        assert state(client) is SocketState.CLOSED
        assert client.error is None
        assert wire.ended() == 1000


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("timeout", ["10", True, -1, nan, 10**400, timedelta(seconds=1)]),
        ("drain_timeout", ["10", True, -1, nan, 10**400, None]),
        ("fallback", ["10", True, 0, nan, inf]),
        ("max_size", ["10", True, 0, 1.5, nan, inf]),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(adapter: Adapter, option: str, values: list[Any]) -> None:
    with serving() as peer:
        for value in values:
            with pytest.raises((TypeError, ValueError), match=f"^{option} is "):
                adapter.connect(peer.url, **{option: value})
        adapter.connect(peer.url, drain_timeout=0).close()
        adapter.connect(peer.url, drain_timeout=inf).close()


@pytest.mark.parametrize("timeout", ["10", True, nan, 10**400])
def test_a_wait_for_what_is_no_time_is_refused(adapter: Adapter, timeout: Any) -> None:
    with adapter.joined() as (channel, *_):
        client = channel.client
        for wait in (client.native.wait_connected, client.native.wait_closed, client.native.run):
            with pytest.raises(InvalidTimeout):
                adapter.call(partial(wait, timeout=timeout))
        with pytest.raises(InvalidTimeout):
            channel.wait_for("tick", timeout=timeout)
        assert client.ping() > 0


def test_an_exception_out_of_the_context_drops_the_connection(adapter: Adapter) -> None:
    with serving() as peer:
        with pytest.raises(ZeroDivisionError), adapter.connecting(peer.url) as client:
            raise ZeroDivisionError
        assert state(client) is SocketState.CLOSED
        assert peer.wire().ended() is None


def test_without_a_context_closing_is_left_to_the_caller(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.connect(peer.url)
        assert state(client) is SocketState.OPEN
        client.close()
        assert state(client) is SocketState.CLOSED
        assert repr(client).endswith("closed)")


def test_params_version_and_headers_reach_the_server(adapter: Adapter) -> None:
    params = {"token": "t/+=", "nested": {"a": 1}}
    with adapter.connected(params=params, headers={"x-tenant": "seven"}) as (_, wire):
        assert wire.params == {"token": "t/+=", "nested[a]": "1", "vsn": "2.0.0"}
        assert wire.headers["x-tenant"] == "seven"


def test_a_socket_with_a_path_of_its_own_is_reached(adapter: Adapter) -> None:
    with adapter.connected(path="/:key", params={"key": "k 7", "a": 1}) as (_, wire):
        assert wire.on_loop.path == "/socket/k%207?a=1&vsn=2.0.0"


def test_a_server_that_comes_up_shortly_before_the_timeout_is_met(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    done = Flag()

    def come_up() -> str:
        threading.Event().wait(1.3)  # of 1.6: by the schedule alone, the next try would be too late
        with serving(port=port) as peer:
            wire = peer.wire()
            done.wait()
            return str(wire.params["vsn"])

    coming = start(come_up)
    options = replace(QUICK, reconnect=ReconnectPolicy(schedule=Backoff((0.01, 5.0))))
    client = adapter.connect(f"ws://127.0.0.1:{port}/socket", timeout=1.6, options=options)
    client.abort()
    done.set()
    assert coming.result(LONG) == "2.0.0"


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_refusal_that_was_retried_until_the_timeout_is_raised(adapter: Adapter, status: int) -> None:
    with serving() as peer:
        peer.refuse(lambda: (status, "not now"))
        with pytest.raises(StillRefused, match="not now") as caught:
            adapter.connect(peer.url, params=dict, timeout=0.3)
        assert isinstance(caught.value, HandshakeRefused)
        assert isinstance(caught.value, ConnectTimeout)
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.status == status
        assert peer.attempts > 1


def test_another_serializer_tells_its_version(adapter: Adapter) -> None:
    with adapter.connected(serializer=V1()) as (_, wire):
        assert wire.params == {"vsn": "1.0.0"}


def test_callables_are_read_again_at_every_connect(adapter: Adapter) -> None:
    params, tokens = iter(["first", "second", "third"]), iter(["a", "b", "c"])
    with serving() as peer:
        client = adapter.dial(peer, params=lambda: {"token": next(params)}, auth_token=lambda: next(tokens))
        offers = set[str]()
        for expected in ("first", "second", "third"):
            wire = peer.wire()
            assert wire.params["token"] == expected
            offers.add(wire.headers["sec-websocket-protocol"])
            wire.cut()
        client.abort()
        assert len(offers) == 3


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
def test_a_callable_that_raises_is_a_failed_attempt_like_others(adapter: Adapter, error: type[BaseException]) -> None:
    failures = iter([None, error, None])

    def params() -> dict[str, Any]:
        if (failure := next(failures)) is not None:
            raise failure
        return {}

    with serving() as peer:
        client = adapter.dial(peer, params=params, options=QUICK)
        peer.wire().cut()
        peer.wire()
        assert next(failures, "all read") == "all read"
        client.abort()


# ---- it fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options"), [("http//nonsense", {}), ("ws://h/socket", {"params": {"a": object()}})], ids=["url", "params"]
)
def test_what_cannot_be_sent_is_refused_at_the_call(adapter: Adapter, url: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidEndpoint):
        adapter.connect(url, **options)


@pytest.mark.parametrize("status", [401, 404])  # 403 is a row among the faults
def test_a_refused_handshake_tells_status_and_body(adapter: Adapter, status: int) -> None:
    with serving() as peer:
        peer.refuse(lambda: (status, "who are you?"))
        with pytest.raises(HandshakeRefused, match="who are you") as caught:
            adapter.connect(peer.url)
        assert (caught.value.status, caught.value.body) == (status, b"who are you?")
        assert peer.attempts == 1


def test_a_context_of_a_refused_connect_is_never_entered(adapter: Adapter) -> None:
    with serving() as peer:
        peer.refuse(lambda: (403, "no"))
        with pytest.raises(HandshakeRefused), adapter.connecting(peer.url):
            raise AssertionError


def test_a_name_without_an_address_is_told_as_such(adapter: Adapter) -> None:
    with pytest.raises(ConnectError, match="no address was found"):
        adapter.connect("ws://somewhere.invalid/socket", options=ONCE)


def test_a_server_that_never_answers_the_handshake_is_a_timeout_and_leaves_nothing(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"ws://127.0.0.1:{deaf.getsockname()[1]}/socket"
        with pytest.raises(ConnectError, match="did not answer the handshake"):
            adapter.connect(url, options=replace(ONCE, open_timeout=0.2))


def raises() -> Any:
    raise ValueError(SECRET)


def test_a_callable_that_raises_is_a_failed_attempt_that_tells_no_secret(adapter: Adapter) -> None:
    with serving() as peer:
        with pytest.raises(ResolveFailed) as caught:
            adapter.connect(peer.url, params=raises, options=ONCE)
        assert SECRET not in str(caught.value)
        assert peer.attempts == 0


def test_waiting_for_the_connection_of_a_closed_client_raises(adapter: Adapter) -> None:
    with adapter.connected() as (client, _):
        client.wait_connected()
        client.abort()
        with pytest.raises(ConnectionClosed):
            client.wait_connected()


# ---- TLS ------------------------------------------------------------------------------------------------------------


def test_over_tls_much_travels_both_ways(adapter: Adapter, authority: Authority) -> None:
    large = "x" * 1_000_000
    with serving(ssl=authority.server()) as peer, adapter.connecting(peer.url, ssl=authority.trusting()) as client:
        wire = peer.wire()
        channel, _ = adapter.join(client, wire)
        pushing = start(channel.push, "echo", large)
        frame = wire.expect("echo")
        wire.reply(frame, frame.payload)
        assert pushing.result(LONG).response == large
        leaving = start(wire.let_go)
        client.close()
        leaving.result(LONG)
        assert wire.ended() == 1000


@several_calls
def test_over_tls_many_compressed_messages_come(adapter: Adapter, authority: Authority) -> None:
    """Each is a record of TLS, and several come in one read; together they are more than is read at once."""
    numbers, got = range(500), list[int]()
    filling = Random(1).randbytes(500).hex()
    with (
        serving(ssl=authority.server(), compression="deflate") as peer,
        adapter.connecting(peer.url, ssl=authority.trusting(), compression="deflate") as client,
    ):
        wire = peer.wire()
        assert "permessage-deflate" in wire.headers["sec-websocket-extensions"]
        channel, _ = adapter.join(client, wire)
        channel.add(lambda message: got.append(message.payload["number"]), "n")
        wire.send(*(push(TOPIC, "n", {"number": number, "filling": filling}) for number in numbers))
        try:
            until(lambda: len(got) == len(numbers))
        finally:
            client.abort()
        assert got == list(numbers)


def test_a_certificate_of_an_unknown_authority_is_final(adapter: Adapter, authority: Authority) -> None:
    with serving(ssl=authority.server()) as peer, pytest.raises(CertificateError, match="not accepted"):
        adapter.connect(peer.url)


def test_a_certificate_for_another_host_is_final(adapter: Adapter, authority: Authority) -> None:
    with serving(ssl=authority.server("elsewhere.example")) as peer:
        with pytest.raises(CertificateError, match="not accepted"):
            adapter.connect(peer.url, ssl=authority.trusting())
        assert peer.attempts == 0


def test_over_tls_a_lost_connection_comes_back(adapter: Adapter, authority: Authority) -> None:
    with serving(ssl=authority.server()) as peer:
        client = adapter.dial(peer, ssl=authority.trusting())
        peer.wire().cut()
        peer.wire().close(1001)
        peer.wire()
        until(lambda: client.stats.reconnects == 2)
        client.abort()


def test_tls_with_a_server_that_has_none_is_told(adapter: Adapter) -> None:
    with serving() as peer, pytest.raises(ConnectError, match=r"port without TLS\? then use ws://"):
        adapter.connect(peer.url.replace("ws", "wss", 1), options=ONCE)


def test_a_context_for_a_connection_without_tls_is_refused(adapter: Adapter, authority: Authority) -> None:
    with pytest.raises(ConnectError, match="use wss://"):
        adapter.connect("ws://127.0.0.1:1/socket", ssl=authority.trusting(), options=ONCE)


# ---- secrets --------------------------------------------------------------------------------------------------------


def test_no_log_and_no_repr_shows_params_token_headers_or_payloads(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with serving() as peer:
        client = adapter.dial(peer, params={"token": SECRET}, auth_token=SECRET, headers={"authorization": SECRET})
        wire = peer.wire()
        channel = client.channel("room:1", {"password": SECRET})
        joining = start(channel.join)
        wire.accept()
        joining.result(LONG)
        pushing = start(channel.push, "a", {"key": SECRET})
        wire.reply(wire.expect("a"), SECRET)
        pushing.result(LONG)
        wire.send(f'["1", null, "room:1", "{SECRET}"]')
        peer.refuse(lambda: (500, "oops") if peer.attempts == 2 else None)
        wire.cut()
        peer.wire().accept()
        client.abort()
        shown = [repr(client), repr(channel), repr(client.stats)]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("phx")]
    assert len(ours) >= 3
    assert SECRET not in "".join(ours + shown)
