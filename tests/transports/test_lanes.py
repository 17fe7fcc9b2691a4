"""The bookkeeping of messages that wait for an executor, with an executor and an adapter that are lists."""

import sys
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from phx_proto.handler import Handler
from phx_proto.message import Message
from phx_transports.batches import Batch, Failure, Progress
from phx_transports.lanes import BATCH, Lane, Outcome
from phx_transports.reports import HandlerError


def handle(message: Message[Any]) -> None: ...


class Host:
    """An adapter that does everything when it is told to."""

    def __init__(self) -> None:
        self.closed = self.halted = self.fail_fast = False
        self.size = 0
        self.refusal: Exception | None = None
        self.errors: list[HandlerError] = []
        self.on_error = self.errors.append
        self.done = 0
        self.submitted: list[tuple[Batch, Callable[[Outcome], None]]] = []
        self._later: list[Callable[[], None]] = []

    def begin_later(self, begin: Callable[[], None]) -> None:
        self._later.append(begin)

    def submit(self, batch: Batch, ended: Callable[[Outcome], None]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append((batch, ended))

    def halt(self) -> None:
        self.halted = True

    def batch_handled(self, progress: Progress, done: int, size: int) -> None:
        self.done += progress.unreported(done)
        self.size += size

    # ---- for tests --------------------------------------------------------------------------------------------------

    def lane(self, *, concurrency: int = 1) -> Lane:
        return Lane(Handler(handle, "n", concurrency=concurrency), "the channel", self)

    def turn(self) -> None:
        later, self._later = self._later, []
        for begin in later:
            begin()

    def end_first(self, failures: list[Failure] | BaseException | None = None) -> list[int]:
        """The first batch under way has come back; gives what was in it."""
        batch, ended = self.submitted.pop(0)
        outcome: Future[list[Failure]] = Future()
        if isinstance(failures, BaseException):
            outcome.set_exception(failures)
        else:
            outcome.set_result(failures or [])
        ended(outcome)
        return [message.payload for message in batch.messages]

    @property
    def sizes(self) -> list[int]:
        return [len(batch.messages) for batch, _ in self.submitted]


def put(lane: Lane, numbers: range) -> None:
    for number in numbers:
        lane.put(Message(topic="t", event="n", payload=number), 100)


@pytest.fixture
def host() -> Host:
    return Host()


def test_what_came_together_goes_together_and_what_comes_then_waits_for_its_end(host: Host) -> None:
    lane = host.lane()
    put(lane, range(3))
    assert host.sizes == []
    host.turn()
    put(lane, range(3, 5))
    host.turn()
    assert host.sizes == [3]
    assert host.end_first() == [0, 1, 2]
    assert host.end_first() == [3, 4]
    assert (host.sizes, host.done) == ([], 5)


def test_a_batch_is_not_larger_than_the_largest(host: Host) -> None:
    put(host.lane(), range(BATCH + 1))
    host.turn()
    assert host.end_first() == [*range(BATCH)]
    assert host.end_first() == [BATCH]


def test_with_concurrency_so_many_are_under_way_and_share_what_waits(host: Host) -> None:
    put(host.lane(concurrency=4), range(100))
    host.turn()
    assert host.sizes == [25, 19, 14, 11]
    host.end_first()
    assert host.sizes == [19, 14, 11, 8]


def test_what_waits_while_nothing_may_be_begun_is_not_forgotten(host: Host) -> None:
    lane = host.lane(concurrency=2)
    for number in range(4):
        put(lane, range(number, number + 1))
        host.turn()
    assert host.sizes == [1, 1]
    assert [host.end_first() for _ in range(4)] == [[0], [1], [2], [3]]


def test_failures_are_told_with_their_messages(host: Host) -> None:
    put(host.lane(), range(3))
    host.turn()
    error = ValueError()
    host.end_first([Failure(1, error)])
    assert [(report.message.payload, report.error) for report in host.errors] == [(1, error)]


def test_a_batch_that_does_not_come_back_is_told_for_each_of_its_messages_and_the_next_begun(host: Host) -> None:
    lane = host.lane()
    put(lane, range(2))
    host.turn()
    put(lane, range(2, 3))
    died = RuntimeError("a worker died")
    host.end_first(died)
    assert [(report.message.payload, report.error) for report in host.errors] == [(0, died), (1, died)]
    assert (host.sizes, host.done) == ([1], 2)


def test_an_executor_that_takes_nothing_is_told_for_each_message_however_many(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("phx_transports.lanes.BATCH", 1)
    host.refusal = RuntimeError("it is shut down")
    batches = 2 * sys.getrecursionlimit()
    put(host.lane(), range(batches))
    host.turn()
    assert (len(host.errors), host.done) == (batches, batches)
    assert {report.error for report in host.errors} == {host.refusal}


def test_once_the_client_is_closed_nothing_is_begun_and_nothing_told(host: Host) -> None:
    lane = host.lane()
    put(lane, range(1))
    host.turn()
    put(lane, range(1, 2))
    host.closed = host.halted = True
    host.turn()
    host.end_first(RuntimeError())
    assert (host.sizes, host.errors, host.done) == ([], [], 0)  # nobody knows that it was handled


def test_a_batch_that_runs_here_skips_what_is_left_of_it_once_no_handler_may_begin(host: Host) -> None:
    put(host.lane(), range(3))
    host.turn()
    ((batch, ended),) = host.submitted
    host.halted = True
    outcome: Future[list[Failure]] = Future()
    outcome.set_result(batch.run())
    ended(outcome)
    assert host.done == 0


def test_the_channel_goes_only_to_whom_it_is_given(host: Host) -> None:
    def answer(message: Message[Any], channel: object) -> None: ...

    for function in (handle, answer):
        put(Lane(Handler(function, "n"), "the channel", host), range(1))
    host.turn()
    assert [batch.channel for batch, _ in host.submitted] == [None, "the channel"]
