"""`Peer` against the client on threads, unchanged: `connect(url, transport=peer)`."""

import threading
from math import inf
from typing import Any

import pytest

from phx_proto.errors import (
    ConnectionClosed,
    ConnectTimeout,
    HandshakeRefused,
    JoinRefused,
    JoinTimeout,
    PushLost,
    PushTimeout,
)
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.states import ChannelState
from phx_transports.testing import Peer, UnexpectedConversation, background
from phx_transports.threads import Channel, Client, connect

LOBBY = "room:lobby"
PATIENCE = 30.0


def joined(peer: Peer, client: Client) -> Channel:
    peer.allow_join(LOBBY)
    return client.join(LOBBY)


def test_a_join_is_answered(phx_peer: Peer) -> None:
    phx_peer.expect_join(LOBBY, {"since": 7}).reply({"ok": 1})
    with connect(phx_peer.url, transport=phx_peer) as client:
        assert client.channel(LOBBY, {"since": 7}).join() == {"ok": 1}


def test_a_join_is_refused(phx_peer: Peer) -> None:
    phx_peer.expect_join(LOBBY).refuse({"reason": "full"})
    with connect(phx_peer.url, transport=phx_peer) as client, pytest.raises(JoinRefused):
        client.join(LOBBY)


def test_a_refused_connect_is_raised(phx_peer: Peer) -> None:
    phx_peer.refuse_connect(403)
    with pytest.raises(HandshakeRefused):
        connect(phx_peer.url, transport=phx_peer)


def test_a_connect_that_blocks_the_test_comes_about_when_the_time_passes_by_itself(phx_peer: Peer) -> None:
    phx_peer.fail_connect(advance=1)
    phx_peer.refuse_connect(503, times=2, advance=1)
    with connect(phx_peer.url, transport=phx_peer):
        assert len(phx_peer.connections) == 4


def test_a_connect_that_blocks_the_test_gives_up_when_the_time_passes_by_itself(phx_peer: Peer) -> None:
    phx_peer.hold_connect(advance=10)
    with pytest.raises(ConnectTimeout):
        connect(phx_peer.url, transport=phx_peer)


def test_a_handler_runs_on_a_thread_of_the_client(phx_peer: Peer) -> None:
    router, ran = Router(), list[int]()
    router.add(lambda message: ran.append(threading.get_ident()), "tick")
    with connect(phx_peer.url, transport=phx_peer, router=router) as client:
        joined(phx_peer, client)
        phx_peer.push(LOBBY, "tick")
        phx_peer.settle()
        assert len(ran) == 1
        assert ran[0] != threading.get_ident()


def test_a_handler_may_push_and_wait_for_the_reply(phx_peer: Peer) -> None:
    router, replies = Router(), list[Any]()

    @router.on("tick")
    def save(message: Message[Any], channel: Channel) -> None:
        replies.append(channel.push("save", message.payload).response)

    with connect(phx_peer.url, transport=phx_peer, router=router) as client:
        joined(phx_peer, client)
        phx_peer.expect_push(LOBBY, "save", {"n": 1}).reply({"id": 7})
        phx_peer.push(LOBBY, "tick", {"n": 1})
        phx_peer.settle()
        assert replies == [{"id": 7}]


def test_the_test_plays_the_peer_while_another_thread_waits(phx_peer: Peer) -> None:
    with connect(phx_peer.url, transport=phx_peer) as client:
        pushing = background(joined(phx_peer, client).push, "shout", {"body": "hi"})
        push = phx_peer.expect_push(LOBBY, "shout").wait()
        assert push.payload == {"body": "hi"}
        push.reply({"id": 7})
        assert pushing.result(PATIENCE).response == {"id": 7}


def test_a_push_times_out_when_the_clock_says_so(phx_peer: Peer) -> None:
    with connect(phx_peer.url, transport=phx_peer) as client:
        pushing = background(joined(phx_peer, client).push, "shout", timeout=5.0)
        phx_peer.expect_push(LOBBY, "shout").wait()
        phx_peer.clock.advance(5)
        with pytest.raises(PushTimeout):
            pushing.result(PATIENCE)


def test_a_join_that_blocks_the_test_gives_up_when_the_time_passes_by_itself(phx_peer: Peer) -> None:
    phx_peer.expect_join(LOBBY).ignore(advance=10)
    with connect(phx_peer.url, transport=phx_peer) as client, pytest.raises(JoinTimeout):
        client.join(LOBBY)
    assert phx_peer.clock.now() == 10


def test_a_push_that_blocks_the_test_gives_up_while_heartbeats_are_answered(phx_peer: Peer) -> None:
    with connect(phx_peer.url, transport=phx_peer) as client:
        channel = joined(phx_peer, client)
        phx_peer.expect_push(LOBBY, "shout").ignore(advance=300)
        with pytest.raises(PushTimeout):
            channel.push("shout", timeout=300)
        assert len(phx_peer.connections) == 1


def test_a_handlers_push_gives_up_when_the_time_passes_by_itself(phx_peer: Peer) -> None:
    router, errors = Router(), list[Exception]()

    @router.on("tick")
    def save(message: Message[Any], channel: Channel) -> None:
        try:
            channel.push("save", timeout=5.0)
        except PushTimeout as error:
            errors.append(error)

    with connect(phx_peer.url, transport=phx_peer, router=router) as client:
        joined(phx_peer, client)
        phx_peer.expect_push(LOBBY, "save").ignore(advance=5)
        phx_peer.push(LOBBY, "tick")
        phx_peer.settle()
        assert len(errors) == 1


