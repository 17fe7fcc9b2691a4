"""A client on asyncio, as an application meets it: `connect`, and what that gives."""

import contextlib
import random
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Executor
from ssl import SSLContext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from phx_proto.client import ClientProtocol
from phx_proto.commands import Provider
from phx_proto.core import Stats
from phx_proto.endpoint import Headers, Params
from phx_proto.errors import LocalError
from phx_proto.formats import Serializer
from phx_proto.handlers.router import Router
from phx_proto.options import ClientOptions
from phx_proto.queues import Bound
from phx_proto.states import SocketState

from ..client import calls
from ..client.options import ClientSettings
from ..client.reports import OnHandlerError, log_handler_error
from ..client.signals import SignalPolicy
from ..websocket.cutter import MAX_SIZE
from ..websocket.options import NetworkOptions
from ..websocket.proxies import proxy_secrets
from .channel import Channel
from .connection import Factory
from .driver import AsyncioDriver
from .handlers import placement
from .interfaces import TransportFactory
from .signals import signals_to
from .streams import EventStream


class connect:  # noqa: N801 - used like a function
    """Connect to a Phoenix server, and stay connected until closed.

    `async with connect(url) as client:` closes gracefully at the end, at once if an exception ends it;
    `client = await connect(url)` leaves that to you.

    Args:
        url: The socket's mount, e.g. `"wss://example.com/socket"`.
        params: For the server's `connect/3`: a mapping, or a callable read again at every connect. A plain callable
            runs on the loop and must not block; an `async` one may take its time.
        auth_token: For a socket with `auth_token: true`; a string, or a callable likewise.
        headers: To send with the handshake.
        path: Follows the mount instead of `/websocket`, for a socket with a path of its own, e.g. `"/:key"`; a `:key`
            in it is taken from the params. Empty if the URL is whole.
        router: The handlers. Without one, `client.router` is empty, for you to fill.
        serializer: The wire format; V2 by default.
        options: How the client behaves: heartbeat, retries, joins, bounds.
        timeout: Seconds to wait for the first connection; `math.inf` to keep trying until it comes.
        ssl: For `wss://`; by default the system's certificates are trusted and the host's name is verified.
        proxy: A proxy's URL (HTTP or SOCKS), `None` for none, `True` for what the environment says.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one.
        compression: `"deflate"` to offer permessage-deflate.
        factory: Makes the TCP connection instead, from host and port (a tunnel, a Unix socket).
        transport: Instead of the network and the loop's clock, for tests: a `phx_transports.testing.Peer`. Then retries
            have no jitter, and the five arguments before this one mean nothing.
        executor: Runs plain handlers; by default a thread pool of the client's own. In a process pool they take the
            message alone, and are functions of a module.
        on_handler_error: Told what a handler raised; by default it is logged with its traceback.
        fail_fast: Whether a handler's error ends the client, with that error; nothing more is handled then.
        drain_timeout: Seconds that closing may take: handlers that finish, leaves, the closing handshake.

    Raises:
        InvalidEndpoint: URL, params, token or headers cannot be sent.
        HandshakeRefused: The server refused, for good or until the timeout; `status` and `body` tell why.
        ConnectTimeout: The server was not there in time; `last` tells what the latest attempt met.
        CertificateError: The server's certificate was not accepted.
        InvalidHandler: The router has a handler that cannot run where the executor does.
    """

    def __init__(
        self,
        url: str,
        *,
        params: Params | Provider | None = None,
        auth_token: str | Provider | None = None,
        headers: Headers = (),
        path: str | None = None,
        router: Router | None = None,
        serializer: Serializer | None = None,
        options: ClientOptions | None = None,
        timeout: float = 10.0,
        ssl: SSLContext | None = None,
        proxy: str | Literal[True] | None = True,
        max_size: int | None = MAX_SIZE,
        compression: Literal["deflate"] | None = None,
        factory: Factory | None = None,
        transport: TransportFactory | None = None,
        executor: Executor | None = None,
        on_handler_error: OnHandlerError = log_handler_error,
        fail_fast: bool = False,
        drain_timeout: float = 10.0,
    ) -> None:
        self._proto = ClientProtocol(
            url,
            params=params,
            auth_token=auth_token,
            headers=headers,
            path=path,
            router=router,
            serializer=serializer,
            options=options,
            rng=random.Random() if transport is None else None,
            placement=placement,
            confidential=proxy_secrets(proxy),
        )
        self._settings = ClientSettings(
            executor=executor, on_handler_error=on_handler_error, fail_fast=fail_fast, drain_timeout=drain_timeout
        )
        self._network = NetworkOptions(
            ssl=ssl, proxy=proxy, max_size=max_size, compression=compression, factory=factory
        )
        self._transport = transport
        self._timeout = timeout
        self._client: Client | None = None

    def __await__(self) -> "Generator[Any, None, Client]":
        return self._connect().__await__()

    async def __aenter__(self) -> "Client":
        self._client = await self._connect()
        return self._client

    if not TYPE_CHECKING:  # which knows that there is no such attribute

        def __getattr__(self, name: str) -> Any:
            """Says what to do where `await` was forgotten."""
            how = "await it, client = await connect(…), or async with connect(…) as client"
            raise AttributeError(f"connect has no {name!r}: {how}", name=name, obj=self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._client is not None
        try:
            if error is None:
                await self._client.close()
        finally:
            await self._client.abort()  # does nothing where it has closed

    async def _connect(self) -> "Client":
        driver = AsyncioDriver(self._proto, self._settings, network=self._network, transport=self._transport)
        client = Client(driver)
        driver.start(self._timeout)
        try:
            await client.wait_connected()
        except BaseException:
            await client.abort()
            raise
        return client


class Client:
    """A connection to a Phoenix server that is kept up, and its channels. Made by `connect`.

    Attributes:
        router: The handlers; they may be added and removed at any time.
    """

    def __init__(self, driver: AsyncioDriver) -> None:
        self.router = driver.proto.router
        self._driver = driver
        self._proto = driver.proto
        driver.proto.unjoined.context = Channel(driver.proto.unjoined, self, driver)

    def __repr__(self) -> str:
        return f"Client({self._proto.endpoint.redacted!r}, {self.state.value})"

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
        self._driver.report()
        return self._proto.stats

    def channel(self, topic: str, params: Any = None, *, bound: Bound | None = None) -> Channel:
        """Make a channel that is not joined yet, to give it handlers or streams before its join.

        Args:
            topic: The topic.
            params: Payload of its joins; or a callable, plain or async, read at every join: to resume from what was
                seen last, for instance.
            bound: Where messages that wait are dropped, if anywhere.

        Raises:
            TopicInUse: A live channel of the topic exists.
            ConnectionClosed: The client is closed.
            InvalidHandler: The router has a handler that cannot run where the executor does.
        """
        self._driver.check_routes(topic)
        core = self._proto.channel(topic, params, bound=bound)
        core.context = channel = Channel(core, self, self._driver)
        return channel

    async def join(self, topic: str, params: Any = None, *, timeout: float | None = None) -> Channel:
        """Join a topic, and wait for the server's answer. Raises what `channel` and `Channel.join` raise."""
        channel = self.channel(topic, params)
        try:
            await channel.join(timeout=timeout)
        except LocalError:  # the params cannot be sent; the topic is free again
            await channel.leave()
            raise
        return channel

    @contextlib.asynccontextmanager
    async def joined(
        self, topic: str, params: Any = None, *, timeout: float | None = None
    ) -> AsyncGenerator[Channel, None]:
        """Join a topic for the length of a block, and leave it at its end.

        Where an exception or a cancellation ends the block, the leave is sent and its answer is not waited for.
        """
        channel = await self.join(topic, params, timeout=timeout)
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
            How long it took, in seconds.

        Raises:
            InvalidState: There is no open connection.
            PushTimeout: No answer came in time.
            PushLost: The connection went away.
        """
        return await self._driver.ask(calls.ping(self._proto, timeout=timeout))

    def reconnect(self) -> None:
        """Drop the connection and connect anew at once, e.g. with a new token; channels rejoin."""
        self._driver.step(self._proto.reconnect)

    def events(self) -> EventStream:
        """What happens to the client: `async with client.events() as events: async for event in events: …`."""
        return EventStream(self._driver.events())

    async def run(self, *, timeout: float | None = None, signals: SignalPolicy = "unclaimed") -> None:
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
        with signals_to(self._driver.on_signal, signals):
            try:
                await self._driver.wait_closed(timeout)
            except TimeoutError as error:
                if error is self.error:
                    raise

    def stop(self) -> None:
        """Begin to close gracefully, as `close` does, and do not wait for it; also from within a handler."""
        self._driver.stop()

    async def close(self) -> None:
        """Close gracefully: no new messages, let handlers finish (pushes still work), leave, close with 1000.

        It takes `drain_timeout` seconds at most. Called from within a handler, it only begins, for it cannot wait for
        the handler that it is called from.
        """
        self.stop()
        await self._wait_ended()

    async def abort(self) -> None:
        """Close at once, without leaves or handshake; handlers on the loop are cancelled."""
        self._driver.drop()
        await self._wait_ended()

    async def _wait_ended(self) -> None:
        if self._driver.session.is_here and not self._driver.in_handler:
            try:
                await self.wait_closed()
            except BaseException as error:  # why it ended is for `run` and `wait_closed` to raise
                if error is not self.error:
                    raise
