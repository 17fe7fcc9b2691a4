"""A client inside a FastAPI application: it exists as long as the application, and `/health` reports its state.

    PHX_URL=ws://localhost:4000/socket uvicorn --app-dir examples/frameworks fastapi_service:app

The web server takes SIGTERM, and ends the lifespan: the client closes gracefully there. It connects in the background,
so the application also works while its Phoenix server is down.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

from fastapi import FastAPI, Request, Response

from phx_proto import ChannelState, Message, Router
from phx_transports.asyncio import Client, connect

TOPIC = "sim:1"
router = Router()
latest: dict[str, Any] = {}


@router.on("balance", topic="sim:*")
async def save(message: Message[dict[str, int]]) -> None:
    latest[message.topic] = message.payload


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Client]]:
    async with connect(os.environ["PHX_URL"], router=router, wait=False, drain_timeout=3.0) as client:
        joining = asyncio.create_task(client.join(TOPIC, timeout=inf))
        yield {"phoenix": client}  # request.state.phoenix
        joining.cancel()


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def balances() -> dict[str, Any]:
    return latest


@app.get("/health")
async def health(request: Request, response: Response) -> dict[str, str]:
    client: Client = request.state.phoenix
    channel = client.channels.get(TOPIC)
    if channel is None or channel.state is not ChannelState.JOINED:  # also while the connection is away
        response.status_code = 503
    return {"connection": client.state.value, "channel": "none" if channel is None else channel.state.value}
