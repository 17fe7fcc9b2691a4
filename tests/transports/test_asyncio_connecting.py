"""The first connection: how it comes about, what is sent with it, and how it fails."""

import asyncio
import contextlib
import datetime
import ipaddress
import logging
import math
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from peer import LONG, QUICK, connected, dial, serving, tidy, turns, until
from websockets.utils import accept_key

from phx_proto.client import ClientOptions
from phx_proto.errors import (
    CertificateError,
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    HandshakeRefused,
    InvalidEndpoint,
    InvalidState,
    ResolveFailed,
)
from phx_proto.events import Connected, ConnectFailed
from phx_proto.router import Router
from phx_proto.serializer import V1
from phx_proto.states import SocketState
from phx_transports.asyncio import connect

pytestmark = pytest.mark.asyncio

SECRET = "hush-hush"


@pytest_asyncio.fixture(autouse=True)
async def _tidy() -> AsyncIterator[None]:
    with tidy():
        yield


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# ---- it comes about -------------------------------------------------------------------------------------------------


async def test_connect_as_a_context_manager_closes_at_the_end_with_1000() -> None:
    async with serving() as peer:
        async with connect(peer.url, proxy=None) as client:
            wire = await peer.wire()
            assert not wire.gone.is_set()
        assert client.state is SocketState.CLOSED
        await wire.gone.wait()
        assert wire.code == 1000


async def test_an_exception_out_of_the_context_drops_the_connection() -> None:
    async def live(url: str) -> None:
        async with connect(url, proxy=None):
            raise ZeroDivisionError

    async with serving() as peer:
        with pytest.raises(ZeroDivisionError):
            await live(peer.url)
        wire = await peer.wire()
        await wire.gone.wait()
        assert wire.code is None


async def test_awaited_it_leaves_the_closing_to_the_caller() -> None:
    async with serving() as peer:
        client = await connect(peer.url, proxy=None)
        assert await client.ping() > 0
        await client.close()
        assert client.state is SocketState.CLOSED


async def test_one_connect_connects_once() -> None:
    async with serving() as peer:
        once = connect(peer.url, proxy=None)
        async with once:
            with pytest.raises(InvalidState):
                await once


async def test_params_version_and_headers_reach_the_server() -> None:
    params = {"token": "t/+=", "nested": {"a": 1}}
    async with connected(params=params, headers={"x-tenant": "seven"}) as (_, wire):
        assert wire.path.startswith("/socket/websocket?")
        assert wire.params == {"token": "t/+=", "nested[a]": "1", "vsn": "2.0.0"}
        assert wire.headers["x-tenant"] == "seven"


async def test_another_serializer_tells_its_version() -> None:
    async with connected(serializer=V1()) as (_, wire):
        assert wire.params == {"vsn": "1.0.0"}


async def test_the_clients_router_is_the_one_given_or_an_empty_one() -> None:
    router = Router()
    async with connected(router=router) as (client, _):
        assert client.router is router
    async with connected() as (client, _):
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
    async with connected(compression="deflate") as (_, wire):
        assert "permessage-deflate" in wire.headers["sec-websocket-extensions"]


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


async def test_callables_are_read_again_at_every_connect() -> None:
    tokens = iter(["first", "second", "third"])

    async def params() -> dict[str, str]:
        await asyncio.sleep(0)
        return {"token": next(tokens)}

    seqs = iter(range(3))
    async with serving() as peer:
        client = await dial(peer, params=params, auth_token=lambda: str(next(seqs)))
        wire = await peer.wire()
        offers = []
        for expected in ("first", "second"):
            assert wire.params["token"] == expected
            offers.append(wire.headers["sec-websocket-protocol"])
            wire.cut()
            wire = await peer.wire()
        assert wire.params["token"] == "third"
        assert len(set(offers)) == 2
        await client.abort()


async def raises_later() -> Any:
    await asyncio.sleep(0)
    raise ValueError(SECRET)


def raises_now() -> Any:
    raise ValueError(SECRET)


async def raises_cancelled() -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize("provider", [raises_later, raises_now, raises_cancelled])
async def test_a_callable_that_raises_is_a_failed_attempt_that_tells_no_secret(provider: Any) -> None:
    async with serving() as peer:
        with pytest.raises(ConnectTimeout) as caught:
            await connect(peer.url, proxy=None, params=provider, timeout=0.1)
        assert isinstance(caught.value.last, ResolveFailed)
        assert SECRET not in str(caught.value)
        assert peer.attempts == 0


async def test_a_callable_that_hangs_is_bounded_and_ended() -> None:
    cancelled = asyncio.Event()

    async def hang() -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with serving() as peer:
        with pytest.raises(ConnectTimeout, match=r"callables .* did not answer"):
            await connect(peer.url, proxy=None, params=hang, timeout=0.1, options=ClientOptions(open_timeout=0.02))
        assert cancelled.is_set()


# ---- it fails -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "options"), [("http//nonsense", {}), ("ws://h/socket", {"params": {"a": object()}})], ids=["url", "params"]
)
async def test_what_cannot_be_sent_is_refused_at_the_call(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidEndpoint):
        connect(url, **options)


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_a_refused_handshake_tells_status_and_body(status: int) -> None:
    async with serving() as peer:
        peer.refuse = lambda: (status, "who are you?")
        with pytest.raises(HandshakeRefused, match="who are you") as caught:
            await connect(peer.url, proxy=None)
        assert caught.value.status == status
        assert caught.value.body == b"who are you?"
        assert peer.attempts == 1


