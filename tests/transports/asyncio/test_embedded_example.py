"""The example of a client inside a web application, under the web server that most of them run under."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from processes import environment
from serving_in_thread import LONG, reserved_port, serving, until

pytest.importorskip("uvicorn")

PROJECT = Path(__file__).parents[3]
SOON = 5  # seconds


@contextmanager
def application(url: str, port: int) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "uvicorn", "--app-dir", "examples", "--port", str(port), "embedded_in_asgi:app"]
    env = environment({"PYTHONPATH": str(PROJECT), "PHX_URL": url, "no_proxy": "*"})
    with subprocess.Popen(command, cwd=PROJECT, env=env, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def get(port: int) -> Any:
    try:
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/", timeout=LONG) as response:
            return json.load(response)
    except URLError:  # it does not listen yet
        return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_messages_arrive_and_a_signal_ends_application_and_client_within_seconds(number: signal.Signals) -> None:
    with serving() as peer, reserved_port() as port, application(peer.url, port) as process:
        wire = peer.wire()
        wire.accept("sim:1")
        wire.push("sim:1", "balance", {"cents": 5})
        until(lambda: get(port) == {"sim:1": {"cents": 5}})
        process.send_signal(number)
        wire.let_go("sim:1")
        assert wire.ended() == 1000
        process.wait(SOON)
        assert process.stderr is not None
        assert "Application shutdown complete" in process.stderr.read()


def test_a_client_that_cannot_connect_ends_the_start_and_says_why() -> None:
    with reserved_port() as port, application("ftp://example.invalid/socket", port) as process:
        _, told = process.communicate(timeout=LONG)
    assert process.returncode == 3
    assert "the URL must begin with ws://" in told
