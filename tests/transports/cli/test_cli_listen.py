"""`phx listen`: what it prints, and what it records. Its start and end are in test_cli.py."""

import json
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import LONG, PHX, environment

from phx_proto import V2
from phx_transports.cli import main
from phx_transports.cli.recording import Recorder
from phx_transports.server import ServerChannel, ServerOptions
from phx_transports.testing import Peer, Recording, TestServer, serve
from phx_transports.threads import connect


class Room(ServerChannel):
    """It says all that it has to say when it is joined."""

    async def joined(self) -> None:
        self.presence.track("ann", {"mood": "ok"})
        self.presence.push_state()
        for event in ("tick", "tock", "shout"):
            self.push(event, {"body": event})
        if self.topic != "room:polled":  # to where a server cannot send bytes
            self.push("blob", b"\x00\xff")
        self.push("end", {})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestServer]:
    for name in ("PHX_URL", "PHX_TOKEN", "PHX_PARAMS"):
        monkeypatch.delenv(name, raising=False)
    with serve({"room:*": Room}) as server:
        yield server


def listened(server: TestServer, capfd: pytest.CaptureFixture[str], *options: str) -> list[dict[str, Any]]:
    """What it prints until it ends by itself."""
    assert main(("listen", server.url, "room:lobby", "--proxy", "none", *options)) == 0
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_it_ends_after_as_many_messages_as_it_was_told(server: TestServer, capfd: pytest.CaptureFixture[str]) -> None:
    exclude = ("--exclude", "presence_*")
    assert [line["event"] for line in listened(server, capfd, *exclude, "--count", "2")] == ["tick", "tock"]


def test_a_server_can_be_polled(server: TestServer, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--longpoll", "--event", "tick", "--event", "tock", "--count", "2", "--proxy", "none")
    assert main(("listen", server.url, "room:polled", *options)) == 0
    assert [json.loads(line)["event"] for line in capfd.readouterr().out.splitlines()] == ["tick", "tock"]


def test_events_can_be_excluded(server: TestServer, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--exclude", "presence_*", "--exclude", "tick", "--exclude", "t*", "--count", "3")
    assert [line["event"] for line in listened(server, capfd, *options)] == ["shout", "blob", "end"]


def test_who_comes_and_goes_is_told_instead_of_the_events_that_say_so(
    server: TestServer, capfd: pytest.CaptureFixture[str]
) -> None:
    lines = listened(server, capfd, "--presence", "--count", "5")
    assert [line["event"] for line in lines if "event" in line] == ["tick", "tock", "shout", "blob", "end"]
    (joined,) = [line for line in lines if "presence" in line]
    assert (joined["topic"], joined["presence"], joined["key"]) == ("room:lobby", "join", "ann")
    assert [meta["mood"] for meta in joined["metas"]] == ["ok"]


def test_where_that_cannot_be_written_it_ends_with_1(server: TestServer) -> None:
    command = [sys.executable, *PHX, "listen", server.url, "room:lobby", "--presence", "--event", "none"]
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            command, env=environment(), stdout=full, stderr=subprocess.PIPE, timeout=LONG, check=False
        )
    assert ended.returncode == 1
    assert ended.stderr.endswith(b"phx: cannot write to stdout: No space left on device\n")


def test_the_url_may_come_from_the_environment(
    server: TestServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHX_URL", server.url)
    assert main(("listen", "room:lobby", "--event", "shout", "--count", "1", "--proxy", "none")) == 0
    assert '"event":"shout"' in capfd.readouterr().out


def test_a_recorded_session_can_be_replayed(
    server: TestServer, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "session.jsonl"
    secret = ("--join-params", '{"since": 3, "token": "s3cret"}')
    listened(server, capfd, "--event", "end", "--count", "1", "--record", str(path), *secret)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "s3cret" not in path.read_text()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert next(line["data"] for line in lines if line["dir"] == "send").endswith('"phx_join",{"since":3,"token":"…"}]')
    recording = Recording.read(path)
    with Peer() as peer:
        recording.answer_joins(peer)
        with connect(peer.url, transport=peer) as client:
            channel = client.channel("room:lobby")
            with channel.messages() as messages:
                channel.join()
                recording.play(peer)
                seen = [next(iter(messages)) for _ in range(7)]
    assert {message.event for message in seen} == {
        "presence_state",
        "presence_diff",
        "tick",
        "tock",
        "shout",
        "blob",
        "end",
    }
    assert [message.payload for message in seen if message.event == "blob"] == [b"\x00\xff"]


def test_a_recording_never_overwrites_a_file(
    server: TestServer, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "session.jsonl"
    path.write_text("mine")
    assert main(("listen", server.url, "room:lobby", "--record", str(path))) == 1
    assert capfd.readouterr().err == f"phx: cannot write to {path}: File exists\n"
    assert path.read_text() == "mine"


def test_what_each_connection_carried_and_how_it_ended_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    recorder = Recorder(str(path), V2(), clock=lambda: 5.0)
    recorder.lost(1, None, "cut")
    recorder.received(2, [b"\x01"])
    recorder.lost(2, 1012, "restart")
    recorder.close()
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"t_ms": 0.0, "dir": "eof", "c": "1"},
        {"t_ms": 0.0, "dir": "recv", "c": "2", "op": "binary", "hex": "01"},
        {"t_ms": 0.0, "dir": "recv", "c": "2", "op": "close", "code": 1012, "reason": "restart"},
    ]


def test_each_socket_is_recorded_under_its_own_number(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    with serve({"room:*": Room}, options=ServerOptions(max_channels=1)) as limited:
        topics = ("room:1", "room:2", "--event", "end", "--count", "2")
        assert main(("listen", limited.url, *topics, "--proxy", "none", "--record", str(path))) == 0
    frames = [json.loads(line) for line in path.read_text().splitlines()]
    ends = {(line["c"], json.loads(line["data"])[2]) for line in frames if '"end"' in line.get("data", "")}
    assert len({number for number, _ in ends}) == len({topic for _, topic in ends}) == len(ends) == 2


def test_a_recording_that_cannot_be_written_ends_it_with_1(server: TestServer, tmp_path: Path) -> None:
    path = tmp_path / "session.jsonl"
    command = [sys.executable, *PHX, "listen", server.url, "room:lobby", "--proxy", "none", "--record", str(path)]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    env = environment({"PYTHONDONTWRITEBYTECODE": "1"})  # Python would cut its own files short, too, and keep them
    ended = subprocess.run(command, env=env, capture_output=True, timeout=LONG, check=False, preexec_fn=limit)
    assert ended.returncode == 1
    assert f"phx: cannot write to {path}: File too large\n" in ended.stderr.decode()