async def test_a_refusal_is_tried_again_where_the_token_may_change() -> None:
    tokens = iter(["old", "new"])
    async with serving() as peer:
        peer.refuse = lambda: (403, "expired") if peer.attempts == 1 else None
        client = await dial(peer, params=lambda: {"token": next(tokens)})
        assert (await peer.wire()).params["token"] == "new"
        await client.abort()


async def test_a_server_that_is_down_is_a_timeout_that_tells_the_last_attempt() -> None:
    with pytest.raises(ConnectTimeout, match="refused the connection") as caught:
        await connect(f"ws://127.0.0.1:{free_port()}/socket", proxy=None, timeout=0.05)
    assert isinstance(caught.value.last, ConnectError)
    assert caught.value.timeout == 0.05


async def test_a_server_that_never_answers_the_handshake_is_a_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"ws://127.0.0.1:{deaf.getsockname()[1]}/socket"
        with pytest.raises(ConnectTimeout, match="did not answer the handshake"):
            await connect(url, proxy=None, timeout=0.1, options=ClientOptions(open_timeout=0.03))


async def test_without_a_timeout_it_tries_until_the_server_is_up(caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    caplog.set_level(logging.WARNING, "phx_transports")
    connecting = asyncio.create_task(
        connect(f"ws://127.0.0.1:{port}/socket", proxy=None, timeout=math.inf, options=QUICK)._connect()
    )
    async with asyncio.timeout(LONG):
        await until(lambda: len(caplog.records) >= 3)
    async with serving(port=port) as peer:
        client = await connecting
        await peer.wire()
        await client.abort()
    assert "attempt 1 to connect failed" in caplog.messages[0]


async def test_an_attempt_that_breaks_in_an_unforeseen_way_ends_the_client_with_that_error() -> None:
    async def factory(host: str, port: int) -> Any:
        return "no socket"

    with pytest.raises(AttributeError):
        await connect("ws://somewhere.invalid/socket", factory=factory)


async def test_cancelled_while_it_connects_it_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        task = asyncio.create_task(connect(f"ws://127.0.0.1:{deaf.getsockname()[1]}/socket", proxy=None)._connect())
        deaf.setblocking(False)
        async with asyncio.timeout(LONG):
            there, _ = await asyncio.get_running_loop().sock_accept(deaf)
            with there:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                while await asyncio.get_running_loop().sock_recv(there, 1 << 16):
                    pass


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


async def test_connecting_events_are_told_and_a_failed_reconnect_among_them() -> None:
    async with serving() as peer:
        client = await dial(peer)
        wire = await peer.wire()
        async with client.events() as events:
            peer.refuse = lambda: (503, "not now") if peer.attempts == 2 else None
            wire.cut()
            async for event in events:
                if isinstance(event, ConnectFailed):
                    assert isinstance(event.error, HandshakeRefused)
                if isinstance(event, Connected):
                    assert event.reconnected
                    break
        assert peer.attempts == 3
        await client.abort()


async def test_waiting_for_a_connection_of_a_closed_client_raises() -> None:
    async with connected() as (client, _):
        await client.wait_connected()
        await client.abort()
        with pytest.raises(ConnectionClosed):
            await client.wait_connected()


# ---- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for 127.0.0.1, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "throwaway")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    chain: Path = tmp_path_factory.mktemp("tls") / "chain.pem"
    chain.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(pem)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    return server, ssl.create_default_context(cadata=certificate.public_bytes(pem).decode())


@asynccontextmanager
async def over_tls(authority: tuple[ssl.SSLContext, ssl.SSLContext]) -> AsyncIterator[Any]:
    async with serving(ssl=authority[0]) as peer:
        yield peer


async def test_a_certificate_that_is_not_trusted_is_final(authority: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with over_tls(authority) as peer:
        with pytest.raises(CertificateError):
            await connect(peer.url, proxy=None)


async def test_with_a_context_that_trusts_it_a_server_is_reached(
    authority: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with over_tls(authority) as peer, connect(peer.url, proxy=None, ssl=authority[1]) as client:
        wire = await peer.wire()
        channel, _ = await asyncio.gather(client.join("room:1"), wire.accept())
        reply, push = await asyncio.gather(channel.push("big", "x" * 300_000), answer(wire))
        assert (reply.response, len(push.payload)) == ({"got": 300_000}, 300_000)
        leaving = asyncio.create_task(wire.let_go())
        await client.close()
        await leaving


async def answer(wire: Any) -> Any:
    push = await wire.receive()
    await wire.reply(push, {"got": len(push.payload)})
    return push


# ---- secrets --------------------------------------------------------------------------------------------------------


async def test_no_log_and_no_repr_shows_params_token_or_headers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with serving() as peer:
        client = await dial(peer, params={"token": SECRET}, auth_token=SECRET, headers={"authorization": SECRET})
        wire = await peer.wire()
        channel = client.channel("room:1", {"password": SECRET})
        await asyncio.gather(channel.join(), wire.accept())
        await wire.send(f'["1", null, "room:1", "{SECRET}"]')
        peer.refuse = lambda: (500, "oops") if peer.attempts == 2 else None
        wire.cut()
        await (await peer.wire()).accept()
        await client.abort()
        shown = [repr(client), repr(channel), repr(client.events()), repr(client.stats)]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("phx")]
    assert len(ours) >= 3
    assert SECRET not in "".join(ours + shown)
