"""A blocking client on one thread: the machine, a plain socket and `selectors`. No event loop, no thread, no lock.

Everything happens on the caller's thread, while it waits in a call: in `push`, `join`, `run`, or for the next message
of a stream. Each turn of such a wait tells the core what happened (a read, the time) and then pumps: the machine's
bytes go out, the calls end that the core's events end, and the handlers of the messages that came are called, one after
another, in the order of the wire within a topic. No decision of the protocol is taken here.

What follows from one thread: between calls nothing happens, heartbeats neither, so a program with other work to do
gives the client its turns (`client.run(timeout=…)`), or it is cut by the server within a minute. Likewise a handler
keeps the connection waiting while it works. One that waits in a call of its own (a `push`) lets it go on, but no other
handler is called meanwhile. Where that will not do, there are `phx_transports.threads` and `phx_transports.asyncio`.
"""

import contextlib
import random
import signal
from collections import deque
from collections.abc import Callable, Generator
from functools import partial
from math import inf
from ssl import SSLContext
from time import monotonic
from types import FrameType
from typing import Any, Final, Self, TypeVar

from phx_proto.channel import Channel as CoreChannel
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

from ..blocking.waits import deadline_after, slice_until
from ..client import calls
from ..client.calls import Call
from ..client.ending import Ending
from ..client.queues import EventQueue, Item, MessageQueue
from ..client.reports import HandlerError, OnHandlerError, log_handler_error
from ..client.signals import SignalPolicy, give_back, to_take, uninterrupted
from ..websocket.cutter import MAX_SIZE
from .channel import Channel
from .engine import Answer, Engine
from .handlers import check
from .streams import EventStream
from .transport import Factory, Ready, Transport

T = TypeVar("T")

