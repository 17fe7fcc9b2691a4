"""A client without its I/O: everything that an embedding of the machine needs between its reads and writes.

The machine turns bytes into the core's inputs. The engine adds the rest of a client: calls that wait for their events,
handlers that get their messages, callables for params and token. The runtime brings a clock, and streams of bytes:

    engine = Engine(ClientProtocol("wss://example.com/socket", router=router), now=clock, turned=wake)
    engine.connect()
    while not engine.closed:
        engine.streams() ──▶ new `Stream`s  # each returned once: connect it, and carry its bytes
        engine.connected(stream)           # or engine.failed(stream, error)
        engine.received(stream, data)      # whatever a read brought, b"" at the end; while stream.reading
        stream.data_to_send() ──▶ bytes    # after every turn, until stream.state is no longer WANTED
        engine.turn()                      # at engine.deadline

    with engine.ask(calls.join(channel), done=wake_caller) as answer:      # calls: `phx_transports.client.calls`
        ...                                # wait for `done`; a call whose wait is cancelled is given up
    answer.result()

Every input makes a turn, and each turn ends with a call of `turned`: tasks that wait for the engine check it again.
Only one thread, or one event loop, may use it. Complete embeddings are examples/trio_client.py and
examples/asyncio_streams_client.py.
"""

import contextlib
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, Generic, TypeVar

from phx_proto.client import ClientProtocol
from phx_proto.errors import ConnectError
from phx_proto.queues import Delivery

from ..client.calls import Call
from ..client.driver import Driver, NoAlarm
from ..client.options import ClientSettings
from ..client.reports import OnHandlerError, is_exit, log_handler_error, report_to
from ..client.transport import plain_value
from ..websocket.errors import network_error
from ..websocket.options import MAX_SIZE
from ..websocket.reaching import place_of
from .handlers import Runner
from .machine import Machine, Stream

R = TypeVar("R")


def _ignore() -> None: ...


class Answer(Generic[R]):
    """The result of a call; a `session.Waiter`.

    Args:
        done: Called when it has ended; must not raise.
        take: Turns what the event brings into the caller's result; or raises.

    Attributes:
        ref: The call's ref; empty if it has none.
    """

    __slots__ = ("_done", "_ended", "_error", "_outcome", "_take", "ref")

    def __init__(
        self, done: Callable[[], object] = _ignore, take: Callable[[Any], R] = lambda outcome: outcome
    ) -> None:
        self.ref = ""
        self._done = done
        self._take = take
        self._ended = False
        self._outcome: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Whether the call has ended."""
        return self._ended

    def result(self) -> R:
        """The call's result, returned or raised. Call it once the call has ended."""
        if self._error is not None:
            raise self._error
        return self._take(self._outcome)

    def set_result(self, result: Any, /) -> None:
        self._ended, self._outcome = True, result
        self._done()

    def set_exception(self, exception: BaseException, /) -> None:
        self._ended, self._error = True, exception
        self._done()


