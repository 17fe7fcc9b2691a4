"""Handlers on asyncio: the part that is not in behaviour/. On the loop, in executors, as tasks."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from in_memory import TOPIC, on_asyncio, send_numbers
from peer import QUICK, Wire, joined, push, until
from reported import Reports

from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.states import ChannelState, SocketState
from phx_transports.asyncio import Channel
from phx_transports.testing import Peer

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]


@pytest.fixture
def router() -> Router:
    return Router()


class Seen:
    """What handlers saw, from any thread."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def __call__(self, item: Any) -> None:
        self.items.append(item)

    def __len__(self) -> int:
        return len(self.items)


async def all_handled(peer: Peer, channel: Channel) -> None:
    """What was sent has come and is handled, and the counters say so."""
    await peer.settled()
    stats = channel.client.stats
    assert stats.handled == stats.delivered
    assert stats.dropped == 0


# ---- who is called, and where ---------------------------------------------------------------------------------------


async def test_each_handler_gets_each_of_its_messages_once(phx_peer: Peer, router: Router) -> None:
    seen: dict[str, list[Any]] = defaultdict(list)

    @router.on("n")
    async def one(message: Message[Any]) -> None:
        seen["one"].append(message.payload)

    @router.on("n", topic="room:*")
    def two(message: Message[Any]) -> None:
        seen["two"].append(message.payload)

    @router.on("*", topic=TOPIC)
    async def all_of_it(message: Message[Any], channel: Channel) -> None:
        seen[f"all of {channel.topic}"].append((message.event, message.payload))

    @router.on("n", topic="other")
    async def never(message: Message[Any]) -> None:
        seen["never"].append(message)

    async with on_asyncio(phx_peer, router=router) as channel:
        send_numbers(phx_peer, 3)
        phx_peer.push(TOPIC, "m")
        await all_handled(phx_peer, channel)
        assert seen.pop(f"all of {TOPIC}") == [("n", 0), ("n", 1), ("n", 2), ("m", {})]
        assert seen == {"one": [0, 1, 2], "two": [0, 1, 2]}


async def test_coroutine_functions_run_on_the_loop_and_plain_ones_in_the_executor(
    phx_peer: Peer, router: Router
) -> None:
    threads: dict[str, Any] = {}

    @router.on("n")
    async def on_the_loop(message: Message[Any]) -> None:
        threads["loop"] = threading.current_thread()

    @router.on("n")
    def elsewhere(message: Message[Any], channel: Channel) -> None:
        threads["executor"] = threading.current_thread()
        threads["topic"] = channel.topic

    async with on_asyncio(phx_peer, router=router) as channel:
        phx_peer.push(TOPIC, "n")
        await all_handled(phx_peer, channel)
        assert threads["loop"] is threading.main_thread()
        assert threads["executor"].name.startswith("phx-handler")
        assert threads["topic"] == TOPIC


async def test_plain_handlers_run_in_the_users_executor_which_is_left_running(phx_peer: Peer, router: Router) -> None:
    seen = Seen()
    router.add(lambda message: seen(threading.current_thread().name), "n")
    with ThreadPoolExecutor(thread_name_prefix="users") as executor:
        async with on_asyncio(phx_peer, router=router, executor=executor):
            phx_peer.push(TOPIC, "n")
            await phx_peer.settled()
        assert seen.items[0].startswith("users")
        assert executor.submit(int).result() == 0


# ---- order ----------------------------------------------------------------------------------------------------------


def async_handler(seen: Callable[[Any], None]) -> Callable[..., Any]:
    async def handle(message: Message[Any], channel: Channel) -> None:
        seen((channel.topic, message.payload))

    return handle


def suspending_handler(seen: Callable[[Any], None]) -> Callable[..., Any]:
    async def handle(message: Message[Any], channel: Channel) -> None:
        for _ in range(message.payload % 3):
            await asyncio.sleep(0)
        seen((channel.topic, message.payload))

    return handle


def plain_handler(seen: Callable[[Any], None]) -> Callable[..., Any]:
    def handle(message: Message[Any], channel: Channel) -> None:
        seen((channel.topic, message.payload))

    return handle


