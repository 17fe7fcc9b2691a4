"""The blocking client on wsproto, the part that is not in behaviour/. It runs on the test's own thread."""

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import serving_in_thread
from certificates import Authority
from peer import push
from serving_in_thread import LONG, ONCE, QUICK, Flag, Peer, Wire, reserved_port, serving, start
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.errors import (
    ConnectError,
    ConnectionClosed,
    InvalidHandler,
    PushLost,
    PushTimeout,
    ResolveFailed,
)
from phx_proto.events import ChannelJoined, Connected, Disconnected, Event, PingAnswered
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.states import SocketState
from phx_transports.blocking.streams import EventStream
from phx_transports.client.reports import HandlerError
from phx_transports.wsproto import Channel, Client, connect
from phx_transports.wsproto.driver import WsprotoDriver
from phx_transports.wsproto.handlers import SPELL

pytestmark = pytest.mark.usefixtures("clean_threads")

#: One attempt, and no other in the time of a test.
SLOW = ClientOptions(reconnect=ReconnectPolicy(schedule=Backoff((60,))))


def dial(peer: Peer, **options: Any) -> Client:
    return connect(peer.url, **{"options": QUICK} | options)


connected = partial(serving_in_thread.connected, dial)


@contextmanager
def joined(topic: str = "room:lobby", **options: Any) -> Iterator[tuple[Channel, Wire, str]]:
    """A client with one channel, and the join's ref."""
    with connected(**options) as (client, wire):
        channel, ref = join(client, wire, topic)
        yield channel, wire, ref


def join(client: Client, wire: Wire, topic: str = "room:lobby") -> tuple[Channel, str]:
    accepting = start(wire.accept, topic)
    channel = client.join(topic)
    frame = accepting.result(LONG)
    assert frame.join_ref is not None
    return channel, frame.join_ref


def driver_of(client: Client) -> WsprotoDriver:
    driver = client._driver
    assert isinstance(driver, WsprotoDriver)
    return driver


def run_until(client: Client, condition: Callable[[], Any]) -> None:
    """Let the client work until something holds, which another thread may bring about."""
    deadline = client._driver.now() + LONG
    while not driver_of(client).turn_until(lambda: bool(condition()), client._driver.now() + 0.01):
        assert client._driver.now() < deadline, "it never held"


def script(*steps: Callable[[], Any]) -> "Future[Any]":
    """What the server does, one after another, while the client works."""
    return start(lambda: [step() for step in steps])


def next_of(events: EventStream, kind: type[Any]) -> Any:
    return next(event for event in events if isinstance(event, kind))


# ---- TLS -------------------------------------------------------------------------------------------------------------


def test_tls_that_ends_or_breaks_is_a_lost_connection(authority: Authority) -> None:
    with serving(ssl=authority.server()) as peer, dial(peer, ssl=authority.trusting()) as client:
        events = client.events(timeout=LONG)
        with events:
            peer.wire().cut()
            assert next_of(events, Disconnected).code is None
            assert next_of(events, Connected).reconnected
            wire = peer.wire()
            peer.loop.do(lambda: wire.on_loop._socket.transport.close())
            assert next_of(events, Disconnected).code is None
            assert next_of(events, Connected).reconnected
            wire = peer.wire()
            raw = peer.loop.do(lambda: wire.on_loop._socket.transport.get_extra_info("socket"))
            os.write(raw.fileno(), b"no TLS record at all")
            assert "TLS with 127.0.0.1" in next_of(events, Disconnected).reason


def test_a_server_without_tls_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                while sock.recv(1 << 16):
                    pass

        answering = start(serve)
        with pytest.raises(ConnectError, match="port without TLS"):
            connect(f"wss://127.0.0.1:{listener.getsockname()[1]}/socket", options=ONCE)
        answering.result(LONG)


