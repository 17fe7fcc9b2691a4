"""What an application uses under asyncio: a client, and its channels."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from math import inf
from typing import Any, Literal, overload

from msgspec import UNSET

from phx_proto.errors import ChannelClosedByClient, LocalError, MessageTimeout, PushTimeout
from phx_proto.events import ChannelEvent
from phx_proto.handlers.handler import WILDCARD
from phx_proto.handlers.payloads import D, P, PayloadType, SpecialType
from phx_proto.message import Message, Reply
from phx_proto.resume import Resume

from ..client import calls
from ..client.face import ChannelFace, ClientFace
from ..client.queues import everything, messages_only
from ..client.signals import SignalPolicy
from .driver import AsyncioDriver
from .signals import signals_to
from .streams import EventStream, MessageStream


class Channel(ChannelFace["Client", AsyncioDriver]):
    """A topic on a client. Made by `Client.channel`, `Client.join` or `Client.joined`.

    It is used once: joined, rejoined whenever necessary, and closed for good by a leave, a refused join, the server or
    the client's end. All timeouts are in seconds.
    """

    __slots__ = ()

    @overload
    async def join(self, *, response: type[P], timeout: float | None = None) -> P: ...

    @overload
    async def join(self, *, response: object = None, timeout: float | None = None) -> Any: ...

    async def join(self, *, response: Any = None, timeout: float | None = None) -> Any:
        """Join, now or as soon as the connection is open, and wait for the answer.

        Args:
            response: The type of the server's answer, to this join and to every rejoin. It is decoded into it directly,
                with numbers as they were written.
            timeout: Seconds until the join is given up; `None` for the policy's, `math.inf` for none.

        Returns:
            The server's answer: any JSON value or bytes, or a value of the given type.

        Raises:
            JoinRefused: The server refused. The channel is closed.
            InvalidReply: The answer cannot be read, or is not of the type. The topic is left.
            JoinTimeout: It did not succeed in time; `problem` and `last` say why. The channel is closed.
            LocalError: It was joined before, the params cannot be sent, or no answer can be of the type.
        """
        return await self._driver.ask(calls.join(self._core, response=response, timeout=timeout))

    async def leave(self, *, timeout: float | None = None) -> None:
        """Leave, and wait for the server's answer, at most `timeout` seconds; then it is over in any case."""
        await self._driver.ask(calls.leave(self._core, timeout=timeout))

    @overload
    async def push(
        self,
        event: str,
        payload: Any = UNSET,
        *,
        response: type[P],
        timeout: float | None = None,
        check: Literal[True] = True,
    ) -> Reply[P]: ...

    @overload
    async def push(
        self,
        event: str,
        payload: Any = UNSET,
        *,
        response: object = None,
        timeout: float | None = None,
        check: bool = True,
    ) -> Reply: ...

    async def push(
        self,
        event: str,
        payload: Any = UNSET,
        *,
        response: Any = None,
        timeout: float | None = None,
        check: bool = True,
    ) -> Reply:
        """Send an event and wait for its reply. Before the channel is joined, it waits for that first.

        Cancelling the wait cancels the push: if it is unsent, it is never sent; a late reply is dropped.

        Args:
            event: The event's name.
            payload: Any JSON value (`None` is `null`), or bytes; `{}` by default.
            response: The type of an ok reply's response: decoded into it directly, with numbers as they were written.
            timeout: Seconds from this call; `None` for the client's (`ClientOptions.timeout`), `math.inf` for no bound.
            check: Whether to raise if the reply's status is not `"ok"`. If not, such a reply is returned, and its
                response stays undecoded, whatever type was asked for.

        Raises:
            PushRejected: The reply's status was not `"ok"`.
            InvalidReply: The reply cannot be read, or its response is not of the type; the server may have run it.
            PushTimeout: No reply came in time.
            PushLost: The connection or the channel was lost before the reply; `sent` tells whether it may have run.
            ChannelClosed: The channel is closed.
            LocalError: It cannot be sent: never joined, payload not JSON, buffer full, no type for a response.
        """
        rest = (
            timeout if self._driver.transport.writable(self._core.link) else await self._wait_writable(event, timeout)
        )
        call = calls.push(self._core, event, payload, response=response, timeout=rest, check=check)
        return await self._driver.ask(call)

    async def cast(self, event: str, payload: Any = UNSET) -> None:
        """Send an event without a reply; waits only while the write buffer is full. Raises what `push` raises."""
        self._driver.check_loop()
        if not self._driver.transport.writable(self._core.link):
            await self._driver.transport.wait_writable(self._core.link)
        self._driver.step(calls.cast(self._core, event, payload))

    def messages(self, event: str = WILDCARD, *, payload: PayloadType[D] = None) -> MessageStream[Message[D]]:
        """Read the channel's messages one after another, beside its handlers.

        `async with channel.messages() as messages: async for message in messages: …`. If opened before the join, it
        misses none. It ends when the channel is left or the client closed; otherwise it raises what ended the channel.
        Unread messages count as not handled, so a slow reader slows the server down.

        Args:
            event: The event to read; `"*"` for every event.
            payload: The payload's type, as at `Router.add`. A message that does not fit is skipped, and reported to
                `on_handler_error` as a handler's error, with `PayloadMismatch`; with `fail_fast` that ends the client.

        Raises:
            InvalidEvent: No message can be of such an event.
            InvalidPayloadType: Nothing can be decoded into the type.
        """
        return MessageStream(self._driver.messages(self._core, messages_only, event, payload), self._driver.check_loop)

    def stream(
        self, event: str = WILDCARD, *, payload: PayloadType[D] = None
    ) -> MessageStream[Message[D] | ChannelEvent]:
        """Like `messages`, with the channel's lifecycle in order: `ChannelJoined`, `ChannelErrored`, `ChannelEnded`."""
        return MessageStream(self._driver.messages(self._core, everything, event, payload), self._driver.check_loop)

    @overload
    async def wait_for(
        self,
        event: str,
        predicate: Callable[[Message[P]], bool] | None = None,
        *,
        payload: type[P],
        timeout: float | None = None,
    ) -> Message[P]: ...

    @overload
    async def wait_for(
        self,
        event: str,
        predicate: Callable[[Message], bool] | None = None,
        *,
        payload: SpecialType | None = None,
        timeout: float | None = None,
    ) -> Message: ...

    async def wait_for(
        self,
        event: str,
        predicate: Callable[[Message], bool] | None = None,
        *,
        payload: Any = None,
        timeout: float | None = None,
    ) -> Message:
        """Wait for the next message of an event, one for which `predicate` holds if there is one.

        Args:
            event: The event's name; `"*"` for any.
            predicate: Whether it is the wanted one; called with each message of the event.
            payload: The payload's type, as at `messages`.
            timeout: Seconds to wait for it; `None` for as long as it takes.

        Raises:
            MessageTimeout: None came in time.
            PhxError: The channel ended first: the error that ended it, `ChannelClosedByClient` after a leave.
            InvalidEvent: No message can be of such an event.
            InvalidPayloadType: Nothing can be decoded into the type.
        """
        try:
            async with self._driver.timeout(timeout), self.messages(event, payload=payload) as messages:
                async for message in messages:
                    if predicate is None or predicate(message):
                        return message
        except TimeoutError:
            if timeout is None:  # an error of the predicate's, not of this timeout
                raise
            raise MessageTimeout(self.topic, event, timeout) from None
        raise ChannelClosedByClient(self.topic, "it was left, or the client was closed")

    async def _wait_writable(self, event: str, given: float | None) -> float:
        """Wait until there is room in the write buffer; returns what is left of the timeout."""
        timeout = self._core.patience("push", given)
        began = self._driver.now()
        try:
            async with self._driver.timeout(None if timeout == inf else timeout):
                await self._driver.transport.wait_writable(self._core.link)
        except TimeoutError:
            raise PushTimeout(self.topic, event, timeout, sent=False) from None
        return timeout - (self._driver.now() - began)


