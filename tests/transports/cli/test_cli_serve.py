import asyncio
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import websockets
from peer import QUICK
from processes import LONG, PHX, complaints, ended, environment, finished, line, python, until

from phx_proto import Message, Reply
from phx_proto.errors import HandshakeRefused, JoinRefused, PushLost, PushRejected
from phx_proto.events import ChannelEnded, ChannelJoined, Disconnected, Event, PresenceChanged
from phx_transports.asyncio import Client, EventStream, MessageStream, connect
from phx_transports.cli import main

pytestmark = pytest.mark.asyncio

SERVE = (*PHX, "serve", "--port", "0")
FOREVER = {"ms": 600_000}


@asynccontextmanager
async def serving(
    *options: str, command: tuple[str, ...] = SERVE, **streams: Any
) -> AsyncIterator[tuple[Process, str]]:
    """`phx serve` and its URL; what it prints behind that is there to be read."""
    async with python(*command, *options, **streams) as process:
        yield process, url_in(await line(process.stdout))


def url_in(text: str) -> str:
    return text.removeprefix("serving ").partition(" (")[0]


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Client]:
    async with asyncio.timeout(LONG), connect(url, **options) as client:
        yield client


@asynccontextmanager
async def joined_for_good(url: str) -> AsyncIterator[asyncio.StreamReader]:
    """A client that has joined a room, and answers no close frame. What it is sent from then on is there to be read."""
    address = urlsplit(url)
    assert address.hostname
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    upgrade = f"Host: {address.netloc}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{key}"
    join = b'["1","1","room:lobby","phx_join",{}]'
    try:
        async with asyncio.timeout(LONG):
            writer.write(f"GET {address.path}/websocket?vsn=2.0.0 HTTP/1.1\r\n{upgrade}\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"\x81" + bytes([0x80 | len(join)]) + bytes(4) + join)
            await reader.readuntil(b'"presence_state",{"anon-1"')
            await reader.readuntil(b"}]}}]")
            yield reader
    finally:
        writer.close()


async def told(process: Process, begin: str) -> str:
    """The next line that begins with these words behind the time of day."""
    while (found := re.match(rf"\d\d:\d\d:\d\d  ({re.escape(begin)}.*)", await line(process.stdout))) is None:
        pass
    return found[1]


async def everything_told(process: Process) -> str:
    process.send_signal(signal.SIGINT)
    assert process.stdout is not None
    async with asyncio.timeout(LONG):
        return (await process.stdout.read()).decode()


async def next_message(messages: MessageStream[Message[Any]], event: str) -> Message[Any]:
    async for message in messages:
        if message.event == event:
            return message
    raise AssertionError("the channel has ended")


async def next_event(events: EventStream, kind: type[Event]) -> Any:
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError("the client has ended")


# ---- the rooms ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Of one server for all of these tests; each has a room of its own."""
    with subprocess.Popen([sys.executable, *SERVE, "--quiet"], env=environment(), stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield url_in(process.stdout.readline().decode())
        finally:
            process.kill()


_numbers = count()


@pytest.fixture
def room() -> str:
    return f"room:{next(_numbers)}"


@pytest.mark.parametrize("params", [{}, {"name": "ann", "since": 3}, [1, 2], 7])
async def test_a_join_is_answered_with_its_params(url: str, room: str, params: Any) -> None:
    async with connected(url) as client:
        assert await client.channel(room, params).join() == params


async def test_the_private_room_refuses(url: str) -> None:
    async with connected(url) as client:
        with pytest.raises(JoinRefused) as refused:
            await client.join("room:private")
    assert refused.value.response == {"reason": "this room is private"}


@pytest.mark.parametrize("event", ["echo", "anything else"])
@pytest.mark.parametrize("payload", [{"a": [1.5, None]}, [], b"\x00\xff"])
async def test_an_event_is_echoed(url: str, room: str, event: str, payload: Any) -> None:
    async with connected(url) as client:
        channel = await client.join(room)
        assert await channel.push(event, payload) == Reply("ok", payload)


@pytest.mark.parametrize("event", ["shout", "broadcast"])
async def test_a_shout_goes_to_everyone_in_the_room(url: str, room: str, event: str) -> None:
    async with connected(url) as ann, connected(url) as bob:
        hers, his = await ann.join(room), await bob.join(room)
        async with hers.messages() as to_ann, his.messages() as to_bob:
            reply = await hers.push(event, {"body": "hi"})

            assert reply == Reply("ok", {})
            assert (await next_message(to_ann, event)).payload == {"body": "hi"}
            assert (await next_message(to_bob, event)).payload == {"body": "hi"}


async def test_slow_replies_later_with_its_payload(url: str, room: str) -> None:
    async with connected(url) as client:
        channel = await client.join(room)
        assert await channel.push("slow", {"ms": 1, "n": 7}) == Reply("ok", {"ms": 1, "n": 7})


async def test_slow_does_not_hold_up_what_comes_behind_it(url: str, room: str) -> None:
    async with connected(url) as client:
        channel = await client.join(room)
        await channel.cast("slow", FOREVER)
        assert await channel.push("echo", {"n": 1}) == Reply("ok", {"n": 1})


@pytest.mark.parametrize("payload", [{}, [], {"ms": -1}, {"ms": "1"}, {"ms": 1e300}, {"ms": 600_001}])
async def test_slow_says_what_it_takes(url: str, room: str, payload: Any) -> None:
    async with connected(url) as client:
        channel = await client.join(room)
        with pytest.raises(PushRejected, match="slow takes a number of ms, from 0 to 600000"):
            await channel.push("slow", payload)


async def test_a_crash_loses_the_push_and_the_channel_can_be_rejoined(url: str, room: str) -> None:
    async with connected(url, options=QUICK) as client, client.events() as events:
        channel = await client.join(room)
        with pytest.raises(PushLost):
            await channel.push("crash")
        while not (await next_event(events, ChannelJoined)).rejoined:
            pass
        assert await channel.push("echo", {"n": 1}) == Reply("ok", {"n": 1})


async def test_stop_ends_the_channel_for_good(url: str, room: str) -> None:
    async with connected(url) as client, client.events() as events:
        channel = await client.join(room)
        assert await channel.push("stop") == Reply("ok", {})
        assert (await next_event(events, ChannelEnded)).topic == room


async def test_presence_goes_by_the_joins_name_else_by_the_sockets_user_id_else_by_a_number(
    url: str, room: str
) -> None:
    async with (
        connected(url, params={"user_id": "ann"}) as ann,
        connected(url, params={"user_id": "7"}) as bob,
        connected(url) as stranger,
        ann.events() as events,
    ):
        channel = ann.channel(room)
        channel.track_presence()
        await channel.join()
        await bob.join(room, {"name": "bob"})
        await stranger.join(room)
        while len(channel.present) < 3:
            await next_event(events, PresenceChanged)

        (anonymous,) = set(channel.present) - {"ann", "bob"}
        assert re.fullmatch(r"anon-\d+", anonymous)


async def test_who_leaves_is_present_no_more(url: str, room: str) -> None:
    async with connected(url, params={"user_id": "ann"}) as ann, ann.events() as events:
        channel = ann.channel(room)
        channel.track_presence()
        await channel.join()
        async with connected(url) as bob:
            await bob.join(room, {"name": "bob"})
            while set(channel.present) != {"ann", "bob"}:
                await next_event(events, PresenceChanged)
        while set(channel.present) != {"ann"}:
            await next_event(events, PresenceChanged)


# ---- its options ----------------------------------------------------------------------------------------------------


async def test_ticks_come_to_every_room_and_are_numbered() -> None:
    async with serving("--tick", "0.02") as (_, url), connected(url) as client:
        for name in ("room:a", "room:b"):
            channel = await client.join(name)
            async with channel.messages() as messages:
                first = await next_message(messages, "tick")
                second = await next_message(messages, "tick")
                assert second.payload["n"] == first.payload["n"] + 1


@pytest.mark.parametrize("given", [("--token", "sésame"), ("PHX_TOKEN", "sésame")])
async def test_clients_without_the_token_are_refused(given: tuple[str, str]) -> None:
    options, env = (given, {}) if given[0].startswith("--") else ((), dict([given]))
    async with serving(*options, env=env) as (process, url):
        for params in ({}, {"token": "sesame"}):
            with pytest.raises(HandshakeRefused) as refused:
                await connect(url, params=params)
            assert (refused.value.status, refused.value.body) == (403, b"the token is wrong or missing")
        async with connected(url, auth_token="sésame"), connected(url, params={"token": "sésame"}):
            pass

        everything = await everything_told(process)
        assert everything.count("refused a connection: its token is wrong or missing") == 2
        assert "sésame" not in everything


@pytest.mark.parametrize("path", ["/", "/live/v1/"])
async def test_the_path_is_where_it_serves(path: str) -> None:
    async with serving("--path", path) as (_, url), connected(url) as client:
        assert re.fullmatch(rf"ws://127\.0\.0\.1:\d+{path.rstrip('/')}", url)
        await client.join("room:lobby")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--port", "x"), "'x' is not a port"),
        (("--port", "65536"), "'65536' is not a port"),
        (("--path", "socket"), "'socket' is not a path"),
        (("--path", "/so?cket"), "'/so?cket' is not a path"),
        (("--tick", "0"), "'0' is not a positive number"),
        (("room:lobby",), "unrecognized arguments: room:lobby"),
    ],
)
async def test_a_command_line_that_cannot_be_says_why_and_ends_with_2(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(("serve", *arguments))
    assert end.value.code == 2
    assert words in capsys.readouterr().err


# ---- what it tells --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [(), ("--token", "sesame")])
async def test_the_line_it_names_to_try_it_with_works(token: tuple[str, ...]) -> None:
    async with serving(*token) as (process, url):
        phx, *arguments = shlex.split(await until(process.stdout, "phx listen"))
        assert phx == "phx"
        arguments = ["sesame" if argument == "…" else argument for argument in arguments]
        async with python(*PHX, *arguments) as listener, connected(url, auth_token="sesame") as client:
            await until(listener.stderr, "joined room:lobby")
            channel = await client.join("room:lobby")
            await channel.push("shout", {"body": "hi"})

            expected = {"topic": "room:lobby", "event": "shout", "payload": {"body": "hi"}}
            assert json.loads(await until(listener.stdout, '"shout"')) == expected


async def test_each_thing_that_happens_is_told() -> None:
    async with serving() as (process, url):
        async with connected(url, params={"user_id": "ann", "key": "sesame"}, options=QUICK) as client:
            channel = await client.join("room:lobby", {"name": "Ann", "password": "sesame"})
            await channel.push("shout", {"body": "hi"})
            await channel.push("blob", b"1234")
            await channel.push("stop")
            with pytest.raises(JoinRefused):
                await client.join("room:private", {"password": "sesame"})
            channel = await client.join("room:a", [1])
            await channel.leave()
            channel = await client.join("room:b")
            await channel.cast("crash")
            await told(process, "ann connected, params: user_id=…, key=…")
            await told(process, "Ann joined room:lobby, params: name=…, password=…")
            await told(process, 'Ann pushed shout to room:lobby: {"body":"hi"}')
            await told(process, "Ann pushed blob to room:lobby: 4 B of binary")
            await told(process, "Ann left room:lobby: the application stopped it")
            await told(process, "ann was refused room:private")
            await told(process, "ann joined room:a, params: not an object")
            await told(process, "ann left room:a: the client left")
            await told(process, "ann joined room:b, params: none")
            await told(process, "room:b crashed in event crash: RuntimeError('asked to')")
            await told(process, "ann joined room:b")
        await told(process, "ann left room:b: the client left")


async def test_no_secret_is_told() -> None:
    secret = {"password": "sesame", "deep": {"token": "sesame"}}
    async with serving() as (process, url):
        async with connected(url, params={"token": "sesame"}, auth_token="sesame") as client:
            await client.join("room:a", secret)
            with pytest.raises(JoinRefused):
                await client.join("room:private", secret)

        everything = await everything_told(process)
        assert "was refused room:private" in everything
        assert "sesame" not in everything


async def test_what_clients_send_cannot_command_the_terminal() -> None:
    async with serving() as (process, url), connected(url) as client:
        channel = await client.join("room:a\nb", {"name": "\x9b2J"})
        await channel.push("\x1b[2J", {"\u202e": 1})

        assert await told(process, r"\x9b2J joined ") == r"\x9b2J joined room:a\nb, params: name=…"
        assert await told(process, r"\x9b2J pushed ") == r'\x9b2J pushed \x1b[2J to room:a\nb: {"\u202e":1}'


async def test_a_join_of_a_topic_that_it_does_not_have_is_told() -> None:
    async with serving() as (process, url), connected(url) as client:
        with pytest.raises(JoinRefused):
            await client.join("lobby:\x1b[2J")

        words = "a request on lobby:\\x1b[2J was answered with unmatched topic: only room:* is served"
        assert await told(process, "a request on") == words


async def test_a_long_line_is_cut() -> None:
    async with serving() as (process, url), connected(url) as client:
        channel = await client.join("room:lobby")
        await channel.push("essay", {"text": "." * 10_000})

        assert re.fullmatch(r".{299}…", await told(process, "anon-1 pushed essay"))


async def test_quiet_it_says_where_it_serves_and_nothing_more() -> None:
    async with serving("--quiet") as (process, url):
        async with connected(url) as client:
            await (await client.join("room:lobby")).push("shout", {})

        assert await everything_told(process) == ""
        assert await ended(process) == 0


async def test_a_terminal_of_few_letters_is_no_trouble() -> None:
    async with serving(env={"PYTHONIOENCODING": "ascii"}) as (process, url), connected(url) as client:
        await client.join("room:grün")
        assert r"room:gr\xfcn" in await told(process, "anon-1 joined")


# ---- its end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_drains_the_connections(number: signal.Signals) -> None:
    async with serving() as (process, url), connected(url) as client, client.events() as events:
        channel = await client.join("room:lobby")
        await channel.cast("slow", FOREVER)
        await told(process, "anon-1 pushed slow")

        process.send_signal(number)

        assert (await next_event(events, Disconnected)).code == 1012
        await told(process, "anon-1 left room:lobby: the connection ended (1012)")
        assert await ended(process) == 0
        assert await complaints(process) == b""


async def test_a_second_ctrl_c_waits_for_nobody() -> None:
    patient = (
        "from phx_transports.server import wire\n"
        "from phx_transports.cli import main, serve\n"
        "serve._DRAIN = wire.LINGER = 600\n"
        "raise SystemExit(main(['serve', '--port', '0']))"
    )
    async with serving(command=("-c", patient)) as (process, url), joined_for_good(url) as reader:
        process.send_signal(signal.SIGINT)
        assert (await reader.readexactly(4)).endswith((1012).to_bytes(2, "big"))

        process.send_signal(signal.SIGINT)

        assert await ended(process) == 0
        assert await complaints(process) == b""


async def test_a_port_in_use_is_told_in_one_line_and_ends_with_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, out, err = await finished(*PHX, "serve", "--port", str(port))

    assert (code, out, err) == (1, "", f"phx: cannot listen on 127.0.0.1:{port}: Address already in use\n")


@pytest.mark.parametrize(
    ("host", "words"),
    # Python 3.13 tries every address of a host, and sums up.
    [("192.0.2.1", r"Cannot assign|could not bind on any address"), ("x" * 70, "too long")],
)
async def test_a_host_that_cannot_be_is_told_in_one_line_and_ends_with_1(host: str, words: str) -> None:
    code, out, err = await finished(*SERVE, "--host", host)

    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert err.startswith(f"phx: cannot listen on {host}:0: ")
    assert re.search(words, err)


async def test_a_closed_pipe_ends_it_quietly() -> None:
    reading, writing = os.pipe()
    async with python(*SERVE, stdout=writing) as process:
        os.close(writing)
        url = url_in((await asyncio.to_thread(os.read, reading, 4096)).decode().splitlines()[0])
        os.close(reading)
        with suppress(OSError, websockets.WebSocketException):  # for it ends as soon as it has a line to print
            async with websockets.connect(f"{url}/websocket?vsn=2.0.0", proxy=None) as client:
                await client.wait_closed()
        assert await ended(process) == 0
        assert await complaints(process) == b""


async def test_a_full_disk_is_told_and_ends_with_1() -> None:
    with Path("/dev/full").open("wb") as full:
        async with python(*SERVE, stdout=full) as process:
            assert await ended(process) == 1
            assert await complaints(process) == b"phx: cannot write to stdout: No space left on device\n"