def test_a_server_that_ends_the_connection_under_the_tls_handshake_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1 << 16)

        ending = start(serve)
        with pytest.raises(ConnectError, match="ended the connection before it was open"):
            connect(f"wss://127.0.0.1:{listener.getsockname()[1]}/socket", options=ONCE)
        ending.result(LONG)


# ---- connecting -----------------------------------------------------------------------------------------------------


def test_every_address_of_a_name_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    with serving() as peer, reserved_port() as port:
        real = socket.getaddrinfo
        dead: list[Any] = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("255.255.255.255", 1)),  # fails at once
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [*dead, *real(*args, **options)])
        with dial(peer) as client:
            assert client.state is SocketState.OPEN


def test_an_address_that_fails_at_once_is_a_failed_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    dead = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("255.255.255.255", 1))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [dead])
    with pytest.raises(ConnectError, match="no connection to somewhere"):
        connect("ws://somewhere/socket", options=ONCE)


def test_a_factory_makes_the_tcp_connection() -> None:
    asked: list[tuple[str, int]] = []
    with serving() as peer:

        def factory(host: str, port: int) -> socket.socket:
            asked.append((host, port))
            return socket.create_connection(("127.0.0.1", peer.port))

        with connect("ws://somewhere.invalid:4000/socket", factory=factory):
            assert peer.wire().headers["host"] == "somewhere.invalid:4000"
    assert asked == [("somewhere.invalid", 4000)]


def _no_stream(host: str, port: int) -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _raising(host: str, port: int) -> socket.socket:
    raise ValueError("no tunnel")


@pytest.mark.parametrize(("factory", "problem"), [(_no_stream, "not a stream"), (_raising, "no tunnel")])
def test_a_factory_that_fails_is_a_failed_attempt(factory: Any, problem: str) -> None:
    with pytest.raises(ConnectError, match=problem):
        connect("ws://somewhere.invalid/socket", factory=factory, options=ONCE)


async def _async_params() -> Any: ...


class _Awaitable:
    def __await__(self) -> Any: ...


@pytest.mark.parametrize("provider", [lambda: _async_params(), _Awaitable, lambda: 1 / 0])
def test_params_that_cannot_be_had_are_a_failed_attempt(provider: Any) -> None:
    with serving() as peer:
        with pytest.raises(ResolveFailed):
            dial(peer, params=provider, options=ONCE)
        assert peer.attempts == 0


def test_a_callable_that_exits_does_so_and_the_next_attempt_is_made() -> None:
    ends = iter([None, SystemExit, None])

    def params() -> dict[str, Any]:
        if (end := next(ends)) is not None:
            raise end
        return {}

    with serving() as peer:
        client = dial(peer, params=params, options=QUICK)
        peer.wire().cut()
        with pytest.raises(SystemExit):
            client.run(timeout=LONG)
        client.wait_connected(timeout=LONG)
        client.abort()


# ---- calls ----------------------------------------------------------------------------------------------------------


def test_much_that_is_sent_waits_for_the_peer() -> None:
    with joined() as (channel, wire, _):
        wire.stop_reading()
        reading = threading.Timer(0.2, wire.read_on)
        large = "x" * 100_000
        sent_while_blocked = 0
        reading.start()
        for _ in range(200):
            channel.cast("blob", large)
            sent_while_blocked += reading.is_alive()
        assert 0 < sent_while_blocked < 200
        driver_of(channel.client).wait_writable(channel._core.link)
        assert {wire.expect("blob").payload for _ in range(100)} == {large}
        reading.join()


# ---- handlers -------------------------------------------------------------------------------------------------------


def test_a_coroutine_function_is_refused_for_nobody_awaits_it() -> None:
    async def later(message: Message[Any]) -> None: ...

    router = Router()
    router.add(later, "n")
    with pytest.raises(InvalidHandler, match="make it a plain one"):
        connect("ws://127.0.0.1/socket", router=router)
    with joined() as (channel, _, _):
        with pytest.raises(InvalidHandler, match="make it a plain one"):
            channel.add(later, "n")
        channel.client.router.add(later, "n")
        with pytest.raises(InvalidHandler, match="make it a plain one"):
            channel.client.channel("room:2")


