"""Handlers on threads: the part that is not in behaviour/. Where they run, executors, the pool."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from operator import call
from typing import Any, TypeVar

import pytest
from in_memory import TOPIC, on_threads, send_numbers
from peer import push
from reported import Reports
from serving_in_thread import LONG, Flag, joined, start, until

from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.states import SocketState
from phx_transports.client.reports import HandlerError
from phx_transports.testing import Peer
from phx_transports.threads import Channel
from phx_transports.threads.workers import WorkerPool

pytestmark = pytest.mark.usefixtures("clean_threads")

T = TypeVar("T")


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


def all_handled(peer: Peer, channel: Channel) -> None:
    """What was sent has come and is handled, and the counters say so."""
    peer.settle()
    stats = channel.client.stats
    assert (stats.handled, stats.dropped) == (stats.delivered, 0)


def test_what_a_handler_raises_while_the_client_closes_is_reported(phx_peer: Peer, router: Router) -> None:
    began, closed, reports = threading.Event(), threading.Event(), list[HandlerError]()

    @router.on("n")
    def late(message: Message[Any]) -> None:
        began.set()
        assert closed.wait(LONG)
        raise ValueError

    with ThreadPoolExecutor(1) as executor:
        options: dict[str, Any] = {"executor": executor, "on_handler_error": reports.append}
        with on_threads(phx_peer, router=router, **options) as channel:
            phx_peer.push(TOPIC, "n")
            assert began.wait(LONG)
            channel.client.abort()
        closed.set()
    assert [type(report.error) for report in reports] == [ValueError]


# ---- who is called, and where ---------------------------------------------------------------------------------------


def test_handlers_run_on_threads_of_the_clients_own(phx_peer: Peer, router: Router) -> None:
    names: list[str] = []
    router.add(lambda message: names.append(threading.current_thread().name), "n")
    with on_threads(phx_peer, router=router):
        phx_peer.push(TOPIC, "n")
        phx_peer.settle()
        assert names[0].startswith("phx-handler")


def test_handlers_run_in_the_users_executor_which_is_left_running(phx_peer: Peer, router: Router) -> None:
    names: list[str] = []
    router.add(lambda message: names.append(threading.current_thread().name), "n")
    with ThreadPoolExecutor(thread_name_prefix="users") as pool:
        with on_threads(phx_peer, router=router, executor=pool):
            phx_peer.push(TOPIC, "n")
            phx_peer.settle()
        assert names[0].startswith("users")
        assert pool.submit(int).result() == 0


# ---- order ----------------------------------------------------------------------------------------------------------


def test_concurrency_lets_a_handler_have_several_in_hand_and_not_more(
    phx_peer: Peer, router: Router, executor: Executor | None
) -> None:
    together = threading.Barrier(4, timeout=LONG)
    reports = Reports()
    router.add(lambda message: together.wait(), "n", concurrency=4)
    with on_threads(phx_peer, router=router, executor=executor, on_handler_error=reports) as channel:
        send_numbers(phx_peer, 8)
        all_handled(phx_peer, channel)
    assert reports.all == []


@pytest.mark.parametrize("concurrency", [1, 2], ids=["as a turn", "as a lane's job"])
def test_a_topic_goes_on_while_the_last_work_of_another_is_held(router: Router, concurrency: int) -> None:
    began, go_on, seen = Flag(), Flag(), list[Any]()

    def compute(message: Message[Any], channel: Channel) -> None:
        while channel.client.stats.delivered < 2:  # the other topic's waits for a thread, and finds this one
            pass
        seen.append(message.payload)

    def hold(message: Message[Any]) -> None:
        began.set()
        go_on.wait()

    router.add(compute, "n")
    router.add(hold, "hold", concurrency=concurrency)
    with joined(router=router) as (channel, wire, _):
        joining = start(channel.client.join, "room:held")
        wire.accept("room:held")
        joining.result(LONG)
        wire.send(push(TOPIC, "n", 0), push("room:held", "hold"))
        began.wait()
        wire.send(push(TOPIC, "n", 1))
        until(lambda: seen == [0, 1])
        go_on.set()
        until(lambda: channel.client.stats.handled == 3)


def test_an_executor_gets_messages_in_batches(phx_peer: Peer, router: Router) -> None:
    class Counting(ThreadPoolExecutor):
        jobs = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            self.jobs += 1
            return super().submit(fn, *args, **kwargs)

    seen: list[Any] = []
    router.add(lambda message: seen.append(message.payload), "n")
    with Counting(1) as counting, on_threads(phx_peer, router=router, executor=counting) as channel:
        blocking = Flag()
        counting.submit(blocking.wait)
        send_numbers(phx_peer, 300)
        blocking.set()
        all_handled(phx_peer, channel)
        assert seen == list(range(300))
        assert counting.jobs < 30


# ---- errors ---------------------------------------------------------------------------------------------------------


def fails(message: Message[Any]) -> None:
    if message.payload == 1:
        raise ValueError("one")


def awaits(message: Message[Any]) -> Any:
    return asyncio.sleep(0) if message.payload == 1 else None


@pytest.mark.parametrize("concurrency", [1, 2])
def test_what_awaits_is_reported_with_its_message_and_harms_nobody(
    concurrency: int, phx_peer: Peer, router: Router, executor: Executor | None
) -> None:
    reports, other = Reports(), list[Any]()
    router.add(awaits, "n", concurrency=concurrency)
    router.add(lambda message: other.append(message.payload), "n")
    with on_threads(phx_peer, router=router, executor=executor, on_handler_error=reports) as channel:
        send_numbers(phx_peer, 5)
        send_numbers(phx_peer, 5)
        all_handled(phx_peer, channel)
        assert reports.told() == [("awaits", 1, "TypeError")] * 2
        assert other == [*range(5), *range(5)]
        assert channel.client.state is SocketState.OPEN


def test_a_coroutine_function_registered_too_late_to_be_refused_is_reported(phx_peer: Peer, router: Router) -> None:
    async def hear(message: Message[Any]) -> None: ...

    reports = Reports()
    with on_threads(phx_peer, router=router, on_handler_error=reports) as channel:
        router.add(hear, "n")
        phx_peer.push(TOPIC, "n")
        all_handled(phx_peer, channel)
        assert "nobody awaits it here" in str(reports.all[0].error)


def test_an_executor_that_is_shut_down_is_reported_for_each_message(phx_peer: Peer, router: Router) -> None:
    reports = Reports()
    pool = ThreadPoolExecutor()
    pool.shutdown()
    router.add(fails, "n")
    with on_threads(phx_peer, router=router, executor=pool, on_handler_error=reports) as channel:
        send_numbers(phx_peer, 3)
        all_handled(phx_peer, channel)
        assert reports.told() == [("fails", number, "RuntimeError") for number in range(3)]


def test_jobs_that_an_executor_cancels_are_reported_too(phx_peer: Peer, router: Router) -> None:
    class Cancelling(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            future: Future[Any] = Future()
            future.cancel()
            return future

    reports = Reports()
    router.add(fails, "n")
    with on_threads(phx_peer, router=router, executor=Cancelling(), on_handler_error=reports) as channel:
        send_numbers(phx_peer, 3)
        all_handled(phx_peer, channel)
        assert reports.told() == [("fails", number, "CancelledError") for number in range(3)]


def test_who_is_told_of_an_error_may_close_the_client(router: Router, executor: Executor | None) -> None:
    told = Flag()
    router.add(fails, "n")

    def close(report: HandlerError) -> None:
        channel.client.close()  # only begins, for it is called from where handlers are waited for
        told.set()

    with joined(router=router, executor=executor, on_handler_error=close, drain_timeout=60) as (channel, wire, _):
        wire.push(TOPIC, "n", 1)
        told.wait()
        wire.let_go(TOPIC)
        channel.client.wait_closed(timeout=LONG)


# ---- the pool -------------------------------------------------------------------------------------------------------


def job(pool: WorkerPool[Callable[[], object]], work: Callable[[], T]) -> "Future[T]":
    """Have the pool do something, and get what it returned or raised."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)
            raise

    pool.add([run])
    return future


