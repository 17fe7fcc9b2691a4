"""Reaching a server over the network: addresses, proxies' and servers' answers to the handshake, and the errors."""

import gzip
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest
from certificates import Authority
from serving_in_thread import LONG, ONCE, serving
from websockets.utils import accept_key

from phx_proto.errors import CertificateError, ConnectError, ConnectTimeout, HandshakeRefused

from .adapters import Adapter


@contextmanager
def black_hole() -> Iterator[int]:
    """A port of 127.0.0.2 that swallows packets: nobody accepts there, and its backlog is full."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(full.getsockname())
        yield full.getsockname()[1]


@contextmanager
def answering(answer: Callable[[socket.socket, str], None], *, hang: bool = False) -> Iterator[str]:
    """A server that answers each request as told, given its key, and then ends the connection or leaves it open."""
    over = threading.Event()

    def serve(sock: socket.socket) -> None:
        with sock, suppress(OSError):
            sock.settimeout(LONG)
            data = b""
            while b"\r\n\r\n" not in data and data[:1] != b"\x16" and (part := sock.recv(1 << 16)):  # 0x16: TLS
                data += part
            lines = data.decode("latin-1").lower().split("\r\n")
            original = data.decode("latin-1").split("\r\n")
            keys = [original[i].split(": ")[1] for i, line in enumerate(lines) if line.startswith("sec-websocket-key")]
            answer(sock, keys[0] if keys else "")
            if hang:
                over.wait(LONG)

    def accept() -> None:
        with suppress(OSError):
            while True:
                thread = threading.Thread(target=serve, args=(listener.accept()[0],), name="answering")
                threads.append(thread)
                thread.start()

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept, name="accepting")
        accepting.start()
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}/socket"
        finally:
            over.set()
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accepting.join(LONG)
            for thread in threads:
                thread.join(LONG)


def saying(*parts: bytes) -> Callable[[socket.socket, str], None]:
    def answer(sock: socket.socket, key: str) -> None:
        for part in parts:
            sock.sendall(part.replace(b"KEY", accept_key(key).encode() if key else b""))

    return answer


UPGRADE = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: KEY\r\n\r\n"


# ---- addresses ------------------------------------------------------------------------------------------------------


def resolving(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """The host `two.example` has these addresses."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        if host != "two.example":
            return real(host, port, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


def test_an_address_that_swallows_packets_hides_the_next_for_a_moment_only(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "127.0.0.2", "127.0.0.1")
    with ExitStack() as stack:
        port = stack.enter_context(black_hole())
        answer = saying(b"HTTP/1.1 403 No\r\nContent-Length: 4\r\n\r\nhere")
        url = stack.enter_context(answering(answer))
        there = int(url.split(":")[2].split("/")[0])
        redirected = socket.getaddrinfo

        def two(host: Any, port_: Any, *args: Any, **options: Any) -> Any:
            found = redirected(host, port_, *args, **options)
            ports = {"127.0.0.2": port, "127.0.0.1": there}
            return (
                [(*info[:4], (info[4][0], ports[str(info[4][0])])) for info in found]
                if host == "two.example"
                else found
            )

        monkeypatch.setattr(socket, "getaddrinfo", two)
        began = monotonic()
        with pytest.raises(HandshakeRefused, match="here"):
            adapter.connect("ws://two.example:4000/socket")
        assert 0.2 < monotonic() - began < 5.0  # the bound is for machines with much else to do


def test_a_black_hole_is_told_from_a_server_that_does_not_answer(adapter: Adapter) -> None:
    hasty = replace(ONCE, open_timeout=0.3)
    with black_hole() as port, pytest.raises(ConnectError) as caught:
        adapter.connect(f"ws://127.0.0.2:{port}/socket", options=hasty)
    assert f"127.0.0.2:{port} did not accept a TCP connection within 0.3 s" in str(caught.value)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        place = f"127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(ConnectError) as caught:
            adapter.connect(f"ws://{place}/socket", options=hasty)
        assert f"{place} accepted the connection but did not answer the handshake within 0.3 s" in str(caught.value)
        with pytest.raises(ConnectError) as caught:
            adapter.connect(f"wss://{place}/socket", options=hasty)
        assert f"{place} accepted the connection but did not answer the handshake of TLS" in str(caught.value)


def test_the_addresses_that_did_not_accept_are_named(adapter: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, "127.0.0.2")
    with black_hole() as port, pytest.raises(ConnectTimeout) as caught:
        adapter.connect(f"ws://two.example:{port}/socket", timeout=0.3)
    assert f"two.example:{port} (127.0.0.2) did not accept a TCP connection" in str(caught.value)


def test_an_address_that_refuses_is_followed_by_the_next_at_once(
    adapter: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, "127.0.0.3", "127.0.0.1")
    with serving() as peer:
        client = adapter.connect(peer.url.replace("127.0.0.1", "two.example"))
        client.abort()


# ---- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101\r\n",
        b"HTTP/1.1 101 \r\n",
        b"HTTP/1.1 101 Sw\xefitching\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 101 Go\r\n",
        b"HTTP/1.1 101 Go\r\nX-Padded:  \t a \t\r\nX-Empty:\r\n",
    ],
)
def test_what_http_allows_is_accepted(adapter: Adapter, head: bytes) -> None:
    with answering(saying(head + UPGRADE), hang=True) as url:
        adapter.connect(url).abort()


