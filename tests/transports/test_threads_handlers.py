"""Handlers of a client on threads: who is called with what, where, in which order; errors and floods."""

import asyncio
import logging
import multiprocessing
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jobs import write_down
from peer import push
from serving_in_thread import LONG, QUICK, Flag, Wire, connected, joined, start, tidy, until

from phx_proto.errors import PayloadMismatch
from phx_proto.events import InboxOverflow
from phx_proto.flow import FlowLimits
from phx_proto.message import Message
from phx_proto.router import Router
from phx_proto.states import ChannelState, SocketState
from phx_transports.reports import HandlerError
from phx_transports.threads import Channel, Client
from phx_transports.threads.crew import Crew

TOPIC = "room:lobby"


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with tidy():
        yield


@pytest.fixture
def router() -> Router:
    return Router()


@pytest.fixture(params=["own threads", "executor"])
def executor(request: pytest.FixtureRequest) -> Iterator[Executor | None]:
    """The two ways in which handlers are run."""
    if request.param == "own threads":
        yield None
        return
    with ThreadPoolExecutor(8, thread_name_prefix="users") as pool:
        yield pool


class Reports:
    def __init__(self) -> None:
        self.all: list[HandlerError] = []

    def __call__(self, report: HandlerError) -> None:
        self.all.append(report)

    def told(self) -> list[tuple[str, Any, str]]:
        return [
            (report.handler.name.rpartition(".")[2], report.message.payload, type(report.error).__name__)
            for report in self.all
        ]


def numbers(count: int, topic: str = TOPIC) -> list[str]:
    return [push(topic, "n", number) for number in range(count)]


def settled(client: Client, delivered: int) -> None:
    """All that was received is handled, and the counters say so."""
    until(lambda: client.stats.delivered == delivered)
    until(lambda: client.stats.backlog == 0)
    stats = client.stats
    assert (stats.handled, stats.dropped) == (delivered, 0)


# ---- who is called, and where ---------------------------------------------------------------------------------------


def test_each_handler_gets_each_of_its_messages_once(router: Router, executor: Executor | None) -> None:
    seen: dict[str, list[Any]] = defaultdict(list)

    @router.on("n")
    def one(message: Message[Any]) -> None:
        seen["one"].append(message.payload)

    @router.on("n", topic="room:*", concurrency=2)
    def two(message: Message[Any]) -> None:
        seen["two"].append(message.payload)

    @router.on("*", topic=TOPIC)
    def all_of_it(message: Message[Any], channel: Channel) -> None:
        seen[f"all of {channel.topic}"].append((message.event, message.payload))

    @router.on("n", topic="other")
    def never(message: Message[Any]) -> None:
        seen["never"].append(message)

    with joined(router=router, executor=executor) as (channel, wire, _):
        wire.send(*numbers(3), push(TOPIC, "m"))
        settled(channel.client, 4)
        assert seen.pop(f"all of {TOPIC}") == [("n", 0), ("n", 1), ("n", 2), ("m", {})]
        assert sorted(seen.pop("two")) == [0, 1, 2]
        assert seen == {"one": [0, 1, 2]}


def test_handlers_run_on_threads_of_the_clients_own(router: Router) -> None:
    names: list[str] = []
    router.add(lambda message: names.append(threading.current_thread().name), "n")
    with joined(router=router) as (_, wire, _):
        wire.push(TOPIC, "n")
        until(lambda: names)
        assert names[0].startswith("phx-handler")


def test_handlers_run_in_the_users_executor_which_is_left_running(router: Router) -> None:
    names: list[str] = []
    router.add(lambda message: names.append(threading.current_thread().name), "n")
    with ThreadPoolExecutor(thread_name_prefix="users") as pool:
        with joined(router=router, executor=pool) as (_, wire, _):
            wire.push(TOPIC, "n")
            until(lambda: names)
        assert names[0].startswith("users")
        assert pool.submit(int).result() == 0


def test_handlers_may_run_in_other_processes(router: Router, tmp_path: Path) -> None:
    file, reports = tmp_path / "seen", Reports()
    router.add(write_down, "n")
    # Forking a process that has threads is what Python warns of.
    with (
        ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool,
        joined(router=router, executor=pool, on_handler_error=reports) as (channel, wire, _),
    ):
        wire.send(*(push(TOPIC, "n", {"n": number, "file": str(file)}) for number in range(4)))
        settled(channel.client, 4)
    lines = [line.split() for line in file.read_text().splitlines()]
    assert [number for number, _ in lines] == ["0", "1", "2", "3"]
    assert str(threading.get_native_id()) not in {process for _, process in lines}
    ((name, payload, error),) = reports.told()
    assert (name, payload["n"], error) == ("write_down", 2, "ValueError")