def test_a_plain_function_that_returns_a_coroutine_is_reported() -> None:
    async def later() -> None: ...

    errors: list[HandlerError] = []
    with joined(on_handler_error=errors.append) as (channel, wire, _):
        channel.add(lambda message: later(), "n")
        wire.send(push("room:lobby", "n", 1))
        run_until(channel.client, lambda: errors)
    assert "make it a plain function" in str(errors[0].error)


def test_fail_fast_ends_the_client_with_the_handlers_error() -> None:
    def fail(message: Message[Any]) -> None:
        seen.append(message.payload)
        raise ValueError("enough")

    seen: list[Any] = []
    with joined(fail_fast=True) as (channel, wire, _):
        channel.add(fail, "n")
        wire.send(*(push("room:lobby", "n", n) for n in range(3)))
        with pytest.raises(ValueError, match="enough"):
            channel.client.run()
        assert seen == [0]
        assert isinstance(channel.client.error, ValueError)
        with pytest.raises(ValueError, match="enough"):
            channel.client.wait_closed()


def test_a_handler_may_push_and_no_other_handler_runs_meanwhile() -> None:
    order: list[str] = []

    def first(message: Message[Any], channel: Channel) -> None:
        order.append("begins")
        order.append(channel.push("ask").response["answer"])

    with joined() as (channel, wire, _):
        channel.add(first, "first")
        channel.add(lambda message: order.append("second"), "second")

        def serve() -> None:
            wire.send(push("room:lobby", "first"))
            asked = wire.expect("ask")
            wire.send(push("room:lobby", "second"))
            wire.reply(asked, {"answer": "forty-two"})

        serving = start(serve)
        run_until(channel.client, lambda: "second" in order)
        serving.result(LONG)
    assert order == ["begins", "forty-two", "second"]


def test_what_handlers_cast_is_sent_also_when_it_is_much() -> None:
    with joined() as (channel, wire, _):
        channel.add(lambda message, channel: [channel.cast("n", n) for n in range(250)], "go")
        wire.send(push("room:lobby", "go"))
        run_until(channel.client, lambda: channel.client.stats.handled == 1)
        assert [wire.expect("n").payload for _ in range(250)] == list(range(250))


def test_slow_handlers_leave_time_for_heartbeats() -> None:
    beaten: list[int] = []

    def slow(message: Message[Any]) -> None:
        pause.wait(2 * SPELL)
        beaten.append(wire.on_loop.heartbeats)

    pause = threading.Event()
    with joined(options=replace(QUICK, heartbeat=SPELL)) as (channel, wire, _):
        channel.add(slow, "n")
        wire.send(*(push("room:lobby", "n", n) for n in range(6)))
        run_until(channel.client, lambda: len(beaten) == 6)
        assert beaten[-1] > beaten[0]
        assert channel.client.stats.connects == 1


def test_an_interrupted_handler_loses_no_message_but_its_own() -> None:
    seen: list[int] = []

    def interrupted(message: Message[Any]) -> None:
        if message.payload == 1:
            raise KeyboardInterrupt
        seen.append(message.payload)

    with joined() as (channel, wire, _):
        channel.add(interrupted, "n")
        wire.send(*(push("room:lobby", "n", n) for n in range(4)))
        with pytest.raises(KeyboardInterrupt):
            channel.client.run()
        run_until(channel.client, lambda: seen == [0, 2, 3])
        assert channel.client.stats.backlog == 0


def test_a_full_backlog_stops_the_reading_and_heartbeats_go_on() -> None:
    options = replace(QUICK, flow=FlowLimits(high=10, low=5, longest_pause=5.0))
    with joined(options=options) as (channel, wire, _), channel.messages() as messages:
        wire.send(*(push("room:lobby", "n", n) for n in range(10)))
        run_until(channel.client, lambda: channel.client.stats.backlog == 10)
        wire.send(push("room:lobby", "n", 10))
        channel.client.run(timeout=0.05)
        assert channel.client.stats.received == 11  # the join's reply, and ten
        assert [next(messages).payload for _ in range(11)] == list(range(11))


