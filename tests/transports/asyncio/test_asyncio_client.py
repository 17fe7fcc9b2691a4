"""A client's life on asyncio: the part that is not in behaviour/. Tasks, cancellation, signals, factories."""

import asyncio
import os
import signal
import threading
from typing import Any

import pytest
from in_memory import TOPIC, on_asyncio
from peer import turns

from phx_proto.errors import OtherLoop, PushLost
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.states import ChannelState, SocketState
from phx_transports.asyncio import Channel, connect
from phx_transports.testing import Peer

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]


# ---- closing --------------------------------------------------------------------------------------------------------


async def test_close_drops_the_connection_at_the_drain_timeout(phx_peer: Peer) -> None:
    router = Router()
    entered, cancelled = asyncio.Event(), asyncio.Event()

    @router.on("work")
    async def work(message: Message[Any]) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with on_asyncio(phx_peer, router=router, drain_timeout=3.0) as channel:
        phx_peer.push(TOPIC, "work")
        await entered.wait()
        closing = asyncio.create_task(channel.client.close())
        await turns()
        await phx_peer.clock.elapse(3)
        await closing
        assert cancelled.is_set()
        assert not phx_peer.connected
        assert phx_peer.connections[0].close_code is None


@pytest.mark.parametrize("how", ["close", "stop", "abort"])
async def test_a_handler_may_end_the_client(how: str, phx_peer: Peer) -> None:
    router = Router()
    after: list[SocketState] = []

    @router.on("end")
    async def end(message: Message[Any], channel: Channel) -> None:
        if how == "stop":
            channel.client.stop()
        else:
            await getattr(channel.client, how)()
        after.append(channel.client.state)

    async with on_asyncio(phx_peer, router=router) as channel:
        phx_peer.push(TOPIC, "end")
        await channel.client.run()
        assert phx_peer.connections[0].close_code == (None if how == "abort" else 1000)
        assert after == [SocketState.CLOSED if how == "abort" else SocketState.DRAINING]


@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_handler_that_waits_for_the_end_does_not_keep_it_from_coming(concurrency: int, phx_peer: Peer) -> None:
    router = Router()
    ended = asyncio.Event()

    async def end(message: Message[Any], channel: Channel) -> None:
        await channel.client.abort()
        await channel.client.wait_closed()
        ended.set()

    router.add(end, "end", concurrency=concurrency)
    async with on_asyncio(phx_peer, router=router) as channel:
        phx_peer.push(TOPIC, "end")
        await channel.client.wait_closed()
        await ended.wait()


async def test_abort_cancels_handlers_and_loses_what_waits(phx_peer: Peer) -> None:
    router = Router()
    entered = asyncio.Event()

    @router.on("work")
    async def work(message: Message[Any], channel: Channel) -> None:
        entered.set()
        await asyncio.Event().wait()

    async with on_asyncio(phx_peer, router=router) as channel:
        pushing = asyncio.create_task(channel.push("slow"))
        await phx_peer.expect_push(TOPIC, "slow").arrival()
        phx_peer.push(TOPIC, "work")
        await entered.wait()
        await channel.client.abort()
        with pytest.raises(PushLost) as caught:
            await pushing
        assert caught.value.sent
        assert channel.state is ChannelState.CLOSED


async def test_a_context_whose_closing_is_cancelled_drops_the_connection(phx_peer: Peer) -> None:
    async def live() -> None:
        async with connect(phx_peer.url, transport=phx_peer) as client:
            await client.join(TOPIC)

    phx_peer.allow_join(TOPIC)
    leave = phx_peer.expect_leave(TOPIC).ignore()
    living = asyncio.create_task(live())
    await leave.arrival()
    living.cancel()
    with pytest.raises(asyncio.CancelledError):
        await living
    assert not phx_peer.connected
    assert phx_peer.connections[0].close_code is None


# ---- cancellation ---------------------------------------------------------------------------------------------------


async def test_cancelled_waits_leave_the_client_as_it_was(phx_peer: Peer) -> None:
    async with connect(phx_peer.url, transport=phx_peer) as client:
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


# ---- run, and signals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda channel: channel.push("e"),
        lambda channel: channel.cast("e"),
        lambda channel: channel.leave(),
        lambda channel: channel.wait_for("e"),
        lambda channel: channel.client.join("room:2"),
        lambda channel: channel.client.ping(),
        lambda channel: channel.client.wait_connected(),
        lambda channel: channel.client.wait_closed(),
        lambda channel: channel.client.run(),
        lambda channel: channel.client.close(),
        lambda channel: channel.client.abort(),
    ],
)
async def test_on_another_event_loop_calls_are_refused_and_change_nothing(call: Any, phx_peer: Peer) -> None:
    async def elsewhere(channel: Channel) -> None:
        with pytest.raises(OtherLoop, match="run_coroutine_threadsafe"):
            await asyncio.wait_for(call(channel), 1.0)

    async with on_asyncio(phx_peer) as channel:
        before = len(phx_peer.transcript)
        await asyncio.to_thread(asyncio.run, elsewhere(channel))
        assert len(phx_peer.transcript) == before
        assert channel.state is ChannelState.JOINED


async def test_run_outside_the_main_thread_leaves_signals_alone(phx_peer: Peer) -> None:
    def elsewhere() -> None:
        async def live() -> None:
            async with connect(phx_peer.url, transport=phx_peer) as client:
                running = asyncio.create_task(client.run())
                await turns()
                client.stop()
                await running

        asyncio.run(live())

    thread = threading.Thread(target=elsewhere)
    thread.start()
    while thread.is_alive():
        await asyncio.sleep(0.001)


async def test_a_signal_closes_every_client_that_runs_and_the_handlers_before_come_back(phx_peer: Peer) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    clients = [await connect(phx_peer.url, transport=phx_peer) for _ in range(2)]
    first, second = [asyncio.create_task(client.run()) for client in clients]
    await turns()
    await clients[0].close()
    await first
    os.kill(os.getpid(), signal.SIGTERM)
    await second
    assert clients[1].state is SocketState.CLOSED
    clients = [await connect(phx_peer.url, transport=phx_peer) for _ in range(2)]
    running = [asyncio.create_task(client.run()) for client in clients]
    await turns()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.gather(*running)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# ---- many of everything ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [None, *filter(None, [getattr(asyncio, "eager_task_factory", None)])])  # 3.12
async def test_a_task_factory_changes_nothing(factory: Any, phx_peer: Peer) -> None:
    asyncio.get_running_loop().set_task_factory(factory)
    phx_peer.allow_push(TOPIC, "a")
    async with on_asyncio(phx_peer, params=lambda: {"a": 1}) as channel:
        assert (await channel.push("a")).ok
