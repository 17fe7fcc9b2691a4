"""A client over its life: lost and found connections, bad input, closing, and what ends it."""

import asyncio
import contextlib
import logging
import math
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from peer import LONG, QUICK, Peer, Wire, connected, dial, joined, push, serving, tidy, turns, until

from phx_proto.backoff import ReconnectPolicy
from phx_proto.errors import ConnectionClosed, HandshakeRefused, InvalidState, PushLost, PushTimeout, TopicInUse
from phx_proto.events import BadFrame, Closed, Connected, Disconnected
from phx_proto.message import Message
from phx_proto.router import Router
from phx_proto.states import ChannelState, SocketState
from phx_transports.asyncio import Channel, EventStream, connect

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture(autouse=True)
async def _tidy() -> AsyncIterator[None]:
    with tidy():
        yield


async def next_of(events: EventStream, kind: type[Any]) -> Any:
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError("the events have ended")


# ---- lost and found -------------------------------------------------------------------------------------------------


async def test_after_a_cut_channels_rejoin_with_fresh_params_and_handlers_go_on() -> None:
    router = Router()
    seen: asyncio.Queue[int] = asyncio.Queue()

    @router.on("n")
    async def hear(message: Message[int]) -> None:
        seen.put_nowait(message.payload)

    last = 0
    async with serving() as peer:
        client = await dial(peer, router=router)
        wire = await peer.wire()
        channel = client.channel("room:1", lambda: {"since": last})
        _, join = await asyncio.gather(channel.join(), wire.accept())
        assert join.payload == {"since": 0}
        await wire.push("room:1", "n", 1)
        last = await seen.get()
        wire.cut()
        wire = await peer.wire()
        join = await wire.accept("room:1")
        assert join.payload == {"since": 1}
        await wire.push("room:1", "n", 2)
        assert await seen.get() == 2
        assert client.stats.reconnects == 1
        await client.abort()


@pytest.mark.parametrize("code", [1000, 1001])
async def test_a_close_by_the_server_is_told_and_followed_by_a_new_connection(code: int) -> None:
    async with serving() as peer:
        client = await dial(peer)
        async with client.events() as events:
            wire = await peer.wire()
            await wire.close(code, "so long")
            lost = await next_of(events, Disconnected)
            assert (lost.code, lost.reason) == (code, "so long")
            assert lost.retry_in is not None
            assert (await next_of(events, Connected)).reconnected
        await client.abort()


async def test_a_restart_is_waited_for_up_to_five_seconds() -> None:
    async with connected() as (client, wire), client.events() as events:
        await wire.close(1012)
        lost = await next_of(events, Disconnected)
        assert lost.code == 1012
        assert 0 <= lost.retry_in <= 5


async def test_a_close_code_that_is_final_ends_the_client() -> None:
    options = replace(QUICK, reconnect=ReconnectPolicy(final_codes=frozenset({4001})))
    async with connected(options=options) as (client, wire):
        await wire.close(4001, "go away")
        with pytest.raises(ConnectionClosed, match="go away"):
            await client.wait_closed()
        with pytest.raises(ConnectionClosed):
            await client.run()
        with pytest.raises(ConnectionClosed):
            client.channel("room:1")


async def test_a_refused_reconnect_is_tried_again_and_run_goes_on() -> None:
    async with serving() as peer:
        client = await dial(peer)
        peer.refuse = lambda: (404, "") if peer.attempts == 2 else None
        (await peer.wire()).cut()
        await peer.wire()
        await client.wait_connected()
        await client.abort()


async def test_a_silent_peer_is_noticed_and_replaced() -> None:
    async with serving() as peer:
        client = await dial(peer, options=replace(QUICK, heartbeat=0.05))
        async with client.events() as events:
            wire = await peer.wire()
            wire.answers_heartbeats = False
            lost = await next_of(events, Disconnected)
            assert (lost.code, "nothing was heard" in lost.reason) == (None, True)
            await next_of(events, Connected)
        await wire.gone.wait()
        assert wire.heartbeats
        await client.abort()


