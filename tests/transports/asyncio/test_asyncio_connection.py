import asyncio
import contextlib
import logging
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from os import urandom
from pathlib import Path
from typing import Any
from zlib import Z_SYNC_FLUSH, compressobj

import pytest
from certificates import Authority
from frames import accepted, frame, text
from peer import timers, turns
from serving_in_thread import start
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER
from websockets.protocol import Protocol as WebSocketProtocol
from websockets.utils import accept_key

from phx_proto.errors import CertificateError, ConnectError, HandshakeRefused
from phx_transports.asyncio.connection import Connection, open_connection
from phx_transports.websocket.cutter import Received
from phx_transports.websocket.options import NetworkOptions

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]

LONG = 5  # seconds until a wait that should be short fails


class Recorder:
    """A receiver that writes down what it is told, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.messages: list[Received] = []
        self._changed = asyncio.Event()
        self.on_frames: Callable[[list[Received]], None] = lambda frames: None

    def _record(self, name: str, value: Any = None) -> None:
        self.calls.append((name, value))
        self._changed.set()

    def frames(self, frames: list[Received]) -> None:
        self.messages += frames
        self._record("frames", frames)
        self.on_frames(frames)

    def progress(self) -> None:
        self._record("progress")

    def closed(self, code: int | None, reason: str) -> None:
        self._record("closed", (code, reason))

    def blocked(self) -> None:
        self._record("blocked")

    def writable(self) -> None:
        self._record("writable")

    def told(self, name: str) -> list[Any]:
        return [value for called, value in self.calls if called == name]

    def waits(self, missing: str) -> None: ...

    def refusing(self, refusal: HandshakeRefused) -> None: ...

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(LONG):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_messages(self, count: int) -> list[Received]:
        await self.until(lambda: len(self.messages) >= count)
        return self.messages

    async def until_closed(self) -> tuple[int | None, str]:
        await self.until(lambda: self.told("closed"))
        (ending,) = self.told("closed")
        assert isinstance(ending, tuple)
        return ending


async def opened(
    url: str, receiver: Recorder, *, headers: Any = (), subprotocols: Any = (), **network: Any
) -> Connection:
    options = NetworkOptions(**{"proxy": None, **network})
    return await open_connection(url, subprotocols=subprotocols, headers=headers, network=options, receiver=receiver)


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[tuple[Connection, Recorder]]:
    receiver = Recorder()
    async with asyncio.timeout(LONG):
        connection = await opened(url, receiver, **options)
    try:
        yield connection, receiver
    finally:
        connection.abort()
        async with asyncio.timeout(LONG):
            await connection.wait_closed()
        await asyncio.sleep(0)
        assert len(receiver.told("closed")) == 1
        assert receiver.calls[-1][0] == "closed"


@asynccontextmanager
async def serving(handler: Callable[[ServerConnection], Awaitable[None]], **options: Any) -> AsyncIterator[str]:
    options.setdefault("compression", None)
    async with serve(handler, "127.0.0.1", 0, ping_interval=None, close_timeout=1, **options) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"{'wss' if 'ssl' in options else 'ws'}://127.0.0.1:{port}/socket"


class Raw:
    """The server's side of one connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.request = b""

    async def read_request(self) -> None:
        self.request = await self.reader.readuntil(b"\r\n\r\n")

    def header(self, name: str) -> str:
        for line in self.request.decode("latin-1").split("\r\n"):
            key, _, value = line.partition(": ")
            if key.lower() == name:
                return value
        raise KeyError(name)

    def response(self, subprotocol: str | None = None) -> bytes:
        chosen = f"Sec-WebSocket-Protocol: {subprotocol}\r\n" if subprotocol else ""
        key = accept_key(self.header("sec-websocket-key"))
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"{chosen}Sec-WebSocket-Accept: {key}\r\n\r\n"
        ).encode()

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def read_frames(self, count: int) -> list[tuple[Opcode, bytes]]:
        protocol = WebSocketProtocol(SERVER, max_size=None)
        frames: list[tuple[Opcode, bytes]] = []
        while len(frames) < count:
            protocol.receive_data(await self.reader.read(1 << 16))
            frames += [(one.opcode, bytes(one.data)) for one in protocol.events_received() if isinstance(one, Frame)]
        return frames


