"""The server's connections over real sockets: handshakes, closes, slow readers, and its own end."""

import asyncio
import base64
import contextlib
import json
import socket as sockets
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority
from peer import until
from phoenix_by_hand import (
    LONG,
    OK,
    Application,
    Client,
    Log,
    connected,
    conversation,
    errors,
    handshake,
    masked,
    serving,
    slow_reader,
)
from serving_in_thread import start
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode

from phx_transports.server import Host, RefuseConnect, ServerChannel, ServerOptions, ServerSocket, Termination, on
from phx_transports.server.wire import ServerWire

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]

PATH = "/socket/websocket?vsn=2.0.0"


# ---- the socket -----------------------------------------------------------------------------------------------------


async def test_a_heartbeat_is_answered() -> None:
    async with serving() as (_, running), connected(running.url) as client:
        await client.alive()


async def test_a_silent_client_is_closed_with_the_hosts_code() -> None:
    application = Application(options=ServerOptions(timeout=0.05))
    async with serving(application) as (_, running), connected(running.url) as client:
        assert await client.closed() == 1002


async def test_pings_keep_a_client_from_being_silent() -> None:
    application = Application(options=ServerOptions(timeout=0.5))
    async with serving(application) as (_, running), connected(running.url) as client:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while loop.time() < start + 0.7:
            await (await client.websocket.ping())
        await client.alive()


async def test_disconnect_closes_the_sockets_of_an_id() -> None:
    def connect(socket: ServerSocket) -> None:
        socket.id = socket.params.get("user")

    application = Application(connect=connect)
    async with (
        serving(application) as (_, running),
        connected(running.url, "2.0.0&user=1") as one,
        connected(running.url, "2.0.0&user=2") as two,
    ):
        await one.alive()
        await two.alive()
        assert {socket.id for socket in application.sockets} == {"1", "2"}
        application.disconnect("1")
        assert await one.closed() == 1001
        await two.alive()
        (kept,) = application.sockets
        kept.disconnect()
        assert await two.closed() == 1001


async def test_a_socket_is_closed_with_a_code_and_a_reason() -> None:
    seen = Log()
    async with serving(Application(connect=seen.add)) as (_, running), connected(running.url) as client:
        (socket,) = seen.entries
        with pytest.raises(ValueError, match="close code"):
            socket.close(1005)
        socket.close(4001, "pay first")
        assert await client.closed() == 4001
        assert client.websocket.close_reason == "pay first"
        assert (socket.ended.code, socket.ended.reason) == (4001, "pay first")
        socket.close(4002)


async def test_abort_drops_one_socket_without_a_close_frame() -> None:
    async with conversation() as (application, client):
        (socket,) = application.sockets
        socket.abort()
        assert await client.closed() is None
        assert await application.terminated.until_count(1) == [("room:a", Termination.CONNECTION)]
        assert socket.ended is not None
        assert socket.ended.code is None


@pytest.mark.parametrize(
    ("host", "code", "answer"), [(Host.BANDIT, 1001, 1000), (Host.COWBOY, 1001, 1001), (Host.BANDIT, 1012, 1002)]
)
async def test_a_clients_close_is_answered_as_the_host_does(host: Host, code: int, answer: int) -> None:
    application = Application(options=ServerOptions(host=host))
    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join()
        await client.websocket.close(code, "bye")
        assert client.websocket.protocol.close_rcvd is not None
        assert client.websocket.protocol.close_rcvd.code == answer
        assert await application.terminated.until_count(1) == [("room:a", Termination.CONNECTION)]


async def test_an_empty_close_frame_is_answered_and_told_as_1005() -> None:
    application = Application(options=ServerOptions(host=Host.COWBOY))
    async with serving(application) as (_, running), connected(running.url) as client:
        await client.alive()
        (socket,) = application.sockets
        client.websocket.protocol.send_close()
        client.websocket.send_data()
        assert await client_end(client) == 1005
        assert socket.ended is not None
        assert socket.ended.code == 1005


