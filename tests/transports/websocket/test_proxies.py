"""Proxies: which one is used, what is sent to it, and the error if it refuses."""

import asyncio
import socket
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from serving_in_thread import LONG, ONCE
from websockets.proxy import Proxy
from websockets.uri import parse_uri

import phx_transports.asyncio
import phx_transports.threads
from phx_proto.errors import ConnectError, HandshakeRefused, ProxyError
from phx_transports.websocket.options import proxy_secrets
from phx_transports.websocket.proxies import Tunnel, proxy_for

TARGET = parse_uri("wss://server.example/socket")


def on_asyncio(**options: Any) -> None:
    async def connect() -> None:
        await (await phx_transports.asyncio.connect("ws://server.example/socket", **options)).abort()

    asyncio.run(connect())


def on_threads(**options: Any) -> None:
    phx_transports.threads.connect("ws://server.example/socket", **options).abort()


CONNECTS = pytest.mark.parametrize("connect", [on_asyncio, on_threads])


@contextmanager
def proxying(*answers: bytes) -> Iterator[tuple[str, list[bytes]]]:
    """A proxy that answers what comes on each connection so; gives its place, and what it was asked."""
    asked: list[bytes] = []

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                for answer in answers:
                    asked.append(sock.recv(1 << 16))
                    sock.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, name="proxy")
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(LONG)


# ---- which one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://proxy.example:3128", Proxy("http", "proxy.example", 3128)),
        ("HTTP://Proxy.example", Proxy("http", "proxy.example", 80)),
        ("proxy.example:3128", Proxy("http", "proxy.example", 3128)),
        ("http://me:se%40cr%2Fet@proxy.example", Proxy("http", "proxy.example", 80, "me", "se@cr/et")),
        ("socks5h://proxy.example", Proxy("socks5h", "proxy.example", 1080)),
        ("socks5://[::1]:9", Proxy("socks5", "::1", 9)),
    ],
)
def test_a_proxys_url_is_read(url: str, proxy: Proxy) -> None:
    assert proxy_for(TARGET, url) == proxy


