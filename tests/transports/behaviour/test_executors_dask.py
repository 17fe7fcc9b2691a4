"""Plain handlers on a Dask cluster of two workers, each a process of its own on this machine.

Dask runs a task whose worker died once more, elsewhere, unless it is told not to: `bench/cluster.py`.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from distributed import Client
from peer import push
from serving_in_thread import LONG, QUICK, start, until

from bench.cluster import WORKERS, Cluster
from phx_proto.errors import InvalidHandler
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.message import Message

from .adapters import TOPIC, Adapter
from .shared import Gate, Reports, numbers, settled, several_calls

pytestmark = several_calls  # the adapters that take an executor


@pytest.fixture(scope="module")
def client(dask: Cluster) -> Iterator[Client]:
    with Client(dask.address, timeout=LONG) as client:  # type: ignore[no-untyped-call]
        client.submit(int).result(LONG)  # its threads are none that a test leaves behind
        yield client


@pytest.fixture
def cluster(client: Client) -> Executor:
    client.wait_for_workers(WORKERS, timeout=3 * LONG)  # one that died is replaced
    return client.get_executor()  # type: ignore[no-untyped-call, no-any-return]


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "seen"


def test_closures_may_run_there_and_each_topics_order_is_kept(
    adapter: Adapter, router: Router, cluster: Executor, file: Path
) -> None:
    topics = ["room:1", "room:2", "room:3"]

    @router.on("n")
    def write(message: Message[Any]) -> None:
        with file.open("a") as lines:
            lines.write(f"{message.topic} {message.payload} {os.getpid()}\n")

    with adapter.connected(router=router, executor=cluster) as (client, wire):
        for topic in topics:
            adapter.join(client, wire, topic)
        wire.send(*(push(topic, "n", n) for n in range(300) for topic in topics))
        settled(client, 900)
    lines = [line.split() for line in file.read_text().splitlines()]
    for topic in topics:
        assert [int(n) for where, n, _ in lines if where == topic] == [*range(300)]
    assert str(os.getpid()) not in {process for *_, process in lines}


def test_messages_that_are_alike_are_each_handled(
    adapter: Adapter, router: Router, cluster: Executor, file: Path
) -> None:
    @router.on("n", concurrency=WORKERS)
    def write(message: Message[Any]) -> None:
        with file.open("a") as lines:
            lines.write("once\n")

    with adapter.joined(router=router, executor=cluster) as (channel, wire, _):
        for number in range(1, 11):  # batches that are alike: Dask takes equal calls for one
            wire.send(push(TOPIC, "n", "alike"), push(TOPIC, "n", "alike"))
            settled(channel.client, 2 * number)
    assert file.read_text() == 20 * "once\n"


def test_what_goes_wrong_there_is_told_with_its_message(adapter: Adapter, router: Router, cluster: Executor) -> None:
    reports = Reports()

    @router.on("n", payload=int)
    def fail(message: Message[int]) -> None:
        if message.payload == 1:
            raise ValueError("one")

    with adapter.joined(router=router, executor=cluster, on_handler_error=reports) as (channel, wire, _):
        wire.send(*numbers(2), push(TOPIC, "n", "two"))
        settled(channel.client, 3)
    assert reports.told() == [("fail", 1, "ValueError"), ("fail", "two", "PayloadMismatch")]
    assert "in fail" in str(reports.all[0].error.__cause__)


def test_a_handler_that_takes_the_channel_is_refused(adapter: Adapter, cluster: Executor) -> None:
    def answer(message: Message[Any], channel: object) -> None: ...

    with adapter.joined(executor=cluster) as (channel, _, _), pytest.raises(InvalidHandler, match="cannot leave"):
        channel.native.add(answer, "n")


def test_what_is_in_hand_is_bounded_and_closing_waits_for_it(
    adapter: Adapter, router: Router, cluster: Executor, file: Path, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    path = gate.path

    @router.on("n")
    def write(message: Message[Any]) -> None:
        number, _ = message.payload
        if number in (0, 1000):
            Path(path).read_text()
        with file.open("a") as lines:
            lines.write(f"{number}\n")

    options = replace(QUICK, flow=FlowLimits(high=100, low=10))
    with adapter.joined(router=router, executor=cluster, options=options) as (channel, wire, _):
        client = channel.client
        sending = start(wire.send, *(push(TOPIC, "n", [number, "x" * 10_000]) for number in range(1001)))
        until(lambda: client.stats.backlog >= 50)
        assert client.stats.delivered < 500  # the bound, and what one read brings
        assert not sending.done()
        gate.open()
        sending.result(LONG)
        until(lambda: client.stats.delivered == 1001)
        closing = start(client.close)
        until(lambda: client.state.value == "draining")
        gate.open()
        wire.let_go(TOPIC)
        closing.result(LONG)
        assert (client.stats.handled, client.stats.dropped) == (1001, 0)
    assert [int(line) for line in file.read_text().splitlines()] == [*range(1001)]


def test_a_worker_that_dies_is_told_for_its_messages_which_are_not_run_again(
    adapter: Adapter, router: Router, cluster: Executor, file: Path
) -> None:
    reports = Reports()

    @router.on("n")
    def write(message: Message[Any]) -> None:
        with file.open("a") as lines:
            lines.write(f"{message.payload}\n")
        if message.payload == "die":
            os._exit(1)

    with adapter.joined(router=router, executor=cluster, on_handler_error=reports) as (channel, wire, _):
        wire.push(TOPIC, "n", "die")
        settled(channel.client, 1)
        (report,) = reports.all
        assert (report.message.payload, type(report.error).__name__) == ("die", "KilledWorker")
        wire.push(TOPIC, "n", "go on")
        settled(channel.client, 2)
        assert len(reports.all) == 1
    assert file.read_text().splitlines() == ["die", "go on"]
