"""Reports errors that no call can raise: to the application, by default to the log.

The log's name is `phx_transports`. No line shows params, tokens or payloads; text from a peer is bounded, escaped and
masked. A repeated line is logged once, then counted, and the count is logged every `INTERVAL` seconds. So a peer cannot
make the log grow fast.
"""

import contextlib
import logging
import threading
import traceback
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, Final, TypeAlias

from phx_proto.client import ClientProtocol
from phx_proto.errors import ConnectionClosed, PhxError
from phx_proto.events import (
    BadFrame,
    ChannelEnded,
    ChannelErrored,
    ChannelJoined,
    Closed,
    Connected,
    ConnectFailed,
    Disconnected,
    Event,
    InboxOverflow,
    PatternJoined,
    SocketEnded,
    UnclaimedMessages,
)
from phx_proto.handlers.handler import Handler
from phx_proto.message import Message
from phx_proto.shown import NO_SECRETS, shown

logger = logging.getLogger("phx_transports")

#: Seconds for which repeated lines are counted before the count is logged.
INTERVAL: Final = 10.0

_MOST_RUNS: Final = 100  # kinds of lines that are counted separately
_LONGEST_LINE: Final = 2000


@dataclass(frozen=True, slots=True)
class HandlerError:
    """A handler raised, or a message did not fit the payload type of its handler or its stream.

    Attributes:
        handler: The handler; `None` for a stream.
        message: The message as the handler got it; as it was received, if it did not fit or the handler ran in another
            process.
        error: What it raised; `PayloadMismatch` if the message did not fit, so that the handler was not called.
    """

    handler: Handler | None
    message: Message[Any]
    error: BaseException

    def __str__(self) -> str:
        return f"{self.name} failed {self._where}: {shown(self.error, 500)}"

    @property
    def name(self) -> str:
        """What failed, as text: `"handler app.save"`, `"a stream"`."""
        return "a stream" if self.handler is None else f"handler {self.handler.name}"

    @property
    def _where(self) -> str:
        return f"on event {shown(self.message.event)} of topic {shown(self.message.topic)}"

    @property
    def raisable(self) -> Exception:
        """The error as one that can be raised anywhere: not a cancellation, nor the end of an iterator.

        A note on it names the handler that raised it, and the message's place.
        """
        if isinstance(self.error, Exception) and not isinstance(self.error, StopIteration):
            self.error.add_note(f"raised by {self.name} {self._where}")
            return self.error
        error = RuntimeError(f"{self.name} raised {shown(self.error)}")
        error.__cause__ = self.error
        return error


def is_exit(error: BaseException) -> bool:
    """Whether it asks the program to end: `SystemExit` (`sys.exit()`), `KeyboardInterrupt` and the like."""
    # `CancelledError` is about a task, `GeneratorExit` about a generator, and a coroutine cannot raise that on.
    return not isinstance(error, Exception | CancelledError | GeneratorExit)


OnHandlerError: TypeAlias = Callable[[HandlerError], None]


def log_handler_error(report: HandlerError) -> None:
    """Log the error with its traceback: the default of `on_handler_error`.

    A client does so for the first error of a kind, and counts the following ones.
    """
    _write(logging.ERROR, NO_SECRETS.escaped(str(report), _LONGEST_LINE), report.error)


def listener_failed(error: BaseException) -> None:
    """Log what an event listener raised; the client goes on."""
    _write(logging.ERROR, f"a listener to events failed: {shown(error, 500)}", error)


def report_to(on_error: OnHandlerError, report: HandlerError) -> None:
    """Report to the application; if its callback raises, log both errors."""
    try:
        on_error(report)
    except (Exception, CancelledError) as error:
        log_handler_error(report)
        _write(logging.ERROR, f"on_handler_error itself failed: {shown(error, 500)}", error)


_FAILED_ATTEMPTS: Final = "failed attempts to connect"


