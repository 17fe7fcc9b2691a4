"""A channel of an application: one `ServerChannel` object for one join of one topic.

Its methods are called one at a time, in the order received: `join`, `joined`, then a handler for each message or
intercepted broadcast, and at last `terminate`, after every accepted join. Channels run concurrently. If a handler or
spawned work raises, even `SystemExit` and the like, its channel crashes, the error is reported, and nothing else is
affected. A handler that runs when its channel ends is not cancelled. A task that the application starts itself
(`asyncio.create_task`) is its own: the server does not cancel it, and a `SystemExit` in it ends the event loop, as
usual in asyncio.

Calls to an ended channel do nothing, because the caller cannot know in time. `LocalError`s (a payload that cannot
be encoded) are raised by the call; a handler that does not catch one crashes its channel, as on a real server.
"""

import inspect
from collections.abc import Callable, Collection, Coroutine
from typing import Any, ClassVar, Final, Protocol, TypeVar

from phx_proto.errors import InvalidHandler
from phx_proto.handlers.handler import handler_name
from phx_proto.handlers.router import decorator
from phx_proto.message import Reply
from phx_proto.server.events import MessageIn, Termination
from phx_proto.shown import shown

from .presence import ChannelPresence
from .socket import ServerSocket

F = TypeVar("F", bound=Callable[..., Any])

#: The response if the application returns none.
NO_RESPONSE: Final[dict[str, Any]] = {}
_MARK: Final = "__phx_events__"


class Refuse(Exception):
    """Raised in `join`: the join is refused. Raised in a handler: the reply has status `"error"`.

    Args:
        response: Any JSON value or bytes.
    """

    def __init__(self, response: Any = NO_RESPONSE) -> None:
        super().__init__("refused")
        self.response = response


def on(event: str) -> Callable[[F], F]:
    """Register a method of a `ServerChannel` for an event; it gets the payload. Several may be stacked.

    An event has one method in a class, else making the class raises `InvalidHandler`; a subclass may have another.

    Raises:
        InvalidHandler: The event is left out.
    """
    return decorator(_mark, event)


def _mark(function: Callable[..., Any], event: str) -> None:
    setattr(function, _MARK, (*getattr(function, _MARK, ()), event))


def claim(handlers: dict[str, Callable[..., Any]], event: str, function: Callable[..., Any]) -> None:
    """Register the function of an event.

    Raises:
        InvalidHandler: Another has it.
    """
    first = handlers.setdefault(event, function)
    if first is not function:
        problem = f"event {shown(event)} is handled by {handler_name(first)} already, and has one function"
        raise InvalidHandler(handler_name(function), problem)


class ChannelControl(Protocol):
    """The runner of a `ServerChannel`; see the channel's methods of the same names."""

    @property
    def presence(self) -> ChannelPresence: ...
    def push(self, event: str, payload: Any) -> None: ...
    def broadcast(self, event: str, payload: Any) -> None: ...
    def broadcast_from(self, event: str, payload: Any) -> None: ...
    def reply(self, message: MessageIn, reply: Reply) -> None: ...
    def stop(self) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, None]) -> None: ...


