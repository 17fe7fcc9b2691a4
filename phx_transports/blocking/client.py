"""A client without `await`, as an application meets it: on threads and on wsproto alike."""

import contextlib
import inspect
from collections.abc import Generator
from types import TracebackType
from typing import Any, Self

from phx_proto.core import Stats
from phx_proto.errors import InvalidPayload, LocalError
from phx_proto.message import PHX_JOIN
from phx_proto.queues import Bound
from phx_proto.states import SocketState

from ..client import calls
from ..client.signals import SignalPolicy
from .channel import Channel
from .driver import BlockingDriver
from .streams import EventStream


class Client:
    """A connection to a Phoenix server that is kept up, and its channels. Made by `connect`.

    Of `phx_transports.threads` any thread may use it; of `phx_transports.wsproto` the one that does the client's work
    while it waits in a call.

    Attributes:
        router: The handlers; they may be added and removed at any time.
    """

    def __init__(self, driver: BlockingDriver) -> None:
        self.router = driver.proto.router
        self._driver = driver
        self._proto = driver.proto
        driver.proto.unjoined.context = Channel(driver.proto.unjoined, self, driver)

    def __repr__(self) -> str:
        return f"Client({self._proto.endpoint.redacted!r}, {self.state.value})"

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

    @property
    def state(self) -> SocketState:
        """Where the connection stands."""
        return self._proto.state

    @property
    def error(self) -> BaseException | None:
        """Why it ended; `None` while it has not, or where the application closed it."""
        return self._driver.session.error

    @property
    def stats(self) -> Stats:
        """Counters, as they are now."""
        return self._driver.stats

    def channel(self, topic: str, params: Any = None, *, bound: Bound | None = None) -> Channel:
        """Make a channel that is not joined yet, to give it handlers or streams before its join.

        Args:
            topic: The topic.
            params: Payload of its joins; or a plain callable read at every join: to resume from what was seen last, for
                instance.
            bound: Where messages that wait are dropped, if anywhere.

        Raises:
            TopicInUse: A live channel of the topic exists.
            ConnectionClosed: The client is closed.
            InvalidHandler: The router has a coroutine function for the topic, or another handler that cannot run.
        """
        if inspect.iscoroutinefunction(params):
            problem = "are a coroutine function, and nobody awaits it here: make it a plain one"
            raise InvalidPayload(topic, PHX_JOIN, "the params", problem)
        self._driver.check_routes(topic)

        def make(now: float) -> Channel:
            core = self._proto.channel(topic, params, bound=bound)
            core.context = channel = Channel(core, self, self._driver)
            return channel

        return self._driver.step(make)

    def join(self, topic: str, params: Any = None, *, timeout: float | None = None) -> Channel:
        """Join a topic, and wait for the server's answer. Raises what `channel` and `Channel.join` raise."""
        channel = self.channel(topic, params)
        try:
            channel.join(timeout=timeout)
        except LocalError:  # the params cannot be sent; the topic is free again
            channel.leave()
            raise
        return channel

    @contextlib.contextmanager
    def joined(self, topic: str, params: Any = None, *, timeout: float | None = None) -> Generator[Channel, None, None]:
        """Join a topic for the length of a block, and leave it at its end.

        Where an exception or an interrupt ends the block, the leave is sent and its answer is not waited for.
        """
        channel = self.join(topic, params, timeout=timeout)
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

    def reconnect(self) -> None:
        """Drop the connection and connect anew at once, e.g. with a new token; channels rejoin."""
        self._driver.step(self._proto.reconnect)

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

    def stop(self) -> None:
        """Begin to close gracefully, as `close` does, and do not wait for it; also from within a handler."""
        self._driver.stop()

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


def opened(driver: BlockingDriver, timeout: float) -> Client:
    """A client that has connected within so many seconds; raises why it has not."""
    client = Client(driver)
    try:
        driver.start(timeout)
        client.wait_connected()
    except BaseException:
        client.abort()
        raise
    return client
