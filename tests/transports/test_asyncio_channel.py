"""One topic: joins, pushes, leaves, and its messages read one after another."""

import asyncio
import gc
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from peer import QUICK, Wire, connected, dial, joined, push, serving, tidy, turns, until

from phx_proto.channel import JoinPolicy, ServerClose
from phx_proto.errors import (
    ChannelClosed,
    ChannelCrashed,
    InvalidHandler,
    InvalidPayload,
    InvalidState,
    JoinCancelled,
    JoinRefused,
    JoinTimeout,
    NotJoined,
    PushLost,
    PushRejected,
    PushTimeout,
)
from phx_proto.events import ChannelEnded, ChannelErrored, ChannelJoined, Event, PresenceChanged
from phx_proto.flow import FlowLimits
from phx_proto.inbox import Bound, Drop
from phx_proto.message import Message, Reply
from phx_proto.router import Router
from phx_proto.states import ChannelState, SocketState
from phx_transports.asyncio import Channel

pytestmark = pytest.mark.asyncio

TOPIC = "room:lobby"


@pytest_asyncio.fixture(autouse=True)
async def _tidy() -> AsyncIterator[None]:
    with tidy():
        yield


def payloads(messages: list[Any]) -> list[Any]:
    return [message.payload for message in messages]


async def take(stream: Any, count: int) -> list[Any]:
    return [await anext(stream) for _ in range(count)]


async def collect(stream: Any) -> list[Any]:
    return [item async for item in stream]


# ---- joining and leaving --------------------------------------------------------------------------------------------


async def test_a_join_gives_the_servers_answer() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1", {"since": 5})
        assert channel.state is ChannelState.IDLE
        response, frame = await asyncio.gather(channel.join(), wire.accept("room:1", {"hello": "you"}))
        assert (response, frame.payload, frame.join_ref) == ({"hello": "you"}, {"since": 5}, frame.ref)
        assert (channel.state, channel.topic, channel.client) == (ChannelState.JOINED, "room:1", client)
        assert repr(channel) == "Channel('room:1', joined)"


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_join_params_may_be_a_callable(kind: str) -> None:
    async def later() -> dict[str, int]:
        await asyncio.sleep(0)
        return {"a": 1}

    async with connected() as (client, wire):
        params: Callable[[], Any] = later if kind == "async" else lambda: {"a": 1}
        _, frame = await asyncio.gather(client.join("room:1", params), wire.accept())
        assert frame.payload == {"a": 1}


async def test_a_refused_join_raises_what_the_server_said_and_frees_the_topic() -> None:
    async with connected() as (client, wire):
        joining = asyncio.create_task(client.join("room:1"))
        await wire.reply(await wire.expect("phx_join"), {"reason": "no"}, "error")
        with pytest.raises(JoinRefused) as caught:
            await joining
        assert caught.value.response == {"reason": "no"}
        channel, _ = await asyncio.gather(client.join("room:1"), wire.accept())
        assert channel.state is ChannelState.JOINED


async def test_a_join_without_an_answer_times_out_and_is_taken_back() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1")
        with pytest.raises(JoinTimeout):
            await channel.join(timeout=0.02)
        join = await wire.expect("phx_join")
        assert (await wire.expect("phx_leave")).join_ref == join.join_ref
        with pytest.raises(ChannelClosed):
            await channel.join()


async def test_a_cancelled_join_is_taken_back() -> None:
    async with connected() as (client, wire):
        joining = asyncio.create_task(client.join("room:1"))
        join = await wire.expect("phx_join")
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining
        assert (await wire.expect("phx_leave")).join_ref == join.join_ref
        client.channel("room:1")  # the topic is free


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


async def test_leaving_while_the_join_is_unanswered_ends_the_join() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1")
        joining = asyncio.create_task(channel.join())
        await wire.expect("phx_join")
        leaving = asyncio.create_task(channel.leave())
        with pytest.raises(JoinCancelled):
            await joining
        await wire.let_go()
        await leaving


