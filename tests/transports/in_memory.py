"""Clients that have joined a topic of the kit's `Peer`: for tests that need no socket."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from phx_transports import asyncio, threads
from phx_transports.testing import Peer

TOPIC = "room:lobby"


@asynccontextmanager
async def on_asyncio(peer: Peer, **options: Any) -> AsyncIterator[asyncio.Channel]:
    """A channel of a client on asyncio, which ends without ceremony."""
    peer.allow_join(TOPIC)
    client = await asyncio.connect(peer.url, transport=peer, **options)
    try:
        yield await client.join(TOPIC)
    finally:
        await client.abort()


@contextmanager
def on_threads(peer: Peer, **options: Any) -> Iterator[threads.Channel]:
    """A channel of a client on threads, which ends without ceremony."""
    peer.allow_join(TOPIC)
    client = threads.connect(peer.url, transport=peer, **options)
    try:
        yield client.join(TOPIC)
    finally:
        client.abort()


def send_numbers(peer: Peer, count: int) -> None:
    """Messages that carry 0, 1, 2 …"""
    for number in range(count):
        peer.push(TOPIC, "n", number)
