"""`phx push`: one event to one topic, and its reply on stdout."""

import argparse
import sys
from typing import Any, Final

from phx_proto.errors import PushTimeout

from .arguments import json_value
from .printer import printed
from .target import Target, say

_DRAIN: Final = 2.0  # seconds for closing
_NOT_OK: Final = 3
_NO_REPLY: Final = 4


class Request(Target):
    """The command line; the payload is not parsed yet."""

    topic: str
    event: str
    payload: str | None
    no_reply: bool
    reply_timeout: float


def run(arguments: argparse.Namespace) -> int:
    """Push, and print the reply; returns the exit code."""
    request = Request(arguments)
    return request.run(_push(request))


async def _push(request: Request) -> int:
    payload: Any = {} if request.payload is None else json_value(request.payload)
    async with request.connect(drain_timeout=_DRAIN) as client:
        channel = await client.join(request.topic, request.join_params)
        if request.no_reply:
            await channel.cast(request.event, payload)
            return 0
        try:
            reply = await channel.push(request.event, payload, timeout=request.reply_timeout, check=False)
        except PushTimeout as error:
            say(str(error))
            return _NO_REPLY
    sys.stdout.buffer.write(printed({"status": reply.status}, "response", reply.response))
    sys.stdout.buffer.flush()
    return 0 if reply.ok else _NOT_OK