async def client_end(client: Client) -> int | None:
    async with asyncio.timeout(LONG):
        await client.websocket.wait_closed()
    received = client.websocket.protocol.close_rcvd
    return None if received is None else int(received.code)


async def test_what_came_in_one_read_before_a_close_is_answered_before_it() -> None:
    async with serving() as (_, running), connected(running.url) as client:
        await client.alive()
        protocol = client.websocket.protocol
        protocol.send_ping(b"x")
        protocol.send_text(b'[null,"1","phoenix","heartbeat",{}]')
        protocol.send_close(1000)
        client.websocket.transport.write(b"".join(protocol.data_to_send()))
        assert await client.next() == [None, "1", "phoenix", "phx_reply", OK]
        assert await client_end(client) == 1000


async def test_a_close_behind_a_join_is_answered_after_it() -> None:
    async with serving() as (application, running), connected(running.url) as client:
        await client.alive()
        join_and_close(client)
        await application.joining.until_count(1)
        application.rooms[0].gate.set()
        assert await client.next() == ["1", "1", "room:a", "phx_reply", OK]
        assert await client_end(client) == 1000
        assert await application.terminated.until_count(1) == [("room:a", Termination.CONNECTION)]


async def test_a_connection_that_breaks_while_its_close_waits_for_a_join_is_over() -> None:
    async with serving() as (application, running), connected(running.url) as client:
        await client.alive()
        (socket,) = application.sockets
        join_and_close(client)
        await application.joining.until_count(1)
        client.websocket.transport.abort()
        await until(lambda: socket.ended is not None)
        assert socket.ended is not None
        assert socket.ended.code is None
        application.rooms[0].gate.set()


def join_and_close(client: Client) -> None:
    """In one write, so that they come in one read."""
    protocol = client.websocket.protocol
    protocol.send_text(b'["1","1","room:a","phx_join",{"gate":1}]')
    protocol.send_close(1000)
    client.websocket.transport.write(b"".join(protocol.data_to_send()))


@pytest.mark.parametrize(
    ("frame", "code"),
    [(b"\x81\x82\0\0\0\0\xff\xff", 1007), (b"\x81\x02{}", 1002), (b"\x81\x82\0\0\0\0{}", 1011)],
    ids=["invalid UTF-8", "unmasked", "no message"],
)
async def test_broken_input_closes_the_socket(frame: bytes, code: int) -> None:
    async with conversation() as (application, client):
        client.websocket.transport.write(frame)
        assert await client.closed() == code
        assert await application.terminated.until_count(1) == [("room:a", Termination.CONNECTION)]


async def test_a_message_over_the_limit_closes_with_1009() -> None:
    async with conversation(max_size=1000) as (_, client):
        await client.send("1", "2", "room:a", "echo", "x" * 1000)
        assert await client.closed() == 1009


async def test_a_fragmented_message_is_taken() -> None:
    async with conversation() as (_, client):
        await client.websocket.send(['["1","2","room:a","ec', 'ho",{}]'])
        assert (await client.next())[1] == "2"


async def test_a_client_that_is_gone_without_a_close_frame_terminates_its_channels() -> None:
    async with conversation() as (application, client):
        (socket,) = application.sockets
        client.websocket.transport.abort()
        assert await application.terminated.until_count(1) == [("room:a", Termination.CONNECTION)]
        assert socket.ended is not None
        assert socket.ended.code is None


# ---- slow readers ---------------------------------------------------------------------------------------------------


async def test_a_slow_reader_is_dropped_at_the_bound_and_holds_up_nobody() -> None:
    async with conversation(max_buffered=2**20) as (application, client), slow_reader(application.url):
        slow = application.sockets[1]
        data = "x" * 2**16
        count = 0
        while slow.ended is None:
            assert count < 1000
            application.broadcast("room:a", "shout", {"n": count, "data": data})
            assert (await client.next())[4]["n"] == count
            count += 1
        assert slow.ended.code is None
        assert "slow" in slow.ended.reason
        assert await application.terminated.until_count(1) == [("room:a", Termination.CONNECTION)]
        await client.alive()


