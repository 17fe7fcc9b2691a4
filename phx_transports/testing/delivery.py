"""Run the handlers that a message reaches, and get their results: no connection, no event loop, no waiting.

    outcomes = deliver(router, "sim:1", "balance", {"amount": 7})
    assert outcomes.check() == ["saved"]

The message takes the real path: the payload is encoded as by a server (one that cannot be sent raises the core's own
error) and decoded again. Each handler gets it in its declared type, or is not called if it does not fit. Handlers run
one after another, in the order of registration, on the caller's thread. As in production, an error of one does not
keep the next from running.
"""

import asyncio
import inspect
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

from phx_proto.formats import V2, V2Server
from phx_proto.handlers.handler import Handler, HandlerKind
from phx_proto.handlers.router import Router
from phx_proto.message import RESERVED_EVENTS, Message

from .channel import FakeChannel
from .connection import server_frame
from .errors import NothingHandled

__tracebackhide__ = True  # for pytest: a failing test shows its own lines


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one handler.

    Attributes:
        handler: Its registration; `handler.name` is the function's name with its module.
        result: What it returned; `None` if it raised.
        error: What it raised, or `PayloadMismatch` if the payload did not fit and it was not called; `None` if there
            was no error.
    """

    handler: Handler
    result: Any = None
    error: BaseException | None = None

    @property
    def ok(self) -> bool:
        """Whether it did not raise."""
        return self.error is None

    def __repr__(self) -> str:
        what = f"returned {self.result!r}" if self.error is None else f"raised {self.error!r}"
        return f"<{self.handler.name} {what}>"


class Outcomes(tuple[Outcome, ...]):
    """The results of all handlers that the message reached, in the order of registration."""

    __slots__ = ()

    @property
    def errors(self) -> list[BaseException]:
        """The errors, in order."""
        return [outcome.error for outcome in self if outcome.error is not None]

    def check(self) -> list[Any]:
        """Check that at least one handler got the message and that none failed.

        Returns:
            The handlers' return values.

        Raises:
            NothingHandled: No handler got it.
            BaseException: A handler's error; several are raised as an exception group, each with a note of its
                handler's name.
        """
        if not self:
            raise NothingHandled("no handler is registered for this event of this topic")
        match self.errors:
            case []:
                return [outcome.result for outcome in self]
            case [error]:
                raise error
            case errors:
                for outcome in self:
                    note = f"raised by {outcome.handler.name}"
                    if outcome.error is not None and note not in getattr(outcome.error, "__notes__", ()):
                        outcome.error.add_note(note)
                raise BaseExceptionGroup("several handlers raised", errors)


def deliver(
    router: Router, topic: str, event: str, payload: Any = None, *, channel: FakeChannel | None = None
) -> Outcomes:
    """Run the handlers that the message reaches, including coroutine functions; the caller needs no event loop.

    Args:
        router: The router with the handlers.
        topic: The message's topic.
        event: The message's event.
        payload: The server's payload: any JSON value, or bytes; `None` stands for `{}`. A `msgspec.Raw` is sent
            unchanged, even if it is invalid.
        channel: For handlers that take one; by default a fake whose pushes have no reply.

    Returns:
        The handlers' results.

    Raises:
        LocalError: The payload cannot be sent, e.g. `InvalidPayload` for NaN.
        ValueError: The event is one of the protocol's own, which no handler gets.
        RuntimeError: An event loop is running here: `await deliver_async(…)` instead.

    >>> router = Router()
    >>> @router.on("add", payload=list[int])
    ... async def add(message: Message[list[int]]) -> int:
    ...     return sum(message.payload)
    >>> deliver(router, "room:lobby", "add", [1, 2]).check()
    [3]
    >>> deliver(router, "room:lobby", "add", ["one"]).errors[0].problem
    'Expected `int`, got `str` - at `$[0]`'
    """
    if _loop_is_running():
        raise RuntimeError("an event loop is running here: use `await deliver_async(…)`")
    with closing(asyncio.Runner()) as runner:  # makes a loop only if needed

        def finish(call: _Call) -> Any:
            return runner.run(call()) if call.handler.kind is HandlerKind.ASYNC else call()

        return Outcomes(
            [_caught(call, partial(finish, call)) for call in _calls(router, topic, event, payload, channel)]
        )


async def deliver_async(
    router: Router, topic: str, event: str, payload: Any = None, *, channel: FakeChannel | None = None
) -> Outcomes:
    """Like `deliver`, for a caller on an event loop: coroutine functions run on it, plain ones in a thread."""
    from ..asyncio.workers import is_stopped  # here, because `deliver` needs no asyncio client

    outcomes: list[Outcome] = []
    for call in _calls(router, topic, event, payload, channel):
        if call.handler.kind is HandlerKind.PLAIN:
            outcomes.append(await asyncio.to_thread(_caught, call, call))
            continue
        try:
            outcomes.append(Outcome(call.handler, await call()))
        except (Exception, asyncio.CancelledError) as error:
            if is_stopped(error):
                raise
            outcomes.append(Outcome(call.handler, error=error))
    return Outcomes(outcomes)


@dataclass(frozen=True, slots=True)
class _Call:
    """A handler and its arguments."""

    handler: Handler
    message: Message[Any]
    channel: FakeChannel

    def __call__(self) -> Any:
        returned = self.handler.call(self.handler.accept(self.message), self.channel.face(self.handler.kind))
        if self.handler.kind is HandlerKind.PLAIN and inspect.iscoroutine(returned):
            returned.close()
            raise TypeError(f"{self.handler.name} returned a coroutine: declare it with `async def` to have it awaited")
        return returned


def _calls(router: Router, topic: str, event: str, payload: Any, channel: FakeChannel | None) -> list[_Call]:
    """The handlers that the message reaches; it is decoded as by a client."""
    if event in RESERVED_EVENTS:
        raise ValueError(f"{event!r} is the protocol's own and reaches no handler; a `Peer` plays what a server does")
    message = V2().decode(server_frame(V2Server(), None, topic, event, {} if payload is None else payload))
    channel = channel or FakeChannel(topic)
    return [_Call(dispatch.handler, message, channel) for dispatch in router.dispatch(message)]


def _caught(call: _Call, run: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(call.handler, run())
    except (Exception, asyncio.CancelledError) as error:
        return Outcome(call.handler, error=error)


def _loop_is_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
