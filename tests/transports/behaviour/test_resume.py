"""Resuming, over every adapter: lost messages come again, handled ones do not."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from peer import push
from serving_in_thread import LONG, Flag, Peer, Wire, serving, start, until

from phx_proto.message import Message
from phx_proto.resume import Resume

from .adapters import Adapter
from .faces import Channel, Handlers
from .shared import in_every_way

TOPIC = "sim:1"
WAYS: list[str | Callable[[Message[Any]], Any]] = ["id", lambda message: message.payload["id"]]


@contextmanager
def resumed(
    adapter: Adapter, handlers: Handlers, by: str | Callable[[Message[Any]], Any]
) -> Iterator[tuple[Peer, Channel, Wire]]:
    with serving() as peer:
        client = adapter.dial(peer, router=handlers)
        wire = peer.wire()
        joining = start(client.join, TOPIC, {"name": "ann"}, resume=Resume(by=by, param="since", start=0))
        assert wire.accept(TOPIC).payload == {"name": "ann", "since": 0}
        try:
            yield peer, joining.result(LONG), wire
        finally:
            client.abort()


def is_handled(channel: Channel, count: int) -> bool:
    return channel.client.stats.handled == count


@in_every_way
@pytest.mark.parametrize("by", WAYS, ids=["field", "function"])
def test_what_is_lost_at_a_cut_is_given_again_and_what_was_handled_is_not(adapter: Adapter, by: Any) -> None:
    handlers, seen = adapter.handlers(), list[int]()
    handlers.add(lambda message: seen.append(message.payload["id"]), "charged")
    history = list(range(1, 7))
    with resumed(adapter, handlers, by) as (peer, channel, wire):
        for cut_after in (2, 4, 6):
            for number in history[len(seen) : cut_after]:
                wire.push(TOPIC, "charged", {"id": number})
            until(partial(is_handled, channel, cut_after))
            wire.cut()  # the next one is lost with the connection
            wire = peer.wire()
            assert wire.accept(TOPIC).payload == {"name": "ann", "since": cut_after}
        assert seen == history
        assert channel.last_seen == 6


@in_every_way
@pytest.mark.parametrize("concurrency", [None, 1, 2])
def test_a_message_in_hand_and_those_behind_it_are_asked_for_again_and_none_before(
    adapter: Adapter, concurrency: int | None
) -> None:
    handlers, begun, go_on = adapter.handlers(), Flag(), Flag()

    @handlers.on("charged", concurrency=concurrency)
    def charged(message: Message[Any]) -> None:
        if message.payload["id"] == 30:
            begun.set()
            adapter.wait(go_on)

    with resumed(adapter, handlers, "id") as (peer, channel, wire):
        wire.send(*(push(TOPIC, "charged", {"id": number}) for number in range(1, 31)))
        begun.wait()
        until(lambda: channel.client.stats.handled == 29)
        wire.send(*(push(TOPIC, "charged", {"id": number}) for number in range(31, 41)))
        wire.cut()
        assert peer.wire().accept(TOPIC).payload["since"] == 29
        go_on.set()
        handled = channel.client.stats.delivered
        until(lambda: channel.client.stats.handled == handled)
        assert channel.last_seen == handled


@in_every_way
def test_a_message_that_a_stream_has_read_was_handled(adapter: Adapter) -> None:
    with resumed(adapter, adapter.handlers(), "id") as (peer, channel, wire), channel.messages() as messages:
        for number in (1, 2):
            wire.push(TOPIC, "charged", {"id": number})
        until(lambda: channel.client.stats.delivered == 2)
        assert next(messages).payload == {"id": 1}
        wire.cut()
        assert peer.wire().accept(TOPIC).payload["since"] == 1
