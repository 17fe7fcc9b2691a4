"""How a client ends: what is told to the core, what whoever waits is told, and how long handlers are waited for."""

from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from phx_proto.backoff import ReconnectPolicy
from phx_proto.client import ClientProtocol
from phx_proto.commands import OpenTransport
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_transports.client.ending import Ending
from phx_transports.client.reports import HandlerError
from phx_transports.client.session import Session

#: A close code after which the client does not come back.
FINAL = 4001


class Client:
    """A connected client that hands no message to its handlers; `now` is the time."""

    def __init__(self, *, fail_fast: bool = False) -> None:
        self.now = 0.0
        self.reports: list[HandlerError] = []
        self.halts: list[str] = []
        router = Router()
        self.handler: Handler = router.add(lambda message: None, "n")
        options = ClientOptions(reconnect=ReconnectPolicy(final_codes=frozenset({FINAL})))
        self.proto = ClientProtocol("ws://127.0.0.1/socket", router=router, options=options)
        self.session = Session()
        self.ending = Ending(
            self.proto,
            self.session,
            tell=self.tell,
            on_handler_error=self.reports.append,
            fail_fast=fail_fast,
            drain_timeout=10.0,
            halt=lambda: self.halts.append(self.state),
        )
        self.tell(self.proto.connect)
        (command,) = self.proto.commands()
        assert isinstance(command, OpenTransport)
        self.link = command.link
        self.tell(lambda now: self.link.opened(None, now))

    def tell(self, call: Callable[[float], Any], /) -> Any:
        result = call(self.now)
        self.session.settle(self.proto.events())
        if self.session.closed:
            self.ending.core_ended(self.now)
        return result

    def receive(self, count: int) -> None:
        """Messages that wait for their handler."""
        channel = self.proto.channel("room:1")
        self.tell(channel.join)
        ref = channel.join_ref
        ok = f'["{ref}","{ref}","room:1","phx_reply",{{"status":"ok","response":{{}}}}]'
        self.tell(lambda now: self.link.receive_all([ok, *([f'["{ref}",null,"room:1","n",{{}}]'] * count)], now))

    def fail_handler(self, error: BaseException | None = None) -> BaseException:
        error = error or ZeroDivisionError()
        message = Message[Any](join_ref="1", ref=None, topic="room:1", event="n", payload={})
        self.ending.handler_failed(HandlerError(self.handler, message, error))
        return error

    @property
    def state(self) -> str:
        return self.proto.state.name

    @property
    def waits(self) -> bool:
        return self.ending.waits(self.now)


class Reader:
    """Somebody who reads a channel."""

    released = 0

    def release(self) -> None:
        self.released += 1

    def end(self) -> None: ...


def test_the_first_signal_closes_gracefully_and_the_second_at_once() -> None:
    client = Client()
    client.receive(1)
    client.ending.on_signal(2)
    assert client.state == "DRAINING"
    client.ending.on_signal(2)
    assert (client.state, client.session.error, client.waits) == ("CLOSED", None, False)


def test_a_signal_while_the_connection_is_being_closed_drops_it() -> None:
    client = Client()
    client.ending.on_signal(2)
    assert client.state == "CLOSING"
    client.ending.on_signal(2)
    assert client.state == "CLOSED"


def test_closing_takes_its_time_and_no_longer() -> None:
    client = Client()
    client.receive(1)
    client.ending.stop()
    client.now = 9.0
    client.tell(client.proto.handle_timeout)
    assert client.state == "DRAINING"
    client.now = 10.0
    client.tell(client.proto.handle_timeout)
    assert client.state == "CLOSED"


@pytest.mark.parametrize("how", ["stop", "drop"])
def test_nothing_waits_for_readers_from_then_on(how: str) -> None:
    client, reader = Client(), Reader()
    client.session.readers.add(reader)
    getattr(client.ending, how)()
    assert reader.released > 0


def test_a_handlers_error_is_reported_and_no_more() -> None:
    client = Client()
    error = client.fail_handler()
    assert [report.error for report in client.reports] == [error]
    assert client.state == "OPEN"


def test_with_fail_fast_it_ends_the_client() -> None:
    client = Client(fail_fast=True)
    client.receive(3)
    error = client.fail_handler()
    client.fail_handler()  # the first counts
    assert client.reports[0].error is error
    assert (client.state, client.session.error) == ("CLOSED", error)
    assert not client.waits


def test_an_error_after_the_end_changes_nothing() -> None:
    client = Client()
    client.ending.drop()
    client.ending.fail(ZeroDivisionError())
    assert client.session.error is None


def test_what_came_before_the_servers_end_is_still_handled() -> None:
    client = Client()
    client.receive(2)
    assert client.ending.deadline == inf
    client.now = 1.0
    client.tell(lambda now: client.link.closed(FINAL, "", now))
    assert (client.state, client.ending.deadline, client.waits) == ("CLOSED", 11.0, True)
    (queue,) = client.proto.runnable()
    client.tell(lambda now: client.proto.handled(queue.take(), now))
    assert not client.waits


def test_handlers_that_take_too_long_after_it_are_left() -> None:
    client = Client()
    client.receive(2)
    client.tell(lambda now: client.link.closed(FINAL, "", now))
    client.now = 9.9
    client.tell(client.proto.handle_timeout)
    assert client.waits
    client.now = 10.0
    assert not client.waits


def test_a_drop_after_it_waits_for_no_handler() -> None:
    client = Client()
    client.receive(2)
    client.tell(lambda now: client.link.closed(FINAL, "", now))
    client.ending.drop()
    assert not client.waits


# ---- what is no error ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("fail_fast", [False, True])
def test_what_asks_for_the_end_closes_gracefully_and_is_told_to_who_waits_for_it(
    error: BaseException, fail_fast: bool
) -> None:
    client = Client(fail_fast=fail_fast)
    client.receive(2)
    client.fail_handler(error)
    assert (client.state, client.session.error, client.reports, client.halts) == ("DRAINING", error, [], [])
    client.fail_handler(SystemExit("a second one changes nothing"))
    assert client.session.error is error
    (queue,) = client.proto.runnable()
    client.tell(lambda now: client.proto.handled(queue.take(), now))
    client.tell(client.proto.abort)
    assert client.session.closed
    assert not client.waits


def test_nothing_more_is_begun_before_anybody_is_told_of_an_error_that_ends_the_client() -> None:
    client = Client(fail_fast=True)
    client.fail_handler()
    assert client.halts == ["OPEN"]
    assert client.state == "CLOSED"


def test_an_exit_by_who_is_told_of_errors_is_heeded_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()

    def leave(report: HandlerError) -> None:
        raise SystemExit(4)

    monkeypatch.setattr(client.ending, "_on_handler_error", leave)
    client.fail_handler()
    assert repr(client.session.error) == "SystemExit(4)"