async def test_params_that_cannot_be_sent_are_refused_and_free_the_topic() -> None:
    async with connected() as (client, wire):
        with pytest.raises(InvalidPayload):
            await client.join("room:1", {"price": math.nan})
        _, frame = await asyncio.gather(client.join("room:1", {"price": 1}), wire.accept())
        assert frame.payload == {"price": 1}


async def test_a_second_join_of_a_channel_is_refused() -> None:
    async with joined() as (channel, _, _):
        with pytest.raises(InvalidState):
            await channel.join()


async def test_a_leave_waits_for_the_server() -> None:
    async with joined() as (channel, wire, join_ref):
        leaving = asyncio.create_task(channel.leave())
        leave = await wire.expect("phx_leave", TOPIC)
        assert leave.join_ref == join_ref
        assert not leaving.done()
        await wire.reply(leave)
        await leaving
        assert channel.state is ChannelState.CLOSED
        await channel.leave()  # nothing to do


async def test_two_who_leave_at_once_both_come_to_an_end() -> None:
    async with joined() as (channel, wire, _):
        await asyncio.gather(channel.leave(), channel.leave(), wire.let_go())


async def test_a_leave_without_an_answer_is_over_in_time() -> None:
    async with joined() as (channel, _, _):
        await channel.leave(timeout=0.02)
        assert channel.state is ChannelState.CLOSED


async def test_a_cancelled_leave_is_a_leave_all_the_same() -> None:
    async with joined() as (channel, wire, _):
        leaving = asyncio.create_task(channel.leave())
        await wire.expect("phx_leave")
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert channel.state is ChannelState.CLOSED


async def test_joined_leaves_at_the_end_of_the_block_whatever_ends_it() -> None:
    async with connected() as (client, wire):
        serving = asyncio.create_task(both(wire))
        channels: list[Channel] = []

        async def stay() -> None:
            async with client.joined("room:1") as channel:
                channels.append(channel)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await stay()
        await serving
        assert channels[0].state is ChannelState.CLOSED


async def both(wire: Wire) -> None:
    await wire.accept()
    await wire.let_go()


async def test_a_topic_that_crashes_is_rejoined_and_others_notice_nothing() -> None:
    async with joined() as (channel, wire, join_ref):
        other, _ = await asyncio.gather(channel.client.join("room:2"), wire.accept())
        lost = asyncio.create_task(channel.push("boom"))
        await wire.expect("boom")
        await wire.push(TOPIC, "phx_error", {}, join_ref=join_ref, ref=join_ref)
        with pytest.raises(PushLost):
            await lost
        again = await wire.accept(TOPIC)
        assert again.join_ref != join_ref
        assert other.state is ChannelState.JOINED


async def test_a_topic_that_the_server_closes_stays_closed() -> None:
    async with joined() as (channel, wire, join_ref):
        lost = asyncio.create_task(channel.push("stop"))
        await wire.expect("stop")
        await wire.push(TOPIC, "phx_close", {}, join_ref=join_ref, ref=join_ref)
        with pytest.raises(ChannelClosed):
            await lost
        with pytest.raises(ChannelClosed):
            await channel.push("more")
        with pytest.raises(ChannelClosed):
            await channel.cast("more")


async def test_a_topic_that_the_server_closes_is_rejoined_if_wanted() -> None:
    options = replace(QUICK, join=replace(QUICK.join, server_close=ServerClose.REJOIN))
    async with joined(options=options) as (channel, wire, join_ref):
        await wire.push(TOPIC, "phx_close", {}, join_ref=join_ref, ref=join_ref)
        await wire.accept(TOPIC)
        await until(lambda: channel.state is ChannelState.JOINED)


# ---- pushing --------------------------------------------------------------------------------------------------------


async def test_a_push_gives_its_reply() -> None:
    async with joined() as (channel, wire, join_ref):
        pushing = asyncio.create_task(channel.push("shout", {"a": "é"}))
        frame = await wire.expect("shout", TOPIC)
        assert (frame.payload, frame.join_ref) == ({"a": "é"}, join_ref)
        await wire.reply(frame, {"n": 10**40})
        assert await pushing == Reply("ok", {"n": 10**40})


