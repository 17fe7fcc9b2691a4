"""The three clients behind one blocking face.

The asyncio client lives on a loop in a thread. The client on threads is used as it is. The one on wsproto has a thread
of its own, which runs it between the calls that are passed to it; there one call waits at a time.

Handlers are plain functions of a message, or of a message and a channel (a face too), and may wait and push. For the
asyncio client each becomes a coroutine function that awaits it, or stays a plain one in the executor.
"""

import asyncio
import inspect
import queue
import signal
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any, Final

import pytest
from serving_in_thread import LONG, QUICK, Flag, Loop, Peer, Wire, serving, start, until

import phx_transports.asyncio
import phx_transports.threads
import phx_transports.wsproto
from phx_proto.message import Message
from phx_proto.states import SocketState

from .faces import END, Channel, Client, Function, Handlers

TOPIC: Final = "room:lobby"

_TURN: Final = 0.002  # seconds for which the client on wsproto works before it is asked for something else
_MOMENT: Final = 0.0002  # seconds within which who has had his answer asks again


class Adapter(ABC):
    """One of the clients, and how it is used from a test."""

    def __init__(self) -> None:
        self._opened: list[Client] = []

    # ---- for tests --------------------------------------------------------------------------------------------------

    def connect(self, url: str, **options: Any) -> Client:
        client = Client(self.call(lambda: self.open(url, **_native(options))), self)
        self._opened.append(client)
        return client

    @contextmanager
    def connecting(self, url: str, **options: Any) -> Iterator[Client]:
        """`connect` as a context manager."""
        with self.within(lambda: self.open(url, **_native(options))) as native:
            client = Client(native, self)
            self._opened.append(client)
            yield client

    def dial(self, peer: Peer, **options: Any) -> Client:
        return self.connect(peer.url, **{"options": QUICK} | options)

    @contextmanager
    def connected(self, **options: Any) -> Iterator[tuple[Client, Wire]]:
        """A client, and the wire at the server's end. It ends without ceremony."""
        with serving() as peer:
            client = self.dial(peer, **options)
            try:
                yield client, peer.wire()
            finally:
                client.abort()

    @contextmanager
    def joined(self, topic: str = TOPIC, **options: Any) -> Iterator[tuple[Channel, Wire, str]]:
        """A client with one channel, and the join's ref."""
        with self.connected(**options) as (client, wire):
            channel, ref = self.join(client, wire, topic)
            yield channel, wire, ref

    def join(self, client: Client, wire: Wire, topic: str = TOPIC) -> tuple[Channel, str]:
        joining = start(client.join, topic)
        frame = wire.accept(topic)
        assert frame.join_ref is not None
        return joining.result(LONG), frame.join_ref

    def handlers(self) -> Handlers:
        return Handlers(self)

    def wait(self, flag: Flag) -> None:
        """Wait in a handler; the connection goes on meanwhile."""
        flag.wait()

    @abstractmethod
    def interrupt(self, call: Callable[[], Any], *, after: Callable[[], Any]) -> None:
        """Make a call, and give it up once `after` has returned on another thread, as is usual with this adapter."""

    # ---- for the faces and fixtures ---------------------------------------------------------------------------------

    @abstractmethod
    def call(self, make: Callable[[], Any]) -> Any:
        """Make a call where the clients live, and wait for what it gives."""

    @abstractmethod
    def open(self, url: str, **options: Any) -> Any:
        """The adapter's own `connect`, called."""

    def factory(self, connect: Callable[[str, int], socket.socket]) -> Any:
        """What opens a TCP connection, for the option `factory` of this adapter's `connect`."""
        return connect

    @abstractmethod
    def handler(self, function: Function) -> Function:
        """The function as a handler of this adapter's."""

    @contextmanager
    def within(self, make: Callable[[], Any]) -> Iterator[Any]:
        """Within a context manager of the adapter's."""
        context = self.context(make)
        value = self.enter(context)
        try:
            yield value
        except BaseException as error:
            self.leave(context, error)
            raise
        self.leave(context)

    def context(self, make: Callable[[], Any]) -> Any:
        return self.call(make)

    def enter(self, context: Any) -> Any:
        return self.call(context.__enter__)

    def leave(self, context: Any, error: BaseException | None = None) -> None:
        self.call(lambda: context.__exit__(None if error is None else type(error), error, None))

    def next_of(self, stream: Any) -> Any:
        """The next item of a stream; `END` after the last."""
        return self.call(lambda: next(stream, END))

    def wait_for_the_end(self, native: Any, call: str) -> None:
        self.call(getattr(native, call))

    def close(self) -> None:
        for client in self._opened:
            client.abort()


