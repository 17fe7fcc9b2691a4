"""How messages are shared out among an executor's batches, with an executor and an adapter that are lists."""

import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import pytest

from phx_proto.handlers.handler import Handler
from phx_proto.message import Message
from phx_proto.queues import BATCH, LARGEST_TURN, Backlog, ConcurrentQueue, Delivery, DeliveryQueue, HandlerQueue, Place
from phx_transports.client.batches import Batch, Failure
from phx_transports.client.dispatcher import Host as DispatcherHost
from phx_transports.client.dispatcher import Outcome, workers_of
from phx_transports.client.reports import HandlerError


def handle(message: Message[Any]) -> None: ...


def answer(message: Message[Any], channel: object) -> None: ...


class Workers(Executor):
    """An executor that is known by its name alone."""


class Topic:
    """A channel, as far as a queue needs it."""

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.join_ref: str | None = "1"
        self.context: Any = f"the channel of {topic}"


class Host(DispatcherHost):
    """An adapter that does everything when it is told to."""

    def __init__(self, workers: int = 1, *, fail_fast: bool = False) -> None:
        self.executor = ThreadPoolExecutor(workers)  # which gets nothing
        self.errors: list[HandlerError] = []
        super().__init__(self.executor, on_error=self.errors.append, fail_fast=fail_fast, lock=nullcontext())
        self.refusal: Exception | None = None
        self.done = 0
        self.backlog = Backlog()
        self.submitted: list[tuple[Executor, Batch, Callable[[Outcome], None]]] = []
        self._later: list[Callable[[], None]] = []

    def call_soon(self, call: Callable[[], None]) -> None:
        self._later.append(call)

    def submit(self, executor: Executor, batch: Batch, ended: Callable[[Outcome], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append((executor, batch, ended))

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        self.done += len(deliveries)

    # ---- for tests --------------------------------------------------------------------------------------------------

    def queue(self, topic: str = "t", handler: Handler | None = None) -> HandlerQueue:
        handler = Handler(handle, "n") if handler is None else handler
        kind = HandlerQueue if handler.concurrency is None else ConcurrentQueue
        line = DeliveryQueue(None, self.backlog, exact=False)
        line.channel = Topic(topic)
        return kind(handler, Place.EXECUTOR, line)

    def put(self, queue: HandlerQueue, numbers: range, size: int = 100) -> None:
        """What the core does with messages."""
        for number in numbers:
            self.backlog.add(1, size)
            if queue.put((queue.handlers, Message(topic=queue.channel.topic, event="n", payload=number), size)):
                self.execute([queue])

    def turn(self) -> None:
        later, self._later = self._later, []
        assert len({call.__self__ for call in later}) == len(later)  # type: ignore[attr-defined]  # each is asked for once
        for call in later:
            call()

    def end_first(self, failures: list[Failure] | BaseException | None = None) -> list[int]:
        """The first batch under way has come back; gives what was in it."""
        _, batch, ended = self.submitted.pop(0)
        outcome: Future[list[Failure]] = Future()
        if isinstance(failures, BaseException):
            outcome.set_exception(failures)
        else:
            outcome.set_result(failures or [])
        ended(outcome)
        return [message.payload for message in batch.messages]

    @property
    def sizes(self) -> list[int]:
        return [len(batch.messages) for _, batch, _ in self.submitted]

    @property
    def topics(self) -> list[list[str]]:
        return [[message.topic for message in batch.messages] for _, batch, _ in self.submitted]


@pytest.fixture
def host() -> Host:
    return Host()


def test_what_came_together_goes_together_and_what_comes_then_waits_for_its_end(host: Host) -> None:
    queue = host.queue()
    host.put(queue, range(3))
    assert host.sizes == []
    host.turn()
    host.put(queue, range(3, 5))
    host.turn()
    assert host.sizes == [3]
    assert host.end_first() == [0, 1, 2]
    assert host.end_first() == [3, 4]
    assert (host.sizes, host.done) == ([], 5)


def test_a_queue_that_was_emptied_is_given_out_again_with_its_next_message(host: Host) -> None:
    queue = host.queue()
    for number in range(3):
        host.put(queue, range(number, number + 1))
        host.turn()
        assert host.end_first() == [number]


def test_a_queue_is_taken_from_and_its_turn_ended_under_the_lock(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.lock = lock = threading.Lock()
    locked: list[tuple[str, bool]] = []
    take, end_turn = HandlerQueue.take, HandlerQueue.end_turn

    def taking(queue: HandlerQueue, limit: int = BATCH) -> list[Delivery]:
        locked.append(("take", lock.locked()))
        return take(queue, limit)

    def ending(queue: HandlerQueue) -> None:
        locked.append(("end", lock.locked()))
        end_turn(queue)

    monkeypatch.setattr(HandlerQueue, "take", taking)
    monkeypatch.setattr(HandlerQueue, "end_turn", ending)
    host.put(host.queue(), range(1))
    host.turn()
    host.end_first()
    assert locked == [("take", True), ("end", True)]


def test_many_topics_with_a_message_each_go_together(host: Host) -> None:
    handler = Handler(handle, "n")
    for number in range(BATCH + 1):
        host.put(host.queue(f"t{number}", handler), range(1))
    host.turn()
    assert host.sizes == [BATCH]
    host.end_first()
    assert host.topics == [[f"t{BATCH}"]]


def test_topics_are_shared_out_among_as_many_batches_as_there_are_workers() -> None:
    host, handler = Host(workers=3), Handler(handle, "n")
    for number in range(7):
        host.put(host.queue(f"t{number}", handler), range(2))
    host.turn()
    assert [sorted(set(topics)) for topics in host.topics] == [["t0", "t1", "t2"], ["t3", "t4"], ["t5", "t6"]]


def test_a_topic_is_in_one_batch_at_a_time_however_many_workers_are_idle() -> None:
    host = Host(workers=4)
    queue = host.queue()
    host.put(queue, range(300))
    host.turn()
    assert host.sizes == [BATCH]
    assert host.end_first() == [*range(BATCH)]
    assert host.end_first() == [*range(BATCH, 300)]


def test_with_concurrency_so_many_are_under_way_and_share_what_waits() -> None:
    host = Host(workers=8)
    host.put(host.queue(handler=Handler(handle, "n", concurrency=4)), range(100))
    host.turn()
    assert host.sizes == [25, 19, 14, 11]
    host.end_first()
    assert host.sizes == [19, 14, 11, 8]


def test_a_batch_of_large_messages_is_small(host: Host) -> None:
    handler = Handler(handle, "n")
    for number in range(4):
        host.put(host.queue(f"t{number}", handler), range(3), size=LARGEST_TURN // 2)
    host.turn()
    assert host.sizes == [2]


def test_a_handler_may_have_an_executor_of_its_own(host: Host) -> None:
    other = ThreadPoolExecutor(1)
    host.put(host.queue(handler=Handler(handle, "n", executor=other)), range(1))
    host.put(host.queue(), range(1))
    host.turn()
    assert [executor for executor, _, _ in host.submitted] == [other, host.executor]


def test_failures_are_told_with_their_messages(host: Host) -> None:
    host.put(host.queue(), range(3))
    host.turn()
    error, batch = ValueError(), host.submitted[0][1]
    host.end_first([Failure(1, error)])
    (report,) = host.errors
    assert (report.handler, report.message.payload, report.error) == (batch.handler, 1, error)
    assert (host.done, host.dispatcher._shares) == (3, set())


def test_with_fail_fast_a_batch_ends_with_its_first_error_and_the_rest_is_not_handled() -> None:
    host = Host(fail_fast=True)
    host.put(host.queue(), range(4))
    host.turn()
    ((_, batch, _),) = host.submitted
    assert batch.fail_fast
    host.end_first([Failure(1, ValueError())])
    assert host.done == 2


def test_a_batch_that_does_not_come_back_is_told_for_each_of_its_messages_and_the_next_begun(host: Host) -> None:
    queue = host.queue()
    host.put(queue, range(2))
    host.turn()
    host.put(queue, range(2, 3))
    died = RuntimeError("a worker died")
    host.end_first(died)
    assert [(report.message.payload, report.error) for report in host.errors] == [(0, died), (1, died)]
    assert (host.sizes, host.done) == ([1], 2)


def test_an_executor_that_takes_nothing_is_told_for_each_message_however_many(host: Host) -> None:
    host.refusal = RuntimeError("it is shut down")
    batches = 2 * sys.getrecursionlimit()
    host.put(host.queue(), range(batches), size=LARGEST_TURN)  # so that each goes alone
    host.turn()
    assert (len(host.errors), host.done) == (batches, batches)
    assert {report.error for report in host.errors} == {host.refusal}


def test_once_the_client_is_closed_nothing_is_begun_and_nothing_told(host: Host) -> None:
    queue = host.queue()
    host.put(queue, range(1))
    host.turn()
    host.put(queue, range(1, 2))
    host.closed = host.halted = True
    host.turn()
    host.end_first(RuntimeError())
    assert (host.sizes, host.errors, host.done) == ([], [], 0)  # nobody knows that it was handled


def test_what_a_handler_raised_in_a_batch_that_came_back_is_told_also_when_the_client_is_closed(host: Host) -> None:
    host.put(host.queue(), range(2))
    host.turn()
    host.closed = host.halted = True
    error = ValueError()
    host.end_first([Failure(1, error)])
    assert [report.error for report in host.errors] == [error]


def test_a_message_on_which_the_handler_raised_counts_when_that_is_told() -> None:
    host, reported, told = Host(), list[int](), list[int]()

    def watch(message: Message[Any]) -> None:
        reported.extend(delivered.payload for _, delivered, _ in host.dispatcher.progress())
        if message.payload == 1:
            raise ValueError

    host.on_error = lambda report: told.append(host.done)
    host.put(host.queue(handler=Handler(watch, "n")), range(4))
    host.turn()
    ((_, batch, ended),) = host.submitted
    outcome: Future[list[Failure]] = Future()
    outcome.set_result(batch.run())
    assert reported == [0]
    ended(outcome)
    assert (told, host.done) == ([0], 3)


def test_a_batch_that_runs_here_skips_what_is_left_of_it_once_no_handler_may_begin(host: Host) -> None:
    host.put(host.queue(), range(3))
    host.turn()
    ((_, batch, ended),) = host.submitted
    host.halt()
    outcome: Future[list[Failure]] = Future()
    outcome.set_result(batch.run())
    ended(outcome)
    assert host.done == 0


def test_what_a_batch_has_done_is_told_while_it_runs_and_once() -> None:
    host, reported = Host(), list[int]()

    def watch(message: Message[Any]) -> None:
        reported.extend(delivered.payload for _, delivered, _ in host.dispatcher.progress())

    host.put(host.queue(handler=Handler(watch, "n")), range(3))
    host.turn()
    ((_, batch, ended),) = host.submitted
    outcome: Future[list[Failure]] = Future()
    outcome.set_result(batch.run())
    assert reported == [0, 1]
    ended(outcome)
    assert host.done == 1


def test_the_channel_goes_only_to_whom_it_is_given() -> None:
    host = Host()
    first, second = Handler(handle, "n"), Handler(answer, "n")
    for topic in ("a", "b"):
        host.put(host.queue(topic, first), range(1))
        host.put(host.queue(topic, second), range(1))
    host.turn()
    assert [batch.channels for _, batch, _ in host.submitted] == [None, ["the channel of a", "the channel of b"]]


def test_the_workers_of_an_executor_are_counted_where_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    without = ThreadPoolExecutor(7)
    with ProcessPoolExecutor(3) as processes:
        assert (workers_of(without), workers_of(processes)) == (7, 3)
    del without._max_workers  # a later Python may not have it
    assert workers_of(without) == 1
    for processors, workers in ((4, 5), (None, 2)):
        monkeypatch.setattr("os.cpu_count", lambda known=processors: known)
        assert workers_of(Workers()) == workers


def test_handlers_that_have_nothing_to_do_are_forgotten(host: Host) -> None:
    for _ in range(3):
        host.put(host.queue(), range(1))
        host.turn()
        host.end_first()
    assert len(host.dispatcher._handlers) == 1
