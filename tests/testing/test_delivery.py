"""`deliver`: the handlers that a message reaches, and their results."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from phx_proto.errors import InvalidPayload, InvalidReply, PayloadMismatch, PushRejected, PushTimeout
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.testing import FakeChannel, NothingHandled, NotScripted, Sent, deliver, deliver_async


class Balance(msgspec.Struct):
    amount: int


def test_a_plain_handler_gives_what_it_returned() -> None:
    router = Router()
    router.add(lambda message: message.payload["n"] + 1, "tick")
    assert deliver(router, "sim:1", "tick", {"n": 1}).check() == [2]


def test_a_coroutine_function_runs_without_a_loop_of_the_callers() -> None:
    router = Router()

    @router.on("tick")
    async def tick(message: Message[Any]) -> str:
        await asyncio.sleep(0)
        return message.topic

    assert deliver(router, "sim:1", "tick").check() == ["sim:1"]


def test_handlers_run_in_the_order_of_their_registration() -> None:
    router, ran = Router(), list[str]()

    @router.on("*")
    def first(message: Message[Any]) -> None:
        ran.append("first")

    @router.on("tick")
    async def second(message: Message[Any]) -> None:
        ran.append("second")

    outcomes = deliver(router, "sim:1", "tick")
    assert ran == ["first", "second"]
    assert [outcome.handler.function for outcome in outcomes] == [first, second]


def test_only_the_handlers_of_the_topic_and_event_run() -> None:
    router = Router()
    router.add(lambda message: "mine", "tick", topic="sim:*")
    router.add(lambda message: "another topic's", "tick", topic="room:*")
    router.add(lambda message: "another event's", "tock", topic="sim:*")
    assert deliver(router, "sim:1", "tick").check() == ["mine"]


def test_a_handler_gets_the_payload_in_its_type() -> None:
    router = Router()
    router.add(lambda message: message.payload, "balance", payload=Balance)
    assert deliver(router, "sim:1", "balance", {"amount": 7}).check() == [Balance(7)]


def test_a_payload_that_does_not_fit_is_refused_and_the_handler_not_called() -> None:
    router, called = Router(), list[Any]()
    router.add(called.append, "balance", payload=Balance)
    (outcome,) = deliver(router, "sim:1", "balance", {"amount": "seven"})
    assert not called
    assert isinstance(outcome.error, PayloadMismatch)
    assert outcome.error.problem == "Expected `int`, got `str` - at `$.amount`"


def test_a_payload_that_no_server_could_send_is_refused() -> None:
    router = Router()
    router.add(lambda message: None, "tick")
    with pytest.raises(InvalidPayload, match=r"payload\.n"):
        deliver(router, "sim:1", "tick", {"n": float("nan")})


def test_a_handler_gets_bytes_as_bytes() -> None:
    router = Router()
    router.add(lambda message: message.payload, "frame")
    assert deliver(router, "sim:1", "frame", b"\x00\xff").check() == [b"\x00\xff"]


def test_a_struct_is_sent_as_an_object() -> None:
    router = Router()
    router.add(lambda message: message.payload, "balance")
    assert deliver(router, "sim:1", "balance", Balance(7)).check() == [{"amount": 7}]


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_handler_that_raises_does_not_keep_the_next_from_running(kind: str) -> None:
    router = Router()

    def fail(message: Message[Any]) -> None:
        raise ValueError("no")

    async def fail_async(message: Message[Any]) -> None:
        raise ValueError("no")

    router.add(fail if kind == "plain" else fail_async, "tick")
    router.add(lambda message: "ran", "tick")
    failed, ran = deliver(router, "sim:1", "tick")
    assert not failed.ok
    assert str(failed.error) == "no"
    assert ran.result == "ran"


def test_check_raises_what_the_handler_raised() -> None:
    router = Router()

    @router.on("tick")
    def fail(message: Message[Any]) -> None:
        raise KeyError("id")

    with pytest.raises(KeyError, match="id"):
        deliver(router, "sim:1", "tick").check()


def test_check_raises_what_several_handlers_raised_together() -> None:
    router = Router()

    def fail(message: Message[Any]) -> None:
        raise KeyError("id")

    router.add(fail, "tick")
    router.add(fail, "tick")
    outcomes = deliver(router, "sim:1", "tick")
    for _ in range(2):
        with pytest.raises(ExceptionGroup, match="several handlers raised") as failure:
            outcomes.check()
        assert [type(error) for error in failure.value.exceptions] == [KeyError, KeyError]
        notes = [error.__notes__ for error in failure.value.exceptions]
        assert notes == [[f"raised by {outcome.handler.name}"] for outcome in outcomes]


def test_check_fails_where_no_handler_was_reached() -> None:
    outcomes = deliver(Router(), "sim:1", "tick")
    with pytest.raises(NothingHandled) as failure:
        outcomes.check()
    assert str(failure.value) == "no handler is registered for this event of this topic"


def test_the_protocols_own_events_reach_no_handler() -> None:
    with pytest.raises(ValueError, match="'phx_close' is the protocol's own and reaches no handler"):
        deliver(Router(), "sim:1", "phx_close")


def test_a_plain_function_that_returns_a_coroutine_is_told_so() -> None:
    router = Router()

    async def wait() -> None: ...

    router.add(lambda message: wait(), "tick")
    (error,) = deliver(router, "sim:1", "tick").errors
    assert isinstance(error, TypeError)
    assert "declare it with `async def`" in str(error)


def test_a_handler_runs_within_what_the_router_puts_around_it() -> None:
    around = list[str]()

    @contextmanager
    def timed(handler: Any, message: Message[Any]) -> Iterator[None]:
        around.append(message.event)
        yield

    router = Router(around=timed)
    router.add(lambda message: None, "tick")
    deliver(router, "sim:1", "tick").check()
    assert around == ["tick"]


def test_a_handler_can_be_called_by_itself_with_a_stand_in() -> None:
    channel = FakeChannel("room:lobby")
    channel.blocking.cast("seen", {"n": 1})
    assert asyncio.run(channel.reply("save", 7).awaited.push("save")).response == 7
    assert (repr(channel), channel.blocking.topic, channel.casts) == (
        "FakeChannel('room:lobby')",
        "room:lobby",
        [Sent("seen", {"n": 1})],
    )


def test_an_outcome_shows_what_the_handler_did() -> None:
    router = Router()

    @router.on("tick")
    def tick(message: Message[Any]) -> int:
        return 1

    name = f"{__name__}.test_an_outcome_shows_what_the_handler_did.<locals>.tick"
    assert repr(deliver(router, "sim:1", "tick")[0]) == f"<{name} returned 1>"


# ---- on an event loop -----------------------------------------------------------------------------------------------


@pytest.mark.asyncio
async def test_within_a_loop_deliver_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match=r"await deliver_async\(…\)"):
        deliver(Router(), "sim:1", "tick")


@pytest.mark.asyncio
async def test_on_a_loop_coroutine_functions_run_on_it_and_plain_ones_in_a_thread() -> None:
    router, here = Router(), threading.get_ident()

    @router.on("tick")
    async def on_loop(message: Message[Any]) -> bool:
        return threading.get_ident() == here

    @router.on("tick")
    def in_thread(message: Message[Any]) -> bool:
        return threading.get_ident() == here

    assert (await deliver_async(router, "sim:1", "tick")).check() == [True, False]


@pytest.mark.asyncio
async def test_on_a_loop_what_a_coroutine_function_raises_is_its_outcome() -> None:
    router = Router()

    @router.on("tick")
    async def fail(message: Message[Any]) -> None:
        raise asyncio.CancelledError

    (outcome,) = await deliver_async(router, "sim:1", "tick")
    assert isinstance(outcome.error, asyncio.CancelledError)


@pytest.mark.asyncio
async def test_on_a_loop_a_delivery_can_be_cancelled() -> None:
    router, began = Router(), asyncio.Event()

    @router.on("tick")
    async def wait(message: Message[Any]) -> None:
        began.set()
        await asyncio.Event().wait()

    delivery = asyncio.create_task(deliver_async(router, "sim:1", "tick"))
    await began.wait()
    delivery.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivery


# ---- handlers that take the channel ---------------------------------------------------------------------------------


def shouting() -> Router:
    """A plain handler and a coroutine function that push and cast alike."""
    router = Router()

    @router.on("plain")
    def plain(message: Message[Any], channel: Any) -> Any:
        channel.cast("seen", {"n": 1})
        return channel.push("save", message.payload).response

    @router.on("coroutine")
    async def coroutine(message: Message[Any], channel: Any) -> Any:
        await channel.cast("seen", {"n": 1})
        return (await channel.push("save", message.payload)).response

    return router


BOTH = pytest.mark.parametrize("event", ["plain", "coroutine"])


@BOTH
def test_a_handlers_push_gets_the_scripted_reply(event: str) -> None:
    channel = FakeChannel("room:lobby").reply("save", {"id": 7})
    assert deliver(shouting(), "room:lobby", event, {"body": "hi"}, channel=channel).check() == [{"id": 7}]
    assert channel.pushes == [Sent("save", {"body": "hi"})]
    assert channel.casts == [Sent("seen", {"n": 1})]


def test_null_is_a_payload_and_none_is_an_empty_object() -> None:
    channel = FakeChannel("room:lobby").reply("save")
    channel.blocking.push("save", None)
    channel.blocking.push("save")
    assert channel.pushes == [Sent("save", None), Sent("save")]


@BOTH
def test_a_handlers_push_can_be_rejected(event: str) -> None:
    channel = FakeChannel("room:lobby").refuse("save", {"reason": "full"})
    with pytest.raises(PushRejected, match="full"):
        deliver(shouting(), "room:lobby", event, channel=channel).check()


@BOTH
def test_a_handlers_push_can_time_out(event: str) -> None:
    channel = FakeChannel("room:lobby").fail("save", PushTimeout("room:lobby", "save", 10.0))
    with pytest.raises(PushTimeout):
        deliver(shouting(), "room:lobby", event, channel=channel).check()


@BOTH
def test_a_push_that_the_test_did_not_script_fails_the_test(event: str) -> None:
    with pytest.raises(NotScripted) as failure:
        deliver(shouting(), "room:lobby", event).check()
    assert str(failure.value) == (
        "the handler pushed 'save' on topic 'room:lobby', and the test gave no reply for it: "
        "FakeChannel.reply('save', …)"
    )


def test_a_scripted_reply_comes_as_the_type_that_the_handler_asks_for() -> None:
    channel = FakeChannel("room:lobby").reply("save", [1]).refuse("get", "no").blocking
    assert channel.push("save", response=set[int]).response == {1}
    with pytest.raises(InvalidReply, match=r"its response is not a list\[str\]"):
        channel.push("save", response=list[str])
    assert channel.push("get", response=int, check=False).response == "no"


def test_replies_come_one_after_another_and_the_last_one_stays() -> None:
    channel = FakeChannel("room:lobby").reply("save", 1).reply("save", 2).blocking
    assert [channel.push("save").response for _ in range(3)] == [1, 2, 2]


def test_a_push_that_could_not_be_sent_is_refused() -> None:
    with pytest.raises(InvalidPayload):
        FakeChannel("room:lobby").blocking.cast("save", {"n": float("inf")})


def test_nothing_can_be_sent_on_a_channel_that_was_left() -> None:
    channel = FakeChannel("room:lobby").blocking
    channel.leave()
    assert repr(channel) == "Channel('room:lobby', closed)"
    with pytest.raises(Exception, match="room:lobby"):
        channel.cast("save")


def test_a_handler_can_leave_its_channel() -> None:
    router = Router()

    @router.on("bye")
    async def leave(message: Message[Any], channel: Any) -> None:
        await channel.leave()

    channel = FakeChannel("room:lobby")
    deliver(router, "room:lobby", "bye", channel=channel).check()
    assert channel.left


def test_the_kit_for_threads_brings_no_asyncio_client() -> None:
    code = """
import sys
from phx_transports.testing import FakeChannel, Peer, background, deliver
from phx_transports.threads import connect
print(*(name for name in sys.modules if name.startswith("phx_transports.asyncio")))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "\n"
