"""`phx listen`: what arrives on topics, one JSON object a line on stdout; what happens, on stderr.

Lines are written by one thread, behind a plain handler: a reader that stands still (a pager, say) stops that thread
and, through it, the reading from the server, while heartbeats go on. A payload is printed as it came, not parsed.
"""

import argparse
import asyncio
import contextlib
import json
import os
import stat
import sys
from base64 import b64encode
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import msgspec

from phx_proto import Message, PhxError, Router
from phx_proto.errors import ConnectError, ConnectionClosed, JoinCancelled, LocalError
from phx_proto.events import (
    BadFrame,
    ChannelEnded,
    ChannelErrored,
    ChannelJoined,
    Connected,
    ConnectFailed,
    Disconnected,
    Event,
    InboxOverflow,
)

from ..asyncio import Client, EventStream
from ..client.reports import HandlerError
from .arguments import built
from .target import Target, say

_DRAIN: Final = 2.0  # seconds for closing; a reader that stands still must not keep us longer


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Target):
    """What the command line asks for.

    Attributes:
        events: Names of events; none for every one.
    """

    topics: list[str]
    events: list[str]
    join_params: Any


def run(arguments: argparse.Namespace) -> int:
    """Listen until Ctrl+C, or until there is nothing left to listen to.

    Returns:
        The exit code.

    Raises:
        BrokenPipeError: Nobody reads stdout any more.
    """
    request = built(Request, arguments)
    printer = Printer(sys.stdout.buffer)
    code = 1
    try:
        code = asyncio.run(_listen(request, printer))
    except LocalError as error:
        say(str(error))
        code = 2
    except ConnectError as error:
        request.say_unreachable(error)
    except PhxError as error:
        say(f"ended: {error}")
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"cannot write to stdout: {error.strerror}")
    if printer.unwritten:
        os._exit(code)  # Python would wait for a reader that stands still, or try once more and complain
    return code


class Printer:
    """Writes messages to a stream.

    Attributes:
        unwritten: Whether a line is not written yet, or could not be.
    """

    def __init__(self, out: BinaryIO) -> None:
        self.unwritten = False
        self._out = out
        self._encode = msgspec.json.Encoder().encode

    def print(self, message: Message[Any]) -> None:
        """Write one line, whole, and at once."""
        payload = message.undecoded
        if isinstance(payload, bytes):
            text = b64encode(payload).decode()
            line = self._encode(_Line(message.topic, message.event, text, message.ref, "base64"))
        else:
            line = self._encode(_Line(message.topic, message.event, payload, message.ref))
        self.unwritten = True
        line = _printable(line)
        self._out.write(line + b"\n")
        self._out.flush()
        self.unwritten = False


def _printable(line: bytes) -> bytes:
    """The same JSON in one line, without what a terminal would take for more than text."""
    text = line.decode("utf-8", "replace")  # a payload is not looked at before it is printed
    if text.isprintable():
        return text.encode()
    for blank in "\n\r\t":  # white space between a payload's tokens: inside strings they are escaped
        text = text.replace(blank, " ")
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text).encode()


class _Line(msgspec.Struct, omit_defaults=True):
    topic: str
    event: str
    payload: Any  # `msgspec.Raw` is written as it is
    ref: str | None = None
    encoding: str | None = None


async def _listen(request: Request, printer: Printer) -> int:
    router = Router()
    for event in dict.fromkeys(request.events or "*"):
        router.add(printer.print, event)
    topics = list(dict.fromkeys(request.topics))
    executor = ThreadPoolExecutor(1, thread_name_prefix="phx-print")
    connecting = request.connect(
        router=router,
        executor=executor,
        on_handler_error=_keep_quiet,
        fail_fast=True,
        drain_timeout=_DRAIN,
    )
    say(f"connecting to {request.shown}")
    try:
        async with connecting as client, client.events() as events:
            live = set(topics)
            telling = asyncio.create_task(_tell(client, events, live))
            joining = asyncio.gather(*(_join(client, topic, request.join_params) for topic in topics))
            with _until_nobody_reads(client):
                await client.run()
            await telling
            mistake = next(filter(None, await joining), None)
            if mistake is not None:
                raise mistake
            return 0 if live else 1
    finally:
        executor.shutdown(wait=False, cancel_futures=True)


def _keep_quiet(report: HandlerError) -> None:
    """It ends the client, and is told then."""


async def _join(client: Client, topic: str, params: Any) -> LocalError | None:
    """Join; what the server says to it is told by events, what cannot even be sent ends the client."""
    try:
        await client.join(topic, params)
    except LocalError as error:
        client.stop()
        return error
    except PhxError:
        pass
    return None


async def _tell(client: Client, events: EventStream, live: set[str]) -> None:
    """Say what happens; end the client when the last of the topics is gone."""
    async for event in events:
        text = _told(event)
        if text is not None:
            say(text)
        if isinstance(event, ChannelEnded) and event.error is not None and not isinstance(event.error, JoinCancelled):
            live.discard(event.topic)
            if not live:
                client.stop()


def _told(event: Event) -> str | None:
    match event:
        case Connected(reconnected=True):
            return "connected again"
        case Disconnected(code=code, reason=reason, retry_in=float(retry_in)):
            return f"{ConnectionClosed(code, reason)}; next attempt in {retry_in:.2g} s"
        case ConnectFailed(error=error, attempt=attempt, retry_in=retry_in):
            return f"attempt {attempt} to connect failed: {error}; next in {retry_in:.2g} s"
        case ChannelJoined(topic=topic, rejoined=rejoined):
            return f"{'rejoined' if rejoined else 'joined'} {topic}"
        case ChannelErrored(error=error, retry_in=float(retry_in)):
            return f"{error}; next attempt in {retry_in:.2g} s"
        case ChannelEnded(error=PhxError() as error) if not isinstance(error, JoinCancelled):
            return str(error)
        case BadFrame(problem=problem, excerpt=excerpt):
            return f"a frame was dropped: {problem}; it begins {excerpt}"
        case InboxOverflow(dropped=dropped):
            return f"{dropped} messages were dropped: they are not read from stdout as fast as they come"
        case _:
            return None


@contextlib.contextmanager
def _until_nobody_reads(client: Client) -> Generator[None, None, None]:
    """Close the client when the other end of the pipe is closed, without waiting for a message to find that out."""
    loop, out = asyncio.get_running_loop(), sys.stdout.fileno()
    watched = False
    if stat.S_ISFIFO(os.fstat(out).st_mode):
        with contextlib.suppress(NotImplementedError, OSError):  # not every event loop can
            loop.add_reader(out, _nobody_reads, loop, out, client)
            watched = True
    try:
        yield
    finally:
        if watched:
            loop.remove_reader(out)


def _nobody_reads(loop: asyncio.AbstractEventLoop, out: int, client: Client) -> None:
    loop.remove_reader(out)
    client.stop()
