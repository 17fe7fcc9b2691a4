"""`phx doctor`: its report on a working server, and on every problem. See docs/tools.md."""

import contextlib
import re
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from snippets import blocks

from phx_transports.cli import main
from phx_transports.server import Refuse, RefuseConnect, ServerChannel, ServerSocket
from phx_transports.testing import TestServer, serve

GUIDE = Path(__file__).parents[3] / "docs" / "tools.md"

Run = Callable[..., tuple[int, list[str]]]


class Room(ServerChannel):
    async def join(self, topic: str, params: Any) -> Any:
        if topic == "room:private":
            raise Refuse({"reason": "who is s3cret-value?"})
        return {}


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs it; gives the exit code and what each step was, without times."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "PHX_URL", "PHX_TOKEN", "PHX_PARAMS"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    def run(*arguments: str) -> tuple[int, list[str]]:
        code = main(("doctor", *arguments))
        told = capsys.readouterr()
        assert told.err == ""
        return code, [re.sub(r" +[\d.]+ ms  ", ": ", line) for line in told.out.splitlines()]

    return run


def as_in_the_guide(lines: list[str], server: TestServer | int) -> list[str]:
    """With the port, the certificate's days and the like of the guide's example."""
    port = server if isinstance(server, int) else server.port
    text = "\n".join(lines).replace(str(port), "4000")
    return re.sub(r"valid for \d+ more days", "valid for 87 more days", text).splitlines()


def in_the_guide(marker: str) -> list[str]:
    (block,) = blocks(GUIDE, language="text", marker=marker)
    _, *lines = block.code.splitlines()
    return [re.sub(r" +[\d.]+ ms  ", ": ", line) for line in lines]


@pytest.fixture
def server() -> Iterator[TestServer]:
    with serve({"room:*": Room}) as server:
        yield server


def test_a_server_that_is_well(doctor: Run, server: TestServer) -> None:
    code, lines = doctor(server.url, "room:lobby")
    assert code == 0
    assert as_in_the_guide(lines, server) == in_the_guide("well")
    assert [line.split()[0] for line in lines[1:]] == ["ok"] * 7


def test_how_many_channels_one_socket_takes(doctor: Run, server: TestServer) -> None:
    code, lines = doctor(server.url, "room:lobby", "--channels", "120")
    assert code == 0
    assert as_in_the_guide(lines, server) == in_the_guide("channels")
    assert "ok   channels: 20 joined on one socket" in doctor(server.url, "room:lobby", "--channels", "20")[1]


def test_a_dead_port(doctor: Run) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        code, lines = doctor(f"ws://127.0.0.1:{port}/socket")
    assert code == 1
    assert as_in_the_guide(lines, port) == in_the_guide("dead")


def test_a_tls_port_that_is_spoken_to_plainly(doctor: Run, tmp_path: Path) -> None:
    with serve({}, ssl=Authority(tmp_path).server()) as server:
        code, lines = doctor(server.url.replace("wss:", "ws:"))
    assert code == 1
    assert as_in_the_guide(lines, server) == in_the_guide("plain")


def test_a_plain_port_that_is_spoken_to_with_tls(doctor: Run, server: TestServer) -> None:
    code, lines = doctor(server.url.replace("ws:", "wss:"), "--timeout", "0.3")
    assert code == 1
    assert lines[-1].startswith("FAIL tls: no answer within 0.3 s (does the port speak TLS? if not, give the URL with")


