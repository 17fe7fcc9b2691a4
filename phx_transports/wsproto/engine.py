"""A client without its I/O: what every embedding of the machine needs between its reads and its writes.

The machine turns bytes into the core's inputs; the engine adds what is left to do for a client that lives in a runtime:
calls that wait for their events, handlers that want their messages, callables for params and token. The runtime brings
a clock, and streams of bytes:

    engine = Engine(ClientProtocol("wss://example.com/socket", router=router), now=clock, turned=wake)
    engine.connect()
    while not engine.closed:
        stream = engine.stream()           # None between attempts; else connect it, and carry its bytes
        engine.connected(stream)           # or engine.failed(stream, error)
        engine.received(stream, data)      # whatever a read brought, b"" at the end; while stream.reading
        stream.data_to_send() ──▶ bytes    # after every turn, until stream.state is no longer WANTED
        engine.turn()                      # at engine.deadline

    with engine.ask(calls.join(channel), done=wake_caller) as answer:      # calls: `phx_transports.client.calls`
        ...                                # wait for `done`; a call whose wait is cancelled is given up
    answer.result()

Whatever it is told ends with a turn, and each turn with a call of `turned`: whoever waits for the engine looks again.
All of it belongs to one thread, or one event loop. Whole embeddings are examples/trio_client.py and
examples/asyncio_streams_client.py; the blocking client, which waits for its socket itself, uses the parts of a turn.
"""

import contextlib
import inspect
from collections.abc import Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

from phx_proto.client import ClientProtocol
from phx_proto.commands import Resolve
from phx_proto.errors import ConnectError

from ..client.calls import Call
from ..client.reports import Log, OnHandlerError, log_handler_error, report_to
from ..client.session import Session
from ..websocket.cutter import MAX_SIZE
from ..websocket.handshake import network_error
from ..websocket.reaching import place_of
from .handlers import Runner
from .machine import Machine, Stream

R = TypeVar("R")


def _ignore() -> None: ...


class Answer(Generic[R]):
    """What a call ends with; a `session.Waiter`.

    Args:
        ref: The call's; empty where it has none.
        done: Called when it has ended; must not raise.
        take: What the caller gets of what the event brings; or what it raises.
    """

    __slots__ = ("_done", "_ended", "_error", "_outcome", "_take", "ref")

    def __init__(
        self, ref: str = "", done: Callable[[], object] = _ignore, take: Callable[[Any], R] = lambda outcome: outcome
    ) -> None:
        self.ref = ref
        self._done = done
        self._take = take
        self._ended = False
        self._outcome: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._ended

    def result(self) -> R:
        """What the call ended with, returned or raised; to be asked for once it has ended."""
        if self._error is not None:
            raise self._error
        return self._take(self._outcome)

    def set_result(self, result: Any, /) -> None:
        self._ended, self._outcome = True, result
        self._done()

    def set_exception(self, exception: BaseException, /) -> None:
        self._ended, self._error = True, exception
        self._done()