class Asyncio(Adapter):
    """On a loop in a thread; a call is given up by cancelling its task.

    Args:
        plain: Whether handlers stay plain functions, for the executor.
    """

    def __init__(self, *, plain: bool = False) -> None:
        super().__init__()
        self._plain = plain
        self._loop = Loop()
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="test-handler")  # where coroutine handlers wait
        self._tasks: list[asyncio.Task[Any] | None] = []  # of the calls, the latest last
        self._problems: list[Any] = []
        self._loop.loop.set_exception_handler(lambda loop, context: self._problems.append(context))

    def interrupt(self, call: Callable[[], Any], *, after: Callable[[], Any]) -> None:
        self._tasks.clear()
        running = start(call)
        until(lambda: self._tasks)
        after()
        task = self._tasks[-1]
        assert task is not None
        self._loop.loop.call_soon_threadsafe(task.cancel)
        with pytest.raises(CancelledError):
            running.result(LONG)

    def call(self, make: Callable[[], Any]) -> Any:
        async def run() -> tuple[Any, BaseException | None]:
            self._tasks.append(asyncio.current_task())
            try:
                result = make()
                return (await result if inspect.isawaitable(result) else result), None
            except (Exception, SystemExit) as error:  # as it is: from thread to thread asyncio would change some
                return None, error

        result, error = self._loop(run())
        if error is not None:
            raise error
        return result

    def open(self, url: str, **options: Any) -> Any:
        return phx_transports.asyncio.connect(url, **{"proxy": None} | options)

    def factory(self, connect: Callable[[str, int], socket.socket]) -> Any:
        async def connected(host: str, port: int) -> socket.socket:
            return connect(host, port)

        return connected

    def handler(self, function: Function) -> Function:
        arguments = _arguments(function)

        def plain(message: Message[Any], channel: Any) -> Any:
            return function(*(message, Channel(channel, self))[:arguments])

        def outcome(message: Message[Any], channel: Any) -> BaseException | None:
            try:
                plain(message, channel)
            except BaseException as error:
                return error
            return None

        async def coroutine(message: Message[Any], channel: Any) -> None:
            error = await self._loop.loop.run_in_executor(self._pool, outcome, message, channel)
            if error is not None:
                raise error

        return _named(plain if self._plain else coroutine, function)

    def context(self, make: Callable[[], Any]) -> Any:
        return make()  # not awaited

    def enter(self, context: Any) -> Any:
        return self.call(context.__aenter__)

    def leave(self, context: Any, error: BaseException | None = None) -> None:
        self.call(lambda: context.__aexit__(None if error is None else type(error), error, None))

    def next_of(self, stream: Any) -> Any:
        return self.call(lambda: anext(stream, END))

    def close(self) -> None:
        super().close()
        self._pool.shutdown()
        left = self._loop(_left())
        self._loop.close()
        assert (left, self._problems) == ([], [])


async def _left() -> list[Any]:
    """What runs on the loop beside the question."""
    for _ in range(20):
        await asyncio.sleep(0)
    return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


class Threads(Adapter):
    """As it is; a call is given up by an interrupt of the main thread, which makes it.

    Args:
        executor: For its handlers; by default threads of the client's own.
    """

    def __init__(self, *, executor: ThreadPoolExecutor | None = None) -> None:
        super().__init__()
        self._executor = executor

    def interrupt(self, call: Callable[[], Any], *, after: Callable[[], Any]) -> None:
        _interrupt(call, after)

    def call(self, make: Callable[[], Any]) -> Any:
        return make()

    def open(self, url: str, **options: Any) -> Any:
        return phx_transports.threads.connect(url, **{"proxy": None, "executor": self._executor} | options)

    def handler(self, function: Function) -> Function:
        return _wrapped(function, self)

    def close(self) -> None:
        super().close()
        if self._executor is not None:
            self._executor.shutdown()


