import asyncio
import logging
from typing import Any

import pytest

from phx_proto.errors import ChannelClosed, ChannelCrashed, ConnectError
from phx_proto.events import (
    BadFrame,
    ChannelEnded,
    ChannelErrored,
    ChannelJoined,
    Connected,
    ConnectFailed,
    Connecting,
    Disconnected,
    Event,
    InboxOverflow,
    PatternJoined,
    UnclaimedMessages,
)
from phx_proto.handler import Handler
from phx_proto.message import Message
from phx_transports.reports import HandlerError, log_event, log_handler_error, report_to


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "phx_transports")


@pytest.mark.parametrize(
    ("event", "level", "words"),
    [
        (Connected(None, True), logging.INFO, ["connected again"]),
        (Disconnected(1012, "restart", 2.125), logging.WARNING, ["1012", "restart", "2.12 s"]),
        (Disconnected(None, "cut", None), logging.WARNING, ["None", "cut", "- s"]),
        (ConnectFailed(ConnectError("no route"), 3, 0.5), logging.WARNING, ["attempt 3", "no route", "0.50 s"]),
        (ChannelErrored("t:1", ChannelCrashed("t:1"), 1.0), logging.WARNING, ["'t:1'", "crashed", "1.00 s"]),
        (ChannelEnded("t:1", ChannelClosed("t:1", "the server closed it")), logging.WARNING, ["'t:1'", "the server"]),
        (PatternJoined("sim:*"), logging.WARNING, ["'sim:*'", "patterns are for handlers"]),
        (UnclaimedMessages("doc:1", "data", 3), logging.WARNING, ["3 messages", "'data'", "'doc:1'", "unjoined=True"]),
        (BadFrame("no array", '{"…"', 9), logging.WARNING, ["size 9", "no array", '{"…"']),
        (InboxOverflow(None, 5, 640), logging.ERROR, ["5 messages", "the client", "640"]),
        (InboxOverflow("t:1", 5, 640), logging.ERROR, ["5 messages", "'t:1'"]),
    ],
)
def test_trouble_is_logged(caplog: pytest.LogCaptureFixture, event: Event, level: int, words: list[str]) -> None:
    log_event(event)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("phx_transports", level)
    assert [word for word in words if word not in record.getMessage()] == []


@pytest.mark.parametrize(
    "event", [Connecting(1), Connected(None, False), ChannelJoined("t", "1", "1", "secret"), ChannelEnded("t", None)]
)
def test_what_goes_well_is_not_logged(caplog: pytest.LogCaptureFixture, event: Event) -> None:
    log_event(event)
    assert caplog.records == []


def test_a_handlers_error_is_logged_with_its_traceback_and_without_the_payload(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def handle(message: Message[Any]) -> None: ...

    error = ValueError("bad luck")
    message: Message[Any] = Message(topic="room:1", event="shout", payload={"token": "hush"})
    log_handler_error(HandlerError(Handler(handle, "shout"), message, error))
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    for word in ("handle", "'shout'", "'room:1'", "bad luck"):
        assert word in record.getMessage()
    assert "hush" not in caplog.text


async def handle(message: Message[Any]) -> None: ...


def report(error: BaseException) -> HandlerError:
    return HandlerError(Handler(handle, "shout"), Message(topic="room:1", event="shout", payload={}), error)


@pytest.mark.parametrize("failure", [ValueError("unlucky"), asyncio.CancelledError("unlucky")])
def test_what_the_application_raises_at_a_report_is_logged_and_the_report_too(
    caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    def fail(report: HandlerError) -> None:
        raise failure

    report_to(fail, report(KeyError("lost")))
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "KeyError" in caplog.text
    assert "unlucky" in caplog.text


@pytest.mark.parametrize("error", [asyncio.CancelledError(), StopIteration(), GeneratorExit()])
def test_what_cannot_be_raised_anywhere_is_wrapped(error: BaseException) -> None:
    raisable = report(error).raisable
    assert isinstance(raisable, RuntimeError)
    assert raisable.__cause__ is error
    assert "handle" in str(raisable)


def test_any_other_error_is_raised_as_it_is() -> None:
    error = ValueError()
    assert report(error).raisable is error
