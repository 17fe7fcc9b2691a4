from asyncio import CancelledError
from concurrent.futures import Future
from typing import Any

import pytest

from phx_proto.errors import ConnectionClosedByClient, HandshakeRefused, JoinRefused, PushTimeout
from phx_proto.events import (
    ChannelErrored,
    ChannelJoined,
    Closed,
    Connected,
    Disconnected,
    Event,
    JoinFailed,
    LeaveEnd,
    LeaveEnded,
    PingAnswered,
    PushFailed,
    ReplyReceived,
)
from phx_proto.message import Reply
from phx_transports.client.session import Session

CONNECTED = Connected(None, False)
DISCONNECTED = Disconnected(1006, "cut", 0.1)
REFUSED = HandshakeRefused(status=403)


def waiting(session: Session, ref: str = "1") -> "Future[Any]":
    future: Future[Any] = Future()
    assert session.begin(lambda now: ref, future, 0.0) == ref
    return future


def test_the_ref_of_each_call_is_told_when_it_begins() -> None:
    session, told = Session(), list[str]()
    session.on_begin = told.append
    waiting(session, "7")
    assert told == ["7"]


def for_connection(session: Session) -> "Future[Any]":
    future: Future[Any] = Future()
    session.wait_connected(future)
    return future


def for_end(session: Session) -> "Future[Any]":
    future: Future[Any] = Future()
    session.wait_closed(future)
    return future


@pytest.mark.parametrize(
    ("event", "result"),
    [
        (ReplyReceived("t", "e", "1", Reply("error", {"a": 1})), Reply("error", {"a": 1})),
        (ChannelJoined("t", "1", "9", {"since": 3}), {"since": 3}),
        (LeaveEnded("t", "1", LeaveEnd.REPLY), None),
        (PingAnswered("1", 0.25), 0.25),
    ],
)
def test_the_event_with_a_calls_ref_gives_its_result(event: Event, result: Any) -> None:
    session = Session()
    call, other = waiting(session), waiting(session, "2")
    session.settle([event])
    assert call.result(0) == result
    assert not other.done()


@pytest.mark.parametrize(
    "event", [PushFailed("t", "e", "1", PushTimeout("t", "e", 1.0)), JoinFailed("t", "1", JoinRefused("t", {}))]
)
def test_the_event_with_a_calls_ref_raises_its_error(event: Any) -> None:
    session = Session()
    call = waiting(session)
    session.settle([event])
    assert call.exception(0) is event.error


def test_two_calls_that_share_a_ref_end_together() -> None:
    session = Session()
    first, second = waiting(session), waiting(session)
    session.settle([LeaveEnded("t", "1", LeaveEnd.REPLY)])
    assert (first.result(0), second.result(0)) == (None, None)


def test_a_call_that_has_ended_is_kept_no_longer() -> None:
    session = Session()
    waiting(session, "1")
    assert session.awaits("1")
    session.settle([PingAnswered("1", 0.25)])
    assert not session.awaits("1")


def test_a_call_that_was_given_up_is_left_alone() -> None:
    session = Session()
    calls = waiting(session, "1"), waiting(session, "2")
    for call in calls:
        call.cancel()
    session.settle([PingAnswered("1", 1.0), PushFailed("t", "e", "2", PushTimeout("t", "e", 1.0))])
    assert all(call.cancelled() for call in calls)


def test_an_event_that_nobody_waits_for_is_told_to_the_listeners_alone() -> None:
    session = Session()
    told: list[Event] = []
    session.listeners.append(told.append)
    events: list[Event] = [
        ChannelJoined("t", None, "9", {}),
        ChannelErrored("t", REFUSED, 1.0),
        PingAnswered("7", 1.0),
        PushFailed("t", "e", "8", PushTimeout("t", "e", 1.0)),
    ]
    session.settle(events)
    assert told == events


def test_a_listener_may_go_while_it_is_told() -> None:
    session = Session()
    told: list[Event] = []

    def once(event: Event) -> None:
        told.append(event)
        session.listeners.remove(once)

    session.listeners += [once, told.append]
    session.settle([CONNECTED, DISCONNECTED])
    assert told == [CONNECTED, CONNECTED, DISCONNECTED]


def test_waiting_for_the_connection_ends_when_it_is_there() -> None:
    session = Session()
    early = for_connection(session)
    assert not early.done()
    session.settle([CONNECTED])
    assert early.result(0) is None
    assert for_connection(session).result(0) is None


def test_waiting_for_the_connection_begins_anew_when_it_is_lost() -> None:
    session = Session()
    session.settle([CONNECTED, DISCONNECTED])
    call = for_connection(session)
    assert not call.done()
    session.settle([CONNECTED])
    assert call.result(0) is None


def test_the_clients_end_is_told_to_all_who_wait_with_its_error() -> None:
    session = Session()
    calls = [for_connection(session), for_end(session)]
    session.settle([Closed(REFUSED)])
    calls += [for_connection(session), for_end(session)]
    assert [call.exception(0) for call in calls] == [REFUSED] * 4
    assert session.error is REFUSED


def test_an_end_by_the_application_is_no_error_but_to_who_wants_a_connection() -> None:
    session = Session()
    wants_connection, wants_end = for_connection(session), for_end(session)
    session.settle([CONNECTED, Closed(None)])
    assert wants_connection.result(0) is None
    assert wants_end.result(0) is None
    closed = for_connection(session).exception(0)
    assert isinstance(closed, ConnectionClosedByClient)
    assert str(closed) == "the connection is closed without a close code: the application closed it"
    assert session.error is None


def test_the_first_reason_given_for_the_end_stands() -> None:
    session = Session()
    ours = ZeroDivisionError()
    session.fail(ours)
    session.fail(ValueError())
    session.settle([Closed(REFUSED)])
    assert for_end(session).exception(0) is ours


@pytest.mark.parametrize("raised", [ZeroDivisionError("mine"), CancelledError(), RecursionError()])
def test_a_listener_that_raises_is_in_nobodys_way(raised: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    session = Session()
    call, end, told = waiting(session), for_end(session), list[Event]()

    def fail(event: Event) -> None:
        assert call.done()
        raise raised

    session.listeners += [fail, told.append]
    events: list[Event] = [ReplyReceived("t", "e", "1", Reply("ok")), Closed(None)]
    session.settle(events)
    assert (call.result(0), end.result(0), told) == (Reply("ok"), None, events)
    assert {record.getMessage() for record in caplog.records} == {f"a listener to events failed: {raised!r}"}
    assert {record.exc_info and record.exc_info[1] for record in caplog.records} == {raised}
