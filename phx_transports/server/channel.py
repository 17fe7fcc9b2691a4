"""A channel as an application writes it: one `ServerChannel` object is one join of one topic.

Its calls come one at a time, in the order of the wire: `join`, `joined`, then a handler for each message or intercepted
broadcast, and `terminate` last, which follows every join that was accepted. Channels run beside each other. A handler
that raises, `SystemExit` and the like included, crashes its channel, is reported, and harms nothing else; a handler
that runs when its channel ends is left to finish. So it is for what `spawn` runs; a task that the application makes by
itself (`asyncio.create_task`) is its own: the server does not cancel it, and a `SystemExit` in it ends the event loop,
as asyncio does.

Calls into a channel that has ended do nothing, for the caller cannot know in time. `LocalError`s (a payload that cannot
be encoded) are raised at the call, and crash the channel when its handler lets them through, as on a real server.
"""

import inspect
from collections.abc import Callable, Collection, Coroutine
from typing import Any, ClassVar, Final, Protocol, TypeVar

from phx_proto.errors import InvalidHandler
from phx_proto.message import Reply
from phx_proto.server.events import MessageIn, Termination
from phx_proto.shown import shown

from .presence import ChannelPresence
from .socket import ServerSocket

F = TypeVar("F", bound=Callable[..., Any])

#: The response where an application gives none.
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
    """Register a method of a `ServerChannel` for an event; it is called with the payload. It may be stacked."""

    def mark(function: F) -> F:
        setattr(function, _MARK, (*getattr(function, _MARK, ()), event))
        return function

    return mark


class ChannelControl(Protocol):
    """What a `ServerChannel` asks of what runs it; see its methods of the same names."""

    @property
    def presence(self) -> ChannelPresence: ...
    def push(self, event: str, payload: Any) -> None: ...
    def broadcast(self, event: str, payload: Any) -> None: ...
    def broadcast_from(self, event: str, payload: Any) -> None: ...
    def reply(self, message: MessageIn, reply: Reply) -> None: ...
    def stop(self) -> None: ...
    def spawn(self, work: Coroutine[Any, Any, None]) -> None: ...


class ServerChannel:
    """One join of one topic by one client. Subclass it; every method to override may also be a plain function.

    Attributes:
        topic: E.g. `"room:lobby"`.
        params: What the client joined with: any JSON value or bytes.
        socket: Of the client, with its own params, id and assigns.
        message: The one in hand, while a handler runs: for `reply` later.
        intercept: A class's own: the events whose broadcasts on its topic go to `handle_out`, not to the client.
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
        cls._events = {
            event: name
            for base in reversed(cls.__mro__)
            for name, member in vars(base).items()
            for event in getattr(member, _MARK, ())
        }

    # ---- to override -------------------------------------------------------------------------------------------------

    async def join(self, topic: str, params: Any) -> Any:
        """Answer a join: return the response (`None` for an empty one), or raise `Refuse`.

        Anything else that is raised refuses the join as crashed. Nothing can be pushed yet; see `joined`.
        """
        return None

    async def joined(self) -> None:
        """Comes after the client was told that it has joined, before its first message."""

    async def handle_in(self, event: str, payload: Any) -> Any:
        """Handle an event that has no `on` method.

        Returns:
            The response of an ok reply; a `Reply` for any status; `None` for no reply, or for one that comes later.

        Raises:
            Refuse: The response of an error reply.
        """
        raise NotImplementedError(f"{type(self).__name__} has no handler for event {shown(event)}")

    async def handle_out(self, event: str, payload: Any) -> None:
        """Handle a broadcast that the class intercepts: `push` what this client shall get of it, or nothing.

        It comes in its turn among the channel's messages. Everyone's channel gets the same payload: leave it as it is.
        """
        raise NotImplementedError(f"{type(self).__name__} intercepts {shown(event)} and has no handle_out")

    async def terminate(self, reason: Termination) -> None:
        """The channel has ended; what was spawned has been cancelled.

        After a leave, a `stop` or a crash the client is told of the end when this has returned: what is pushed and
        broadcast here still reaches it. If this raises, it is told of a crash. Nothing reaches the client when its
        connection has ended, when it has joined the topic again, or when the end came while a handler was running.
        """

    async def handle(self, event: str, payload: Any) -> Any:
        """Handle any event: by its `on` method, else by `handle_in`. For what concerns every message."""
        name = self._events.get(event)
        if name is None:
            return await value_of(self.handle_in(event, payload))
        return await value_of(getattr(self, name)(payload))

    # ---- to call -----------------------------------------------------------------------------------------------------

    @property
    def presence(self) -> ChannelPresence:
        """The presence of the topic. What this channel tracks there ends with it."""
        return self._control.presence

    def attach(self, control: ChannelControl, socket: ServerSocket, topic: str, params: Any) -> None:
        """Make it the channel of a join; called by the server, after `__init__`."""
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
            message: What `self.message` was in the handler.
            response: Any JSON value or bytes.
            status: Any text.

        Raises:
            LocalError: The response cannot be encoded.
        """
        self._control.reply(message, Reply(status, response))

    def stop(self) -> None:
        """End the channel, once the message in hand is handled and replied to. Its client will not join it again."""
        self._control.stop()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside the channel. It is cancelled when the channel ends; if it raises, the channel crashes.

        Spawn from `joined` on: what `join` spawns may run before the client is told.
        """
        self._control.spawn(work)


async def value_of(result: Any) -> Any:
    """What a method gave that may be a coroutine function, or a plain one."""
    return await result if inspect.isawaitable(result) else result
