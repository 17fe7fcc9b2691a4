"""Reports of an application's own errors, by default to the log.

An error's text may repeat what a client sent. In the log it is escaped, cut if it is very long, and stripped of the
client's secrets (its token, its params, its headers; see `phx_proto/shown.py`).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from phx_proto.shown import LIMIT, NO_SECRETS, Secrets

from ..asyncio.workers import is_stopped


@dataclass(frozen=True, slots=True)
class CallbackError:
    """A call into the application raised.

    Attributes:
        call: `"check_origin"`, `"connect"`, `"join"`, `"joined"`, `"handle_in"`, `"handle_out"`, `"terminate"`
            or `"spawn"`.
        topic: The channel's; `None` for the first two.
        event: The event of the message or broadcast; `None` for all other calls.
        error: What it raised.
        secrets: The client's secrets; `secrets.escaped(text)` is a text without them.
    """

    call: str
    topic: str | None
    event: str | None
    error: BaseException
    secrets: Secrets = field(default=NO_SECRETS, repr=False, compare=False)


OnError: TypeAlias = Callable[[CallbackError], None]


def log_callback_error(report: CallbackError) -> None:
    """Log the error with its traceback, without the client's secrets: the default of `on_error`."""
    shown = report.secrets.shown
    what = report.call if report.event is None else f"{report.call} of event {shown(report.event)}"
    where = "" if report.topic is None else f" on topic {shown(report.topic)}"
    error = _loggable(report.error, report.secrets)
    _logger.error("%s%s failed: %s", what, where, shown(report.error), exc_info=error)


def raise_if_ended(error: BaseException) -> None:
    """Raise an exception from outside (the server or the loop closes). All others are the application's errors.

    An application's `SystemExit` or `KeyboardInterrupt` would end the loop, and with it every other client's
    connection. Ctrl+C itself arrives as a signal; see `RunningServer.run`.
    """
    if is_stopped(error) or isinstance(error, GeneratorExit):
        raise error


_MOST_CAUSES: Final = 10


def _loggable(error: BaseException, secrets: Secrets) -> BaseException:
    """The error; or, if its text or a cause's text cannot be shown, a similar error that can."""
    chain = [error]
    while len(chain) < _MOST_CAUSES and (before := _before(chain[-1])) is not None:
        chain.append(before)
    texts = [_text(each, secrets) for each in chain]
    if _before(chain[-1]) is None and all(text == own for own, text in texts):
        return error
    loggable: BaseException | None = None
    for each, (_, text) in reversed([*zip(chain, texts, strict=True)]):
        kind = type(each)
        named = type(kind.__name__, (Exception,), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
        following = named(text).with_traceback(each.__traceback__)
        following.__cause__, loggable = loggable, following
    assert loggable is not None, "there is one error at least"
    return loggable


def _before(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _text(error: BaseException, secrets: Secrets) -> tuple[str | None, str]:
    """The error's text, and the form to show; `None` if the error has no valid text."""
    try:
        text = str(error)
    except Exception:
        return None, "its text cannot be had"
    return text, secrets.escaped(text, LIMIT)


_logger: Final = logging.getLogger("phx_transports.server")
