"""docs/tutorial.md: its programs run as they stand there, one after another."""

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from pages import written
from processes import LONG, PHX, environment

PROJECT = str(Path(__file__).parents[2])

_TICK = r"room:lobby \d+\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    written("tutorial.md", tmp_path)
    return tmp_path


@contextmanager
def started(*arguments: str, **options: Any) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([sys.executable, *arguments], stdout=PIPE, text=True, **options) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_the_service_and_the_stream(folder: Path) -> None:
    with started(*PHX, "serve", "--port", "0", "--tick", "0.05", cwd=PROJECT, env=environment()) as server:
        url = re.search(r"ws://\S+/socket", line(server))
        assert url
        env = environment({"PYTHONPATH": PROJECT, "PHX_URL": url[0], "no_proxy": "*"})
        with started("service.py", cwd=folder, env=env) as service:
            lines = iter(partial(line, service), "{'hello': 'world'}\n")  # ticks may come before the reply
            assert all(re.fullmatch(_TICK, each) for each in lines)
            assert re.fullmatch(_TICK, line(service))
            service.send_signal(signal.SIGTERM)
            assert service.wait(LONG) == 0
        stream = subprocess.run([sys.executable, "stream.py"], cwd=folder, env=env, capture_output=True, timeout=LONG)
        assert stream.returncode == 0
        assert len(stream.stdout.split()) == 3


def test_its_tests_pass(folder: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0", "--rootdir", "."]
    env = environment({"PYTHONPATH": PROJECT, "PYTEST_PLUGINS": "", "PYTEST_ADDOPTS": ""})
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60)
    assert "3 passed" in done.stdout, done.stdout