@asynccontextmanager
async def raw_server(handler: Callable[[Raw], Awaitable[None]], *, shake: bool = True) -> AsyncIterator[str]:
    """Runs `handler` for each connection, after the handshake or (`shake=False`) after the request."""
    tasks: set[asyncio.Task[None]] = set()
    failed: list[BaseException] = []

    async def accept(raw: Raw) -> None:
        try:
            await raw.read_request()
            if shake:
                raw.write(raw.response())
            await handler(raw)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except AssertionError as error:
            failed.append(error)
        finally:
            raw.writer.close()
            with contextlib.suppress(ConnectionError):
                await raw.writer.wait_closed()

    def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(accept(Raw(reader, writer)))
        tasks.add(task)

    server = await asyncio.start_server(start, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"ws://127.0.0.1:{port}/socket"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
    assert failed == []


CLOSE = Frame(Opcode.CLOSE, b"\x03\xe9bye").serialize(mask=False)


async def echo(server: ServerConnection) -> None:
    async for message in server:
        await server.send(message)


async def until_gone(raw: Raw) -> None:
    while await raw.reader.read(1 << 16):
        pass


# ---- receiving ------------------------------------------------------------------------------------------------------


async def test_text_is_str_and_binary_is_bytes_there_and_back() -> None:
    async with serving(echo) as url, connected(url) as (connection, receiver):
        connection.send_text("é")
        connection.send_binary(b"\x00\xff")
        assert await receiver.until_messages(2) == ["é", b"\x00\xff"]
        assert [type(message) for message in receiver.messages] == [str, bytes]


async def test_a_read_is_one_call_whatever_frames_it_brings() -> None:
    pong = asyncio.Event()

    async def handler(raw: Raw) -> None:
        parts = [
            text("a"),
            Frame(Opcode.BINARY, b"b").serialize(mask=False),
            Frame(Opcode.TEXT, b"c", fin=False).serialize(mask=False),
            Frame(Opcode.PING, b"p").serialize(mask=False),
            Frame(Opcode.CONT, b"d").serialize(mask=False),
            *(text(str(number)) for number in range(100)),
        ]
        raw.write(b"".join(parts))
        assert await raw.read_frames(1) == [(Opcode.PONG, b"p")]
        pong.set()
        await until_gone(raw)

    async with raw_server(handler) as url, connected(url) as (_, receiver):
        await receiver.until_messages(103)
        assert receiver.calls == [("frames", ["a", b"b", "cd", *map(str, range(100))])]
        await asyncio.wait_for(pong.wait(), LONG)


async def test_fragments_make_one_message() -> None:
    async def handler(server: ServerConnection) -> None:
        await server.send(["one ", "", "message"])
        await server.send("next")
        await server.wait_closed()

    async with serving(handler) as url, connected(url) as (_, receiver):
        assert await receiver.until_messages(2) == ["one message", "next"]


async def test_compressed_messages_come_if_compression_was_offered() -> None:
    async with serving(echo, compression="deflate") as url, connected(url, compression="deflate") as (conn, receiver):
        for number in range(5):
            conn.send_text(f"{number} {'x' * 1000}")
        assert await receiver.until_messages(5) == [f"{number} {'x' * 1000}" for number in range(5)]


async def test_compression_is_not_offered_by_default() -> None:
    requests: list[bytes] = []

    async def handler(raw: Raw) -> None:
        requests.append(raw.request)
        raw.write(CLOSE)

    async with raw_server(handler) as url, connected(url) as (_, receiver):
        await receiver.until_closed()
    assert b"Extensions" not in requests[0]


async def test_a_large_message_comes_whole() -> None:
    large = "é" * 3_000_000

    async def handler(server: ServerConnection) -> None:
        await server.send(large)
        await server.wait_closed()

    async with serving(handler) as url, connected(url) as (_, receiver):
        assert await receiver.until_messages(1) == [large]
        assert receiver.told("progress")


async def test_a_flood_is_read_in_parts_that_a_processors_cache_holds() -> None:
    async def handler(raw: Raw) -> None:
        raw.write(text("x" * 1000) * 1000)
        await until_gone(raw)

    async with raw_server(handler) as url, connected(url) as (_, receiver):
        await receiver.until_messages(1000)
        assert max(map(len, receiver.told("frames"))) <= 2**16 // 1000 + 1  # one may have begun before


async def test_an_unfinished_message_is_progress_and_a_ping_is_not() -> None:
    go_on = asyncio.Event()

    async def handler(raw: Raw) -> None:
        raw.write(Frame(Opcode.PING, b"").serialize(mask=False))
        await raw.read_frames(1)
        raw.write(text("abc")[:3])
        await go_on.wait()
        raw.write(text("abc")[3:])
        await until_gone(raw)

    async with raw_server(handler) as url, connected(url) as (_, receiver):
        await receiver.until(lambda: receiver.calls)
        go_on.set()
        await receiver.until_messages(1)
        assert receiver.calls == [("progress", None), ("frames", ["abc"])]


@pytest.mark.parametrize(
    ("send", "code", "words"),
    [
        (text("x" * 101), 1009, "101 bytes"),
        (Frame(Opcode.TEXT, b"\xff").serialize(mask=False), 1007, "UTF-8"),
        (Frame(Opcode.CONT, b"x").serialize(mask=False), 1002, "continuation"),
        (Frame(Opcode.TEXT, b"x").serialize(mask=True), 1002, "masking"),
    ],
    ids=["too long", "not UTF-8", "continues nothing", "masked"],
)
async def test_a_breach_of_the_protocol_is_told_at_once_and_answered_with_its_code(
    send: bytes, code: int, words: str
) -> None:
    answers: list[tuple[Opcode, bytes]] = []

    async def handler(raw: Raw) -> None:
        raw.write(text("good") + send + text("ignored"))
        answers.extend(await raw.read_frames(1))

    async with raw_server(handler) as url, connected(url, max_size=100) as (connection, receiver):
        closed = await receiver.until_closed()
        await connection.wait_closed()
    assert receiver.messages == ["good"]
    assert closed[0] is None
    assert words in closed[1]
    ((opcode, data),) = answers
    assert (opcode, data[:2]) == (Opcode.CLOSE, code.to_bytes(2, "big"))


async def test_a_message_too_long_is_refused_before_it_has_come() -> None:
    async def handler(raw: Raw) -> None:
        raw.write(b"\x81\x7f" + (1 << 40).to_bytes(8, "big"))
        await raw.read_frames(1)

    async with raw_server(handler) as url, connected(url) as (_, receiver):
        assert (await receiver.until_closed())[0] is None


# ---- around the handshake -------------------------------------------------------------------------------------------


async def test_what_comes_with_the_response_is_told_after_the_opening_has_returned() -> None:
    async def handler(raw: Raw) -> None:
        raw.write(raw.response() + text("early") + text("half")[:3])
        await turns()
        raw.write(text("half")[3:])
        await until_gone(raw)

    async with raw_server(handler, shake=False) as url, connected(url) as (_, receiver):
        assert receiver.calls == []
        assert await receiver.until_messages(2) == ["early", "half"]


async def test_a_close_that_comes_with_the_response_is_told_after_it_too() -> None:
    async def handler(raw: Raw) -> None:
        raw.write(raw.response() + text("early") + CLOSE)

    async with raw_server(handler, shake=False) as url, connected(url) as (connection, receiver):
        assert receiver.calls == []
        assert await receiver.until_closed() == (1001, "bye")
        assert receiver.messages == ["early"]
        await connection.wait_closed()


async def test_what_is_closed_is_not_waited_for_any_more() -> None:
    async def handler(raw: Raw) -> None:
        raw.write(raw.response() + CLOSE)

    async with raw_server(handler, shake=False) as url:
        before = timers()
        async with connected(url) as (connection, receiver):
            await receiver.until_closed()
            connection.abort()
            await connection.wait_closed()
            assert timers() <= before


async def test_an_end_that_comes_with_the_response_is_told_after_it_too() -> None:
    async def handler(raw: Raw) -> None:
        raw.write(raw.response() + text("early"))

    async with raw_server(handler, shake=False) as url, connected(url) as (_, receiver):
        assert (await receiver.until_closed())[0] is None
        assert receiver.messages == ["early"]


async def test_a_response_may_come_in_pieces() -> None:
    async def handler(raw: Raw) -> None:
        for byte in raw.response() + text("a"):
            raw.write(bytes([byte]))
            await asyncio.sleep(0)
        await until_gone(raw)

    async with raw_server(handler, shake=False) as url, connected(url) as (_, receiver):
        assert await receiver.until_messages(1) == ["a"]


async def test_subprotocols_and_headers_are_sent_raw_and_the_chosen_one_is_told() -> None:
    token = "base64url.bearer.phx.YWJj/ZGVm+Zw"
    seen: list[str] = []

    async def handler(raw: Raw) -> None:
        seen.extend([raw.header("sec-websocket-protocol"), raw.header("x-one")])
        raw.write(raw.response("phoenix"))
        await until_gone(raw)

    offers: Any = {"subprotocols": ["phoenix", token], "headers": [("X-One", "1")]}
    async with raw_server(handler, shake=False) as url, connected(url, **offers) as (connection, _):
        assert connection.subprotocol == "phoenix"
    assert seen == [f"phoenix, {token}", "1"]


async def test_no_subprotocol_need_be_offered_or_chosen() -> None:
    async with serving(echo) as url:
        async with connected(url) as (connection, _):
            assert connection.subprotocol is None
        async with connected(url, subprotocols=["phoenix"]) as (connection, _):
            assert connection.subprotocol is None


REFUSAL = (
    b"HTTP/1.1 403 Forbidden\r\nRetry-After: 7\r\nX-Two: a\r\nX-Two: b\r\nContent-Length: 13\r\n\r\nno\r\n\r\nentrance"
)


@pytest.mark.parametrize("pieces", [1, 3, len(REFUSAL)])
async def test_a_refusal_tells_status_body_and_headers(pieces: int) -> None:
    async def handler(raw: Raw) -> None:
        size = -(-len(REFUSAL) // pieces)
        for at in range(0, len(REFUSAL), size):
            raw.write(REFUSAL[at : at + size])
            await turns(2)
        await until_gone(raw)

    receiver = Recorder()
    async with raw_server(handler, shake=False) as url:
        with pytest.raises(HandshakeRefused) as caught:
            await opened(url, receiver)
    assert caught.value.status == 403
    assert caught.value.body == b"no\r\n\r\nentranc"[:13]
    assert caught.value.headers == {"retry-after": "7", "x-two": "a, b", "content-length": "13"}
    assert receiver.calls == []


async def test_a_redirect_is_not_followed() -> None:
    requests = 0

    async def handler(raw: Raw) -> None:
        nonlocal requests
        requests += 1
        raw.write(b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
        await until_gone(raw)

    async with raw_server(handler, shake=False) as url:
        with pytest.raises(HandshakeRefused) as caught:
            await opened(url, Recorder())
    assert (caught.value.status, caught.value.headers["location"]) == (302, "/elsewhere")
    assert requests == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "ended the connection before"),
        (b"\x15\x03\x01\x00\x02\x02\x46\r\n\r\n", "HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "Connection header"),
        (None, "not offered"),
    ],
    ids=["nothing", "not HTTP", "no upgrade", "a subprotocol not offered"],
)
async def test_an_answer_that_is_no_handshake_is_explained(answer: bytes | None, words: str) -> None:
    async def handler(raw: Raw) -> None:
        raw.write(raw.response("secret-of-the-server") if answer is None else answer)
        if answer:
            await until_gone(raw)

    async with raw_server(handler, shake=False) as url:
        with pytest.raises(ConnectError, match=words) as caught:
            await opened(url, Recorder(), subprotocols=["phoenix"])
    assert type(caught.value) is ConnectError
    assert "secret" not in str(caught.value)


async def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectError, match=f"127.0.0.1:{port} refused the connection"):
            await opened(f"ws://127.0.0.1:{port}/socket", Recorder())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "Name or service not known"), "no address was found for host nowhere.invalid: Name"),
        (OSError(101, "Network is unreachable"), "no connection to nowhere.invalid:80: .*unreachable"),
    ],
)
async def test_a_network_error_is_explained(error: OSError, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    with pytest.raises(ConnectError, match=words):
        await opened("ws://nowhere.invalid/socket", Recorder())


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("http://host/?token=secret", {}, "scheme"),
        ("ws://host:port/?token=secret", {}, "host or port"),
        (f"ws://{'a' * 64}.invalid/?token=secret", {}, "no valid name"),
        ("ws://host/?token=secret", {"ssl": ssl.create_default_context()}, "use wss"),
        ("ws://host/", {"headers": [("X-A", "secret\r\nX-B: 1")]}, "'X-A'"),
        ("ws://host/", {"subprotocols": ["secret\n"]}, "'Sec-WebSocket-Protocol'"),
        ("ws://host/?token=secret", {"proxy": "ftp://user:secret@proxy"}, "proxy's URL"),
    ],
)
async def test_what_cannot_be_asked_for_is_told_without_secrets(url: str, options: Any, words: str) -> None:
    with pytest.raises(ConnectError, match=words) as caught:
        await opened(url, Recorder(), **options)
    assert "secret" not in str(caught.value)


