"""One topic, as an application meets it under asyncio."""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any, NoReturn

from msgspec import UNSET

from phx_proto.channel import Channel as CoreChannel
from phx_proto.errors import ChannelClosedByClient, InvalidHandler, MessageTimeout, PushTimeout
from phx_proto.events import ChannelEvent
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import F, decorator
from phx_proto.message import Message, Reply
from phx_proto.presence import Entries, Presence
from phx_proto.states import ChannelState

from ..client import calls
from ..client.batches import refuse_to_leave
from ..client.queues import everything, messages_only
from .streams import MessageStream

if TYPE_CHECKING:
    from .client import Client
    from .driver import AsyncioDriver


class Channel:
    """A topic on a client. Made by `Client.channel`, `Client.join` or `Client.joined`.

    It lives once: joined, rejoined whenever it has to be, and closed for good by a leave, a refused join, the server or
    the client's end. All waits are in seconds.
    """

    __slots__ = ("_client", "_core", "_driver")

    def __init__(self, core: CoreChannel, client: "Client", driver: "AsyncioDriver") -> None:
        self._core = core
        self._client = client
        self._driver = driver

    def __repr__(self) -> str:
        return repr(self._core)

    def __reduce__(self) -> NoReturn:
        refuse_to_leave(self.topic)

    @property
    def topic(self) -> str:
        """The topic."""
        return self._core.topic

    @property
    def state(self) -> ChannelState:
        """Where it stands."""
        return self._core.state

    @property
    def response(self) -> Any:
        """What the server answered to the latest join, any JSON value or bytes; `None` before."""
        return self._core.response

    @property
    def client(self) -> "Client":
        """The client it belongs to."""
        return self._client

    async def join(self, *, timeout: float | None = None) -> Any:
        """Join, now or as soon as the connection is open, and wait for the answer.

        Args:
            timeout: Seconds until the join is given up; `None` for the policy's, `math.inf` for none.

        Returns:
            What the server answered, any JSON value or bytes.

        Raises:
            JoinRefused: The server refused. The channel is closed.
            JoinTimeout: It did not succeed in time; `problem` and `last` say why. The channel is closed.
            LocalError: It was joined before, or the params cannot be sent.
        """
        return await self._driver.ask(calls.join(self._core, timeout=timeout))

    async def leave(self, *, timeout: float | None = None) -> None:
        """Leave, and wait until the server knows; it is over after `timeout` seconds at the latest."""
        await self._driver.ask(calls.leave(self._core, timeout=timeout))

    def begin_leave(self) -> None:
        """Send the leave, and do not wait for its answer."""
        self._driver.step(self._core.leave)

    async def push(
        self, event: str, payload: Any = UNSET, *, timeout: float | None = None, check: bool = True
    ) -> Reply:
        """Send an event and wait for its reply. Before the channel is joined, it waits for that first.

        Cancelling the wait cancels the push: unsent it is never sent, and a late reply is dropped.

        Args:
            event: The event's name.
            payload: Any JSON value (`None` is `null`), or bytes; `{}` where it is left out.
            timeout: Seconds from this call; `None` for the client's (`ClientOptions.timeout`), `math.inf` for no bound.
            check: Whether a reply with another status than `"ok"` is raised, or returned like any other.

        Raises:
            PushRejected: The reply's status was not `"ok"`.
            PushTimeout: No reply came in time.
            PushLost: The connection or the channel went away under it; `sent` tells whether it may have run.
            ChannelClosed: The channel is closed.
            LocalError: It cannot be sent: never joined, payload not JSON, buffer full.
        """
        rest = timeout if self._driver.transport.writable else await self._wait_writable(event, timeout)
        return await self._driver.ask(calls.push(self._core, event, payload, timeout=rest, check=check))

    async def cast(self, event: str, payload: Any = UNSET) -> None:
        """Send an event and want no reply; waits only while the write buffer is full. Raises what `push` raises."""
        if not self._driver.transport.writable:
            await self._driver.transport.wait_writable()
        self._driver.step(calls.cast(self._core, event, payload))

    def on(
        self, event: str, *, payload: Any = None, concurrency: int | None = None, executor: Executor | None = None
    ) -> Callable[[F], F]:
        """Register the decorated function for an event of this channel alone; see `Router.on`."""
        return decorator(partial(self.add, payload=payload, concurrency=concurrency, executor=executor), event)

    def add(
        self,
        function: Callable[..., Any],
        event: str,
        *,
        payload: Any = None,
        concurrency: int | None = None,
        executor: Executor | None = None,
    ) -> Handler:
        """Register a function for an event of this channel alone; `off` takes it back.

        Raises:
            InvalidHandler: It could never be called rightly, or not where the executor runs it.
        """
        handler = self._core.add(function, event, payload=payload, concurrency=concurrency, executor=executor)
        try:
            self._driver.check(handler)
        except InvalidHandler:
            self._core.off(handler)
            raise
        return handler

    def off(self, what: Handler | Callable[..., Any] | str) -> tuple[Handler, ...]:
        """Take handlers of this channel's own back, and give which; see `Router.off`.

        Raises:
            NotRegistered: There is none (any more).
        """
        return self._core.off(what)

    def messages(self) -> MessageStream[Message[Any]]:
        """Read the channel's messages one after another, beside its handlers.

        `async with channel.messages() as messages: async for message in messages: …`. Opened before the join it misses
        none. It ends when the channel is left or the client closed; otherwise it raises what ended the channel. What is
        not read counts as not handled, so a slow reader is felt by the server.
        """
        return MessageStream(self._driver.messages(self._core, messages_only))

    def stream(self) -> MessageStream[Message[Any] | ChannelEvent]:
        """Like `messages`, with the channel's lifecycle in order: `ChannelJoined`, `ChannelErrored`, `ChannelEnded`."""
        return MessageStream(self._driver.messages(self._core, everything))

    async def wait_for(
        self, event: str, predicate: Callable[[Message[Any]], bool] | None = None, *, timeout: float | None = None
    ) -> Message[Any]:
        """Wait for the next message of an event, one for which `predicate` holds if there is one.

        Raises:
            MessageTimeout: None came within `timeout` seconds; `None` waits as long as it takes.
            PhxError: The channel ended first; what ended it, `ChannelClosedByClient` where it was left.
        """
        try:
            async with self._driver.timeout(timeout), self.messages() as messages:
                async for message in messages:
                    if message.event == event and (predicate is None or predicate(message)):
                        return message
        except TimeoutError:
            if timeout is None:  # not of this call: the predicate's
                raise
            raise MessageTimeout(self.topic, event, timeout) from None
        raise ChannelClosedByClient(self.topic, "it was left, or the client was closed")

    def track_presence(self) -> Presence:
        """Keep track of who is present, best before the join; its `entries` are then always current.

        Changes come as `PresenceChanged` among `Client.events()`.
        """
        return self._core.track_presence()

    @property
    def present(self) -> Entries:
        """Who is present now, by key; `InvalidState` where `track_presence` was not called."""
        return self._core.present

    async def _wait_writable(self, event: str, given: float | None) -> float:
        """Wait until there is room in the write buffer; gives what is left of the timeout."""
        timeout = self._core.patience("push", given)
        began = self._driver.now()
        try:
            async with self._driver.timeout(None if timeout == inf else timeout):
                await self._driver.transport.wait_writable()
        except TimeoutError:
            raise PushTimeout(self.topic, event, timeout, sent=False) from None
        return timeout - (self._driver.now() - began)
