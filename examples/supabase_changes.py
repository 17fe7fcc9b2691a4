"""Supabase Realtime: rows that change, broadcasts, and an access token that is renewed.

    export SUPABASE_URL=wss://PROJECT.supabase.co/realtime/v1 SUPABASE_KEY=… SUPABASE_TOKEN=…
    python examples/supabase_changes.py

A topic is `realtime:` and a name of yours; what the channel is to bring stands in the join's `config`. The token is
read again at every join, and sent while joined when it was renewed: see `renew`.
"""

import asyncio
import os
from typing import Any

import msgspec

from phx_proto import V1, Message, Router, Serializer
from phx_transports.asyncio import Channel, connect


class Change(msgspec.Struct):
    """What `postgres_changes` says of a row. Of an UPDATE and a DELETE there is `old_record`, too."""

    table: str
    type: str  # INSERT, UPDATE or DELETE
    record: dict[str, Any] = {}
    old_record: dict[str, Any] = {}


class Changed(msgspec.Struct):
    data: Change


class Broadcast(msgspec.Struct):
    event: str
    payload: Any


class System(msgspec.Struct):
    status: str
    message: str


router = Router()


@router.on("postgres_changes", topic="realtime:*")
async def changed(message: Message[Changed]) -> None:
    print(message.payload.data.type, message.payload.data.table, message.payload.data.record, flush=True)


@router.on("broadcast", topic="realtime:*")
async def broadcasted(message: Message[Broadcast]) -> None:
    print(message.payload.event, message.payload.payload, flush=True)


@router.on("system", topic="realtime:*")
async def told(message: Message[System]) -> None:
    print(message.payload.status, message.payload.message, flush=True)


def config(*tables: str, private: bool = False) -> dict[str, Any]:
    """What a channel is to bring: all changes of tables, and broadcasts of others, acknowledged."""
    return {
        "broadcast": {"ack": True, "self": False},
        "presence": {"key": "", "enabled": False},
        "postgres_changes": [{"event": "*", "schema": "public", "table": table} for table in tables],
        "private": private,
    }


async def renew(channel: Channel, token: str) -> None:
    """Let a channel that is joined go on with a new token; the server answers nothing."""
    await channel.cast("access_token", {"access_token": token})


async def main(url: str, key: str, token: str, *, serializer: Serializer | None = None) -> None:
    serializer = serializer or V1()
    async with connect(url, params={"apikey": key}, router=router, serializer=serializer) as client:
        params = {"config": config("orders", private=True), "access_token": token}
        orders = await client.join("realtime:orders", params)
        await orders.push("broadcast", {"type": "broadcast", "event": "hello", "payload": {"from": "Python"}})
        await client.run()


if __name__ == "__main__":
    asyncio.run(main(os.environ["SUPABASE_URL"], os.environ["SUPABASE_KEY"], os.environ["SUPABASE_TOKEN"]))
