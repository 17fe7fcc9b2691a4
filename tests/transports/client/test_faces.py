"""The two faces: the user's words and nothing else, and the same with `await` as without."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

import phx_transports.asyncio
import phx_transports.threads
import phx_transports.wsproto
from phx_transports import asyncio, threads, wsproto

CLIENT = (
    "abort channel channels close error events join joined ping reconnect router run state stats stop wait_closed "
    "wait_connected"
)
CHANNEL = (
    "add begin_leave cast client join last_seen leave messages off on present push response state stream topic "
    "track_presence wait_for"
)
STREAM = "dropped"

#: What each client has by itself.
ATTRIBUTES = {"channels", "router"}

#: Calls whose `timeout` only the blocking face has. In asyncio, `asyncio.timeout` bounds the wait for an item.
STREAMS = {"events", "messages", "stream"}

#: Not on wsproto: one thread runs its handlers, and there are no proxies, no compression and no test transport.
NOT_ON_WSPROTO = {"proxy", "compression", "transport", "executor"}

#: What names differ by: how a thing is awaited, iterated or entered.
AWAITED = {"AsyncGenerator": "Generator", "Awaitable[socket]": "socket"}


def names(of: Any) -> str:
    return " ".join(name for name in dir(of) if not name.startswith("_"))


@pytest.mark.parametrize("package", [asyncio, threads, wsproto])
def test_a_completion_list_has_the_users_words_and_nothing_else(package: Any) -> None:
    client = {*names(package.Client).split(), *ATTRIBUTES}
    assert " ".join(sorted(client)) == CLIENT
    assert names(package.Channel) == CHANNEL
    streams = {*names(package.EventStream).split()}
    assert streams - {"next"} == {STREAM}


def test_threads_and_wsproto_have_one_face() -> None:
    assert threads.Client is wsproto.Client
    assert threads.Channel is wsproto.Channel
    assert threads.MessageStream is wsproto.MessageStream


def annotation(of: Any) -> str:
    text = of if isinstance(of, str) else inspect.formatannotation(of)
    text = re.sub(r"[\w.]+\.(\w+)", r"\1", text).strip("'\"")
    for awaited, blocking in AWAITED.items():
        text = text.replace(awaited, blocking)
    return text.replace("Generator[Channel, None, None]", "Generator[Channel, None]")


def signature(function: Callable[..., Any], without: set[str]) -> tuple[Any, ...]:
    found = inspect.signature(inspect.unwrap(function))
    parameters = [
        (one.name, one.kind, one.default, annotation(one.annotation))
        for one in found.parameters.values()
        if one.name not in without
    ]
    return (*parameters, annotation(found.return_annotation))


def raised(function: Any) -> list[str]:
    """The errors that its documentation lists."""
    section = (inspect.getdoc(function) or "").partition("Raises:\n")[2]
    return re.findall(r"^    (\w+):", section, re.MULTILINE)


@pytest.mark.parametrize(("kind", "listed"), [("Client", CLIENT), ("Channel", CHANNEL)])
def test_with_and_without_await_all_calls_are_the_same(kind: str, listed: str) -> None:
    for name in listed.split():
        if name in ATTRIBUTES:
            continue
        awaited, blocking = (inspect.getattr_static(getattr(package, kind), name) for package in (asyncio, threads))
        assert isinstance(awaited, property) == isinstance(blocking, property), name
        assert raised(awaited) == raised(blocking), name
        if isinstance(awaited, property):
            awaited, blocking = awaited.fget, blocking.fget
        without = {"timeout"} if name in STREAMS else set[str]()
        assert signature(awaited, set()) == signature(blocking, without), name


def test_connect_takes_the_same_in_every_adapter() -> None:
    awaited = signature(phx_transports.asyncio.connect.__init__, {"self"})[:-1]
    blocking = signature(phx_transports.threads.connect, set())[:-1]
    assert awaited == blocking
    smaller = signature(phx_transports.wsproto.connect, {"transport"})[:-1]  # which is no test kit there
    assert smaller == tuple(one for one in blocking if one[0] not in NOT_ON_WSPROTO)
    assert raised(phx_transports.asyncio.connect) == raised(phx_transports.threads.connect)
    assert raised(phx_transports.threads.connect) == raised(phx_transports.wsproto.connect)
