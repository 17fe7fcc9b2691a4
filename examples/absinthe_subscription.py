"""A GraphQL subscription of Absinthe, at the socket that uses `Absinthe.Phoenix.Socket`.

    python examples/absinthe_subscription.py ws://localhost:4000/socket 7

Documents are pushed on one channel, `__absinthe__:control`. The answer to a subscription is an id, and its data comes
as `subscription:data` on a topic of that name, which nobody joins: hence `unjoined=True`. A subscription ends with the
connection, so it is asked for again after each rejoin.
"""

import asyncio
import sys
from typing import Any

import msgspec

from phx_proto import Message, Router
from phx_proto.events import ChannelJoined
from phx_transports.asyncio import Channel, connect

CONTROL = "__absinthe__:control"
DOCUMENT = "subscription ($room: ID!) { messageAdded(room: $room) { body } }"


class Data(msgspec.Struct):
    result: dict[str, Any]  # {"data": …}, or {"errors": …}
    subscriptionId: str  # noqa: N815 - as it is on the wire


router = Router()


@router.on("subscription:data", topic="__absinthe__:doc:*", unjoined=True)
async def received(message: Message[Data]) -> None:
    print(message.payload.result["data"], flush=True)


async def run(channel: Channel, document: str, variables: dict[str, Any]) -> Any:
    """A query or a mutation gives its data, a subscription its id. Errors in the document raise `PushRejected`."""
    return (await channel.push("doc", {"query": document, "variables": variables})).response


async def unsubscribe(channel: Channel, subscription: str) -> None:
    await channel.push("unsubscribe", {"subscriptionId": subscription})


async def main(url: str, room: str) -> None:
    async with connect(url, router=router) as client:
        control = client.channel(CONTROL)
        async with control.stream() as life:
            await control.join()
            async for event in life:  # until the client is closed
                if isinstance(event, ChannelJoined):
                    await run(control, DOCUMENT, {"room": room})


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
