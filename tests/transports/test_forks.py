"""A process that forks after it has connected: the client stays the parent's."""

import os
import sys
import warnings
from typing import Any

import pytest
from room_server import server
from serving_in_thread import LONG, embedded

import phx_transports.threads
import phx_transports.wsproto

CONNECT: list[Any] = [
    lambda url: phx_transports.threads.connect(url, proxy=None),
    lambda url: phx_transports.wsproto.connect(url),
]


def in_a_fork(connect: Any, url: str) -> str:
    """What a forked process meets that goes on using its parent's client, and then closes it."""
    with connect(url) as client:
        channel = client.join("room:1", {"name": "ann"})
        reading, writing = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which is what this is about
            child = os.fork()
        if child == 0:
            told = "nothing"
            try:
                channel.push("echo", 1, timeout=1.0)
            except BaseException as error:
                told = f"{type(error).__name__}: {error}"
            try:
                client.close()
                client.abort()
            except BaseException as error:
                told = f"closing raised {error!r}"
            os.write(writing, told.encode())
            sys.stdout.flush()
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = pipe.read()
        os.waitpid(child, 0)
        assert channel.push("echo", 2, timeout=LONG).response == 2
        assert client.stats.reconnects == 0
        return told


@pytest.mark.parametrize("connect", CONNECT, ids=["threads", "wsproto"])
def test_in_a_fork_calls_raise_at_once_and_closing_leaves_the_parents_connection_alone(connect: Any) -> None:
    with embedded(server) as url:
        assert in_a_fork(connect, url).startswith("OtherProcess: this client belongs to the process that connected it")
