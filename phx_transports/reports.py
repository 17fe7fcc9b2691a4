"""What goes wrong without a call that could raise it: reported to the application, by default to the log.

The log's name is `phx_transports`. No report shows params, tokens or payloads.
"""

import logging
from asyncio import CancelledError
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from phx_proto.events import (
    BadFrame,
    ChannelEnded,
    ChannelErrored,
    Connected,
    ConnectFailed,
    Disconnected,
    Event,
    InboxOverflow,
    PatternJoined,
    UnclaimedMessages,
)
from phx_proto.handler import Handler
from phx_proto.message import Message

logger = logging.getLogger("phx_transports")


@dataclass(frozen=True, slots=True)
class HandlerError:
    """A handler raised, or its message did not fit its payload type.

    Attributes:
        handler: Which one.
        message: What it was given.
        error: What it raised; `PayloadMismatch` where it was not called at all.
    """

    handler: Handler
    message: Message[Any]
    error: BaseException

    @property
    def raisable(self) -> Exception:
        """The error as something that can be raised anywhere: not a cancellation, nor the end of an iterator."""
        if isinstance(self.error, Exception) and not isinstance(self.error, StopIteration):
            return self.error
        error = RuntimeError(f"handler {self.handler.name} raised {self.error!r}")
        error.__cause__ = self.error
        return error


def is_exit(error: BaseException) -> bool:
    """Whether it is no error but asks for the end: `SystemExit` (`sys.exit()`), `KeyboardInterrupt` and the like."""
    return not isinstance(error, Exception | CancelledError)


OnHandlerError: TypeAlias = Callable[[HandlerError], None]


def log_handler_error(report: HandlerError) -> None:
    """Log the error with its traceback: what happens unless `on_handler_error` says otherwise."""
    message = report.message
    logger.error(
        "handler %s failed on event %r of topic %r: %r",
        report.handler.name,
        message.event,
        message.topic,
        report.error,
        exc_info=report.error,
    )


def report_to(on_error: OnHandlerError, report: HandlerError) -> None:
    """Report to the application; if that raises, to the log, with what it raised."""
    try:
        on_error(report)
    except (Exception, CancelledError) as error:
        log_handler_error(report)
        logger.error("on_handler_error itself failed: %r", error, exc_info=error)


def log_event(event: Event) -> None:
    """Log what an operator wants to know: connections lost and back, channels in trouble, input dropped."""
    match event:
        case Connected(reconnected=True):
            logger.info("connected again")
        case Disconnected(code=code, reason=reason, retry_in=retry_in):
            logger.warning("disconnected with code %s (%s); next attempt in %s s", code, reason, _rounded(retry_in))
        case ConnectFailed(error=error, attempt=attempt, retry_in=retry_in):
            logger.warning("attempt %d to connect failed: %s; next in %s s", attempt, error, _rounded(retry_in))
        case ChannelErrored(topic=topic, error=error, retry_in=retry_in):
            logger.warning("channel %r is not joined: %s; rejoin in %s s", topic, error, _rounded(retry_in))
        case ChannelEnded(topic=topic, error=error) if error is not None:
            logger.warning("channel %r ended: %s", topic, error)
        case PatternJoined(topic=topic):
            logger.warning("%r is joined as it stands: a topic has a whole name, patterns are for handlers", topic)
        case UnclaimedMessages(topic=topic, event=name, count=count):
            logger.warning(
                "%d messages came on topics without a channel and are dropped, the latest event %r on topic %r: "
                "router.on(..., unjoined=True) takes such, stats.stale counts them",
                count,
                name,
                topic,
            )
        case BadFrame(problem=problem, excerpt=excerpt, size=size):
            logger.warning("a frame of size %d was dropped: %s; it begins %s", size, problem, excerpt)
        case InboxOverflow(topic=topic, dropped=dropped, backlog=backlog):
            where = "the client" if topic is None else f"topic {topic!r}"
            logger.error("%d messages of %s dropped: %d wait for their handlers", dropped, where, backlog)
        case _:
            pass


def _rounded(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f}"
