"""A client in the background: it is there before its first connection, and usable at once."""

from math import inf
from typing import Any

import pytest
from serving_in_thread import LONG, QUICK, reserved_port, serving, start, until

from phx_proto.errors import ConnectTimeout, HandshakeRefused
from phx_proto.events import Closed, Connected, ConnectFailed
from phx_proto.states import ChannelState, SocketState
from phx_transports.client.options import first_timeout

from .adapters import TOPIC, Adapter
from .faces import Client
from .shared import several_calls

CONNECTING = {SocketState.RESOLVING, SocketState.OPENING, SocketState.WAITING}


def in_background(adapter: Adapter, port: int, **options: Any) -> Client:
    return adapter.connect(f"ws://127.0.0.1:{port}/socket", wait=False, **{"options": QUICK} | options)


def test_it_is_connecting_until_the_server_comes_up_and_tells_each_attempt(adapter: Adapter) -> None:
    with reserved_port() as port:
        client = in_background(adapter, port)
        assert client.state in CONNECTING
        with client.events() as events:
            assert "refused the connection" in str(events.next_of(ConnectFailed).error)
            assert client.state in CONNECTING
            with serving(port=port) as peer:
                assert not events.next_of(Connected).reconnected
                client.wait_connected()
                assert client.state is SocketState.OPEN
                peer.wire()
                client.abort()
        assert client.error is None


def test_what_was_asked_for_before_the_connection_is_done_after_it(adapter: Adapter) -> None:
    seen = list[Any]()
    with reserved_port() as port:
        client = in_background(adapter, port)
        channel = client.channel(TOPIC)
        channel.add(lambda message: seen.append(message.payload), "n")
        joining = start(channel.join, timeout=LONG)
        until(lambda: channel.state is not ChannelState.IDLE)
        with serving(port=port) as peer:
            wire = peer.wire()
            wire.accept(TOPIC)
            joining.result(LONG)
            wire.push(TOPIC, "n", 7)
            until(lambda: seen == [7])
            client.abort()


@several_calls
def test_a_push_before_the_connection_is_sent_after_the_join(adapter: Adapter) -> None:
    with reserved_port() as port:
        client = in_background(adapter, port)
        channel = client.channel(TOPIC)
        joining = start(channel.join, timeout=LONG)
        until(lambda: channel.state is not ChannelState.IDLE)
        pushing = start(channel.push, "shout", {"n": 1}, timeout=LONG)
        with serving(port=port) as peer:
            wire = peer.wire()
            wire.accept(TOPIC)
            frame = wire.expect("shout")
            wire.reply(frame, {"heard": True})
            joining.result(LONG)
            assert pushing.result(LONG).response == {"heard": True}
            client.abort()


@pytest.mark.parametrize("call", ["wait_connected", "wait_closed", "run"])
@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_ends_it_and_is_raised_where_somebody_waits(adapter: Adapter, call: str, status: int) -> None:
    with serving() as peer:
        peer.refuse(lambda: (status, "who are you?"))
        client = adapter.connect(peer.url, wait=False)
        with pytest.raises(HandshakeRefused, match="who are you"):
            getattr(client, call)()
        assert client.state is SocketState.CLOSED
        assert isinstance(client.error, HandshakeRefused)
        assert peer.attempts == 1


def test_a_refusal_is_told_as_events(adapter: Adapter) -> None:
    with reserved_port() as port:
        client = in_background(adapter, port)
        with client.events() as events:
            events.next_of(ConnectFailed)
            with serving(port=port) as peer:
                peer.refuse(lambda: (401, "no"))
                assert isinstance(events.next_of(Closed).error, HandshakeRefused)


def test_a_join_that_waits_for_a_refused_connection_ends_with_it(adapter: Adapter) -> None:
    def refuse_when_it_waits() -> tuple[int, str]:
        until(lambda: TOPIC in client.native.channels)
        return 403, "no"

    with serving() as peer:
        peer.refuse(refuse_when_it_waits)
        client = adapter.connect(peer.url, wait=False)
        with pytest.raises(HandshakeRefused):
            client.join(TOPIC, timeout=LONG)
        assert isinstance(client.error, HandshakeRefused)


def test_it_gives_up_after_a_timeout_that_was_given(adapter: Adapter) -> None:
    with reserved_port() as port:
        client = in_background(adapter, port, timeout=0.2)
        with pytest.raises(ConnectTimeout, match="refused the connection"):
            client.wait_connected()
        assert isinstance(client.error, ConnectTimeout)


@pytest.mark.parametrize(
    ("given", "wait", "expected"), [(None, True, 10.0), (None, False, inf), (3.0, True, 3.0), (3.0, False, 3.0)]
)
def test_only_who_waits_gives_up_by_itself(given: float | None, expected: float, *, wait: bool) -> None:
    assert first_timeout(given, wait=wait) == expected


def test_a_block_that_ends_before_the_connection_closes_at_once(adapter: Adapter) -> None:
    with reserved_port() as port:
        url = f"ws://127.0.0.1:{port}/socket"
        with adapter.connecting(url, wait=False, options=QUICK) as client:
            assert client.state in CONNECTING
        assert client.state is SocketState.CLOSED
        assert client.error is None


def test_a_wait_for_the_connection_can_be_bounded(adapter: Adapter) -> None:
    with reserved_port() as port:
        client = in_background(adapter, port)
        with pytest.raises(TimeoutError):
            adapter.call(lambda: client.native.wait_connected(timeout=0.05))
        assert client.state in CONNECTING
        client.abort()
