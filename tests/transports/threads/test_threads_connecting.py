"""Connecting on threads: the part that is not in behaviour/. Factories, bytes of the handshake, proxies."""

import asyncio
import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from certificates import Authority
from serving_in_thread import LONG, ONCE, Flag, connected, dial, serving, start, until
from websockets.utils import accept_key

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.errors import (
    ConnectError,
    ConnectTimeout,
    HandshakeRefused,
    InvalidEndpoint,
    InvalidHandler,
    InvalidPayload,
    ProxyError,
    ResolveFailed,
)
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_transports.testing import Peer
from phx_transports.threads import connect

pytestmark = pytest.mark.usefixtures("clean_threads")

SECRET = "hush-hush"
T = TypeVar("T")


@contextmanager
def answering(*answers: Callable[[socket.socket, bytes], None]) -> Iterator[str]:
    """A server of which the test writes every byte, one connection after another; given the request's header."""
    problems: list[BaseException] = []

    def serve() -> None:
        try:
            for answer in answers:
                sock, _ = listener.accept()
                with sock:
                    sock.settimeout(LONG)
                    answer(sock, read_header(sock))
        except BaseException as error:
            problems.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(LONG)
        thread = threading.Thread(target=serve, name="test-server")
        thread.start()
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/socket"
        thread.join(LONG)
    assert problems == []


def read_header(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(1 << 16)
    return data


def header(request: bytes, name: str) -> str:
    lines = request.decode().split("\r\n")[1:]
    return {line.split(": ", 1)[0].lower(): line.split(": ", 1)[1] for line in lines if line}[name]


def accepting(request: bytes, *extra: str) -> bytes:
    key = accept_key(header(request, "sec-websocket-key"))
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", *extra]
    return "\r\n".join((*lines, f"Sec-WebSocket-Accept: {key}", "", "")).encode()


# ---- it comes about -------------------------------------------------------------------------------------------------


def test_a_factory_makes_the_tcp_connection() -> None:
    with serving() as peer:
        asked: list[tuple[str, int]] = []

        def factory(host: str, port: int) -> socket.socket:
            asked.append((host, port))
            return socket.create_connection(("127.0.0.1", peer.port), timeout=3)

        with connect("ws://somewhere.invalid:4000/socket", factory=factory):
            assert peer.wire().headers["host"] == "somewhere.invalid:4000"
        assert asked == [("somewhere.invalid", 4000)]


def test_a_factory_that_fails_is_a_failed_attempt() -> None:
    def factory(host: str, port: int) -> socket.socket:
        raise ValueError("no tunnel")

    with pytest.raises(ConnectError, match="no tunnel"):
        connect("ws://somewhere.invalid/socket", factory=factory, options=ONCE)


def test_a_factory_must_give_a_stream() -> None:
    def factory(host: str, port: int) -> socket.socket:
        return socket.socket(type=socket.SOCK_DGRAM)

    with pytest.raises(ConnectError, match="not a stream"):
        connect("ws://somewhere.invalid/socket", factory=factory, options=ONCE)


def test_a_factory_that_breaks_in_an_unforeseen_way_ends_the_client_with_that_error() -> None:
    def factory(host: str, port: int) -> Any:
        return "no socket"

    with pytest.raises(AttributeError):
        connect("ws://somewhere.invalid/socket", factory=factory)


def test_compression_is_offered_if_asked_for() -> None:
    with connected(compression="deflate") as (_, wire):
        assert "websockets" in wire.headers["user-agent"]
        assert "permessage-deflate" in wire.headers["sec-websocket-extensions"]


def test_an_auth_token_travels_as_a_subprotocol_whatever_its_base64_holds() -> None:
    token = "???>>>"  # Pz8/Pj4+ in base64: what RFC 6455 forbids in a subprotocol
    offered: list[str] = []

    def answer(sock: socket.socket, request: bytes) -> None:
        offered.append(header(request, "sec-websocket-protocol"))
        sock.sendall(accepting(request, "Sec-WebSocket-Protocol: phoenix"))
        sock.recv(1)

    with answering(answer) as url:
        connect(url, proxy=None, auth_token=token).abort()
    assert offered == ["phoenix, base64url.bearer.phx.Pz8/Pj4+"]


def test_a_frame_in_the_same_read_as_the_handshakes_answer_is_received() -> None:
    text = b'[null,null,"room:1","early",{}]'

    def answer(sock: socket.socket, request: bytes) -> None:
        sock.sendall(accepting(request) + bytes((0x81, len(text))) + text)
        sock.recv(1)

    with answering(answer) as url:
        client = connect(url, proxy=None)
        until(lambda: client.stats.received == 1)
        client.abort()


def test_the_handshakes_answer_may_come_byte_by_byte() -> None:
    def answer(sock: socket.socket, request: bytes) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in accepting(request):
            sock.sendall(bytes((byte,)))
        sock.recv(1)

    with answering(answer) as url:
        connect(url, proxy=None).abort()


# ---- through a proxy ------------------------------------------------------------------------------------------------


def test_a_proxy_is_used() -> None:
    with serving() as peer:
        asked: list[bytes] = []

        def relay(there: socket.socket, here: socket.socket) -> None:
            while data := there.recv(1 << 16):
                here.sendall(data)
            here.shutdown(socket.SHUT_WR)

        def proxy(sock: socket.socket, request: bytes) -> None:
            asked.append(request)
            with socket.create_connection(("127.0.0.1", peer.port)) as behind:
                sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = start(relay, behind, sock)
                relay(sock, behind)
                back.result(LONG)

        with answering(proxy) as url:
            at = url.removeprefix("ws://").removesuffix("/socket")
            with connect("ws://somewhere.invalid/socket", proxy=f"http://me:se%2Fcret@{at}"):
                pass
        assert asked[0].startswith(b"CONNECT somewhere.invalid:80 ")
        assert b"Proxy-Authorization: Basic bWU6c2UvY3JldA==" in asked[0]


def test_the_environments_proxy_is_used_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "ws_proxy", "socks_proxy", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{listener.getsockname()[1]}")
        connecting = start(connect, "wss://[2001:db8::1]/socket", options=ONCE)
        sock, _ = listener.accept()
        with sock:
            assert read_header(sock).startswith(b"CONNECT [2001:db8::1]:443 ")
        with pytest.raises(ConnectError, match=r"the proxy .* did not answer in HTTP"):
            connecting.result(LONG)


def test_an_environment_that_wants_no_proxy_here_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://somewhere.invalid:1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with connected(proxy=True):
        pass


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "refused the connection .* HTTP 403"),
        (b"nonsense\r\n\r\n", "did not answer in HTTP"),
        (b"", "did not answer in HTTP"),
    ],
)
def test_a_proxy_that_does_not_let_us_through_is_told(answer: bytes, problem: str) -> None:
    def proxy(sock: socket.socket, request: bytes) -> None:
        sock.sendall(answer)

    with answering(proxy) as url:
        place = url.removeprefix("ws://").removesuffix("/socket")
        with pytest.raises(ConnectError, match=problem):
            connect("ws://somewhere.invalid/socket", proxy=f"http://{place}", options=ONCE)


