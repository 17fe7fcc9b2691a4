"""A process that forks after it has connected: the client stays the parent's."""

import asyncio
import os
import sys
import warnings
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from room_server import server
from serving_in_thread import LONG

import phx_transports.asyncio
import phx_transports.threads
import phx_transports.wsproto
from phx_transports.testing import serve

OTHER = "OtherProcess: this client belongs to the process that connected it"

CONNECT: list[Any] = [
    lambda url: phx_transports.threads.connect(url, proxy=None),
    lambda url: phx_transports.wsproto.connect(url),
]


def in_a_fork(run: Callable[[], str]) -> str:
    """What a forked process is told."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which is what this is about
        child = os.fork()
    if child == 0:
        told = "nothing"
        try:
            told = run()
        finally:
            os.write(writing, told.encode())
            sys.stdout.flush()
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


def told_by(call: Callable[[], object]) -> str:
    try:
        call()
    except BaseException as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize("connect", CONNECT, ids=["threads", "wsproto"])
def test_in_a_fork_calls_raise_at_once_and_closing_leaves_the_parents_connection_alone(connect: Any) -> None:
    with serve(server) as served, connect(served.url) as client:
        channel = client.join("room:1", {"name": "ann"})

        def use_and_close() -> str:
            told = told_by(lambda: channel.push("echo", 1, timeout=1.0))
            client.close()
            client.abort()
            return told

        assert in_a_fork(use_and_close).startswith(OTHER)
        assert channel.push("echo", 2, timeout=LONG).response == 2
        assert client.stats.reconnects == 0


@pytest.mark.parametrize("connect", CONNECT, ids=["threads", "wsproto"])
def test_in_a_fork_streams_raise_at_once_whether_they_were_open_before_or_not(connect: Any) -> None:
    with serve(server) as served, connect(served.url) as client:
        channel = client.join("room:1", {"name": "ann"})
        with channel.messages() as messages, client.events() as events:
            reads: list[Callable[[], object]] = [
                partial(next, messages),
                partial(next, events),
                channel.messages().__enter__,
                client.events().__enter__,
                partial(channel.wait_for, "tick"),
            ]
            told = in_a_fork(lambda: "|".join(map(told_by, reads)))
            assert [each.startswith(OTHER) for each in told.split("|")] == [True] * 5, told


def test_on_asyncio_streams_are_not_opened_in_a_fork() -> None:
    async def main(url: str) -> None:
        async with phx_transports.asyncio.connect(url, proxy=None) as client:
            channel = await client.join("room:1", {"name": "ann"})
            opens = [channel.messages().__aenter__, client.events().__aenter__]
            told = in_a_fork(lambda: "|".join(told_by(partial(open_it().send, None)) for open_it in opens))
            assert [each.startswith(OTHER) for each in told.split("|")] == [True] * 2, told

    with serve(server) as served:
        asyncio.run(main(served.url))


def test_on_asyncio_too() -> None:
    async def main(url: str) -> None:
        async with phx_transports.asyncio.connect(url, proxy=None) as client:
            channel = await client.join("room:1", {"name": "ann"})

            def step(call: Coroutine[Any, Any, object]) -> None:
                call.send(None)  # the loop is the parent's; what raises at once needs none

            def use_and_close() -> str:
                told = told_by(lambda: step(channel.push("echo", 1, timeout=1.0)))
                closed = [told_by(partial(step, call())) for call in (client.close, client.abort)]
                return told if closed == ["StopIteration: "] * 2 else f"closing: {closed}"

            assert in_a_fork(use_and_close).startswith(OTHER)
            assert (await channel.push("echo", 2, timeout=LONG)).response == 2
            assert client.stats.reconnects == 0

    with serve(server) as served:
        asyncio.run(main(served.url))
