import asyncio
import logging
from math import inf
from typing import Any

import pytest

from phx_proto.client import ClientProtocol
from phx_proto.commands import OpenTransport
from phx_proto.errors import ChannelClosed, ChannelCrashed, ConnectError, ConnectionClosed, JoinRefused
from phx_proto.events import (
    BadFrame,
    ChannelEnded,
    ChannelErrored,
    ChannelJoined,
    Closed,
    Connected,
    ConnectFailed,
    Connecting,
    Disconnected,
    Event,
    InboxOverflow,
    PatternJoined,
    SocketEnded,
    UnclaimedMessages,
)
from phx_proto.handlers.handler import Handler
from phx_proto.message import Message
from phx_transports.client.reports import INTERVAL, HandlerError, Log, listener_failed, log_handler_error, report_to
from phx_transports.client.session import Session


@pytest.fixture(autouse=True)
def _everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "phx_transports")


PLACE = "wss://example.com/socket/websocket"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def log_of(**settings: Any) -> tuple[Log, Clock]:
    clock = Clock()
    return Log(ClientProtocol("wss://example.com/socket", **settings), clock), clock


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged since it was asked last."""
    said = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return said


@pytest.mark.parametrize(
    ("event", "level", "line"),
    [
        (Connected(None, True), logging.INFO, "connected again to {place}"),
        (
            Disconnected(1012, "restart", 2.125),
            logging.WARNING,
            "disconnected from {place}: the connection is closed with code 1012 (service restart): restart; "
            "next attempt in 2.12 s",
        ),
        (
            Disconnected(None, "cut", 0.5, socket=2),
            logging.WARNING,
            "disconnected from {place} (socket 2): the connection is closed without a close code: cut; "
            "next attempt in 0.50 s",
        ),
        (
            ConnectFailed(ConnectError("no route"), 1, 0.5, socket=2),
            logging.WARNING,
            "attempt 1 to connect (socket 2) failed: no route; next attempt in 0.50 s to {place}",
        ),
        (
            SocketEnded(ConnectError("no route"), 2),
            logging.WARNING,
            "more topics than the server takes on one socket cannot be joined (socket 2): no route",
        ),
        (
            Disconnected(None, "cut", None),
            logging.WARNING,
            "disconnected from {place}: the connection is closed without a close code: cut; the client is closing",
        ),
        (
            ConnectFailed(ConnectError("no route"), 3, 0.5),
            logging.WARNING,
            "attempt 3 to connect failed: no route; next attempt in 0.50 s to {place}",
        ),
        (
            ChannelErrored("t:1", ChannelCrashed("t:1", {}), 1.0),
            logging.WARNING,
            "channel 't:1' is not joined: the channel of topic 't:1' crashed on the server: {{}}; rejoin in 1.00 s",
        ),
        (
            ChannelEnded("t:1", ChannelClosed("t:1", "the server closed it")),
            logging.WARNING,
            "channel 't:1' ended: the channel of topic 't:1' is closed: the server closed it",
        ),
        (
            BadFrame("no array", '{"…"', 9),
            logging.WARNING,
            'a frame of size 9 was dropped: no array; it begins {{"…"',
        ),
        (
            InboxOverflow(None, 5, 640),
            logging.ERROR,
            "5 messages of the client dropped: 640 wait for their handlers",
        ),
        (
            InboxOverflow("t:1", 5, 640),
            logging.ERROR,
            "5 messages of topic 't:1' dropped: 640 wait for their handlers",
        ),
        (
            PatternJoined("sim:*"),
            logging.WARNING,
            "'sim:*' is joined as it stands: a topic has a whole name, patterns are for handlers",
        ),
        (
            UnclaimedMessages("doc:1", "data", 3),
            logging.WARNING,
            "3 messages came on topics without a channel and are dropped, the latest event 'data' on topic 'doc:1': "
            "router.on(..., unjoined=True) takes such, stats.stale counts them",
        ),
    ],
)
def test_trouble_is_logged(caplog: pytest.LogCaptureFixture, event: Event, level: int, line: str) -> None:
    log_of()[0].event(event)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("phx_transports", level)
    assert record.getMessage() == line.format(place="wss://example.com/socket/websocket")


@pytest.mark.parametrize(
    "event",
    [
        Connecting(1),
        ChannelJoined("t", "1", "1", "secret"),
        ChannelEnded("t", None),
        Closed(None),
        Closed(ConnectError("the caller of connect gets it")),
    ],
)
def test_what_goes_well_is_not_logged(caplog: pytest.LogCaptureFixture, event: Event) -> None:
    log_of()[0].event(event)
    assert caplog.records == []


def test_a_first_connection_is_told_after_what_was_counted_of_the_attempts_before_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log, _ = log_of()
    for attempt in range(1, 9):
        log.event(ConnectFailed(ConnectError("refused"), attempt, 1.0))
    assert len(lines(caplog)) == 5
    log.event(Connected(None, False))
    more, connected = lines(caplog)
    assert more.startswith("3 more failed attempts to connect; the latest: attempt 8 to connect failed")
    assert connected == "connected to wss://example.com/socket/websocket"
    assert log.due == inf
    log.event(Connected(None, False, socket=1))
    assert lines(caplog) == ["connected to wss://example.com/socket/websocket (socket 1)"]


@pytest.mark.parametrize(
    ("error", "level", "told"),
    [
        (ConnectError("refused for good"), logging.ERROR, "refused for good"),
        (KeyError("m"), logging.ERROR, "KeyError('m')"),
        (SystemExit("enough"), logging.WARNING, "SystemExit('enough')"),
    ],
)
def test_the_end_of_a_client_that_was_connected_is_logged(
    caplog: pytest.LogCaptureFixture, error: BaseException, level: int, told: str
) -> None:
    log, _ = log_of()
    proto = log._proto
    proto.connect(0.0)
    (opening,) = proto.commands()
    assert isinstance(opening, OpenTransport)
    opening.link.opened(None, 0.0)
    log.event(Closed(error))
    assert caplog.records[-1].levelno == level
    assert lines(caplog) == [f"the client of wss://example.com/socket/websocket has ended: {told}"]


# ---- the channels of a lost connection ------------------------------------------------------------------------------


def lose(log: Log, topics: int, *, by: str = "cut") -> None:
    log.event(Disconnected(1006, by, 0.5))
    for number in range(topics):
        log.event(ChannelErrored(f"t:{number}", ConnectionClosed(1006, by), None))


def test_one_disconnect_of_many_channels_is_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    log, clock = log_of()
    lose(log, 2000)
    assert len(lines(caplog)) == 1
    log.event(Connected(None, True))
    for number in range(2000):
        log.event(ChannelJoined(f"t:{number}", None, "9", {}))
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    assert lines(caplog) == ["connected again to wss://example.com/socket/websocket: 2,000 channels joined again"]
    clock.now = log.due
    log.tick()
    assert lines(caplog) == []
    assert log.due == inf


def test_a_channel_with_trouble_of_its_own_has_its_own_line(caplog: pytest.LogCaptureFixture) -> None:
    log, _ = log_of()
    lose(log, 3)
    log.event(Connected(None, True))
    log.event(ChannelJoined("t:0", None, "9", {}))
    log.event(ChannelErrored("t:1", JoinRefused("t:1", "no"), 1.0))
    log.event(ChannelEnded("t:2", None))
    assert [line.partition(":")[0] for line in lines(caplog)[1:]] == ["channel 't", "connected again to wss"]
    log.event(ChannelJoined("t:1", None, "9", {}))
    assert lines(caplog) == []


def test_a_rejoin_that_takes_long_is_told_meanwhile_and_at_its_end(caplog: pytest.LogCaptureFixture) -> None:
    log, clock = log_of()
    lose(log, 2)
    log.event(Connected(None, True))
    log.event(ChannelJoined("t:0", None, "9", {}))
    lines(caplog)
    clock.now = log.due - 1
    log.tick()
    assert lines(caplog) == []
    clock.now = log.due
    log.tick()
    log.tick()
    log.event(ChannelJoined("t:1", None, "9", {}))
    assert [line.partition("websocket: ")[2] for line in lines(caplog)] == [
        "1 of 2 channels joined again, 1 are still to be",
        "2 channels joined again",
    ]


@pytest.mark.parametrize(
    "trouble",
    [
        ChannelErrored("t:1", JoinRefused("t:1", {}), 1.0),
        ChannelEnded("t:1", ChannelClosed("t:1", "gone")),
        ChannelEnded("t:1", None),
    ],
)
def test_a_channel_that_is_not_joined_again_is_not_counted_as_joined(
    caplog: pytest.LogCaptureFixture, trouble: Event
) -> None:
    log, _ = log_of()
    lose(log, 2)
    log.event(Connected(None, True))
    log.event(ChannelErrored("t:7", ChannelCrashed("t:7"), 1.0))  # which was not lost
    log.event(trouble)
    log.event(ChannelJoined("t:0", None, "9", {}))
    assert lines(caplog)[-1] == f"connected again to {PLACE}: 1 of 2 channels joined again"


def test_a_disconnect_amid_a_rejoin_says_how_far_it_was(caplog: pytest.LogCaptureFixture) -> None:
    log, _ = log_of()
    lose(log, 2)
    log.event(Connected(None, True))
    log.event(ChannelJoined("t:0", None, "9", {}))
    lose(log, 1)
    assert lines(caplog)[-1].endswith("next attempt in 0.50 s (1 of 2 channels joined again since the last time)")


def test_the_rejoins_of_several_sockets_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    log, _ = log_of()
    log.event(Disconnected(None, "cut", 0.5, socket=0))
    log.event(ChannelErrored("t:0", ConnectionClosed(None, "cut"), None))
    log.event(Disconnected(None, "cut", 0.5, socket=1))
    log.event(ChannelErrored("t:1", ConnectionClosed(None, "cut"), None))
    lines(caplog)
    log.event(Connected(None, True, socket=1))
    log.event(ChannelJoined("t:1", None, "8", {}))
    log.event(Connected(None, True, socket=0))
    log.event(ChannelJoined("t:0", None, "9", {}))
    (line,) = lines(caplog)
    assert line.endswith("2 channels joined again")


# ---- what repeats ---------------------------------------------------------------------------------------------------


def test_what_repeats_is_logged_once_then_counted_and_summed_up(caplog: pytest.LogCaptureFixture) -> None:
    log, clock = log_of()
    for number in range(200_000):
        log.event(BadFrame("no array", f"{number}", 9))
    assert len(lines(caplog)) == 1
    clock.now = log.due
    log.tick()
    assert lines(caplog) == [
        "199,999 more frames dropped; the latest: a frame of size 9 was dropped: no array; it begins 199999"
    ]
    assert log.due == inf
    log.event(BadFrame("no array", "[", 9))
    assert lines(caplog) == []
    clock.now += 2 * INTERVAL
    log.event(BadFrame("no array", "{", 9))
    assert [line[:7] for line in lines(caplog)] == ["1 more "]
    clock.now += 5 * INTERVAL
    log.tick()
    lines(caplog)
    clock.now += 5 * INTERVAL
    log.event(BadFrame("no array", "!", 9))
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize(
    "event",
    [
        BadFrame("no", "", 1),
        InboxOverflow("t", 1, 1),
        ConnectFailed(ConnectError("no"), 1, 0.0),
        Disconnected(1000, "", 0.0),
        ChannelErrored("t", ChannelCrashed("t"), 1.0),
        ChannelEnded("t", ChannelClosed("t", "gone")),
    ],
)
def test_no_line_can_be_repeated_at_will(caplog: pytest.LogCaptureFixture, event: Event) -> None:
    log, _ = log_of()
    for _ in range(1000):
        log.event(event)
    assert len(lines(caplog)) <= 20
    log.event(Closed(None))
    assert len(lines(caplog)) == 1


@pytest.mark.parametrize(
    ("event", "often", "kind"),
    [
        (Connected(None, False), 5, "connections"),
        (Connected(None, True), 1, "reconnections"),
        (Connected(None, False, transport="longpoll"), 1, "fallbacks"),
        (Disconnected(1000, "", 0.0), 5, "lost connections"),
        (ConnectFailed(ConnectError("no"), 1, 0.0), 5, "failed attempts to connect"),
        (SocketEnded(ConnectError("no"), 2), 5, "sockets that were not opened"),
        (ChannelErrored("t", ChannelCrashed("t"), 1.0), 20, "troubles of channels"),
        (ChannelEnded("t", ChannelClosed("t", "gone")), 20, "ends of channels"),
        (PatternJoined("sim:*"), 20, "patterns joined"),
        (UnclaimedMessages("t", "e", 3), 1, "tellings of messages on topics without a channel"),
        (BadFrame("no", "", 1), 1, "frames dropped"),
    ],
)
def test_each_kind_has_so_many_lines_and_the_others_are_counted_by_its_name(
    caplog: pytest.LogCaptureFixture, event: Event, often: int, kind: str
) -> None:
    log, clock = log_of()
    for _ in range(1000):
        log.event(event)
    said = [line for line in lines(caplog) if kind != "fallbacks" or "polled" in line]
    assert said == [said[0]] * often
    clock.now += INTERVAL
    log.tick()
    counted = [line for line in lines(caplog) if kind in line]
    assert counted == [f"{1000 - often:,} more {kind}; the latest: {said[0]}"]


def test_a_client_that_falls_back_to_polling_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    log, _ = log_of()
    log.event(Connected(None, False, transport="longpoll"))
    log.event(Connected(None, True, transport="longpoll"))
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.WARNING, f"no WebSocket gets through to {PLACE}: it is polled, by HTTP, from now on"),
        (logging.INFO, f"connected to {PLACE}"),
        (logging.INFO, f"connected again to {PLACE}"),
    ]


@pytest.mark.parametrize(
    ("functions", "names"), [([repr, print, repr], "builtins.print, builtins.repr"), ([], "streams")]
)
def test_what_a_drain_left_is_told_with_the_names_of_its_handlers(
    caplog: pytest.LogCaptureFixture, functions: list[Any], names: str
) -> None:
    log, _ = log_of()
    log._proto.unfinished = frozenset(Handler(function, "n") for function in functions)
    log.event(Closed(None))
    (record,) = caplog.records
    said = f"drain_timeout was over for the client of {PLACE}: 0 messages are not handled, of {names}"
    assert (record.levelno, record.getMessage()) == (logging.WARNING, said)


def test_dropped_messages_are_summed_up_by_their_number(caplog: pytest.LogCaptureFixture) -> None:
    log, _ = log_of()
    for _ in range(3):
        log.event(InboxOverflow("t", 500, 640))
    log.event(Closed(None))
    assert lines(caplog)[-1].startswith("1,000 more messages of topic 't' dropped; the latest: 500 messages")


def test_what_is_counted_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    log, clock = log_of()
    for number in range(10_000):
        log.event(InboxOverflow(f"t:{number}", 1, 640))
    assert len(log._runs) <= 101
    assert len(lines(caplog)) <= 101
    clock.now += 2 * INTERVAL
    log.event(InboxOverflow("t:1", 1, 640))
    log.event(InboxOverflow("t:new", 1, 640))
    assert [line[:6] for line in lines(caplog)] == ["9,899 ", "1 mess", "1 mess"]


def test_kinds_beyond_the_bound_are_counted_as_one(caplog: pytest.LogCaptureFixture) -> None:
    log, clock = log_of()
    for number in range(102):
        log.event(InboxOverflow(f"t:{number}", 1, 640))
        log.event(InboxOverflow(f"t:{number}", 2, 640))
    said = [f"1 messages of topic 't:{number}' dropped: 640 wait for their handlers" for number in range(101)]
    assert lines(caplog) == said
    clock.now += INTERVAL
    log.tick()
    told = "the latest: 2 messages of topic 't:{}' dropped: 640 wait for their handlers"
    assert lines(caplog) == [
        *(f"2 more messages of topic 't:{number}' dropped; {told.format(number)}" for number in range(100)),
        f"5 more lines of other kinds; {told.format(101)}",
    ]


def test_a_kind_whose_time_is_over_makes_room_for_another(caplog: pytest.LogCaptureFixture) -> None:
    log, clock = log_of()
    for number in range(100):
        log.event(InboxOverflow(f"t:{number}", 1, 640))
    clock.now += INTERVAL
    for _ in range(2):
        log.event(InboxOverflow("t:new", 2, 640))
    lines(caplog)
    clock.now += INTERVAL
    log.tick()
    said = "2 messages of topic 't:new' dropped: 640 wait for their handlers"
    assert lines(caplog) == [f"2 more messages of topic 't:new' dropped; the latest: {said}"]


def test_reconnections_have_so_many_lines_and_the_others_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    log, _ = log_of()
    for _ in range(7):
        log.event(ChannelErrored("t:0", ConnectionClosed(1006, "cut"), None))
        log.event(Connected(None, True))
        log.event(ChannelJoined("t:0", None, "9", {}))
    said = f"connected again to {PLACE}: 1 channel joined again"
    assert lines(caplog) == [said] * 5
    log.event(Closed(None))
    assert lines(caplog) == [f"2 more reconnections; the latest: {said}"]


def test_a_channel_that_ended_before_the_connection_was_back_is_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    log, _ = log_of()
    lose(log, 2)
    log.event(ChannelEnded("t:1", None))
    lines(caplog)
    log.event(Connected(None, True))
    log.event(ChannelJoined("t:0", None, "9", {}))
    assert lines(caplog) == [f"connected again to {PLACE}: 1 channel joined again"]


def test_what_was_raised_is_shown_up_to_a_bound(caplog: pytest.LogCaptureFixture) -> None:
    def fail(report: HandlerError) -> None:
        raise error

    error = ValueError("100 %s" + "x" * 1000)
    told = f"{repr(error)[:499]}…"
    failed = "handler test_reports.handle failed on event 'shout' of topic 'room:1'"
    log_of()[0].handler_failed(report(error))
    listener_failed(error)
    report_to(fail, report(error))
    assert lines(caplog) == [
        f"{failed}: {told}",
        f"a listener to events failed: {told}",
        f"{failed}: {told}",
        f"on_handler_error itself failed: {told}",
    ]


def test_errors_of_a_handler_are_logged_with_one_traceback(caplog: pytest.LogCaptureFixture) -> None:
    log, _ = log_of()
    for _ in range(100):
        log.unless(log_handler_error)(report(ValueError("unlucky")))
    log.handler_failed(report(KeyError("other")))
    assert [record.exc_info is not None for record in caplog.records] == [True, True]
    lines(caplog)
    log.event(Closed(None))
    assert lines(caplog)[0].startswith("99 more errors of handler test_reports.handle (ValueError)")
    assert log.unless(print) is print


def test_lines_do_not_show_what_was_sent_in_confidence_nor_control_characters(caplog: pytest.LogCaptureFixture) -> None:
    log, _ = log_of(auth_token="t0p-s3cr3t")
    log._proto.connect(0.0)
    log._proto.commands()
    log.event(Disconnected(1008, "t0p-s3cr3t\n\x1b[2J" + "x" * 10_000, 1.0))
    log.handler_failed(report(ValueError("t0p-s3cr3t\r\u202e")))
    for line in lines(caplog):
        assert line.isprintable()
        assert len(line) <= 2000
        assert "t0p" not in line


class Bursts(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError("the disk is full")


def test_a_log_that_raises_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    logger, bursts = logging.getLogger("phx_transports"), Bursts()
    logger.addHandler(bursts)
    try:
        log_of()[0].event(Disconnected(1000, "", 0.0))
        log_handler_error(report(ValueError()))
        session = Session()
        session.listeners.append(lambda event: [][0])
        session.settle([Closed(None)])
    finally:
        logger.removeHandler(bursts)
    assert session.closed
    assert "the disk is full" in capsys.readouterr().err


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
    first, second = caplog.records
    assert (first.levelno, second.levelno) == (logging.ERROR, logging.ERROR)
    assert "KeyError" in first.getMessage()
    assert second.getMessage() == f"on_handler_error itself failed: {failure!r}"
    assert second.exc_info is not None
    assert second.exc_info[1] is failure


@pytest.mark.parametrize("error", [asyncio.CancelledError(), StopIteration(), GeneratorExit()])
def test_what_cannot_be_raised_anywhere_is_wrapped(error: BaseException) -> None:
    raisable = report(error).raisable
    assert isinstance(raisable, RuntimeError)
    assert raisable.__cause__ is error
    assert "handle" in str(raisable)


def test_any_other_error_is_raised_as_it_is() -> None:
    error = ValueError()
    assert report(error).raisable is error
    assert error.__notes__ == [f"raised by handler {__name__}.handle on event 'shout' of topic 'room:1'"]