class Engine(Driver):
    """One client, without its clock and its streams of bytes.

    Args:
        proto: The core.
        now: The runtime's clock: monotonic seconds.
        max_size: The largest message to receive, in bytes; `None` for no limit.
        on_handler_error: Called with what a handler raised; by default it is logged with its traceback.
        on_exit: Called with a handler's `SystemExit`; by default that is raised from the turn.
        turned: Called at the end of each turn: there may be bytes to write, another stream, another deadline.
        look: Called when handlers have run for `handlers.SPELL` seconds: serves the I/O, and returns whether they may
            go on. By default they may not: the turn ends, and the next is due at once.

    Attributes:
        proto: The core, with the application's calls: `connect`, `channel`, `close`.
        machine: Makes the streams.
        session: The calls that wait, and listeners to events; the log is one.
        log: The client's log.
        runner: Runs the handlers: plain functions, called within a turn, one after another.
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
        super().__init__(proto, ClientSettings(on_handler_error=on_handler_error))
        self.machine = Machine(proto, max_size=max_size)
        told = partial(report_to, self.log.unless(on_handler_error))
        self.runner = Runner(proto, now=now, look=look, on_error=told, on_exit=on_exit)
        self.attach(now=now, perform=self.machine.obey, workers=self.runner, alarm=NoAlarm())
        self._turned = turned

    # ---- outputs ----------------------------------------------------------------------------------------------------

    @property
    def closed(self) -> bool:
        """Whether the client has ended, and the last handlers have run."""
        return self.session.closed and not self.runner.waiting

    @property
    def error(self) -> BaseException | None:
        """Why it ended; `None` before its end, or if the application closed it."""
        return self.session.error

    @property
    def deadline(self) -> float:
        """When the next turn is due at the latest; `math.inf` for never."""
        return self.now() if self.runner.waiting else self.next_due

    def streams(self) -> list[Stream]:
        """The streams to open, as `Machine.streams` returns them."""
        return self.machine.streams()

    # ---- inputs -----------------------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Begin to connect, and stay connected until closed."""
        self.proto.connect(self.now())
        self.turn()

    def connected(self, stream: Stream) -> None:
        """The stream is open, TLS included."""
        stream.connected(self.now())
        self.turn()

    def received(self, stream: Stream, data: bytes) -> None:
        """Passes in a read of the stream; no bytes at its end."""
        if data:
            stream.receive_data(data, self.now())
        else:
            stream.receive_eof(self.now())
        self.turn()

    def failed(self, stream: Stream, error: Exception) -> None:
        """The stream could not be opened, or broke, with this error of the runtime (or an `OSError` as its cause)."""
        stream.failed(_problem(stream, error), self.now())
        self.turn()

    def close(self, *, timeout: float = 10.0) -> None:
        """Begin to close gracefully: received messages are handled, channels are left, the connection is closed."""
        self.proto.close(self.now(), timeout=timeout)
        self.turn()

    @contextlib.contextmanager
    def ask(self, call: Call[R], *, done: Callable[[], object] = _ignore) -> Generator[Answer[R], None, None]:
        """Make a call, for a block that waits for it; if the block ends with an exception, the call is given up.

        Args:
            call: E.g. `calls.push(channel, "shout", {"body": "hi"})`.
            done: Called when the answer is there; must not raise.

        Raises:
            LocalError: The core refuses it.
        """
        answer = Answer(done, call.result)
        answer.ref = self.begin(call, answer)
        self.turn()
        try:
            yield answer
        except BaseException:
            call.give_up(answer.ref, self.now())
            self.turn()
            raise

    def turn(self) -> None:
        """Pass the time to the core, results to calls, and messages to handlers."""
        self.proto.handle_timeout(self.now())
        self.pump()
        if self.runner.work():
            self.pump()
        self._turned()

    # ---- as a driver ------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Carry out the core's commands, except the I/O."""
        self.runner.report()
        resolve(self.machine, self.proto, self.now)
        super().pump()
        self.log.tick()

    def on_closed(self) -> None:
        """If the application closed the client, messages for handlers were dropped with it."""
        self.runner.closed |= self.error is None

    def handled(self, deliveries: Sequence[Delivery]) -> None:
        """Report what a stream's reader has taken as handled."""
        self.runner.handled(deliveries)


def resolve(machine: Machine, proto: ClientProtocol, now: Callable[[], float]) -> None:
    """Call the core's providers of params and token, and pass it their results; then raise an exit, if one did so."""
    ending: BaseException | None = None
    for request in machine.requests():
        try:
            value = plain_value(request)
        except BaseException as error:
            proto.resolve_failed(request.request, error, now())
            ending = error if is_exit(error) else ending
        else:
            proto.resolved(request.request, value, now())
    if ending is not None:
        raise ending


def _problem(stream: Stream, error: Exception) -> ConnectError:
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    if stream.open:
        return ConnectError(f"the connection broke: {cause}")
    if isinstance(cause, OSError):
        return network_error(cause, stream.host, stream.port, secure=stream.server_hostname is not None)
    return ConnectError(f"no connection to {place_of(stream.host, stream.port)}: {cause!r}")