async def test_a_push_without_a_payload_sends_an_empty_object() -> None:
    async with joined() as (channel, wire, _):
        pushing = asyncio.create_task(channel.push("shout"))
        frame = await wire.expect("shout")
        assert frame.payload == {}
        await wire.reply(frame)
        await pushing


async def test_replies_find_their_pushes_in_any_order() -> None:
    async with joined() as (channel, wire, _):
        pushes = [asyncio.create_task(channel.push("n", number)) for number in range(10)]
        frames = [await wire.expect("n") for _ in pushes]
        for frame in reversed(frames):
            await wire.reply(frame, frame.payload)
        assert [(await push).response for push in pushes] == list(range(10))


async def test_an_error_reply_is_raised_or_returned_as_wanted() -> None:
    async with joined() as (channel, wire, _):
        for check in (True, False):
            pushing = asyncio.create_task(channel.push("pay", check=check))
            await wire.reply(await wire.expect("pay"), {"reason": "broke"}, "error")
            if check:
                with pytest.raises(PushRejected, match="broke") as caught:
                    await pushing
                assert caught.value.reply.status == "error"
            else:
                assert await pushing == Reply("error", {"reason": "broke"})


async def test_a_push_without_a_reply_times_out() -> None:
    async with joined() as (channel, _, _):
        with pytest.raises(PushTimeout) as caught:
            await channel.push("shout", timeout=0.02)
        assert caught.value.sent


async def test_a_push_is_lost_with_its_connection() -> None:
    async with joined() as (channel, wire, _):
        pushing = asyncio.create_task(channel.push("shout", timeout=math.inf))
        await wire.expect("shout")
        wire.cut()
        with pytest.raises(PushLost) as caught:
            await pushing
        assert caught.value.sent


async def test_a_push_before_the_join_is_sent_after_it() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1")
        with pytest.raises(NotJoined):
            await channel.push("early")
        joining = asyncio.create_task(channel.join())
        await turns()
        pushing = asyncio.create_task(channel.push("early"))
        await turns()
        await channel.cast("cast too")
        await wire.accept()
        await wire.reply(await wire.expect("early"))
        await wire.expect("cast too")
        await asyncio.gather(joining, pushing)


async def test_an_unsent_push_that_is_cancelled_is_never_sent() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1")
        joining = asyncio.create_task(channel.join())
        await turns()
        pushes = [asyncio.create_task(channel.push(event)) for event in ("no", "yes")]
        await turns()
        pushes[0].cancel()
        await turns()
        await wire.accept()
        await wire.reply(await wire.expect("yes"))
        await asyncio.gather(joining, pushes[1])


async def test_the_late_reply_to_a_cancelled_push_is_dropped() -> None:
    async with joined() as (channel, wire, _):
        pushing = asyncio.create_task(channel.push("slow"))
        frame = await wire.expect("slow")
        pushing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pushing
        await wire.reply(frame)
        await channel.client.ping()
        assert channel.client.stats.stale == 1


async def test_a_cast_wants_no_reply() -> None:
    async with joined() as (channel, wire, _):
        await channel.cast("shout", {"a": 1})
        await channel.cast("shout")
        assert [(await wire.expect("shout")).payload for _ in range(2)] == [{"a": 1}, {}]


async def test_bytes_travel_both_ways() -> None:
    async with joined() as (channel, wire, join_ref), channel.messages() as messages:
        await channel.cast("up", b"\x00\xff")
        frame = await wire.expect("up", TOPIC)
        assert (frame.payload, frame.join_ref) == (b"\x00\xff", join_ref)
        await wire.send(bytes([2, len(TOPIC), 4]) + TOPIC.encode() + b"down" + b"\x01\x02")
        message = await anext(messages)
        assert (message.event, message.payload) == ("down", b"\x01\x02")


