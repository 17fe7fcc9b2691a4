"""A Dask cluster in a process of its own: `python dask_cluster.py WORKERS` prints its address, and ends with its stdin.

A task whose worker died is not given to another one: no failure is allowed.
"""

import sys

import dask
from distributed import LocalCluster


def main() -> None:
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        LocalCluster(  # type: ignore[no-untyped-call]
            n_workers=int(sys.argv[1]),
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