#: Messages that handlers send until they are written.
_SENT: Final = 100


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
    max_size: int | None = MAX_SIZE,
    factory: Factory | None = None,
    on_handler_error: OnHandlerError = log_handler_error,
    fail_fast: bool = False,
    drain_timeout: float = 10.0,
) -> "Client":
    """Connect to a Phoenix server, and stay connected until closed.

    `with connect(url) as client:` closes gracefully at the end, at once if an exception ends it;
    `client = connect(url)` leaves that to you. There are no proxies and no compression here.

    Args:
        url: The socket's mount, e.g. `"wss://example.com/socket"`.
        params: For the server's `connect/3`: a mapping, or a function that is called again at every connect.
        auth_token: For a socket with `auth_token: true`; a string, or a function likewise.
        headers: To send with the handshake.
        path: Follows the mount instead of `/websocket`, for a socket with a path of its own, e.g. `"/:key"`; a `:key`
            in it is taken from the params. Empty if the URL is whole.
        router: The handlers: plain functions, called on the thread that uses the client. Without one, `client.router`
            is empty, for you to fill.
        serializer: The wire format; V2 by default.
        options: How the client behaves: heartbeat, retries, joins, bounds.
        timeout: Seconds to wait for the first connection; `math.inf` to keep trying until it comes.
        ssl: For `wss://`; by default the system's certificates are trusted and the host's name is verified.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one.
        factory: Makes the TCP connection instead, from host and port (a tunnel, a Unix socket).
        on_handler_error: Told what a handler raised; by default it is logged with its traceback.
        fail_fast: Whether a handler's error ends the client, with that error; nothing more is handled then.
        drain_timeout: Seconds that closing may take: handlers that finish, leaves, the closing handshake.

    Raises:
        InvalidEndpoint: URL, params, token or headers cannot be sent.
        HandshakeRefused: The server refused, for good or until the timeout; `status` and `body` tell why.
        ConnectTimeout: The server was not there in time; `last` tells what the latest attempt met.
        CertificateError: The server's certificate was not accepted.
        InvalidHandler: The router has a coroutine function, or a handler with an executor.
    """
    proto = ClientProtocol(
        url,
        params=params,
        auth_token=auth_token,
        headers=headers,
        path=path,
        router=router,
        serializer=serializer,
        options=options,
        rng=random.Random(),
    )
    client = Client(
        proto,
        max_size=max_size,
        ssl=ssl,
        factory=factory,
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
    """A connection to a Phoenix server that is kept up, and its channels. Made by `connect`, for one thread.

    Attributes:
        router: The handlers; they may be added and removed at any time.
        now: The client's clock: monotonic seconds.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        *,
        max_size: int | None,
        ssl: SSLContext | None,
        factory: Factory | None,
        on_handler_error: OnHandlerError,
        fail_fast: bool,
        drain_timeout: float,
    ) -> None:
        self.router = proto.router
        for handler in self.router.handlers:
            check(handler)
        self.now = monotonic
        self._proto = proto
        proto.unjoined.context = Channel(proto.unjoined, self)
        self._engine = Engine(
            proto,
            now=monotonic,
            max_size=max_size,
            on_handler_error=self._handler_failed,
            on_exit=self._handler_failed,
            look=lambda: self._look(0.0),
        )
        self._session = self._engine.session
        self._runner = self._engine.runner
        self._ending = Ending(
            proto,
            self._session,
            tell=self.tell,
            on_handler_error=self._engine.log.unless(on_handler_error),
            fail_fast=fail_fast,
            drain_timeout=drain_timeout,
            halt=self._runner.halt,
        )
        self._transport = Transport(self._engine.machine, ssl=ssl, factory=factory)
        self._sent = 0  # messages by handlers that are not written yet
        self._ended = False  # whether nothing is left
        self._signals: deque[int] = deque()  # heard and not yet heeded
        self._runs = False
        self._hearing = contextlib.ExitStack()  # of signals, while it runs

    def __repr__(self) -> str:
        return f"Client({self._proto.endpoint.redacted!r}, {self.state.value})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            if kind is None:
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
        self._runner.report()
        return self._proto.stats

    def channel(self, topic: str, params: Any = None, *, bound: Bound | None = None) -> Channel:
        """Make a channel that is not joined yet, to give it handlers or streams before its join.

        Args:
            topic: The topic.
            params: Payload of its joins; or a function called at every join: to resume from what was seen last, for
                instance.
            bound: Where messages that wait are dropped, if anywhere.

        Raises:
            TopicInUse: A live channel of the topic exists.
            ConnectionClosed: The client is closed.
            InvalidHandler: The router has a coroutine function, or a handler with an executor, for the topic.
        """
        for handler in self.router.routes(topic).all:
            check(handler)
        core = self._proto.channel(topic, params, bound=bound)
        core.context = channel = Channel(core, self)
        return channel

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

    def wait_connected(self) -> None:
        """Wait until the connection is open; raises why the client ended, if it did."""
        answer = Answer[None]()
        self._session.wait_connected(answer)
        self.turn_until(answer.done)
        answer.result()

    def wait_closed(self) -> None:
        """Wait until the client has ended; raises why, unless the application closed it."""
        self.run_until_closed(inf)

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
            timeout: Seconds to wait for each, after which `TimeoutError` is raised; `None` for as long as it takes.
        """
        return EventStream(EventQueue(self._session), self, timeout=timeout)

    def run(self, *, timeout: float | None = None, signals: SignalPolicy = "unclaimed") -> None:
        """Let the client work: until it is closed, or for `timeout` seconds.

        SIGINT and SIGTERM close it gracefully meanwhile, where it has the main thread; a second one drops the
        connection. It goes on while channels come and go, also when the last has ended: `events()` has `ChannelEnded`
        for that.

        Args:
            timeout: Seconds; `None` for as long as it lives.
            signals: Which of the two it takes: those that are `"unclaimed"`, so that those of a web server it runs in
                stay the server's; `"all"`; or `"none"`. Only the main thread can take any.

        Raises:
            PhxError: What ended the client, if not the application or a signal.
            SystemExit: A handler called `sys.exit()`: the client closed gracefully. So with all that is no `Exception`.
        """
        deadline = deadline_after(timeout)
        if self._runs:  # this is a handler that lets the client go on, and signals are heard
            self.run_until_closed(deadline)
            return
        self._runs = True
        try:
            with self._hearing:
                self._hearing.enter_context(self._hear_signals(signals))
                self.run_until_closed(deadline)
        finally:
            self._runs = False

    def stop(self) -> None:
        """Begin to close gracefully, as `close` does, and do not wait for it; also from within a handler."""
        self._ending.stop()

    def close(self) -> None:
        """Close gracefully: no new messages, let handlers finish (pushes still work), leave, close with 1000.

        It takes `drain_timeout` seconds at most, if no handler takes longer. Called from within a handler, it only
        begins, for it cannot wait for the handler that it is called from.
        """
        self.stop()
        self._wait_ended()

    def abort(self) -> None:
        """Close at once, without leaves or handshake; no handler is called any more."""
        self._ending.drop()
        self._wait_ended()

    # ---- for channels and streams -----------------------------------------------------------------------------------

    def start(self, *, timeout: float) -> None:
        """Begin to connect; for `connect`."""
        self.tell(lambda now: self._proto.connect(now, timeout=timeout))

    def tell(self, call: Callable[[float], T]) -> T:
        """Tell the core something, and do what it wants done; every input comes this way."""
        self._session.check_process()
        result = call(self.now())
        self._pump()
        return result

    def send(self, call: Callable[[float], None]) -> None:
        """Tell the core to send something; what handlers send is written together."""
        uninterrupted(self._send, call)

    def ask(self, call: Call[T]) -> T:
        """Make a call of the core, and wait for its end; interrupted, it is given up."""
        begun: list[Answer[T]] = []
        try:
            uninterrupted(self.tell, lambda now: begun.append(self._engine.begin(call)))
            self.turn_until(begun[0].done)
        except BaseException:
            for answer in begun:
                uninterrupted(self.tell, partial(call.give_up, answer.ref))
            raise
        return begun[0].result()

    def turn_until(self, condition: Callable[[], bool], deadline: float = inf) -> bool:
        """Let the client work until something holds; gives whether it does, or the deadline or the end came first."""
        self._session.check_process()
        while True:
            uninterrupted(self._pump)
            if condition():
                return True
            if self._ended or self.now() >= deadline:
                return False
            self._turn(condition, deadline)

    @property
    def writable(self) -> bool:
        """Whether more can be sent without waiting; if not, `wait_writable` comes first."""
        return not self._transport.full

    def wait_writable(self, timeout: float | None = None) -> bool:
        """Wait while so much is to be written that senders should wait; gives whether there is room now."""
        return self.turn_until(lambda: self.writable, deadline_after(timeout))

    @property
    def handling(self) -> bool:
        """Whether a handler is at work."""
        return self._runner.at_work

    def queue(self, core: CoreChannel, select: Callable[[Item], T | None]) -> MessageQueue[T]:
        """What is to wait for a reader of one of its channels."""
        return MessageQueue(core, self._session, select, on_handled=self._runner.handled)

    def run_until_closed(self, deadline: float) -> None:
        """Let the client work until it has ended, and raise why, or until the deadline."""
        answer = Answer[None]()
        self._session.wait_closed(answer)
        if self.turn_until(lambda: self._ended or (self._runner.at_work and answer.done()), deadline):
            answer.result()

    # ---- private: turns ---------------------------------------------------------------------------------------------

    def _turn(self, condition: Callable[[], bool], deadline: float) -> None:
        """Call the handlers of what has come; if nothing has, wait for something to happen until the deadline."""
        if self._runner.work(condition, deadline):
            return
        if self._session.closed and not self._runner.at_work:
            self._finish()
        else:
            self._look(deadline)

    def _look(self, deadline: float) -> bool:
        """See to the socket, the time and signals; gives whether handlers may go on."""
        due = self._proto.next_timeout()
        deadline = min(deadline, self._engine.log.due, inf if due is None else due)
        ready = self._transport.wait(slice_until(deadline))  # a signal may end this, and nothing else
        return uninterrupted(self._see, ready)

    def _send(self, call: Callable[[float], None]) -> None:
        self._session.check_process()
        call(self.now())
        self._sent += 1
        if not self._runner.at_work or self._sent >= _SENT:
            self._pump()

    def _see(self, ready: Ready) -> bool:
        self._transport.see(ready)
        now = self.now()
        self._proto.handle_timeout(now)
        self._heed_signals()
        self._pump()
        self._runner.looked_at = now
        return not self._runner.closed

    def _pump(self) -> None:
        """Do what the core wants done; to be called after each input."""
        self._sent = 0
        self._engine.report()
        if not self._ended:
            self._transport.pump()
        self._engine.settle()
        if self._session.closed:
            now = self.now()
            self._ending.core_ended(now)
            self._runner.closed |= not self._ending.waits(now)

    def _handler_failed(self, report: HandlerError) -> None:
        self._ending.handler_failed(report)

    # ---- private: the end -------------------------------------------------------------------------------------------

    def _wait_ended(self) -> None:
        if self._session.is_here and not self._runner.at_work:
            try:
                self.wait_closed()
            except BaseException as error:  # why it ended is for `run` and `wait_closed` to raise
                if error is not self._session.error:
                    raise

    def _finish(self) -> None:
        """After the core has ended, and the handlers have had what came before: leave nothing behind."""
        self._session.end_readers()
        self._runner.report()
        while not self._transport.idle:
            self._transport.see(self._transport.wait(inf))
            self._transport.pump()
        self._hearing.close()  # it uses the transport
        self._transport.close()
        self._ended = True

    @contextlib.contextmanager
    def _hear_signals(self, policy: SignalPolicy) -> Generator[None, None, None]:
        numbers = to_take(policy, ours=self._on_signal)
        if not numbers:
            yield
            return
        # The interpreter itself ends the wait: a signal handler is not called while the selector waits.
        previous_fd = signal.set_wakeup_fd(self._transport.wakeup_fd, warn_on_full_buffer=False)
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                give_back(number, handler, ours=self._on_signal)
            signal.set_wakeup_fd(previous_fd)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def _heed_signals(self) -> None:
        while self._signals:
            self._ending.on_signal(self._signals.popleft())
