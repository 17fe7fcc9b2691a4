import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from phx_proto.handler import Handler
from phx_proto.message import Message
from phx_transports.batches import run_batch

MESSAGES: list[Message[Any]] = [Message(topic="t", event="e", payload=number) for number in range(4)]


def seen_by(function: Callable[..., Any]) -> Handler:
    return Handler(function, "e")


def test_messages_are_handled_in_order() -> None:
    seen: list[int] = []
    assert run_batch(seen_by(lambda message: seen.append(message.payload)), MESSAGES, None) == []
    assert seen == [0, 1, 2, 3]


def test_a_handler_that_takes_the_channel_gets_it() -> None:
    seen: list[object] = []
    run_batch(seen_by(lambda message, channel: seen.append(channel)), MESSAGES[:1], "the channel")
    assert seen == ["the channel"]


@pytest.mark.parametrize("error", [ValueError("odd"), asyncio.CancelledError(), StopIteration()])
def test_what_is_raised_on_one_message_is_told_and_the_next_is_handled(error: BaseException) -> None:
    seen: list[int] = []

    def handle(message: Message[int]) -> None:
        if message.payload % 2:
            raise error
        seen.append(message.payload)

    assert run_batch(seen_by(handle), MESSAGES, None) == [(1, error), (3, error)]
    assert seen == [0, 2]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_is_to_end_the_process_is_let_through(error: type[BaseException]) -> None:
    def handle(message: Message[int]) -> None:
        raise error

    with pytest.raises(error):
        run_batch(seen_by(handle), MESSAGES, None)


def test_a_coroutine_that_a_plain_function_returns_is_an_error_and_not_left_unawaited() -> None:
    async def work() -> None: ...

    ((index, error),) = run_batch(seen_by(lambda message: work()), MESSAGES[:1], None)
    assert index == 0
    assert isinstance(error, TypeError)
    assert "async def" in str(error)


def double(message: Message[int]) -> None:
    assert message.payload == 0


def test_a_batch_can_travel_to_another_process() -> None:
    job = pickle.loads(pickle.dumps((seen_by(double), MESSAGES[:1], None)))
    assert run_batch(*job) == []