# ---- streams --------------------------------------------------------------------------------------------------------


def test_a_stream_waits_no_longer_than_it_is_told() -> None:
    with joined() as (channel, _, _):
        with channel.messages(timeout=0.02) as messages, pytest.raises(TimeoutError, match="nothing came in time"):
            next(messages)
        with channel.client.events(timeout=0.02) as events, pytest.raises(TimeoutError, match="nothing came in time"):
            next(events)


def test_a_stream_that_is_left_by_a_handler_before_its_turn_gets_nothing_more() -> None:
    with joined() as (channel, wire, _), contextlib.ExitStack() as stack:
        messages = stack.enter_context(channel.messages())
        channel.add(lambda message: stack.close(), "x")
        wire.send(push("room:lobby", "x"))
        run_until(channel.client, lambda: channel.client.stats.handled == 1)
        assert list(messages) == []
        assert channel.client.stats.backlog == 0


# ---- lost connections -----------------------------------------------------------------------------------------------


def test_a_message_over_the_bound_closes_with_1009() -> None:
    with joined(max_size=1000) as (channel, wire, _), channel.client.events(timeout=LONG) as events:
        wire.send(push("room:lobby", "n", "x" * 1000))
        assert "more than 1000 bytes" in next_of(events, Disconnected).reason
        assert wire.ended() == 1009


@contextmanager
def by_hand(then: Callable[[socket.socket], Any], *, until_close: bool) -> Iterator[str]:
    """A server for one connection, which does something with its socket when it is open, or closed by the client."""

    def serve() -> None:
        sock, _ = listener.accept()
        with sock:
            protocol = ServerProtocol()
            while protocol.state is not State.OPEN if not until_close else not protocol.close_rcvd:
                protocol.receive_data(sock.recv(1 << 16))
                for event in protocol.events_received():
                    if isinstance(event, Request):
                        protocol.send_response(protocol.accept(event))
                sock.sendall(b"".join(protocol.data_to_send()))
            then(sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = start(serve)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}/socket"
        serving.result(LONG)


def test_a_peer_that_does_not_end_the_connection_is_not_waited_for_long() -> None:
    ending = Flag()
    with by_hand(lambda sock: ending.wait(), until_close=True) as url:
        client = connect(url)
        began = client._driver.now()
        client.close()
        assert client._driver.now() - began < 3
        ending.set()


def test_a_connection_that_is_reset_is_lost() -> None:
    with by_hand(_reset, until_close=False) as url:
        client = connect(url, options=SLOW)
        with client.events(timeout=LONG) as events:
            assert "the connection broke" in next_of(events, Disconnected).reason
        client.abort()


def test_what_is_sent_on_a_connection_that_was_reset_goes_nowhere() -> None:
    reset = Flag()

    def end(sock: socket.socket) -> None:
        _reset(sock)
        sock.close()
        reset.set()

    with by_hand(end, until_close=False) as url:
        client = connect(url, options=SLOW)
        reset.wait()
        with pytest.raises(PushLost):
            client.ping()
        assert client.state is SocketState.WAITING
        client.abort()


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# ---- the end --------------------------------------------------------------------------------------------------------


def test_run_returns_at_its_timeout_and_when_a_handler_stops_the_client() -> None:
    with joined() as (channel, wire, _):
        channel.client.run(timeout=0.01)
        channel.add(lambda message, channel: channel.client.close(), "stop")
        script(lambda: wire.push("room:lobby", "stop"), wire.let_go)
        channel.client.run()
        assert channel.client.state is SocketState.CLOSED
        assert wire.ended() == 1000


