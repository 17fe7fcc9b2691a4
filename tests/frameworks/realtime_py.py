"""The official client of PyPI against the fake: `python realtime_py.py URL KEY`. Prints lines of JSON."""

import asyncio
import json
import sys
from typing import Any

from realtime import AsyncRealtimeClient  # type: ignore[import-not-found]


def say(*what: Any) -> None:
    print(json.dumps(what), flush=True)


async def main(url: str, key: str) -> None:
    came = asyncio.Event()

    def changed(payload: Any) -> None:
        say("row", payload["data"]["record"])
        came.set()

    client = AsyncRealtimeClient(url, key, auto_reconnect=False)
    config = {"broadcast": {"self": True, "ack": True}, "presence": {"key": "py"}}
    channel = client.channel("orders", {"config": config})
    channel.on_postgres_changes("INSERT", table="orders", schema="public", callback=changed)
    channel.on_broadcast("hello", lambda payload: say("broadcast", payload["payload"]))
    await channel.subscribe(lambda status, error: say("status", status.value, error and str(error)))
    await channel.send_broadcast("hello", {"from": "py"})
    await came.wait()
    await client.close()


asyncio.run(main(*sys.argv[1:]))