GZIPPED = gzip.compress(b"no way", mtime=0)
DEFLATED = zlib.compress(b"no way")

WHOLE = [
    (b"HTTP/1.1 404 No\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nno way\r\n0\r\n\r\n", 404, b"no way"),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 403 No\r\nContent-Length: 6\r\n\r\nno way", 403, b"no way"),
    (
        b"HTTP/1.1 403 No\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(GZIPPED) + GZIPPED,
        403,
        b"no way",
    ),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, b"hi"),
]
ENDED_BY_THE_CONNECTION = [
    (b"HTTP/1.0 403 No\r\n\r\nno way", 403, b"no way"),
    (b"HTTP/1.1 403 No\r\nContent-Encoding: deflate\r\n\r\n" + DEFLATED, 403, b"no way"),
    (b"HTTP/1.1 403 No\r\nContent-Encoding: deflate\r\n\r\n" + DEFLATED[2:-4], 403, b"no way"),
    (b"HTTP/1.1 403 No\r\nContent-Encoding: gzip\r\n\r\nnot zipped", 403, b"not zipped"),
]
CUT_SHORT = [
    (b"HTTP/1.1 403\r\n\r\nno way", 403, b"no way"),
    (b"HTTP/1.1 403 No\r\nContent-Length: 100\r\n\r\nno way", 403, b"no way"),
    (b"HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nno way\r\n", 403, b"no way"),
    (b"HTTP/1.1 403 No\r\nContent-Length: many\r\n\r\nno way", 403, b""),
    (b"HTTP/1.1 403 No\r\nX-Long: " + b"x" * 200_000, 403, b""),
    (b"HTTP/1.1 403 No\r\nX-Slow: x", 403, b""),
]


@pytest.mark.parametrize(
    ("answer", "status", "body", "hang"),
    [(*row, True) for row in WHOLE + CUT_SHORT] + [(*row, False) for row in ENDED_BY_THE_CONNECTION + CUT_SHORT],
)
def test_the_status_of_a_refusal_is_told_with_what_came_of_its_body(
    adapter: Adapter, answer: bytes, status: int, body: bytes, hang: bool
) -> None:
    with answering(saying(answer), hang=hang) as url, pytest.raises(HandshakeRefused) as caught:
        adapter.connect(url)
    assert (caught.value.status, caught.value.body) == (status, body)


