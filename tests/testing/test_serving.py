"""`serve`: a real server, and its faults set by a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from room_server import Room

from phx_proto.errors import HandshakeRefused, PushLost, PushTimeout
from phx_proto.events import Connected, Disconnected
from phx_proto.options import ClientOptions
from phx_transports import asyncio as on_asyncio
from phx_transports.server import Server
from phx_transports.testing import TestServer, serve
from phx_transports.threads import Client, connect

QUICK = ClientOptions(heartbeat=0.1)
PATIENCE = 30.0


@contextmanager
def connected() -> Iterator[tuple[TestServer, Client]]:
    """A server, and a client on it."""
    with serve({"room:*": Room}) as server, connect(server.url, proxy=None) as client:
        yield server, client


def test_it_serves_channels_by_their_topics() -> None:
    with connected() as (_, client):
        assert client.join("room:lobby").push("echo", {"n": 1}).response == {"n": 1}


def test_it_serves_an_application() -> None:
    app = Server()
    app.channel("room:*")(Room)
    with serve(app) as server, connect(server.url, proxy=None) as client:
        assert client.join("room:lobby").push("echo", {"n": 1}).response == {"n": 1}
        assert server.app is app


def test_options_are_for_an_application_that_is_made_here() -> None:
    with pytest.raises(TypeError, match="options of an application that is made already: path"):
        serve(Server(), path="/other")


def test_it_broadcasts_to_its_clients() -> None:
    with connected() as (server, client), client.join("room:lobby").messages() as messages:
        server.broadcast("room:lobby", "news", {"n": 1})
        assert next(iter(messages)).payload == {"n": 1}
        assert len(server.sockets) == 1


def test_it_refuses_the_next_handshake() -> None:
    with serve({"room:*": Room}) as server:
        server.faults.refuse(401, "who are you?", {"x-why": "test"})
        with pytest.raises(HandshakeRefused) as refused:
            connect(server.url, proxy=None)
        assert (refused.value.status, refused.value.body) == (401, b"who are you?")
        assert refused.value.headers["x-why"] == "test"


def test_after_what_it_refuses_it_accepts() -> None:
    with serve({"room:*": Room}) as server:
        server.faults.refuse(503, times=2)
        with connect(server.url, proxy=None) as client:
            assert client.stats.connects == 1


@pytest.mark.parametrize("end", ["cut", "disconnect", "restart"])
def test_its_clients_come_back_after_the_end_of_their_connections(end: str) -> None:
    with connected() as (server, client), client.events(timeout=PATIENCE) as events:
        channel, url = client.join("room:lobby"), server.url
        {"cut": server.cut, "disconnect": server.disconnect, "restart": server.restart}[end]()
        next(event for event in events if isinstance(event, Connected))
        assert channel.push("echo", {"n": 1}).response == {"n": 1}
        assert server.url == url


def test_it_cuts_a_connection_after_so_many_frames() -> None:
    with connected() as (server, client):
        channel = client.join("room:lobby")
        server.faults.cut_after(2)
        assert channel.push("echo", {"n": 1}).response == {"n": 1}
        with pytest.raises(PushLost):
            channel.push("echo", {"n": 2})
        assert channel.push("echo", {"n": 3}).response == {"n": 3}


def test_a_connection_is_cut_after_at_least_one_frame() -> None:
    with serve({}) as server, pytest.raises(ValueError, match="not 0"):
        server.faults.cut_after(0)


def test_what_is_delayed_comes_before_what_is_sent_later() -> None:
    with connected() as (server, client):
        channel = client.join("room:lobby")
        server.faults.delay = 0.5
        with pytest.raises(PushTimeout):
            channel.push("echo", {"n": 1}, timeout=0.1)
        server.faults.delay = 0.0
        assert channel.push("echo", {"n": 2}).response == {"n": 2}
        pushes = [str(entry)[11:] for entry in server.transcript if "pushes" in entry.words]
    assert pushes == [f'client  pushes "echo" to "room:lobby" {{"n":{n}}}' for n in (1, 2)]


def test_what_is_delayed_is_lost_with_its_connection() -> None:
    with connected() as (server, client), client.events(timeout=PATIENCE) as events:
        channel = client.join("room:lobby")
        server.faults.delay = 3600.0
        with pytest.raises(PushTimeout):
            channel.push("echo", {"n": 1}, timeout=0.1)
        server.cut()
        server.faults.delay = 0.0
        next(event for event in events if isinstance(event, Connected))
        assert channel.push("echo", {"n": 2}).response == {"n": 2}
        assert '{"n":1}' not in str(server.transcript)


def test_what_is_delayed_arrives_before_a_client_that_closes_is_gone() -> None:
    with connected() as (server, client):
        channel = client.join("room:lobby")
        server.faults.delay = 0.2
        channel.cast("echo", {"n": 1})
        client.close()  # it leaves first, and waits for that reply
        assert '{"n":1}' in str(server.transcript)


def test_swallowed_heartbeats_make_a_client_reconnect() -> None:
    with (
        serve({"room:*": Room}) as server,
        connect(server.url, proxy=None, options=QUICK) as client,
        client.events(timeout=PATIENCE) as events,
    ):
        server.faults.swallow_heartbeats()
        lost = next(event for event in events if isinstance(event, Disconnected))
        assert lost.reason == "nothing was heard for 0.1 s after a heartbeat"


def test_while_heartbeats_are_swallowed_all_else_gets_through() -> None:
    with connected() as (server, client):
        server.faults.swallow_heartbeats()
        assert client.join("room:lobby").push("echo", b"bytes").response == b"bytes"


def test_a_stopped_server_is_not_there_until_it_starts() -> None:
    with serve({"room:*": Room}) as server:
        server.stop()
        server.stop()
        with pytest.raises(Exception, match=f"127.0.0.1:{server.port}"):
            connect(server.url, proxy=None, timeout=0.05)
        server.start()
        server.start()
        connect(server.url, proxy=None).close()


def test_what_is_called_on_its_loop_raises_where_it_was_called() -> None:
    with serve({}) as server, pytest.raises(ZeroDivisionError):
        server.call(lambda: 1 / 0)


@pytest.mark.asyncio
async def test_on_a_loop_it_serves_on_that_loop() -> None:
    async with serve({"room:*": Room}) as server, on_asyncio.connect(server.url, proxy=None) as client:
        channel = await client.join("room:lobby")
        async with client.events() as events:
            await server.restart()
            async for event in events:
                if isinstance(event, Connected):
                    break
        assert (await channel.push("echo", {"n": 1})).response == {"n": 1}
        assert len(server.sockets) == 1
        async with channel.messages() as messages:
            server.broadcast("room:lobby", "news")
            assert (await anext(aiter(messages))).event == "news"
        server.disconnect()
        server.cut()