@pytest.mark.parametrize("call", ["push", "cast"])
async def test_what_cannot_be_sent_is_refused_at_the_call(call: str) -> None:
    async with joined() as (channel, wire, _):
        with pytest.raises(InvalidPayload, match="price"):
            await getattr(channel, call)("shout", {"price": math.inf})
        await channel.cast("fine")
        await wire.expect("fine")


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


async def test_a_stream_opened_before_the_join_misses_nothing() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1")
        async with channel.messages() as messages:
            joining = asyncio.create_task(channel.join())
            join = await wire.expect("phx_join")
            await wire.reply(join)
            await wire.send(*(push("room:1", "n", number, join_ref=join.join_ref) for number in range(3)))
            await joining
            assert payloads(await take(messages, 3)) == [0, 1, 2]


async def test_a_stream_has_the_lifecycle_in_order() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1")
        async with channel.stream() as stream:
            joining = asyncio.create_task(channel.join())
            join = await wire.accept(response="hi")
            await joining
            await wire.push("room:1", "a")
            await wire.push("room:1", "phx_error", {}, join_ref=join.join_ref)
            await wire.accept()
            await wire.push("room:1", "b")
            one, two, three, four, five = await take(stream, 5)
            await asyncio.gather(channel.leave(), wire.let_go())
            assert [one.response, two.event, three.retry_in is not None, four.rejoined, five.event] == [
                "hi",
                "a",
                True,
                True,
                "b",
            ]
            assert isinstance(three, ChannelErrored)
            assert isinstance(three.error, ChannelCrashed)
            assert await collect(stream) == [ChannelEnded("room:1", None)]


async def test_messages_end_quietly_when_the_channel_is_left() -> None:
    async with joined() as (channel, wire, _), channel.messages() as messages:
        await wire.push(TOPIC, "a")
        reading = asyncio.create_task(collect(messages))
        await until(lambda: channel.client.stats.handled)
        await asyncio.gather(channel.leave(), wire.let_go())
        assert [message.event for message in await reading] == ["a"]


async def test_messages_raise_what_ended_the_channel() -> None:
    async with joined() as (channel, wire, join_ref), channel.messages() as messages:
        await wire.burst(push(TOPIC, "last"), push(TOPIC, "phx_close", {}, join_ref=join_ref))
        await until(lambda: channel.state is ChannelState.CLOSED)
        assert (await anext(messages)).event == "last"
        for _ in range(2):
            with pytest.raises(ChannelClosed, match=TOPIC):
                await anext(messages)


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


async def test_messages_of_a_refused_join_raise_the_refusal() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1")
        async with channel.messages() as messages:
            joining = asyncio.create_task(channel.join())
            await wire.reply(await wire.expect("phx_join"), {}, "error")
            with pytest.raises(JoinRefused):
                await joining
            with pytest.raises(JoinRefused):
                await anext(messages)


async def test_messages_of_a_closed_channel_end_at_once() -> None:
    async with joined() as (channel, wire, _):
        await asyncio.gather(channel.leave(), wire.let_go())
        async with channel.messages() as messages:
            assert await collect(messages) == []


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_messages_end_when_the_client_does(how: str) -> None:
    async with joined() as (channel, wire, _), channel.stream() as stream:
        reading = asyncio.create_task(collect(stream))
        await turns()
        if how == "close":
            await asyncio.gather(channel.client.close(), wire.let_go())
        else:
            await channel.client.abort()
        assert await reading == [ChannelEnded(TOPIC, None)]


async def test_the_stream_of_a_channel_never_joined_ends_with_the_client() -> None:
    async with connected() as (client, _), client.channel("room:1").messages() as messages:
        reading = asyncio.create_task(collect(messages))
        await turns()
        await client.close()
        assert await reading == []


async def test_what_waits_in_a_stream_when_the_client_closes_can_still_be_read() -> None:
    async with joined() as (channel, wire, _), channel.messages() as messages:
        await wire.send(*(push(TOPIC, "n", number) for number in range(3)))
        await until(lambda: channel.client.stats.received == 4)
        await asyncio.gather(channel.client.close(), wire.let_go())
        assert channel.client.stats.backlog == 0
        assert payloads(await collect(messages)) == [0, 1, 2]


