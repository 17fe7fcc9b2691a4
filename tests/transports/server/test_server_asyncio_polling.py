"""The HTTP of long polling on the embedded server: the answer to each request, byte by byte where it matters."""

import asyncio
import contextlib
import json
import socket as sockets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from peer import until
from phoenix_by_hand import handshake

from phx_proto.server.longpoll import LARGEST_BODY
from phx_transports.server import (
    CallbackError,
    RefuseConnect,
    RunningServer,
    Server,
    ServerChannel,
    ServerOptions,
    ServerSocket,
    http,
    on,
    wire,
)
from phx_transports.server.wire import ServerWire

pytestmark = pytest.mark.asyncio

JOIN = '["1","1","room:a","phx_join",{}]'


class Room(ServerChannel):
    """Echoes, and is slow if asked to."""

    async def join(self, topic: str, params: Any) -> Any:
        if "slow" in params:
            await asyncio.sleep(params["slow"])
        return {}

    @on("echo")
    async def echo(self, payload: Any) -> Any:
        return payload

    @on("flood")
    async def flood(self, payload: Any) -> Any:
        for _ in range(payload["n"]):
            self.push("data", {"data": "x" * 100_000})
            await self.socket.writable()
        return {}


class Caller:
    """One HTTP connection to a server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], Any]:
        self.send(method, target, body, **headers)
        return await self.answer()

    def send(self, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        fields = {"host": "127.0.0.1", "content-length": str(len(body))}
        fields |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value)]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        async with asyncio.timeout(5):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        is_json = body[:1] == b"{"
        return int(head[0].split()[1]), headers, json.loads(body) if is_json else body


class Site:
    """A server with a mount, and connections to it."""

    def __init__(self, server: Server, running: RunningServer) -> None:
        self.server, self.running = server, running
        self.callers: list[Caller] = []

    async def caller(self) -> Caller:
        caller = Caller(*await asyncio.open_connection("127.0.0.1", self.running.port))
        self.callers.append(caller)
        return caller

    async def session(self, query: str = "vsn=2.0.0") -> tuple[Caller, str]:
        """A connection, and where its session is polled."""
        caller = await self.caller()
        _, _, body = await caller.ask("GET", f"/socket/longpoll?{query}")
        return caller, f"/socket/longpoll?{query}&token={body['token']}"


@asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Site]:
    server = Server(**{"options": ServerOptions(poll_window=0.4)} | options)
    server.channel("room:*")(Room)
    async with server.serve() as running:
        site = Site(server, running)
        try:
            yield site
        finally:
            for caller in site.callers:
                caller.writer.close()


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as site:
        yield site


async def test_a_session_over_one_connection(site: Site) -> None:
    caller, polls = await site.session()
    assert (await caller.ask("POST", polls, JOIN.encode(), content_type="application/x-ndjson"))[2] == {"status": 200}
    status, headers, body = await caller.ask("GET", polls)
    assert (status, body["status"], len(body["messages"])) == (200, 200, 1)
    assert headers["access-control-allow-origin"] == "*"
    assert headers["content-type"] == "application/json; charset=utf-8"


async def test_the_token_may_come_in_a_header(site: Site) -> None:
    caller, polls = await site.session()
    path, _, token = polls.partition("&token=")
    assert (await caller.ask("GET", path, x_phoenix_longpoll_token=token))[2]["status"] == 204


async def test_a_poll_waits_for_a_broadcast(site: Site) -> None:
    caller, polls = await site.session()
    await caller.ask("POST", polls, JOIN.encode(), content_type="application/x-ndjson")
    await caller.ask("GET", polls)
    caller.send("GET", polls)
    await asyncio.sleep(0.05)
    site.server.broadcast("room:a", "news", {"n": 1})
    site.server.broadcast("room:a", "news", {"n": 2})
    _, _, body = await caller.answer()
    assert body["messages"] == [f'[null,null,"room:a","news",{{"n":{n}}}]' for n in (1, 2)]


async def test_requests_behind_one_another_are_answered_in_turn(site: Site) -> None:
    caller, polls = await site.session()
    for n in range(3):
        message = f'[null,"{n}","phoenix","heartbeat",{{}}]'
        caller.send("POST", polls, message.encode(), content_type="application/x-ndjson")
    caller.send("GET", polls)
    assert [(await caller.answer())[2] for _ in range(3)] == [{"status": 200}] * 3
    assert len((await caller.answer())[2]["messages"]) == 3


async def test_many_requests_of_one_read_that_are_answered_at_once(site: Site) -> None:
    caller = await site.caller()
    for _ in range(500):
        caller.send("OPTIONS", "/socket/longpoll")
    for _ in range(500):
        assert (await caller.answer())[0] == 200


async def test_a_client_that_does_not_read_its_answers_is_not_read_and_is_dropped() -> None:
    async with serving(send_timeout=0.2) as site:
        caller = await site.caller()
        names = b"access-control-request-headers: " + b"x" * 10_000  # are in the answer
        requests = b"OPTIONS /socket/longpoll HTTP/1.1\r\nhost: x\r\n" + names + b"\r\n\r\n"
        sent = 0
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while True:
                    caller.writer.write(requests)
                    sent += len(requests)
                    await caller.writer.drain()
        assert sent < 20_000_000


async def test_a_client_that_sends_on_and_on_behind_a_poll_is_not_read(site: Site) -> None:
    caller, polls = await site.session()
    caller.send("GET", polls)
    caller.writer.write(b"x" * 20_000_000)
    await asyncio.sleep(0.1)
    assert caller.writer.transport.get_write_buffer_size() > 1_000_000
    assert (await caller.answer())[2]["status"] == 204
    assert (await caller.answer())[0] == 431  # that is no request


async def test_messages_that_come_after_the_connection_of_a_poll_is_gone_are_kept(site: Site) -> None:
    caller, polls = await site.session()
    other = await site.caller()
    caller.send("GET", polls)
    await asyncio.sleep(0.05)
    caller.writer.transport.abort()
    await asyncio.sleep(0.05)
    await other.ask("POST", polls, JOIN.encode(), content_type="application/x-ndjson")
    assert len((await other.ask("GET", polls))[2]["messages"]) == 1


async def test_a_client_that_polls_no_more_is_gone(site: Site) -> None:
    await site.session()
    (socket,) = site.server.sockets
    async with asyncio.timeout(5):
        while socket.ended is None:
            await asyncio.sleep(0.05)
    assert socket.ended.reason == "the client polls no more"
    assert site.server.sockets == ()


async def test_a_session_that_was_disconnected_is_seen_by_its_end_alone(site: Site) -> None:
    caller, polls = await site.session()
    other = await site.caller()
    (socket,) = site.server.sockets
    caller.send("GET", polls)
    await asyncio.sleep(0.05)
    socket.disconnect()
    assert (await caller.answer())[2]["status"] == 204
    assert (await other.ask("POST", polls, JOIN.encode()))[2] == {"status": 410}
    body = (await caller.ask("GET", polls))[2]
    assert body["status"] == 410
    assert body["token"] not in polls


async def test_other_methods_bodies_and_paths(site: Site) -> None:
    caller, polls = await site.session()
    assert (await caller.ask("PUT", polls))[0] == 400
    status, headers, _ = await caller.ask("OPTIONS", polls, access_control_request_headers="x-a, x-b")
    assert (status, headers["access-control-allow-headers"]) == (200, "x-a, x-b")
    assert headers["access-control-allow-methods"] == "get, post, options"
    assert (await caller.ask("OPTIONS", polls, access_control_request_headers="\xe9"))[0] == 200
    assert (await caller.ask("GET", "/socket/elsewhere"))[0] == 404
    status, _, body = await caller.ask("POST", polls, b"no base64!", content_type="application/x-ndjson")
    assert (status, body) == (500, {"errors": {"detail": "Internal Server Error"}})
    status, _, body = await caller.ask("POST", polls, b"[" * (LARGEST_BODY + 1))
    assert (status, body) == (400, {"errors": {"detail": "Bad Request"}})


async def test_names_of_headers_that_are_no_ascii_are_answered_as_they_came(site: Site) -> None:
    caller = await site.caller()
    asked = b"OPTIONS /socket/longpoll HTTP/1.1\r\nhost: a\r\naccess-control-request-headers: caf\xe9\r\n\r\n"
    caller.writer.write(asked)
    assert b"access-control-allow-headers: caf\xe9\r\n" in await caller.reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize("more", [1, 1_000_000], ids=["whole", "and the rest is still coming"])
async def test_a_body_that_is_too_large_ends_its_connection_and_is_not_handled(
    site: Site, more: int, caplog: pytest.LogCaptureFixture
) -> None:
    caller, polls = await site.session()
    caller.send("POST", polls, b"[" * (LARGEST_BODY + 1), content_length=str(LARGEST_BODY + more))
    assert (await caller.answer())[0] == 400
    assert await caller.reader.read() == b""
    assert not caplog.records


async def test_a_request_without_a_host_or_that_is_no_http(site: Site) -> None:
    caller = await site.caller()
    caller.writer.write(b"GET /socket/longpoll HTTP/1.0\r\n\r\n")
    assert (await caller.answer())[0] == 400
    caller = await site.caller()
    caller.writer.write(b"GET /socket/longpoll HTTP/1.1\r\nbad header\r\n\r\n")
    assert (await caller.answer())[0] == 400
    assert await caller.reader.read() == b""
    caller, _ = await site.session()
    caller.writer.write(b"nonsense\r\n\r\n")
    assert (await caller.answer())[0] == 400


async def test_a_client_may_ask_before_it_sends_a_body(site: Site) -> None:
    caller, polls = await site.session()
    caller.send("POST", polls, expect="100-continue", content_length=str(len(JOIN)))
    assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 \r\n\r\n"
    caller.writer.write(JOIN.encode())
    assert (await caller.answer())[2] == {"status": 200}


async def test_a_connection_that_the_client_wants_closed_is(site: Site) -> None:
    caller = await site.caller()
    assert (await caller.ask("GET", "/socket/longpoll?vsn=2.0.0", connection="close"))[0] == 200
    assert await caller.reader.read() == b""


async def test_an_idle_connection_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE", 0.1)
    async with serving() as site:
        caller, _ = await site.session()
        async with asyncio.timeout(5):
            assert await caller.reader.read() == b""


@pytest.mark.parametrize("then", ["", "GET /socket", "end"])
async def test_a_client_that_reads_no_answers_is_dropped_in_time(then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "IDLE", 0.1)
    monkeypatch.setattr(wire, "LINGER", 0.1)
    request = f"OPTIONS /socket/longpoll HTTP/1.1\r\nhost: x\r\naccess-control-request-headers: {'x' * 8000}\r\n\r\n"
    more = handshake("/socket/websocket") if then == "end" else then.encode()

    async def connect(socket: ServerSocket) -> None:
        await asyncio.sleep(0.05)

    async with serving(handshake_timeout=0.1, connect=connect) as site:
        assert site.running._listener is not None
        site.running._listener.sockets[0].setsockopt(sockets.SOL_SOCKET, sockets.SO_SNDBUF, 4096)
        with sockets.socket() as sock:
            sock.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", site.running.port))
            sock.setblocking(False)
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_sendall(sock, request.encode() * 100 + more)
                if then == "end":
                    sock.shutdown(sockets.SHUT_WR)
                await until(lambda: site.running._clients)
                await until(lambda: not site.running._clients)


async def test_a_client_that_says_nothing_is_dropped_as_before() -> None:
    async with serving(handshake_timeout=0.1) as site:
        caller = await site.caller()
        async with asyncio.timeout(5):
            assert await caller.reader.read() == b""


async def test_what_connect_sees_and_how_it_refuses() -> None:
    seen: list[ServerSocket] = []
    errors: list[CallbackError] = []

    async def connect(socket: ServerSocket) -> None:
        seen.append(socket)
        match socket.params.get("how"):
            case "refuse":
                raise RefuseConnect(429, "too many")
            case "crash":
                raise ZeroDivisionError
            case "hang":
                await asyncio.sleep(100)

    async with serving(connect=connect, on_error=errors.append, handshake_timeout=0.2) as site:
        caller, _ = await site.session("vsn=2.0.0&a[b]=c&how=well")
        assert seen[0].params == {"vsn": "2.0.0", "a": {"b": "c"}, "how": "well"}
        assert seen[0].connect_info.uri == "http://127.0.0.1/socket/longpoll"
        await caller.ask("GET", "/socket/longpoll?vsn=2.0.0", x_phoenix_authtoken="sekret")
        assert seen[-1].auth_token == "sekret"
        asked = [(await caller.ask("GET", f"/socket/longpoll?how={how}"))[::2] for how in ("refuse", "crash", "hang")]
        failed = {"errors": {"detail": "Internal Server Error"}}
        assert asked == [(200, {"status": 403}), (500, failed), (500, failed)]
        assert [(report.call, type(report.error)) for report in errors] == [
            ("connect", ZeroDivisionError),
            ("connect", TimeoutError),
        ]
        assert "handshake_timeout" in str(errors[1].error)
        assert (await caller.ask("GET", "/socket/longpoll?vsn=9.0.0"))[2] == {"status": 403}


async def test_a_client_that_goes_while_connect_is_asked_is_given_up() -> None:
    cancelled = asyncio.Event()

    async def connect(socket: ServerSocket) -> None:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with serving(connect=connect) as site:
        caller = await site.caller()
        caller.send("GET", "/socket/longpoll?vsn=2.0.0")
        await asyncio.sleep(0.05)
        caller.writer.transport.abort()
        async with asyncio.timeout(5):
            await cancelled.wait()


async def test_nothing_is_kept_of_a_client_that_is_gone_before_connect_is_asked() -> None:
    gone = asyncio.Event()

    class Gone(ServerWire):
        def requested(self, request: http.HttpRequest) -> None:
            super().requested(request)
            request.connection.lost()  # as when the transport has lost it in the same iteration of the loop
            gone.set()

    async with Server().serve(wire=Gone) as running:
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"GET /socket/longpoll?vsn=2.0.0 HTTP/1.1\r\nhost: x\r\n\r\n")
        (polling,) = running._polling.values()
        async with asyncio.timeout(5):
            await gone.wait()
            await until(lambda: not polling._opening)
        writer.close()


async def test_the_origin_is_checked() -> None:
    def check(origin: Any) -> bool:
        if origin.host == "crash.example":
            raise ZeroDivisionError
        return bool(origin.host == "good.example")

    errors: list[CallbackError] = []
    async with serving(check_origin=check, on_error=errors.append) as site:
        caller = await site.caller()
        origins = ("https://good.example", "https://bad.example", "https://crash.example")
        asked = [(await caller.ask("GET", "/socket/longpoll?vsn=2.0.0", origin=origin))[::2] for origin in origins]
        assert asked[0][1]["status"] == 410
        assert asked[1:] == [
            (200, {"status": 403}),
            (500, {"errors": {"detail": "Internal Server Error"}}),
        ]
        assert [report.call for report in errors] == ["check_origin"]


async def test_there_are_no_more_sessions_than_connections() -> None:
    async with serving(max_connections=2) as site:
        caller, _ = await site.session()
        assert (await caller.ask("GET", "/socket/longpoll?vsn=2.0.0"))[2]["status"] == 410
        assert (await caller.ask("GET", "/socket/longpoll?vsn=2.0.0"))[0] == 500


async def test_there_are_no_more_sessions_than_connections_however_many_are_opened_at_once() -> None:
    gate = asyncio.Event()

    async def connect(socket: ServerSocket) -> None:
        await gate.wait()

    async with serving(max_connections=2, connect=connect) as site:
        callers = [await site.caller() for _ in range(2)]
        asked = [asyncio.create_task(caller.ask("GET", "/socket/longpoll?vsn=2.0.0")) for caller in callers]
        gate.set()
        await asyncio.gather(*asked)
        gate.clear()
        site.server.sockets[0].abort()
        for caller in callers:
            caller.send("GET", "/socket/longpoll?vsn=2.0.0")
        (polling,) = site.running._polling.values()
        await until(lambda: len(polling._opening) == 2)
        gate.set()
        assert sorted([(await caller.answer())[0] for caller in callers]) == [200, 500]
        assert len(site.server.sockets) == 2


async def test_a_mount_may_have_none() -> None:
    async with serving(longpoll=False) as site:
        caller = await site.caller()
        assert (await caller.ask("GET", "/socket/longpoll?vsn=2.0.0"))[0] == 404


async def test_a_client_that_takes_too_little_is_given_up() -> None:
    async with serving(max_buffered=2**21, options=ServerOptions(poll_window=5.0)) as site:
        caller, polls = await site.session()
        (socket,) = site.server.sockets
        flood = '["1","2","room:a","flood",{"n":100}]'
        await caller.ask("POST", polls, f"{JOIN}\n{flood}".encode(), content_type="application/x-ndjson")
        got = 0
        for _ in range(10):  # the channel waits for room, and goes on where a poll has made some
            got += len((await caller.ask("GET", polls))[2]["messages"])
        assert got == 102
        for _ in range(40):
            site.server.broadcast("room:a", "data", {"data": "x" * 100_000})
        async with asyncio.timeout(5):
            while socket.ended is None:
                await asyncio.sleep(0.02)
        assert socket.ended.reason == "the client reads too slowly"


HEAD = b"POST /socket/longpoll?vsn=2.0.0 HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize("before", [False, True], ids=["the first request", "one behind another"])
@pytest.mark.parametrize("start", [HEAD, HEAD + b"content-length: 9999\r\n\r\n"], ids=["its head", "its body"])
async def test_a_request_that_drips_is_given_up(start: bytes, before: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_TIME", 0.2)
    async with serving(handshake_timeout=0.2) as site:
        caller = await site.caller()
        if before:
            await caller.ask("GET", "/socket/longpoll?vsn=2.0.0")
        caller.writer.write(start)
        answer = asyncio.create_task(caller.answer())
        for _ in range(100):
            caller.writer.write(b"x")
            if (await asyncio.wait([answer], timeout=0.02))[0]:
                break
        assert (await answer)[0] == 408
        with contextlib.suppress(ConnectionResetError):  # for bytes that came after the end
            assert await caller.reader.read() == b""


async def test_between_requests_and_before_an_answer_there_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "BODY_TIME", 0.05)
    async with serving(handshake_timeout=0.05) as site:
        caller, polls = await site.session()
        for _ in range(2):
            await asyncio.sleep(0.1)
            assert (await caller.ask("GET", polls))[2]["status"] == 204


async def test_a_server_that_closes_ends_its_sessions_and_polls() -> None:
    async with serving() as site:
        caller, polls = await site.session()
        (socket,) = site.server.sockets
        caller.send("GET", polls)
        await asyncio.sleep(0.05)
        await site.running.close()
        assert socket.ended is not None
        assert await caller.reader.read() == b""
