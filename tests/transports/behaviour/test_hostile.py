"""A hostile peer: memory and time are bounded, with every adapter."""

import socket
import threading
from dataclasses import replace
from typing import Any

import pytest
from peer import push
from serving_in_thread import LONG, QUICK, Flag, Wire, serving, start, until

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.events import Connected, Disconnected
from phx_proto.flow import FlowLimits
from phx_proto.message import Message

from .adapters import TOPIC, Adapter
from .shared import in_every_way

MIB = 2**20


def frame(head: int, payload: bytes = b"") -> bytes:
    """A frame as a server sends it."""
    if len(payload) < 126:
        return bytes([head, len(payload)]) + payload
    if len(payload) < 2**16:
        return bytes([head, 126]) + len(payload).to_bytes(2, "big") + payload
    return bytes([head, 127]) + len(payload).to_bytes(8, "big") + payload


def large(number: int, size: int = 2**16) -> str:
    return push(TOPIC, "n", [number, "x" * size])


# ---- back-pressure in bytes -----------------------------------------------------------------------------------------


@in_every_way
def test_a_slow_handler_of_large_messages_is_felt_by_the_server(adapter: Adapter) -> None:
    seen: list[int] = []
    go_on = Flag()
    handlers = adapter.handlers()

    @handlers.on("n")
    def slow(message: Message[Any]) -> None:
        adapter.wait(go_on)
        seen.append(message.payload[0])

    options = replace(QUICK, flow=FlowLimits(high_bytes=MIB))
    with adapter.joined(router=handlers, options=options) as (channel, wire, _):
        client = channel.client
        sending = start(wire.send, *map(large, range(300)))  # 20 MB
        until(lambda: client.stats.backlog_bytes >= MIB)
        assert not sending.done()
        assert client.stats.backlog_bytes < 2 * MIB
        go_on.set()
        sending.result(LONG)
        until(lambda: client.stats.handled == 300)
        assert seen == list(range(300))
        stats = client.stats
        assert (stats.dropped, stats.backlog, stats.backlog_bytes) == (0, 0, 0)


@in_every_way
def test_a_push_that_is_never_answered_lifts_no_hard_bound(adapter: Adapter) -> None:
    go_on = Flag()
    handlers = adapter.handlers()
    handlers.add(lambda message: adapter.wait(go_on), "n")
    options = replace(QUICK, flow=FlowLimits(high_bytes=MIB))
    with adapter.joined(router=handlers, options=options) as (channel, wire, _):
        client = channel.client
        channel.add(lambda message, channel: channel.push("hello", timeout=60.0), "ask")
        wire.send(push(TOPIC, "ask"))
        asked = wire.expect("hello")
        wire.send(*map(large, range(300)))  # all of it is read
        wire.reply(asked)
        until(lambda: client.stats.received >= 303)
        stats = client.stats
        assert stats.backlog_bytes < 5 * MIB
        assert stats.delivered + stats.dropped == 301
        assert stats.dropped > 200
        go_on.set()


def test_a_stream_that_nobody_reads_is_felt_by_the_server_too(adapter: Adapter) -> None:
    with adapter.joined(options=replace(QUICK, flow=FlowLimits(high_bytes=MIB))) as (channel, wire, _):
        client = channel.client
        with channel.messages() as messages:
            sending = start(wire.send, *map(large, range(300)))
            until(lambda: client.stats.backlog_bytes >= MIB)
            assert not sending.done()
            assert client.stats.backlog_bytes < 2 * MIB
            assert [payload[0] for payload in messages.payloads(300)] == list(range(300))
            sending.result(LONG)
            until(lambda: client.stats.backlog == 0)
            assert client.stats.backlog_bytes == 0


# ---- pings ----------------------------------------------------------------------------------------------------------


def test_a_peer_that_pings_and_does_not_read_is_not_read_either(adapter: Adapter) -> None:
    with adapter.joined(factory=adapter.factory(connect_narrowly)) as (channel, wire, _):
        narrow(wire.socket)
        wire.stop_reading()
        pings = frame(0x89, b"x" * 125) * 20_000  # 2.5 MB
        wire.write(pings)
        assert left_over(wire) > len(pings) / 2  # what else there is, is in buffers
        wire.read_on()
        until(lambda: not wire.unsent())
        assert channel.client.ping() < LONG  # and all is well again


def narrow(sock: socket.socket) -> None:
    """The system is to buffer little, and not to learn to buffer more."""
    for buffer in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, buffer, 2**16)


def connect_narrowly(host: str, port: int) -> socket.socket:
    sock = socket.socket()
    narrow(sock)
    sock.connect((host, port))
    return sock


def left_over(wire: Wire) -> int:
    """What is unsent when nothing is taken any more."""
    before, left = -1, int(wire.unsent())
    while left != before:
        threading.Event().wait(0.2)
        before, left = left, wire.unsent()
    return left


# ---- fragments ------------------------------------------------------------------------------------------------------


def fragments(data: bytes, size: int) -> bytes:
    """A text message in parts of `size` bytes."""
    parts = [data[at : at + size] for at in range(0, len(data), size)]
    first, *rest = parts
    return frame(0x01, first) + b"".join(frame(0x00, part) for part in rest[:-1]) + frame(0x80, rest[-1])


def test_a_message_in_many_fragments_is_one_message(adapter: Adapter) -> None:
    got: list[Any] = []
    handlers = adapter.handlers()
    handlers.add(lambda message: got.append(len(message.payload)), "n")
    with adapter.joined(router=handlers) as (_, wire, _):
        wire.write(fragments(push(TOPIC, "n", "x" * 100_000).encode(), 100))
        wire.write(fragments(push(TOPIC, "n", "x" * 1_000).encode(), 1))
        until(lambda: got == [100_000, 1_000])


@pytest.mark.parametrize("size", [0, 2])
def test_a_message_in_too_many_fragments_ends_the_connection_with_1008(adapter: Adapter, size: int) -> None:
    with adapter.joined() as (channel, wire, _), channel.client.events() as events:
        wire.write(frame(0x01, b"[]") + frame(0x00, b"[]"[:size]) * 100_000)
        lost = events.next_of(Disconnected)
        assert lost.code is None
        assert "too many fragments" in lost.reason
        events.next_of(Connected)


def test_what_came_of_a_message_is_freed_with_its_connection(adapter: Adapter) -> None:
    """More than the process may take altogether, if it stayed."""
    with serving() as peer:
        reconnect = ReconnectPolicy(schedule=Backoff((0.001,)))
        client = adapter.dial(peer, options=replace(QUICK, reconnect=reconnect), max_size=4 * MIB)
        with client.events() as events:
            before = resident()
            for turn in range(30):
                wire = peer.wire()
                part = frame(0x00, b"x" * MIB)
                wire.write(frame(0x01, b"x" * MIB) + part * (2 if turn % 2 else 3))  # within the limit, or over it
                wire.write(part) if not turn % 2 else wire.cut()
                events.next_of(Disconnected)
            assert resident() - before < 30 * MIB  # of 100
        client.abort()  # before the server: a connection that it accepts while it closes is left open by asyncio


def resident() -> int:
    """Bytes of memory that this process takes now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096