async def test_an_opening_can_be_cancelled() -> None:
    asked = asyncio.Event()
    gone = asyncio.Event()

    async def handler(raw: Raw) -> None:
        asked.set()
        with contextlib.suppress(ConnectionError):
            await until_gone(raw)
        gone.set()

    receiver = Recorder()
    async with raw_server(handler, shake=False) as url:
        task = asyncio.create_task(opened(url, receiver))
        await asyncio.wait_for(asked.wait(), LONG)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(gone.wait(), LONG)
    assert receiver.calls == []


async def test_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(raw: Raw) -> None:
        raw.write(raw.response("phoenix") + text("secret"))
        await until_gone(raw)

    offers: Any = {"subprotocols": ["phoenix", "secret"], "headers": [("X-Key", "secret")]}
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "websockets.client"):
        async with raw_server(handler, shake=False) as url, connected(f"{url}?token=secret", **offers) as (conn, told):
            conn.send_text("secret")
            await told.until_messages(1)
    assert "secret" not in caplog.text


# ---- ways to connect ------------------------------------------------------------------------------------------------


async def test_tls_with_a_certificate_that_is_trusted(authority: Authority) -> None:
    options = {"ssl": authority.trusting()}
    async with serving(echo, ssl=authority.server()) as url, connected(url, **options) as (connection, receiver):
        connection.send_text("x" * 1_000_000)
        assert await receiver.until_messages(1) == ["x" * 1_000_000]
        connection.close(1000, "done")
        assert await receiver.until_closed() == (1000, "done")
        await connection.wait_closed()


