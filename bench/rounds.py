"""Rounds: contenders run in turn, each in a process of its own, so that the machine's drift hits all of them alike.

The first contender is the baseline. A ratio is made within a round, from neighbours in time; what is reported is the
median and the range over the rounds, of the values and of the ratios.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.meter import Result, Task

PROJECT: Final = Path(__file__).parent.parent


@dataclass(frozen=True, eq=False)
class Contender:
    """Who does the work.

    Attributes:
        name: For the table.
        module: The runner, see `bench.meter`.
        task: What is asked of it.
        python: Its environment's interpreter.
        note: For the table.
    """

    name: str
    module: str
    task: Task
    python: str = sys.executable
    note: str = ""


@dataclass(frozen=True)
class Spread:
    """A median with its range."""

    middle: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))

    def inverse(self, unit: float = 1.0) -> "Spread":
        """Of rates the times, in `1 / unit` seconds; of ratios of rates those of costs."""
        return Spread(unit / self.middle, unit / self.high, unit / self.low)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        value: Messages a second, or bytes a topic; None if it came to nothing.
        ratio: To the baseline's; None for the baseline itself, and where nothing can be compared.
        note: What is to be known, or what went wrong.
    """

    name: str
    value: Spread | None
    ratio: Spread | None
    note: str = ""


def compare(contenders: Sequence[Contender], rounds: int, limit: float) -> Iterator[Row]:
    """Runs all contenders `rounds` times in turn; one that fails is not run again.

    Args:
        contenders: The baseline first.
        rounds: How often.
        limit: Seconds for one run.
    """
    rates: dict[Contender, list[float]] = {contender: [] for contender in contenders}
    problems: dict[Contender, str] = {}
    for _ in range(rounds):
        for contender in contenders:
            if contender in problems:
                continue
            result = run(contender, limit)
            if result.seconds > 0.0:
                rates[contender].append(result.count / result.seconds)
            else:
                problems[contender] = result.problem or f"received {result.count:,} of {contender.task.n:,}"
    baseline = contenders[0]
    for contender, values in rates.items():
        notes = "; ".join(filter(None, (problems.get(contender, ""), contender.note)))
        if contender in problems or not values:
            yield Row(contender.name, None, None, notes)
            continue
        pairs = [] if contender is baseline else list(zip(values, rates[baseline], strict=False))
        ratio = Spread.of([ours / theirs for ours, theirs in pairs]) if pairs else None
        yield Row(contender.name, Spread.of(values), ratio, notes)


def weigh(contender: Contender, limit: float) -> Row:
    """Bytes a topic, once: allocation does not vary from run to run as time does."""
    result = run(contender, limit)
    problem = result.problem
    if not problem and result.count < contender.task.n:
        problem = f"received {result.count:,} of {contender.task.n:,}"
    notes = "; ".join(filter(None, (problem, contender.note)))
    return Row(contender.name, None if problem else Spread.of([result.bytes_a_topic]), None, notes)


def run(contender: Contender, limit: float) -> Result:
    """One run; whatever goes wrong is told in the result's `problem`."""
    command = [contender.python, "-m", contender.module, json.dumps(asdict(contender.task))]
    try:
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return Result(problem=f"not done within {limit:g} s")
    with contextlib.suppress(ValueError, TypeError, IndexError):
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return Result(**answer)
    last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}, and nothing said"]
    return Result(problem=f"failed: {last[0]}")


@contextlib.contextmanager
def feeding(module: str = "bench.feed") -> Iterator[int]:
    """A server to be measured with, in a process of its own, for as long as the context lasts; gives its port."""
    command = [sys.executable, "-m", module]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as feed:
        try:
            assert feed.stdout is not None
            yield int(feed.stdout.readline())
        finally:
            feed.kill()