@pytest.mark.parametrize("framing", [b"", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 100000000\r\n"])
def test_an_endless_body_is_cut(adapter: Adapter, framing: bytes) -> None:
    def answer(sock: socket.socket, key: str) -> None:
        sock.sendall(b"HTTP/1.1 403 No\r\n" + framing + b"\r\n")
        piece = b"x" * 1000
        piece = b"3e8\r\n%s\r\n" % piece if b"chunked" in framing else piece
        for _ in range(100_000):  # ends with the client's connection
            sock.sendall(piece)

    with answering(answer) as url, pytest.raises(HandshakeRefused) as caught:
        adapter.connect(url)
    assert (caught.value.status, caught.value.body) == (403, b"x" * 2**16)


def test_a_redirect_is_told_and_not_followed(adapter: Adapter) -> None:
    answer = saying(
        b"HTTP/1.1 301 Moved\r\nLocation: https://me:pw@new.example:8443/s?token=x\r\nContent-Length: 0\r\n\r\n"
    )
    with answering(answer) as url, pytest.raises(HandshakeRefused) as caught:
        adapter.connect(url)
    assert "it redirects to https://new.example:8443, which is not followed" in str(caught.value)
    assert "token" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", r"ended the connection before it answered the handshake .*use wss://"),
        (b"SSH-2.0\r\n", "did not answer in HTTP .*use wss://"),
        (b"\x15\x03\x01\x00\x02\x02\x46", "not answer in HTTP but in TLS: use wss://"),
        (b"HTTP/1.0 101 Go\r\n" + UPGRADE, "HTTP/1.0, which has no WebSockets"),
        (b"HTTP/1.1 101 Go\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "Sec-WebSocket-Accept header"),
    ],
)
def test_what_is_no_answer_to_a_handshake_is_told(adapter: Adapter, answer: bytes, problem: str) -> None:
    with answering(saying(answer)) as url, pytest.raises(ConnectError, match=problem):
        adapter.connect(url, options=ONCE)


@pytest.mark.parametrize(
    "greeting", [b"220 smtp.example ESMTP\r\n", b"SSH-2.0-OpenSSH\r\n", b"-ERR unknown command\r\n", b"<html>"]
)
def test_a_server_of_another_protocol_that_waits_is_told_at_once(adapter: Adapter, greeting: bytes) -> None:
    with answering(saying(greeting), hang=True) as url, pytest.raises(ConnectError, match="did not answer in HTTP"):
        adapter.connect(url, options=ONCE)


# ---- TLS ------------------------------------------------------------------------------------------------------------


def test_a_scheme_that_does_not_fit_the_port_is_told(adapter: Adapter, authority: Authority) -> None:
    with serving(ssl=authority.server()) as peer, pytest.raises(ConnectError, match=r"use wss://"):
        adapter.connect(peer.url.replace("wss", "ws", 1), options=ONCE)
    with answering(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as url, pytest.raises(ConnectError, match="use ws://"):
        adapter.connect(url.replace("ws", "wss", 1), options=ONCE)


def test_an_untrusted_certificate_comes_with_how_to_trust_it(adapter: Adapter, authority: Authority) -> None:
    with serving(ssl=authority.server()) as peer, pytest.raises(CertificateError, match=r"ssl=.*SSL_CERT_FILE"):
        adapter.connect(peer.url)


def test_a_certificate_for_another_name_says_so(adapter: Adapter, authority: Authority) -> None:
    with (
        serving(ssl=authority.server("elsewhere.example")) as peer,
        pytest.raises(CertificateError, match=r"it is for another host"),
    ):
        adapter.connect(peer.url, ssl=authority.trusting())


@pytest.mark.parametrize("begins", [-3.0, 1.0], ids=["expired", "not valid yet"])
def test_a_certificate_that_is_not_valid_now_says_so(adapter: Adapter, authority: Authority, begins: float) -> None:
    with (
        serving(ssl=authority.server(begins=begins)) as peer,
        pytest.raises(CertificateError, match=r"not valid now: is this machine's clock right\?"),
    ):
        adapter.connect(peer.url, ssl=authority.trusting())


def test_the_dot_of_an_absolute_name_is_not_part_of_a_certificates(
    adapter: Adapter, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def local(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host == "here.example." else host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", local)
    with serving(ssl=authority.server("here.example")) as peer:
        trusting: ssl.SSLContext = authority.trusting()
        adapter.connect(peer.url.replace("127.0.0.1", "here.example."), ssl=trusting).abort()
