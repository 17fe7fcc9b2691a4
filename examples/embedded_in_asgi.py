"""A client inside a web application, which it lives as long as, and whose signals it leaves alone.

    PHX_URL=ws://localhost:4000/socket uvicorn --app-dir examples embedded_in_asgi:app

The application needs no framework; with Starlette or FastAPI, give `lifespan=phoenix`. Without `run` the client takes
no signal: the web server ends the lifespan when it is told to stop, and the client closes gracefully there.
"""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from phx_proto import Message, Router
from phx_proto.errors import PhxError
from phx_transports.asyncio import connect

router = Router()
latest: dict[str, Any] = {}


@router.on("balance", topic="sim:*")
async def save(message: Message[dict[str, int]]) -> None:
    latest[message.topic] = message.payload


@asynccontextmanager
async def phoenix(app: object) -> AsyncIterator[None]:
    async with connect(os.environ["PHX_URL"], router=router, drain_timeout=3.0) as client:
        await client.join("sim:1")
        yield


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] == "lifespan":
        await live(receive, send)
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(latest).encode()})


async def live(receive: Any, send: Any) -> None:
    """What a framework does with `lifespan=phoenix`."""
    await receive()  # lifespan.startup
    try:
        async with phoenix(app):
            await send({"type": "lifespan.startup.complete"})
            await receive()  # lifespan.shutdown
    except PhxError as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        return
    await send({"type": "lifespan.shutdown.complete"})