def test_a_certificate_that_nobody_trusts(doctor: Run, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with serve({"room:*": Room}, ssl=authority.server()) as server:
        code, lines = doctor(server.url)
        assert code == 1
        assert as_in_the_guide(lines, server) == in_the_guide("untrusted")

        code, lines = doctor(server.url, "--ca", str(authority.file()))
        assert code == 0
        assert "certificate for 127.0.0.1 by throwaway, valid for 0 more days" in lines[4]


def test_a_handshake_that_is_refused(doctor: Run) -> None:
    def connect(socket: ServerSocket) -> None:
        raise RefuseConnect(403, f"who is {socket.params['key']}?")

    with serve({}, connect=connect) as server:
        code, lines = doctor(server.url, "--params", '{"key": "s3cret-value"}')
    assert code == 1
    assert "s3cret-value" not in "".join(lines)
    assert as_in_the_guide(lines, server) == in_the_guide("forbidden")


def test_a_wrong_path(doctor: Run, server: TestServer) -> None:
    code, lines = doctor(f"{server.url}s")
    assert code == 1
    assert as_in_the_guide(lines, server) == in_the_guide("path")


class Stripping(socketserver.BaseRequestHandler):
    """A reverse proxy that knows nothing of WebSocket: hop-by-hop headers end with it."""

    target: int

    def handle(self) -> None:
        head, rest = b"", b""
        while b"\r\n\r\n" not in head and (data := self.request.recv(65536)):
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        if not head:
            return
        kept = [line for line in head.split(b"\r\n") if not line.lower().startswith((b"upgrade:", b"connection:"))]
        with socket.create_connection(("127.0.0.1", self.target)) as server:
            server.sendall(b"\r\n".join([kept[0], b"Connection: close", *kept[1:], b"", b""]) + rest)
            pump = threading.Thread(target=relayed, args=(self.request, server))
            pump.start()
            relayed(server, self.request)
            with contextlib.suppress(OSError):
                self.request.shutdown(socket.SHUT_RDWR)
            pump.join()


def relayed(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


@contextmanager
def stripping(port: int) -> Iterator[int]:
    """Such a proxy before a server; gives its port."""
    handler = type("Handler", (Stripping,), {"target": port})
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        yield proxy.server_address[1]
        proxy.shutdown()
    thread.join()


def test_a_proxy_that_strips_upgrades(doctor: Run, server: TestServer) -> None:
    with stripping(server.port) as port:
        code, lines = doctor(f"ws://127.0.0.1:{port}/socket", "room:lobby")
    assert code == 1
    assert as_in_the_guide(lines, port) == in_the_guide("stripped")


def test_long_polling_alone(doctor: Run, server: TestServer) -> None:
    code, lines = doctor(server.url, "room:lobby", "--longpoll")
    assert code == 0
    assert lines[-1].startswith("ok   longpoll: long polling works, room:lobby joined")
    assert lines[0] == f"examining http://127.0.0.1:{server.port}/socket/longpoll, vsn 2.0.0"
    assert doctor(f"{server.url}s", "--longpoll", "--timeout", "0.3")[0] == 1


def test_a_proxy_is_named_without_its_password(doctor: Run, server: TestServer) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        proxy = f"127.0.0.1:{sock.getsockname()[1]}"
        code, lines = doctor(server.url, "--proxy", f"http://ann:s3cret-word@{proxy}")
    assert code == 1
    assert lines[1:] == [
        f"ok   proxy: the proxy {proxy}",
        "ok   dns: 127.0.0.1 is 127.0.0.1",
        f"FAIL tcp: the proxy {proxy} refused the connection (is the proxy up?)",
    ]
    assert doctor(server.url, "--proxy", "none")[0] == 0


def test_a_name_that_nobody_has(doctor: Run) -> None:
    code, lines = doctor("ws://no.such.host.invalid/socket")
    assert code == 1
    assert lines[-1].startswith("FAIL dns: no address was found for host no.such.host.invalid")


@pytest.mark.parametrize(
    ("topic", "words"),
    [
        ("room:private", "'room:private': {'reason': 'who is [secret]?'} (check the topic, the join's params"),
        ("nothing:here", "(the server has no channel of that name: check the topic)"),
    ],
)
def test_a_join_that_is_refused(topic: str, words: str, doctor: Run, server: TestServer) -> None:
    code, lines = doctor(server.url, topic, "--params", '{"key": "s3cret-value"}')
    assert code == 1
    assert lines[-1].startswith("FAIL join: the server refused the join of topic ")
    assert words in lines[-1]


def test_a_server_that_hangs(doctor: Run, server: TestServer) -> None:
    server.faults.swallow_heartbeats()
    code, lines = doctor(server.url, "--timeout", "0.2")
    assert code == 1
    assert lines[-1].startswith("FAIL heartbeat: no answer within 0.2 s (what answered is no Phoenix socket")


def test_a_server_that_ends_the_connection(doctor: Run, server: TestServer) -> None:
    server.faults.cut_after(2)
    code, lines = doctor(server.url, "room:lobby")
    assert code == 1
    assert lines[-1].startswith("FAIL join: the connection is closed without a close code")


def test_a_token_that_the_server_does_not_read(doctor: Run) -> None:
    with serve({"room:*": Room}) as server:
        assert "subprotocol phoenix" in doctor(server.url, "--token", "s3cret-value")[1][4]
    app = server.app
    app.mount("/deaf", auth_token=False)
    with serve(app) as server:
        code, lines = doctor(server.url.replace("/socket", "/deaf"), "--token", "s3cret-value")
    assert code == 0
    assert lines[4].startswith("note handshake: accepted, vsn 2.0.0, subprotocol none (the server took no notice")