def test_a_push_is_lost_with_its_connection(phx_peer: Peer) -> None:
    with connect(phx_peer.url, transport=phx_peer) as client:
        pushing = background(joined(phx_peer, client).push, "shout")
        phx_peer.expect_push(LOBBY, "shout").wait()
        phx_peer.cut()
        with pytest.raises(PushLost):
            pushing.result(PATIENCE)


def test_a_lost_connection_comes_back_while_the_time_advances(phx_peer: Peer) -> None:
    with connect(phx_peer.url, transport=phx_peer, params=lambda: {"user": "ann"}) as client:
        channel = joined(phx_peer, client)
        phx_peer.cut()
        phx_peer.refuse_connect(503, times=3)
        phx_peer.clock.advance(1)
        assert channel.state is ChannelState.JOINED
        assert len(phx_peer.connections) == 5


def test_messages_are_read_one_after_another(phx_peer: Peer) -> None:
    with connect(phx_peer.url, transport=phx_peer) as client, joined(phx_peer, client).messages() as messages:
        phx_peer.push(LOBBY, "one")
        phx_peer.push(LOBBY, "two")
        assert [next(iter(messages)).event for _ in range(2)] == ["one", "two"]


def test_what_is_not_handled_in_time_fails_the_test(phx_peer: Peer) -> None:
    with connect(phx_peer.url, transport=phx_peer) as client, joined(phx_peer, client).messages():
        phx_peer.push(LOBBY, "one")
        with pytest.raises(UnexpectedConversation) as failure:
            phx_peer.settle(timeout=0.01)
    assert str(failure.value).startswith(
        "Messages that arrived are not handled: 1.\n"
        "  what waits in a stream counts until it is read\n"
        "The conversation:\n"
    )


def test_a_handler_that_waits_for_a_reply_which_nobody_gives_is_named_with_its_push(phx_peer: Peer) -> None:
    router = Router()

    @router.on("low")
    def top_up(message: Message[Any], channel: Channel) -> None:
        channel.push("top_up")

    client = connect(phx_peer.url, transport=phx_peer, router=router)
    joined(phx_peer, client)
    phx_peer.push(LOBBY, "low")
    with pytest.raises(UnexpectedConversation) as failure:
        phx_peer.settle(timeout=inf)
    assert f'{top_up.__qualname__} is at work on "room:lobby"\n  nobody answers the push "top_up"' in str(failure.value)
    phx_peer.allow_push(LOBBY, "top_*")
    phx_peer.settle()
    client.close()


def test_what_a_client_left_when_it_ended_is_not_waited_for(phx_peer: Peer) -> None:
    router = Router()

    @router.on("tick")
    def fail(message: Message[Any]) -> None:
        raise KeyError("id")

    client = connect(phx_peer.url, transport=phx_peer, router=router, fail_fast=True)
    joined(phx_peer, client)
    phx_peer.push(LOBBY, "tick")
    phx_peer.settle(timeout=5)
    assert isinstance(client.error, KeyError)


def test_a_client_that_runs_ends_when_it_is_stopped(phx_peer: Peer) -> None:
    client = connect(phx_peer.url, transport=phx_peer)
    joined(phx_peer, client)
    running = background(client.wait_closed)
    client.stop()
    running.result(PATIENCE)
    assert not phx_peer.connected


def test_a_client_that_the_server_refuses_for_good_ends_with_the_reason(phx_peer: Peer) -> None:
    client = connect(phx_peer.url, transport=phx_peer)
    phx_peer.cut()
    phx_peer.refuse_connect(401)
    phx_peer.clock.advance(1)
    with pytest.raises(HandshakeRefused):
        client.wait_closed()


def test_a_handlers_error_can_end_the_client(phx_peer: Peer) -> None:
    router = Router()

    @router.on("tick")
    def fail(message: Message[Any]) -> None:
        raise KeyError("id")

    client = connect(phx_peer.url, transport=phx_peer, router=router, fail_fast=True)
    joined(phx_peer, client)
    phx_peer.push(LOBBY, "tick")
    with pytest.raises(KeyError):
        client.wait_closed()


def test_a_call_that_nobody_will_answer_ends_after_the_peers_patience() -> None:
    peer = Peer(patience=0.05)
    client = connect(peer.url, transport=peer)
    with pytest.raises(ConnectionClosed):
        client.join(LOBBY)
    with pytest.raises(UnexpectedConversation, match="Nobody answered what the client waits for"):
        client.wait_closed()
    peer.end()


def test_params_that_cannot_be_read_end_after_the_peers_patience() -> None:
    def params() -> dict[str, str]:
        raise KeyError("user")

    peer = Peer(patience=0.05)
    client = connect(peer.url, transport=peer)
    with pytest.raises(ConnectionClosed):
        client.join(LOBBY, params)
    with pytest.raises(UnexpectedConversation) as failure:
        client.wait_closed()
    assert str(failure.value).startswith(
        "A callable that gives params or a token raised, or did not return. "
        "The client tries again when the clock has moved, and nobody moves it.\nThe conversation:\n"
    )
    assert "note  there are no params, or no token: the client is ended" in str(peer.transcript)


@pytest.mark.parametrize("door", ["fail_connect", "hold_connect"])
def test_a_connect_that_would_wait_for_ever_ends_after_the_peers_patience(door: str) -> None:
    peer = Peer(patience=0.05)
    getattr(peer, door)()
    with pytest.raises(UnexpectedConversation, match="There is no connection"):
        connect(peer.url, transport=peer)


def test_time_that_passes_by_itself_does_so_once_for_each_attempt(phx_peer: Peer) -> None:
    phx_peer.fail_connect(times=200, advance=5)
    with connect(phx_peer.url, transport=phx_peer, timeout=inf):
        assert len(phx_peer.connections) == 201
    assert phx_peer.clock.now() == 200 * 5
