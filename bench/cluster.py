"""A Dask cluster of two workers in a process of its own, for the bench and for the tests.

`python -m bench.cluster` prints its address, and serves until stdin ends. A task whose worker died is not given to
another one: no failure is allowed.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import IO, Final

PROJECT: Final = Path(__file__).parent.parent
WORKERS: Final = 2


@dataclass(frozen=True)
class Cluster:
    """A cluster that runs.

    Attributes:
        address: The scheduler's.
        output: What its workers print.
    """

    address: str
    output: IO[str]


@contextmanager
def running() -> Iterator[Cluster]:
    command = [sys.executable, "-m", "bench.cluster"]
    with subprocess.Popen(command, cwd=PROJECT, stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Cluster(process.stdout.readline().strip(), process.stdout)
        finally:
            process.stdin.close()
            process.wait(30)


def main() -> None:
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=WORKERS,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
    ):
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
