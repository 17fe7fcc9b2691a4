"""A client on threads over its life: lost and found connections, bad input, closing, and what ends it."""

import gc
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from peer import push
from serving_in_thread import (
    LONG,
    QUICK,
    Flag,
    Peer,
    Wire,
    connected,
    dial,
    embedded,
    joined,
    serving,
    start,
    tidy,
    until,
)

from phx_proto.backoff import ReconnectPolicy
from phx_proto.errors import (
    ChannelClosed,
    ConnectionClosed,
    InvalidState,
    JoinRefused,
    PushLost,
    PushTimeout,
    TopicInUse,
)
from phx_proto.events import BadFrame, Closed, Connected, Disconnected
from phx_proto.message import Message
from phx_proto.router import Router
from phx_proto.states import ChannelState, SocketState
from phx_transports.asyncio.server import Refuse, Server, ServerChannel, on
from phx_transports.threads import Channel, Client, EventStream, connect

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with tidy():
        yield


def next_of(events: EventStream, kind: type[Any]) -> Any:
    for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError("the events have ended")


# ---- with the embedded server ---------------------------------------------------------------------------------------


server = Server()


@server.channel("room:*")
class Room(ServerChannel):
    async def join(self, topic: str, params: Any) -> Any:
        if params.get("name") == "nobody":
            raise Refuse({"reason": "who?"})
        return {"topic": topic}

    @on("echo")
    async def echo(self, payload: Any) -> Any:
        return payload

    @on("shout")
    async def shout(self, payload: Any) -> Any:
        self.broadcast("shout", payload)
        return {}


def test_a_whole_conversation_with_the_embedded_server() -> None:
    router = Router()
    heard: list[Any] = []

    @router.on("shout")
    def hear(message: Message[Any]) -> None:
        heard.append(message.payload)

    with embedded(server) as url, connect(url, proxy=None, router=router) as client:
        with client.joined("room:1", {"name": "ann"}) as channel, channel.messages(timeout=LONG) as messages:
            assert channel.push("echo", {"a": [1, 2.5, None]}).response == {"a": [1, 2.5, None]}
            assert channel.push("echo", b"\x00\xff").response == b"\x00\xff"
            channel.cast("shout", {"n": 1})
            assert next(messages).payload == {"n": 1}
        assert channel.state is ChannelState.CLOSED
        with pytest.raises(JoinRefused, match="who"):
            client.join("room:1", {"name": "nobody"})
        assert client.ping() < LONG
    assert heard == [{"n": 1}]


def test_many_threads_push_at_once_and_each_gets_its_own_reply() -> None:
    with embedded(server) as url, connect(url, proxy=None) as client:
        channels = [client.join(f"room:{number}") for number in range(4)]

        def work(worker: int) -> None:
            for number in range(50):
                mine = [worker, number]
                assert channels[number % 4].push("echo", mine).response == mine

        for worker in [start(work, number) for number in range(12)]:
            worker.result(LONG)
        assert client.stats.backlog == 0


# ---- lost and found -------------------------------------------------------------------------------------------------


def test_after_a_cut_channels_rejoin_with_fresh_params_and_handlers_go_on() -> None:
    router = Router()
    seen: list[int] = []

    @router.on("n")
    def hear(message: Message[int]) -> None:
        seen.append(message.payload)

    with serving() as peer:
        client = dial(peer, router=router)
        wire = peer.wire()
        channel = client.channel("room:1", lambda: {"since": len(seen)})
        joining = start(channel.join)
        assert wire.accept().payload == {"since": 0}
        joining.result(LONG)
        wire.push("room:1", "n", 7)
        until(lambda: seen == [7])
        wire.cut()
        wire = peer.wire()
        assert wire.accept("room:1").payload == {"since": 1}
        wire.push("room:1", "n", 8)
        until(lambda: seen == [7, 8])
        assert client.stats.reconnects == 1
        client.abort()


@pytest.mark.parametrize("code", [1000, 1001])
def test_a_close_by_the_server_is_told_and_followed_by_a_new_connection(code: int) -> None:
    with serving() as peer:
        client = dial(peer)
        with client.events(timeout=LONG) as events:
            peer.wire().close(code, "so long")
            lost = next_of(events, Disconnected)
            assert (lost.code, lost.reason) == (code, "so long")
            assert next_of(events, Connected).reconnected
        client.abort()


