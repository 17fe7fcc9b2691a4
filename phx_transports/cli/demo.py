"""`phx demo`: a server and a client in one process, with cut connections and failures between them.

Every message is handled twice: by a coroutine on the loop and by a plain function in a thread. Both record the numbers
that the server gives its events, and at the end the records must match what the server sent.
"""

import argparse
import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from phx_proto import Message, PhxError, Router
from phx_proto.errors import ChannelCrashed, HandshakeRefused, JoinRefused
from phx_proto.events import ChannelErrored, ChannelJoined, Connected, ConnectFailed, Disconnected, Event

from ..asyncio import Channel, Client, EventStream, connect
from ..asyncio.signals import signals_to
from ..client.reports import HandlerError
from ..server import RunningServer
from .fleet import SIMS, TOPICS, UNKNOWN, Balance, Fleet
from .screen import Frame, Row, Screen, open_screen

_FRAMES: Final = 8  # a second
_PATIENCE: Final = 10.0  # seconds at the end for messages still under way
_LONGEST_OUTAGE: Final = 0.8  # seconds


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; returns the exit code: 1 if a message was lost. `OSError`: stdout cannot be written."""
    try:
        return 0 if asyncio.run(_run(arguments.seconds, arguments.rate)) else 1
    except BaseExceptionGroup as group:
        error: Any = group.subgroup(OSError) or group
        while within := getattr(error, "exceptions", ()):  # the first of them
            error = within[0]
        raise error from group


async def _run(seconds: float, rate: float) -> bool:
    fleet = Fleet()
    with open_screen() as screen:
        async with fleet.server.serve() as running:
            demo = Demo(fleet, running, screen)
            await demo.play(seconds, rate)
    screen.tell(demo.summary())
    return demo.behind == 0


@dataclass(slots=True)
class Book:
    """What one handler saw of one topic: the latest event, and how many came again after a rejoin."""

    handled: int = 0
    repeated: int = 0
    last: int = 0
    cents: int = 0

    def enter(self, number: int, cents: int) -> None:
        """The event with this id was handled."""
        if number <= self.last:
            self.repeated += 1
            return
        self.handled += 1
        self.last, self.cents = number, cents


class Demo:
    """One run, and its records by topic: of the coroutines on the loop, and of the plain function in threads."""

    def __init__(self, fleet: Fleet, running: RunningServer, screen: Screen) -> None:
        self.books = {topic: Book() for topic in TOPICS}
        self.audits = {topic: Book() for topic in TOPICS}
        self._fleet = fleet
        self._running = running
        self._screen = screen
        self._client: Client
        self._channels: dict[str, Channel] = {}
        self._loop = asyncio.get_running_loop()
        self._began = self._ended = self._loop.time()
        self._stop = asyncio.Event()
        self._outage = 0.0
        self._recent: deque[tuple[float, int]] = deque(maxlen=_FRAMES)  # when, and how many had been handled
        self._lost_at = 0.0
        self._failures = 0  # attempts to connect, since then
        self._away: set[str] = set()  # topics not yet rejoined since the cut
        self._missed = 0
        self._survived = Counter[str]()

    def _note(self, text: str, *, trouble: bool = False) -> None:
        self._screen.note(self._loop.time() - self._began, text, trouble=trouble)

    # ---- the client: its handlers -----------------------------------------------------------------------------------

    def router(self) -> Router:
        """A handler of each kind."""
        router = Router()

        @router.on("balance", topic="fleet:*", payload=Balance)
        async def book(message: Message[Balance]) -> None:  # typed, on the loop
            self.books[message.topic].enter(message.payload.id, message.payload.cents)

        @router.on("balance", topic="sim:*")
        async def watch(message: Message[Any]) -> None:  # untyped, on the loop
            self.books[message.topic].enter(message.payload["id"], message.payload["cents"])

        @router.on("balance", payload=Balance)
        def audit(message: Message[Balance]) -> None:  # plain, in a thread
            self.audits[message.topic].enter(message.payload.id, message.payload.cents)

        @router.on("balance", topic=SIMS[2], payload=Balance)
        async def alarm(message: Message[Balance]) -> None:  # raises, once
            if message.payload.cents < 0:
                raise ValueError(f"{message.payload.sim} is overdrawn")

        return router

    # ---- the play ---------------------------------------------------------------------------------------------------

    async def play(self, seconds: float, rate: float) -> None:
        """Run for so many seconds, or until Ctrl+C; then wait for messages still under way."""
        self._outage = min(_LONGEST_OUTAGE, seconds * 0.08)
        connecting = connect(self._running.url, router=self.router(), on_handler_error=self._handler_failed, proxy=None)
        with signals_to(self._interrupted, "all"):
            async with connecting as client, client.events() as events, asyncio.TaskGroup() as group:
                self._client = client
                self._screen.note(0.0, f"connected to {self._running.url}")
                self._channels = {topic: client.channel(topic, self._since(topic)) for topic in TOPICS}
                await asyncio.gather(*(channel.join() for channel in self._channels.values()))
                self._note(f"joined {len(TOPICS)} topics; {rate:,.0f} messages a second begin")
                watching = group.create_task(self._watch(events))
                drawing = group.create_task(self._draw())
                feeding = group.create_task(self._fleet.feed(rate, lambda: self.behind))
                await self._perform(seconds)
                feeding.cancel()
                await self._catch_up()
                self._ended = self._loop.time()
                self._survived["reconnect"] = client.stats.reconnects
                drawing.cancel()
                watching.cancel()
                self._screen.show(self._frame())

    def _interrupted(self, number: int) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt  # out of the loop: the second one ends the process
        self._stop.set()

    async def _perform(self, seconds: float) -> None:
        script: tuple[tuple[float, Callable[[], Awaitable[None]]], ...] = (
            (0.10, self._ask),
            (0.20, self._join_unknown),
            (0.33, self._cut),
            (0.60, self._crash),
            (0.80, self._overdraw),
            (1.00, self._end),
        )
        begin = self._loop.time()
        for moment, act in script:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), begin + moment * seconds - self._loop.time())
                self._note("Ctrl+C: ending gracefully")
                return
            try:
                await act()
            except PhxError as error:  # unplanned; the final count shows whether a message was lost
                self._note(str(error), trouble=True)

    async def _ask(self) -> None:
        began = self._loop.time()
        reply = await self._channels[SIMS[0]].push("top_up", {"cents": 1000})
        took = (self._loop.time() - began) * 1000
        self._note(f"pushed top_up, reply {reply.status} {reply.response} after {took:.1f} ms")

    async def _join_unknown(self) -> None:
        try:
            await self._client.join(UNKNOWN, {"since": 0})
        except JoinRefused as error:
            self._survived["refused join"] += 1
            self._note(f"join of {error.topic} refused: {error.response['reason']}", trouble=True)

    async def _cut(self) -> None:
        self._note(f"the server drops the connection, away for {self._outage:.2g} s", trouble=True)
        self._away = set(TOPICS)
        self._missed = 0
        self._fleet.go_away(self._outage)
        self._running.cut()

    async def _crash(self) -> None:
        self._missed = 0
        await self._channels[SIMS[1]].cast("crash")

    async def _overdraw(self) -> None:
        self._fleet.emit(SIMS[2], -250)

    async def _end(self) -> None:
        self._note("the server sends nothing more")

    async def _catch_up(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE):
                while self.behind:
                    await asyncio.sleep(0.01)

    def _since(self, topic: str) -> Callable[[], dict[str, int]]:
        """The params of each join of the topic: the last event seen."""
        return lambda: {"since": self.books[topic].last}

    # ---- what happens -----------------------------------------------------------------------------------------------

    async def _watch(self, events: EventStream) -> None:
        async for event in events:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        match event:
            case Disconnected(code=code, retry_in=float(retry_in)):
                self._lost_at, self._failures = self._loop.time(), 0
                how = "no close frame" if code is None else f"code {code}"
                self._note(f"disconnected ({how}); next attempt in {retry_in * 1000:.0f} ms", trouble=True)
            case ConnectFailed(error=error):
                self._failures += 1
                if self._failures == 1:
                    what = f"HTTP {error.status}" if isinstance(error, HandshakeRefused) else str(error)
                    self._note(f"refused with {what}; trying again and again", trouble=True)
            case Connected(reconnected=True):
                after = f"{self._loop.time() - self._lost_at:.2f} s and {_count(self._failures, 'refused attempt')}"
                self._note(f"connected again after {after}")
            case ChannelErrored(topic=topic, error=ChannelCrashed(), retry_in=float(retry_in)):
                self._survived["crashed channel"] += 1
                self._note(f"{topic} crashed on the server; rejoin in {retry_in:.2f} s", trouble=True)
            case ChannelJoined(topic=topic, rejoined=True, response=response):
                self._rejoined(topic, response["missed"])
            case _:
                pass

    def _rejoined(self, topic: str, missed: int) -> None:
        self._missed += missed
        if topic not in self._away:
            self._note(f"rejoined {topic}, {_count(missed, 'missed message')} replayed")
            return
        self._away.discard(topic)
        if not self._away:
            self._note(f"rejoined all {len(TOPICS)} topics, {_count(self._missed, 'missed message')} replayed")

    def _handler_failed(self, report: HandlerError) -> None:
        self._survived["handler error"] += 1
        name = report.name.rpartition(".")[2]
        self._note(f"handler {name} raised {report.error!r} on {report.message.topic}; all goes on", trouble=True)

    # ---- what is shown ----------------------------------------------------------------------------------------------

    @property
    def behind(self) -> int:
        """Messages that were sent and are missing in a record: lost, once nothing is under way any more."""
        handled = ((log.sent, self.books[topic], self.audits[topic]) for topic, log in self._fleet.logs.items())
        return sum(sent - min(book.handled, audit.handled) for sent, book, audit in handled)

    async def _draw(self) -> None:
        while True:
            self._screen.show(self._frame())
            await asyncio.sleep(1 / _FRAMES)

    def _frame(self) -> Frame:
        handled = sum(book.handled for book in self.books.values())
        now = self._loop.time()
        then, before = self._recent[0] if self._recent else (self._began, 0)
        self._recent.append((now, handled))
        logs = self._fleet.logs
        return Frame(
            state=self._client.state,
            elapsed=now - self._began,
            handled=handled,
            rate=(handled - before) / max(now - then, 0.001),
            rows=tuple(
                Row(topic, self._channels[topic].state, logs[topic].sent, book.handled, book.cents)
                for topic, book in self.books.items()
            ),
        )

    def summary(self) -> list[str]:
        """The result, in a few lines."""
        sent, elapsed = self._fleet.sent, max(self._ended - self._began, 0.001)
        repeated = sum(book.repeated for book in self.books.values())
        survived = ("reconnect", "crashed channel", "refused join", "handler error")
        return [
            f"{sent:,} messages on {len(TOPICS)} topics in {elapsed:.1f} s: {sent / elapsed:,.0f} a second.",
            f"Survived: {', '.join(_count(self._survived[thing], thing) for thing in survived)}.",
            *([f"{_count(repeated, 'message')} came twice and were known by their ids."] if repeated else []),
            f"LOST: {self.behind:,} of {sent:,} messages were not handled."
            if self.behind
            else f"Nothing was lost: {sent:,} sent, {sent:,} handled on the loop and {sent:,} in threads, in order.",
        ]


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
