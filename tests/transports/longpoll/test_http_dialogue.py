"""The HTTP of long polling, without a socket."""

from collections.abc import Mapping
from typing import Any, cast

from phx_proto.commands import SendRequest
from phx_proto.errors import ConnectError
from phx_proto.link import Exchange, Link
from phx_transports.longpoll.http import HttpDialogue
from phx_transports.websocket.options import NetworkOptions

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Told:
    """The link behind the requests: keeps what it is told."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.errors: list[ConnectError] = []

    def exchange_answered(
        self, exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> None:
        self.statuses.append(status)

    def exchange_failed(self, exchange: Exchange, error: ConnectError, now: float) -> None:
        self.errors.append(error)

    def exchange_progressed(self, exchange: Exchange, now: float) -> None:
        raise AssertionError("all answers here come whole")


def asked() -> tuple[HttpDialogue, Told]:
    """A connection whose first request has been sent."""
    told = Told()
    command = SendRequest(cast("Link", None), Exchange(told, 2), "GET", "http://127.0.0.1/longpoll", ())
    network: NetworkOptions[Any] = NetworkOptions()
    http = HttpDialogue(command, network)
    http.request(command)
    return http, told


def test_a_connection_is_used_again_after_an_answer() -> None:
    http, told = asked()
    http.receive(ANSWER, 1.0)
    assert told.statuses == [200]
    assert http.may_be_used(2.0)


def test_a_dropped_connection_stays_over_when_its_answer_comes() -> None:
    http, told = asked()
    http.over = True
    http.receive(ANSWER, 1.0)
    assert http.over
    assert not told.statuses


def test_bytes_that_nothing_asked_for_end_the_connection() -> None:
    http, _ = asked()
    http.receive(ANSWER, 1.0)
    http.receive(ANSWER, 1.0)
    assert http.over