class Client(ClientFace[Channel, AsyncioDriver]):
    """A connection to a Phoenix server that is kept up, and its channels. Made by `connect`."""

    _channel_type = Channel

    async def join(
        self,
        topic: str,
        params: Any = None,
        *,
        response: Any = None,
        timeout: float | None = None,
        resume: Resume | None = None,
    ) -> Channel:
        """Join a topic, and wait for the server's answer, which is the channel's `response`.

        The arguments, and what is raised, are those of `channel` and `Channel.join`.
        """
        channel = self.channel(topic, params, resume=resume)
        try:
            await channel.join(response=response, timeout=timeout)
        except LocalError:  # the params cannot be sent; the topic is free again
            await channel.leave()
            raise
        return channel

    @contextlib.asynccontextmanager
    async def joined(
        self,
        topic: str,
        params: Any = None,
        *,
        response: Any = None,
        timeout: float | None = None,
        resume: Resume | None = None,
    ) -> AsyncGenerator[Channel, None]:
        """Join a topic for the length of a block, and leave it at its end.

        If an exception or a cancellation ends the block, the leave is sent without waiting for its answer.
        """
        channel = await self.join(topic, params, response=response, timeout=timeout, resume=resume)
        try:
            yield channel
        except BaseException:
            channel.begin_leave()
            raise
        await channel.leave()

    async def wait_connected(self, *, timeout: float | None = None) -> None:
        """Wait until the connection is open; raises why the client ended, if it did, and `TimeoutError`."""
        await self._driver.wait(self._driver.session.wait_connected, timeout)

    async def wait_closed(self, *, timeout: float | None = None) -> None:
        """Wait until the client has ended; raises why, unless the application closed it, and `TimeoutError`."""
        await self._driver.wait_closed(timeout)

    async def ping(self, *, timeout: float | None = None) -> float:
        """Send a heartbeat, and wait for its answer.

        Returns:
            The round-trip time, in seconds.

        Raises:
            InvalidState: There is no open connection.
            PushTimeout: No answer came in time.
            PushLost: The connection went away.
        """
        return await self._driver.ask(calls.ping(self._proto, timeout=timeout))

    def events(self) -> EventStream:
        """The client's events: `async with client.events() as events: async for event in events: …`."""
        return EventStream(self._driver.events(), self._driver.check_loop)

    async def run(self, *, timeout: float | None = None, signals: SignalPolicy = "unclaimed") -> None:
        """Run until closed, or until the timeout. SIGINT and SIGTERM close gracefully; a second one aborts.

        It goes on without any channel, also when the last has ended: `events()` has `ChannelEnded` for that.

        Args:
            timeout: Seconds after which it returns, and the client goes on; `None` for none.
            signals: Which of the two it handles: those that are `"unclaimed"`, so that a web server keeps its own;
                `"all"`; or `"none"`. Only the main thread can handle any.

        Raises:
            PhxError: What ended the client, if not the application or a signal.
            SystemExit: A handler called `sys.exit()`; the client closed gracefully. The same for any non-`Exception`.
        """
        with signals_to(self._driver.on_signal, signals):
            try:
                await self._driver.wait_closed(timeout)
            except TimeoutError as error:
                if error is self.error:
                    raise

    async def close(self) -> None:
        """Close gracefully: no new messages, let handlers finish (pushes still work), leave, close with 1000.

        It takes at most `drain_timeout` seconds. Within a handler it returns at once: the close waits for handlers.
        """
        self._driver.check_loop()
        self.stop()
        await self._wait_ended()

    async def abort(self) -> None:
        """Close at once, without leaves or handshake; handlers on the loop are cancelled."""
        self._driver.check_loop()
        self._driver.drop()
        await self._wait_ended()

    async def _wait_ended(self) -> None:
        if self._driver.session.is_here and not self._driver.in_handler:
            try:
                await self.wait_closed()
            except BaseException as error:  # `run` and `wait_closed` raise why the client ended
                if error is not self.error:
                    raise