def test_a_declared_payload_comes_decoded_and_one_that_does_not_fit_is_reported(
    router: Router, executor: Executor | None
) -> None:
    class Balance(msgspec.Struct, frozen=True):
        amount: int

    seen: list[Any] = []
    reports = Reports()
    router.add(lambda message: seen.append(message.payload), "balance", payload=Balance)
    with joined(router=router, executor=executor, on_handler_error=reports) as (channel, wire, _):
        wire.push(TOPIC, "balance", {"amount": "many"})
        wire.push(TOPIC, "balance", {"amount": 5})
        settled(channel.client, 2)
        assert seen == [Balance(5)]
        assert [type(report.error) for report in reports.all] == [PayloadMismatch]


def test_handlers_come_and_go_while_the_client_runs(router: Router) -> None:
    seen: list[Any] = []
    with joined(router=router) as (channel, wire, _):
        wire.push(TOPIC, "n", 1)
        until(lambda: channel.client.stats.unhandled == 1)
        handler = router.add(lambda message: seen.append(message.payload), "n")
        wire.push(TOPIC, "n", 2)
        until(lambda: seen)
        router.remove(handler)
        wire.push(TOPIC, "n", 3)
        until(lambda: channel.client.stats.unhandled == 2)
        assert seen == [2]


# ---- order ----------------------------------------------------------------------------------------------------------


def test_each_topics_messages_are_handled_in_order_under_a_flood(router: Router, executor: Executor | None) -> None:
    seen: list[Any] = []
    router.add(lambda message, channel: seen.append((channel.topic, message.payload)), "n")
    topics = [f"room:{number}" for number in range(4)]
    options = replace(QUICK, flow=FlowLimits(high=200, low=50))
    with connected(router=router, options=options, executor=executor) as (client, wire):
        for topic in topics:
            joining = start(client.join, topic)
            wire.accept()
            joining.result(LONG)
        wire.send(*(push(topic, "n", number) for number in range(1000) for topic in topics))
        settled(client, 4000)
        for topic in topics:
            assert [number for where, number in seen if where == topic] == list(range(1000))


def test_a_slow_handler_holds_its_own_topic_alone(router: Router, executor: Executor | None) -> None:
    seen: list[Any] = []
    go_on = Flag()

    @router.on("n")
    def hear(message: Message[Any], channel: Channel) -> None:
        if channel.topic == TOPIC:
            go_on.wait()
        seen.append((channel.topic, message.payload))

    with joined(router=router, executor=executor) as (channel, wire, _):
        joining = start(channel.client.join, "room:2")
        wire.accept()
        joining.result(LONG)
        wire.send(*numbers(2), *numbers(2, "room:2"))
        until(lambda: len(seen) == 2)
        go_on.set()
        until(lambda: len(seen) == 4)
        assert seen == [("room:2", 0), ("room:2", 1), (TOPIC, 0), (TOPIC, 1)]


def test_concurrency_lets_a_handler_have_several_in_hand_and_not_more(
    router: Router, executor: Executor | None
) -> None:
    together = threading.Barrier(4, timeout=LONG)
    reports = Reports()
    router.add(lambda message: together.wait(), "n", concurrency=4)
    with joined(router=router, executor=executor, on_handler_error=reports) as (channel, wire, _):
        wire.send(*numbers(8))
        settled(channel.client, 8)
    assert reports.all == []


def test_a_handler_of_one_topic_is_never_run_twice_at_once(router: Router, executor: Executor | None) -> None:
    running = threading.Lock()
    overlaps: list[Any] = []

    def work(message: Message[Any]) -> None:
        if not running.acquire(blocking=False):
            overlaps.append(message)
            return
        threading.Event().wait(0.0001)
        running.release()

    router.add(work, "n")
    with joined(router=router, executor=executor) as (channel, wire, _):
        for number in range(50):
            wire.push(TOPIC, "n", number)
        settled(channel.client, 50)
        assert overlaps == []


def test_an_executor_gets_messages_in_batches(router: Router) -> None:
    class Counting(ThreadPoolExecutor):
        jobs = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            self.jobs += 1
            return super().submit(fn, *args, **kwargs)

    seen: list[Any] = []
    router.add(lambda message: seen.append(message.payload), "n")
    with Counting(1) as counting, joined(router=router, executor=counting) as (channel, wire, _):
        blocking = Flag()
        counting.submit(blocking.wait)
        wire.send(*numbers(900))
        until(lambda: channel.client.stats.delivered == 900)
        blocking.set()
        settled(channel.client, 900)
        assert seen == list(range(900))
        assert counting.jobs < 100


# ---- errors ---------------------------------------------------------------------------------------------------------


def fails(message: Message[Any]) -> None:
    if message.payload == 1:
        raise ValueError("one")


