"""The examples for Supabase, Absinthe and LiveView, each against a server that behaves like the real one."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fake_supabase import KEY, Supabase, serializer_of

from phx_proto import V1, Serializer
from phx_proto.errors import JoinRefused, PushRejected
from phx_transports.asyncio import connect
from phx_transports.server import Refuse, RefuseConnect, Server, ServerChannel, ServerSocket, on, running
from phx_transports.testing import Peer, serve
from phx_transports.testing.serving import AsyncTestServer

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import absinthe_subscription
import liveview_counter
import supabase_changes as supabase
from supabase_broadcast import serializer as v2

pytestmark = pytest.mark.asyncio


async def told(capsys: pytest.CaptureFixture[str], lines: int) -> list[str]:
    """What the example has printed, once it is so much."""
    out = ""
    async with asyncio.timeout(10):
        while out.count("\n") < lines:
            await asyncio.sleep(0.01)
            out += capsys.readouterr().out
    return out.splitlines()


# ---- Supabase -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("serializer", [V1(), v2], ids=["V1", "V2"])
async def test_supabase(
    serializer: Serializer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(running, "serializer_of", serializer_of)
    fake = Supabase()
    async with serve(fake.app) as server:
        main = asyncio.create_task(supabase.main(server.url, KEY, "fresh", serializer=serializer))
        assert await told(capsys, 1) == ["ok Subscribed to PostgreSQL"]
        fake.insert("orders", {"id": 7, "state": "paid"})
        assert await told(capsys, 1) == ["INSERT orders {'id': 7, 'state': 'paid'}"]
        await broadcast_and_renew(server)
        if serializer.vsn == "1.0.0":
            assert await told(capsys, 2) == ["hello {'from': 'elsewhere'}"] * 2
        main.cancel()
        await asyncio.wait([main])


async def broadcast_and_renew(server: AsyncTestServer) -> None:
    async with connect(server.url, params={"apikey": KEY}, serializer=V1(), proxy=None) as client:
        with pytest.raises(JoinRefused, match="Unauthorized"):
            await client.join("realtime:orders", {"config": supabase.config(private=True), "access_token": "stale"})
        channel = await client.join("realtime:orders", {"config": supabase.config()})
        payload = {"type": "broadcast", "event": "hello", "payload": {"from": "elsewhere"}}
        await channel.push("broadcast", payload)
        await supabase.renew(channel, "renewed")
        await channel.push("broadcast", payload)  # it goes on


# ---- Absinthe -------------------------------------------------------------------------------------------------------


async def test_absinthe(phx_peer: Peer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        absinthe_subscription, "connect", lambda url, **options: connect(url, transport=phx_peer, **options)
    )
    phx_peer.allow_join("__absinthe__:control")
    document = {"query": absinthe_subscription.DOCUMENT, "variables": {"room": "7"}}
    phx_peer.expect_push("__absinthe__:control", "doc", document).reply({"subscriptionId": "__absinthe__:doc:1"})
    main = asyncio.create_task(absinthe_subscription.main(phx_peer.url, "7"))
    await asyncio.sleep(0)
    await phx_peer.clock.elapse(1)
    data = {"result": {"data": {"messageAdded": {"body": "hi"}}}, "subscriptionId": "__absinthe__:doc:1"}
    phx_peer.push_unjoined("__absinthe__:doc:1", "subscription:data", data)
    await phx_peer.settled()
    assert capsys.readouterr().out == "{'messageAdded': {'body': 'hi'}}\n"
    phx_peer.cut()
    phx_peer.expect_push("__absinthe__:control", "doc", document).reply({"subscriptionId": "__absinthe__:doc:2"})
    await phx_peer.clock.elapse(1)
    main.cancel()
    await asyncio.wait([main])


async def test_absinthe_queries_and_unsubscribing(phx_peer: Peer) -> None:
    phx_peer.allow_join("__absinthe__:control")
    phx_peer.expect_push("__absinthe__:control", "doc").reply({"data": {"rooms": []}})
    phx_peer.expect_push("__absinthe__:control", "doc").refuse({"errors": [{"message": "no such field"}]})
    phx_peer.expect_push("__absinthe__:control", "unsubscribe").reply({"subscriptionId": "__absinthe__:doc:1"})
    async with connect(phx_peer.url, transport=phx_peer) as client:
        control = await client.join("__absinthe__:control")
        assert await absinthe_subscription.run(control, "{ rooms { id } }", {}) == {"data": {"rooms": []}}
        with pytest.raises(PushRejected, match="no such field"):
            await absinthe_subscription.run(control, "{ nothing }", {})
        await absinthe_subscription.unsubscribe(control, "__absinthe__:doc:1")


# ---- LiveView -------------------------------------------------------------------------------------------------------

PAGE = """<html><head><meta name="csrf-token" content="token+/="/></head>
<body><div id="phx-F1" data-phx-main data-phx-session="signed" data-phx-static="static">0</div></body></html>"""


class PageHandler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("set-cookie", "_app_key=cookie; path=/; HttpOnly")
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def page() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), PageHandler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}/counter"
        http.shutdown()
        thread.join()


class Counter(ServerChannel):
    count = 0

    async def join(self, topic: str, params: Any) -> Any:
        if params["session"] != "signed" or params["params"]["_csrf_token"] != "token+/=":
            raise Refuse({"reason": "stale"})
        return {"rendered": {"0": "0", "s": ["<b>", "</b>"]}, "liveview_version": "1.1.0"}

    @on("event")
    async def event(self, payload: Any) -> Any:
        assert payload["type"] == "click"
        self.count += 1 if payload["event"] == "inc" else -1
        return {"diff": {"0": str(self.count)}}


def accept(socket: ServerSocket) -> None:
    if socket.params.get("_csrf_token") != "token+/=":
        raise RefuseConnect(403, "")


async def test_liveview(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    application = Server(path="/live", connect=accept)
    application.channel("lv:*")(Counter)
    async with serve(application) as server:
        assert await liveview_counter.main(page, "inc", server.url) == {"0": "1"}