@pytest.mark.parametrize(
    ("proxy", "problem"),
    [("https://127.0.0.1:1", "use http:// or SOCKS"), ("http://:1", "not valid"), ("ftp://127.0.0.1:1", "not valid")],
)
def test_proxies_of_another_kind_are_refused_at_once_with_a_hint(proxy: str, problem: str) -> None:
    with pytest.raises(ProxyError, match=problem):
        connect("ws://somewhere.invalid/socket", proxy=proxy)


# ---- params and token from callables --------------------------------------------------------------------------------


async def later() -> Any:
    return {}


def raises() -> Any:
    raise ValueError(SECRET)


@pytest.mark.parametrize("provider", [raises, lambda: later(), lambda: asyncio.sleep(1)])
def test_a_callable_that_raises_or_awaits_is_a_failed_attempt_that_tells_no_secret(
    provider: Any, phx_peer: Peer
) -> None:
    with pytest.raises(ResolveFailed) as caught:
        connect(phx_peer.url, transport=phx_peer, params=provider, options=ONCE)
    assert SECRET not in str(caught.value)
    assert phx_peer.connections == ()


def test_a_callable_that_hangs_is_bounded() -> None:
    go_on = Flag()
    with serving() as peer:
        with pytest.raises(ConnectError, match=r"callables .* did not answer"):
            connect(peer.url, proxy=None, params=go_on.wait, options=replace(ONCE, open_timeout=0.02))
        go_on.set()


def test_coroutine_functions_are_refused_at_the_call(phx_peer: Peer) -> None:
    with pytest.raises(InvalidEndpoint, match="params is a coroutine function"):
        connect("ws://h/socket", params=later)
    with pytest.raises(InvalidEndpoint, match="auth_token is a coroutine function"):
        connect("ws://h/socket", auth_token=later)
    router = Router()

    @router.on("n", topic="room:*")
    async def hear(message: Message[Any]) -> None: ...

    with pytest.raises(InvalidHandler, match="hear cannot be a handler: it is a coroutine function"):
        connect(phx_peer.url, transport=phx_peer, router=router)
    with connect(phx_peer.url, transport=phx_peer) as client:
        client.router.add(hear, "n", topic="room:*")
        with pytest.raises(InvalidHandler, match="hear cannot be a handler: it is a coroutine function"):
            client.join("room:1")
        with pytest.raises(InvalidPayload, match="coroutine function"):
            client.join("other", later)
        channel = client.channel("other")
        with pytest.raises(InvalidHandler):
            channel.add(hear, "n")


# ---- it fails -------------------------------------------------------------------------------------------------------


