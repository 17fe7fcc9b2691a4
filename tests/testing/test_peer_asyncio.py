"""`Peer` against the client on asyncio, unchanged: `connect(url, transport=peer)`."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import pytest

from phx_proto.errors import ConnectionClosed, HandshakeRefused, JoinRefused, JoinTimeout, PushRejected, PushTimeout
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.states import ChannelState
from phx_transports.asyncio import Channel, connect
from phx_transports.testing import Peer, UnexpectedConversation

pytestmark = pytest.mark.asyncio

LOBBY = "room:lobby"


@asynccontextmanager
async def joined(peer: Peer, **options: Any) -> AsyncIterator[Channel]:
    """The lobby, joined by a client."""
    peer.allow_join(LOBBY)
    async with connect(peer.url, transport=peer, **options) as client:
        yield await client.join(LOBBY)


async def test_a_join_is_answered(phx_peer: Peer) -> None:
    phx_peer.expect_join(LOBBY, {"since": 7}).reply({"ok": 1})
    async with connect(phx_peer.url, transport=phx_peer) as client:
        assert await client.channel(LOBBY, {"since": 7}).join() == {"ok": 1}


async def test_a_join_is_refused(phx_peer: Peer) -> None:
    phx_peer.expect_join(LOBBY).refuse({"reason": "full"})
    async with connect(phx_peer.url, transport=phx_peer) as client:
        with pytest.raises(JoinRefused):
            await client.join(LOBBY)


async def test_a_join_times_out_when_the_clock_says_so(phx_peer: Peer) -> None:
    phx_peer.expect_join(LOBBY).ignore()
    async with connect(phx_peer.url, transport=phx_peer) as client:
        joining = asyncio.create_task(client.join(LOBBY))
        await phx_peer.settled()
        phx_peer.clock.advance(10)
        with pytest.raises(JoinTimeout):
            await joining


async def test_a_refused_connect_is_raised(phx_peer: Peer) -> None:
    phx_peer.refuse_connect(401)
    with pytest.raises(HandshakeRefused):
        await connect(phx_peer.url, transport=phx_peer)


async def test_a_connect_comes_about_when_the_time_passes_by_itself(phx_peer: Peer) -> None:
    phx_peer.fail_connect(times=2, advance=1)
    async with connect(phx_peer.url, transport=phx_peer):
        assert len(phx_peer.connections) == 3


async def test_a_coroutine_handler_runs_on_the_loop_and_a_plain_one_in_the_executor(phx_peer: Peer) -> None:
    router, ran = Router(), list[str]()

    @router.on("tick")
    async def on_loop(message: Message[Any]) -> None:
        assert asyncio.get_running_loop()
        ran.append("loop")

    @router.on("tick")
    def in_executor(message: Message[Any]) -> None:
        with pytest.raises(RuntimeError):
            asyncio.get_running_loop()
        ran.append("executor")

    async with joined(phx_peer, router=router):
        phx_peer.push(LOBBY, "tick")
        await phx_peer.settled()
        assert sorted(ran) == ["executor", "loop"]


async def test_a_handler_may_push_and_wait_for_the_reply(phx_peer: Peer) -> None:
    router, replies = Router(), list[Any]()

    @router.on("tick")
    async def save(message: Message[Any], channel: Channel) -> None:
        replies.append((await channel.push("save", message.payload)).response)

    phx_peer.expect_push(LOBBY, "save", {"n": 1}).reply({"id": 7})
    async with joined(phx_peer, router=router):
        phx_peer.push(LOBBY, "tick", {"n": 1})
        await phx_peer.settled()
        assert replies == [{"id": 7}]


async def test_a_push_is_waited_for_and_answered_by_the_test(phx_peer: Peer) -> None:
    async with joined(phx_peer) as channel:
        pushing = asyncio.create_task(channel.push("shout", {"body": "hi"}))
        push = await phx_peer.expect_push(LOBBY, "shout").arrival()
        assert push.payload == {"body": "hi"}
        push.refuse({"reason": "rude"})
        with pytest.raises(PushRejected, match="rude"):
            await pushing


async def test_a_push_times_out_when_the_clock_says_so(phx_peer: Peer) -> None:
    async with joined(phx_peer) as channel:
        pushing = asyncio.create_task(channel.push("shout", timeout=5.0))
        await phx_peer.expect_push(LOBBY, "shout").arrival()
        phx_peer.clock.advance(5)
        with pytest.raises(PushTimeout):
            await pushing


async def test_waiting_for_an_event_times_out_when_the_clock_says_so(phx_peer: Peer) -> None:
    async with joined(phx_peer) as channel:
        waiting = asyncio.create_task(channel.wait_for("news", timeout=5.0))
        await phx_peer.settled()
        phx_peer.clock.advance(5)
        with pytest.raises(TimeoutError):
            await waiting


async def test_a_lost_connection_comes_back_while_the_time_elapses(phx_peer: Peer) -> None:
    async def params() -> dict[str, str]:
        return {"user": "ann"}

    async with joined(phx_peer, params=params) as channel:
        phx_peer.cut()
        phx_peer.refuse_connect(503, times=3)
        await phx_peer.clock.elapse(1)
        assert channel.state is ChannelState.JOINED
        assert len(phx_peer.connections) == 5


async def test_params_that_never_come_end_with_the_client(phx_peer: Peer) -> None:
    async def params() -> dict[str, str]:
        await asyncio.Event().wait()
        return {}

    connecting = asyncio.ensure_future(_connected(phx_peer, params))
    await phx_peer.settled()
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def _connected(peer: Peer, params: Any) -> None:
    await connect(peer.url, transport=peer, params=params)


async def test_messages_are_read_one_after_another(phx_peer: Peer) -> None:
    async with joined(phx_peer) as channel, channel.messages() as messages:
        phx_peer.push(LOBBY, "one")
        phx_peer.push(LOBBY, "two")
        assert [(await anext(aiter(messages))).event for _ in range(2)] == ["one", "two"]


async def test_a_closed_channel_ends_its_reader_with_an_error_that_names_the_topic(phx_peer: Peer) -> None:
    async with joined(phx_peer) as channel, channel.messages() as messages:
        phx_peer.close_channel(LOBBY)
        with pytest.raises(Exception, match=LOBBY):
            await anext(aiter(messages))


async def test_what_is_not_handled_in_time_fails_the_test(phx_peer: Peer) -> None:
    async with joined(phx_peer) as channel, channel.messages():
        phx_peer.push(LOBBY, "one")
        with pytest.raises(UnexpectedConversation) as failure:
            await phx_peer.settled(timeout=0.01)
    assert str(failure.value).startswith(
        "Messages that arrived are not handled: 1.\n"
        "  what waits in a stream counts until it is read\n"
        "The conversation:\n"
    )


async def test_a_handler_that_waits_for_a_reply_which_nobody_gives_is_named_with_its_push() -> None:
    peer = Peer()
    router = Router()

    @router.on("low")
    async def top_up(message: Message[Any], channel: Channel) -> None:
        await channel.push("top_up", {"cents": 7})

    peer.allow_join(LOBBY)
    client = await connect(peer.url, transport=peer, router=router)
    await client.join(LOBBY)
    peer.push(LOBBY, "low")
    with pytest.raises(UnexpectedConversation) as failure:
        await peer.settled(timeout=inf)
    await client.abort()
    words, _, _ = str(failure.value).partition("The conversation:")
    assert words.splitlines() == [
        "Messages that arrived are not handled: 1.",
        f'  {top_up.__module__}.{top_up.__qualname__} is at work on "room:lobby"',
        '  nobody answers the push "top_up" on "room:lobby" {"cents":7}',
        "Came, and was not expected:",
        '  push "top_up" on "room:lobby" {"cents":7}',
    ]


async def test_a_handler_that_takes_its_time_is_waited_for(phx_peer: Peer) -> None:
    router, done = Router(), list[str]()

    @router.on("tick")
    async def work(message: Message[Any]) -> None:
        await asyncio.sleep(0.4)
        done.append(message.event)

    async with joined(phx_peer, router=router):
        phx_peer.push(LOBBY, "tick")
        await phx_peer.settled()
    assert done == ["tick"]


async def test_what_is_waited_for_in_vain_fails_the_test() -> None:
    with pytest.raises(UnexpectedConversation, match='The join of "room:lobby" did not come'):
        await Peer().expect_join(LOBBY).arrival(timeout=0.01)


async def test_what_a_client_left_when_it_ended_is_not_waited_for(phx_peer: Peer) -> None:
    router = Router()

    @router.on("tick")
    async def hang(message: Message[Any]) -> None:
        await asyncio.Event().wait()

    phx_peer.allow_join(LOBBY)
    async with connect(phx_peer.url, transport=phx_peer, router=router) as client:
        await client.join(LOBBY)
        phx_peer.push(LOBBY, "tick")
        phx_peer.push(LOBBY, "tick")
        await client.abort()
        await phx_peer.settled(timeout=1)


async def test_two_clients_get_a_broadcast(phx_peer: Peer) -> None:
    router, heard = Router(), list[str]()

    @router.on("news")
    async def hear(message: Message[Any]) -> None:
        heard.append(message.topic)

    phx_peer.allow_join(LOBBY)
    async with (
        connect(phx_peer.url, transport=phx_peer, router=router) as one,
        connect(phx_peer.url, transport=phx_peer, router=router) as other,
    ):
        await one.join(LOBBY)
        await other.join(LOBBY)
        phx_peer.broadcast(LOBBY, "news")
        await phx_peer.settled()
        assert heard == [LOBBY, LOBBY]


async def test_a_call_that_nobody_will_answer_ends_after_the_peers_patience() -> None:
    peer = Peer(patience=0.05)
    client = await connect(peer.url, transport=peer)
    with pytest.raises(ConnectionClosed):
        await client.join(LOBBY)
    with pytest.raises(UnexpectedConversation) as failure:
        await client.wait_closed()
    assert str(failure.value).startswith(
        "Nobody answered what the client waits for.\nCame, and was not expected:\n"
        '  join of "room:lobby" {}\nThe conversation:\n'
    )


async def test_params_that_cannot_be_read_end_after_the_peers_patience() -> None:
    async def params() -> dict[str, str]:
        raise KeyError("user")

    peer = Peer(patience=0.05)
    client = await connect(peer.url, transport=peer)
    with pytest.raises(ConnectionClosed):
        await client.join(LOBBY, params)
    with pytest.raises(UnexpectedConversation, match="A callable that gives params or a token raised"):
        await client.wait_closed()
