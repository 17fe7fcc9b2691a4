"""What a type checker is to say of a channel's handlers, streams and replies, awaited or not. See `registration.py`."""

# pyright: strict, reportUnnecessaryTypeIgnoreComment=true, reportUnusedFunction=false

from typing import Any, assert_type

import msgspec

from phx_proto import Message, Reply
from phx_proto.events import ChannelEvent
from phx_transports import asyncio, threads


class Balance(msgspec.Struct):
    amount: int


def save(message: Message[Balance], channel: Any) -> None: ...


def registered(awaited: asyncio.Channel, blocking: threads.Channel) -> None:
    awaited.add(save, "balance", payload=Balance)
    blocking.add(save, "balance")
    awaited.add(save, "balance", payload=int)  # type: ignore[arg-type]
    blocking.add(save, "balance", payload=int)  # type: ignore[arg-type]

    @awaited.on("balance", payload=Balance)
    async def keep(message: Message[Balance]) -> int:
        return message.payload.amount

    @awaited.on("balance", payload=int)  # type: ignore[arg-type]
    async def awaited_misfit(message: Message[Balance]) -> None: ...

    @blocking.on("balance", payload=int)  # type: ignore[arg-type]
    def blocking_misfit(message: Message[Balance]) -> None: ...


async def awaited(channel: asyncio.Channel) -> None:
    async with channel.messages("balance", payload=Balance) as balances:
        assert_type(balances, asyncio.MessageStream[Message[Balance]])
        async for balance in balances:
            assert_type(balance.payload, Balance)
    assert_type(channel.messages(), asyncio.MessageStream[Message[Any]])
    assert_type(channel.stream(payload=Balance), asyncio.MessageStream[Message[Balance] | ChannelEvent])
    assert_type(await channel.wait_for("balance"), Message[Any])
    balance = await channel.wait_for("balance", lambda message: message.payload.amount > 0, payload=Balance)
    assert_type(balance, Message[Balance])
    channel.messages("balance", payload="Balance")  # type: ignore[arg-type]

    assert_type(await channel.join(response=Balance), Balance)
    assert_type(await channel.join(), Any)
    assert_type(await channel.push("get"), Reply)
    assert_type((await channel.push("get", response=Balance)).response, Balance)
    assert_type((await channel.push("get", response=dict[str, int])).response, dict[str, int])
    assert_type((await channel.push("get", response=Balance, check=False)).response, Any)


def blocking(channel: threads.Channel) -> None:
    with channel.messages("balance", payload=Balance) as balances:
        assert_type(balances, threads.MessageStream[Message[Balance]])
        for balance in balances:
            assert_type(balance.payload, Balance)
    assert_type(channel.messages(), threads.MessageStream[Message[Any]])
    assert_type(channel.stream(payload=Balance), threads.MessageStream[Message[Balance] | ChannelEvent])
    assert_type(channel.wait_for("balance"), Message[Any])
    balance = channel.wait_for("balance", lambda message: message.payload.amount > 0, payload=Balance)
    assert_type(balance, Message[Balance])
    channel.messages("balance", payload="Balance")  # type: ignore[arg-type]

    assert_type(channel.join(response=Balance), Balance)
    assert_type(channel.join(), Any)
    assert_type(channel.push("get"), Reply)
    assert_type(channel.push("get", response=Balance).response, Balance)
    assert_type(channel.push("get", response=dict[str, int]).response, dict[str, int])
    assert_type(channel.push("get", response=Balance, check=False).response, Any)