class Log:
    """One client's log. Any thread may use it.

    Attributes:
        due: When `tick` is to be called; `math.inf` while there is no count to log.
    """

    def __init__(self, proto: ClientProtocol, now: Callable[[], float]) -> None:
        self.due = inf
        self._proto = proto
        self._now = now
        self._lock = threading.Lock()
        self._runs: dict[str, _Run] = {}
        self._lines: list[tuple[int, str, BaseException | None]] = []  # to be written, outside the lock
        self._rejoins = _Rejoins()

    def event(self, event: Event) -> None:
        """Log what matters to an operator: connections lost and back, channels in trouble, input dropped."""
        with self._lock:
            self._event(event)
        self._flush()

    def unless(self, on_error: OnHandlerError) -> OnHandlerError:
        """The callback for handlers' errors: the application's, or this log's if the application has none."""
        return self.handler_failed if on_error is log_handler_error else on_error

    def handler_failed(self, report: HandlerError) -> None:
        """Log a handler's error: with its traceback, unless one of this kind was logged just before."""
        kind = f"errors of {report.name} ({type(report.error).__name__})"
        with self._lock:
            self._say(logging.ERROR, kind, str(report), error=report.error)
        self._flush()

    def tick(self) -> None:
        """Log the counts that are due."""
        if self._now() >= self.due:
            with self._lock:
                self._sum_up(self._now())
            self._flush()

    # ---- private ----------------------------------------------------------------------------------------------------

    def _event(self, event: Event) -> None:
        match event:
            case Connected(reconnected=reconnected, transport=transport, socket=socket):
                self._end_run(_FAILED_ATTEMPTS)
                if transport != self._proto.endpoint.transport and not reconnected:
                    what = f"no WebSocket gets through to {self._place}: it is polled, by HTTP, from now on"
                    self._say(logging.WARNING, "fallbacks", what)
                if not reconnected:
                    self._say(logging.INFO, "connections", f"connected to {self._place}{which(socket)}", often=5)
                elif not self._rejoins.begin(self._now() + INTERVAL):
                    self._say(logging.INFO, "reconnections", f"connected again to {self._place}")
            case Disconnected(code=code, reason=reason, retry_in=retry_in, socket=socket):
                rejoining = self._rejoins.stop()
                how = f"{ConnectionClosed(code, reason)}; {_next(retry_in)}{rejoining}"
                what = f"disconnected from {self._place}{which(socket)}: {how}"
                self._say(logging.WARNING, "lost connections", what, often=5)
            case ConnectFailed(error=error, attempt=attempt, retry_in=retry_in, socket=socket):
                what = f"attempt {attempt} to connect{which(socket)} failed: {error}"
                what = f"{what}; {_next(retry_in)} to {self._place}"
                self._say(logging.WARNING, _FAILED_ATTEMPTS, what, often=5)
            case SocketEnded(error=PhxError() as error, socket=socket):
                what = f"more topics than the server takes on one socket cannot be joined{which(socket)}: {error}"
                self._say(logging.WARNING, "sockets that were not opened", what, often=5)
            case ChannelErrored(topic=topic, retry_in=None):
                self._rejoins.lost(topic)  # lost with the connection, which is logged itself
            case ChannelErrored(topic=topic, error=error, retry_in=float(retry_in)):
                self._rejoined(topic, ok=False)
                what = f"channel {shown(topic)} is not joined: {error}; rejoin in {retry_in:.2f} s"
                self._say(logging.WARNING, "troubles of channels", what, often=20)
            case ChannelEnded(topic=topic, error=error):
                self._rejoined(topic, ok=False)
                if error is not None:
                    self._say(logging.WARNING, "ends of channels", f"channel {shown(topic)} ended: {error}", often=20)
            case ChannelJoined(topic=topic):
                self._rejoined(topic, ok=True)
            case PatternJoined(topic=topic):
                what = f"{shown(topic)} is joined as it stands: a topic has a whole name, patterns are for handlers"
                self._say(logging.WARNING, "patterns joined", what, often=20)
            case UnclaimedMessages(topic=topic, event=name, count=count):
                where = f"the latest event {shown(name)} on topic {shown(topic)}"
                what = (
                    f"{count} messages came on topics without a channel and are dropped, {where}: "
                    "router.on(..., unjoined=True) takes such, stats.stale counts them"
                )
                self._say(logging.WARNING, "tellings of messages on topics without a channel", what)
            case BadFrame(problem=problem, excerpt=excerpt, size=size, count=count):
                what = f"a frame of size {size} was dropped: {problem}; it begins {excerpt}"
                self._say(logging.WARNING, "frames dropped", what, count=count)
            case InboxOverflow(topic=topic, dropped=dropped, backlog=backlog):
                where = "the client" if topic is None else f"topic {shown(topic)}"
                what = f"{dropped} messages of {where} dropped: {backlog} wait for their handlers"
                self._say(logging.ERROR, f"messages of {where} dropped", what, count=dropped)
            case Closed(error=error):
                self._sum_up(inf)
                if (unfinished := self._proto.unfinished) is not None:
                    names = ", ".join(sorted({handler.name for handler in unfinished})) or "streams"
                    left = f"{self._proto.stats.backlog:,} messages are not handled, of {names}"
                    self._say(
                        logging.WARNING, "closings", f"drain_timeout was over for the client of {self._place}: {left}"
                    )
                if error is not None and self._proto.stats.connects:
                    level = logging.WARNING if is_exit(error) else logging.ERROR
                    why = error if isinstance(error, PhxError) else shown(error, 500)
                    self._say(level, "ends", f"the client of {self._place} has ended: {why}")
            case _:
                pass
        self.due = min(self.due, self._rejoins.due)

    @property
    def _place(self) -> str:
        return self._proto.endpoint.redacted

    def _rejoined(self, topic: str, *, ok: bool) -> None:
        if told := self._rejoins.settled(topic, ok=ok):
            self._say(logging.INFO, "reconnections", f"connected again to {self._place}: {told}", often=5)

    def _say(
        self, level: int, kind: str, text: str, *, count: int = 1, often: int = 1, error: BaseException | None = None
    ) -> None:
        """Log a line, or, if there were `often` of its kind in this interval, only count it."""
        now = self._now()
        self._sum_up(now)
        run = self._runs.get(kind)
        if run is None:
            if len(self._runs) >= _MOST_RUNS:
                self._runs = {key: run for key, run in self._runs.items() if run.more or run.until > now}
            if len(self._runs) >= _MOST_RUNS:
                kind = "lines of other kinds"
            run = self._runs.setdefault(kind, _Run(kind, level, now + INTERVAL))
        elif run.until <= now and not run.more:
            run.said, run.until = 0, now + INTERVAL
        if run.said < often:
            run.said += 1
            self._lines.append((level, text, error))
        else:
            run.more += count
            run.latest = text
            self.due = min(self.due, run.until)

    def _sum_up(self, now: float) -> None:
        if now < self.due:
            return
        for run in self._runs.values():
            if run.more and run.until <= now:
                self._tell_more(run)
                run.until = now + INTERVAL
        if told := self._rejoins.so_far(now):
            self._lines.append((logging.INFO, f"connected again to {self._place}: {told}", None))
        self._set_due()

    def _tell_more(self, run: "_Run") -> None:
        self._lines.append((run.level, f"{run.more:,} more {run.kind}; the latest: {run.latest}", None))
        run.more = 0

    def _end_run(self, kind: str) -> None:
        """The kind no longer repeats: log the count; the next one is logged as a line again."""
        run = self._runs.pop(kind, None)
        if run is not None and run.more:
            self._tell_more(run)
            self._set_due()

    def _set_due(self) -> None:
        self.due = min([self._rejoins.due, *(run.until for run in self._runs.values() if run.more)])

    def _flush(self) -> None:
        while self._lines:
            try:
                level, text, error = self._lines.pop(0)
            except IndexError:  # another thread was faster
                return
            _write(level, self._proto.secrets.escaped(text, _LONGEST_LINE), error)