async def test_a_peer_that_answers_heartbeats_is_left_alone() -> None:
    async with connected(options=replace(QUICK, heartbeat=0.05)) as (client, wire):
        await until(lambda: wire.heartbeats >= 5)
        assert client.stats.reconnects == 0


async def test_parts_of_a_long_message_show_that_the_peer_lives() -> None:
    async with connected(options=replace(QUICK, heartbeat=0.05)) as (client, wire):
        wire.answers_heartbeats = False
        data = push("room:1", "big", "x" * 100).encode()
        frame = bytes([0x81, 126, *len(data).to_bytes(2)]) + data
        for part in (frame[at : at + 16] for at in range(0, len(frame), 16)):
            wire._socket.transport.write(part)
            wire.heartbeat.clear()
            await wire.heartbeat.wait()
        await until(lambda: client.stats.received == 1)
        assert client.stats.reconnects == 0


async def test_reconnect_drops_the_connection_and_makes_another() -> None:
    async with serving() as peer:
        client = await dial(peer)
        first = await peer.wire()
        client.reconnect()
        await client.wait_connected()
        await peer.wire()
        await first.gone.wait()
        await client.abort()
        with pytest.raises(InvalidState):
            client.reconnect()


async def test_a_message_over_the_limit_closes_with_1009_and_is_followed_by_a_new_connection() -> None:
    async with serving() as peer:
        client = await dial(peer, max_size=1000)
        wire = await peer.wire()
        await wire.push("room:1", "big", "x" * 2000)
        await wire.gone.wait()
        assert wire.code == 1009
        await peer.wire()
        await client.abort()


@pytest.mark.parametrize("garbage", ["{not json", "[1,2]", "null", "", b"\xff\x00\x01", b""])
async def test_garbage_is_told_logged_and_does_no_harm(garbage: str | bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "phx_transports")
    async with joined() as (channel, wire, _), channel.client.events() as events, channel.messages() as messages:
        await wire.send(garbage, push("room:lobby", "good"))
        assert (await anext(messages)).event == "good"
        assert isinstance(await next_of(events, BadFrame), BadFrame)
        assert "was dropped" in caplog.text
        assert channel.client.stats.bad_frames == 1
        assert channel.client.stats.connects == 1


# ---- ping, topics, events -------------------------------------------------------------------------------------------


async def test_ping_tells_how_long_the_answer_took() -> None:
    async with connected() as (client, _):
        assert 0 < await client.ping() < LONG


async def test_a_ping_without_an_answer_times_out_and_one_under_way_is_lost_with_the_connection() -> None:
    async with connected() as (client, wire):
        wire.answers_heartbeats = False
        with pytest.raises(PushTimeout):
            await client.ping(timeout=0.01)
        lost = asyncio.create_task(client.ping(timeout=math.inf))
        await until(lambda: wire.heartbeats == 2)
        wire.cut()
        with pytest.raises(PushLost):
            await lost


async def test_a_cancelled_ping_is_forgotten() -> None:
    async with connected() as (client, wire):
        wire.answers_heartbeats = False
        task = asyncio.create_task(client.ping())
        await wire.heartbeat.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_ping_needs_a_connection() -> None:
    async with connected() as (client, _):
        await client.abort()
        with pytest.raises(InvalidState):
            await client.ping()


async def test_two_live_channels_of_one_topic_are_refused() -> None:
    async with connected() as (client, _):
        client.channel("room:1")
        with pytest.raises(TopicInUse):
            client.channel("room:1")


async def test_events_end_with_the_client() -> None:
    async with connected() as (client, _), client.events() as events:
        reading = asyncio.create_task(collect(events))
        await turns()
        await client.abort()
        assert isinstance((await reading)[-1], Closed)


async def test_events_end_for_a_reader_when_somebody_closes_them() -> None:
    async with connected() as (client, _):
        async with client.events() as events:
            reading = asyncio.create_task(collect(events))
            await turns()
        assert await reading == []
        assert await collect(events) == []


