"""Channels, what is asyncio's alone; the rest is in behaviour/. Async params, a full write buffer, the loop's turns."""

import asyncio
import gc
import math
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import pytest_asyncio
from peer import Wire, connected, dial, joined, push, serving, tidy, turns, until

from phx_proto.errors import (
    PushTimeout,
)
from phx_proto.events import ChannelEnded, ChannelJoined, Event
from phx_proto.message import Message
from phx_proto.states import ChannelState, SocketState
from phx_transports.asyncio import Channel

pytestmark = pytest.mark.asyncio

TOPIC = "room:lobby"


@pytest_asyncio.fixture(autouse=True)
async def _tidy() -> AsyncIterator[None]:
    with tidy():
        yield


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


# ---- joining and leaving --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_join_params_may_be_a_callable(kind: str) -> None:
    async def later() -> dict[str, int]:
        await asyncio.sleep(0)
        return {"a": 1}

    async with connected() as (client, wire):
        params: Callable[[], Any] = later if kind == "async" else lambda: {"a": 1}
        _, frame = await asyncio.gather(client.join("room:1", params), wire.accept())
        assert frame.payload == {"a": 1}


async def test_a_join_cancelled_at_the_moment_of_its_answer_is_left() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1")
        joining = asyncio.create_task(channel.join())

        def cancel_at_the_answer(event: Event) -> None:
            if isinstance(event, ChannelJoined):
                joining.cancel()

        client._session.listeners.append(cancel_at_the_answer)  # told just before the call that waits
        join = await wire.accept()
        with pytest.raises(asyncio.CancelledError):
            await joining
        assert (await wire.expect("phx_leave")).join_ref == join.join_ref


# ---- a full write buffer --------------------------------------------------------------------------------------------

BIG = "x" * 200_000


async def fill(channel: Channel, wire: Wire) -> "asyncio.Task[None]":
    """Have somebody cast until he has to wait, for the server does not read."""
    wire.reading.clear()

    async def cast() -> None:
        for _ in range(200):
            await channel.cast("big", BIG)

    casting = asyncio.create_task(cast())
    await until(lambda: channel.client._transport._blocked is not None)  # type: ignore[attr-defined]
    await turns(100)
    assert not casting.done()
    return casting


async def test_casts_wait_while_the_server_does_not_read_and_all_arrive_when_it_does() -> None:
    async with joined() as (channel, wire, _):
        casting = await fill(channel, wire)
        wire.reading.set()
        for _ in range(200):
            await wire.expect("big")
        await casting


async def test_a_push_waits_likewise_and_its_timeout_runs() -> None:
    async with joined() as (channel, wire, _):
        casting = await fill(channel, wire)
        with pytest.raises(PushTimeout) as caught:
            await channel.push("small", timeout=0.02)
        assert not caught.value.sent
        pushing = asyncio.create_task(channel.push("small", timeout=math.inf))
        await turns()
        wire.reading.set()
        while (frame := await wire.receive()).event != "small":
            pass
        await wire.reply(frame)
        assert (await pushing).ok
        casting.cancel()


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


async def test_what_came_with_the_close_is_read_before_the_end() -> None:
    async with joined() as (channel, wire, join_ref), channel.stream() as stream:
        await wire.burst(push(TOPIC, "last"), push(TOPIC, "phx_close", {}, join_ref=join_ref))
        while channel.state is not ChannelState.CLOSED:
            await asyncio.sleep(0)
        # Now, at the latest, the crew has not had its turn yet: what was read waits in the inbox.
        last = await anext(stream)
        assert isinstance(last, Message)
        assert last.event == "last"
        assert isinstance(await anext(stream), ChannelEnded)


async def test_a_stream_closed_while_messages_are_on_their_way_owes_nothing() -> None:
    async with joined() as (channel, wire, _):
        entered, go_on = asyncio.Event(), asyncio.Event()

        @channel.on("n")
        async def block(message: Message[Any]) -> None:
            entered.set()
            await go_on.wait()

        async with channel.messages():
            await wire.burst(*(push(TOPIC, "n", number) for number in range(5)))
            await entered.wait()
        go_on.set()
        await until(lambda: channel.client.stats.delivered == 5)
        await until(lambda: channel.client.stats.backlog == 0)


# ---- handlers of the channel's own, presence, bounds ----------------------------------------------------------------


async def test_a_channel_that_nobody_holds_is_kept_by_its_client() -> None:
    seen: list[Any] = []
    async with connected() as (client, wire):

        async def hear(message: Message[Any], channel: Channel) -> None:
            seen.append(channel.topic)

        client.router.add(hear, "n")
        await asyncio.gather(client.join("room:1"), wire.accept())
        gc.collect()
        await wire.push("room:1", "n")
        await until(lambda: seen)
        assert seen == ["room:1"]
        assert client.state is SocketState.OPEN