async def test_every_stream_gets_every_message_and_so_do_handlers() -> None:
    router = Router()
    handled: list[Any] = []

    @router.on("n")
    async def hear(message: Message[int]) -> None:
        handled.append(message.payload)

    async with joined(router=router) as (channel, wire, _), channel.messages() as one, channel.messages() as two:
        await wire.send(*(push(TOPIC, "n", number) for number in range(3)))
        assert payloads(await take(one, 3)) == payloads(await take(two, 3)) == [0, 1, 2]
        await until(lambda: handled == [0, 1, 2])
        stats = channel.client.stats
        assert (stats.delivered, stats.handled, stats.backlog) == (3, 3, 0)


async def test_two_readers_of_one_stream_share_it() -> None:
    async with joined() as (channel, wire, _), channel.messages() as messages:
        readers = [asyncio.create_task(collect(messages)) for _ in range(2)]
        await turns()
        await wire.send(*(push(TOPIC, "n", number) for number in range(4)))
        await until(lambda: channel.client.stats.received == 5)
        await asyncio.gather(channel.leave(), wire.let_go())
        one, two = await asyncio.gather(*readers)
        assert sorted(payloads(one) + payloads(two)) == [0, 1, 2, 3]


async def test_a_reader_ends_when_somebody_closes_his_stream() -> None:
    async with joined() as (channel, _, _):
        async with channel.messages() as messages:
            reading = asyncio.create_task(collect(messages))
            await turns()
        assert await reading == []


async def test_a_slow_reader_counts_as_backlog_until_he_goes() -> None:
    async with joined() as (channel, wire, _):
        client = channel.client
        async with channel.messages() as messages:
            await wire.send(*(push(TOPIC, "n", number) for number in range(5)))
            await until(lambda: client.stats.delivered == 5)
            await turns()
            assert client.stats.backlog == 5
            await take(messages, 2)
            assert client.stats.backlog == 3
        assert client.stats.backlog == 0


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


async def test_a_slow_reader_is_felt_by_the_server() -> None:
    options = replace(QUICK, flow=FlowLimits(high=10, low=5), heartbeat=0.05)
    async with joined(options=options) as (channel, wire, _), channel.messages() as messages:
        sending = asyncio.create_task(wire.send(*(push(TOPIC, "n", [n, "x" * 100_000]) for n in range(100))))
        await until(lambda: channel.client.stats.backlog > 5)
        wire.answers_heartbeats = False  # for its answers would stand behind the messages
        wire.heartbeats = 0
        await until(lambda: wire.heartbeats >= 3)  # heartbeats go on
        wire.answers_heartbeats = True
        assert not sending.done()
        assert channel.client.stats.backlog < 60
        assert [message.payload[0] for message in await take(messages, 100)] == list(range(100))
        await sending
        assert channel.client.stats.reconnects == 0


async def test_a_cancelled_reader_leaves_the_stream_as_it_was() -> None:
    async with joined() as (channel, wire, _), channel.messages() as messages:
        reading = asyncio.create_task(anext(messages))
        await turns()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await wire.push(TOPIC, "a")
        assert (await anext(messages)).event == "a"


# ---- waiting for one message ----------------------------------------------------------------------------------------


async def test_wait_for_gives_the_next_message_that_is_meant() -> None:
    async with joined() as (channel, wire, _):
        waiting = asyncio.create_task(channel.wait_for("n", lambda message: message.payload > 1))
        anything = asyncio.create_task(channel.wait_for("n"))
        await turns()
        await wire.push(TOPIC, "other", 9)
        await wire.send(*(push(TOPIC, "n", number) for number in range(4)))
        assert (await waiting).payload == 2
        assert (await anything).payload == 0
        await until(lambda: channel.client.stats.received == 6)
        assert channel.client.stats.backlog == 0


