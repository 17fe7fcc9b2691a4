"""A peer's text disturbs no call and no connection, whichever listener or log shows it."""

import logging
from collections.abc import Iterator

import pytest
from peer import answer
from serving_in_thread import LONG, start

from phx_proto.errors import ConnectionClosed
from phx_proto.events import ChannelErrored, Connected
from phx_transports.client.reports import logger

from .adapters import Adapter

DEEP = "[" * 975 + "]" * 975


class Raising(logging.Handler):
    """A log that is out of order."""

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        raise OSError("the disk is full")


@pytest.fixture(params=["a log", "a log that raises"])
def log(request: pytest.FixtureRequest) -> Iterator[None]:
    handler = Raising() if request.param == "a log that raises" else logging.NullHandler()
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


@pytest.mark.usefixtures("log")
def test_a_crash_with_a_deep_payload_is_in_the_way_of_no_call(adapter: Adapter) -> None:
    with adapter.joined("room:1") as (channel, wire, _):
        adapter.join(channel.client, wire, "a")
        with channel.client.events() as events:
            pushing = start(channel.push, "shout", {})
            shout = wire.expect("shout")
            wire.burst(f'[null,null,"a","phx_error",{DEEP}]', answer(shout, {"id": 7}))
            assert pushing.result(LONG).response == {"id": 7}
            told = events.next_of(ChannelErrored)
        assert len(repr(told)) + len(str(told.error)) < 1000
        wire.accept("a")
        pushing = start(channel.push, "shout", {})
        wire.reply(wire.expect("shout"), "the same connection")
        assert pushing.result(LONG).response == "the same connection"


def test_the_answer_to_a_push_is_shown_in_one_short_line(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        pushing = start(channel.push, "shout", {}, check=False)
        wire.reply(wire.expect("shout"), "\x1b[2J\n" * 1000, "error")
        reply = pushing.result(LONG)
        assert reply.response == "\x1b[2J\n" * 1000
        assert len(repr(reply)) < 300
        assert repr(reply).isprintable()


@pytest.mark.usefixtures("log")
def test_a_listener_that_raises_ends_nothing(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        session = channel.client.native._driver.session

        def fail(event: object) -> None:
            raise ZeroDivisionError

        session.listeners.insert(0, fail)
        pushing = start(channel.push, "shout", {})
        wire.reply(wire.expect("shout"), 1)
        assert pushing.result(LONG).response == 1


def test_a_close_reason_shows_no_secret_and_no_escape_sequence(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    with adapter.connected(params={"token": "t0p-s3cr3t"}) as (client, wire):
        with client.events() as events:
            start(wire.close, 1008, "\x1b[2J t0p-s3cr3t\r\nis bad").result(LONG)
            events.next_of(Connected)
        (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        error = ConnectionClosed(1008, "\x1b[2J [secret]\r\nis bad")
        assert str(error) in line
        assert line.isprintable()
