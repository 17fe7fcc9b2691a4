"""Each adapter in turn, and a Dask cluster."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from serving_in_thread import tidy

from bench.cluster import Cluster, running

from .adapters import Adapter, Asyncio, Threads, Wsproto

#: By name; those after the third run handlers in another way, for tests of handlers (`@in_every_way`).
ADAPTERS: dict[str, Callable[[], Adapter]] = {
    "asyncio": Asyncio,
    "threads": Threads,
    "wsproto": Wsproto,
    "asyncio-executor": lambda: Asyncio(plain=True),
    "threads-executor": lambda: Threads(executor=ThreadPoolExecutor(8, thread_name_prefix="users")),
}


@pytest.fixture(params=["asyncio", "threads", "wsproto"])
def adapter(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    """Each of the three clients; what it leaves behind is an error."""
    with tidy():
        adapter = ADAPTERS[request.param]()
        try:
            yield adapter
        finally:
            adapter.close()


@pytest.fixture(scope="session")
def dask() -> Iterator[Cluster]:
    """A cluster, for executors that leave this process."""
    with running() as cluster:
        yield cluster