@pytest.mark.parametrize("kind", [async_handler, suspending_handler, plain_handler])
async def test_each_topics_messages_are_handled_in_order_under_a_flood(
    kind: Any, phx_peer: Peer, router: Router
) -> None:
    seen = Seen()
    router.add(kind(seen), "n")
    topics = [f"room:{number}" for number in range(4)]
    phx_peer.allow_join("room:*")
    options = ClientOptions(flow=FlowLimits(high=50, low=20))  # reading pauses all the time
    async with on_asyncio(phx_peer, router=router, options=options) as channel:
        for topic in topics:
            await channel.client.join(topic)
        for number in range(250):
            for topic in topics:
                phx_peer.push(topic, "n", number)
        await all_handled(phx_peer, channel)
        for topic in topics:
            assert [number for where, number in seen.items if where == topic] == list(range(250))


async def test_concurrency_lets_a_coroutine_handler_have_several_in_hand(phx_peer: Peer, router: Router) -> None:
    now = most = 0
    several, go_on = asyncio.Event(), asyncio.Event()

    @router.on("n", concurrency=3)
    async def work(message: Message[Any]) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == 3:
            several.set()
        await go_on.wait()
        now -= 1

    async with on_asyncio(phx_peer, router=router) as channel:
        send_numbers(phx_peer, 10)
        await several.wait()
        go_on.set()
        await all_handled(phx_peer, channel)
        assert (now, most) == (0, 3)


async def test_concurrency_lets_a_plain_handler_have_several_in_hand(phx_peer: Peer, router: Router) -> None:
    together = threading.Barrier(4, timeout=5)
    reports = Reports()
    router.add(lambda message: together.wait(), "n", concurrency=4)
    with ThreadPoolExecutor(4) as executor:
        async with on_asyncio(phx_peer, router=router, executor=executor, on_handler_error=reports) as channel:
            send_numbers(phx_peer, 4)
            await all_handled(phx_peer, channel)
    assert reports.all == []


async def test_plain_handlers_get_their_messages_in_batches(phx_peer: Peer, router: Router) -> None:
    class Counting(Executor):
        def __init__(self) -> None:
            self.jobs = 0

        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            self.jobs += 1
            future: Future[Any] = Future()
            future.set_result(fn(*args, **kwargs))
            return future

    seen, counting = Seen(), Counting()
    router.add(lambda message: seen(message.payload), "n")
    async with on_asyncio(phx_peer, router=router, executor=counting) as channel:
        send_numbers(phx_peer, 300)
        await all_handled(phx_peer, channel)
        assert seen.items == list(range(300))
        assert counting.jobs < 30


# ---- errors ---------------------------------------------------------------------------------------------------------


async def fails(message: Message[Any]) -> None:
    if message.payload == 1:
        raise ValueError("one")


def plainly_fails(message: Message[Any]) -> None:
    if message.payload == 1:
        raise ValueError("one")


async def cancels(message: Message[Any]) -> None:
    if message.payload == 1:
        raise asyncio.CancelledError


def plainly_cancels(message: Message[Any]) -> None:
    if message.payload == 1:
        raise asyncio.CancelledError


async def awaits_a_cancelled_task(message: Message[Any]) -> None:
    if message.payload == 1:
        task = asyncio.create_task(asyncio.sleep(1))
        task.cancel()
        await task


async def cancels_itself(message: Message[Any]) -> None:
    if message.payload == 1:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (fails, "ValueError"),
        (plainly_fails, "ValueError"),
        (cancels, "CancelledError"),
        (plainly_cancels, "CancelledError"),
        (awaits_a_cancelled_task, "CancelledError"),
        (cancels_itself, "CancelledError"),
    ],
)
async def test_what_a_handler_raises_is_reported_with_its_message_and_harms_nobody(
    handler: Any, error: str, concurrency: int, phx_peer: Peer, router: Router
) -> None:
    reports, other = Reports(), Seen()

    async def unaffected(message: Message[Any]) -> None:
        other(message.payload)

    router.add(handler, "n", concurrency=concurrency)
    router.add(unaffected, "n", concurrency=2)
    async with on_asyncio(phx_peer, router=router, on_handler_error=reports) as channel:
        send_numbers(phx_peer, 5)
        send_numbers(phx_peer, 5)
        await all_handled(phx_peer, channel)
        assert reports.told() == [(handler.__name__, 1, error)] * 2
        if handler is not cancels_itself or concurrency > 1:  # it took the message's other handlers with it
            assert sorted(other.items) == sorted([*range(5)] * 2)
        assert channel.client.state is SocketState.OPEN