def cancels(message: Message[Any]) -> None:
    if message.payload == 1:
        raise CancelledError


def stops_iteration(message: Message[Any]) -> None:
    if message.payload == 1:
        next(iter(()))


def awaits(message: Message[Any]) -> Any:
    return asyncio.sleep(0) if message.payload == 1 else None


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    ("handler", "error"),
    [(fails, "ValueError"), (cancels, "CancelledError"), (stops_iteration, "StopIteration"), (awaits, "TypeError")],
)
def test_what_a_handler_raises_is_reported_with_its_message_and_harms_nobody(
    handler: Any, error: str, concurrency: int, router: Router, executor: Executor | None
) -> None:
    reports, other = Reports(), list[Any]()
    router.add(handler, "n", concurrency=concurrency)
    router.add(lambda message: other.append(message.payload), "n")
    with joined(router=router, executor=executor, on_handler_error=reports) as (channel, wire, _):
        wire.send(*numbers(5), *numbers(5))
        settled(channel.client, 10)
        assert reports.told() == [(handler.__name__, 1, error)] * 2
        assert other == [*range(5), *range(5)]
        assert channel.client.state is SocketState.OPEN


def test_a_coroutine_function_registered_too_late_to_be_refused_is_reported(router: Router) -> None:
    async def hear(message: Message[Any]) -> None: ...

    reports = Reports()
    with joined(router=router, on_handler_error=reports) as (channel, wire, _):
        router.add(hear, "n")
        wire.push(TOPIC, "n")
        settled(channel.client, 1)
        assert "threads await nothing" in str(reports.all[0].error)


def test_by_default_it_is_logged(router: Router, caplog: pytest.LogCaptureFixture) -> None:
    router.add(fails, "n")
    with joined(router=router) as (_, wire, _):
        wire.push(TOPIC, "n", 1)
        until(lambda: "Traceback" in caplog.text)  # the records come before their text does
        assert "ValueError" in caplog.text


