"""Where clients connect to a server, what is refused without calling the application, and how signals end it."""

import asyncio
import os
import signal
from itertools import pairwise
from typing import Any

import pytest
from phoenix_by_hand import LONG, Application, Log, connected, errors, handshake, serving, slow_reader

from phx_proto.errors import InvalidHandler
from phx_transports.asyncio import connect
from phx_transports.server import Host, Origin, RefuseConnect, RunningServer, ServerOptions, ServerSocket

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]

PATH = "/socket/websocket?vsn=2.0.0"


async def answer(running: RunningServer, *parts: bytes) -> list[str]:
    """The lines of the answer to a request that is sent in these parts."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
        await asyncio.sleep(0.001)
    head = await reader.readuntil(b"\r\n\r\n")
    body = b"" if b" 101 " in head else await reader.read()
    writer.transport.abort()
    return [*head.decode().rstrip().split("\r\n"), "", body.decode()]


async def status(running: RunningServer, *parts: bytes) -> int:
    return int((await answer(running, *parts))[0].split()[1])


# ---- mounts ---------------------------------------------------------------------------------------------------------


async def test_mounts_have_their_own_sockets_and_share_the_channels() -> None:
    asked = Log()
    application = Application(connect=lambda socket: asked.add("first"))
    application.mount(
        "/other/", connect=lambda socket: asked.add("other"), options=ServerOptions(timeout=0.05, max_channels=1)
    )
    async with serving(application) as (_, running):
        other = running.url.removesuffix("/socket") + "/other"
        async with connected(running.url) as first, connected(other) as second:
            await first.join()
            await second.join()
            application.broadcast("room:a", "shout", {})
            assert [(await client.next())[3] for client in (first, second)] == ["shout", "shout"]
            refused = await second.ask("2", "2", "room:b", "phx_join")
            assert refused[4]["response"] == {"reason": "too many channels joined"}
            assert await second.closed() == 1002
            await first.join("room:b", "3")
    assert asked.entries == ["first", "other"]


async def test_a_mount_has_the_servers_options_by_default() -> None:
    application = Application(options=ServerOptions(max_channels=0))
    application.mount("/other")
    async with (
        serving(application) as (_, running),
        connected(running.url.removesuffix("/socket") + "/other") as client,
    ):
        assert (await client.ask("1", "1", "room:a", "phx_join"))[4]["status"] == "error"


async def test_a_path_cannot_be_mounted_twice() -> None:
    application = Application()
    with pytest.raises(InvalidHandler, match="taken"):
        application.mount("/socket/")


# ---- paths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "target", "variables"),
    [
        ({"websocket": "/:key"}, "/socket/k7", {"key": "k7"}),
        ({"websocket": "/:key"}, "/socket/k7/", {"key": "k7"}),
        ({"websocket": "/:key"}, "/socket/a%2Fb%20%C3%A9", {"key": "a/b \u00e9"}),
        ({"websocket": "/:key"}, "/socket", None),
        ({"websocket": "/:key"}, "/socket/k7/websocket", None),
        ({"websocket": "/ws.1"}, "/socket/ws.1", {}),
        ({"websocket": "/ws.1"}, "/socket/ws-1", None),
        ({"websocket": ""}, "/socket", {}),
        ({}, "//socket//websocket", {}),
        ({"path": "/"}, "//websocket/", {}),
        ({"websocket": "/:key"}, "/socket//k7", {"key": "k7"}),
        ({"websocket": "/:key"}, "/socket/caf\u00e9", {"key": "caf\u00e9"}),
        ({"path": "/", "websocket": "/live"}, "/live", {}),
        ({"path": "/:tenant/socket"}, "/acme/socket/websocket", {"tenant": "acme"}),
        ({"path": "/t/:tenant", "websocket": "/room-:room"}, "/t/acme/room-1", {"tenant": "acme", "room": "1"}),
    ],
)
async def test_a_path_may_be_of_its_own_and_have_variables(
    options: dict[str, Any], target: str, variables: dict[str, str] | None
) -> None:
    seen = Log()
    async with serving(Application(connect=seen.add, **options)) as (_, running):
        assert await status(running, handshake(f"{target}?vsn=2.0.0&a=1")) == (404 if variables is None else 101)
    assert [socket.params for socket in seen.entries] == (
        [] if variables is None else [{"vsn": "2.0.0", "a": "1", **variables}]
    )


async def test_a_variable_of_the_path_goes_before_a_param_of_its_name() -> None:
    seen = Log()
    async with serving(Application(connect=seen.add, websocket="/:key")) as (_, running):
        assert await status(running, handshake("/socket/k7?vsn=2.0.0&key=other")) == 101
    assert seen.entries[0].params["key"] == "k7"


async def test_our_client_reaches_a_path_with_a_variable() -> None:
    seen = Log()
    async with (
        serving(Application(connect=seen.add, websocket="/:key")) as (_, running),
        connect(running.url, path="/:key", params={"key": "a/b"}),
    ):
        assert seen.entries[0].params == {"vsn": "2.0.0", "key": "a/b"}


async def test_of_two_mounts_the_first_that_matches_has_the_client() -> None:
    asked = Log()
    application = Application(path="/a", connect=lambda socket: asked.add("plain"))
    application.mount("/:name", connect=lambda socket: asked.add(socket.params["name"]))
    async with serving(application) as (_, running):
        for path in ("/a", "/b"):
            assert await status(running, handshake(f"{path}/websocket?vsn=2.0.0")) == 101
    assert asked.entries == ["plain", "b"]


async def test_a_variable_cannot_stand_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        Application(path="/:key", websocket="/:key")


# ---- origins --------------------------------------------------------------------------------------------------------

GOOD = (
    "//good.example",
    "https://secure.example",
    "http://port.example:8080",
    "//*.wild.example",
    "HTTPS://*.Both.example:8443",
    "//[::1]",
)


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, 101),
        ("http://good.example", 101),
        ("https://good.example:444", 101),
        ("https://GOOD.example", 101),
        ("https://secure.example", 101),
        ("https://secure.example:443", 101),
        ("http://port.example:8080", 101),
        ("https://a.b.wild.example", 101),
        ("http://evil.example", 403),
        ("http://good.example.evil.example", 403),
        ("http://secure.example", 403),
        ("https://secure.example:444", 403),
        ("http://port.example", 403),
        ("https://wild.example", 101),
        ("http://wild.example:8080", 101),
        ("https://both.example:8443", 101),
        ("https://a.both.example:8443", 101),
        ("http://[::1]:4000", 101),
        ("https://both.example", 403),
        ("http://both.example:8443", 403),
        ("https://.wild.example", 403),
        ("https://a..wild.example", 403),
        ("https://*.wild.example", 403),
        ("https://evil.example\\.wild.example", 403),
        ("https://evil.example/.wild.example", 403),
        ("https://evil.example#.wild.example", 403),
        ("https://evil.example%2f.wild.example", 403),
        ("https://go\tod.example", 403),
        ("https://evil.example@good.example", 403),
        ("https://good.example:443@evil.example", 403),
        ("https://good.example.", 403),
        ("https://a.wild.example.", 403),
        ("https://good.example ,https://good.example", 403),
        ("https://g\u00f6od.example", 403),
        ("https://GOOD.EXAMPL\u0245", 403),
        ("https://", 403),
        ("//good.example", 403),
        ("good.example", 403),
        ("https://evilwild.example", 403),
        ("null", 403),
        ("", 403),
        ("http://good.example:port", 403),
        ("http://[good.example", 403),
    ],
)
async def test_an_origin_is_checked_where_that_is_asked_for(origin: str | None, expected: int) -> None:
    asked = Log()
    headers = () if origin is None else (f"Origin: {origin}",)
    async with serving(Application(check_origin=GOOD, connect=asked.add)) as (_, running):
        assert await status(running, handshake(PATH, *headers)) == expected
    assert len(asked.entries) == (expected == 101)


async def test_a_request_of_several_origins_is_refused() -> None:
    async with serving(Application(check_origin=GOOD)) as (_, running):
        good, evil = "Origin: http://good.example", "Origin: http://evil.example"
        assert await status(running, handshake(PATH, good, good)) == 400
        assert await status(running, handshake(PATH, good, evil)) == 403


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, 101),
        ("http://localhost", 101),
        ("https://LOCALHOST:8443", 101),
        ("http://localhost.evil.example", 403),
        ("http://evil.example", 403),
        ("null", 403),
    ],
)
async def test_the_servers_own_host_may_be_the_only_origin(origin: str | None, expected: int) -> None:
    headers = () if origin is None else (f"Origin: {origin}",)
    async with serving(Application(check_origin=True)) as (_, running):
        assert await status(running, handshake(PATH, *headers)) == expected


async def test_a_host_that_is_none_is_nobodys_origin() -> None:
    request = handshake(PATH, "Origin: http://localhost").replace(b"Host: localhost", b"Host: local host")
    async with serving(Application(check_origin=True)) as (_, running):
        assert await status(running, request) == 403


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (None, 101),
        ("https://good.example", 101),
        ("https://GOOD.example:443", 101),
        ("https://good.example:444", 403),
        ("https://evil.example\\.good.example", 403),
    ],
)
async def test_an_origin_can_be_left_to_a_function(origin: str | None, expected: int) -> None:
    asked: list[Origin] = []

    def check(origin: Origin) -> bool:
        asked.append(origin)
        return origin.host == "good.example" and origin.port == 443

    headers = () if origin is None else (f"Origin: {origin}",)
    async with serving(Application(check_origin=check)) as (_, running):
        assert await status(running, handshake(PATH, *headers)) == expected
    assert all(one.scheme == "https" for one in asked)


async def test_only_true_lets_an_origin_in() -> None:
    async with serving(Application(check_origin=lambda origin: "yes")) as (_, running):
        assert await status(running, handshake(PATH, "Origin: https://good.example")) == 403


async def test_a_function_for_origins_that_raises_is_a_500_and_is_reported() -> None:
    def crash(origin: Origin) -> bool:
        raise RuntimeError

    async with serving(Application(check_origin=crash)) as (application, running):
        assert await status(running, handshake(PATH, "Origin: https://good.example")) == 500
        assert errors(application) == [("check_origin", None, None, "RuntimeError")]


async def test_a_function_for_origins_cannot_be_a_coroutine_function() -> None:
    async def check(origin: Origin) -> bool:
        return False

    with pytest.raises(InvalidHandler, match="plain function"):
        Application(check_origin=check)


@pytest.mark.parametrize("pattern", ["example.com", "*.example.com", "//", "//*", "https://a@b.example", "//a.*.b", ""])
async def test_what_is_no_origin_cannot_be_allowed(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"check_origin takes .* not"):
        Application(check_origin=[pattern])


# ---- requests that are unusual --------------------------------------------------------------------------------------


async def test_a_target_may_have_bytes_that_are_not_escaped() -> None:
    seen = Log()
    request = handshake(f"{PATH}&name=caf\u00e9%20\u20ac&tab=\t")
    async with serving(Application(connect=seen.add)) as (_, running):
        assert await status(running, request) == 101
        assert await status(running, *(request[at : at + 1] for at in range(len(request)))) == 101
    assert [socket.params for socket in seen.entries] == [{"vsn": "2.0.0", "name": "caf\u00e9 \u20ac", "tab": "\t"}] * 2


async def test_a_key_that_is_repeated_is_not_the_applications_error() -> None:
    async with serving(Application()) as (application, running):
        assert await status(running, handshake(PATH, "Sec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==")) == 400
        assert errors(application) == []


# ---- refusals by connect --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("x-why", "a\r\nb: c"), ("x-why", "a\0"), ("x-why", "\u20ac"), ("bad name", "a"), ("x-wh\u00fd", "a"), ("", "a")],
)
async def test_a_refusal_with_an_invalid_header_is_an_error_of_connect(name: str, value: str) -> None:
    def refuse(socket: ServerSocket) -> None:
        raise RefuseConnect(429, headers={name: value})

    async with serving(Application(connect=refuse)) as (application, running):
        assert await status(running, handshake(PATH)) == 500
        assert errors(application) == [("connect", None, None, "ValueError")]


async def test_the_error_of_an_invalid_header_does_not_show_its_value() -> None:
    with pytest.raises(ValueError, match="x-why") as caught:
        RefuseConnect(headers={"x-why": "s3cret\n"})
    assert "s3cret" not in str(caught.value)


async def test_a_refusals_header_keeps_what_http_permits_and_cannot_change_the_framing() -> None:
    headers: dict[str, Any] = {
        "Retry-After": 7,
        "X-Why": " caf\u00e9\t1 ",
        "X-None": "",
        "Connection": "keep-alive",
        "Content-Length": "9",
        "Transfer-Encoding": "gzip",
    }

    def refuse(socket: ServerSocket) -> None:
        raise RefuseConnect(429, "no", headers)

    async with serving(Application(connect=refuse)) as (_, running):
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(handshake(PATH))
        head, _, body = (await asyncio.wait_for(reader.read(), LONG)).partition(b"\r\n\r\n")
        writer.transport.abort()
    lines = head.decode("latin-1").split("\r\n")[1:]
    told = dict(line.split(": ", 1) for line in lines if not line.startswith("date:"))
    assert body == b"no"
    assert told == {
        "content-type": "text/plain; charset=utf-8",
        "retry-after": "7",
        "x-why": "caf\u00e9\t1",
        "x-none": "",
        "connection": "close",
        "content-length": "2",
    }


# ---- what connect sees ----------------------------------------------------------------------------------------------


async def test_connect_sees_where_a_client_came_from_without_its_secrets() -> None:
    seen = Log()
    headers = ("User-Agent: tester", "X-Real-IP: 192.0.2.7", "Authorization: Bearer a", "Cookie: b=c", "X-Api-Key: d")
    async with serving(Application(connect=seen.add)) as (_, running):
        assert await status(running, handshake(f"{PATH}&token=e", *headers)) == 101
        (socket,) = seen.entries
    info = socket.connect_info
    assert (info.address, info.uri) == ("127.0.0.1", "ws://localhost/socket/websocket")
    assert info.port > 0
    told = {"host", "upgrade", "connection", "sec-websocket-version", "user-agent", "x-real-ip"}
    assert set(info.headers) == told
    assert info.headers["x-real-ip"] == "192.0.2.7"
    assert socket.headers["authorization"] == "Bearer a"
    assert "192.0.2.7" not in repr(info)
    with pytest.raises(AttributeError):
        info.port = 1


# ---- subprotocols ---------------------------------------------------------------------------------------------------

TOKEN = "base64url.bearer.phx.c2VrcmV0"


@pytest.mark.parametrize(
    ("options", "offered", "expected", "chosen"),
    [
        ({"auth_token": False}, "zzz", 101, None),
        ({"auth_token": False}, f"phoenix, {TOKEN}", 101, None),
        ({"subprotocols": ("a", "b"), "auth_token": False}, None, 101, None),
        ({"subprotocols": ("a", "b"), "auth_token": False}, "zzz, b, a", 101, "a"),
        ({"subprotocols": ("a", "b"), "auth_token": False}, "zzz", 403, None),
        ({"subprotocols": ("a", "b"), "auth_token": False}, TOKEN, 403, None),
        ({"subprotocols": ("a", "b")}, f"{TOKEN}, phoenix", 101, "phoenix"),
        ({"subprotocols": ("a", "b")}, f"{TOKEN}, b", 101, "b"),
    ],
)
async def test_a_subprotocol_is_chosen(
    options: dict[str, Any], offered: str | None, expected: int, chosen: str | None
) -> None:
    seen = Log()
    headers = () if offered is None else (f"Sec-WebSocket-Protocol: {offered}",)
    async with serving(Application(connect=seen.add, **options)) as (_, running):
        lines = await answer(running, handshake(PATH, *headers))
    assert int(lines[0].split()[1]) == expected
    told = [line.partition(": ")[2] for line in lines if line.lower().startswith("sec-websocket-protocol")]
    assert told == ([] if chosen is None else [chosen])
    wanted = TOKEN in (offered or "") and options.get("auth_token", True)
    assert [socket.auth_token for socket in seen.entries] == ["sekret" if wanted else None] * (expected == 101)


async def test_a_refusal_names_the_subprotocol_that_was_chosen() -> None:
    def refuse(socket: ServerSocket) -> None:
        raise RefuseConnect(401, "no")

    async with serving(Application(connect=refuse)) as (_, running):
        lines = await answer(running, handshake(PATH, f"Sec-WebSocket-Protocol: phoenix, {TOKEN}"))
        assert "Sec-WebSocket-Protocol: phoenix" in lines
        assert (lines[0], lines[-1]) == ("HTTP/1.1 401 Unauthorized", "no")


# ---- requests -------------------------------------------------------------------------------------------------------

PLAIN = "Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
RIGHT = PLAIN + "Sec-WebSocket-Version: 13\r\n"


@pytest.mark.parametrize(
    ("request_line", "headers", "expected", "body"),
    [
        (f"GET {PATH} HTTP/1.1", RIGHT, 101, ""),
        (f"POST {PATH} HTTP/1.1", RIGHT, 400, ""),
        (f"get {PATH} HTTP/1.1", RIGHT, 400, ""),
        ("POST /nope HTTP/1.1", RIGHT, 404, '{"errors":{"detail":"Not Found"}}'),
        (f"GET {PATH} HTTP/1.0", RIGHT, 400, "HTTP version HTTP/1.0 unsupported"),
        (f"GET {PATH} HTTP/1.1", RIGHT.replace("Host: x\r\n", ""), 400, ""),
        (
            f"GET {PATH} HTTP/1.1",
            RIGHT.replace("websocket\r\n", "h2c\r\n", 1),
            400,
            "'upgrade' header must contain 'websocket', got [\"h2c\"]",
        ),
        (
            f"GET {PATH} HTTP/1.1",
            RIGHT.replace("Upgrade\r\n", "close\r\nConnection: keep-alive\r\n", 1),
            400,
            "'connection' header must contain 'upgrade', got [\"close\", \"keep-alive\"]",
        ),
        (f"GET {PATH} HTTP/1.1", PLAIN, 400, "'sec-websocket-version' header must equal '13', got []"),
        (
            f"GET {PATH} HTTP/1.1",
            RIGHT.replace("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n", ""),
            400,
            "'sec-websocket-key' header is absent",
        ),
        ("nonsense", "", 400, ""),
        ("GET / SPDY/3", "", 400, ""),
    ],
)
async def test_a_request_that_is_no_handshake_is_answered(
    request_line: str, headers: str, expected: int, body: str
) -> None:
    asked = Log()
    async with serving(Application(connect=asked.add)) as (_, running):
        lines = await answer(running, f"{request_line}\r\n{headers}\r\n".encode())
    assert (int(lines[0].split()[1]), lines[-1]) == (expected, body)
    assert len(asked.entries) == (expected == 101)


@pytest.mark.parametrize(
    ("host", "size", "expected"),
    [
        (Host.BANDIT, 9_900, 101),
        (Host.BANDIT, 10_000, 414),
        (Host.BANDIT, 30_000, 414),
        (Host.COWBOY, 7_900, 101),
        (Host.COWBOY, 8_000, 414),
    ],
)
async def test_a_request_line_may_be_as_long_as_the_host_allows(host: Host, size: int, expected: int) -> None:
    seen = Log()
    value = "y" * size
    application = Application(connect=seen.add, options=ServerOptions(host=host))
    async with serving(application) as (_, running):
        assert await status(running, handshake(f"{PATH}&x={value}")) == expected
    assert [socket.params["x"] for socket in seen.entries] == [value] * (expected == 101)


async def test_a_request_line_may_come_in_parts() -> None:
    request = handshake(PATH)
    cuts = [0, 1, 10, request.index(b"\r\n") + 1, request.index(b"\r\n") + 2, len(request) - 3, len(request)]
    async with serving() as (_, running):
        assert await status(running, *(request[a:b] for a, b in pairwise(cuts))) == 101


# ---- signals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_closes_gracefully(number: signal.Signals) -> None:
    async with serving() as (application, running), connected(running.url) as joined, connected(running.url) as idle:
        await joined.join()
        await joined.send("1", "2", "room:a", "gate")
        await joined.alive()
        serves = asyncio.create_task(running.run())
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        assert [await joined.closed(), await idle.closed()] == [1012, 1000]
        assert not serves.done()  # a handler is not done
        application.rooms[0].gate.set()
        async with asyncio.timeout(LONG):
            await serves
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", running.port)


async def test_a_second_signal_aborts_and_a_third_does_nothing() -> None:
    async with serving() as (application, running), slow_reader(running.url):
        serves = asyncio.create_task(running.run())
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await application.terminated.until_count(1)
        assert not serves.done()  # the client does not answer the close frame
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(1):
            await serves


async def test_it_runs_until_it_is_closed() -> None:
    async with serving() as (_, running):
        serves = asyncio.create_task(running.run())
        await asyncio.sleep(0)
        await running.close()
        async with asyncio.timeout(LONG):
            await serves


async def test_a_connect_that_crashes_is_answered_as_by_phoenix() -> None:
    def crash(socket: ServerSocket) -> None:
        raise RuntimeError

    async with serving(Application(connect=crash)) as (application, running):
        lines = await answer(running, handshake(PATH))
        assert lines[-1] == '{"errors":{"detail":"Internal Server Error"}}'
        assert errors(application) == [("connect", None, None, "RuntimeError")]
