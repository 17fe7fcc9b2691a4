"""Channels on asyncio: the part that is not in behaviour/. Async params, a full write buffer, the loop's turns."""

import asyncio
import gc
import math
from collections.abc import Callable
from typing import Any

import pytest
from in_memory import TOPIC, on_asyncio
from peer import Frame, Wire, dial, joined, serving, turns, until

from phx_proto.errors import (
    PushTimeout,
)
from phx_proto.events import ChannelEnded, ChannelJoined, Event
from phx_proto.message import Message
from phx_proto.states import ChannelState
from phx_transports.asyncio import Channel, connect
from phx_transports.testing import Peer

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]


# ---- joining and leaving --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_join_params_may_be_a_callable(kind: str, phx_peer: Peer) -> None:
    async def later() -> dict[str, int]:
        await asyncio.sleep(0)
        return {"a": 1}

    params: Callable[[], Any] = later if kind == "async" else lambda: {"a": 1}
    phx_peer.expect_join(TOPIC, {"a": 1}).reply()
    async with connect(phx_peer.url, transport=phx_peer) as client:
        await client.join(TOPIC, params)


async def test_a_join_cancelled_at_the_moment_of_its_answer_is_left(phx_peer: Peer) -> None:
    async with connect(phx_peer.url, transport=phx_peer) as client:
        joining = asyncio.create_task(client.channel(TOPIC).join())

        def cancel_at_the_answer(event: Event) -> None:
            if isinstance(event, ChannelJoined):
                joining.cancel()

        client._driver.session.listeners.append(cancel_at_the_answer)  # told just before the call that waits
        join = await phx_peer.expect_join(TOPIC).arrival()
        leave = phx_peer.expect_leave(TOPIC)
        join.reply()
        with pytest.raises(asyncio.CancelledError):
            await joining
        await leave.arrival()


# ---- a full write buffer --------------------------------------------------------------------------------------------

BIG = "x" * 200_000
CASTS = 100


async def fill(channel: Channel, wire: Wire) -> "asyncio.Task[None]":
    """Have somebody cast until he has to wait, for the server does not read."""
    wire.reading.clear()

    async def cast() -> None:
        for _ in range(CASTS):
            await channel.cast("big", BIG)

    casting = asyncio.create_task(cast())
    await until(lambda: channel.client._driver.transport._blocked is not None)  # type: ignore[attr-defined]
    await turns(100)
    assert not casting.done()
    return casting


async def test_casts_wait_while_the_server_does_not_read_and_all_arrive_when_it_does() -> None:
    async with joined() as (channel, wire, _):
        casting = await fill(channel, wire)
        wire.reading.set()
        for _ in range(CASTS):
            await wire.expect("big")
        await casting


async def test_a_push_waits_likewise_and_its_timeout_runs() -> None:
    async with joined() as (channel, wire, _):
        casting = await fill(channel, wire)
        for _ in range(100):  # the system's buffers may still take something
            with pytest.raises(PushTimeout) as caught:
                await channel.push("too late", timeout=0.02)
            if not caught.value.sent:
                break
        assert not caught.value.sent
        pushing = asyncio.create_task(channel.push("small", timeout=math.inf))
        await turns()
        wire.reading.set()
        while (frame := await wire.receive()).event != "small":
            pass
        await wire.reply(frame)
        assert (await pushing).ok
        casting.cancel()


async def test_a_cast_cancelled_while_it_waits_is_not_sent_and_others_are() -> None:
    async with joined() as (channel, wire, _):
        casting = await fill(channel, wire)
        waiting = asyncio.create_task(channel.cast("given up"))
        await turns()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        wire.reading.set()
        await casting
        await channel.cast("last")
        assert [frame.event for frame in await frames_until(wire, "last")] == ["big"] * CASTS + ["last"]


async def frames_until(wire: Wire, event: str) -> list[Frame]:
    frames = [await wire.receive()]
    while frames[-1].event != event:
        frames.append(await wire.receive())
    return frames


async def test_who_waits_for_the_write_buffer_goes_on_when_the_connection_is_lost() -> None:
    async with serving() as peer:
        client = await dial(peer)
        wire = await peer.wire()
        channel, _ = await asyncio.gather(client.join(TOPIC), wire.accept())
        casting = await fill(channel, wire)
        wire.cut()
        wire = await peer.wire()
        await wire.accept()
        await wire.expect("big")
        casting.cancel()
        await client.abort()


async def test_who_casts_without_end_leaves_the_loop_its_turns() -> None:
    async with joined() as (channel, wire, _):
        turned = asyncio.create_task(turns(3))
        for _ in range(1000):
            await channel.cast("some", "x" * 1000)
        assert turned.done()
        for _ in range(1000):
            await wire.expect("some")


# ---- messages one after another -------------------------------------------------------------------------------------


async def test_what_came_with_the_close_is_read_before_the_end(phx_peer: Peer) -> None:
    async with on_asyncio(phx_peer) as channel, channel.stream() as stream:
        phx_peer.push(TOPIC, "last")
        phx_peer.close_channel(TOPIC)
        assert channel.state is ChannelState.CLOSED  # and the pool has not had its turn: what came waits in the inbox
        last = await anext(stream)
        assert isinstance(last, Message)
        assert last.event == "last"
        assert isinstance(await anext(stream), ChannelEnded)


async def test_a_stream_closed_while_messages_are_on_their_way_owes_nothing(phx_peer: Peer) -> None:
    async with on_asyncio(phx_peer) as channel:
        entered, go_on = asyncio.Event(), asyncio.Event()

        @channel.on("n")
        async def block(message: Message[Any]) -> None:
            entered.set()
            await go_on.wait()

        async with channel.messages():
            for number in range(5):
                phx_peer.push(TOPIC, "n", number)
            await entered.wait()
        go_on.set()
        await phx_peer.settled()
        assert channel.client.stats.handled == 5


# ---- handlers of the channel's own, presence, bounds ----------------------------------------------------------------


async def test_a_channel_that_nobody_holds_is_kept_by_its_client(phx_peer: Peer) -> None:
    seen: list[Any] = []

    async def hear(message: Message[Any], channel: Channel) -> None:
        seen.append(channel.topic)

    phx_peer.allow_join(TOPIC)
    async with connect(phx_peer.url, transport=phx_peer) as client:
        client.router.add(hear, "n")
        await client.join(TOPIC)
        gc.collect()
        phx_peer.push(TOPIC, "n")
        await phx_peer.settled()
        assert seen == [TOPIC]
