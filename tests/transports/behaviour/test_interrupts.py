"""Every waiting call given up; signals; programs that end.

How a call is given up depends on the adapter: its task is cancelled, or an interrupt raises `KeyboardInterrupt` in it.
The result must be the same: the server is informed, nothing is left behind, and the client goes on normally.
"""

import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from serving_in_thread import LONG, QUICK, Peer, Wire, serving, start, until

import phx_transports.threads
import phx_transports.wsproto
from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.formats import V2
from phx_proto.message import Message
from phx_proto.states import ChannelState, SocketState

from .adapters import TOPIC, Adapter
from .faces import Client


def alive(client: Client, wire: Wire) -> None:
    """The client works as before."""
    assert client.state is SocketState.OPEN
    assert client.ping() > 0
    channel, _ = client.adapter.join(client, wire, "room:afterwards")
    assert channel.state is ChannelState.JOINED


# ---- every call -----------------------------------------------------------------------------------------------------


def test_a_push_is_cancelled_and_its_late_reply_dropped(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        asked: list[Any] = []
        adapter.interrupt(lambda: channel.push("slow"), after=lambda: asked.append(wire.expect("slow")))
        wire.reply(asked[0])
        until(lambda: channel.client.stats.stale == 1)
        alive(channel.client, wire)


def test_an_unsent_push_is_never_sent(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.dial(peer)
        wire = peer.wire()
        channel, _ = adapter.join(client, wire)
        wire.cut()
        wire = peer.wire()
        join = wire.expect("phx_join")
        adapter.interrupt(lambda: channel.push("unsent"), after=lambda: wait_for_unsent(client))
        wire.reply(join)
        until(lambda: channel.state is ChannelState.JOINED)
        channel.cast("next")
        wire.expect("next")
        client.abort()


def wait_for_unsent(client: Client) -> None:
    until(lambda: client.native._proto._client.unsent == 1)


def test_a_join_is_taken_back(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        joins: list[Any] = []
        adapter.interrupt(lambda: client.join("room:1"), after=lambda: joins.append(wire.expect("phx_join")))
        assert wire.expect("phx_leave").join_ref == joins[0].join_ref
        alive(client, wire)


def test_a_leave_is_a_leave_all_the_same(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        adapter.interrupt(lambda: channel.leave(), after=lambda: wire.expect("phx_leave"))
        until(lambda: channel.state is ChannelState.CLOSED)
        alive(channel.client, wire)


@pytest.mark.parametrize("adapter", ["threads", "wsproto"], indirect=True)  # asyncio's own tests cancel one
def test_a_cast_that_is_interrupted_is_sent_whole_or_not_at_all(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        wire.stop_reading()
        sent: list[int] = []

        def fill() -> None:
            for number in range(1000):
                channel.cast("big", [number, "x" * 100_000])
                sent.append(number)

        adapter.interrupt(fill, after=lambda: None)
        wire.read_on()
        channel.cast("last")
        came = []
        while (frame := wire.receive()).event != "last":
            came.append(frame.payload[0])
        assert came in (sent, [*sent, len(sent)])  # the latter where it had waited no longer
        alive(channel.client, wire)


def test_a_ping_is_forgotten(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        wire.fall_silent()
        adapter.interrupt(client.ping, after=lambda: until(lambda: wire.heartbeats == 1))
        wire.on_loop.answers_heartbeats = True
        alive(client, wire)


@pytest.mark.parametrize("call", ["messages", "stream"])
def test_a_reader_leaves_its_stream_as_it_was(adapter: Adapter, call: str) -> None:
    with adapter.joined() as (channel, wire, _), getattr(channel, call)() as stream:
        adapter.interrupt(lambda: next(stream), after=lambda: None)
        wire.push(TOPIC, "n", 1)
        assert next(stream).payload == 1
        alive(channel.client, wire)


def test_a_reader_of_events_leaves_them_as_they_were(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire), client.events() as events:
        adapter.interrupt(lambda: next(events), after=lambda: None)
        wire.send("nonsense")
        assert next(events).size == 8
        alive(client, wire)


def test_a_wait_for_a_message_leaves_nothing(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        adapter.interrupt(lambda: channel.wait_for("never"), after=lambda: None)
        assert channel.client.native._driver.session.readers == set()
        wire.push(TOPIC, "never")
        until(lambda: channel.client.stats.unhandled == 1)  # nobody keeps it
        alive(channel.client, wire)


def test_a_connect_leaves_nothing(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        accepted: list[socket.socket] = []

        def accept() -> None:
            sock, _ = deaf.accept()
            accepted.append(sock)
            while b"\r\n\r\n" not in sock.recv(1 << 16):
                pass

        url = f"ws://127.0.0.1:{deaf.getsockname()[1]}/socket"
        adapter.interrupt(lambda: adapter.connect(url), after=accept)
        with accepted[0] as sock:
            sock.settimeout(LONG)
            assert ended(sock)


def ended(sock: socket.socket) -> bool:
    try:
        return sock.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


def test_a_wait_for_the_connection_leaves_the_client_trying(adapter: Adapter) -> None:
    with serving() as peer:
        client = adapter.dial(peer, options=replace(QUICK, reconnect=ReconnectPolicy(schedule=Backoff((60,)))))
        peer.wire().cut()
        until(lambda: client.state is SocketState.WAITING)
        adapter.interrupt(client.wait_connected, after=lambda: None)
        assert client.state is SocketState.WAITING
        client.reconnect()
        client.wait_connected()
        client.abort()


def test_a_wait_for_the_end_leaves_the_client_open(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        adapter.interrupt(client.wait_closed, after=lambda: None)
        alive(client, wire)


def test_a_context_drops_the_connection(adapter: Adapter) -> None:
    with serving() as peer:
        wires: list[Wire] = []

        def live() -> None:
            with adapter.connecting(peer.url) as client:
                client.join("room:1")

        def accept() -> None:
            wires.append(peer.wire())
            wires[0].expect("phx_join")

        adapter.interrupt(live, after=accept)
        assert wires[0].ended() is None


# ---- within a step --------------------------------------------------------------------------------------------------


class Interrupting(V2):
    """Ctrl+C comes, as often as the payload says, while a frame is made."""

    def encode(self, message: Message[Any], /) -> str | bytes:
        for _ in range(message.payload if message.event == "interrupted" else 0):
            signal.raise_signal(signal.SIGINT)
        return super().encode(message)


@contextmanager
def interrupting(connect: Callable[..., Any]) -> Iterator[tuple[Any, Wire]]:
    """A channel of a client of this thread, the main one."""
    with serving() as peer:
        accepting = start(lambda: (wire := peer.wire(), wire.accept()))
        with connect(peer.url, serializer=Interrupting()) as client:
            channel = client.join("room:1")
            wire = accepting.result(LONG)[0]
            yield channel, wire
            leaving = start(wire.let_go)
            client.close()
            leaving.result(LONG)
        assert client.error is None


blocking = pytest.mark.parametrize("connect", [phx_transports.threads.connect, phx_transports.wsproto.connect])


@blocking
def test_an_interrupt_that_comes_within_a_step_waits_until_it_is_done(connect: Callable[..., Any]) -> None:
    with interrupting(connect) as (channel, wire):
        with pytest.raises(KeyboardInterrupt):
            channel.push("interrupted", 1)
        wire.reply(wire.expect("interrupted"))  # it was sent, and nobody waits for the reply
        assert channel.client.ping() > 0
        assert channel.client.stats.stale == 1
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@blocking
def test_a_cast_is_done_too(connect: Callable[..., Any]) -> None:
    with interrupting(connect) as (channel, wire):
        with pytest.raises(KeyboardInterrupt):
            channel.cast("interrupted", 1)
        assert wire.receive().event == "interrupted"


@blocking
def test_a_second_interrupt_within_the_same_step_ends_it(connect: Callable[..., Any]) -> None:
    with interrupting(connect) as (channel, wire):
        with pytest.raises(KeyboardInterrupt):
            channel.push("interrupted", 2)
        channel.cast("next")
        assert wire.receive().event == "next"  # nothing was sent
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@blocking
def test_a_handler_of_signals_that_is_not_pythons_is_left_alone(connect: Callable[..., Any]) -> None:
    heard: list[int] = []
    previous = signal.signal(signal.SIGINT, lambda number, frame: heard.append(number))
    try:
        with interrupting(connect) as (channel, wire):
            replying = start(lambda: wire.reply(wire.expect("interrupted")))
            assert channel.push("interrupted", 1).ok
            assert heard == [signal.SIGINT]
            replying.result(LONG)
    finally:
        signal.signal(signal.SIGINT, previous)


# ---- programs -------------------------------------------------------------------------------------------------------

#: Each says `working` in a handler, then in which state the client is once that is no longer open.
WORKING = {
    "asyncio": """
        import asyncio, signal, sys
        from phx_proto.handlers.router import Router
        from phx_transports.asyncio import connect

        router = Router()

        @router.on("work")
        async def work(message, channel):
            while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # `run` has not begun
                await asyncio.sleep(0.001)
            print("working", flush=True)
            while channel.client.state.value == "open":
                await asyncio.sleep(0.001)
            print(channel.client.state.value, flush=True)
            await asyncio.sleep(60 if message.payload == "forever" else 0)
            await channel.push("done")
            print("done", flush=True)

        async def main(url):
            async with connect(url, router=router, proxy=None) as client:
                await client.join("room:1")
                await client.run()
            print(client.state.value, flush=True)

        asyncio.run(main(sys.argv[1]))
    """,
    "threads": """
        import signal, sys, time
        from phx_proto.handlers.router import Router
        from phx_transports.threads import connect

        router = Router()

        @router.on("work")
        def work(message, channel):
            while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:  # `run` has not begun
                time.sleep(0.001)
            print("working", flush=True)
            while channel.client.state.value == "open":
                time.sleep(0.001)
            print(channel.client.state.value, flush=True)
            time.sleep(60 if message.payload == "forever" else 0)
            channel.push("done")
            print("done", flush=True)

        with connect(sys.argv[1], router=router, proxy=None) as client:
            client.join("room:1")
            client.run()
        print(client.state.value, flush=True)
    """,
    "wsproto": """
        import sys
        from phx_proto.handlers.router import Router
        from phx_transports.wsproto import connect

        router = Router()

        @router.on("work")
        def work(message, channel):
            print("working", flush=True)
            while channel.client.state.value == "open":
                channel.client.run(timeout=0.001)
            print(channel.client.state.value, flush=True)
            if message.payload == "forever":
                channel.client.run(timeout=60)
            channel.push("done")
            print("done", flush=True)

        with connect(sys.argv[1], router=router, on_handler_error=lambda report: None) as client:
            client.join("room:1")
            client.run()
        print(client.state.value, flush=True)
    """,
}

#: Each ends without closing its client, while a handler waits for ever where one can.
FORGETFUL = {
    "asyncio": """
        import asyncio, sys
        from phx_transports.asyncio import connect

        async def main(url):
            global client
            client = await connect(url, proxy=None)
            channel = await client.join("room:1")
            await channel.push("last")

        asyncio.run(main(sys.argv[1]))
    """,
    "threads": """
        import sys
        from phx_transports.threads import connect

        def work(message, channel):
            with channel.messages() as messages:
                channel.push("begun")
                list(messages)

        client = connect(sys.argv[1], proxy=None)
        client.router.add(work, "work")
        channel = client.join("room:1")
        channel.push("last")
    """,
    "wsproto": """
        import sys
        from phx_transports.wsproto import connect

        client = connect(sys.argv[1])
        channel = client.join("room:1")
        channel.push("last")
    """,
}

adapters = pytest.mark.parametrize("name", WORKING)


@contextmanager
def program(peer: Peer, text: str, *options: str) -> Iterator[tuple["subprocess.Popen[str]", Wire]]:
    process = subprocess.Popen(
        [sys.executable, *options, "-c", textwrap.dedent(text), peer.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wire = peer.wire()
        wire.accept()
        yield process, wire
    finally:
        process.kill()
        process.communicate()


def line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@adapters
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_a_program_gracefully(name: str, number: signal.Signals) -> None:
    with serving() as peer, program(peer, WORKING[name], "-W", "error") as (process, wire):
        wire.push("room:1", "work")
        assert line(process) == "working"
        process.send_signal(number)
        assert line(process) == "draining"
        wire.reply(wire.expect("done"))
        assert line(process) == "done"
        wire.let_go()
        assert line(process) == "closed"
        assert process.wait(LONG) == 0
        assert wire.ended() == 1000


@adapters
def test_a_second_signal_drops_the_connection(name: str) -> None:
    with serving() as peer, program(peer, WORKING[name], "-W", "error") as (process, wire):
        wire.push("room:1", "work", "forever")
        assert line(process) == "working"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "draining"
        process.send_signal(signal.SIGINT)
        assert line(process) == "closed"
        assert process.wait(LONG) == 0
        assert wire.ended() is None


@adapters
def test_a_program_that_ends_without_closing_does_not_hang(name: str) -> None:
    with serving() as peer, program(peer, FORGETFUL[name]) as (process, wire):
        last = wire.expect("last")
        if name == "threads":
            wire.push("room:1", "work")
            wire.reply(wire.expect("begun"))
        wire.reply(last)
        _, errors = process.communicate(timeout=LONG)
        assert (process.returncode, errors) == (0, "")
        assert wire.ended() is None
