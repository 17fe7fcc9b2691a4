"""A client's life on threads: the part that is not in behaviour/. Blocked calls, many callers, signals."""

import gc
import logging
import math
import os
import signal
import threading
import weakref
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest
from in_memory import TOPIC, on_threads
from room_server import server
from serving_in_thread import LONG, Flag, connected, start, until

from phx_proto.errors import (
    ChannelClosedByClient,
    ConnectionClosed,
    ConnectionClosedByClient,
    PushLost,
)
from phx_proto.events import BadFrame
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.states import SocketState
from phx_transports.testing import Peer, serve
from phx_transports.threads import Client, connect

pytestmark = pytest.mark.usefixtures("clean_threads")

T = TypeVar("T")


# ---- with the embedded server ---------------------------------------------------------------------------------------


def test_many_threads_push_at_once_and_each_gets_its_own_reply() -> None:
    with serve(server) as served, connect(served.url, proxy=None) as client:
        channels = [client.join(f"room:{number}") for number in range(4)]

        def work(worker: int) -> None:
            for number in range(50):
                mine = [worker, number]
                assert channels[number % 4].push("echo", mine).response == mine

        for worker in [start(work, number) for number in range(12)]:
            worker.result(LONG)
        assert client.stats.backlog == 0


def test_where_no_thread_can_be_started_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")  # as CPython, where the system gives none

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        connect("ws://127.0.0.1:1/socket")


# ---- lost and found -------------------------------------------------------------------------------------------------


def test_a_log_that_uses_the_client_does_not_stand_in_its_own_way(
    phx_peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    with on_threads(phx_peer) as channel:

        class Shipping(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                channel.cast("log", record.getMessage())

        handler = Shipping()
        logging.getLogger("phx_transports").addHandler(handler)
        try:
            phx_peer.send_raw("nonsense")
            assert "was dropped" in phx_peer.expect_push(TOPIC, "log").wait().payload
        finally:
            logging.getLogger("phx_transports").removeHandler(handler)


# ---- ping and events ------------------------------------------------------------------------------------------------


def test_who_waits_for_an_event_waits_only_so_long_and_may_go_on(phx_peer: Peer) -> None:
    with connect(phx_peer.url, transport=phx_peer) as client, client.events(timeout=0.01) as events:
        with pytest.raises(TimeoutError):
            next(events)
        phx_peer.send_raw("nonsense")
        assert isinstance(events.next(timeout=LONG), BadFrame)


# ---- closing --------------------------------------------------------------------------------------------------------


def test_close_drops_the_connection_at_the_drain_timeout_and_leaves_the_handler_alone(phx_peer: Peer) -> None:
    router = Router()
    entered, go_on = Flag(), Flag()

    @router.on("work")
    def work(message: Message[Any]) -> None:
        entered.set()
        go_on.wait()

    with on_threads(phx_peer, router=router, drain_timeout=3.0) as channel:
        phx_peer.push(TOPIC, "work")
        entered.wait()
        channel.client.stop()
        phx_peer.clock.advance(3)
        channel.client.wait_closed()
        assert phx_peer.connections[0].close_code is None
        go_on.set()


def test_close_by_several_and_abort_after_it_do_nothing_more(phx_peer: Peer) -> None:
    client = connect(phx_peer.url, transport=phx_peer)
    for closing in [start(client.close) for _ in range(3)]:
        closing.result(LONG)
    client.abort()
    assert phx_peer.connections[0].close_code == 1000


def test_blocked_calls_end_when_the_client_does(phx_peer: Peer) -> None:
    with on_threads(phx_peer) as channel:
        client = channel.client
        calls: list[Future[Any]] = [
            start(channel.push, "slow", timeout=math.inf),
            start(client.join, "room:2", timeout=math.inf),
            start(channel.wait_for, "never"),
            start(client.wait_closed),
            start(client.run),
        ]
        with channel.messages() as messages, client.events() as events:
            calls += [start(list[Any], messages), start(list[Any], events)]
            phx_peer.expect_push(TOPIC, "slow").wait()
            phx_peer.expect_join("room:2").wait()
            client.abort()
            ends = [type(call.exception(LONG)) for call in calls]
        assert ends == [PushLost, ConnectionClosedByClient, ChannelClosedByClient] + [type(None)] * 4


def test_a_blocked_wait_for_the_connection_ends_when_the_client_does(phx_peer: Peer) -> None:
    client = connect(phx_peer.url, transport=phx_peer)
    phx_peer.cut()
    assert client.state is SocketState.WAITING
    with pytest.raises(TimeoutError):
        client.wait_connected(timeout=0.01)
    waiting = start(client.wait_connected)
    client.close()
    with pytest.raises(ConnectionClosed):
        waiting.result(LONG)


def test_who_waits_for_the_end_waits_only_so_long(phx_peer: Peer) -> None:
    with connect(phx_peer.url, transport=phx_peer) as client:
        with pytest.raises(TimeoutError):
            client.wait_closed(timeout=0.01)
        assert client.state is SocketState.OPEN


def test_what_breaks_in_an_unforeseen_way_ends_the_client_with_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with connected() as (client, _):
        monkeypatch.setattr(client._driver.proto, "handle_timeout", lambda now: 1 / 0)
        client._driver._io_thread.arm(0.0)  # type: ignore[attr-defined]
        with pytest.raises(ZeroDivisionError):
            client.wait_closed()


# ---- interrupts, signals, the end of the program --------------------------------------------------------------------


def test_a_signal_closes_what_runs_and_the_handlers_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with connected() as (client, wire):

        def interrupt() -> None:
            until(lambda: signal.getsignal(signal.SIGTERM) != before[1])
            os.kill(os.getpid(), signal.SIGTERM)

        interrupting = start(interrupt)
        client.run()
        interrupting.result(LONG)
        assert wire.ended() == 1000
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# ---- many of everything ---------------------------------------------------------------------------------------------


def test_a_client_that_is_closed_is_forgotten() -> None:
    with connected() as (client, _):  # not a peer: that remembers its clients
        client.close()
        gone: weakref.ref[Client] = weakref.ref(client)
    del client, _
    gc.collect()
    assert gone() is None