async def test_tls_dropped_without_a_handshake(authority: Authority) -> None:
    options = {"ssl": authority.trusting()}
    async with serving(echo, ssl=authority.server()) as url, connected(url, **options) as (connection, receiver):
        connection.abort()
        assert (await receiver.until_closed())[0] is None


@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_tls_whose_end_comes_together_with_many_messages(authority: Authority, compression: str | None) -> None:
    messages = [urandom(500).hex() for _ in range(100)]
    extension = ["Sec-WebSocket-Extensions: permessage-deflate"] if compression else []
    deflater = compressobj(wbits=-15)

    def sent(message: str) -> bytes:
        if not compression:
            return text(message)
        return frame((deflater.compress(message.encode()) + deflater.flush(Z_SYNC_FLUSH))[:-4], head=0xC1)

    def answer() -> ssl.SSLSocket:
        peer = authority.server().wrap_socket(listener.accept()[0], server_side=True)
        peer.sendall(accepted(peer.recv(1 << 16), *extension))
        return peer

    def send_and_end(peer: ssl.SSLSocket) -> None:
        peer.sendall(b"".join(map(sent, messages)))
        peer.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        answering = start(answer)
        url = f"wss://127.0.0.1:{listener.getsockname()[1]}/socket"
        async with connected(url, ssl=authority.trusting(), compression=compression) as (_, receiver):
            start(send_and_end, answering.result(LONG)).result(LONG)  # the loop stands still, and then reads it all
            await receiver.until_closed()
            assert receiver.messages == messages


