"""The examples that embed the engine, run as a user would, against real servers."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from certificates import Authority
from processes import environment
from room_server import server
from serving_in_thread import LONG, reserved_port, serving, start

from phx_transports.testing import serve

pytestmark = pytest.mark.usefixtures("clean_threads")

PROJECT = Path(__file__).parents[3]
EXAMPLES = ["trio_client.py", "asyncio_streams_client.py"]


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def started(example: str, url: str, **more: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-W", "error", f"examples/{example}", url, "room:lobby", "shout"]
    env, pipe = environment({"PYTHONPATH": str(PROJECT), **more}), subprocess.PIPE
    with subprocess.Popen(command, cwd=PROJECT, env=env, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@dataclass(frozen=True)
class Done:
    """How it ended, and what it said."""

    code: int
    out: str
    err: str


def run(example: str, url: str, **more: str) -> Done:
    with started(example, url, **more) as process:
        out, err = process.communicate(timeout=LONG)
    return Done(process.returncode, out, err)


def test_it_joins_pushes_prints_and_closes(example: str) -> None:
    with serve(server) as served:
        done = run(example, served.url)
    joined, message, answered = done.out.splitlines()
    assert joined == "joined: {'topic': 'room:lobby'}"
    assert message == "shout {'body': 'hi'}"
    assert answered == "answered: Reply(status='ok', response={})"
    assert (done.code, done.err) == (0, "")


def test_it_waits_for_a_server_that_is_not_there_yet(example: str) -> None:
    with reserved_port() as port, started(example, f"ws://127.0.0.1:{port}/socket") as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("attempt 1 to connect failed")
        with serving(port=port) as peer:
            wire = peer.wire()
            wire.accept("room:lobby")
            wire.reply(wire.expect("shout"))
            wire.let_go("room:lobby")
            assert wire.ended() == 1000
        process.communicate(timeout=LONG)
        assert process.returncode == 0


def test_it_comes_back_when_its_connection_is_cut(example: str) -> None:
    with serving() as peer:
        running = start(run, example, peer.url)
        wire = peer.wire()
        wire.expect("phx_join")
        wire.cut()
        peer.refuse(lambda: (503, "not yet") if peer.attempts == 2 else None)
        wire = peer.wire()
        wire.accept("room:lobby")
        wire.reply(wire.expect("shout"))
        wire.let_go("room:lobby")
        assert wire.ended() == 1000
        done = running.result(LONG)
    assert len(done.out.splitlines()) == 2
    lost, refused = done.err.splitlines()
    assert "disconnected" in lost
    assert "HTTP 503: not yet" in refused
    assert done.code == 0


def test_it_speaks_tls(example: str, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with serving(ssl=authority.server()) as peer:
        running = start(run, example, peer.url, SSL_CERT_FILE=str(authority.file()))
        wire = peer.wire()
        wire.accept("room:lobby")
        wire.reply(wire.expect("shout"))
        wire.let_go("room:lobby")
        assert wire.ended() == 1000
        done = running.result(LONG)
    assert (done.code, done.err) == (0, "")


def test_it_does_not_trust_just_any_certificate(example: str, tmp_path: Path) -> None:
    with serving(ssl=Authority(tmp_path).server()) as peer:
        done = run(example, peer.url)
    assert f"CertificateError: the TLS certificate of 127.0.0.1:{peer.port} was not accepted" in done.err
    assert done.code == 1


def test_a_refusal_ends_it_with_its_error(example: str) -> None:
    with serving() as peer:
        peer.refuse(lambda: (403, "who?"))
        done = run(example, peer.url)
    assert "with HTTP 403: who?" in done.err
    assert done.code == 1