async def test_wait_for_waits_only_so_long() -> None:
    async with joined() as (channel, _, _):
        with pytest.raises(TimeoutError):
            await channel.wait_for("never", timeout=0.01)


async def test_wait_for_raises_what_ended_the_channel() -> None:
    async with joined() as (channel, wire, join_ref):
        waiting = asyncio.create_task(channel.wait_for("never"))
        await turns()
        await wire.push(TOPIC, "phx_close", {}, join_ref=join_ref)
        with pytest.raises(ChannelClosed, match="the server closed it"):
            await waiting
        with pytest.raises(ChannelClosed, match="left"):
            await channel.wait_for("never")


# ---- handlers of the channel's own, presence, bounds ----------------------------------------------------------------


async def test_a_channel_has_handlers_of_its_own_until_they_are_taken_back() -> None:
    async with joined() as (channel, wire, _):
        seen: list[tuple[str, Any]] = []
        other, _ = await asyncio.gather(channel.client.join("room:2"), wire.accept())

        @channel.on("n")
        async def first(message: Message[Any]) -> None:
            seen.append(("first", message.payload))

        async def second(message: Message[Any], topic: Channel) -> None:
            seen.append((topic.topic, message.payload))

        handler = channel.add(second, "n")
        await wire.push(TOPIC, "n", 1)
        await until(lambda: len(seen) == 2)
        channel.off(handler)
        await wire.push("room:2", "n", 2)
        await wire.push(TOPIC, "n", 3)
        await until(lambda: len(seen) == 3)
        assert seen == [("first", 1), (TOPIC, 1), ("first", 3)]
        assert channel.client.stats.unhandled == 1
        with pytest.raises(InvalidHandler):
            channel.add(second, "phx_reply")
        assert other.state is ChannelState.JOINED


async def test_presence_is_tracked() -> None:
    async with connected() as (client, wire), client.events() as events:
        channel = client.channel("room:1")
        presence = channel.track_presence()
        await asyncio.gather(channel.join(), wire.accept())
        await wire.push("room:1", "presence_state", {"ann": {"metas": [{"phx_ref": "1"}]}})
        await wire.push("room:1", "presence_diff", {"joins": {"bob": {"metas": [{"phx_ref": "2"}]}}, "leaves": {}})
        changes = 0
        async for event in events:
            changes += isinstance(event, PresenceChanged)
            if changes == 2:
                break
        assert set(channel.present) == set(presence.entries) == {"ann", "bob"}


async def test_a_bound_keeps_the_latest() -> None:
    async with connected() as (client, wire):
        channel = client.channel("room:1", bound=Bound(2, Drop.OLDEST))
        seen: list[int] = []
        entered, go_on = asyncio.Event(), asyncio.Event()

        @channel.on("n")
        async def slow(message: Message[int]) -> None:
            entered.set()
            await go_on.wait()
            seen.append(message.payload)

        await asyncio.gather(channel.join(), wire.accept())
        await wire.push("room:1", "n", 0)
        await entered.wait()
        await wire.send(*(push("room:1", "n", number) for number in range(1, 10)))
        await until(lambda: client.stats.received == 11)
        go_on.set()
        await until(lambda: len(seen) == 3)
        assert seen == [0, 8, 9]
        assert client.stats.dropped == 7
        assert client.stats.backlog == 0


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


async def test_the_policys_join_timeout_is_the_default() -> None:
    async with connected(options=replace(QUICK, join=JoinPolicy(timeout=0.02))) as (client, wire):
        with pytest.raises(JoinTimeout):
            await client.join("room:1")
        assert (await wire.expect("phx_join")).topic == "room:1"


async def test_a_joined_event_is_told_among_the_clients() -> None:
    async with connected() as (client, wire), client.events() as events:
        await asyncio.gather(client.join("room:1"), wire.accept(response=7))
        told = [await anext(events)]
        assert [(type(event), event.response) for event in told] == [(ChannelJoined, 7)]  # type: ignore[union-attr]
