"""The batches of an executor's worker, and their results; without any executor."""

import asyncio
import pickle
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
from jobs import Demanding, Holding

from phx_proto.errors import InvalidHandler, PayloadMismatch
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.client.batches import Batch, Failure, PortabilityCheck, WorkerError, refuse_coroutine

MESSAGES: list[Message[Any]] = [Message(topic="t", event="e", payload=number) for number in range(4)]


def batch(function: Callable[..., Any], messages: list[Message[Any]] = MESSAGES, **options: Any) -> Batch:
    return Batch(Handler(function, "e", **options), messages)


# ---- how it is run --------------------------------------------------------------------------------------------------


def test_messages_are_handled_in_order() -> None:
    seen: list[int] = []
    assert batch(lambda message: seen.append(message.payload)).run() == []
    assert seen == [0, 1, 2, 3]


def test_a_handler_that_takes_the_channel_gets_it() -> None:
    seen: list[object] = []
    Batch(Handler(lambda message, channel: seen.extend((message, channel)), "e"), MESSAGES[:1], ["the channel"]).run()
    assert seen == [MESSAGES[0], "the channel"]


@pytest.mark.parametrize("error", [ValueError("odd"), asyncio.CancelledError(), StopIteration()])
def test_what_is_raised_on_one_message_is_told_and_the_next_is_handled(error: BaseException) -> None:
    seen: list[int] = []

    def handle(message: Message[int]) -> None:
        if message.payload % 2:
            raise error
        seen.append(message.payload)

    assert batch(handle).run() == [Failure(1, error), Failure(3, error)]
    assert seen == [0, 2]


def test_payloads_are_decoded_where_the_batch_is_run_and_one_that_does_not_fit_is_told() -> None:
    seen: list[Any] = []
    messages = [Message[Any](topic="t", event="e", payload=msgspec.Raw(raw)) for raw in (b"1", b'"secret"', b"3")]
    (failure,) = batch(lambda message: seen.append(message.payload), messages, payload_type=int).run()
    assert seen == [1, 3]
    assert failure.index == 1
    assert isinstance(failure.error, PayloadMismatch)
    assert "secret" not in str(failure.error)


def odd(message: Message[int]) -> None:
    if message.payload % 2:
        raise ValueError


def test_fail_fast_ends_a_batch_with_its_first_error_here_and_elsewhere() -> None:
    here = Batch(Handler(odd, "e"), MESSAGES, fail_fast=True)
    elsewhere = pickle.loads(pickle.dumps(here))
    assert len(elsewhere.run()) == 1
    failures = here.run()
    assert [failure.index for failure in failures] == [1]
    assert here.done(failures) == 2
    assert Batch(Handler(odd, "e"), MESSAGES, fail_fast=True).done(failures) == 2  # it was run elsewhere
    assert Batch(Handler(odd, "e"), MESSAGES).done(failures) == len(MESSAGES)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_asks_for_the_end_is_told_and_the_next_is_handled_for_the_end_is_graceful(
    error: type[BaseException],
) -> None:
    def handle(message: Message[int]) -> None:
        if message.payload == 1:
            raise error

    one = Batch(Handler(handle, "e"), MESSAGES, fail_fast=True)
    (failure,) = one.run()
    assert (failure.index, type(failure.error), one.progress.done) == (1, error, len(MESSAGES))


def test_a_coroutine_that_a_plain_function_returns_is_an_error_and_not_left_unawaited() -> None:
    async def work() -> None: ...

    (failure,) = batch(lambda message: work(), MESSAGES[:1]).run()
    assert isinstance(failure.error, TypeError)
    assert "async def" in str(failure.error)


def test_no_payload_shows_when_a_batch_is_shown() -> None:
    shown = repr(batch(double, [Message[Any](topic="t", event="e", payload="secret")]))
    assert shown == f"Batch({__name__}.double, 1 messages)"


# ---- the way there --------------------------------------------------------------------------------------------------


def double(message: Message[int]) -> None:
    assert message.payload in range(4)


def answer(message: Message[int], channel: object) -> None: ...


def locked(lock: object, message: Message[int]) -> None: ...


async def on_the_loop(message: Message[int], channel: object) -> None: ...


class Balance(msgspec.Struct):
    cents: int


def test_a_batch_can_travel_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(batch(double))).run() == []


@pytest.fixture(scope="module")
def processes() -> Iterator[Executor]:
    """None of them is ever started: nobody submits anything."""
    with ProcessPoolExecutor(1) as pool:
        yield pool


@contextmanager
def refused(*words: str) -> Iterator[None]:
    with pytest.raises(InvalidHandler) as refusal:
        yield
    for word in (*words, "another process" if "channel" not in words else "take the message alone"):
        assert word in str(refusal.value)


def local_type() -> type:
    class Local(msgspec.Struct):
        cents: int

    return Local