class Engine:
    """One client, but for its clock and its streams of bytes.

    Args:
        proto: The core.
        now: The runtime's clock: monotonic seconds.
        max_size: The largest message to receive, in bytes; `None` for no limit.
        on_handler_error: Told what a handler raised; by default it is logged with its traceback.
        on_exit: Told of a handler's `SystemExit`; by default that is raised out of the turn.
        turned: Called at the end of each turn: there may be bytes to write, another stream, another deadline.
        look: Asked when handlers have taken `handlers.SPELL` seconds in a row: sees to the I/O, and says whether they
            may go on. By default they may not: the turn ends, and the next is due at once.

    Attributes:
        proto: The core; what the application calls: `connect`, `channel`, `drain`.
        machine: Where its streams come from.
        session: The calls that wait, and who listens to events; the log does.
        log: What is logged of them.
        runner: The handlers: plain functions, called within a turn, one after another.
    """

    def __init__(
        self,
        proto: ClientProtocol,
        *,
        now: Callable[[], float],
        max_size: int | None = MAX_SIZE,
        on_handler_error: OnHandlerError = log_handler_error,
        on_exit: OnHandlerError | None = None,
        turned: Callable[[], object] = _ignore,
        look: Callable[[], bool] = lambda: False,
    ) -> None:
        self.proto = proto
        self.machine = Machine(proto, max_size=max_size)
        self.session = Session()
        self.log = Log(proto, now)
        self.session.listeners.append(self.log.event)
        told = self.log.unless(on_handler_error)
        self.runner = Runner(proto, now=now, look=look, on_error=partial(report_to, told), on_exit=on_exit)
        self._now = now
        self._turned = turned

    # ---- what it tells ----------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the client has ended, and its handlers have had what came before."""
        return self.session.closed and not self.runner.waiting

    @property
    def error(self) -> BaseException | None:
        """Why it ended; `None` while it has not, or where the application closed it."""
        return self.session.error

    @property
    def deadline(self) -> float:
        """When the next turn is due at the latest; `math.inf` where nothing is."""
        if self.runner.waiting:
            return self._now()
        due = self.proto.next_timeout()
        return self.log.due if due is None else min(due, self.log.due)

    def stream(self) -> Stream | None:
        """The stream that is wanted now, as `Machine.stream` gives it."""
        return self.machine.stream()

    # ---- what it is told --------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to connect, and stay connected until closed."""
        self.proto.connect(self._now())
        self.turn()

    def connected(self, stream: Stream) -> None:
        """The stream is open, TLS included."""
        stream.connected(self._now())
        self.turn()

    def received(self, stream: Stream, data: bytes) -> None:
        """A read of the stream brought this; no bytes where the peer has ended it."""
        if data:
            stream.receive_data(data, self._now())
        else:
            stream.receive_eof(self._now())
        self.turn()

    def failed(self, stream: Stream, error: Exception) -> None:
        """The stream could not be opened, or broke: the runtime raised this, itself or from an `OSError`."""
        stream.failed(_problem(stream, error), self._now())
        self.turn()

    def drain(self, *, timeout: float = 10.0) -> None:
        """Begin to close gracefully: what was received is handled, channels are left, the connection is closed."""
        self.proto.drain(self._now(), timeout=timeout)
        self.turn()

    @contextlib.contextmanager
    def ask(self, call: Call[R], *, done: Callable[[], object] = _ignore) -> Generator[Answer[R], None, None]:
        """Make a call, for the length of a block that waits for it; it is given up where that ends with an exception.

        Args:
            call: E.g. `calls.push(channel, "shout", {"body": "hi"})`.
            done: Called when the answer is there; must not raise.

        Raises:
            LocalError: The core refuses it.
        """
        answer = self.begin(call, done)
        self.turn()
        try:
            yield answer
        except BaseException:
            call.give_up(answer.ref, self._now())
            self.turn()
            raise

    def turn(self) -> None:
        """Tell the core the time, calls how they ended, and handlers their messages."""
        self.proto.handle_timeout(self._now())
        self.report()
        self.settle()
        if self.runner.work():
            self.settle()
        self._turned()

    # ---- parts, for an embedding that waits by itself ---------------------------------------------------------------

    def begin(self, call: Call[R], done: Callable[[], object] = _ignore) -> Answer[R]:
        """Make a call; its answer comes with a later turn."""
        answer = Answer(call.begin(self._now()), done, call.result)
        self.session.wait(answer.ref, answer)
        return answer

    def report(self) -> None:
        """Tell the core what is handled, and what its callables for params and token give."""
        self.runner.report()
        for request in self.machine.requests():
            try:
                value = _value_of(request)
            except Exception as error:
                self.proto.resolve_failed(request.request, error, self._now())
            else:
                self.proto.resolved(request.request, value, self._now())

    def settle(self) -> None:
        """Tell calls how they ended, and the runner which messages came."""
        events = self.proto.events()
        if events:
            self.session.settle(events)
            if self.session.closed and self.session.error is None:
                self.runner.closed = True  # what is left was given up with the client
        notices = self.proto.notices()
        if notices:
            self.session.settle(notices)
        for tap, item in self.proto.tapped():
            tap.put(item)
        self.runner.add(self.proto.runnable())
        self.log.tick()


def _problem(stream: Stream, error: Exception) -> ConnectError:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if stream.open:
        return ConnectError(f"the connection broke: {cause}")
    if isinstance(cause, OSError):
        return network_error(cause, stream.host, stream.port, secure=stream.server_hostname is not None)
    return ConnectError(f"no connection to {place_of(stream.host, stream.port)}: {cause!r}")


def _value_of(request: Resolve) -> Any:
    value = request.provider()
    if inspect.iscoroutine(value):
        value.close()
    if inspect.isawaitable(value):
        raise TypeError("params and token cannot be async here: give plain values or functions")
    return value
