"""What an application uses where nobody awaits, on threads and on wsproto alike: a client, and its channels."""

import contextlib
from collections.abc import Callable, Generator
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self, overload

from msgspec import UNSET

from phx_proto.errors import (
    ChannelClosedByClient,
    LocalError,
    MessageTimeout,
    PushTimeout,
)
from phx_proto.events import ChannelEvent
from phx_proto.handlers.handler import WILDCARD
from phx_proto.handlers.payloads import D, P, PayloadType, SpecialType
from phx_proto.message import Message, Reply
from phx_proto.resume import Resume

from ..client import calls
from ..client.face import ChannelFace, ClientFace
from ..client.options import first_timeout
from ..client.queues import everything, messages_only
from ..client.signals import SignalPolicy
from .driver import BlockingDriver
from .streams import EventStream, MessageStream
from .waits import deadline_after


class Channel(ChannelFace["Client", BlockingDriver]):
    """A topic on a client. Made by `Client.channel`, `Client.join` or `Client.joined`.

    It lives once: joined, rejoined whenever it has to be, and closed for good by a leave, a refused join, the server or
    the client's end. All waits are in seconds.
    """

    __slots__ = ()

    @overload
    def join(self, *, response: type[P], timeout: float | None = None) -> P: ...

    @overload
    def join(self, *, response: object = None, timeout: float | None = None) -> Any: ...

    def join(self, *, response: Any = None, timeout: float | None = None) -> Any:
        """Join, now or as soon as the connection is open, and wait for the answer.

        Args:
            response: The type of the server's answer, to this join and to every rejoin: it is decoded into it once,
                numbers as they were written.
            timeout: Seconds until the join is given up; `None` for the policy's, `math.inf` for none.

        Returns:
            What the server answered: any JSON value or bytes, or of the type that was given.

        Raises:
            JoinRefused: The server refused. The channel is closed.
            InvalidReply: The answer cannot be read, or is not of the type. The topic is left.
            JoinTimeout: It did not succeed in time; `problem` and `last` say why. The channel is closed.
            LocalError: It was joined before, the params cannot be sent, or no answer can be of the type.
        """
        return self._driver.ask(calls.join(self._core, response=response, timeout=timeout))

    def leave(self, *, timeout: float | None = None) -> None:
        """Leave, and wait until the server knows; it is over after `timeout` seconds at the latest."""
        self._driver.ask(calls.leave(self._core, timeout=timeout))

    @overload
    def push(
        self,
        event: str,
        payload: Any = UNSET,
        *,
        response: type[P],
        timeout: float | None = None,
        check: Literal[True] = True,
    ) -> Reply[P]: ...

    @overload
    def push(
        self,
        event: str,
        payload: Any = UNSET,
        *,
        response: object = None,
        timeout: float | None = None,
        check: bool = True,
    ) -> Reply: ...

    def push(
        self,
        event: str,
        payload: Any = UNSET,
        *,
        response: Any = None,
        timeout: float | None = None,
        check: bool = True,
    ) -> Reply:
        """Send an event and wait for its reply. Before the channel is joined, it waits for that first.

        An interrupt (`KeyboardInterrupt`) cancels the push: unsent it is never sent, and a late reply is dropped.

        Args:
            event: The event's name.
            payload: Any JSON value (`None` is `null`), or bytes; `{}` where it is left out.
            response: The type of an ok reply's response: decoded into it once, numbers as they were written.
            timeout: Seconds from this call; `None` for the client's (`ClientOptions.timeout`), `math.inf` for no bound.
            check: Whether a reply with another status than `"ok"` is raised. If not, it is returned, and its response
                stays as it came, whatever type was asked for.

        Raises:
            PushRejected: The reply's status was not `"ok"`.
            InvalidReply: The reply cannot be read, or its response is not of the type; what was asked for may be done.
            PushTimeout: No reply came in time.
            PushLost: The connection or the channel went away under it; `sent` tells whether it may have run.
            ChannelClosed: The channel is closed.
            LocalError: It cannot be sent: never joined, payload not JSON, buffer full, no type for a response.
        """
        rest = timeout if self._driver.writable(self._core.link) else self._wait_writable(event, timeout)
        call = calls.push(self._core, event, payload, response=response, timeout=rest, check=check)
        return self._driver.ask(call)

    def cast(self, event: str, payload: Any = UNSET) -> None:
        """Send an event and want no reply; waits only while the write buffer is full. Raises what `push` raises."""
        if not self._driver.writable(self._core.link):
            self._driver.wait_writable(self._core.link)
        self._driver.send(calls.cast(self._core, event, payload))

    def messages(
        self, event: str = WILDCARD, *, payload: PayloadType[D] = None, timeout: float | None = None
    ) -> MessageStream[Message[D]]:
        """Read the channel's messages one after another, beside its handlers.

        `with channel.messages() as messages: for message in messages: …`. Opened before the join it misses
        none. It ends when the channel is left or the client closed; otherwise it raises what ended the channel. What is
        not read counts as not handled, so a slow reader is felt by the server.

        Args:
            event: Whose messages; `"*"` for every event's.
            payload: The payload's type, as at `Router.add`. A message that does not fit is passed over, and reported to
                `on_handler_error` like a handler's, with `PayloadMismatch`; so with `fail_fast` it ends the client.
            timeout: Seconds to wait for each, after which `TimeoutError` is raised; one may go on reading.

        Raises:
            InvalidEvent: No message can be of such an event.
            InvalidPayloadType: Nothing can be decoded into the type.
        """
        return MessageStream(
            self._driver.messages(self._core, messages_only, event, payload), self._driver, timeout=timeout
        )

    def stream(
        self, event: str = WILDCARD, *, payload: PayloadType[D] = None, timeout: float | None = None
    ) -> MessageStream[Message[D] | ChannelEvent]:
        """Like `messages`, with the channel's lifecycle in order: `ChannelJoined`, `ChannelErrored`, `ChannelEnded`."""
        return MessageStream(
            self._driver.messages(self._core, everything, event, payload), self._driver, timeout=timeout
        )

    @overload
    def wait_for(
        self,
        event: str,
        predicate: Callable[[Message[P]], bool] | None = None,
        *,
        payload: type[P],
        timeout: float | None = None,
    ) -> Message[P]: ...

    @overload
    def wait_for(
        self,
        event: str,
        predicate: Callable[[Message], bool] | None = None,
        *,
        payload: SpecialType | None = None,
        timeout: float | None = None,
    ) -> Message: ...

    def wait_for(
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
            predicate: Whether it is the one; called with each message of the event.
            payload: The payload's type, as at `messages`.
            timeout: Seconds to wait for it; `None` for as long as it takes.

        Raises:
            MessageTimeout: None came in time.
            PhxError: The channel ended first; what ended it, `ChannelClosedByClient` where it was left.
            InvalidEvent: No message can be of such an event.
            InvalidPayloadType: Nothing can be decoded into the type.
        """
        deadline = deadline_after(timeout)
        with self.messages(event, payload=payload) as messages:
            while True:
                try:
                    message = messages.next(timeout=deadline - monotonic())
                except StopIteration:
                    raise ChannelClosedByClient(self.topic, "it was left, or the client was closed") from None
                except TimeoutError:
                    raise MessageTimeout(self.topic, event, timeout or 0.0) from None
                if predicate is None or predicate(message):
                    return message

    def _wait_writable(self, event: str, given: float | None) -> float:
        """Wait until there is room in the write buffer; gives what is left of the timeout."""
        timeout = self._core.patience("push", given)
        began = monotonic()
        if not self._driver.wait_writable(self._core.link, timeout):
            raise PushTimeout(self.topic, event, timeout, sent=False)
        return timeout - (monotonic() - began)


class Client(ClientFace[Channel, BlockingDriver]):
    """A connection to a Phoenix server that is kept up, and its channels. Made by `connect`.

    Of `phx_transports.threads` any thread may use it; of `phx_transports.wsproto` the one that does the client's work
    while it waits in a call.
    """

    _channel_type = Channel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.close()
        finally:
            self.abort()  # does nothing where it has closed

    def join(
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
            channel.join(response=response, timeout=timeout)
        except LocalError:  # the params cannot be sent; the topic is free again
            channel.leave()
            raise
        return channel

    @contextlib.contextmanager
    def joined(
        self,
        topic: str,
        params: Any = None,
        *,
        response: Any = None,
        timeout: float | None = None,
        resume: Resume | None = None,
    ) -> Generator[Channel, None, None]:
        """Join a topic for the length of a block, and leave it at its end.

        Where an exception or an interrupt ends the block, the leave is sent and its answer is not waited for.
        """
        channel = self.join(topic, params, response=response, timeout=timeout, resume=resume)
        try:
            yield channel
        except BaseException:
            channel.begin_leave()
            raise
        channel.leave()

    def wait_connected(self, *, timeout: float | None = None) -> None:
        """Wait until the connection is open; raises why the client ended, if it did, and `TimeoutError`."""
        self._driver.wait_connected(timeout)

    def wait_closed(self, *, timeout: float | None = None) -> None:
        """Wait until the client has ended; raises why, unless the application closed it, and `TimeoutError`."""
        if not self._driver.wait_ended(timeout):
            raise TimeoutError("the client has not ended in time")
        self._raise_error()

    def ping(self, *, timeout: float | None = None) -> float:
        """Send a heartbeat, and wait for its answer.

        Returns:
            How long it took, in seconds.

        Raises:
            InvalidState: There is no open connection.
            PushTimeout: No answer came in time.
            PushLost: The connection went away.
        """
        return self._driver.ask(calls.ping(self._proto, timeout=timeout))

    def events(self, *, timeout: float | None = None) -> EventStream:
        """What happens to the client: `with client.events() as events: for event in events: …`.

        Args:
            timeout: Seconds to wait for each, after which `TimeoutError` is raised; one may go on reading.
        """
        return EventStream(self._driver.events(), self._driver, timeout=timeout)

    def run(self, *, timeout: float | None = None, signals: SignalPolicy = "unclaimed") -> None:
        """Run until closed, or for so long. SIGINT and SIGTERM close gracefully; a second one drops the connection.

        It goes on while channels come and go, also when the last has ended: `events()` has `ChannelEnded` for that.

        Args:
            timeout: Seconds after which it returns, and the client goes on; `None` for as long as it lives.
            signals: Which of the two it takes: those that are `"unclaimed"`, so that those of a web server it runs in
                stay the server's; `"all"`; or `"none"`. Only the main thread can take any.

        Raises:
            PhxError: What ended the client, if not the application or a signal.
            SystemExit: A handler called `sys.exit()`: the client closed gracefully. So with all that is no `Exception`.
        """
        if self._driver.run(timeout, signals):
            self._raise_error()

    def close(self) -> None:
        """Close gracefully: no new messages, let handlers finish (pushes still work), leave, close with 1000.

        It takes `drain_timeout` seconds at most. Called from within a handler, it only begins, for it cannot wait for
        the handler that it is called from.
        """
        self._driver.stop()
        self._driver.end()

    def abort(self) -> None:
        """Close at once, without leaves or handshake. Handlers that run are left to end by themselves."""
        self._driver.abort()

    def _raise_error(self) -> None:
        if self.error is not None:
            raise self.error


def opened(driver: BlockingDriver, timeout: float | None, *, wait: bool) -> Client:
    """A client that connects within so many seconds; where it is waited for, this raises why it has not."""
    client = Client(driver)
    try:
        driver.start(first_timeout(timeout, wait=wait))
        if wait:
            client.wait_connected()
    except BaseException:
        client.abort()
        raise
    return client