class ServerChannel:
    """One join of one topic by one client. Subclass it; every overridden method may also be a plain function.

    Attributes:
        topic: E.g. `"room:lobby"`.
        params: The client's params for the join: any JSON value or bytes.
        socket: The client's socket, with its own params, id and assigns.
        message: The current message, while a handler runs: for a later `reply`.
        intercept: A class attribute: the events whose broadcasts on its topic go to `handle_out`, not to the client.
    """

    intercept: ClassVar[Collection[str]] = ()

    topic: str
    params: Any
    socket: ServerSocket
    message: MessageIn | None = None
    _control: ChannelControl
    _events: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if isinstance(cls.intercept, str):
            raise InvalidHandler(cls.__qualname__, f"intercept is a collection of events: ({cls.intercept!r},)")
        own: dict[str, Callable[..., Any]] = {}
        for member in vars(cls).values():
            for event in getattr(member, _MARK, ()):
                claim(own, event, member)
        cls._events = {
            event: name
            for base in reversed(cls.__mro__)
            for name, member in vars(base).items()
            for event in getattr(member, _MARK, ())
        }

    # ---- to override -------------------------------------------------------------------------------------------------

    async def join(self, topic: str, params: Any) -> Any:
        """Answer a join: return the response (`None` for an empty one), or raise `Refuse`.

        Any other exception refuses the join as crashed. Pushing is not possible yet; see `joined`.
        """
        return None

    async def joined(self) -> None:
        """Called after the client has got the answer to its join, before its first message."""

    async def handle_in(self, event: str, payload: Any) -> Any:
        """Handle an event that has no `on` method.

        Returns:
            The response of an ok reply; a `Reply` for any status; `None` for no reply, or for one that comes later.

        Raises:
            Refuse: The response of an error reply.
        """
        raise NotImplementedError(f"{type(self).__name__} has no handler for event {shown(event)}")

    async def handle_out(self, event: str, payload: Any) -> None:
        """Handle a broadcast that the class intercepts: `push` to this client what it is to get, or nothing.

        It is called in order with the channel's messages. All channels share the payload: do not change it.
        """
        raise NotImplementedError(f"{type(self).__name__} intercepts {shown(event)} and has no handle_out")

    async def terminate(self, reason: Termination) -> None:
        """The channel has ended; its spawned work has been cancelled.

        After a leave, a `stop` or a crash the client is informed when this has returned: pushes and broadcasts here
        still reach it. If this raises, the client is informed of a crash. Nothing reaches the client if its connection
        has ended, if it has joined the topic again, or if the channel ended while a handler was running.
        """

    async def handle(self, event: str, payload: Any) -> Any:
        """Handle any event: by its `on` method, else by `handle_in`. Override it to act on every message."""
        name = self._events.get(event)
        if name is None:
            return await value_of(self.handle_in(event, payload))
        return await value_of(getattr(self, name)(payload))

    # ---- to call -----------------------------------------------------------------------------------------------------

    @property
    def presence(self) -> ChannelPresence:
        """The topic's presence. What this channel tracks there ends with it."""
        return self._control.presence

    def attach(self, control: ChannelControl, socket: ServerSocket, topic: str, params: Any) -> None:
        """Make it the channel of a join; called by the server after `__init__`."""
        self._control, self.socket, self.topic, self.params = control, socket, topic, params

    def push(self, event: str, payload: Any) -> None:
        """Send an event to this client alone.

        Raises:
            LocalError: The payload cannot be encoded, or the join was not answered yet.
        """
        self._control.push(event, payload)

    def broadcast(self, event: str, payload: Any) -> None:
        """Send an event to every client that has joined the topic, this one included.

        Raises:
            LocalError: The payload cannot be encoded for one of them; it was sent to none.
        """
        self._control.broadcast(event, payload)

    def broadcast_from(self, event: str, payload: Any) -> None:
        """Send an event to every other client that has joined the topic. Raises as `broadcast`."""
        self._control.broadcast_from(event, payload)

    def reply(self, message: MessageIn, response: Any = NO_RESPONSE, *, status: str = "ok") -> None:
        """Answer a message whose handler returned `None`, at any time.

        Args:
            message: The value of `self.message` in the handler. As in Phoenix, a message can be answered twice, or
                without a ref: clients ignore such a reply.
            response: Any JSON value or bytes.
            status: Any text.

        Raises:
            LocalError: The response cannot be encoded, or the status is not text.
            ValueError: The message came to another channel, e.g. another client's: only that one can answer it.
        """
        self._control.reply(message, Reply(status, response))

    def stop(self) -> None:
        """End the channel once the current message is handled and answered. Its client will not join it again."""
        self._control.stop()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the channel. It is cancelled when the channel ends; if it raises, the channel crashes.

        Spawn from `joined` on: work spawned in `join` may run before the client has the answer.

        Raises:
            TypeError: It is not a coroutine.
        """
        self._control.spawn(work)


async def value_of(result: Any) -> Any:
    """The result of a method that may be a coroutine function or a plain one."""
    return await result if inspect.isawaitable(result) else result