def test_a_pool_has_as_many_threads_as_there_is_work_up_to_its_limit() -> None:
    pool = WorkerPool("pool", call, on_error=lambda error: None, limit=3)
    together, names = threading.Barrier(4), set[str]()

    def work() -> None:
        names.add(threading.current_thread().name)
        together.wait(LONG)

    jobs = [job(pool, work) for _ in range(3)]
    together.wait(LONG)
    for one in jobs:
        one.result(LONG)
    for _ in range(50):
        job(pool, lambda: names.add(threading.current_thread().name)).result(LONG)
    assert len(names) == 3
    pool.shutdown()


def test_a_pool_reports_what_work_raises_and_goes_on() -> None:
    errors: list[BaseException] = []
    pool = WorkerPool("pool", call, on_error=errors.append, limit=1)
    with pytest.raises(ZeroDivisionError):
        job(pool, lambda: 1 / 0).result(LONG)
    assert job(pool, lambda: "the next").result(LONG) == "the next"
    assert [type(error) for error in errors] == [ZeroDivisionError]
    pool.shutdown()


def test_a_pool_that_is_shut_down_takes_nothing_and_waits_for_nobody_who_is_busy() -> None:
    pool = WorkerPool("pool", call, on_error=lambda error: None)
    entered, go_on = Flag(), Flag()

    def work() -> None:
        entered.set()
        go_on.wait()

    pool.add([work])
    entered.wait()
    pool.shutdown()
    assert not job(pool, int).done()
    go_on.set()


def test_work_behind_work_that_computes_is_not_forgotten() -> None:
    pool = WorkerPool("pool", call, on_error=lambda error: None, limit=2)
    came = threading.Event()

    def compute() -> None:
        while not came.is_set():
            pass

    computing = job(pool, compute)
    job(pool, came.set).result(LONG)
    computing.result(LONG)
    pool.shutdown()