async def test_requests_of_one_read_are_handled_as_far_as_their_answers_fit() -> None:
    size, count, handled = 100_000, 200, 0
    application = Application()

    @application.on("large", topic="room:*")
    def large(channel: ServerChannel, payload: Any) -> str:
        nonlocal handled
        handled += 1
        return "x" * size

    async with serving(application), connected(application.url) as client, slow_reader(application.url) as sock:
        loop = asyncio.get_running_loop()
        asked = b"".join(masked(f'["1","{n}","room:a","large",{{}}]'.encode()) for n in range(count))
        await loop.sock_sendall(sock, asked)
        await until(lambda: handled)
        for _ in range(10):
            await client.alive()
        assert handled * size < count * size / 2
        received = 0
        while received < count * size:
            received += len(await loop.sock_recv(sock, 2**20))
        assert handled == count


async def test_a_reader_that_stands_still_too_long_is_dropped() -> None:
    options: dict[str, Any] = {"max_buffered": 2**30, "send_timeout": 0.5}
    async with conversation(**options) as (application, client), slow_reader(application.url):
        slow = application.sockets[1]
        application.broadcast("room:a", "shout", {"data": "x" * 2**23})
        assert (await client.next())[3] == "shout"
        assert await application.terminated.until_count(1) == [("room:a", Termination.CONNECTION)]
        assert slow.ended is not None
        assert "slow" in slow.ended.reason


async def test_writable_waits_for_the_reader() -> None:
    async with conversation() as (application, client), slow_reader(application.url) as sock:
        slow = application.sockets[1]
        await slow.writable()
        application.broadcast("room:a", "shout", {"data": "x" * 2**23})
        assert (await client.next())[3] == "shout"
        waiting = asyncio.create_task(slow.writable())
        await client.alive()
        assert not waiting.done()
        received = 0
        while received < 2**23:
            received += len(await asyncio.get_running_loop().sock_recv(sock, 2**20))
        async with asyncio.timeout(LONG):
            await waiting


# ---- the handshake --------------------------------------------------------------------------------------------------


async def refused(url: str) -> tuple[int, bytes, Any]:
    with pytest.raises(InvalidStatus) as caught:
        async with connect(url, proxy=None):
            pass
    response = caught.value.response
    return response.status_code, bytes(response.body or b""), response.headers


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/socket/websocket?vsn=3.0.0", 403),
        ("/socket/websocket?vsn=", 403),
        ("/socket/websocket?vsn[]=2.0.0", 403),
        ("/socket?vsn=2.0.0", 404),
        ("/nope/websocket?vsn=2.0.0", 404),
    ],
)
async def test_a_wrong_address_is_refused(target: str, status: int) -> None:
    async with serving() as (_, running):
        assert (await refused(running.url.removesuffix("/socket") + target))[0] == status


@pytest.mark.parametrize("target", ["/websocket", "/websocket/", "/websocket?vsn=1.0.3"])
async def test_without_a_version_it_is_the_first(target: str) -> None:
    async with serving() as (_, running), connect(running.url + target, proxy=None) as websocket:
        await websocket.send('{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}')
        assert json.loads(await websocket.recv())["payload"] == OK


async def test_connect_refuses_with_what_it_likes() -> None:
    async def refuse(socket: ServerSocket) -> None:
        raise RefuseConnect(429, "slow down", {"retry-after": "7"})

    async with serving(Application(connect=refuse)) as (application, running):
        status, body, headers = await refused(running.url + "/websocket?vsn=2.0.0")
        assert (status, body, headers["retry-after"]) == (429, b"slow down", "7")
        assert application.sockets == ()


