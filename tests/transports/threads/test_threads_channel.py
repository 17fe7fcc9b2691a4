"""Channels on threads: the part that is not in behaviour/. Many callers, a full write buffer, timeouts."""

import math
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest
from in_memory import TOPIC, on_threads
from serving_in_thread import LONG, Wire, dial, joined, serving, start, until
from websockets.protocol import Protocol as WebSocketProtocol
from websockets.protocol import Side, State

from phx_proto.errors import (
    ChannelClosed,
    PushTimeout,
)
from phx_proto.handlers.router import Router
from phx_proto.link import Link
from phx_proto.message import Message
from phx_transports.testing import Peer
from phx_transports.threads import Channel
from phx_transports.threads.connection import Connection
from phx_transports.threads.dialing import Stream
from phx_transports.threads.transport import Transport
from phx_transports.websocket.options import NetworkOptions

pytestmark = pytest.mark.usefixtures("clean_threads")


def payloads(messages: list[Message[Any]]) -> list[Any]:
    return [message.payload for message in messages]


# ---- pushes ---------------------------------------------------------------------------------------------------------


def test_casts_of_many_threads_all_arrive_those_of_one_in_order() -> None:
    with joined() as (channel, wire, _):

        def work(worker: int) -> None:
            for number in range(100):
                channel.cast("n", [worker, number])

        workers = [start(work, number) for number in range(5)]
        work(5)  # the main thread, whose writing is done by another
        came: dict[int, list[int]] = {}
        for _ in range(600):
            worker, number = wire.expect("n").payload
            came.setdefault(worker, []).append(number)
        for one in workers:
            one.result(LONG)
        assert came == {worker: list(range(100)) for worker in range(6)}


# ---- a full write buffer --------------------------------------------------------------------------------------------

BIG = "x" * 200_000
CASTS = 100


def fill(channel: Channel, wire: Wire) -> Any:
    """Have somebody cast until he has to wait, for the server does not read."""
    wire.stop_reading()

    def cast() -> None:
        for _ in range(CASTS):
            channel.cast("big", BIG)

    casting = start(cast)
    until(lambda: channel.client._driver.transport._senders == 1)  # type: ignore[attr-defined]
    return casting


def test_casts_wait_while_the_server_does_not_read_and_all_arrive_when_it_does() -> None:
    with joined() as (channel, wire, _):
        casting = fill(channel, wire)
        wire.read_on()
        for _ in range(CASTS):
            wire.expect("big")
        casting.result(LONG)


def test_a_push_waits_likewise_and_its_timeout_runs() -> None:
    with joined() as (channel, wire, _):
        casting = fill(channel, wire)
        with pytest.raises(PushTimeout) as caught:
            channel.push("small", timeout=0.02)
        assert not caught.value.sent
        pushing = start(channel.push, "small", timeout=math.inf)
        until(lambda: channel.client._driver.transport._senders == 2)  # type: ignore[attr-defined]
        wire.read_on()
        for _ in range(CASTS + 1):
            frame = wire.receive()
            if frame.event == "small":
                wire.reply(frame)
        assert pushing.result(LONG).ok
        casting.result(LONG)


def test_who_waits_for_the_write_buffer_goes_on_when_the_connection_is_lost() -> None:
    with serving() as peer:
        client = dial(peer)
        wire = peer.wire()
        joining = start(client.join, TOPIC)
        wire.accept()
        channel = joining.result(LONG)
        casting = fill(channel, wire)
        wire.cut()
        wire = peer.wire()
        wire.accept()
        wire.expect("big")
        casting.result(LONG)
        client.abort()


def test_after_a_failed_write_senders_wait_for_the_end_that_the_next_read_reports() -> None:
    ours, theirs = socket.socketpair()
    protocol = WebSocketProtocol(Side.CLIENT, state=State.OPEN)
    handshake: Any = SimpleNamespace(protocol=protocol, network=NetworkOptions())
    connection = Connection(Stream(ours), handshake, b"", lock=threading.Lock())
    theirs.close()
    connection.send_text("to nobody")
    start(connection.flush).result(LONG)  # by another thread than the main thread, which leaves it to others
    assert connection.full
    assert connection.readable
    assert connection.receive() == []
    assert connection.ending is not None
    assert not connection.full
    connection.destroy()


def test_who_waits_for_the_write_buffer_is_woken_by_the_end_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phx_transports.blocking.waits.SLICE", 3 * LONG)  # else it looks again by itself
    nothing: Any = None
    driver: Any = SimpleNamespace(
        lock=threading.Lock(), step=nothing, due=nothing, fail=nothing, goes_on=lambda: False, finish=lambda: None
    )
    transport, link = Transport(driver, NetworkOptions()), Link(nothing, 1)
    over: Any = SimpleNamespace(full=True, ending=(1001, "going away"))
    transport.connections[link] = over
    waiting = start(transport.wait_writable, link)
    until(lambda: transport._senders)
    with driver.lock:
        monkeypatch.setattr(Link, "closed", lambda *ending: None)
        transport._closed(over, link, 0.0)
    assert waiting.result(LONG)
    transport.io_thread.start()  # which closes what it has
    transport.io_thread.join()


def test_who_waits_for_the_write_buffer_goes_on_when_the_client_is_closed() -> None:
    with joined() as (channel, wire, _):
        casting = fill(channel, wire)
        channel.client.abort()
        with pytest.raises(ChannelClosed):
            casting.result(LONG)
        wire.read_on()


def test_reading_goes_on_while_nothing_can_be_written() -> None:
    with joined() as (channel, wire, _), channel.messages(timeout=LONG) as messages:
        casting = fill(channel, wire)
        for number in range(50):
            wire.push(TOPIC, "n", number)
        assert payloads([next(messages) for _ in range(50)]) == list(range(50))
        wire.read_on()
        casting.result(LONG)


# ---- messages one after another -------------------------------------------------------------------------------------


def test_who_waits_for_a_message_waits_only_so_long_and_may_go_on(phx_peer: Peer) -> None:
    with on_threads(phx_peer) as channel, channel.messages(timeout=0.01) as messages:
        with pytest.raises(TimeoutError):
            next(messages)
        phx_peer.push(TOPIC, "late")
        assert messages.next(timeout=LONG).event == "late"


def test_a_stream_closed_while_messages_are_on_their_way_owes_nothing(phx_peer: Peer) -> None:
    with on_threads(phx_peer) as channel:
        entered, go_on = threading.Event(), threading.Event()

        @channel.on("n")
        def block(message: Message[Any]) -> None:
            entered.set()
            go_on.wait(LONG)

        with channel.messages():
            for event in ("n", "n", "m"):
                phx_peer.push(TOPIC, event)
            assert entered.wait(LONG)
        go_on.set()
        phx_peer.settle()
        assert channel.client.stats.handled == 3


def test_an_iterator_gets_its_messages_while_every_thread_is_busy(phx_peer: Peer) -> None:
    router = Router()
    go_on = threading.Event()
    router.add(lambda message: go_on.wait(LONG), "block")
    phx_peer.allow_join("busy:*")
    with on_threads(phx_peer, router=router) as channel:
        topics = [f"busy:{number}" for number in range(40)]
        for topic in topics:
            channel.client.join(topic)
        with channel.messages(timeout=LONG) as messages:
            for topic in topics:
                phx_peer.push(topic, "block")
            phx_peer.push(TOPIC, "n", 1)
            assert next(messages).payload == 1
        go_on.set()
        phx_peer.settle()