async def stops_iteration(message: Message[Any]) -> None:
    next(iter(()))


def plainly_stops_iteration(message: Message[Any]) -> None:
    next(iter(()))


@pytest.mark.parametrize(
    ("handler", "error"),
    [
        (fails, ValueError),
        (plainly_fails, ValueError),
        (cancels, RuntimeError),
        (stops_iteration, RuntimeError),
        (plainly_stops_iteration, RuntimeError),
    ],
)
async def test_fail_fast_ends_the_client_with_the_handlers_error(
    handler: Any, error: type[Exception], phx_peer: Peer, router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    router.add(handler, "n")
    async with on_asyncio(phx_peer, router=router, fail_fast=True) as channel, channel.messages() as messages:
        running = asyncio.create_task(channel.client.run())
        phx_peer.push(TOPIC, "n", 1)
        with pytest.raises(error):
            await running
        assert channel.client.state is SocketState.CLOSED
        assert channel.state is ChannelState.CLOSED
        assert (await anext(messages)).payload == 1
        with pytest.raises(error):
            await anext(messages)
        assert not phx_peer.connected
        assert "failed on event" in caplog.text


async def test_fail_fast_takes_the_first_error(phx_peer: Peer, router: Router) -> None:
    go_on = asyncio.Event()

    async def late(message: Message[Any]) -> None:
        try:
            await go_on.wait()
        finally:
            raise KeyError("late")

    router.add(late, "n", concurrency=2)
    router.add(fails, "n")
    async with on_asyncio(phx_peer, router=router, fail_fast=True) as channel:
        phx_peer.push(TOPIC, "n", 1)
        with pytest.raises(ValueError, match="one"):
            await channel.client.run()


async def test_an_executor_that_is_shut_down_is_reported_for_each_message(phx_peer: Peer, router: Router) -> None:
    reports = Reports()
    executor = ThreadPoolExecutor()
    executor.shutdown()
    router.add(plainly_fails, "n")
    async with on_asyncio(phx_peer, router=router, executor=executor, on_handler_error=reports) as channel:
        send_numbers(phx_peer, 3)
        await all_handled(phx_peer, channel)
        assert reports.told() == [("plainly_fails", number, "RuntimeError") for number in range(3)]


async def test_jobs_that_an_executor_cancels_are_reported_too(phx_peer: Peer, router: Router) -> None:
    class Cancelling(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
            future: Future[Any] = Future()
            future.cancel()
            return future

    reports = Reports()
    router.add(plainly_fails, "n")
    async with on_asyncio(phx_peer, router=router, executor=Cancelling(), on_handler_error=reports) as channel:
        send_numbers(phx_peer, 3)
        await all_handled(phx_peer, channel)
        assert reports.told() == [("plainly_fails", number, "CancelledError") for number in range(3)]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_handler_whose_task_is_cancelled_by_somebody_is_reported_and_the_rest_handled(
    concurrency: int, phx_peer: Peer, router: Router
) -> None:
    reports, seen = Reports(), Seen()
    at_work = asyncio.get_running_loop().create_future()

    async def work(message: Message[Any]) -> None:
        if message.payload == 0:
            at_work.set_result(asyncio.current_task())
            await asyncio.Event().wait()
        seen(message.payload)

    router.add(work, "n", concurrency=concurrency)
    async with on_asyncio(phx_peer, router=router, on_handler_error=reports) as channel:
        send_numbers(phx_peer, 300)
        (await at_work).cancel()
        await all_handled(phx_peer, channel)
        assert seen.items == list(range(1, 300))
        assert reports.told() == [("work", 0, "CancelledError")]


# ---- a flood, and back-pressure -------------------------------------------------------------------------------------


async def flood(wire: Wire, count: int, size: int) -> None:
    await wire.send(*(push(TOPIC, "n", [number, "x" * size]) for number in range(count)))


async def test_a_flood_against_a_slow_concurrent_handler_pauses_reading_and_loses_nothing(router: Router) -> None:
    seen = Seen()
    go_on = asyncio.Event()

    async def slow(message: Message[Any]) -> None:
        await go_on.wait()
        seen(message.payload[0])

    router.add(slow, "n", concurrency=2)
    options = replace(QUICK, flow=FlowLimits(high=100, low=20), heartbeat=0.05)
    async with joined(router=router, options=options) as (channel, wire, _):
        client = channel.client
        wire.answers_heartbeats = False
        sending = asyncio.create_task(flood(wire, 2000, 30_000))
        await until(lambda: client.stats.backlog >= 50)
        wire.heartbeats = 0
        await until(lambda: wire.heartbeats >= 3)
        assert not sending.done()  # 60 MB do not fit between the two: the server feels it
        assert client.stats.delivered < 300
        wire.answers_heartbeats = True
        go_on.set()
        await sending
        await until(lambda: len(seen) == 2000 and client.stats.backlog == 0)
        assert sorted(seen.items) == list(range(2000))
        assert client.stats.reconnects == 0


@pytest.mark.parametrize("handlers", [1, 2])
async def test_a_message_that_waits_counts_once_however_many_handlers_it_waits_for(
    phx_peer: Peer, router: Router, handlers: int
) -> None:
    go_on = threading.Event()
    for _ in range(handlers):
        router.add(lambda message: go_on.wait(5), "n")
    async with on_asyncio(phx_peer, router=router) as channel:
        proto, most = channel.client._proto, 0  # `client.stats` would look after what is on its way
        send_numbers(phx_peer, 300)
        for _ in range(100):  # turns of the loop
            most = max(most, proto.stats.backlog)
            await asyncio.sleep(0)
        go_on.set()
        assert most == 300
        await all_handled(phx_peer, channel)


async def test_close_lets_plain_handlers_finish_too(phx_peer: Peer, router: Router) -> None:
    seen = Seen()
    entered, go_on = threading.Event(), threading.Event()

    def work(message: Message[Any]) -> None:
        entered.set()
        go_on.wait(5)
        seen(message.payload)

    router.add(work, "n")
    async with on_asyncio(phx_peer, router=router) as channel:
        send_numbers(phx_peer, 600)
        await until(entered.is_set)
        channel.client.stop()
        go_on.set()
        await channel.client.wait_closed()
        assert seen.items == list(range(600))
        assert channel.client.stats.backlog == 0


async def test_abort_does_not_wait_for_plain_handlers(phx_peer: Peer, router: Router) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def work(message: Message[Any]) -> None:
        entered.set()
        go_on.wait(5)

    router.add(work, "n")
    async with on_asyncio(phx_peer, router=router) as channel:
        send_numbers(phx_peer, 3)
        await until(entered.is_set)
        await channel.client.abort()
        assert not go_on.is_set()
        go_on.set()


async def test_the_counters_add_up_with_every_kind_of_consumer(phx_peer: Peer, router: Router) -> None:
    seen = Seen()
    for handler in (async_handler(seen), suspending_handler(seen), plain_handler(seen)):
        router.add(handler, "n")
        router.add(handler, "n", concurrency=3)
    async with on_asyncio(phx_peer, router=router) as channel, channel.stream() as stream:
        send_numbers(phx_peer, 100)
        phx_peer.push(TOPIC, "m")
        read = [await anext(stream) for _ in range(101)]
        assert len(read) == 101
        await all_handled(phx_peer, channel)
        assert len(seen) == 600
        stats = channel.client.stats
        assert (stats.received, stats.delivered, stats.handled, stats.unhandled) == (102, 101, 101, 0)
