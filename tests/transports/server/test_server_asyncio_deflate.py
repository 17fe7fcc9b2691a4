"""permessage-deflate where a mount has it, and what may not inflate too much."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from phoenix_by_hand import OK, Application, Client, connected, serving
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from phx_transports.server import Host, ServerOptions

pytestmark = [pytest.mark.asyncio, pytest.mark.usefixtures("clean_loop")]

#: Deflated to some two thirds.
NOISE = random.Random(1).randbytes(30_000).hex()


@asynccontextmanager
async def deflating(host: Host = Host.BANDIT, **options: Any) -> AsyncIterator[tuple[Application, Client]]:
    """A client that offers compression, on a server that takes it."""
    application = Application(compress=True, options=ServerOptions(host=host), **options)
    async with serving(application) as (_, running), connected(running.url, compression="deflate") as client:
        yield application, client


def agreed(client: Client) -> list[str]:
    return [extension.name for extension in client.websocket.protocol.extensions]


async def test_a_client_that_offers_it_has_it() -> None:
    async with deflating() as (application, client):
        assert agreed(client) == ["permessage-deflate"]
        await client.join()
        for text in (NOISE, "", NOISE[:7]):
            reply = await client.ask("1", "2", "room:a", "echo", {"text": text})
            assert reply[4]["response"] == {"text": text}
            application.broadcast("room:a", "shout", {"text": text})
            assert (await client.next())[4] == {"text": text}


async def test_a_client_that_does_not_offer_it_has_none_and_gets_the_same_broadcasts() -> None:
    async with deflating() as (application, client), connected(application.url, compression=None) as plain:
        assert agreed(plain) == []
        await client.join()
        await plain.join()
        application.broadcast("room:a", "shout", {"text": NOISE})
        assert await client.next() == await plain.next()


async def test_a_mount_has_none_by_default() -> None:
    application = Application(compress=True)
    application.mount("/plain")
    async with serving(application) as (_, running):
        plain = running.url.removesuffix("/socket") + "/plain"
        async with connected(plain, compression="deflate") as client:
            assert agreed(client) == []


@pytest.mark.parametrize("context", [False, True])
async def test_what_is_agreed_on_in_detail_is_kept(*, context: bool) -> None:
    offer = ClientPerMessageDeflateFactory(
        server_no_context_takeover=not context, client_no_context_takeover=not context, client_max_window_bits=True
    )
    application = Application(compress=True)
    async with serving(application) as (_, running), connected(running.url, extensions=[offer]) as client:
        await client.join()
        for _ in range(3):
            assert (await client.ask("1", "2", "room:a", "echo", {"text": NOISE}))[4]["response"] == {"text": NOISE}


def heartbeat(text: str) -> str:
    return json.dumps([None, "1", "phoenix", "heartbeat", text])


@pytest.mark.parametrize("parts", [1, 3])
async def test_bandit_closes_at_a_message_that_inflates_to_over_25_times_its_size(parts: int) -> None:
    async with deflating() as (_, client):
        text = heartbeat("x" * 30_000)
        size = len(text) // parts + 1
        await client.websocket.send([text[at : at + size] for at in range(0, len(text), size)])
        assert await client.closed() == 1009
        assert client.websocket.close_reason == ""


async def test_cowboy_takes_it() -> None:
    async with deflating(Host.COWBOY) as (_, client):
        await client.websocket.send(heartbeat("x" * 30_000))
        assert await client.next() == [None, "1", "phoenix", "phx_reply", OK]


@pytest.mark.parametrize("host", list(Host))
async def test_the_largest_message_is_so_when_inflated(host: Host) -> None:
    async with deflating(host, max_size=40_000) as (_, client):
        await client.websocket.send(heartbeat(NOISE[:30_000]))
        assert await client.next() == [None, "1", "phoenix", "phx_reply", OK]
        await client.websocket.send(heartbeat(NOISE))
        assert await client.closed() == 1009