def test_a_restart_is_waited_for_up_to_five_seconds() -> None:
    with connected() as (client, wire), client.events(timeout=LONG) as events:
        wire.close(1012)
        lost = next_of(events, Disconnected)
        assert lost.code == 1012
        assert 0 <= lost.retry_in <= 5


def test_a_close_code_that_is_final_ends_the_client() -> None:
    options = replace(QUICK, reconnect=ReconnectPolicy(final_codes=frozenset({4001})))
    with connected(options=options) as (client, wire):
        wire.close(4001, "go away")
        with pytest.raises(ConnectionClosed, match="go away"):
            client.wait_closed()
        assert isinstance(client.error, ConnectionClosed)
        with pytest.raises(ConnectionClosed):
            client.run()
        with pytest.raises(ConnectionClosed):
            client.channel("room:1")


def test_a_refused_reconnect_is_tried_again() -> None:
    with serving() as peer:
        client = dial(peer)
        peer.refuse(lambda: (404, "") if peer.attempts == 2 else None)
        peer.wire().cut()
        peer.wire()
        client.wait_connected()
        client.abort()


def test_a_silent_peer_is_noticed_and_replaced() -> None:
    with serving() as peer:
        client = dial(peer, options=replace(QUICK, heartbeat=0.05))
        with client.events(timeout=LONG) as events:
            wire = peer.wire()
            wire.on_loop.answers_heartbeats = False
            lost = next_of(events, Disconnected)
            assert (lost.code, "nothing was heard" in lost.reason) == (None, True)
            next_of(events, Connected)
        wire.ended()
        client.abort()


def test_a_peer_that_answers_heartbeats_is_left_alone() -> None:
    with connected(options=replace(QUICK, heartbeat=0.2)) as (client, wire):
        until(lambda: wire.on_loop.heartbeats >= 3)
        assert client.stats.reconnects == 0


def test_parts_of_a_long_message_show_that_the_peer_lives() -> None:
    with connected(options=replace(QUICK, heartbeat=0.2)) as (client, wire):
        wire.on_loop.answers_heartbeats = False
        data = push("room:1", "big", "x" * 100).encode()
        frame = bytes([0x81, 126, *len(data).to_bytes(2)]) + data
        for part in (frame[at : at + 50] for at in range(0, len(frame), 50)):
            wire._loop.do(lambda part=part: wire.on_loop._socket.transport.write(part))  # type: ignore[misc]
            wire.heartbeat()
        until(lambda: client.stats.received == 1)
        assert client.stats.reconnects == 0


def test_reconnect_drops_the_connection_and_makes_another() -> None:
    with serving() as peer:
        client = dial(peer)
        first = peer.wire()
        client.reconnect()
        client.wait_connected()
        peer.wire()
        first.ended()
        client.abort()
        with pytest.raises(InvalidState):
            client.reconnect()


def test_a_message_over_the_limit_closes_with_1009_and_is_followed_by_a_new_connection() -> None:
    with serving() as peer:
        client = dial(peer, max_size=1000)
        wire = peer.wire()
        wire.push("room:1", "big", "x" * 2000)
        assert wire.ended() == 1009
        peer.wire()
        client.abort()


@pytest.mark.parametrize("garbage", ["{not json", "[1,2]", "null", b"\xff\x00\x01"])
def test_garbage_is_told_logged_and_does_no_harm(garbage: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "phx_transports")
    with (
        joined() as (channel, wire, _),
        channel.client.events(timeout=LONG) as events,
        channel.messages(timeout=LONG) as messages,
    ):
        wire.send(garbage, push("room:lobby", "good"))
        assert next(messages).event == "good"
        assert isinstance(next_of(events, BadFrame), BadFrame)
        until(lambda: "was dropped" in caplog.text)
        assert channel.client.stats.connects == 1


