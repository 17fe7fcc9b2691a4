"""`phx listen`: messages of topics, one JSON object a line on stdout; other events on stderr.

One thread, behind a plain handler, writes the lines. A blocked reader of stdout (a pager, say) blocks that thread and
so the reading from the server, while heartbeats go on. Payloads are printed as received, without parsing.
"""

import argparse
import asyncio
import contextlib
import os
import stat
import sys
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final

from phx_proto import Message, PhxError, Router
from phx_proto.errors import ConnectionClosed, JoinCancelled, LocalError
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
    PresenceChanged,
)
from phx_proto.presence import PRESENCE_DIFF, PRESENCE_STATE

from ..asyncio import Client, EventStream
from ..client.reports import HandlerError, which
from .printer import Printer
from .recording import Recorder
from .target import Target, say

_DRAIN: Final = 2.0  # seconds for closing; a blocked reader of stdout must not delay it longer


class Request(Target):
    """The command line."""

    topics: list[str]
    events: list[str]
    exclude: list[str]
    presence: bool
    count: int | None
    record: str | None

    def prints(self, event: str) -> bool:
        """Whether messages with this event are printed."""
        return not (self.presence and event in (PRESENCE_STATE, PRESENCE_DIFF)) and not any(
            event.startswith(name[:-1]) if name.endswith("*") else event == name for name in self.exclude
        )


def run(arguments: argparse.Namespace) -> int:
    """Listen until Ctrl+C, or until all topics have ended; returns the exit code.

    `BrokenPipeError`: the reader of stdout is gone.
    """
    request, printer = Request(arguments), Printer(sys.stdout.buffer)
    code = 1
    try:
        code = request.run(Listener(request, printer).listen(), ended="ended: ")
    except BrokenPipeError:
        raise
    except OSError as error:
        say(f"cannot write to {error.filename or 'stdout'}: {error.strerror}")
    if printer.unwritten:
        os._exit(code)  # Python would wait for a blocked reader, or try once more and complain
    return code


class Listener:
    """One client that listens."""

    def __init__(self, request: Request, printer: Printer) -> None:
        self._request = request
        self._printer = printer
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="phx-print")
        self._loop: asyncio.AbstractEventLoop
        self._live = set(request.topics)
        self._left = request.count
        self._client: Client

    async def listen(self) -> int:
        """Listen until Ctrl+C or the last topic's end; returns the exit code."""
        self._loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            stack.callback(self._executor.shutdown, wait=False, cancel_futures=True)
            recorder = None
            if (path := self._request.record) is not None:
                recorder = stack.enter_context(contextlib.closing(Recorder(path, self._request.serializer)))
            return await self._listen(recorder)

    async def _listen(self, recorder: Recorder | None) -> int:
        request, router = self._request, Router()
        for name in dict.fromkeys(request.events or "*"):
            router.add(self._print, name)
        connecting = request.connect(
            router=router, executor=self._executor, on_handler_error=_keep_quiet, fail_fast=True, drain_timeout=_DRAIN
        )
        say(f"connecting to {request.shown}")
        async with connecting as self._client, self._client.events() as events:
            if recorder is not None:
                recorder.record(self._client)
            telling = asyncio.create_task(self._tell(events))
            joining = asyncio.gather(*map(self._join, dict.fromkeys(request.topics)))
            with _until_nobody_reads(self._client):
                await self._client.run()
            await telling
            await joining
            return 0 if self._live else 1

    async def _join(self, topic: str) -> None:
        """Join. Events report the server's answer; a join that cannot be sent ends the client."""
        channel = self._client.channel(topic, self._request.join_params)
        if self._request.presence:
            channel.track_presence()
        try:
            await channel.join()
        except LocalError:
            self._client.stop()
            raise
        except PhxError:
            pass

    def _print(self, message: Message[Any]) -> None:
        """On the printing thread."""
        if not self._request.prints(message.event) or self._left == 0:
            return
        self._printer.message(message)
        if self._left is not None:
            self._left -= 1
            if not self._left:
                self._loop.call_soon_threadsafe(self._client.stop)

    async def _tell(self, events: EventStream) -> None:
        """Report events; end the client when the last topic is gone, or nothing can be printed."""
        try:
            async for event in events:
                if isinstance(event, PresenceChanged):
                    printing = partial(self._printer.presence, event.topic, event.change)
                    await self._loop.run_in_executor(self._executor, printing)
                elif (text := _told(event)) is not None:
                    say(text)
                if isinstance(event, ChannelEnded) and not isinstance(event.error, JoinCancelled | None):
                    self._live.discard(event.topic)
                    if not self._live:
                        self._client.stop()
        finally:
            self._client.stop()


def _keep_quiet(report: HandlerError) -> None:
    """The error ends the client, and is reported then."""


def _told(event: Event) -> str | None:
    match event:
        case Connected(reconnected=True, socket=socket):
            return f"connected again{which(socket)}"
        case Disconnected(code=code, reason=reason, retry_in=float(retry_in), socket=socket):
            return f"{ConnectionClosed(code, reason)}{which(socket)}; next attempt in {retry_in:.2g} s"
        case ConnectFailed(error=error, attempt=attempt, retry_in=retry_in, socket=socket):
            return f"attempt {attempt} to connect{which(socket)} failed: {error}; next in {retry_in:.2g} s"
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
def _until_nobody_reads(client: Client) -> Generator[None]:
    """Close the client when the reader of stdout is gone, without waiting for a message to find out."""
    loop, out = asyncio.get_running_loop(), sys.stdout.fileno()

    def nobody_reads() -> None:
        loop.remove_reader(out)
        client.stop()

    with contextlib.ExitStack() as stack:
        if stat.S_ISFIFO(os.fstat(out).st_mode):
            with contextlib.suppress(NotImplementedError, OSError):  # not every event loop supports it
                loop.add_reader(out, nobody_reads)
                stack.callback(loop.remove_reader, out)
        yield