async def test_tls_with_a_certificate_that_is_not_trusted(authority: Authority) -> None:
    async with serving(echo, ssl=authority.server()) as url:
        with pytest.raises(CertificateError, match="self-signed"):
            await opened(url, Recorder())


async def test_tls_that_does_not_verify(authority: Authority) -> None:
    client = ssl.create_default_context()
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    async with serving(echo, ssl=authority.server()) as url, connected(url, ssl=client) as (connection, receiver):
        connection.send_text("a")
        assert await receiver.until_messages(1) == ["a"]


async def test_tls_to_a_port_without_it() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectError, match="port without TLS") as caught:
            await opened(f"wss://127.0.0.1:{port}/", Recorder())
        await turns()
    assert type(caught.value) is ConnectError


async def test_a_factory_makes_the_connection(tmp_path: Path) -> None:
    asked: list[tuple[str, int]] = []
    path = str(tmp_path / "socket")

    async def through_a_unix_socket(host: str, port: int) -> socket.socket:
        asked.append((host, port))
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(path)
        return sock

    async def start(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raw = Raw(reader, writer)
        await raw.read_request()
        raw.write(raw.response() + text("a"))
        await until_gone(raw)
        writer.close()

    async with await asyncio.start_unix_server(start, path):
        async with connected("ws://example.invalid:81/", factory=through_a_unix_socket) as (connection, receiver):
            assert await receiver.until_messages(1) == ["a"]
            connection.close()
        await turns()
    assert asked == [("example.invalid", 81)]


async def test_a_factory_that_fails_is_told() -> None:
    async def fail(host: str, port: int) -> socket.socket:
        raise RuntimeError("no tunnel")

    with pytest.raises(ConnectError, match="no tunnel"):
        await opened("ws://host/", Recorder(), factory=fail)


async def test_a_factory_must_give_a_stream() -> None:
    made = socket.socket(type=socket.SOCK_DGRAM)

    async def datagrams(host: str, port: int) -> socket.socket:
        return made

    with pytest.raises(ConnectError, match="not a stream"):
        await opened("ws://host/", Recorder(), factory=datagrams)
    assert made.fileno() == -1


def as_proxy(url: str) -> str:
    return url.replace("ws", "http", 1).removesuffix("/socket")


async def test_an_http_proxy_is_used() -> None:
    asked: list[bytes] = []

    async def proxy(raw: Raw) -> None:
        asked.append(raw.request.split(b"\r\n")[0])
        raw.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await raw.read_request()
        raw.write(raw.response() + text("a"))
        await until_gone(raw)

    async with (
        raw_server(proxy, shake=False) as url,
        connected("ws://example.invalid/", proxy=as_proxy(url)) as (_, receiver),
    ):
        assert await receiver.until_messages(1) == ["a"]
    assert asked == [b"CONNECT example.invalid:80 HTTP/1.1"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"HTTP/1.1 407 Who\r\n\r\n", "the proxy .* refused .* HTTP 407"), (b"?\r\n\r\n", "did not answer in HTTP")],
)
async def test_a_proxy_that_refuses_is_told(answer: bytes, words: str) -> None:
    async def proxy(raw: Raw) -> None:
        raw.write(answer)
        await raw.writer.drain()

    async with raw_server(proxy, shake=False) as url:
        with pytest.raises(ConnectError, match=words):
            await opened("ws://example.invalid/", Recorder(), proxy=as_proxy(url))


