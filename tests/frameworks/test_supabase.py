"""The fake of Supabase Realtime is correct: the official clients work with it, and so does the example (tests/docs)."""

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

from bench import environments
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


def test_realtime_of_pypi(supabase: tuple[Supabase, TestServer]) -> None:
    fake, server = supabase
    python = environments.python(environments.Package("realtime", "==2.*"))  # it wants an older websockets
    command = [python, str(Path(__file__).with_name("realtime_py.py")), server.url, KEY]
    with subprocess.Popen(command, stdout=PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            told = map(json.loads, process.stdout)
            assert next(told) == ["status", "SUBSCRIBED", None]
            assert next(told) == ["broadcast", {"from": "py"}]
            server.call(lambda: fake.insert("orders", ROW))
            assert next(told) == ["row", ROW]
            assert process.wait(LONG) == 0
        finally:
            process.kill()