@dataclass(slots=True)
class _Run:
    """A kind of line that repeats."""

    kind: str
    level: int
    until: float
    said: int = 0  # lines logged one by one
    more: int = 0
    latest: str = ""


class _Rejoins:
    """The channels lost with connections, until they are joined again: one log line for all of them.

    Attributes:
        due: When to log how many have been joined so far; `math.inf` for never.
    """

    def __init__(self) -> None:
        self.due = inf
        self._lost: set[str] = set()  # topics
        self._total: int
        self._joined: int
        self._under_way = False

    def lost(self, topic: str) -> None:
        """A channel was lost with its connection."""
        self._lost.add(topic)

    def begin(self, due: float) -> bool:
        """A connection is back; returns whether there are channels to join again."""
        if not self._under_way:  # else another connection was back earlier
            self._total, self._joined, self._under_way = len(self._lost), 0, bool(self._lost)
            self.due = due if self._lost else inf
        return self._under_way

    def settled(self, topic: str, *, ok: bool) -> str:
        """A channel was joined again, or failed; returns the text to log if it was the last."""
        if not self._under_way or topic not in self._lost:
            self._lost.discard(topic)
            return ""
        self._lost.discard(topic)
        self._joined += ok
        if self._lost:
            return ""
        told = self._told()
        self.due, self._under_way = inf, False
        return told

    def so_far(self, now: float) -> str:
        """The text to log while rejoining goes on, once, if it is due."""
        if now < self.due:
            return ""
        self.due = inf
        return f"{self._told()}, {len(self._lost):,} are still to be" if self._under_way else ""

    def stop(self) -> str:
        """The connection is lost again; returns the text to log about the channels not yet joined."""
        told = f" ({self._told()} since the last time)" if self._under_way else ""
        self.due, self._under_way = inf, False
        return told

    def _told(self) -> str:
        of = f"{self._total:,}" if self._joined == self._total else f"{self._joined:,} of {self._total:,}"
        return f"{of} channel{'' if self._total == 1 else 's'} joined again"


def which(socket: int) -> str:
    """The number of the client's socket, for a log line; empty for the first."""
    return f" (socket {socket})" if socket else ""


def _next(retry_in: float | None) -> str:
    return "the client is closing" if retry_in is None else f"next attempt in {retry_in:.2f} s"


def _write(level: int, text: str, error: BaseException | None = None) -> None:
    """Write a line. If a handler or filter of the log raises, `logging` shows that, and the client goes on."""
    try:
        logger.log(level, "%s", text, exc_info=error)
    except Exception:
        with contextlib.suppress(Exception):
            if logging.raiseExceptions:
                traceback.print_exc()