@pytest.mark.parametrize("to_proxy", ["http", "https"])
@pytest.mark.parametrize("to_server", ["ws", "wss"])
async def test_tls_to_the_proxy_and_through_it(
    to_proxy: str, to_server: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file()))
    large = "x" * 1_000_000

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        host, _, port = request.split(b" ")[1].decode().partition(":")
        up, down = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(carry(reader, down), carry(up, writer))

    secure: dict[str, Any] = {"ssl": authority.server()}
    server = await asyncio.start_server(relay, "127.0.0.1", 0, **(secure if to_proxy == "https" else {}))
    proxy = f"{to_proxy}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        server,
        serving(echo, **(secure if to_server == "wss" else {})) as url,
        connected(url, proxy=proxy) as (connection, receiver),
    ):
        connection.send_text(large)
        assert await receiver.until_messages(1) == [large]
        connection.close(1000, "done")
        assert await receiver.until_closed() == (1000, "done")
        await connection.wait_closed()


async def test_a_proxy_whose_certificate_is_not_trusted_is_told(authority: Authority) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=authority.server())
    async with server:
        proxy = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(CertificateError, match="certificate of the proxy"):
            await opened("ws://example.invalid/", Recorder(), proxy=proxy)


async def test_a_socks_proxy_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)  # as where it is not installed
    with pytest.raises(ConnectError, match="python-socks"):
        await opened("ws://example.invalid/", Recorder(), proxy="socks5://127.0.0.1:1")


# ---- sending --------------------------------------------------------------------------------------------------------


