"""Follow topics of a Phoenix server, with a typed handler, until Ctrl+C.

    python examples/balances.py ws://localhost:4000/socket sim:8944501 sim:8944502

Any server that sends `balance` events will do; examples/balances_server.py is one.
"""

import asyncio
import sys

import msgspec

from phx_proto import Message, Router
from phx_transports.asyncio import connect


class Balance(msgspec.Struct):
    cents: int


router = Router()


@router.on("balance", topic="sim:*", payload=Balance)
async def show(message: Message[Balance]) -> None:
    print(f"{message.topic} has {message.payload.cents / 100:.2f}", flush=True)


async def main(url: str, *topics: str) -> None:
    async with connect(url, router=router) as client:
        await asyncio.gather(*map(client.join, topics))
        await client.run()  # reconnects and rejoins as long as it takes


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