def test_a_log_that_uses_the_client_does_not_stand_in_its_own_way(caplog: pytest.LogCaptureFixture) -> None:
    with joined() as (channel, wire, _):

        class Shipping(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                channel.cast("log", record.getMessage())

        handler = Shipping()
        logging.getLogger("phx_transports").addHandler(handler)
        try:
            wire.send("nonsense")
            assert "was dropped" in wire.expect("log").payload
        finally:
            logging.getLogger("phx_transports").removeHandler(handler)


def test_two_live_channels_of_one_topic_are_refused() -> None:
    with connected() as (client, _):
        client.channel("room:1")
        with pytest.raises(TopicInUse):
            client.channel("room:1")


# ---- ping and events ------------------------------------------------------------------------------------------------


def test_ping_tells_how_long_the_answer_took() -> None:
    with connected() as (client, _):
        assert 0 < client.ping() < LONG


def test_a_ping_without_an_answer_times_out_and_one_under_way_is_lost_with_the_connection() -> None:
    with connected() as (client, wire):
        wire.on_loop.answers_heartbeats = False
        with pytest.raises(PushTimeout):
            client.ping(timeout=0.01)
        lost = start(client.ping, timeout=math.inf)
        until(lambda: wire.on_loop.heartbeats == 2)
        wire.cut()
        with pytest.raises(PushLost):
            lost.result(LONG)


def test_ping_needs_a_connection() -> None:
    with connected() as (client, _):
        client.abort()
        with pytest.raises(InvalidState):
            client.ping()


def test_events_end_with_the_client() -> None:
    with connected() as (client, _), client.events() as events:
        reading = start(list[Any], events)
        client.abort()
        assert isinstance(reading.result(LONG)[-1], Closed)


def test_events_end_for_a_reader_when_somebody_closes_them() -> None:
    with connected() as (client, _):
        with client.events() as events:
            reading = start(list[Any], events)
        assert reading.result(LONG) == []
        assert list(events) == []


def test_who_waits_for_an_event_waits_only_so_long_and_may_go_on() -> None:
    with connected() as (client, wire), client.events(timeout=0.01) as events:
        with pytest.raises(TimeoutError):
            next(events)
        wire.send("nonsense")
        assert isinstance(events.next(timeout=LONG), BadFrame)


def test_two_readers_of_the_same_events_share_them() -> None:
    with connected() as (client, _), client.events() as events:
        readers = [start(list[Any], events) for _ in range(2)]
        client.abort()
        read = [reader.result(LONG) for reader in readers]
        assert [type(event) for part in read for event in part].count(Closed) == 1


def test_a_reader_of_events_who_falls_far_behind_loses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventStream, "LIMIT", 3)
    with connected() as (client, wire), client.events(timeout=LONG) as events:
        wire.send("1", "2", "3", "44", "55")
        until(lambda: client.stats.bad_frames == 5)
        assert events.dropped == 2
        assert [next(events).size for _ in range(3)] == [1, 2, 2]  # type: ignore[union-attr]


# ---- closing --------------------------------------------------------------------------------------------------------


def test_close_lets_handlers_finish_while_pushes_still_work_then_leaves_then_closes() -> None:
    router = Router()
    entered, go_on = Flag(), Flag()
    replies: list[Any] = []

    @router.on("work")
    def work(message: Message[Any], channel: Channel) -> None:
        entered.set()
        go_on.wait()
        replies.append(channel.push("done").response)

    with joined(router=router) as (channel, wire, join_ref):
        wire.push("room:lobby", "work")
        wire.push("room:lobby", "work")
        entered.wait()
        until(lambda: channel.client.stats.received == 3)
        closing = start(channel.client.close)
        until(lambda: channel.client.state is SocketState.DRAINING)
        wire.push("room:lobby", "work")  # comes too late
        until(lambda: channel.client.stats.received == 4)
        go_on.set()
        for number in range(2):
            wire.reply(wire.expect("done"), number)
        assert wire.let_go().join_ref == join_ref
        closing.result(LONG)
        assert replies == [0, 1]
        assert wire.rest() == []
        assert wire.ended() == 1000
        assert channel.state is ChannelState.CLOSED
        assert channel.client.stats.backlog == 0


def test_close_drops_the_connection_at_the_drain_timeout_and_leaves_the_handler_alone() -> None:
    router = Router()
    entered, go_on = Flag(), Flag()

    @router.on("work")
    def work(message: Message[Any]) -> None:
        entered.set()
        go_on.wait()

    with joined(router=router, drain_timeout=0.05) as (channel, wire, _):
        wire.push("room:lobby", "work")
        entered.wait()
        channel.client.close()
        assert wire.ended() is None
        go_on.set()


def test_close_without_a_connection_ends_at_once() -> None:
    with serving() as peer:
        client = dial(peer)
        peer.refuse(lambda: (503, ""))
        peer.wire().cut()
        until(lambda: peer.attempts > 1)
        client.close()
        assert client.state is SocketState.CLOSED


