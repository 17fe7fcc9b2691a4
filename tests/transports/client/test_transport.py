"""How the core's commands are carried out: what is sent, closed and dropped, and on which connection."""

from collections.abc import Awaitable
from typing import Any, cast

import pytest

from phx_proto.client import ClientProtocol
from phx_proto.commands import (
    AbortTransport,
    CloseTransport,
    Command,
    OpenTransport,
    PauseReading,
    PauseSending,
    Resolve,
    ResumeReading,
    ResumeSending,
    SendBinary,
    SendRequest,
    SendText,
)
from phx_proto.errors import HandshakeRefused
from phx_proto.link import Exchange, Link
from phx_transports.client.transport import CommandTransport, LinkProgress, plain_value


class Attempt:
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Connection:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.told.append((name, *arguments))


class Transport(CommandTransport[Any, Any]):
    """An adapter that does not wait either; `told` is what was left to it."""

    def __init__(self, requests: tuple[Link, ...] = ()) -> None:
        super().__init__()
        self.told: list[Command] = []
        self.requests = set(requests)

    def _tell(self, command: Any) -> None:
        self.told.append(command)

    _open = _resolve = _send_request = _pause_sending = _resume_sending = _tell

    def _drop_requests(self, link: Link) -> bool:
        return link in self.requests


def a_link() -> Link:
    core = ClientProtocol("ws://127.0.0.1/socket")
    core.connect(0.0)
    (command,) = core.commands()
    assert isinstance(command, OpenTransport)
    return command.link


LINK, OTHER = a_link(), a_link()


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (SendText(LINK, "text"), ("send_text", "text")),
        (SendBinary(LINK, b"bytes"), ("send_binary", b"bytes")),
        (CloseTransport(LINK, 1001, "away"), ("close", 1001, "away")),
        (PauseReading(LINK), ("pause_reading",)),
        (ResumeReading(LINK), ("resume_reading",)),
        (AbortTransport(LINK), ("abort",)),
    ],
)
def test_a_command_goes_to_the_connection_of_its_link(command: Command, told: tuple[Any, ...]) -> None:
    transport, connection, other = Transport(), Connection(), Connection()
    transport.connections = {OTHER: other, LINK: connection}
    transport.perform(command)
    assert (connection.told, other.told) == ([told], [])
    dropped = isinstance(command, AbortTransport)
    assert list(transport.connections) == ([OTHER] if dropped else [OTHER, LINK])


def test_an_attempt_that_is_aborted_is_given_up() -> None:
    transport, attempt = Transport(), Attempt()
    transport.attempts = {LINK: attempt}
    transport.perform(AbortTransport(LINK))
    assert attempt.cancelled
    assert transport.attempts == {}


def test_a_link_of_requests_has_no_connection_to_drop() -> None:
    transport = Transport(requests=(LINK,))
    transport.perform(AbortTransport(LINK))
    with pytest.raises(KeyError):
        transport.perform(AbortTransport(OTHER))


@pytest.mark.parametrize(
    "command",
    [
        OpenTransport(LINK, "ws://127.0.0.1/", (), ()),
        Resolve(1, lambda: 1),
        SendRequest(LINK, Exchange(cast("Any", LINK), 4), "GET", "http://127.0.0.1/", (), b""),
        PauseSending(LINK),
        ResumeSending(LINK),
    ],
    ids=lambda command: type(command).__name__,
)
def test_what_takes_its_time_is_the_adapters(command: Command) -> None:
    transport = Transport()
    transport.perform(command)
    assert transport.told == [command]


def test_a_link_is_told_how_far_its_attempt_is() -> None:
    link, times = a_link(), list[float]()
    refusal = HandshakeRefused(status=503)

    def step(call: Any) -> Any:
        times.append(3.0)
        return call(3.0)

    progress = LinkProgress(link, step)
    progress.waits("the proxy did not answer")
    assert (link.missing, link.refusal, times) == ("the proxy did not answer", None, [])
    progress.refusing(refusal)
    assert (link.refusal, times) == (refusal, [3.0])


class Promise(Awaitable[int]):
    def __await__(self) -> Any: ...


async def later() -> int:
    return 1


@pytest.mark.parametrize("provider", [later, Promise])
def test_where_nobody_awaits_params_and_tokens_come_from_plain_functions(provider: Any) -> None:
    with pytest.raises(TypeError, match=r"^params and token cannot be async here: give plain values or functions$"):
        plain_value(Resolve(1, provider))
    assert plain_value(Resolve(1, lambda: {"a": 1})) == {"a": 1}