def writes_of(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    writes: list[bytes] = []
    transport = connection._transport
    write = transport.write

    def record(data: bytes) -> None:
        writes.append(data)
        write(data)

    monkeypatch.setattr(transport, "write", record)
    return writes


async def test_what_is_sent_in_one_iteration_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(echo) as url, connected(url) as (connection, receiver):
        writes = writes_of(connection, monkeypatch)
        for number in range(10):
            connection.send_text(str(number))
        connection.send_binary(b"last")
        assert writes == []
        assert await receiver.until_messages(11) == [*map(str, range(10)), b"last"]
        assert len(writes) == 1
        connection.send_text("again")
        await receiver.until_messages(12)
        assert len(writes) == 2


async def test_the_first_frame_after_a_read_goes_out_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request, where there is one at a time; those that follow it are joined as ever."""
    async with serving(echo) as url, connected(url) as (connection, receiver):
        connection.send_text("a request")
        await receiver.until_messages(1)
        writes = writes_of(connection, monkeypatch)
        connection.send_text("the next")
        assert len(writes) == 1
        connection.send_text("another")
        connection.send_text("and one more")
        assert len(writes) == 1
        await receiver.until_messages(4)
        assert len(writes) == 2


async def test_so_many_frames_do_not_wait_for_the_end_of_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server begins on the first while the next are made."""
    async with serving(echo) as url, connected(url) as (connection, receiver):
        writes = writes_of(connection, monkeypatch)
        for number in range(40):
            connection.send_text(str(number))
        assert len(writes) == 2
        assert await receiver.until_messages(40) == [*map(str, range(40))]
        assert len(writes) == 3


async def test_what_is_sent_while_told_goes_out_with_the_pong(monkeypatch: pytest.MonkeyPatch) -> None:
    both: list[tuple[Opcode, bytes]] = []
    go = asyncio.Event()

    async def handler(raw: Raw) -> None:
        await go.wait()
        raw.write(Frame(Opcode.PING, b"p").serialize(mask=False) + text("a"))
        both.extend(await raw.read_frames(2))

    async with raw_server(handler) as url, connected(url) as (connection, receiver):
        writes = writes_of(connection, monkeypatch)
        receiver.on_frames = lambda frames: connection.send_text("answer")
        go.set()
        await receiver.until_closed()
        assert len(writes) == 1
    assert both == [(Opcode.PONG, b"p"), (Opcode.TEXT, b"answer")]


async def test_a_full_write_buffer_is_told_and_that_it_has_drained() -> None:
    read = asyncio.Event()

    async def handler(raw: Raw) -> None:
        raw.write(text("ready"))
        await read.wait()
        await until_gone(raw)

    async with raw_server(handler) as url, connected(url) as (connection, receiver):
        await receiver.until_messages(1)
        for _ in range(1000):
            connection.send_binary(bytes(100_000))
            await asyncio.sleep(0)
            if receiver.told("blocked"):
                break
        assert receiver.calls[-1] == ("blocked", None)
        connection.send_text("still taken")
        read.set()
        await receiver.until(lambda: receiver.told("writable"))
        assert receiver.calls[-1] == ("writable", None)


async def test_nothing_is_told_of_writing_once_the_connection_is_over() -> None:
    full = asyncio.Event()
    over = asyncio.Event()

    async def handler(raw: Raw) -> None:
        await full.wait()
        raw.write(CLOSE)
        await over.wait()
        await until_gone(raw)

    async with raw_server(handler) as url, connected(url) as (connection, receiver):
        while not receiver.told("blocked"):
            connection.send_binary(bytes(1_000_000))
            await asyncio.sleep(0)
        full.set()
        assert await receiver.until_closed() == (1001, "bye")
        over.set()
        await connection.wait_closed()


# ---- pausing --------------------------------------------------------------------------------------------------------


async def test_nothing_is_told_while_reading_is_paused() -> None:
    paused = asyncio.Event()

    async def handler(raw: Raw) -> None:
        raw.write(text("a") + text("b"))
        await paused.wait()
        raw.write(text("c") + CLOSE)
        await until_gone(raw)

    async with raw_server(handler) as url, connected(url) as (connection, receiver):

        def pause(frames: list[Received]) -> None:
            connection.pause_reading()
            connection.pause_reading()
            paused.set()

        receiver.on_frames = pause
        assert await receiver.until_messages(2) == ["a", "b"]
        await turns()
        assert receiver.messages == ["a", "b"]
        connection.resume_reading()
        assert await receiver.until_closed() == (1001, "bye")
        assert receiver.messages == ["a", "b", "c"]


async def test_sending_goes_on_while_reading_is_paused() -> None:
    got: list[tuple[Opcode, bytes]] = []
    done = asyncio.Event()

    async def handler(raw: Raw) -> None:
        got.extend(await raw.read_frames(1))
        done.set()
        await until_gone(raw)

    async with raw_server(handler) as url, connected(url) as (connection, _):
        connection.pause_reading()
        connection.send_text("a")
        await asyncio.wait_for(done.wait(), LONG)
    assert got == [(Opcode.TEXT, b"a")]


# ---- endings --------------------------------------------------------------------------------------------------------


async def test_a_close_by_the_server_is_told_with_its_code_and_reason_and_answered() -> None:
    answered: list[int | None] = []

    async def handler(server: ServerConnection) -> None:
        await server.send("last")
        await server.close(4321, "because")
        answered.append(server.close_code)

    async with serving(handler) as url, connected(url) as (connection, receiver):
        assert await receiver.until_closed() == (4321, "because")
        assert receiver.messages == ["last"]
        await connection.wait_closed()
        await turns()
        assert answered == [4321]


async def test_an_empty_close_frame_is_1005() -> None:
    async def handler(raw: Raw) -> None:
        raw.write(Frame(Opcode.CLOSE, b"").serialize(mask=False))
        await until_gone(raw)

    async with raw_server(handler) as url, connected(url) as (_, receiver):
        assert await receiver.until_closed() == (1005, "")


async def test_a_cut_has_no_code() -> None:
    async def handler(server: ServerConnection) -> None:
        await server.send("last")
        server.transport.abort()

    async with serving(handler) as url, connected(url) as (_, receiver):
        code, reason = await receiver.until_closed()
        assert code is None
        assert reason
        assert receiver.messages == ["last"]


async def test_a_reset_has_no_code_and_says_what_broke() -> None:
    async def handler(raw: Raw) -> None:
        sock = raw.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        raw.writer.transport.abort()

    async with raw_server(handler) as url, connected(url) as (_, receiver):
        code, reason = await receiver.until_closed()
        assert code is None
        assert "broke" in reason


async def test_our_close_is_answered_and_messages_come_until_then() -> None:
    async def handler(raw: Raw) -> None:
        frames = await raw.read_frames(2)
        assert frames == [(Opcode.TEXT, b"before"), (Opcode.CLOSE, b"\x03\xe8" + b"x" * 122)]
        raw.write(text("still") + Frame(Opcode.CLOSE, b"\x03\xe8bye").serialize(mask=False))

    async with raw_server(handler) as url, connected(url) as (connection, receiver):
        connection.send_text("before")
        connection.close(1000, "x" * 122 + "é")
        assert await receiver.until_closed() == (1000, "bye")
        assert receiver.messages == ["still"]
        await connection.wait_closed()


async def test_our_close_that_is_not_answered_can_be_given_up() -> None:
    async def handler(raw: Raw) -> None:
        await until_gone(raw)
        await asyncio.Event().wait()

    async with raw_server(handler) as url, connected(url) as (connection, receiver):
        connection.close()
        await turns()
        assert receiver.calls == []
        connection.abort()
        assert (await receiver.until_closed())[0] is None


async def test_a_peer_that_does_not_end_the_connection_after_its_close_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("phx_transports.asyncio.connection.LINGER", 0.02)
    gone = asyncio.Event()

    async def handler(raw: Raw) -> None:
        raw.write(CLOSE)
        await until_gone(raw)
        gone.set()
        await asyncio.Event().wait()

    async with raw_server(handler) as url, connected(url) as (connection, receiver):
        assert await receiver.until_closed() == (1001, "bye")
        await asyncio.wait_for(connection.wait_closed(), LONG)
        await asyncio.wait_for(gone.wait(), LONG)


async def test_abort_writes_what_the_socket_takes_at_once_and_waits_for_nothing() -> None:
    got: list[bytes] = []

    async def handler(raw: Raw) -> None:
        while data := await raw.reader.read(1 << 16):
            got.append(data)

    async with raw_server(handler) as url, connected(url) as (connection, receiver):
        connection.send_text("last")
        connection.abort()
        code, reason = await receiver.until_closed()
        assert code is None
        assert "this side" in reason
        await turns()
    assert len(b"".join(got)) == 2 + 4 + len("last")  # header, mask, text


async def test_calls_after_the_end_do_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(server: ServerConnection) -> None:
        await server.close(1001)

    async with serving(handler) as url, connected(url) as (connection, receiver):
        await receiver.until_closed()
        await connection.wait_closed()
        writes = writes_of(connection, monkeypatch)
        connection.send_text("a")
        connection.send_binary(b"a")
        connection.close()
        connection.pause_reading()
        connection.resume_reading()
        connection.abort()
        await turns()
        assert writes == []


async def test_a_connection_may_be_dropped_while_it_tells() -> None:
    async def handler(server: ServerConnection) -> None:
        await server.send("a")
        await server.wait_closed()

    async with serving(handler) as url, connected(url) as (connection, receiver):
        receiver.on_frames = lambda frames: connection.abort()
        assert (await receiver.until_closed())[0] is None
