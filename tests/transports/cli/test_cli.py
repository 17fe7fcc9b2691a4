import asyncio
import contextlib
import fcntl
import json
import logging
import os
import pty
import re
import signal
import struct
import termios
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from processes import PHX, complaints, ended, finished, line, python, until

from phx_proto import __version__
from phx_proto.server.events import Termination
from phx_transports.cli import main
from phx_transports.server import (
    Refuse,
    RefuseConnect,
    RunningServer,
    Server,
    ServerChannel,
    ServerSocket,
)

pytestmark = pytest.mark.asyncio


# ---- the command itself ---------------------------------------------------------------------------------------------


LOGGERS = ("phx_transports", "websockets")


def run(*arguments: str) -> int:
    try:
        return main(arguments)
    except SystemExit as end:  # argparse's
        return int(end.code or 0)


async def test_the_version_is_the_librarys(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out.split()[:2] == ["phx-channels", __version__]


async def test_the_loggers_are_as_before_when_it_has_run() -> None:
    before = [(logger.propagate, logger.handlers.copy()) for logger in map(logging.getLogger, LOGGERS)]
    assert await asyncio.to_thread(run, "listen", "localhost/socket", "a:b") == 2
    assert [(logger.propagate, logger.handlers) for logger in map(logging.getLogger, LOGGERS)] == before


@pytest.mark.parametrize("command", [(), ("demo",), ("doctor",), ("listen",), ("push",), ("serve",)])
async def test_help_fits_a_terminal_and_names_what_there_is(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*command, "--help") == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: {' '.join(('phx', *command))}")
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "required: COMMAND"),
        (("dance",), "invalid choice: 'dance'"),
        (("demo", "--seconds", "soon"), "'soon' is not a positive number"),
        (("demo", "--rate", "0"), "'0' is not a positive number"),
        (("listen", "ws://localhost/socket"), "required: TOPIC"),
        (("listen",), "required: URL (or set PHX_URL), TOPIC"),
        (("push", "ws://localhost/socket", "a:b"), "required: EVENT"),
        (("push", "ws://localhost/socket", "a:b", "shout", "{}", "x"), "unrecognized arguments: x"),
        (("doctor",), "required: URL (or set PHX_URL)"),
        (("doctor", "localhost/socket"), "the URL must begin with ws://"),
        (("doctor", "ws://localhost/socket", "--ca", "/no/such"), "--ca: cannot read certificates from /no/such"),
        (("listen", "ws://localhost/socket", "a:b", "--count", "0"), "'0' is not a positive whole number"),
        (("listen", "ws://localhost/socket", "a:b", "--params", "{user: 7}"), "--params: not JSON"),
        (("listen", "ws://localhost/socket", "a:b", "--params", "[7]"), "--params: must be a JSON object"),
        (("listen", "ws://localhost/socket", "a:b", "--join-params", "@/no/such"), "--join-params: cannot read"),
        (("listen", "ws://localhost/socket", "a:b", "--header", "x"), "--header: must look like"),
        (("listen", "ws://localhost/socket", "a:b", "--vsn", "3.0.0"), "--vsn: invalid choice"),
        (("listen", "localhost/socket", "a:b"), "the URL must begin with ws://"),
        (("listen", "ws://localhost/socket", "a:b", "--header", "a b: c"), "header"),
        (("listen", "ws://localhost/socket", "a:b", "--path", "/:key"), "the path needs the param 'key'"),
    ],
)
async def test_a_command_line_that_cannot_be_says_why_and_ends_with_2(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await asyncio.to_thread(run, *arguments) == 2
    assert words in capsys.readouterr().err


# ---- phx demo -------------------------------------------------------------------------------------------------------


async def test_the_demo_survives_what_goes_wrong_and_loses_nothing() -> None:
    code, out, err = await finished(*PHX, "demo", "--seconds", "1", "--rate", "800")

    assert (code, err) == (0, "")
    assert "\x1b" not in out
    for words in (
        "reply ok",
        "join of fleet:atlantis refused: there is no atlantis",
        "disconnected (no close frame)",
        "connected again",
        "rejoined all 8 topics",
        "sim:8944502 crashed on the server",
        "rejoined sim:8944502",
        "handler alarm raised ValueError",
        "Survived: 1 reconnect, 1 crashed channel, 1 refused join, 1 handler error.",
    ):
        assert words in out
    (sent, looped, threaded) = re.findall(r"Nothing was lost: (\S+) sent, (\S+) handled on the loop and (\S+) in", out)[
        0
    ]
    assert sent == looped == threaded
    assert 400 < int(sent.replace(",", "")) < 1400


async def test_the_demo_says_so_when_something_was_lost() -> None:
    forgetful = (
        "from phx_transports.cli import demo, fleet, main\n"
        "demo._PATIENCE = 0.1\n"
        "fleet.Log.since = lambda log, seen: []\n"
        "raise SystemExit(main(['demo', '--seconds', '0.4', '--rate', '500']))"
    )

    code, out, _ = await finished("-c", forgetful)

    assert code == 1
    assert re.search(r"LOST: \d+ of \d+ messages", out)


async def test_ctrl_c_ends_the_demo_with_its_summary() -> None:
    async with python(*PHX, "demo", "--seconds", "60", "--rate", "300") as process:
        await until(process.stdout, "messages a second begin")

        process.send_signal(signal.SIGINT)

        await until(process.stdout, "Ctrl+C: ending gracefully")
        await until(process.stdout, "Nothing was lost")
        assert await ended(process) == 0


async def test_the_demo_ends_quietly_when_nobody_reads_it() -> None:
    reading, writing = os.pipe()
    async with python(*PHX, "demo", "--seconds", "60", "--rate", "300", stdout=writing) as process:
        os.close(writing)
        os.read(reading, 1)
        os.close(reading)

        assert await ended(process) == 0
        assert await complaints(process) == b""


async def shown_on_a_terminal(code: str, *, columns: int) -> str:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    env = {"TERM": "xterm-256color", "PYTHONPATH": str(Path.cwd())}
    async with python("-c", code, env=env, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux's way to say that the other side is closed
            while piece := await asyncio.to_thread(os.read, ours, 65536):
                shown += piece
        os.close(ours)
        assert await ended(process) == 0
    return shown.decode()


DEMO = "from phx_transports.cli import main; raise SystemExit(main(['demo', '--seconds', '0.3', '--rate', '300']))"


async def test_on_a_terminal_the_demo_is_drawn_in_place_and_fits_its_width() -> None:
    shown = await shown_on_a_terminal(DEMO, columns=60)

    assert "\x1b[?25l" in shown  # the cursor is hidden
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")  # and back at the end
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 60
    assert any(re.fullmatch(r" ?fleet:europe +joined +[\d,]+ +[\d,]+ +\d+\.\d\d *", text) for text in lines)


async def test_a_full_disk_ends_the_demo_with_one_line_and_1() -> None:
    with Path("/dev/full").open("wb") as full:
        async with python(*PHX, "demo", stdout=full) as process:
            assert await ended(process) == 1
            assert await complaints(process) == b"phx: cannot write to stdout: No space left on device\n"


async def test_without_rich_the_demo_runs_all_the_same_and_says_what_to_install() -> None:
    shown = await shown_on_a_terminal(f"import sys; sys.modules['rich.console'] = None; {DEMO}", columns=80)

    assert "pip install 'phx-channels[cli]'" in shown
    assert "Nothing was lost" in shown
    assert "\x1b" not in shown


# ---- phx listen -----------------------------------------------------------------------------------------------------


class Application:
    """A server that writes down who comes and goes."""

    def __init__(self) -> None:
        self.server = Server(connect=self.connect)
        self.server.channel("room:*")(lambda: Room(self))
        self.running: RunningServer
        self.sockets: list[ServerSocket] = []
        self.joins: list[tuple[str, Any]] = []
        self.ends: list[Termination] = []
        self.refusal: RefuseConnect | None = None

    async def connect(self, socket: ServerSocket) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.sockets.append(socket)

    @asynccontextmanager
    async def listener(self, *arguments: str, command: tuple[str, ...] = PHX, **options: Any) -> AsyncIterator[Process]:
        """`phx listen` on this server, all of its topics joined."""
        async with python(*command, "listen", self.running.url, *arguments, **options) as process:
            for _ in {name for name in arguments if name.startswith("room:")}:
                await until(process.stderr, "joined room:")
            yield process


class Room(ServerChannel):
    def __init__(self, application: Application) -> None:
        self.application = application

    async def join(self, topic: str, params: Any) -> Any:
        self.application.joins.append((topic, params))
        if topic == "room:closed":
            raise Refuse({"reason": "closed today"})
        return {}

    async def terminate(self, reason: Termination) -> None:
        self.application.ends.append(reason)


@pytest_asyncio.fixture
async def application() -> AsyncIterator[Application]:
    application = Application()
    async with application.server.serve() as application.running:
        yield application


async def test_what_arrives_is_printed_as_one_json_object_a_line(application: Application) -> None:
    async with application.listener("room:lobby") as process:
        application.server.broadcast("room:lobby", "shout", {"body": "grüß\ndich"})
        application.server.broadcast("room:lobby", "tick", {})

        assert await line(process.stdout) == '{"topic":"room:lobby","event":"shout","payload":{"body":"grüß\\ndich"}}'
        assert await line(process.stdout) == '{"topic":"room:lobby","event":"tick","payload":{}}'


async def test_a_payload_is_printed_as_it_came_but_on_one_line(application: Application) -> None:
    async with application.listener("room:lobby") as process:
        payload = msgspec.Raw(b'{"n":\r\n 100000000000000000000000000000000000000001,\n"x": 1.50}')
        application.server.broadcast("room:lobby", "tick", payload)

        expected = '"payload":{"n":   100000000000000000000000000000000000000001, "x": 1.50}}'
        assert (await line(process.stdout)).endswith(expected)


async def test_a_binary_payload_is_printed_as_base64_and_marked(application: Application) -> None:
    async with application.listener("room:lobby") as process:
        application.server.broadcast("room:lobby", "blob", b"\x00\xff")

        expected = {"topic": "room:lobby", "event": "blob", "payload": "AP8=", "encoding": "base64"}
        assert json.loads(await line(process.stdout)) == expected


async def test_several_topics_are_followed(application: Application) -> None:
    async with application.listener("room:a", "room:b", "room:a") as process:
        for topic in ("room:a", "room:b"):
            application.server.broadcast(topic, "tick", {})
            assert json.loads(await line(process.stdout))["topic"] == topic


async def test_only_the_events_asked_for_are_printed(application: Application) -> None:
    async with application.listener("room:lobby", "--event", "b", "--event", "d") as process:
        for event in "abcd":
            application.server.broadcast("room:lobby", event, {})

        assert [json.loads(await line(process.stdout))["event"] for _ in "bd"] == ["b", "d"]


async def test_params_token_headers_and_version_reach_the_server(application: Application, tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text('{"user": 7}')
    options = ("--params", f"@{file}", "--join-params", '{"since": 3}', "--token", "sésame", "--header", "X-A:  b: c ")

    async with application.listener("room:lobby", "--vsn", "1.0.0", *options) as process:
        application.server.broadcast("room:lobby", "tick", {"n": 1})

        assert json.loads(await line(process.stdout)) == {"topic": "room:lobby", "event": "tick", "payload": {"n": 1}}
    (socket,) = application.sockets
    assert socket.params == {"user": "7", "vsn": "1.0.0"}
    assert (socket.auth_token, socket.headers["x-a"]) == ("sésame", "b: c")
    assert application.joins == [("room:lobby", {"since": 3})]


async def test_the_token_may_come_from_the_environment(application: Application) -> None:
    async with application.listener("room:lobby", env={"PHX_TOKEN": "sesame"}):
        assert application.sockets[0].auth_token == "sesame"


async def test_an_empty_token_in_the_environment_is_none(application: Application) -> None:
    async with application.listener("room:lobby", env={"PHX_TOKEN": ""}):
        assert application.sockets[0].auth_token is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_leaves_and_closes_gracefully(application: Application, number: signal.Signals) -> None:
    async with application.listener("room:lobby") as process:
        process.send_signal(number)

        assert await ended(process) == 0
        assert await complaints(process) == b""
    assert application.ends == [Termination.LEFT]
    ended_with = application.sockets[0].ended
    assert ended_with is not None
    assert ended_with.code == 1000


async def test_a_refused_join_is_told_with_the_servers_reason_and_ends_with_1(application: Application) -> None:
    code, out, err = await finished(*PHX, "listen", application.running.url, "room:closed")

    assert (code, out) == (1, "")
    refused = err.splitlines()[-1]
    assert "'room:closed': {'reason': 'closed today'} (check the topic" in refused


async def test_a_topic_that_the_server_does_not_have_is_told_so(application: Application) -> None:
    code, _, err = await finished(*PHX, "listen", application.running.url, "nothing:here")

    assert code == 1
    assert "the server has no channel of that name: check the topic" in err


async def test_where_one_topic_is_refused_the_others_go_on(application: Application) -> None:
    async with python(*PHX, "listen", application.running.url, "room:closed", "room:open") as process:
        await until(process.stderr, "closed today")
        await until(process.stderr, "joined room:open")

        application.server.broadcast("room:open", "tick", {})

        assert json.loads(await line(process.stdout))["topic"] == "room:open"


async def test_a_topic_that_cannot_be_sent_ends_with_2(application: Application) -> None:
    code, out, err = await finished(*PHX, "listen", application.running.url, os.fsdecode(b"room:\xff"))

    assert (code, out) == (2, "")
    assert "surrogate" in err


async def test_a_refused_handshake_is_told_in_one_line_and_ends_with_1(application: Application) -> None:
    application.refusal = RefuseConnect(403, "who are you?")

    code, out, err = await finished(*PHX, "listen", f"{application.running.url}?secret=1", "room:lobby")

    assert (code, out) == (1, "")
    (_, told) = err.splitlines()
    assert f"of {application.running.url}/websocket with HTTP 403" in told
    assert "HTTP 403: who are you? (check params, token, vsn and origin)" in err
    assert "secret" not in err


async def test_a_wrong_path_is_told_in_one_line_and_ends_with_1(application: Application) -> None:
    code, _, err = await finished(*PHX, "listen", f"{application.running.url}/no", "room:lobby")

    assert (code, len(err.splitlines())) == (1, 2)
    assert "HTTP 404" in err


async def test_a_server_that_is_down_is_told_in_one_line_and_ends_with_1(application: Application) -> None:
    url = application.running.url
    await application.running.close()

    code, out, err = await finished(*PHX, "listen", url, "room:lobby", "--timeout", "0.3")

    assert (code, out, len(err.splitlines())) == (1, "", 2)
    assert "refused the connection" in err
    assert "--timeout waits longer" in err


async def test_ctrl_c_while_it_connects_ends_it_at_once(application: Application) -> None:
    url = application.running.url
    await application.running.close()
    async with python(*PHX, "listen", url, "room:lobby", "--timeout", "60") as process:
        await until(process.stderr, "connecting to")

        process.send_signal(signal.SIGINT)

        assert await ended(process) == 130
        assert await complaints(process) == b""


async def test_a_lost_connection_is_told_and_comes_back(application: Application) -> None:
    async with application.listener("room:lobby") as process:
        application.running.cut()

        assert "next attempt in" in await until(process.stderr, "closed without a close code")
        await until(process.stderr, "connected again")
        await until(process.stderr, "rejoined room:lobby")
        application.server.broadcast("room:lobby", "tick", {"n": 1})
        assert json.loads(await line(process.stdout))["payload"] == {"n": 1}


async def test_refused_for_good_after_a_loss_ends_with_1(application: Application) -> None:
    async with application.listener("room:lobby") as process:
        application.refusal = RefuseConnect(401)
        application.running.cut()

        assert "HTTP 401" in await until(process.stderr, "refused the handshake")
        assert await ended(process) == 1


async def test_a_closed_pipe_ends_it_quietly_though_nothing_arrives(application: Application) -> None:
    reading, writing = os.pipe()
    async with application.listener("room:lobby", stdout=writing) as process:
        os.close(writing)
        os.close(reading)

        assert await ended(process) == 0
        assert await complaints(process) == b""


async def test_a_closed_pipe_ends_it_quietly_in_a_flood(application: Application) -> None:
    reading, writing = os.pipe()
    async with application.listener("room:lobby", stdout=writing) as process:
        os.close(writing)
        for number in range(5000):
            application.server.broadcast("room:lobby", "tick", {"n": number})
        await asyncio.to_thread(os.read, reading, 100)
        os.close(reading)

        assert await ended(process) == 0
        assert await complaints(process) == b""


async def test_a_full_disk_is_told_and_ends_with_1(application: Application) -> None:
    with Path("/dev/full").open("wb") as full:
        async with application.listener("room:lobby", stdout=full) as process:
            application.server.broadcast("room:lobby", "tick", {})

            assert await ended(process) == 1
            assert await complaints(process) == b"phx: cannot write to stdout: No space left on device\n"


async def test_a_flood_is_printed_whole_and_in_order(application: Application) -> None:
    async with application.listener("room:lobby") as process:
        for number in range(20_000):
            application.server.broadcast("room:lobby", "tick", {"n": number})

        printed = [json.loads(await line(process.stdout))["payload"]["n"] for _ in range(20_000)]

        assert printed == list(range(20_000))


async def test_ctrl_c_ends_it_though_the_reader_of_its_pipe_stands_still(application: Application) -> None:
    impatient = "from phx_transports.cli import listen, main; listen._DRAIN = 0.2; raise SystemExit(main())"
    reading, writing = os.pipe()
    async with application.listener("room:lobby", command=("-c", impatient), stdout=writing) as process:
        os.close(writing)
        for number in range(5000):  # more than a pipe holds
            application.server.broadcast("room:lobby", "tick", {"n": number, "text": "." * 100})
        await asyncio.to_thread(os.read, reading, 100)

        process.send_signal(signal.SIGINT)

        assert await ended(process) == 0
        os.close(reading)


# ---- examples/ ------------------------------------------------------------------------------------------------------


async def test_the_balances_example_and_its_server_find_each_other() -> None:
    env = {"PYTHONPATH": str(Path.cwd())}
    async with python("examples/balances_server.py", "0", env=env) as server:
        url = await line(server.stdout)
        async with python("examples/balances.py", url, "sim:1", "sim:2", env=env) as client:
            shown = [await line(client.stdout) for _ in range(4)]
            client.send_signal(signal.SIGINT)
            assert await ended(client) == 0
        server.send_signal(signal.SIGINT)
        assert await ended(server) == 0

    assert all(re.fullmatch(r"sim:[12] has 2\d\.\d\d", text) for text in shown)
    assert {text[:5] for text in shown} == {"sim:1", "sim:2"}


async def test_the_balance_keeper_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(Path.cwd())}
    seen = list[tuple[str, int]]()
    async with python("examples/balance_keeper_server.py", "0", env=env) as server:
        keeper = ("-m", "examples.balance_keeper", await line(server.stdout), "sim:1", "sim:2")
        for _ in range(2):
            async with python(*keeper, "--db", str(tmp_path / "balances.db"), env=env) as process:
                said = [await line(process.stderr)]
                while not any(text.startswith("sim:2") for text in said):  # which it joins last
                    said.append(await line(process.stderr))
                process.send_signal(signal.SIGTERM)
                assert await ended(process) == 0
                said += (await complaints(process)).decode().splitlines()
            told = [text.split() for text in said if text.startswith("sim:")]  # the log tells of the connection, too
            seen += [(words[0], int(words[4][:-1])) for words in told]
        server.send_signal(signal.SIGINT)
        assert await ended(server) == 0

    for topic in ("sim:1", "sim:2"):
        events = [event for name, event in seen if name == topic]
        assert events == list(range(1, len(events) + 1))  # each once, and in order
