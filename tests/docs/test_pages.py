"""The code of the pages, each driven by a server in memory."""

import asyncio
import logging
import socket
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from certificates import Authority
from pages import code_of

from phx_proto import Router
from phx_proto.errors import CertificateError, PayloadMismatch
from phx_transports.asyncio import connect
from phx_transports.server import Server
from phx_transports.testing import Peer, deliver_async

pytestmark = pytest.mark.asyncio


async def settled(peer: Peer, *, calls: int = 20) -> None:
    """Let tasks that were just started reach the client."""
    for _ in range(calls):
        await asyncio.sleep(0)
    await peer.settled()


async def test_the_front_page(phx_peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    page = code_of("index.md", phx_peer)
    phx_peer.expect_join("sim:894450017").reply()
    main = asyncio.create_task(page["main"]())
    await settled(phx_peer)
    phx_peer.push("sim:894450017", "balance", {"cents": 5})
    await phx_peer.settled()
    main.cancel()
    await asyncio.wait([main])
    assert capsys.readouterr().out == "sim:894450017 {'cents': 5}\n"


async def test_a_token_is_read_at_every_connect(phx_peer: Peer) -> None:
    page = code_of("tokens.md", phx_peer)
    tokens = iter(["first", "second", "third"])

    async def fetch_token() -> str:
        return next(tokens)

    page["fetch_token"] = fetch_token
    phx_peer.allow_join("*")
    main = asyncio.create_task(page["main"](Router()))
    await settled(phx_peer)
    phx_peer.cut()
    await phx_peer.clock.elapse(1)
    assert next(tokens) == "third"
    async with connect(phx_peer.url, transport=phx_peer) as client:
        await page["join_own"](client, 7)
        page["renewed"](client)
        await phx_peer.clock.elapse(1)
        assert len(phx_peer.connections) == 4
    main.cancel()
    await asyncio.wait([main])


async def test_a_push_that_was_lost_is_sent_again(phx_peer: Peer) -> None:
    page = code_of("resume.md")
    phx_peer.allow_join("sim:1")
    async with connect(phx_peer.url, transport=phx_peer) as client:
        channel = await client.join("sim:1")
        first = phx_peer.expect_push("sim:1", "top_up").ignore()
        pushing = asyncio.create_task(page["top_up"](channel, 500))
        await settled(phx_peer)
        phx_peer.cut()
        again = phx_peer.expect_push("sim:1", "top_up").reply({"done": True})
        await phx_peer.clock.elapse(1)
        assert (await pushing).response == {"done": True}
        assert first.payload == again.payload


async def test_presence_is_followed(phx_peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    page = code_of("presence.md")
    phx_peer.allow_join("room:lobby")
    async with connect(phx_peer.url, transport=phx_peer) as client:
        watching = asyncio.create_task(page["watch"](client))
        await settled(phx_peer)
        assert await page["names"](client) == []
        phx_peer.presence_state("room:lobby", {"ann": {}, "bob": {}})
        phx_peer.presence_diff("room:lobby", joins={"eve": {}}, leaves=["bob"])
        await settled(phx_peer)
        assert list(client.channels["room:lobby"].present) == ["ann", "eve"]
    await watching
    assert capsys.readouterr().out.splitlines() == ["came: ann", "came: bob", "came: eve", "went: bob"]


async def test_payloads_are_typed_and_binary(phx_peer: Peer) -> None:
    page = code_of("payloads.md")
    router, saved, balance = page["router"], page["saved"], page["Balance"]
    (await deliver_async(router, "sim:1", "balance", msgspec.Raw(b'{"cents":0.10}'))).check()
    with pytest.raises(PayloadMismatch):
        (await deliver_async(router, "sim:1", "balance", {"cents": "many"})).check()
    (await deliver_async(router, "file:1", "chunk", b"\x00\x01")).check()
    assert saved == [balance(Decimal("0.10")), b"\x00\x01"]
    phx_peer.allow_join("file:1")
    phx_peer.expect_push("file:1", "chunk", b"\x00\x01").reply({"size": 2})
    async with connect(phx_peer.url, transport=phx_peer) as client:
        assert await page["upload"](await client.join("file:1"), b"\x00\x01") == 2
    assert page["serializer"].decode('[null,null,"t","e",0.10]').payload == Decimal("0.10")


async def test_own_authorities_proxies_and_sockets(tmp_path: Path) -> None:
    page = code_of("network.md")
    authority = Authority(tmp_path)
    async with Server().serve(ssl=authority.server()) as running:
        assert await page["main"](partial(connect, proxy=None), running.url, str(authority.file())) > 0
        with pytest.raises(CertificateError):
            await connect(running.url, proxy=None)
    async with Server().serve() as running:
        assert await page["through"](connect, running.url, None) > 0
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(str(tmp_path / "phx.sock"))
        listening.listen()
        with listening:
            connected = await page["to"](str(tmp_path / "phx.sock"))("localhost", 80)
            connected.close()


async def test_handler_errors_go_elsewhere(phx_peer: Peer) -> None:
    page = code_of("logging.md")
    assert logging.getLogger("websockets").level == logging.WARNING
    router = Router()

    @router.on("balance")
    async def fail(message: Any) -> None:
        raise ValueError("no such card")

    def to_peer(url: str, **options: Any) -> Any:
        return connect(url, transport=phx_peer, **options)

    phx_peer.allow_join("sim:1")
    main = asyncio.create_task(page["main"](to_peer, phx_peer.url, router))
    await settled(phx_peer)
    phx_peer.push("sim:1", "balance")
    await phx_peer.settled()
    main.cancel()
    await asyncio.wait([main])
    [(name, topic, error)] = page["reports"]
    assert (name.endswith("fail"), topic, str(error)) == (True, "sim:1", "no such card")


async def test_what_is_measured(phx_peer: Peer) -> None:
    page = code_of("metrics.md")
    phx_peer.allow_join("sim:1")
    async with connect(phx_peer.url, transport=phx_peer, router=page["router"]) as client:
        counting = asyncio.create_task(page["count"](client))
        await client.join("sim:1")
        phx_peer.push("sim:1", "balance")
        await phx_peer.settled()
        assert page["metrics"](client)["phx_handled_total"] == 1
        assert page["metrics"](client)["phx_connected"] == 1
        phx_peer.cut()
        assert page["metrics"](client)["phx_connected"] == 0
        await phx_peer.clock.elapse(1)
        assert page["metrics"](client)["phx_reconnects_total"] == 1
    await counting
    assert page["counts"]["Disconnected"] == 1
    assert list(page["seconds"]) == ["metrics.save"]


async def test_ready_is_connected_and_joined(phx_peer: Peer) -> None:
    ready = code_of("deployment.md")["ready"]
    phx_peer.allow_join("*")
    async with connect(phx_peer.url, transport=phx_peer) as client:
        assert not ready(client, {"sim:1"})
        await client.join("sim:1")
        assert ready(client, {"sim:1"})
        phx_peer.cut()
        assert not ready(client, {"sim:1"})
        await phx_peer.clock.elapse(1)
        assert ready(client, {"sim:1"})


async def test_the_code_for_those_who_come_from_elsewhere(phx_peer: Peer) -> None:
    page = code_of("coming-from.md", phx_peer)
    phx_peer.allow_join("*")
    phx_peer.expect_push("realtime:room", "broadcast").reply()
    phx_peer.expect_push("room:lobby", "echo").reply({"body": "hi"})
    runs = [page["follow"]("ws://test/socket", ["sim:1", "sim:2"])]
    runs += [page["room"]("ws://test/socket", "key"), page["lobby"]("ws://test/socket", "key")]
    tasks = [asyncio.create_task(run) for run in runs]
    for _ in range(3):
        await settled(phx_peer)
    phx_peer.push("sim:2", "balance", {"cents": 5})
    phx_peer.push("realtime:room", "broadcast", {"event": "shout", "payload": {"body": "hi"}})
    phx_peer.push("room:lobby", "shout", {"body": "ho"})
    await phx_peer.settled()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert page["handled"] == [("sim:2", {"cents": 5})]
    assert page["heard"] == [{"body": "hi"}]
    assert page["seen"] == [("shout", {"body": "ho"})]


async def test_the_code_for_those_who_come_from_phxsocket() -> None:
    page = code_of("coming-from.md")
    peer = Peer()
    peer.allow_join("sim:1")
    peer.expect_push("sim:1", "balance").reply({"cents": 7})
    assert await asyncio.to_thread(page["listen"], peer.url, transport=peer) == {"asked": 7}
    peer.verify()
