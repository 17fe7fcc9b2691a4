"""A client inside an aiohttp application: it exists as long as the application, and `/health` reports its state.

    PHX_URL=ws://localhost:4000/socket python examples/frameworks/aiohttp_service.py 8000

aiohttp takes SIGTERM, and ends its cleanup contexts: the client closes gracefully there.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from math import inf
from typing import Any

from aiohttp import web

from phx_proto import ChannelState, Message, Router
from phx_transports.asyncio import Client, connect

TOPIC = "sim:1"
PHOENIX = web.AppKey("phoenix", Client)
router = Router()
latest: dict[str, Any] = {}


@router.on("balance", topic="sim:*")
async def save(message: Message[dict[str, int]]) -> None:
    latest[message.topic] = message.payload


async def phoenix(app: web.Application) -> AsyncIterator[None]:
    async with connect(os.environ["PHX_URL"], router=router, wait=False, drain_timeout=3.0) as client:
        app[PHOENIX] = client
        joining = asyncio.create_task(client.join(TOPIC, timeout=inf))
        yield
        joining.cancel()


async def balances(request: web.Request) -> web.Response:
    return web.json_response(latest)


async def health(request: web.Request) -> web.Response:
    client = request.app[PHOENIX]
    channel = client.channels.get(TOPIC)
    joined = channel is not None and channel.state is ChannelState.JOINED
    return web.json_response({"connection": client.state.value}, status=200 if joined else 503)


app = web.Application()
app.cleanup_ctx.append(phoenix)
app.add_routes([web.get("/", balances), web.get("/health", health)])

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))
