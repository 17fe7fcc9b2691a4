"""What delays what: a slow consumer delays only the consumers named in README's table."""

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from peer import push
from serving_in_thread import LONG, QUICK, Flag, start, until

from phx_proto.errors import InvalidHandler
from phx_proto.flow import FlowLimits
from phx_proto.message import Message

from .adapters import TOPIC, Adapter
from .faces import Channel
from .shared import in_every_way, numbers, settled, several_calls


class Counting(Executor):
    """A thread pool that counts its jobs, and runs one at a time."""

    def __init__(self) -> None:
        self.jobs = 0
        self._pool = ThreadPoolExecutor(1)

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> "Future[Any]":
        self.jobs += 1
        return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


@in_every_way
def test_a_handler_may_wait_for_the_next_message_of_its_own_topic(adapter: Adapter) -> None:
    answers: list[Any] = []
    handlers = adapter.handlers()

    @handlers.on("ask")
    def ask(message: Message[Any], channel: Channel) -> None:
        answers.append(channel.wait_for("answer", timeout=LONG).payload)

    with adapter.joined(router=handlers) as (channel, wire, _):
        wire.push(TOPIC, "ask")

        def answered() -> bool:
            wire.push(TOPIC, "answer", 42)  # one of them comes after it has begun to wait
            return bool(answers)

        until(answered)
        assert answers == [42]
        until(lambda: channel.client.stats.backlog == 0)


def test_a_handler_may_read_a_stream_of_its_own_topic(adapter: Adapter) -> None:
    seen: list[Any] = []
    handlers = adapter.handlers()

    @handlers.on("read")
    def read(message: Message[Any], channel: Channel) -> None:
        with channel.messages() as messages:
            channel.cast("reading")
            seen.extend(messages.payloads(3))

    with adapter.joined(router=handlers) as (channel, wire, _):
        wire.push(TOPIC, "read")
        wire.expect("reading")
        wire.send(*numbers(3))
        until(lambda: len(seen) == 3)
        assert seen == [0, 1, 2]
        until(lambda: channel.client.stats.backlog == 0)


@several_calls
def test_a_stream_has_its_messages_while_a_handler_is_slow(adapter: Adapter) -> None:
    go_on = Flag()
    handlers = adapter.handlers()
    handlers.add(lambda message: adapter.wait(go_on), "n")
    with adapter.joined(router=handlers) as (channel, wire, _), channel.messages() as messages:
        wire.send(*numbers(5))
        assert messages.payloads(5) == [0, 1, 2, 3, 4]
        assert channel.client.stats.backlog == 5  # for the handler is not done with the first
        go_on.set()
        settled(channel.client, 5)


@several_calls
def test_a_handler_with_a_queue_of_its_own_is_not_held_up_by_its_topics_line(adapter: Adapter) -> None:
    slow, quick = list[Any](), list[Any]()
    go_on = Flag()
    handlers = adapter.handlers()

    @handlers.on("n")
    def in_line(message: Message[Any]) -> None:
        adapter.wait(go_on)
        slow.append(message.payload)

    @handlers.on("n", concurrency=1)
    def apart(message: Message[Any]) -> None:
        quick.append(message.payload)

    with adapter.joined(router=handlers) as (channel, wire, _):
        wire.send(*numbers(5))
        until(lambda: len(quick) == 5)
        assert (quick, slow) == ([0, 1, 2, 3, 4], [])
        go_on.set()
        settled(channel.client, 5)


def test_the_topics_line_is_one_over_all_events(adapter: Adapter) -> None:
    done: list[str] = []
    handlers = adapter.handlers()

    @handlers.on("opened")
    def opened(message: Message[Any], channel: Channel) -> None:
        channel.push("tell more")
        done.append("opened")

    @handlers.on("closed")
    def closed(message: Message[Any]) -> None:
        done.append("closed")

    with adapter.joined(router=handlers) as (channel, wire, _):
        wire.send(push(TOPIC, "opened"), push(TOPIC, "closed"))
        wire.reply(wire.expect("tell more"))
        settled(channel.client, 2)
        assert done == ["opened", "closed"]


@several_calls
def test_slow_consumers_of_every_kind_hold_up_reading_and_nothing_is_lost(adapter: Adapter) -> None:
    line, own, plain = list[Any](), list[Any](), list[Any]()
    go_on, gate = Flag(), threading.Event()
    handlers = adapter.handlers()

    @handlers.on("n")
    def in_line(message: Message[Any]) -> None:
        adapter.wait(go_on)
        line.append(message.payload[0])

    @handlers.on("n", concurrency=1)
    def apart(message: Message[Any]) -> None:
        adapter.wait(go_on)
        own.append(message.payload[0])

    with ThreadPoolExecutor(2) as pool:

        def work(message: Message[Any]) -> None:
            gate.wait(LONG)
            plain.append(message.payload[0])

        handlers.native.add(work, "n", executor=pool)
        options = replace(QUICK, flow=FlowLimits(high=50, low=10))
        with adapter.joined(router=handlers, options=options) as (channel, wire, _), channel.messages() as messages:
            sending = start(wire.send, *(push(TOPIC, "n", [number, "x" * 1000]) for number in range(5000)))
            until(lambda: channel.client.stats.backlog >= 50)
            most = channel.client.stats.backlog
            go_on.set()
            gate.set()
            for number in range(5000):
                assert next(messages).payload[0] == number
                most = max(most, channel.client.stats.backlog)
            sending.result(LONG)
            settled(channel.client, 5000)
            assert line == own == plain == [*range(5000)]
            assert most < 1000, "reading went on"


# ---- executors ------------------------------------------------------------------------------------------------------


@several_calls
def test_five_hundred_topics_cost_an_executor_few_jobs(adapter: Adapter) -> None:
    seen: dict[str, list[Any]] = {}
    executor = Counting()
    handlers = adapter.handlers()
    handlers.native.add(lambda message: seen.setdefault(message.topic, []).append(message.payload), "n")
    topics = [f"room:{number}" for number in range(500)]
    with executor, adapter.connected(router=handlers, executor=executor) as (client, wire):
        for topic in topics:
            adapter.join(client, wire, topic)
        wire.burst(*(push(topic, "n", number) for number in range(10) for topic in topics))
        settled(client, 5000)
        assert seen == {topic: [*range(10)] for topic in topics}
        assert executor.jobs < 200


@several_calls
def test_an_executor_may_be_given_for_one_handler(adapter: Adapter) -> None:
    threads: dict[str, set[str]] = {"own": set(), "other": set()}
    handlers = adapter.handlers()
    with ThreadPoolExecutor(1, thread_name_prefix="computing") as pool:
        handlers.native.add(lambda message: threads["own"].add(threading.current_thread().name), "n", executor=pool)
        handlers.native.add(lambda message: threads["other"].add(threading.current_thread().name), "n")
        with adapter.joined(router=handlers) as (channel, wire, _):
            wire.send(*numbers(20))
            settled(channel.client, 20)
    assert threads["own"] == {"computing_0"}
    assert not any(name.startswith("computing") for name in threads["other"])


@pytest.mark.parametrize("adapter", ["wsproto"], indirect=True)
def test_where_there_is_one_thread_an_executor_is_refused(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    with adapter.joined(router=handlers) as (channel, _, _), ThreadPoolExecutor(1) as pool:
        with pytest.raises(InvalidHandler, match="one thread"):
            channel.add(lambda message: None, "n", executor=pool)
        handlers.native.add(lambda message: None, "n", executor=pool)
        with pytest.raises(InvalidHandler, match="one thread"):
            channel.client.channel("room:2")