@pytest.mark.parametrize("url", ["ftp://proxy.example", "http://", "http://h:port", "http://h/path", "http://s3cret@h"])
def test_a_url_that_is_no_proxys_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ProxyError, match="the proxy's URL is not valid") as caught:
        proxy_for(TARGET, url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "scheme"),
    [
        ({"socks": "http://127.0.0.1:1080"}, "socks5h"),  # as macOS has it
        ({"https": "socks5h://127.0.0.1:1080"}, "socks5h"),
        ({"https": "http://127.0.0.1:1080"}, "http"),
        ({"wss": "http://127.0.0.1:1080", "socks": "http://elsewhere.example"}, "http"),
    ],
)
def test_the_systems_settings_are_read_as_websockets_does(
    settings: dict[str, str], scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib.request, "getproxies", lambda: settings)
    monkeypatch.setattr(urllib.request, "proxy_bypass", lambda host: False)
    assert proxy_for(TARGET, True) == Proxy(scheme, "127.0.0.1", 1080)


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_the_environment_can_want_no_proxy_for_a_host(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    monkeypatch.setenv(name, "elsewhere.example,.example")
    assert proxy_for(TARGET, True) is None
    assert proxy_for(TARGET, None) is None


@pytest.mark.parametrize(
    ("host", "exceptions", "excepted"),
    [
        ("[::1]", "[::1]", True),
        ("[::1]", "::1", True),
        ("[::1]", "elsewhere.example, [::1]:8443", True),
        ("[::1]", "[::1]:443", False),
        ("[::2]", "[::1]", False),
        ("[fd00::5]", "fd00::/8", True),
        ("[fd00::5]", "[fd00::]/8", True),
        ("[fe80::5]", "fd00::/8", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.9.9.9/8", True),
        ("10.1.2.3", "192.168.0.0/16,fd00::/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:8443", True),
        ("10.1.2.3", "10.1.2.3:1", False),
        ("10.1.2.3", "10.0.0.0/99,[", False),
        ("server.example", "10.0.0.0/8", False),
        ("server.example", "server.example", True),
        ("10.1.2.3", "*", True),
    ],
)
def test_no_proxy_may_name_addresses_and_networks(
    host: str, exceptions: str, *, excepted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example")
    monkeypatch.setenv("no_proxy", exceptions)
    assert (proxy_for(parse_uri(f"wss://{host}:8443/socket"), True) is None) is excepted


# ---- what is said ---------------------------------------------------------------------------------------------------


def test_a_tunnel_asks_with_the_credentials_decoded() -> None:
    tunnel = Tunnel(Proxy("http", "proxy.example", 80, "me", "se@cr/et"), parse_uri("wss://[2001:db8::1]/socket"))
    assert tunnel.request.startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: [2001:db8::1]:443\r\n")
    assert b"\r\nProxy-Authorization: Basic bWU6c2VAY3IvZXQ=\r\n" in tunnel.request


@pytest.mark.parametrize("answer", [b"HTTP/1.0 200 Connection established\r\n\r\n", b"HTTP/1.1 200\r\nVia: x\r\n\r\n"])
def test_a_tunnel_opens_however_the_answer_is_cut(answer: bytes) -> None:
    tunnel = Tunnel(Proxy("http", "proxy.example", 80), TARGET)
    opened: Callable[[int], bool] = lambda at: tunnel.receive(answer[at : at + 1])  # noqa: E731
    assert [opened(at) for at in range(len(answer))] == [False] * (len(answer) - 1) + [True]


# ---- what is told ---------------------------------------------------------------------------------------------------


@CONNECTS
def test_a_proxy_that_is_down_is_named(connect: Callable[..., None]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(ConnectError, match=f"the proxy {place} refused the connection") as caught:
            connect(proxy=f"http://me:s3cret@{place}", options=ONCE)
    assert "s3cret" not in str(caught.value)


@CONNECTS
@pytest.mark.parametrize("status", [403, 407])
def test_a_proxy_that_lets_nobody_through_is_final_and_named(connect: Callable[..., None], status: int) -> None:
    answer = b"HTTP/1.1 %d Sorry\r\nContent-Length: 0\r\n\r\n" % status
    with proxying(answer) as (place, asked), pytest.raises(ProxyError) as caught:
        connect(proxy=f"http://me:s3%40cret@{place}")
    assert f"the proxy {place} refused the connection to server.example:80 with HTTP {status}" in str(caught.value)
    assert caught.value.status == status
    assert "cret" not in str(caught.value)
    assert len(asked) == 1
    assert b"Proxy-Authorization: Basic bWU6czNAY3JldA==" in asked[0]


@CONNECTS
@pytest.mark.parametrize("echo", [b"s3%40cret", b"s3@cret", b"Basic bWU6czNAY3JldA=="])
def test_a_proxys_password_is_masked_in_what_comes_through_it(connect: Callable[..., None], echo: bytes) -> None:
    refusal = b"HTTP/1.1 403 No\r\nContent-Length: %d\r\n\r\nyou sent %s" % (len(echo) + 9, echo)
    with proxying(b"HTTP/1.1 200 OK\r\n\r\n", refusal) as (place, _), pytest.raises(HandshakeRefused) as caught:
        connect(proxy=f"http://me:s3%40cret@{place}")
    assert "you sent" in str(caught.value)
    assert "[secret]" in str(caught.value)
    assert "cret" not in str(caught.value).replace("[secret]", "")


def test_passwords_of_proxies_are_found_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "s3@:/cret" in proxy_secrets("me:s3%40%3A%2Fcret@proxy.example:3128")
    assert "s3cret" in proxy_secrets("socks5h://me:s3cret@proxy.example")
    monkeypatch.setenv("HTTPS_PROXY", "http://me:s3cret@proxy.example")
    assert "s3cret" in proxy_secrets(True)
    assert not any(proxy_secrets(None))


@CONNECTS
def test_a_proxy_that_finds_no_way_is_asked_again(connect: Callable[..., None]) -> None:
    with (
        proxying(b"HTTP/1.0 503 Not yet\r\n\r\n") as (place, asked),
        pytest.raises(ConnectError, match=r"the proxy .* with HTTP 503"),
    ):
        connect(proxy=f"http://{place}", timeout=0.5)
    assert len(asked) > 1


@CONNECTS
def test_socks_without_its_library_tells_what_to_install(
    connect: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    with pytest.raises(ProxyError, match=r"pip install 'phx-channels\[socks\]'"):
        connect(proxy="socks5://127.0.0.1:1080")