async def test_two_readers_of_the_same_events_share_them() -> None:
    async with connected() as (client, _), client.events() as events:
        readers = [asyncio.create_task(collect(events)) for _ in range(2)]
        await turns()
        await client.abort()
        read = await asyncio.gather(*readers)
        assert [type(event) for part in read for event in part].count(Closed) == 1


async def test_a_reader_of_events_who_falls_far_behind_loses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventStream, "LIMIT", 3)
    async with connected() as (client, wire), client.events() as events:
        await wire.send("1", "2", "3", "44", "55")
        await until(lambda: client.stats.bad_frames == 5)
        assert events.dropped == 2
        assert [(await anext(events)).size for _ in range(3)] == [1, 2, 2]  # type: ignore[union-attr]


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


async def test_many_clients_have_nothing_to_do_with_each_other() -> None:
    async with serving() as peer:
        clients = [await dial(peer) for _ in range(5)]
        for client in clients[::2]:
            await client.abort()
        assert [client.state for client in clients] == [
            SocketState.CLOSED if number % 2 == 0 else SocketState.OPEN for number in range(5)
        ]
        for client in clients:
            await client.abort()


# ---- closing --------------------------------------------------------------------------------------------------------


async def test_close_lets_handlers_finish_while_pushes_still_work_then_leaves_then_closes() -> None:
    router = Router()
    entered, go_on, replies = asyncio.Event(), asyncio.Event(), []

    @router.on("work")
    async def work(message: Message[Any], channel: Channel) -> None:
        entered.set()
        await go_on.wait()
        replies.append((await channel.push("done")).response)

    async with joined(router=router) as (channel, wire, join_ref):
        await wire.push("room:lobby", "work")
        await wire.push("room:lobby", "work")
        await entered.wait()
        closing = asyncio.create_task(channel.client.close())
        await until(lambda: channel.client.state is SocketState.DRAINING)
        await wire.push("room:lobby", "work")  # comes too late
        go_on.set()
        for number in range(2):
            await wire.reply(await wire.expect("done"), number)
        leave = await wire.let_go()
        assert leave.join_ref == join_ref
        await closing
        assert replies == [0, 1]
        assert await wire.rest() == []
        assert wire.code == 1000
        assert channel.state is ChannelState.CLOSED
        assert channel.client.stats.dropped == 1
        assert channel.client.stats.backlog == 0


async def test_close_drops_the_connection_at_the_drain_timeout() -> None:
    router = Router()
    entered, cancelled = asyncio.Event(), asyncio.Event()

    @router.on("work")
    async def work(message: Message[Any]) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with joined(router=router, drain_timeout=0.05) as (channel, wire, _):
        await wire.push("room:lobby", "work")
        await entered.wait()
        await channel.client.close()
        assert cancelled.is_set()
        await wire.gone.wait()
        assert wire.code is None


async def test_close_without_a_connection_ends_at_once() -> None:
    async with serving() as peer:
        client = await dial(peer)
        peer.refuse = lambda: (503, "")
        (await peer.wire()).cut()
        await until(lambda: peer.attempts > 1)
        await client.close()
        assert client.state is SocketState.CLOSED


async def test_close_twice_and_abort_after_it_do_nothing_more() -> None:
    async with connected() as (client, wire):
        await asyncio.gather(client.close(), client.close())
        await client.abort()
        await wire.gone.wait()
        assert wire.code == 1000


