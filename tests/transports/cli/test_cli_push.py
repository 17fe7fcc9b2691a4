"""`phx push`: the reply on stdout, and the result in the exit code. See docs/tools.md."""

import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from processes import LONG, PHX, environment

from phx_transports.cli import main
from phx_transports.server import Refuse, ServerChannel, on
from phx_transports.testing import TestServer, serve


class Room(ServerChannel):
    async def join(self, topic: str, params: Any) -> Any:
        if topic == "room:private":
            raise Refuse({"reason": "not yours"})
        return {}

    @on("whoami")
    async def whoami(self, payload: Any) -> Any:
        return {"params": self.socket.params["user"], "token": self.socket.auth_token, "join": self.params}

    @on("echo")
    async def echo(self, payload: Any) -> Any:
        return payload

    @on("blob")
    async def blob(self, payload: Any) -> Any:
        return b"\x00\xff"

    @on("refuse")
    async def refuse(self, payload: Any) -> Any:
        raise Refuse({"reason": "no"})

    @on("mute")
    async def mute(self, payload: Any) -> Any:
        return None

    @on("crash")
    async def crash(self, payload: Any) -> Any:
        raise RuntimeError("asked to")

    async def handle_in(self, event: str, payload: Any) -> Any:
        return {event: payload}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestServer]:
    for name in ("PHX_URL", "PHX_TOKEN", "PHX_PARAMS"):
        monkeypatch.delenv(name, raising=False)
    with serve({"room:*": Room}, on_error=lambda report: None) as server:
        yield server


def push(server: TestServer, *arguments: str) -> int:
    return main(("push", server.url, *arguments, "--proxy", "none"))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("shout",), '{"status":"ok","response":{"shout":{}}}'),
        (("shout", '[1, "ü\\u009b"]'), '{"status":"ok","response":{"shout":[1,"ü\\u009b"]}}'),
        (("blob",), '{"status":"ok","response":"AP8=","encoding":"base64"}'),
    ],
)
def test_the_reply_is_printed(
    arguments: tuple[str, ...], line: str, server: TestServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(server, "room:lobby", *arguments) == 0
    assert capsys.readouterr().out == f"{line}\n"


def test_a_payload_may_be_in_a_file_or_on_the_standard_input(
    server: TestServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"n": 1}')
    monkeypatch.setattr("sys.stdin", io.StringIO('{"n": 2}'))
    assert push(server, "room:lobby", "a", f"@{file}") == push(server, "room:lobby", "a", "@-") == 0
    assert '"n":1' in (out := capsys.readouterr().out)
    assert '"n":2' in out


def test_where_and_who_may_come_from_the_environment(
    server: TestServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHX_URL", server.url)
    monkeypatch.setenv("PHX_TOKEN", "s3cret-token")
    monkeypatch.setenv("PHX_PARAMS", '{"user": 7}')
    assert main(("push", "room:lobby", "whoami", "--join-params", "[1]", "--proxy", "none")) == 0
    expected = '{"status":"ok","response":{"params":"7","token":"s3cret-token","join":[1]}}\n'
    assert capsys.readouterr() == (expected, "")


def test_another_status_is_printed_and_ends_with_3(server: TestServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(server, "room:lobby", "refuse") == 3
    assert capsys.readouterr().out == '{"status":"error","response":{"reason":"no"}}\n'


def test_no_reply_ends_with_4(server: TestServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert push(server, "room:lobby", "mute", "--reply-timeout", "0.1") == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("phx: push 'mute' on topic 'room:lobby' was not answered within 0.1 s")


def test_where_none_is_wanted_it_ends_when_it_is_sent(server: TestServer) -> None:
    assert push(server, "room:lobby", "mute", "--no-reply") == 0
    assert 'pushes "mute" to "room:lobby" {}' in str(server.transcript)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("room:private", "shout"), "{'reason': 'not yours'} (check the topic"),
        (("room:lobby", "crash"), "was lost after it was sent"),
    ],
)
def test_a_refused_join_and_a_lost_push_end_with_1(
    arguments: tuple[str, ...], words: str, server: TestServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(server, *arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_a_server_that_is_not_there_ends_with_1(server: TestServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.stop()
    assert push(server, "room:lobby", "shout", "--timeout", "0.2") == 1
    assert "refused the connection (is the server up?)" in capsys.readouterr().err


@pytest.mark.parametrize(("payload", "words"), [("{body: 1}", "not JSON"), ("1e999", "")])
def test_a_payload_that_cannot_be_sent_ends_with_2(
    payload: str, words: str, server: TestServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(server, "room:lobby", "shout", payload) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_the_librarys_log_is_shown_where_it_is_asked_for(
    server: TestServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.stop()
    options = ("--timeout", "0.2", "--params", '{"pin": "s3cret"}')
    assert push(server, "room:lobby", "shout", *options, "--log-level", "warning") == 1
    err = capsys.readouterr().err
    assert "WARNING phx_transports: " in err
    assert "s3cret" not in err


# ---- standard streams -----------------------------------------------------------------------------------------------


def in_a_shell(server: TestServer, payload: str, streams: str) -> "subprocess.CompletedProcess[bytes]":
    """`phx push` with its standard streams redirected as a shell does."""
    script = f'exec "$@" {streams}'
    command = [sys.executable, *PHX, "push", server.url, "room:lobby", "echo", payload]
    return subprocess.run(
        ["sh", "-c", script, "sh", *command], env=environment(), capture_output=True, timeout=LONG, check=False
    )


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_standard_streams_may_be_closed(server: TestServer, closed: str) -> None:
    ended = in_a_shell(server, '{"a": 1}', closed)
    printed = b"" if ">&-" in closed.replace("2>&-", "") else b'{"status":"ok","response":{"a":1}}\n'
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, printed, b"")


def test_a_payload_from_a_closed_standard_input_is_no_json(server: TestServer) -> None:
    ended = in_a_shell(server, "@-", "<&-")
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"phx: not JSON (")


def test_a_reply_that_cannot_be_written_is_told(server: TestServer) -> None:
    ended = in_a_shell(server, "{}", "> /dev/full")
    assert (ended.returncode, ended.stderr) == (1, b"phx: cannot write to stdout: No space left on device\n")


def test_an_argument_that_is_no_text_is_no_json(server: TestServer) -> None:
    assert main(("push", server.url, "room:lobby", "echo", "\udcff")) == 2
