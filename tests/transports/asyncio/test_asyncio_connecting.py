"""Connecting on asyncio: the part that is not in behaviour/. Async callables, factories, proxies."""

import asyncio
import contextlib
import socket
from dataclasses import replace
from typing import Any

import pytest
from peer import LONG, ONCE, QUICK, serving, turns, until
from websockets.utils import accept_key

from phx_proto.errors import (
    ConnectError,
    InvalidState,
    ResolveFailed,
)
from phx_proto.handlers.router import Router
from phx_transports.asyncio import connect
from phx_transports.testing import Peer

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]

SECRET = "hush-hush"


# ---- it comes about -------------------------------------------------------------------------------------------------


async def test_one_connect_connects_once(phx_peer: Peer) -> None:
    once = connect(phx_peer.url, transport=phx_peer)
    async with once:
        with pytest.raises(InvalidState):
            await once


async def test_an_await_that_was_forgotten_is_told() -> None:
    with pytest.raises(AttributeError, match=r"connect has no 'join': await it, client = await connect\(…\)"):
        _ = connect("ws://127.0.0.1/socket").join  # type: ignore[attr-defined]


async def test_the_clients_router_is_the_one_given_or_an_empty_one(phx_peer: Peer) -> None:
    router = Router()
    async with connect(phx_peer.url, transport=phx_peer, router=router) as client:
        assert client.router is router
    async with connect(phx_peer.url, transport=phx_peer) as client:
        assert isinstance(client.router, Router)


async def test_a_factory_makes_the_tcp_connection() -> None:
    async with serving() as peer:
        asked: list[tuple[str, int]] = []

        async def factory(host: str, port: int) -> socket.socket:
            asked.append((host, port))
            sock = socket.create_connection(("127.0.0.1", int(peer.url.split(":")[2].split("/")[0])))
            sock.setblocking(False)
            return sock

        async with connect("ws://somewhere.invalid:4000/socket", factory=factory):
            wire = await peer.wire()
            assert wire.headers["host"] == "somewhere.invalid:4000"
        assert asked == [("somewhere.invalid", 4000)]


async def test_a_proxy_is_used() -> None:
    async with serving() as peer:
        asked: list[bytes] = []

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while data := await reader.read(1 << 16):
                writer.write(data)
            writer.close()

        async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            there = await asyncio.open_connection("127.0.0.1", int(peer.url.split(":")[2].split("/")[0]))
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            async with asyncio.TaskGroup() as group:
                group.create_task(relay(reader, there[1]))
                group.create_task(relay(there[0], writer))
            ended.set()

        ended = asyncio.Event()
        server = await asyncio.start_server(proxy, "127.0.0.1", 0)
        async with server:
            url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with connect("ws://somewhere.invalid/socket", proxy=url):
                pass
            await ended.wait()
            await turns()
        assert asked[0].startswith(b"CONNECT somewhere.invalid:80 ")


async def test_compression_is_offered_if_asked_for() -> None:
    async with serving() as peer, connect(peer.url, proxy=None, compression="deflate"):
        assert "permessage-deflate" in (await peer.wire()).headers["sec-websocket-extensions"]


async def test_an_auth_token_travels_as_a_subprotocol_whatever_its_base64_holds() -> None:
    token = "???>>>"  # Pz8/Pj4+ in base64: what RFC 6455 forbids in a subprotocol
    offered: list[str] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1)[:1] + line.split(": ", 1)[1:] for line in lines[1:] if line)
        offered.append(headers["sec-websocket-protocol"])
        key = accept_key(headers["sec-websocket-key"])
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Protocol: phoenix\r\nSec-WebSocket-Accept: " + key.encode() + b"\r\n\r\n"
        )
        await reader.read()
        writer.close()
        ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with asyncio.timeout(LONG), server:
        url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/socket"
        client = await connect(url, proxy=None, auth_token=token)
        await client.abort()
        await ended.wait()
        await turns()
    assert offered == ["phoenix, base64url.bearer.phx.Pz8/Pj4+"]


# ---- params and token from callables --------------------------------------------------------------------------------


async def test_callables_are_read_again_at_every_connect(phx_peer: Peer) -> None:
    tokens, secrets = iter(["first", "second", "third"]), iter("abc")

    async def params() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"token": next(tokens)}

    async with connect(phx_peer.url, transport=phx_peer, params=params, auth_token=lambda: next(secrets)):
        for _ in range(2):
            phx_peer.cut()
            await phx_peer.clock.elapse(1)
    assert [connection.params["token"] for connection in phx_peer.connections] == ["first", "second", "third"]
    assert len({connection.subprotocols for connection in phx_peer.connections}) == 3


async def raises_later() -> Any:
    await asyncio.sleep(0)
    raise ValueError(SECRET)


def raises_now() -> Any:
    raise ValueError(SECRET)


async def raises_cancelled() -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize("provider", [raises_later, raises_now, raises_cancelled])
async def test_a_callable_that_raises_is_a_failed_attempt_that_tells_no_secret(provider: Any, phx_peer: Peer) -> None:
    with pytest.raises(ResolveFailed) as caught:
        await connect(phx_peer.url, transport=phx_peer, params=provider, options=ONCE)
    assert SECRET not in str(caught.value)
    assert phx_peer.connections == ()


async def test_a_callable_that_hangs_is_bounded_and_ended(phx_peer: Peer) -> None:
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def hang() -> Any:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async def connecting() -> None:
        with pytest.raises(ConnectError, match=r"callables .* did not answer"):
            await connect(phx_peer.url, transport=phx_peer, params=hang, options=replace(ONCE, open_timeout=3.0))

    given_up = asyncio.create_task(connecting())
    await entered.wait()
    await phx_peer.clock.elapse(3)
    await given_up
    assert cancelled.is_set()


# ---- it fails -------------------------------------------------------------------------------------------------------


async def test_an_attempt_that_breaks_in_an_unforeseen_way_ends_the_client_with_that_error() -> None:
    async def factory(host: str, port: int) -> Any:
        return "no socket"

    with pytest.raises(AttributeError):
        await connect("ws://somewhere.invalid/socket", factory=factory)


async def test_a_factory_that_swallows_its_cancellation_does_no_harm() -> None:
    entered = asyncio.Event()

    async def factory(host: str, port: int) -> socket.socket:
        entered.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        raise OSError("too late")

    task = asyncio.create_task(connect("ws://somewhere.invalid/socket", factory=factory)._connect())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_connection_that_comes_after_it_was_given_up_is_dropped() -> None:
    calls = 0
    async with serving() as peer:

        async def factory(host: str, port: int) -> socket.socket:
            nonlocal calls
            calls += 1
            if calls == 1:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.Event().wait()
            sock = socket.create_connection((host, port))
            sock.setblocking(False)
            return sock

        client = await connect(peer.url, factory=factory, options=replace(QUICK, open_timeout=0.05))
        await until(lambda: len(peer.wires) == 2)
        await until(lambda: sum(wire.gone.is_set() for wire in peer.wires) == 1)
        assert await client.ping() > 0
        await client.abort()
