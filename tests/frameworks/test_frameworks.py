"""The recipes of examples/frameworks, each in the server that it is for.

Messages arrive, `/health` reports the state, and SIGTERM ends application and client within seconds.

They need the extra `frameworks`, and run in `.ci/run` alone: `python -m pytest tests/frameworks`.
"""

import json
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from processes import environment
from serving_in_thread import LONG, reserved_port, until

from phx_transports.server import Server, ServerChannel
from phx_transports.testing import serve
from phx_transports.testing.serving import TestServer

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples" / "frameworks"
DJANGO = EXAMPLES / "django_site"
SOON = 5  # seconds

COMMANDS: dict[str, Callable[[int], list[str]]] = {
    "fastapi": lambda port: ["-m", "uvicorn", "--port", str(port), "fastapi_service:app"],
    "aiohttp": lambda port: ["aiohttp_service.py", str(port)],
    "wsgi": lambda port: ["-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "wsgi_service:app"],
}


@pytest.fixture
def server() -> Iterator[TestServer]:
    """Tells each who joins a balance of five cents."""
    application = Server()

    @application.channel("sim:*")
    class Sim(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any: ...

        async def joined(self) -> None:
            self.push("balance", {"cents": 5})

    with serve(application) as served:
        yield served


@contextmanager
def started(*arguments: str, cwd: Path, **env: str) -> Iterator["subprocess.Popen[bytes]"]:
    settings = environment({"PYTHONPATH": str(PROJECT), "no_proxy": "*", **env})
    with subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=settings) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(SOON)
            finally:
                process.kill()


def get(port: int, path: str) -> tuple[int, Any]:
    try:
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}{path}", timeout=LONG) as response:
            return response.status, json.load(response)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)
    except URLError:  # it does not listen yet
        return 0, None


@pytest.mark.parametrize("framework", COMMANDS)
def test_a_web_application(framework: str, server: TestServer, tmp_path: Path) -> None:
    server.stop()
    with (
        reserved_port() as port,
        started(*COMMANDS[framework](port), cwd=EXAMPLES, PHX_URL=server.url, HOME=str(tmp_path)) as process,
    ):
        until(lambda: get(port, "/health")[0] == 503)  # it is up before Phoenix is
        assert get(port, "/") == (200, {})
        server.start()
        until(lambda: get(port, "/health")[0] == 200)
        until(lambda: get(port, "/") == (200, {"sim:1": {"cents": 5}}))
        server.stop()
        until(lambda: get(port, "/health")[0] == 503)
        server.start()
        until(lambda: get(port, "/health")[0] == 200)
        process.send_signal(signal.SIGTERM)
        process.wait(SOON)
        until(lambda: not server.sockets)
    assert "#2 leaves" in str(server.transcript)  # gracefully


def test_a_django_command(server: TestServer, tmp_path: Path) -> None:
    database, ready = tmp_path / "db.sqlite3", tmp_path / "ready"
    env = {"PHX_URL": server.url, "DATABASE": str(database)}
    with started("manage.py", "migrate", "--run-syncdb", "-v", "0", cwd=DJANGO, **env) as migration:
        assert migration.wait(LONG) == 0
    with started("manage.py", "follow", "sim:1", "--ready", str(ready), cwd=DJANGO, **env) as process:
        until(ready.exists)
        until(lambda: balances(database) == [("sim:1", 5)])
        server.stop()
        until(lambda: not ready.exists())
        server.start()
        until(ready.exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SOON) == 0
    assert not ready.exists()


def balances(database: Path) -> list[Any]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute("select topic, cents from accounts_balance").fetchall()
