"""The examples that embed the machine, run as a user would, against the embedded server."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving_in_thread import LONG, embedded, serving, start, tidy

from phx_transports.asyncio.server import Server, ServerChannel, on

PROJECT = Path(__file__).parent.parent.parent
EXAMPLES = ["trio_client.py", "asyncio_streams_client.py"]


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with tidy():
        yield


def run(example: str, *arguments: str) -> list[str]:
    command = [sys.executable, "-W", "error", f"examples/{example}", *arguments]
    environment = {"PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        command, cwd=PROJECT, env=environment, capture_output=True, text=True, timeout=LONG, check=False
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_joins_pushes_prints_and_closes(example: str) -> None:
    server = Server()

    @server.channel("room:*")
    class Room(ServerChannel):
        @on("shout")
        async def shout(self, payload: Any) -> Any:
            self.broadcast("shout", payload)
            return {"heard": 1}

    with embedded(server) as url:
        joined, message, reply = run(example, url, "room:lobby", "shout")
    assert joined.startswith("ChannelJoined(topic='room:lobby'")
    assert message == "shout {'body': 'hi'}"
    assert "Reply(status='ok', response={'heard': 1})" in reply


@pytest.mark.parametrize("example", EXAMPLES)
def test_it_comes_back_when_its_connection_is_cut(example: str) -> None:
    with serving() as peer:
        running = start(run, example, peer.url, "room:lobby", "shout")
        wire = peer.wire()
        wire.expect("phx_join")
        wire.cut()
        peer.refuse(lambda: (503, "not yet") if peer.attempts == 2 else None)
        wire = peer.wire()
        wire.accept("room:lobby")
        wire.reply(wire.expect("shout"))
        wire.let_go("room:lobby")
        assert wire.ended() == 1000
        assert len(running.result(LONG)) == 2