def test_a_report_that_fails_is_logged_with_what_was_to_be_reported(
    router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    def report(report: HandlerError) -> None:
        raise report.error

    router.add(fails, "n")
    with joined(router=router, on_handler_error=report) as (channel, wire, _):
        wire.send(*numbers(5))
        settled(channel.client, 5)
        assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
        assert "on_handler_error itself failed" in caplog.text


@pytest.mark.parametrize(
    ("handler", "error"), [(fails, ValueError), (cancels, CancelledError), (stops_iteration, RuntimeError)]
)
def test_fail_fast_ends_the_client_with_the_handlers_error(
    handler: Any, error: type[Exception], router: Router, executor: Executor | None
) -> None:
    router.add(handler, "n")
    with joined(router=router, executor=executor, fail_fast=True) as (channel, wire, _), channel.messages() as messages:
        running = start(channel.client.run)
        wire.push(TOPIC, "n", 1)
        with pytest.raises(error):
            running.result(LONG)
        assert channel.client.state is SocketState.CLOSED
        assert channel.state is ChannelState.CLOSED
        wire.ended()
        with pytest.raises(error):
            list(messages)


def test_an_executor_that_is_shut_down_is_reported_for_each_message(router: Router) -> None:
    reports = Reports()
    pool = ThreadPoolExecutor()
    pool.shutdown()
    router.add(fails, "n")
    with joined(router=router, executor=pool, on_handler_error=reports) as (channel, wire, _):
        wire.send(*numbers(3))
        settled(channel.client, 3)
        assert reports.told() == [("fails", number, "RuntimeError") for number in range(3)]


def test_jobs_that_an_executor_cancels_are_reported_too(router: Router) -> None:
    class Cancelling(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            future: Future[Any] = Future()
            future.cancel()
            return future

    reports = Reports()
    router.add(fails, "n")
    with joined(router=router, executor=Cancelling(), on_handler_error=reports) as (channel, wire, _):
        wire.send(*numbers(3))
        settled(channel.client, 3)
        assert reports.told() == [("fails", number, "CancelledError") for number in range(3)]


def test_after_an_abort_no_handler_begins(router: Router, executor: Executor | None) -> None:
    begun: list[Any] = []
    entered, go_on = Flag(), Flag()

    @router.on("n")
    def hear(message: Message[Any]) -> None:
        begun.append(message.payload)
        if message.payload == 99:
            entered.set()
            go_on.wait()

    with joined(router=router, executor=executor) as (channel, wire, _):
        wire.push(TOPIC, "n", 99)
        entered.wait()
        wire.send(*numbers(5))
        until(lambda: channel.client.stats.delivered == 6)
        channel.client.abort()
        go_on.set()
    assert begun == [99]


# ---- a flood, and back-pressure -------------------------------------------------------------------------------------


def flood(wire: Wire, count: int, size: int = 10_000) -> None:
    wire.send(*(push(TOPIC, "n", [number, "x" * size]) for number in range(count)))


def test_a_flood_against_a_slow_handler_pauses_reading_and_loses_nothing(
    router: Router, executor: Executor | None
) -> None:
    seen: list[Any] = []
    go_on = Flag()

    @router.on("n")
    def slow(message: Message[Any]) -> None:
        go_on.wait()
        seen.append(message.payload[0])

    options = replace(QUICK, flow=FlowLimits(high=100, low=20), heartbeat=0.4)
    with joined(router=router, executor=executor, options=options) as (channel, wire, _):
        client = channel.client
        sending = start(flood, wire, 2000)
        until(lambda: client._proto._flow.paused)
        wire.on_loop.answers_heartbeats = False
        wire.on_loop.heartbeats = 0
        until(lambda: wire.on_loop.heartbeats >= 2)
        assert not sending.done()  # 20 MB do not fit between the two: the server feels it
        assert client.stats.delivered < 300
        wire.on_loop.answers_heartbeats = True
        go_on.set()
        sending.result(LONG)
        settled(client, 2000)
        assert seen == list(range(2000))
        assert client.stats.reconnects == 0


def test_a_handler_that_waits_for_a_reply_behind_a_flood_gets_it(router: Router, executor: Executor | None) -> None:
    replies: list[Any] = []
    paused = Flag()

    @router.on("n")
    def ask(message: Message[Any], channel: Channel) -> None:
        if message.payload[0] == 0:
            paused.wait()
            replies.append(channel.push("ask").response)

    options = replace(QUICK, flow=FlowLimits(high=50, low=10))
    with joined(router=router, executor=executor, options=options) as (channel, wire, _):
        sending = start(flood, wire, 500)
        until(lambda: channel.client._proto._flow.paused)
        paused.set()
        asked = wire.expect("ask")
        sending.result(LONG)
        wire.reply(asked, "answer")
        settled(channel.client, 500)
        assert replies == ["answer"]


def test_a_pause_lasts_only_so_long_and_at_the_hard_bound_messages_are_dropped_and_told(router: Router) -> None:
    go_on = Flag()
    router.add(lambda message: go_on.wait(), "n")
    options = replace(QUICK, flow=FlowLimits(high=10, low=5, hard=100, longest_pause=0.01))
    with joined(router=router, options=options) as (channel, wire, _):
        client = channel.client
        with client.events(timeout=LONG) as events:
            flood(wire, 1000)
            assert any(isinstance(event, InboxOverflow) for event in events)
        until(lambda: client.stats.received == 1001)
        go_on.set()
        until(lambda: client.stats.backlog == 0)
        stats = client.stats
        assert stats.delivered + stats.dropped == 1000
        assert stats.handled == stats.delivered < 200


# ---- the crew -------------------------------------------------------------------------------------------------------


def test_a_crew_has_as_many_threads_as_there_is_work_up_to_its_limit() -> None:
    crew = Crew("crew", on_error=lambda error: None, limit=3)
    together, names = threading.Barrier(4), set[str]()

    def work() -> None:
        names.add(threading.current_thread().name)
        together.wait(LONG)

    jobs = [crew.submit(work) for _ in range(3)]
    together.wait(LONG)
    for job in jobs:
        job.result(LONG)
    for _ in range(50):
        crew.submit(lambda: names.add(threading.current_thread().name)).result(LONG)
    assert len(names) == 3
    crew.shutdown()


def test_a_crew_reports_what_work_raises_and_goes_on() -> None:
    errors: list[BaseException] = []
    crew = Crew("crew", on_error=errors.append, limit=1)
    crew.add([lambda: divmod(1, 0)])  # type: ignore[list-item]
    with pytest.raises(ZeroDivisionError):
        crew.submit(lambda: 1 / 0).result(LONG)
    assert [type(error) for error in errors] == [ZeroDivisionError]
    crew.shutdown()


def test_a_crew_that_is_shut_down_takes_nothing_and_waits_for_nobody_who_is_busy() -> None:
    crew = Crew("crew", on_error=lambda error: None)
    entered, go_on = Flag(), Flag()

    def work() -> None:
        entered.set()
        go_on.wait()

    crew.add([work])
    entered.wait()
    crew.shutdown()
    assert not crew.submit(int).done()
    go_on.set()


def test_work_behind_work_that_computes_is_not_forgotten() -> None:
    crew = Crew("crew", on_error=lambda error: None, limit=2)
    came = threading.Event()

    def compute() -> None:
        while not came.is_set():
            pass

    computing = crew.submit(compute)
    crew.submit(came.set).result(LONG)
    computing.result(LONG)
    crew.shutdown()
