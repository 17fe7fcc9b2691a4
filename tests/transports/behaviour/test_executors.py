"""Plain handlers on executors of the user's: which handlers can go there, order, bounds, workers that die, the end."""

import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jobs import Note, die_at_gate, raise_what_cannot_travel, wait_at_gate, write_down, write_note
from peer import push
from serving_in_thread import LONG, QUICK, Flag, start, until

from phx_proto.errors import InvalidHandler, PayloadMismatch
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.client.batches import WorkerError

from .adapters import TOPIC, Adapter
from .shared import Gate, Reports, numbers, settled, several_calls

pytestmark = several_calls  # the adapters that take an executor


class Held(Executor):
    """It runs nothing until it is told to."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        self.jobs.append((future, lambda: fn(*args, **kwargs)))
        return future

    def run(self) -> None:
        """Run the first job."""
        until(lambda: self.jobs)
        future, job = self.jobs.pop(0)
        future.set_result(job())


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "seen"


def pool_of(processes: int) -> ProcessPoolExecutor:
    # Forking a process that has threads is what Python warns of.
    return ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    with pool_of(2) as pool:
        pool.submit(int).result(LONG)  # its threads are none that a test leaves behind
        yield pool


# ---- in other processes ---------------------------------------------------------------------------------------------


def test_plain_handlers_may_run_in_other_processes(
    adapter: Adapter, router: Router, processes: Executor, file: Path
) -> None:
    reports = Reports()
    router.add(write_down, "n")
    with adapter.joined(router=router, executor=processes, on_handler_error=reports) as (channel, wire, _):
        wire.send(*(push(TOPIC, "n", {"n": number, "file": str(file)}) for number in range(4)))
        settled(channel.client, 4)
    lines = [line.split() for line in file.read_text().splitlines()]
    assert [number for number, _ in lines] == ["0", "1", "2", "3"]
    assert str(os.getpid()) not in {process for _, process in lines}
    (report,) = reports.all
    assert report.message.payload["n"] == 2
    assert isinstance(report.error, ValueError)
    assert "in write_down" in str(report.error.__cause__)


def test_each_topics_order_is_kept_there_and_payloads_are_decoded(
    adapter: Adapter, router: Router, processes: Executor, file: Path
) -> None:
    reports, topics = Reports(), ["room:1", "room:2", "room:3"]
    router.add(write_note, "n", payload=Note)
    with adapter.connected(router=router, executor=processes, on_handler_error=reports) as (client, wire):
        for topic in topics:
            adapter.join(client, wire, topic)
        wire.send(*(push(topic, "n", {"n": n, "file": str(file)}) for n in range(300) for topic in topics))
        wire.push("room:1", "n", {"n": "secret", "file": str(file)})
        settled(client, 901)
    lines = file.read_text().splitlines()
    for topic in topics:
        assert [line for line in lines if line.startswith(topic)] == [f"{topic} {n}" for n in range(300)]
    (report,) = reports.all
    assert isinstance(report.error, PayloadMismatch)
    assert report.message.payload["n"] == "secret"
    assert "secret" not in str(report.error)


def test_an_error_that_cannot_come_from_there_is_told_by_a_stand_in_and_breaks_nothing(
    adapter: Adapter, router: Router, processes: Executor
) -> None:
    reports = Reports()
    router.add(raise_what_cannot_travel, "n")
    with adapter.joined(router=router, executor=processes, on_handler_error=reports) as (channel, wire, _):
        wire.send(*numbers(4))
        settled(channel.client, 4)
    assert [(report.message.payload, type(report.error)) for report in reports.all] == [
        (1, WorkerError),
        (2, WorkerError),
    ]
    assert [str(report.error) for report in reports.all] == ["jobs.Demanding: a leak in the cellar", "jobs.Holding: on"]


def test_a_worker_that_dies_is_told_for_its_messages_and_for_those_behind_them(
    adapter: Adapter, router: Router, gate: Gate
) -> None:
    reports = Reports()
    router.add(die_at_gate, "n")
    with (
        pool_of(1) as pool,
        adapter.joined(router=router, executor=pool, on_handler_error=reports) as (channel, wire, _),
    ):
        wire.send(*(push(TOPIC, "n", {"n": number, "gate": gate.path}) for number in range(600)))
        until(lambda: channel.client.stats.delivered == 600)
        gate.open()
        settled(channel.client, 600)
        wire.push(TOPIC, "n", {"n": 600})
        settled(channel.client, 601)
        assert [report.message.payload["n"] for report in reports.all] == [*range(601)]
        assert {type(report.error).__name__ for report in reports.all} == {"BrokenProcessPool"}
        closing = start(channel.client.close)
        wire.let_go(TOPIC)
        closing.result(LONG)


class Broken(Executor):
    """It takes every job, runs none, and gives what no executor may."""

    def __init__(self, given: Any) -> None:
        self.given = given

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        if self.given is None:
            return None
        future: Future[Any] = Future()
        future.set_result(self.given)
        return future


@pytest.mark.parametrize("given", [None, 42, [42], "text"])
def test_what_an_executor_does_not_do_is_told_for_each_message(adapter: Adapter, router: Router, given: Any) -> None:
    reports = Reports()
    router.add(write_down, "n")
    with adapter.joined(router=router, executor=Broken(given), on_handler_error=reports) as (channel, wire, _):
        wire.send(*(push(TOPIC, "n", {"n": number}) for number in range(3)))
        settled(channel.client, 3)
        assert [report.message.payload["n"] for report in reports.all] == [0, 1, 2]
        closing = start(channel.client.close)
        wire.let_go(TOPIC)
        closing.result(LONG)


# ---- bounds, and the end --------------------------------------------------------------------------------------------


def test_what_executors_have_in_hand_is_bounded(adapter: Adapter, router: Router) -> None:
    seen: list[Any] = []
    router.add(lambda message: seen.append(message.payload), "n")
    held, options = Held(), replace(QUICK, flow=FlowLimits(high=100, low=10))
    with adapter.joined(router=router, executor=held, options=options) as (channel, wire, _):
        sending = start(wire.send, *(push(TOPIC, "n", [number, "x" * 10_000]) for number in range(2000)))
        until(lambda: channel.client.stats.backlog >= 50)  # what changes hands counts for both while it does
        most = 0
        while len(seen) < 2000:
            most = max(most, channel.client.stats.backlog)
            until(lambda: held.jobs)
            assert len(held.jobs) == 1  # a topic's next batch waits for the one before it
            held.run()
        sending.result(LONG)
        settled(channel.client, 2000)
        assert [number for number, _ in seen] == [*range(2000)]
        assert most < 500  # the bound, and what one read brings


def test_closing_waits_for_what_executors_have_in_hand(
    adapter: Adapter, router: Router, processes: Executor, file: Path, gate: Gate
) -> None:
    router.add(wait_at_gate, "gate")
    router.add(write_note, "n", payload=Note)
    with adapter.joined(router=router, executor=processes) as (channel, wire, _):
        client = channel.client
        wire.send(push(TOPIC, "gate", {"gate": gate.path}))
        wire.send(*(push(TOPIC, "n", {"n": number, "file": str(file)}) for number in range(300)))
        until(lambda: client.stats.delivered == 301)
        closing = start(client.close)
        until(lambda: client.state.value == "draining")
        gate.open()
        wire.let_go(TOPIC)
        closing.result(LONG)
        assert len(file.read_text().splitlines()) == 300
        assert (client.stats.handled, client.stats.dropped) == (301, 0)


def test_what_an_executor_has_not_begun_is_cancelled_when_the_client_is_dropped(
    adapter: Adapter, router: Router
) -> None:
    reports, held = Reports(), Held()
    router.add(write_note, "n")
    with adapter.joined(router=router, executor=held, on_handler_error=reports) as (channel, wire, _):
        wire.push(TOPIC, "n")
        until(lambda: held.jobs)
        channel.client.abort()
        ((future, _),) = held.jobs
        assert future.cancelled()
        assert reports.all == []


def test_after_fail_fast_has_met_an_error_batches_that_were_submitted_do_nothing(
    adapter: Adapter, router: Router
) -> None:
    seen: list[Any] = []
    held = Held()

    @router.on("n")
    def hear(message: Message[Any]) -> None:
        seen.append(message.payload)
        if message.payload == 1:
            raise ValueError("one")

    with adapter.connected(router=router, executor=held, fail_fast=True) as (client, wire):
        for topic in ("room:1", "room:2"):
            adapter.join(client, wire, topic)
        wire.burst(*numbers(3, "room:1"))
        until(lambda: len(held.jobs) == 1 and client.stats.delivered == 3)
        wire.burst(*numbers(3, "room:2"))
        until(lambda: len(held.jobs) == 2)
        (first, run_first), (_, run_second) = held.jobs
        first.set_result(run_first())
        with pytest.raises(ValueError, match="one"):
            client.wait_closed()
        run_second()
        assert seen == [0, 1]


def test_what_is_done_of_a_batch_is_counted_before_the_batch_is_over(adapter: Adapter, router: Router) -> None:
    at_three, go_on = Flag(), Flag()

    @router.on("n")
    def hear(message: Message[Any]) -> None:
        if message.payload == 3:
            at_three.set()
            go_on.wait()

    with ThreadPoolExecutor(1) as pool, adapter.joined(router=router, executor=pool) as (channel, wire, _):
        wire.burst(*numbers(10))
        at_three.wait()
        until(lambda: channel.client.stats.handled == 3)
        assert channel.client.stats.backlog == 7
        go_on.set()
        settled(channel.client, 10)


def test_what_is_cut_off_at_drain_timeout_is_not_counted_as_handled(adapter: Adapter, router: Router) -> None:
    entered, go_on = Flag(), Flag()

    @router.on("n")
    def hear(message: Message[Any]) -> None:
        entered.set()
        go_on.wait()

    with (
        ThreadPoolExecutor(1) as pool,
        adapter.joined(router=router, executor=pool, drain_timeout=0.1) as (channel, wire, _),
    ):
        wire.burst(*numbers(10))
        entered.wait()
        channel.client.close()
        assert channel.client.stats.handled == 0
        go_on.set()


# ---- who cannot go there --------------------------------------------------------------------------------------------


def answer(message: Message[Any], channel: object) -> None: ...


def local_type() -> type:
    class Local(msgspec.Struct):
        cents: int

    return Local


UNFIT = pytest.mark.parametrize(
    ("function", "payload", "problem"),
    [
        (lambda message: None, None, "cannot be sent to another process"),
        (write_down, local_type(), "cannot be sent to another process"),
        (answer, None, "a channel cannot leave its process"),
    ],
    ids=["a lambda", "a local payload type", "the channel"],
)


@UNFIT
def test_a_router_with_a_handler_that_cannot_run_in_a_process_is_refused_at_once(
    function: Any, payload: Any, problem: str, adapter: Adapter, router: Router, processes: Executor
) -> None:
    router.add(function, "n", payload=payload)
    with pytest.raises(InvalidHandler, match=problem):
        adapter.connect("ws://127.0.0.1:1/socket", router=router, executor=processes)


@UNFIT
def test_one_that_came_to_the_router_later_is_refused_with_the_next_channel(
    function: Any, payload: Any, problem: str, adapter: Adapter, router: Router, processes: Executor
) -> None:
    with adapter.connected(router=router, executor=processes) as (client, _):
        handler = router.add(function, "n", payload=payload)
        with pytest.raises(InvalidHandler, match=problem):
            client.channel(TOPIC)
        router.off(handler)
        client.channel(TOPIC)


@UNFIT
def test_one_of_a_channels_own_is_refused_and_not_registered(
    function: Any, payload: Any, problem: str, adapter: Adapter, processes: Executor
) -> None:
    reports = Reports()
    with adapter.joined(executor=processes, on_handler_error=reports) as (channel, wire, _):
        with pytest.raises(InvalidHandler, match=problem):
            channel.native.add(function, "n", payload=payload)
        wire.push(TOPIC, "n")
        until(lambda: channel.client.stats.unhandled == 1)
        assert reports.all == []


def test_a_channel_that_is_to_be_pickled_says_what_to_do(adapter: Adapter) -> None:
    with adapter.connected() as (client, _):
        channel = client.channel(TOPIC)
        with pytest.raises(pickle.PicklingError, match=f"{TOPIC}.*take the message alone"):
            pickle.dumps(channel.native)