def test_handlers_that_take_too_long_after_the_servers_end_are_left_out() -> None:
    final = ClientOptions(reconnect=replace(QUICK.reconnect, final_codes=frozenset({4000})))
    seen: list[int] = []

    def slow(message: Message[Any]) -> None:
        seen.append(message.payload)
        threading.Event().wait(2 * SPELL)

    with joined(options=final, drain_timeout=0.01) as (channel, wire, _):
        channel.add(slow, "n")
        script(lambda: wire.send(*(push("room:lobby", "n", n) for n in range(50))), lambda: wire.close(4000, "enough"))
        with pytest.raises(ConnectionClosed, match="enough"):
            channel.client.run()
        assert len(seen) < 50


def test_a_join_that_is_answered_when_it_is_interrupted_is_left() -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, ChannelJoined):
            raise KeyboardInterrupt

    with joined() as (channel, wire, _):
        channel.client._driver.session.listeners.append(interrupt)
        start(wire.accept)
        with pytest.raises(KeyboardInterrupt):
            channel.client.join("room:other")
        assert channel.client.ping() > 0
        wire.expect("phx_leave", "room:other")


def test_an_interrupt_that_comes_within_a_turn_waits_until_it_is_done() -> None:
    told: list[Event] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, PingAnswered):
            signal.raise_signal(signal.SIGINT)
            told.append(event)

    with joined() as (channel, _, _):
        channel.client._driver.session.listeners.append(interrupt)
        with pytest.raises(KeyboardInterrupt):
            channel.client.ping()
        channel.client._driver.session.listeners.remove(interrupt)
        assert len(told) == 1
        assert channel.client.ping() > 0


@contextmanager
def told_when_it_runs(channel: Channel, wire: Wire, then: Callable[[], Any]) -> Iterator[None]:
    """Have something done by another thread once the client is in `run`."""
    running = Flag()
    channel.add(lambda message: running.set(), "go")
    doing = start(lambda: (running.wait(), then()))
    wire.push("room:lobby", "go")
    yield
    doing.result(LONG)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_gracefully_while_it_runs(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    def interrupt() -> None:
        os.kill(os.getpid(), number)
        wire.let_go("room:lobby")

    with joined() as (channel, wire, _):
        with told_when_it_runs(channel, wire, interrupt):
            channel.client.run()
        assert wire.ended() == 1000
    assert signal.getsignal(number) is before


def test_a_second_signal_drops_the_connection() -> None:
    def interrupt() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        wire.expect("phx_leave")
        os.kill(os.getpid(), signal.SIGINT)

    with joined() as (channel, wire, _):
        with told_when_it_runs(channel, wire, interrupt):
            channel.client.run()
        assert wire.ended() is None


def test_signals_are_left_alone_on_another_thread() -> None:
    with serving() as peer:

        def use() -> None:
            with dial(peer) as client:
                before = signal.getsignal(signal.SIGINT)
                client.run(timeout=0.01)
                assert signal.getsignal(signal.SIGINT) is before

        start(use).result(LONG)


# ---- more messages than handlers can take ---------------------------------------------------------------------------


def run(channel: Channel) -> None:
    channel.client.run(timeout=0.2)


def unanswered_push(channel: Channel) -> None:
    with pytest.raises(PushTimeout):
        channel.push("hello", timeout=0.2)


def next_event(channel: Channel) -> None:
    with channel.client.events() as events, pytest.raises(TimeoutError):
        events.next(timeout=0.2)


@pytest.mark.parametrize("call", [run, unanswered_push, next_event])
def test_a_deadline_is_kept_while_messages_come_faster_than_handlers_take_them(call: Callable[[Channel], None]) -> None:
    with joined(router=router_of(lambda message: time.sleep(0.01), "n")) as (channel, wire, _):
        wire.send(*[push("room:lobby", "n", number) for number in range(900)])  # nine seconds of work
        began = time.monotonic()
        call(channel)
        assert time.monotonic() - began < 3.0
        assert channel.client.stats.backlog > 300


def router_of(function: Callable[..., None], event: str) -> Router:
    router = Router()
    router.add(function, event)
    return router