def test_close_by_several_and_abort_after_it_do_nothing_more() -> None:
    with connected() as (client, wire):
        for closing in [start(client.close) for _ in range(3)]:
            closing.result(LONG)
        client.abort()
        assert wire.ended() == 1000


@pytest.mark.parametrize("own_executor", [False, True])
@pytest.mark.parametrize("how", ["close", "stop", "abort"])
def test_a_handler_may_end_the_client(how: str, own_executor: bool) -> None:
    router = Router()
    after: list[SocketState] = []

    @router.on("end")
    def end(message: Message[Any], channel: Channel) -> None:
        getattr(channel.client, how)()
        after.append(channel.client.state)

    with (
        ThreadPoolExecutor() as pool,
        joined(router=router, executor=pool if own_executor else None) as (
            channel,
            wire,
            _,
        ),
    ):
        wire.push("room:lobby", "end")
        leaving = None if how == "abort" else start(wire.let_go)
        channel.client.run()
        if leaving is not None:
            leaving.result(LONG)
        assert wire.ended() == (None if how == "abort" else 1000)
        until(lambda: after)
        assert after[0] is not SocketState.OPEN


def test_blocked_calls_end_when_the_client_does() -> None:
    with serving() as peer:
        client = dial(peer)
        wire = peer.wire()
        joining = start(client.join, "room:1")
        wire.accept()
        channel = joining.result(LONG)
        calls: list[Future[Any]] = [
            start(channel.push, "slow", timeout=math.inf),
            start(client.join, "room:2", timeout=math.inf),
            start(channel.wait_for, "never"),
            start(client.wait_closed),
            start(client.run),
        ]
        with channel.messages() as messages, client.events() as events:
            calls += [start(list[Any], messages), start(list[Any], events)]
            frames = [wire.receive(), wire.receive()]
            assert {frame.event for frame in frames} == {"slow", "phx_join"}
            client.abort()
            ends = [type(call.exception(LONG)) for call in calls]
        assert ends == [PushLost, ConnectionClosed, ChannelClosed] + [type(None)] * 4


def test_a_blocked_wait_for_the_connection_ends_when_the_client_does() -> None:
    with serving() as peer:
        client = dial(peer)
        peer.refuse(lambda: (503, ""))
        peer.wire().cut()
        until(lambda: client.state is SocketState.WAITING)
        with pytest.raises(TimeoutError):
            client.wait_connected(timeout=0.01)
        waiting = start(client.wait_connected)
        client.close()
        with pytest.raises(ConnectionClosed):
            waiting.result(LONG)


def test_who_waits_for_the_end_waits_only_so_long() -> None:
    with connected() as (client, _):
        with pytest.raises(TimeoutError):
            client.wait_closed(timeout=0.01)
        assert client.state is SocketState.OPEN


def test_messages_that_came_before_an_end_by_the_server_are_still_handled() -> None:
    router = Router()
    handled: list[int] = []
    go_on = Flag()

    @router.on("n")
    def hear(message: Message[int]) -> None:
        go_on.wait()
        handled.append(message.payload)

    options = replace(QUICK, reconnect=ReconnectPolicy(final_codes=frozenset({4001})))
    with joined(router=router, options=options) as (channel, wire, _):
        wire.send(*(push("room:lobby", "n", number) for number in range(3)))
        wire.close(4001)
        until(lambda: channel.client.state is SocketState.CLOSED)
        go_on.set()
        with pytest.raises(ConnectionClosed):
            channel.client.wait_closed()
        assert handled == [0, 1, 2]
        assert channel.client.stats.backlog == 0


def test_what_is_never_handled_keeps_an_end_by_the_server_only_so_long() -> None:
    router = Router()
    go_on = Flag()

    @router.on("n")
    def hear(message: Message[int]) -> None:
        go_on.wait()

    options = replace(QUICK, reconnect=ReconnectPolicy(final_codes=frozenset({4001})))
    with joined(router=router, options=options, drain_timeout=0.02) as (channel, wire, _):
        wire.push("room:lobby", "n", 1)
        wire.close(4001)
        with pytest.raises(ConnectionClosed):
            channel.client.wait_closed()
        go_on.set()


