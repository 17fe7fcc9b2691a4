"""A client on threads: the pure core, a WebSocket and one thread that watches it.

Whatever happens (a call, a read, the deadline) is told to the core under one lock, and then the pump runs: it carries
out the core's commands, ends the calls that its events end, hands runnable channels to the runner, and sets the one
deadline. What takes its time is done after the lock was released, by whoever held it (`follow_up`): bytes are written,
threads started, the log is told. No decision of the protocol is taken here.

The I/O thread reads and tells the time, and runs no code of the application's: that is for the handlers' threads.
All threads are daemons, and what is open when the program ends is dropped.
"""

import atexit
import contextlib
import inspect
import random
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future
from functools import partial
from math import inf
from ssl import SSLContext
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from phx_proto.channel import Channel as CoreChannel
from phx_proto.client import ClientProtocol
from phx_proto.commands import Provider
from phx_proto.core import Stats
from phx_proto.endpoint import Headers, Params
from phx_proto.errors import InvalidEndpoint, InvalidPayload, LocalError
from phx_proto.events import Event
from phx_proto.formats import Serializer
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.message import PHX_JOIN
from phx_proto.options import ClientOptions
from phx_proto.queues import Bound, Delivery
from phx_proto.states import SocketState

from ..blocking.waits import wait_for
from ..client import calls
from ..client.batches import PortabilityCheck
from ..client.calls import Call
from ..client.ending import Ending
from ..client.pump import Pump
from ..client.queues import EventQueue, Item, MessageQueue
from ..client.reports import Log, OnHandlerError, log_handler_error
from ..client.session import Session
from ..client.signals import SignalPolicy, signals_to, uninterrupted
from ..websocket.cutter import MAX_SIZE
from .channel import Channel, check_plain
from .connection import Factory
from .handlers import Runner, Turn, placement
from .interfaces import ClientTransport, TransportFactory
from .streams import EventStream
from .transport import Transport

T = TypeVar("T")


def connect(
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
) -> "Client":
    """Connect to a Phoenix server, and stay connected until closed.

    `with connect(url) as client:` closes gracefully at the end, at once if an exception ends it;
    `client = connect(url)` leaves that to you.

    Args:
        url: The socket's mount, e.g. `"wss://example.com/socket"`.
        params: For the server's `connect/3`: a mapping, or a plain callable read again at every connect, on a thread of
            its own.
        auth_token: For a socket with `auth_token: true`; a string, or a callable likewise.
        headers: To send with the handshake.
        path: Follows the mount instead of `/websocket`, for a socket with a path of its own, e.g. `"/:key"`; a `:key`
            in it is taken from the params. Empty if the URL is whole.
        router: The handlers, all of them plain functions. Without one, `client.router` is empty, for you to fill.
        serializer: The wire format; V2 by default.
        options: How the client behaves: heartbeat, retries, joins, bounds.
        timeout: Seconds to wait for the first connection; `math.inf` to keep trying until it comes.
        ssl: For `wss://`; by default the system's certificates are trusted and the host's name is verified.
        proxy: A proxy's URL (HTTP or SOCKS), `None` for none, `True` for what the environment says.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one.
        compression: `"deflate"` to offer permessage-deflate.
        factory: Makes the TCP connection instead, from host and port (a tunnel, a Unix socket).
        transport: Instead of the network and the system's clock, for tests: a `phx_transports.testing.Peer`. Then
            retries have no jitter, and the five arguments before this one mean nothing.
        executor: Runs handlers; by default threads of the client's own do. In a process pool they take the message
            alone, and are functions of a module.
        on_handler_error: Told what a handler raised, on the handler's thread or, where that is an executor's, on one of
            the client's own; by default it is logged with its traceback.
        fail_fast: Whether a handler's error ends the client, with that error; nothing more is handled then.
        drain_timeout: Seconds that closing may take: handlers that finish, leaves, the closing handshake.

    Raises:
        InvalidEndpoint: URL, params, token or headers cannot be sent.
        HandshakeRefused: The server refused, for good or until the timeout; `status` and `body` tell why.
        ConnectTimeout: The server was not there in time; `last` tells what the latest attempt met.
        CertificateError: The server's certificate was not accepted.
        InvalidHandler: The router has a coroutine function, or a handler that cannot run where the executor does.
    """
    for name, provider in (("params", params), ("auth_token", auth_token)):
        if inspect.iscoroutinefunction(provider):
            raise InvalidEndpoint(f"{name} is a coroutine function, and threads await nothing: make it a plain one")
    proto = ClientProtocol(
        url,
        params=params,
        auth_token=auth_token,
        headers=headers,
        path=path,
        router=router,
        serializer=serializer,
        options=options,
        rng=random.Random() if transport is None else None,
        placement=placement(executor),
    )
    network = {"ssl": ssl, "proxy": proxy, "max_size": max_size, "compression": compression, "factory": factory}
    client = Client(
        proto,
        network=network,
        transport=transport,
        executor=executor,
        on_handler_error=on_handler_error,
        fail_fast=fail_fast,
        drain_timeout=drain_timeout,
    )
    try:
        client.start(timeout=timeout)
        client.wait_connected()
    except BaseException:
        client.abort()
        raise
    return client