@pytest.mark.parametrize("how", ["close", "stop", "abort"])
async def test_a_handler_may_end_the_client(how: str) -> None:
    router = Router()
    after: list[SocketState] = []

    @router.on("end")
    async def end(message: Message[Any], channel: Channel) -> None:
        if how == "stop":
            channel.client.stop()
        else:
            await getattr(channel.client, how)()
        after.append(channel.client.state)

    async with joined(router=router) as (channel, wire, _):
        await wire.push("room:lobby", "end")
        leaving = None if how == "abort" else asyncio.create_task(wire.let_go())
        await channel.client.run()
        if leaving is not None:
            await leaving
        await wire.gone.wait()
        assert wire.code == (None if how == "abort" else 1000)
        assert after == [SocketState.CLOSED if how == "abort" else SocketState.DRAINING]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_handler_that_waits_for_the_end_does_not_keep_it_from_coming(concurrency: int) -> None:
    router = Router()
    ended = asyncio.Event()

    async def end(message: Message[Any], channel: Channel) -> None:
        await channel.client.abort()
        await channel.client.wait_closed()
        ended.set()

    router.add(end, "end", concurrency=concurrency)
    async with joined(router=router) as (channel, wire, _):
        await wire.push("room:lobby", "end")
        await channel.client.wait_closed()
        await ended.wait()


async def test_abort_cancels_handlers_and_loses_what_waits() -> None:
    router = Router()
    entered = asyncio.Event()

    @router.on("work")
    async def work(message: Message[Any], channel: Channel) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with joined(router=router) as (channel, wire, _):
        pushing = asyncio.create_task(channel.push("slow"))
        await wire.expect("slow")
        await wire.push("room:lobby", "work")
        await entered.wait()
        await channel.client.abort()
        with pytest.raises(PushLost) as caught:
            await pushing
        assert caught.value.sent
        assert channel.state is ChannelState.CLOSED


async def test_a_context_whose_closing_is_cancelled_drops_the_connection() -> None:
    async def live(peer: Peer, leaving: asyncio.Event) -> None:
        async with connect(peer.url, proxy=None, options=QUICK) as client:
            await client.join("room:1")
            leaving.set()

    async with serving() as peer:
        leaving = asyncio.Event()
        task = asyncio.create_task(live(peer, leaving))
        wire = await peer.wire()
        await wire.accept()
        await wire.expect("phx_leave")  # and never answer it
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await wire.gone.wait()
        assert wire.code is None


async def test_messages_that_came_before_an_end_by_the_server_are_still_handled() -> None:
    router = Router()
    handled: list[int] = []
    go_on = asyncio.Event()

    @router.on("n")
    async def hear(message: Message[int]) -> None:
        await go_on.wait()
        handled.append(message.payload)

    options = replace(QUICK, reconnect=ReconnectPolicy(final_codes=frozenset({4001})))
    async with joined(router=router, options=options) as (channel, wire, _):
        await wire.send(*(push("room:lobby", "n", number) for number in range(3)))
        await wire.close(4001)
        await until(lambda: channel.client.state is SocketState.CLOSED)
        go_on.set()
        with pytest.raises(ConnectionClosed):
            await channel.client.wait_closed()
        assert handled == [0, 1, 2]
        assert channel.client.stats.backlog == 0


async def test_what_is_never_handled_keeps_an_end_by_the_server_only_so_long() -> None:
    router = Router()

    @router.on("n")
    async def hear(message: Message[int]) -> None:
        await asyncio.Event().wait()

    options = replace(QUICK, reconnect=ReconnectPolicy(final_codes=frozenset({4001})))
    async with joined(router=router, options=options, drain_timeout=0.02) as (channel, wire, _):
        await wire.push("room:lobby", "n", 1)
        await wire.close(4001)
        with pytest.raises(ConnectionClosed):
            await channel.client.wait_closed()


# ---- cancellation ---------------------------------------------------------------------------------------------------


async def test_cancelled_waits_leave_the_client_as_it_was() -> None:
    async with joined() as (channel, _, _):
        client = channel.client
        waits = [client.run(), client.wait_closed(), anext(await enter(client.events()))]
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        await turns()
        for task in tasks:
            task.cancel()
        assert all(
            isinstance(result, asyncio.CancelledError)
            for result in await asyncio.gather(*tasks, return_exceptions=True)
        )
        assert client.state is SocketState.OPEN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def enter(stream: Any) -> Any:
    return await stream.__aenter__()