def test_what_breaks_in_an_unforeseen_way_ends_the_client_with_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with connected() as (client, _):
        monkeypatch.setattr(client._proto, "handle_timeout", lambda now: 1 / 0)
        client._watch.arm(0.0)
        with pytest.raises(ZeroDivisionError):
            client.wait_closed()


# ---- interrupts, signals, the end of the program --------------------------------------------------------------------


@contextmanager
def interrupted_after(call: Callable[[], T]) -> Iterator["Future[T]"]:
    """The main thread gets a `KeyboardInterrupt` once the call has returned, which is made on another thread."""

    inside = Flag()

    def run() -> T:
        inside.wait()
        try:
            return call()
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    running = start(run)
    # In the background of a shell it is ignored, also by what the shell starts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        inside.set()
        yield running
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGINT, before)
    raise AssertionError("no interrupt came")


def test_an_interrupted_push_is_cancelled_and_its_late_reply_dropped() -> None:
    with joined() as (channel, wire, _):
        with interrupted_after(lambda: wire.expect("slow")) as asked:
            channel.push("slow")
        wire.reply(asked.result(LONG))
        pushing = start(channel.push, "next")
        wire.reply(wire.expect("next"))
        assert pushing.result(LONG).ok
        assert channel.client.stats.stale == 1


def test_an_interrupted_join_is_taken_back() -> None:
    with connected() as (client, wire):
        with interrupted_after(lambda: wire.expect("phx_join")) as asked:
            client.join("room:1")
        join = asked.result(LONG)
        assert wire.expect("phx_leave").join_ref == join.join_ref


def test_an_interrupted_context_drops_the_connection() -> None:
    with serving() as peer:
        client = dial(peer)
        with interrupted_after(peer.wire) as accepting, client:
            client.wait_closed()
        assert client.state is SocketState.CLOSED
        assert accepting.result(LONG).ended() is None


def test_run_ends_quietly_when_the_application_closes() -> None:
    with connected() as (client, _):
        running = start(client.run)
        client.close()
        running.result(LONG)


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


PROGRAM = """
    import sys, time
    from phx_proto.router import Router
    from phx_transports.threads import connect

    router = Router()

    @router.on("work")
    def work(message, channel):
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
"""

FORGETFUL = """
    import sys
    from phx_proto.router import Router
    from phx_transports.threads import connect

    router = Router()

    @router.on("work")
    def work(message, channel):
        with channel.messages() as messages:
            channel.push("begun")
            list(messages)

    client = connect(sys.argv[1], router=router, proxy=None)
    channel = client.join("room:1")
    channel.push("last")
"""


@contextmanager
def program(peer: Peer, text: str) -> Iterator[tuple["subprocess.Popen[str]", Wire]]:
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(text), peer.url],
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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_closes_a_program_gracefully(number: signal.Signals) -> None:
    with serving() as peer, program(peer, PROGRAM) as (process, wire):
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


def test_a_second_signal_drops_the_connection() -> None:
    with serving() as peer, program(peer, PROGRAM) as (process, wire):
        wire.push("room:1", "work", "forever")
        assert line(process) == "working"
        process.send_signal(signal.SIGTERM)
        assert line(process) == "draining"
        process.send_signal(signal.SIGINT)
        assert line(process) == "closed"
        assert process.wait(LONG) == 0
        assert wire.ended() is None


def test_a_program_that_ends_without_closing_does_not_hang() -> None:
    with serving() as peer, program(peer, FORGETFUL) as (process, wire):
        last = wire.expect("last")
        wire.push("room:1", "work")
        wire.reply(wire.expect("begun"))  # and the handler waits for ever
        wire.reply(last)
        _, errors = process.communicate(timeout=LONG)
        assert (process.returncode, errors) == (0, "")
        assert wire.ended() is None


# ---- many of everything ---------------------------------------------------------------------------------------------


def test_many_clients_have_nothing_to_do_with_each_other() -> None:
    with serving() as peer:
        clients = [dial(peer) for _ in range(5)]
        for client in clients[::2]:
            client.abort()
        states = [client.state for client in clients]
        assert states == [SocketState.CLOSED if number % 2 == 0 else SocketState.OPEN for number in range(5)]
        for client in clients:
            client.abort()


def test_a_client_that_is_closed_is_forgotten() -> None:
    with connected() as (client, _):
        client.close()
        gone: weakref.ref[Client] = weakref.ref(client)
    del client, _
    gc.collect()
    assert gone() is None