class Client:
    """A connection to a Phoenix server that is kept up, and its channels. Made by `connect`. Any thread may use it.

    Attributes:
        router: The handlers; they may be added and removed at any time.
        lock: Held while the core is told something; for this package.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        *,
        network: dict[str, Any],
        transport: TransportFactory | None,
        executor: Executor | None,
        on_handler_error: OnHandlerError,
        fail_fast: bool,
        drain_timeout: float,
    ) -> None:
        self.router = proto.router
        self._portability = PortabilityCheck(executor)
        self._portability.router(self.router)
        for handler in self.router.handlers:
            check_plain(handler)
        self.lock = threading.Lock()
        self._proto = proto
        proto.unjoined.context = Channel(proto.unjoined, self)
        self._log = Log(proto, lambda: self._transport.now())
        self._to_log: deque[Event] = deque()
        self._logging = threading.Lock()
        self._later: deque[Callable[[], None]] = deque()
        self._session = Session()
        self._session.listeners.append(self._to_log.append)
        self._ending = Ending(
            proto,
            self._session,
            tell=self.tell,
            on_handler_error=self._log.unless(on_handler_error),
            fail_fast=fail_fast,
            drain_timeout=drain_timeout,
            halt=lambda: self._runner.halt(),
        )
        hooks: dict[str, Any] = {
            "tell": self.tell,
            "later": self._later.append,
            "on_due": self._due,
            "goes_on": self._goes_on,
            "on_end": self._finish,
            "on_crash": self._ending.fail,
        }
        self._transport: ClientTransport
        if transport is None:
            self._transport = Transport(proto, lock=self.lock, options=network, **hooks)
        else:
            self._transport = transport.threads_transport(proto, **hooks)
        self._io_thread = self._transport.io_thread
        self._runner = Runner(
            proto,
            executor,
            lock=self.lock,
            tell=self.tell,
            on_turns=self._turns,
            later=self._later.append,
            on_error=self._ending.handler_failed,
            fail_fast=fail_fast,
            on_crash=self._ending.fail,
        )
        self._pump = Pump(
            proto,
            self._session,
            perform=self._transport.perform,
            on_runnable=self._runner.add,
            on_executable=self._runner.execute,
            alarm=self._io_thread,
            log=self._log,
            on_ended=self._ended,
        )

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

    # ---- for the application ----------------------------------------------------------------------------------------

    @property
    def state(self) -> SocketState:
        """Where the connection stands."""
        return self._proto.state

    @property
    def error(self) -> BaseException | None:
        """Why it ended; `None` while it has not, or where the application closed it."""
        return self._session.error

    @property
    def stats(self) -> Stats:
        """Counters, as they are now."""
        self.tell(self._runner.report_batches)
        with self.lock:
            return self._proto.stats

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
            InvalidHandler: The router has a coroutine function for the topic, or a handler that cannot run where the
                executor does.
        """
        if inspect.iscoroutinefunction(params):
            problem = "are a coroutine function, and threads await nothing: make it a plain one"
            raise InvalidPayload(topic, PHX_JOIN, "the params", problem)
        for handler in self.router.routes(topic).all:
            check_plain(handler)
        self._portability.router(self.router)

        def make(now: float) -> Channel:
            core = self._proto.channel(topic, params, bound=bound)
            core.context = channel = Channel(core, self)
            return channel

        return self.tell(make)

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
        self._wait(self._session.wait_connected, timeout).result()

    def wait_closed(self, *, timeout: float | None = None) -> None:
        """Wait until the client has ended; raises why, unless the application closed it, and `TimeoutError`."""
        waiter = self._wait(self._session.wait_closed, timeout)
        if not (self._runner.is_current or self._io_thread.is_current):
            self._io_thread.join()
        waiter.result()

    def ping(self, *, timeout: float | None = None) -> float:
        """Send a heartbeat, and wait for its answer.

        Returns:
            How long it took, in seconds.

        Raises:
            InvalidState: There is no open connection.
            PushTimeout: No answer came in time.
            PushLost: The connection went away.
        """
        return self.ask(calls.ping(self._proto, timeout=timeout))

    def reconnect(self) -> None:
        """Drop the connection and connect anew at once, e.g. with a new token; channels rejoin."""
        self.tell(self._proto.reconnect)

    def events(self, *, timeout: float | None = None) -> EventStream:
        """What happens to the client: `with client.events() as events: for event in events: …`.

        Args:
            timeout: Seconds to wait for each, after which `TimeoutError` is raised; one may go on reading.
        """
        return EventStream(EventQueue(self._session), self, timeout=timeout)

    def run(self, *, signals: SignalPolicy = "unclaimed") -> None:
        """Run until closed. SIGINT and SIGTERM close gracefully; a second one drops the connection.

        It goes on while channels come and go, also when the last has ended: `events()` has `ChannelEnded` for that.

        Args:
            signals: Which of the two it takes: those that are `"unclaimed"`, so that those of a web server it runs in
                stay the server's; `"all"`; or `"none"`. Only the main thread can take any.

        Raises:
            PhxError: What ended the client, if not the application or a signal.
            SystemExit: A handler called `sys.exit()`: the client closed gracefully. So with all that is no `Exception`.
        """
        with signals_to(lambda number: self._io_thread.call(partial(self._ending.on_signal, number)), signals):
            self.wait_closed()

    def stop(self) -> None:
        """Begin to close gracefully, as `close` does, and do not wait for it; also from within a handler."""
        self._ending.stop()

    def close(self) -> None:
        """Close gracefully: no new messages, let handlers finish (pushes still work), leave, close with 1000.

        It takes `drain_timeout` seconds at most. Called from within a handler, it only begins, for it cannot wait for
        the handler that it is called from.
        """
        self.stop()
        self._wait_ended()

    def abort(self) -> None:
        """Close at once, without leaves or handshake. Handlers that run are left to end by themselves."""
        self._ending.drop()
        self._wait_ended()

    # ---- for channels, streams, the transport and the runner --------------------------------------------------------

    def start(self, *, timeout: float) -> None:
        """Begin to connect; for `connect`."""
        atexit.register(self.abort)
        self._io_thread.start()
        self.tell(lambda now: self._proto.connect(now, timeout=timeout))

    def tell(self, call: Callable[[float], T]) -> T:
        """Tell the core something, and do what it wants done; every input comes this way."""
        self._session.check_process()
        with self.lock:
            result = call(self._transport.now())
            self._pump.run()
        self.follow_up()
        return result

    def ask(self, call: Call[T]) -> T:
        """Make a call of the core, and wait for its end; interrupted, it is given up."""
        waiter: Future[Any] = Future()
        refs: list[str] = []
        try:
            uninterrupted(self.tell, lambda now: refs.append(self._session.begin(call.begin, waiter, now)))
            wait_for(waiter)
        except BaseException:
            for ref in refs:
                uninterrupted(self.tell, partial(call.give_up, ref))
            raise
        return call.result(waiter.result())

    def check(self, handler: Handler) -> None:
        """Refuse a handler that cannot run here: `InvalidHandler`."""
        check_plain(handler)
        self._portability.handler(handler)

    @property
    def writable(self) -> bool:
        """Whether more can be sent without waiting; if not, `wait_writable` comes first."""
        return self._transport.writable

    def wait_writable(self, timeout: float | None = None) -> bool:
        """Wait while the socket takes no more; gives whether there is room now."""
        return self._transport.wait_writable(timeout)

    def queue(self, core: CoreChannel, select: Callable[[Item], T | None]) -> MessageQueue[T]:
        """What is to wait for a reader of one of its channels."""
        return MessageQueue(core, self._session, select, on_handled=self._handled)

    def follow_up(self) -> None:
        """Do what the pump left for after the lock."""
        self._transport.flush()
        while self._later:
            with contextlib.suppress(IndexError):  # another thread was quicker
                self._later.popleft()()
        while self._to_log and self._logging.acquire(blocking=False):
            try:
                self._log.event(self._to_log.popleft())
            except IndexError:  # another thread was quicker
                pass
            finally:
                self._logging.release()
        if self._log.due < self._io_thread.armed:
            with self.lock:
                if self._log.due < self._io_thread.armed:
                    self._io_thread.arm(self._log.due)

    # ---- private ----------------------------------------------------------------------------------------------------

    def _due(self) -> None:
        self._log.tick()
        self.tell(self._proto.handle_timeout)

    def _handled(self, deliveries: Sequence[Delivery]) -> None:
        """These are done with; under the lock, `follow_up` comes after it."""
        self._proto.handled(deliveries, self._transport.now())
        self._pump.run()

    def _turns(self) -> list[Turn]:
        """A worker's step from its turns to the next; `tell`, but for speed."""
        with self.lock:
            turns = self._runner.report(self._transport.now())
            self._pump.run()
        self.follow_up()
        return turns

    def _wait(self, register: "Callable[[Future[None]], None]", timeout: float | None) -> "Future[None]":
        self._session.check_process()
        waiter: Future[None] = Future()
        with self.lock:
            register(waiter)
        try:
            wait_for(waiter, timeout)
        except BaseException:  # too late, or an interrupt
            with self.lock:
                waiter.cancel()
            raise
        return waiter

    def _wait_ended(self) -> None:
        if self._session.is_here and not (self._runner.is_current or self._io_thread.is_current):
            try:
                self.wait_closed()
            except BaseException as error:  # why it ended is for `run` and `wait_closed` to raise
                if error is not self._session.error:
                    raise

    # ---- private: the end, on the I/O thread ------------------------------------------------------------------------

    def _ended(self) -> None:
        """The core has ended; under the lock."""
        if self._ending.deadline == inf:
            self._ending.core_ended(self._transport.now())
            self._io_thread.arm(self._ending.deadline)
        self._io_thread.wake()

    def _goes_on(self) -> bool:
        """Whether there is something to wait for: the core, or handlers of what came before the server's end."""
        with self.lock:
            return not self._session.closed or self._ending.waits(self._transport.now())

    def _finish(self) -> None:
        """The I/O thread's last act: leave nothing behind."""
        self._runner.close()
        self._transport.end()
        with self.lock:
            self._session.end_readers()
        self.follow_up()
        atexit.unregister(self.abort)