class Wsproto(Adapter):
    """On a thread of its own; a call is given up by an interrupt of the main thread, to which it is lent for that."""

    def __init__(self) -> None:
        super().__init__()
        self._natives: list[phx_transports.wsproto.Client] = []
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._closed = False
        self._owner = self._thread = threading.Thread(target=self._live, name="test-client", daemon=True)
        self._thread.start()

    def wait(self, flag: Flag) -> None:
        deadline = monotonic() + LONG
        while not flag.is_set():
            assert monotonic() < deadline, "it never came"
            self._turn()

    def interrupt(self, call: Callable[[], Any], *, after: Callable[[], Any]) -> None:
        with self._lent():
            _interrupt(call, after)

    def call(self, make: Callable[[], Any]) -> Any:
        if threading.current_thread() is self._owner:  # in a handler, for instance
            return make()
        future: Future[Any] = Future()
        self._jobs.put((make, future))
        return future.result(LONG)

    def open(self, url: str, **options: Any) -> Any:
        native = phx_transports.wsproto.connect(url, **options)
        self._natives.append(native)
        return native

    def handler(self, function: Function) -> Function:
        return _wrapped(function, self)

    def next_of(self, stream: Any) -> Any:
        deadline = monotonic() + LONG
        while True:
            try:
                return self.call(lambda: stream.next(timeout=_TURN))
            except StopIteration:
                return END
            except TimeoutError:
                if monotonic() >= deadline:
                    raise

    def wait_for_the_end(self, native: Any, call: str) -> None:
        if threading.current_thread() is not self._owner:
            until(lambda: native.state is SocketState.CLOSED)
        self.call(getattr(native, call))

    def close(self) -> None:
        super().close()
        self._closed = True
        self._thread.join(LONG)

    def _live(self) -> None:
        while not self._closed:
            self._turn()

    def _turn(self) -> None:
        """Make the next call, if there is one; else each client works for a moment."""
        try:
            make, future = self._jobs.get(timeout=_MOMENT)
        except queue.Empty:
            self._work()
            return
        try:
            future.set_result(make())
        except BaseException as error:
            future.set_exception(error)

    def _work(self) -> None:
        began = monotonic()
        for native in self._natives:
            with suppress(Exception, SystemExit):  # what ended it; it is raised again where a test asks
                native.run(timeout=_TURN)
        threading.Event().wait(began + _TURN - monotonic())  # the rest of the moment, where there is none at work

    @contextmanager
    def _lent(self) -> Iterator[None]:
        """To the calling thread."""
        lent, back = Flag(), Flag()

        def lend() -> None:
            lent.set()
            back.wait()

        lending = start(self.call, lend)
        lent.wait()
        self._owner = threading.current_thread()
        try:
            yield
        finally:
            self._owner = self._thread
            back.set()
            lending.result(LONG)


def _interrupt(call: Callable[[], Any], after: Callable[[], Any]) -> None:
    main = threading.main_thread()
    assert threading.current_thread() is main
    assert main.ident is not None

    inside = Flag()

    def interrupt(thread: int) -> None:
        inside.wait()
        after()
        until(lambda: _rests(thread))
        signal.pthread_kill(thread, signal.SIGINT)

    interrupting = start(interrupt, main.ident)

    def be_interrupted() -> None:
        inside.set()
        call()

    with pytest.raises(KeyboardInterrupt):
        be_interrupted()
    interrupting.result(LONG)


def _rests(thread: int) -> bool:
    """Whether it waits, and is not at work: what a call has half done cannot be given up."""
    return sys._current_frames()[thread].f_code.co_filename.endswith(("selectors.py", "threading.py", "waiter.py"))


def _wrapped(function: Function, adapter: Adapter) -> Function:
    arguments = _arguments(function)

    def handler(message: Message[Any], channel: Any) -> Any:
        return function(*(message, Channel(channel, adapter))[:arguments])

    return _named(handler, function)


def _arguments(function: Function) -> int:
    return len(inspect.signature(function).parameters)


def _named(handler: Function, function: Function) -> Function:
    handler.__name__, handler.__qualname__ = function.__name__, function.__qualname__
    return handler


def _native(options: dict[str, Any]) -> dict[str, Any]:
    handlers = options.get("router")
    return options | {"router": handlers.native} if isinstance(handlers, Handlers) else options
