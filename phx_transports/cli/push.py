"""`phx push`: one event to one topic, and its reply on stdout."""

import argparse
import asyncio
import sys
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from phx_proto import PhxError
from phx_proto.errors import ConnectError, LocalError, PushTimeout

from .arguments import built, json_value
from .printer import printed
from .target import Target, say

_DRAIN: Final = 2.0  # seconds for closing


class Code(IntEnum):
    """What the exit code says."""

    OK = 0
    FAILED = 1
    MISUSED = 2
    NOT_OK = 3
    NO_REPLY = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Target):
    """What the command line asks for.

    Attributes:
        payload: JSON, not read yet; `None` for an empty object.
        no_reply: End when it is sent.
        reply_timeout: Seconds.
    """

    topic: str
    event: str
    payload: str | None
    join_params: Any
    no_reply: bool
    reply_timeout: float


def run(arguments: argparse.Namespace) -> int:
    """Push, and print the reply."""
    request = built(Request, arguments)
    try:
        return asyncio.run(_push(request))
    except (LocalError, argparse.ArgumentTypeError) as error:
        say(str(error))
        return Code.MISUSED
    except ConnectError as error:
        request.say_unreachable(error)
    except PushTimeout as error:
        say(str(error))
        return Code.NO_REPLY
    except PhxError as error:
        say(str(error))
    return Code.FAILED


async def _push(request: Request) -> Code:
    payload: Any = {} if request.payload is None else json_value(request.payload)
    async with request.connect(drain_timeout=_DRAIN) as client:
        channel = await client.join(request.topic, request.join_params)
        if request.no_reply:
            await channel.cast(request.event, payload)
            return Code.OK
        reply = await channel.push(request.event, payload, timeout=request.reply_timeout, check=False)
    sys.stdout.buffer.write(printed({"status": reply.status}, "response", reply.response))
    sys.stdout.buffer.flush()
    return Code.OK if reply.ok else Code.NOT_OK