async def test_a_connect_that_raises_is_a_500_and_is_reported() -> None:
    def crash(socket: ServerSocket) -> None:
        raise RuntimeError

    async with serving(Application(connect=crash)) as (application, running):
        assert (await refused(running.url + "/websocket?vsn=2.0.0"))[0] == 500
        assert errors(application) == [("connect", None, None, "RuntimeError")]


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError])
async def test_a_connect_that_would_end_a_program_ends_its_connection_alone(
    error: type[BaseException], *, awaited: bool
) -> None:
    async def fail_later() -> None:
        raise error

    def connect(socket: ServerSocket) -> Any:
        if "fail" not in socket.params:
            return None
        if awaited:
            return fail_later()
        raise error

    async with serving(Application(connect=connect)) as (application, running), connected(running.url) as client:
        with pytest.raises(InvalidStatus) as caught:
            async with connected(running.url, "2.0.0&fail=1"):
                pass
        assert caught.value.response.status_code == 500
        assert errors(application) == [("connect", None, None, error.__name__)]
        await client.alive()


async def test_connect_is_not_asked_about_a_request_that_is_no_handshake() -> None:
    asked = Log()
    async with serving(Application(connect=asked.add)) as (_, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(b"GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 4")
        writer.close()
        await writer.wait_closed()
        assert asked.entries == []


async def test_connect_sees_params_headers_and_leaves_assigns() -> None:
    seen = Log()

    async def connect(socket: ServerSocket) -> None:
        seen.add(socket)
        socket.assigns["user"] = 7
        await socket.writable()
        socket.disconnect()
        socket.abort()  # nothing is open yet

    application = Application(connect=connect)

    @application.on("who", topic="who")
    def who(channel: ServerChannel, payload: Any) -> Any:
        return channel.socket.assigns

    query = "2.0.0&a=1&a=2&b[c][d]=x&b[c][e]=&l[]=1&l[]=2&b[c][d]=y&m=&%C3%A9=%20+&odd[=1"
    headers = {"X-Key": "sekret"}
    async with (
        serving(application) as (_, running),
        connected(running.url, query, additional_headers=headers) as client,
    ):
        await client.join("who")
        assert (await client.ask("1", "2", "who", "who"))[4]["response"] == {"user": 7}
    (socket,) = seen.entries
    assert socket.params == {
        "vsn": "2.0.0",
        "a": "2",
        "b": {"c": {"d": "y", "e": ""}},
        "l": ["1", "2"],
        "m": "",
        "é": "  ",
        "odd[": "1",
    }
    assert socket.headers["x-key"] == "sekret"
    assert socket.auth_token is None


def bearer(token: str) -> str:
    return "base64url.bearer.phx." + base64.b64encode(token.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    ("offered", "status", "answer", "token"),
    [
        (None, 101, None, None),
        ("phoenix", 101, "phoenix", None),
        (f"phoenix, {bearer('sekret')}", 101, "phoenix", "sekret"),
        (f"{bearer('sekret')}, phoenix", 101, "phoenix", "sekret"),
        (f"phoenix, {bearer('???>>>')}", 101, "phoenix", "???>>>"),
        (bearer("sekret"), 101, None, "sekret"),
        (f"phoenix, {bearer('one')}, {bearer('two')}", 101, "phoenix", None),
        (f"zzz, {bearer('sekret')}", 403, None, None),
        ("phoenix, base64url.bearer.phx.!!!", 500, None, None),
    ],
)
async def test_the_token_is_read_from_the_subprotocols(
    offered: str | None, status: int, answer: str | None, token: str | None
) -> None:
    assert "/" in bearer("???>>>")
    seen = Log()
    async with serving(Application(connect=seen.add)) as (_, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        headers = () if offered is None else (f"Sec-WebSocket-Protocol: {offered}",)
        writer.write(handshake("/socket/websocket?vsn=2.0.0", *headers))
        response = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        writer.close()
        await writer.wait_closed()
    assert response[0].split()[1] == str(status)
    answers = [line.partition(": ")[2] for line in response if line.lower().startswith("sec-websocket-protocol")]
    assert answers == ([] if answer is None else [answer])
    assert [socket.auth_token for socket in seen.entries] == ([token] if status == 101 else [])


@pytest.mark.parametrize("status", [101, 200, 302, 600])
async def test_a_refusal_is_an_http_error(status: int) -> None:
    with pytest.raises(ValueError, match="400 to 599"):
        RefuseConnect(status)


async def test_a_connect_that_refuses_with_a_body_of_another_type_crashes() -> None:
    def connect(socket: ServerSocket) -> None:
        body: Any = {"error": "no"}
        raise RefuseConnect(401, body)

    async with serving(Application(connect=connect)) as (application, running):
        with pytest.raises(InvalidStatus, match="500"):
            async with connected(running.url):
                pass
        assert errors(application) == [("connect", None, None, "TypeError")]


async def test_a_connect_that_takes_too_long_is_reported() -> None:
    async def connect(socket: ServerSocket) -> None:
        await asyncio.Event().wait()

    async with serving(Application(handshake_timeout=0.05, connect=connect)) as (application, running):
        with pytest.raises(InvalidStatus, match="500"):
            async with connected(running.url):
                pass
        assert "handshake_timeout" in str(application.errors.entries[0].error)
        assert errors(application) == [("connect", None, None, "TimeoutError")]


async def test_a_connect_may_change_the_params() -> None:
    def connect(socket: ServerSocket) -> None:
        socket.params.clear()

    async with serving(Application(connect=connect)) as (_, running), connected(running.url) as client:
        await client.join()


# ---- bounds ---------------------------------------------------------------------------------------------------------


class Watched(ServerWire):
    """Counts what is read."""

    taken = 0

    def data_received(self, data: bytes) -> None:
        self.taken += len(data)
        super().data_received(data)


def text_frame(text: str) -> bytes:
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)


@pytest.mark.parametrize("where", ["connect", "join", "handler"])
async def test_a_client_that_streams_while_the_application_works_is_not_read_from(where: str) -> None:
    wires: list[Watched] = []
    gate = asyncio.Event()

    async def connect(socket: ServerSocket) -> None:
        if where == "connect":
            await gate.wait()

    application = Application(connect=connect)

    @application.channel("slow")
    class Slow(ServerChannel):
        async def join(self, topic: str, params: Any) -> None:
            if where == "join":
                await gate.wait()

        async def handle_in(self, event: str, payload: Any) -> None:
            if where == "handler":
                await gate.wait()

    def make(*arguments: Any, **options: Any) -> Watched:
        wires.append(Watched(*arguments, **options))
        return wires[-1]

    async with asyncio.timeout(4 * LONG), application.serve(wire=make) as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(handshake(PATH))
        writer.write(text_frame('["1","1","slow","phx_join",{}]'))
        writer.write(text_frame('["1","2","slow","work",{}]') * 30_000)
        writer.write(text_frame('[null,"last","phoenix","heartbeat",{}]'))
        await until(lambda: bool(wires) and not wires[0].transport.is_reading())
        for _ in range(100):
            await asyncio.sleep(0)
        assert wires[0].taken < 700_000
        gate.set()
        answers = await reader.readuntil(b"last")
        assert b"unmatched" not in answers
        writer.close()
        await writer.wait_closed()
    assert application.errors.entries == []


async def test_a_client_that_pings_and_reads_no_pongs_is_not_read_from() -> None:
    wires: list[Watched] = []

    def make(*arguments: Any, **options: Any) -> Watched:
        wires.append(Watched(*arguments, **options))
        return wires[-1]

    ping = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(4 * LONG), Application().serve(wire=make) as running:
        async with slow_reader(running.url) as sock:
            sending = asyncio.create_task(loop.sock_sendall(sock, ping * 300_000))
            await until(lambda: not wires[0].transport.is_reading())
            assert wires[0].transport.get_write_buffer_size() < 2 * 2**20
            assert not sending.done()
            sending.cancel()
            await asyncio.wait([sending])
        running.cut()


async def test_a_message_over_the_limit_in_fragments_closes_with_1009() -> None:
    application = Application(max_size=1_000)
    async with serving(application) as (_, running), connected(running.url) as client:
        await client.websocket.send(["x" * 100] * 20)
        assert await client.closed() == 1009


@pytest.mark.parametrize(
    ("host", "size", "code"), [(Host.BANDIT, 7, None), (Host.BANDIT, 9, 1009), (Host.COWBOY, 9, None)]
)
@pytest.mark.parametrize("first", [0, 1, 2**20])
async def test_bandit_takes_less_of_a_message_in_fragments(host: Host, size: int, code: int | None, first: int) -> None:
    text = json.dumps([None, "1", "phoenix", "heartbeat", "x" * (size * 1_000_000)])
    options = ServerOptions(host=host)
    async with serving(Application(options=options)) as (_, running), connected(running.url) as client:
        await client.websocket.send([text[:first], text[first:]])
        if code is None:
            assert await client.next() == [None, "1", "phoenix", "phx_reply", OK]
        else:
            assert await client.closed() == code
            assert client.websocket.close_reason == ""


@pytest.mark.parametrize("size", [0, 1, 2])
async def test_a_message_in_too_many_fragments_closes_with_1008(size: int) -> None:
    async with serving() as (_, running), connected(running.url) as other:
        async with connected(running.url) as client:
            await client.websocket.send(["x" * size] * 20_000)
            assert await client.closed() == 1008
        await other.alive()


@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_what_comes_with_the_handshake_is_answered(size: int) -> None:
    data = handshake(PATH) + text_frame('["1","1","room:a","phx_join",{}]')
    async with serving() as (_, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        for start in range(0, len(data), size):
            writer.write(data[start : start + size])
            await asyncio.sleep(0)
        assert b'"status":"ok"' in await reader.readuntil(b'"response":{}}]')
        writer.close()
        await writer.wait_closed()


async def test_no_more_connections_are_taken_than_are_allowed() -> None:
    async with serving(Application(max_connections=2)) as (_, running), connected(running.url) as one:
        async with connected(running.url) as two:
            await two.alive()
            reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            await one.alive()
        await until(lambda: len(running.sockets) == 1)
        async with connected(running.url) as three:
            await three.alive()


@pytest.mark.parametrize("said", [b"", b"GET /socket/websocket HTTP/1.1\r\nHost: x\r\n"])
async def test_a_request_has_its_time(said: bytes) -> None:
    async with serving(Application(handshake_timeout=0.05)) as (_, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(said)
        with contextlib.suppress(ConnectionResetError):
            assert b" 101 " not in await reader.read()
        writer.close()


# ---- the end --------------------------------------------------------------------------------------------------------


async def test_closing_drains_the_sockets_and_terminates_their_channels() -> None:
    async with serving() as (application, running), connected(running.url) as joined, connected(running.url) as idle:
        await joined.join()
        closing = asyncio.create_task(running.close())
        assert await joined.closed() == 1012
        assert await idle.closed() == 1000
        await closing
        assert application.terminated.entries == [("room:a", Termination.CONNECTION)]
        assert application.sockets == ()
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", running.port)
        await running.close()


async def test_an_application_can_be_served_again_on_the_same_port() -> None:
    async with serving() as (application, running):
        await running.close()
        async with application.serve(port=running.port) as again:
            assert again.url == running.url
            async with connected(again.url) as client:
                await client.join()


async def test_cut_drops_every_connection_and_goes_on_listening() -> None:
    async with serving() as (application, running), connected(running.url) as one, connected(running.url) as two:
        await one.join()
        running.cut()
        assert [await one.closed(), await two.closed()] == [None, None]
        assert await application.terminated.until_count(1) == [("room:a", Termination.CONNECTION)]
        async with connected(running.url) as three:
            await three.join()


async def test_abort_drops_every_connection_and_stops_listening() -> None:
    async with serving() as (application, running), connected(running.url) as client:
        await client.join()
        await running.abort()
        assert await client.closed() is None
        assert application.terminated.entries == [("room:a", Termination.CONNECTION)]
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", running.port)


async def test_closing_lets_a_handler_finish_before_terminate() -> None:
    async with serving() as (application, running), connected(running.url) as client:
        await client.join()
        await client.send("1", "2", "room:a", "gate")
        await client.alive()
        closing = asyncio.create_task(running.close())
        assert await client.closed() == 1012
        assert application.terminated.entries == []
        application.rooms[0].gate.set()
        await closing
        assert application.terminated.entries == [("room:a", Termination.CONNECTION)]


async def test_closing_does_not_wait_for_ever() -> None:
    ended = Log()
    application = Application()

    @application.channel("stuck")
    class Stuck(ServerChannel):
        async def handle_in(self, event: str, payload: Any) -> Any:
            self.spawn(self.hang())
            await self.hang()

        async def hang(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.add("cancelled")

    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join("stuck")
        await client.send("1", "2", "stuck", "hang")
        await client.alive()
        closing = asyncio.create_task(running.close(timeout=0.05))
        await client.closed()
        await closing
        assert ended.entries == ["cancelled", "cancelled"]


async def test_closing_that_is_cancelled_at_once_still_closes() -> None:
    async with asyncio.timeout(5), serving(Application()) as (_, running):
        closing = asyncio.create_task(running.close())
        await asyncio.sleep(0)
        closing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await closing


async def test_closing_that_is_cancelled_while_it_releases_ends_for_every_caller() -> None:
    cancelled = Log()

    async def connect(socket: ServerSocket) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.add("once")
            await asyncio.sleep(0.1)

    async with serving(Application(connect=connect)) as (_, running):
        with sockets.create_connection(("127.0.0.1", running.port)) as sock:
            sock.sendall(handshake(PATH))
            await until(lambda: running._openings)
            closing = asyncio.create_task(running.close(timeout=0))
            await cancelled.until_count(1)
            closing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await closing
            async with asyncio.timeout(LONG):
                await running.close()
            await until(lambda: not running._openings)


async def test_closing_drops_a_client_that_does_not_answer_the_close_frame() -> None:
    async with serving() as (application, running), slow_reader(running.url) as sock:
        await running.close(timeout=0.05)
        assert application.terminated.entries == [("room:a", Termination.CONNECTION)]
        assert (await asyncio.get_running_loop().sock_recv(sock, 100))[:1] == b"\x88"


@pytest.mark.parametrize("request_sent", [False, True])
async def test_closing_drops_a_handshake_that_is_not_over(*, request_sent: bool) -> None:
    asked = Log()

    async def connect(socket: ServerSocket) -> None:
        asked.add(socket)
        await asyncio.Event().wait()

    async with serving(Application(connect=connect)) as (_, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        if request_sent:
            writer.write(handshake("/socket/websocket?vsn=2.0.0"))
            await asked.until_count(1)
        async with asyncio.timeout(LONG):
            await running.close()
            assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def linger(log: Log, socket: ServerSocket) -> None:
    """A `connect` that has no answer, and takes a moment to end when it is cancelled."""
    log.add("asked")
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.01)
        log.add("ended")


async def test_closing_waits_until_connect_has_ended() -> None:
    log = Log()
    async with serving(Application(connect=partial(linger, log))) as (_, running):
        with sockets.create_connection(("127.0.0.1", running.port)) as sock:
            sock.sendall(handshake(PATH))
            await log.until_count(1)
            await running.close()
            assert log.entries == ["asked", "ended"]


async def test_closing_from_spawned_work_waits_for_all_but_that_work() -> None:
    log = Log()

    async def connect(socket: ServerSocket) -> None:
        if "slow" in socket.params:
            await linger(log, socket)

    application = Application(connect=connect)

    @application.on("close", topic="room:*")
    def close(channel: ServerChannel, payload: Any) -> None:
        channel.spawn(running.close())

    async with serving(application) as (_, running), connected(running.url) as client:
        await client.join()
        with sockets.create_connection(("127.0.0.1", running.port)) as sock:
            sock.sendall(handshake(f"{PATH}&slow=1"))
            await log.until_count(1)
            await client.send("1", "2", "room:a", "close")
            assert await client.closed() == 1012
            await running.close()
            assert log.entries == ["asked", "ended"]


async def test_abort_cuts_short_a_close_that_waits() -> None:
    async with serving() as (application, running), slow_reader(running.url):
        closing = asyncio.create_task(running.close())
        await application.terminated.until_count(1)
        async with asyncio.timeout(1):
            await running.abort()
            await closing


@pytest.mark.parametrize("iterations", range(8))
async def test_closing_at_any_moment_of_a_connections_beginning_leaves_nothing(iterations: int) -> None:
    async with serving() as (_, running):
        with sockets.create_connection(("127.0.0.1", running.port)) as sock:
            sock.sendall(handshake("/socket/websocket?vsn=2.0.0"))
            for _ in range(iterations):
                await asyncio.sleep(0)
            async with asyncio.timeout(1):
                await running.close(timeout=0.05)


async def test_tls_serves_and_closes_alike(tmp_path: Path) -> None:
    authority, application = Authority(tmp_path), Application()
    client_side = authority.trusting()
    async with application.serve(ssl=authority.server()) as running:
        assert running.url.startswith("wss://127.0.0.1:")
        async with connected(running.url, ssl=client_side) as client:
            await client.join()
            await client.websocket.close(1000)
            assert await client_end(client) == 1000
        async with connected(running.url, ssl=client_side) as client:
            await client.join()
            await running.close()
            assert await client.closed() == 1012
    assert [reason for _, reason in application.terminated.entries] == [Termination.CONNECTION] * 2


async def test_over_tls_what_comes_together_with_the_clients_end_is_not_lost(authority: Authority) -> None:
    application, got = Application(), list[int]()
    pushes = [text_frame(f'["1","{number}","count:a","n",{number}]') for number in range(2000)]

    @application.channel("count:*")
    class Count(ServerChannel):
        @on("n")
        async def n(self, payload: Any) -> None:
            got.append(payload)

    def join() -> ssl.SSLSocket:
        raw = sockets.create_connection(("127.0.0.1", running.port))
        client = authority.trusting().wrap_socket(raw, server_hostname="127.0.0.1")
        client.sendall(handshake(PATH) + text_frame('["1","1","count:a","phx_join",{}]'))
        while b"phx_reply" not in client.recv(1000):
            pass
        return client

    def push_and_end(client: ssl.SSLSocket) -> None:
        client.sendall(b"".join(pushes))
        client.close()

    async with asyncio.timeout(2 * LONG), application.serve(ssl=authority.server()) as running:
        client = await asyncio.to_thread(join)
        start(push_and_end, client).result(LONG)  # the loop stands still, and then reads it all
        await until(lambda: got == list(range(2000)))


@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 50])
@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00"], ids=["silent", "begun"])
async def test_closing_drops_a_tls_handshake_that_is_not_over(
    authority: Authority, sent: bytes, iterations: int
) -> None:
    async with Application().serve(ssl=authority.server()) as running:
        with sockets.create_connection(("127.0.0.1", running.port)) as sock:
            sock.sendall(sent)
            for _ in range(iterations):
                await asyncio.sleep(0)
            async with asyncio.timeout(LONG):
                await running.close()
            assert gone(sock)


async def test_a_tls_handshake_counts_as_a_connection(authority: Authority) -> None:
    application = Application(max_connections=2)
    async with asyncio.timeout(2 * LONG), application.serve(ssl=authority.server()) as running:
        address = "127.0.0.1", running.port
        with sockets.create_connection(address) as one, sockets.create_connection(address) as two:
            with sockets.create_connection(address) as three:
                await until(lambda: gone(three))
            assert not gone(one)
            one.close()
            two.sendall(b"GET / HTTP/1.1\r\n\r\n")  # no TLS
            await until(lambda: gone(two))
        async with connected(running.url, ssl=authority.trusting()) as client:
            await client.join()


def gone(sock: sockets.socket) -> bool:
    """Whether the server has ended the connection, of which the client does not look at what came."""
    sock.setblocking(False)
    try:
        while sock.recv(1000):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True