def test_a_refusals_body_may_end_with_the_connection_and_come_late() -> None:
    def answer(sock: socket.socket, request: bytes) -> None:
        sock.sendall(b"HTTP/1.1 401 Unauthorized\r\n\r\n")
        sock.sendall(b"no\r\n\r\nway")

    with answering(answer) as url, pytest.raises(HandshakeRefused) as caught:
        connect(url, proxy=None)
    assert caught.value.body == b"no\r\n\r\nway"


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "ended the connection before it answered"),
        (b"SSH-2.0\r\n", "did not answer in HTTP"),
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "no WebSocket handshake"),
    ],
)
def test_an_answer_that_is_no_handshake_is_told(answer: bytes, problem: str) -> None:
    def serve(sock: socket.socket, request: bytes) -> None:
        sock.sendall(answer)

    with answering(serve) as url, pytest.raises(ConnectError, match=problem):
        connect(url, proxy=None, options=ONCE)


def test_a_server_that_never_answers_in_tls_is_a_timeout_and_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        url = f"wss://127.0.0.1:{deaf.getsockname()[1]}/socket"
        with pytest.raises(ConnectError, match="did not answer the handshake"):
            connect(url, proxy=None, options=replace(ONCE, open_timeout=0.05))


def test_a_server_that_takes_no_connection_is_a_timeout_and_leaves_nothing() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        with socket.create_connection(full.getsockname()):  # nobody accepts it, and there is room for no other
            url = f"ws://127.0.0.1:{full.getsockname()[1]}/socket"
            with pytest.raises(ConnectError):
                connect(url, proxy=None, options=replace(ONCE, open_timeout=0.05))


def test_a_connection_that_comes_after_it_was_given_up_is_dropped() -> None:
    asked, go_on = Flag(), Flag()
    with serving() as peer:

        def factory(host: str, port: int) -> socket.socket:
            asked.set()
            go_on.wait()
            return socket.create_connection(("127.0.0.1", peer.port))

        with pytest.raises(ConnectTimeout):
            connect(peer.url, factory=factory, timeout=0.02)
        asked.wait()
        go_on.set()
        until(lambda: not [one for one in threading.enumerate() if one.name == "phx-connect"])
        assert peer.attempts == 0


def test_a_connection_that_is_reset_before_tls_begins_leaves_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as resetting:

        def factory(host: str, port: int) -> socket.socket:
            sock = socket.create_connection(resetting.getsockname())
            peer, _ = resetting.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing it is a reset
            peer.close()
            select.select([sock], [], [], LONG)
            return sock

        with pytest.raises(ConnectError, match="ended the connection before it was open"):
            connect("wss://somewhere.invalid/socket", factory=factory, options=ONCE)


# ---- TLS ------------------------------------------------------------------------------------------------------------


def test_over_tls_much_travels_both_ways_at_once(authority: Authority) -> None:
    size, count = 100_000, 40
    with serving(ssl=authority.server()) as peer:
        client = dial(peer, ssl=authority.trusting())
        wire = peer.wire()
        joining = start(client.join, "room:1")
        wire.accept()
        channel = joining.result(LONG)

        def send() -> None:
            for _ in range(count):
                wire.push("room:1", "big", "x" * size)

        def cast() -> None:
            for _ in range(count):
                channel.cast("cast", "z" * size)

        with channel.messages(timeout=LONG) as messages:
            sending = start(send)
            pushing = [start(channel.push, "big", "y" * size) for _ in range(4)]
            casting = start(cast)
            for _ in range(count):
                assert len(next(messages).payload) == size
            casts = 0
            for _ in range(count + len(pushing)):
                frame = wire.receive()
                casts += frame.event == "cast"
                if frame.event == "big":
                    wire.reply(frame, len(frame.payload))
            assert [push.result(LONG).response for push in pushing] == [size] * len(pushing)
            sending.result(LONG)
            casting.result(LONG)
            assert casts == count
        client.abort()


def test_over_tls_an_end_that_comes_with_the_close_frame_is_not_waited_for(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phx_transports.threads.io_thread.LINGER", 60)

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.settimeout(LONG)
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            stream = authority.server().wrap_bio(incoming, outgoing, server_side=True)

            def through(step: Callable[[], T]) -> T:
                while True:
                    try:
                        return step()
                    except ssl.SSLWantReadError:
                        sock.sendall(outgoing.read())
                        incoming.write(sock.recv(1 << 16))

            through(stream.do_handshake)
            stream.write(accepting(through(stream.read)))
            sock.sendall(outgoing.read())
            through(stream.read)  # the heartbeat: it is open
            stream.write(b"\x88\x02\x03\xe9")
            with contextlib.suppress(ssl.SSLWantReadError):
                stream.unwrap()
            sock.sendall(outgoing.read())  # both in one piece
            while sock.recv(1 << 16):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = start(serve)
        url = f"wss://127.0.0.1:{listener.getsockname()[1]}/socket"
        slow = ReconnectPolicy(schedule=Backoff((60,)))
        options = ClientOptions(heartbeat=0.1, reconnect=slow)
        client = connect(url, ssl=authority.trusting(), proxy=None, options=options)
        serving.result(LONG)
        client.abort()
