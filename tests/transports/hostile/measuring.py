"""The resources that a process under attack uses, and their bounds."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

MB = 1_000_000

#: Seconds for which the other end may keep a test waiting.
PATIENCE = 30.0

#: Seconds of the processor that what was begun may take after its time: what one read brought, for instance.
_LATE = 1.5

#: Seconds by which a call may be late, on a machine that does much else.
_BUSY = 10.0

_TESTS = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a subject may take above what it takes idle.

    Attributes:
        memory: Bytes, at its peak.
        cpu: Of a processor, while the attack goes on: 1.0 for a peer that sends as much as it can.
        lines: That are logged.
    """

    memory: int = 16 * MB
    cpu: float = 1.0
    lines: int = 50


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a subject took.

    Attributes:
        above: Bytes of its peak above what it takes idle.
        cpu: Seconds of the processor.
        wall: Seconds.
        lines: That it has logged.
        sent: Bytes that its peers have sent to it.
    """

    above: int
    cpu: float
    wall: float
    lines: int
    sent: int

    def __str__(self) -> str:
        memory, sent = f"{self.above / MB:7.1f} MB", f"{self.sent / MB:8.1f} MB"
        return f"{memory} above idle, {self.cpu:5.2f} s CPU of {self.wall:5.2f} s, {self.lines} lines; sent: {sent}"

    def check(self, bounds: Bounds, seconds: float) -> None:
        """Whether it is within its bounds, after an attack of so many seconds."""
        assert self.above <= bounds.memory, self
        assert self.cpu <= bounds.cpu * (seconds + _LATE), self
        assert self.lines <= bounds.lines, self
        assert self.wall <= seconds + _BUSY, self


#: What was measured, for the summary; see `conftest.py`.
RECORDED: list[str] = []


def record(name: str, outcome: Outcome) -> None:
    RECORDED.append(f"{name:70}{outcome}")


class Subject:
    """A process under attack.

    Args:
        control: The connection on which it reports.
        lines: What it reports there.
    """

    def __init__(self, control: socket.socket, lines: BinaryIO) -> None:
        control.settimeout(PATIENCE)
        self._control = control
        self._lines = lines

    def told(self) -> Any:
        """The next that it tells."""
        line = self._lines.readline()
        assert line, "the process has ended without a report"
        return json.loads(line)

    def stop(self) -> None:
        self._control.sendall(b".")

    def outcome(self, sent: Callable[[], int]) -> Outcome:
        """What it took; its peers have sent so many bytes."""
        told = self.told()
        return Outcome(**told, sent=sent())


class Subjects:
    """Makes the processes: from one that has imported everything; see `subjects.py`."""

    def __init__(self) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE")}  # it takes time
        kept["PYTHONPATH"] = os.pathsep.join([str(_TESTS / "transports"), str(_TESTS), str(_TESTS.parent)])
        command = [sys.executable, "-m", "hostile.subjects"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, env=kept)
        self._lock = threading.Lock()

    @contextmanager
    def subject(self, who: str, **order: Any) -> Iterator[Subject]:
        """A process of its own.

        Args:
            who: An adapter, or `"server"`.
            order: What it is to do.
        """
        assert self._process.stdin is not None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(PATIENCE)
            line = json.dumps({"who": who, "control": listener.getsockname()[1], **order})
            with self._lock:
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
            control, _ = listener.accept()
        with closing(control), control.makefile("rb") as lines:
            yield Subject(control, lines)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(PATIENCE)
