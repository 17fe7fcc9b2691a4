"""The fake of Supabase Realtime is honest: the official clients work with it, and so does the example (tests/docs)."""

import asyncio
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from fake_supabase import KEY, Supabase, serializer_of
from serving_in_thread import LONG

from phx_transports.server import running
from phx_transports.testing import serve
from phx_transports.testing.serving import TestServer

PROJECT = Path(__file__).parents[2]
ROW = {"id": 7, "state": "paid"}


@pytest.fixture
def supabase(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Supabase, TestServer]]:
    monkeypatch.setattr(running, "serializer_of", serializer_of)
    fake = Supabase()
    with serve(fake.app) as server:
        yield fake, server


@contextmanager
def node(url: str, vsn: str) -> Iterator[Iterator[Any]]:
    command = ["node", str(Path(__file__).with_name("realtime_js.mjs")), url, KEY, vsn]
    with subprocess.Popen(command, cwd=PROJECT / "tests" / "interop", stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield map(json.loads, process.stdout)
        finally:
            process.kill()


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
def test_realtime_js(supabase: tuple[Supabase, TestServer], vsn: str) -> None:
    fake, server = supabase
    with node(server.url, vsn) as told:
        assert next(told) == ["status", "SUBSCRIBED", None]
        seen = [next(told) for _ in range(4)]
        assert sorted(seen, key=str) == [
            ["broadcast", {"from": "js"}],
            ["came", "js"],
            ["sent", "ok"],
            ["tracked", "ok"],
        ]
        server.call(lambda: fake.insert("orders", ROW))
        assert next(told) == ["row", ROW]


async def with_realtime(url: str, insert: Any) -> dict[str, Any]:
    import realtime  # type: ignore[import-not-found]

    seen: dict[str, Any] = {}
    client = realtime.AsyncRealtimeClient(url, KEY, auto_reconnect=False)
    channel = client.channel(
        "orders", {"config": {"broadcast": {"self": True, "ack": True}, "presence": {"key": "py"}}}
    )
    came = asyncio.Event()

    def changed(payload: Any) -> None:
        seen["row"] = payload["data"]["record"]
        came.set()

    def joined(status: Any, error: Any) -> None:
        seen["status"] = status.value, error

    channel.on_postgres_changes("INSERT", table="orders", schema="public", callback=changed)
    channel.on_broadcast("hello", lambda payload: seen.__setitem__("broadcast", payload["payload"]))
    await channel.subscribe(joined)
    await channel.send_broadcast("hello", {"from": "py"})
    async with asyncio.timeout(LONG):
        while "broadcast" not in seen:
            await asyncio.sleep(0.01)
        insert()
        await came.wait()
    await client.close()
    return seen


def test_realtime_of_pypi(supabase: tuple[Supabase, TestServer]) -> None:
    fake, server = supabase
    seen = asyncio.run(with_realtime(server.url, lambda: server.call(lambda: fake.insert("orders", ROW))))
    assert seen == {"status": ("SUBSCRIBED", None), "broadcast": {"from": "py"}, "row": ROW}