def test_an_executor_that_is_none_is_refused() -> None:
    with pytest.raises(TypeError, match=r"executor=3 is not a concurrent\.futures\.Executor"):
        PortabilityCheck(3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("handler", "word"),
    [
        (Handler(lambda message: None, "e"), "<lambda>"),
        (Handler(repr, "e", payload_type=local_type()), "Local"),
        (Handler(partial(locked, threading.Lock()), "e"), "lock"),
        (Handler(answer, "e"), "channel"),
    ],
)
def test_a_handler_that_cannot_go_to_another_process_is_refused_for_one(
    handler: Handler, word: str, processes: Executor
) -> None:
    with refused(handler.name, word):
        PortabilityCheck(processes).handler(handler)


@pytest.mark.parametrize(
    "handler",
    [Handler(repr, "e", payload_type=Balance), Handler(on_the_loop, "e"), Handler(repr, "e")],
)
def test_a_handler_that_can_or_need_not_go_there_is_not(handler: Handler, processes: Executor) -> None:
    PortabilityCheck(processes).handler(handler)


class Cluster(Executor):
    """One of Dask's, by its module."""

    __module__ = "distributed.cfexecutor.clients"


def test_to_a_cluster_goes_all_but_the_channel() -> None:
    PortabilityCheck(Cluster()).handler(Handler(lambda message: None, "e"))
    with pytest.raises(InvalidHandler, match=r"<lambda> .*: it takes the channel, and a channel cannot leave its"):
        PortabilityCheck(Cluster()).handler(Handler(lambda message, channel: None, "e"))


def test_a_coroutine_function_has_no_executor() -> None:
    with ThreadPoolExecutor(1) as threads:
        handler = Handler(on_the_loop, "e", executor=threads)
        with pytest.raises(InvalidHandler, match=r"on_the_loop .*: it is a coroutine function, and an executor runs"):
            PortabilityCheck(None).handler(handler)


def test_a_coroutine_where_nobody_awaits_is_closed_and_refused() -> None:
    coroutine: Any = on_the_loop(MESSAGES[0], None)
    with pytest.raises(TypeError, match="double returned a coroutine, and nobody awaits it here: make it a plain func"):
        refuse_coroutine(Handler(double, "e"), coroutine)
    assert coroutine.cr_frame is None


def test_within_this_process_anything_can_be_a_handler() -> None:
    with ThreadPoolExecutor(1) as threads:
        for executor in (None, threads):
            PortabilityCheck(executor).handler(Handler(lambda message, channel: None, "e"))


def test_a_router_is_looked_at_again_when_handlers_came_to_it(processes: Executor) -> None:
    router, check = Router(), PortabilityCheck(processes)
    router.add(double, "e")
    check.router(router)
    added = router.add(lambda message: None, "e", topic="room:*")
    with refused("<lambda>"):
        check.router(router)
    with refused("<lambda>"):
        check.router(router)
    router.off(added)
    check.router(router)


def test_a_handler_is_pickled_once_and_not_whenever_the_router_is_looked_at(processes: Executor) -> None:
    router, check, handler = Router(), PortabilityCheck(processes), Counted()
    router.add(handler, "e")
    for _ in range(3):
        check.router(router)
    assert handler.pickled == 1


class Counted:
    pickled = 0

    def __call__(self, message: Message[Any]) -> None: ...

    def __reduce__(self) -> Any:
        self.pickled += 1
        return Counted, ()


# ---- the way back ---------------------------------------------------------------------------------------------------


class Mute(Exception):
    def __init__(self) -> None:
        super().__init__(lambda: None)

    def __str__(self) -> str:
        raise RuntimeError


class Gone(Exception):
    """It is known here, and not where it arrives."""


def raised(error: BaseException) -> Failure:
    """What comes to another process of a handler that raised this."""

    def handle(message: Message[Any]) -> None:
        raise error

    (failure,) = batch(handle, MESSAGES[:1]).run()
    assert failure.error is error
    return failure


def test_an_error_arrives_as_itself_with_the_traceback_that_it_had() -> None:
    failure = pickle.loads(pickle.dumps(raised(ValueError("odd"))))
    assert failure.index == 0
    assert isinstance(failure.error, ValueError)
    assert str(failure.error) == "odd"
    assert 'in handle\n    raise error\nValueError: odd\n"""' in str(failure.error.__cause__)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Demanding("a leak", where="the cellar"), "jobs.Demanding: a leak in the cellar"),
        (Holding("on"), "jobs.Holding: on"),
        (Mute(), f"{__name__}.Mute: (its text cannot be made: RuntimeError)"),
    ],
)
def test_an_error_that_cannot_travel_sends_a_stand_in(error: Exception, text: str) -> None:
    failure = pickle.loads(pickle.dumps(raised(error)))
    assert isinstance(failure.error, WorkerError)
    assert str(failure.error) == text
    assert "raise error" in str(failure.error.__cause__)
    again = pickle.loads(pickle.dumps(failure))
    assert str(again.error) == text


def test_an_error_that_is_not_known_where_it_arrives_becomes_a_stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = pickle.dumps(raised(Gone("away")))
    monkeypatch.delattr(f"{__name__}.Gone")
    failure = pickle.loads(sent)
    assert isinstance(failure.error, WorkerError)
    assert str(failure.error) == f"{__name__}.Gone: away"
