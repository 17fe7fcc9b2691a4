"""docs/executors.md: its programs run as they stand there, and end as a terminal ends them."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any

import pytest
from jobs import Note, die_at_gate, write_note
from serving_in_thread import LONG, joined, start, tidy, until
from snippets import blocks, run

from bench.cluster import Cluster
from phx_proto.handlers.router import Router
from phx_transports.server import Server, ServerChannel
from phx_transports.testing import serve

from .adapters import TOPIC
from .shared import Gate, Reports

GUIDE = Path(__file__).parents[3] / "docs" / "executors.md"

HANDLED = ["sim:1 0", "sim:1 1", "sim:1 5"]


@pytest.fixture
def url() -> Iterator[str]:
    """A server that tells whoever joins three times what was used."""
    server = Server()

    @server.channel("sim:*")
    class Sim(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any: ...

        async def joined(self) -> None:
            for minutes in (1, 2, 3):
                self.push("usage", {"minutes": minutes})

    with tidy(), serve(server) as served:
        yield served.url


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The guide's programs, as files."""
    for block in blocks(GUIDE):
        (tmp_path / block.marker).write_text(block.code)
    return tmp_path


@contextmanager
def running(program: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """With its workers in a group of its own, as a shell starts it."""
    command = [sys.executable, str(program), *arguments]
    with subprocess.Popen(command, cwd=program.parent, stdout=PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def interrupt(process: "subprocess.Popen[str]") -> int:
    """Ctrl+C, which every process of the group gets; gives the exit status."""
    os.killpg(process.pid, signal.SIGINT)
    return process.wait(3 * LONG)


def lines(output: IO[str] | None, count: int) -> list[str]:
    assert output is not None
    return start(lambda: [output.readline().strip() for _ in range(count)]).result(3 * LONG)


def test_every_program_of_the_guide_is_run_here() -> None:
    assert [block.marker for block in blocks(GUIDE)] == ["handlers.py", "service.py", "cluster.py", "renewed.py"]


def test_a_service_with_a_pool_of_processes(url: str, folder: Path) -> None:
    with running(folder / "service.py", url) as process:
        assert lines(process.stdout, 3) == HANDLED
        assert interrupt(process) == 0


def test_a_service_on_a_cluster(url: str, folder: Path, dask: Cluster) -> None:
    with running(folder / "cluster.py", url, dask.address) as process:
        assert lines(dask.output, 3) == HANDLED
        assert interrupt(process) == 0


def test_a_pool_that_is_replaced_when_a_worker_has_died(tmp_path: Path) -> None:
    reports, router, gate, file = Reports(), Router(), Gate(tmp_path / "gate"), tmp_path / "seen"
    router.add(die_at_gate, "die")
    router.add(write_note, "n", payload=Note)
    with (
        tidy(),
        run(blocks(GUIDE, marker="renewed.py"))["RenewedPool"]() as pool,
        joined(router=router, executor=pool, on_handler_error=reports) as (channel, wire, _),
    ):
        wire.push(TOPIC, "die", {"gate": gate.path})
        gate.open()
        until(lambda: reports.all)
        wire.push(TOPIC, "n", {"n": 1, "file": str(file)})
        until(lambda: channel.client.stats.handled == 2)
    assert [type(report.error).__name__ for report in reports.all] == ["BrokenProcessPool"]
    assert file.read_text() == f"{TOPIC} 1\n"
