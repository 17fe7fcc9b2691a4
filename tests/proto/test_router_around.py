"""`Router(around=…)`: each call of a handler is made within a context of the application's, for metrics and tracing."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from conversation import Conversation

from phx_proto.errors import PayloadMismatch
from phx_proto.handlers.handler import Around, Handler
from phx_proto.handlers.router import Router
from phx_proto.message import Message

MESSAGE = Message[Any](topic="room:lobby", event="shout", payload={"n": 1})

log: list[Any] = []


@pytest.fixture(autouse=True)
def _clean() -> None:
    log.clear()


@contextmanager
def noted(handler: Handler, message: Message[Any]) -> Iterator[None]:
    log.append(f"{handler.event} on {message.topic} begins")
    try:
        yield
    except ValueError as error:
        log.append(f"failed: {error}")
        raise
    finally:
        log.append("ends")


def shout(message: Message[Any]) -> str:
    log.append(message.payload)
    return "done"


def with_channel(message: Message[Any], channel: object) -> object:
    return channel


async def with_channel_later(message: Message[Any], channel: object) -> object:
    return channel


async def shout_later(message: Message[Any]) -> str:
    log.append(message.payload)
    return "done"


def fail(message: Message[Any]) -> None:
    raise ValueError("no")


def finished(coroutine: Any) -> Any:
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    return stopped.value.value


def test_a_plain_handler_runs_within_it() -> None:
    handler = Router(around=noted).add(shout, "shout")
    assert handler.call(MESSAGE, None) == "done"
    assert log == ["shout on room:lobby begins", {"n": 1}, "ends"]


def test_a_coroutine_handler_runs_within_it_while_it_is_awaited() -> None:
    handler = Router(around=noted).add(shout_later, "shout")
    coroutine = handler.call(MESSAGE, None)
    assert log == []
    assert finished(coroutine) == "done"
    assert log == ["shout on room:lobby begins", {"n": 1}, "ends"]


def test_it_sees_what_the_handler_raises() -> None:
    handler = Router(around=noted).add(fail, "shout")
    with pytest.raises(ValueError, match="no"):
        handler.call(MESSAGE, None)
    assert log == ["shout on room:lobby begins", "failed: no", "ends"]


def whole(message: Message[list[int]]) -> None:
    raise AssertionError


@contextmanager
def silent(handler: Handler, message: Message[Any]) -> Iterator[None]:
    with suppress(PayloadMismatch):
        yield


@pytest.mark.parametrize("around", [noted, silent])
def test_it_sees_a_payload_that_does_not_fit_and_cannot_make_it_fit(around: Around) -> None:
    handler = Router(around=around).add(whole, "shout")
    with pytest.raises(PayloadMismatch):
        handler.accept(MESSAGE)
    assert log == (["shout on room:lobby begins", "ends"] if around is noted else [])


def test_what_fits_is_called_within_it_once() -> None:
    message = Message[Any](topic="room:lobby", event="shout", payload=[1])
    handler = Router(around=noted).add(whole, "shout")
    assert handler.accept(message).payload == [1]
    assert log == []


def test_the_channel_is_passed_through() -> None:
    assert Router(around=noted).add(with_channel, "shout").call(MESSAGE, "channel") == "channel"
    assert finished(Router(around=noted).add(with_channel_later, "shout").call(MESSAGE, "channel")) == "channel"


def test_it_changes_nothing_of_what_is_known_of_the_handler() -> None:
    plain, within = Router().add(with_channel, "shout"), Router(around=noted).add(with_channel, "shout")
    assert [(one.name, one.kind, one.takes_channel, one.function) for one in (plain, within)] == [
        (plain.name, plain.kind, True, with_channel)
    ] * 2


def test_without_it_the_function_itself_is_called() -> None:
    assert Router().add(shout, "shout").run is shout


def test_handlers_of_a_channel_alone_run_within_it_too() -> None:
    room = Conversation(router=Router(around=noted)).connect().joined("room:lobby")
    room.add(shout, "shout").call(MESSAGE, None)
    assert log == ["shout on room:lobby begins", {"n": 1}, "ends"]


def test_it_travels_with_its_handler() -> None:
    handler = pickle.loads(pickle.dumps(Router(around=noted).add(shout, "shout")))
    handler.call(MESSAGE, None)
    assert log == ["shout on room:lobby begins", {"n": 1}, "ends"]