async def test_a_cancelled_wait_for_the_connection_leaves_the_client_trying() -> None:
    async with serving() as peer:
        client = await dial(peer)
        peer.refuse = lambda: (503, "")
        (await peer.wire()).cut()
        await until(lambda: client.state is SocketState.WAITING)
        waiting = asyncio.create_task(client.wait_connected())
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        peer.refuse = lambda: None
        await client.wait_connected()
        await client.abort()


# ---- run, and signals -----------------------------------------------------------------------------------------------


async def test_run_ends_quietly_when_the_application_closes() -> None:
    async with connected() as (client, _):
        running = asyncio.create_task(client.run())
        await turns()
        await client.close()
        await running


async def test_run_raises_what_ended_the_client() -> None:
    options = replace(QUICK, reconnect=ReconnectPolicy(final_codes=frozenset({1001})))
    async with connected(options=options) as (client, wire):
        running = asyncio.create_task(client.run())
        await wire.close(1001)
        with pytest.raises(ConnectionClosed):
            await running


async def test_run_outside_the_main_thread_leaves_signals_alone() -> None:
    def elsewhere() -> None:
        async def live() -> None:
            async with connected() as (client, _):
                running = asyncio.create_task(client.run())
                await turns()
                client.stop()
                await running

        asyncio.run(live())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)


async def test_a_signal_closes_every_client_that_runs_and_the_handlers_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    async with serving() as peer:
        clients = [await dial(peer) for _ in range(2)]
        first, second = [asyncio.create_task(client.run()) for client in clients]
        await turns()
        await clients[0].close()
        await first
        os.kill(os.getpid(), signal.SIGTERM)
        await second
        assert clients[1].state is SocketState.CLOSED
        clients = [await dial(peer) for _ in range(2)]
        running = [asyncio.create_task(client.run()) for client in clients]
        await turns()
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.gather(*running)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


PROGRAM = """
    import asyncio, sys
    from phx_proto.router import Router
    from phx_transports.asyncio import connect

    router = Router()

    @router.on("work")
    async def work(message, channel):
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
"""


@contextlib.asynccontextmanager
async def program(peer: Peer) -> AsyncIterator[tuple[asyncio.subprocess.Process, Wire]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), peer.url, stdout=subprocess.PIPE
    )
    try:
        wire = await peer.wire()
        await wire.accept()
        yield process, wire
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def line(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().strip()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_closes_a_program_gracefully(number: signal.Signals) -> None:
    async with serving() as peer, program(peer) as (process, wire):
        await wire.push("room:1", "work")
        assert await line(process) == "working"
        process.send_signal(number)
        assert await line(process) == "draining"
        await wire.reply(await wire.expect("done"))
        assert await line(process) == "done"
        await wire.let_go()
        assert await line(process) == "closed"
        assert await process.wait() == 0
        assert wire.code == 1000


async def test_a_second_signal_drops_the_connection() -> None:
    async with serving() as peer, program(peer) as (process, wire):
        await wire.push("room:1", "work", "forever")
        assert await line(process) == "working"
        process.send_signal(signal.SIGTERM)
        assert await line(process) == "draining"
        process.send_signal(signal.SIGINT)
        assert await line(process) == "closed"
        assert await process.wait() == 0
        await wire.gone.wait()
        assert wire.code is None


# ---- many of everything ---------------------------------------------------------------------------------------------


async def test_a_refused_first_connect_through_run_never_shows_a_half_open_client() -> None:
    async with serving() as peer:
        peer.refuse = lambda: (403, "no")
        with pytest.raises(HandshakeRefused):
            async with connect(peer.url, proxy=None):
                raise AssertionError


@pytest.mark.parametrize("factory", [None, *filter(None, [getattr(asyncio, "eager_task_factory", None)])])  # 3.12
async def test_a_task_factory_changes_nothing(factory: Any) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    async with joined(params=lambda: {"a": 1}) as (channel, wire, _):
        pushing = asyncio.ensure_future(channel.push("a"))
        await wire.reply(await wire.expect("a"))
        assert (await pushing).ok
