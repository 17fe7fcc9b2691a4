"""From the core's events to the calls that wait for them; for all client adapters, free of I/O.

A call waits on a future of asyncio or `concurrent.futures`, or another `Waiter`. The core promises that each call ends
in exactly one event with its ref; here that event ends the call.
"""

import os
from asyncio import CancelledError
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from phx_proto.errors import ConnectionClosedByClient, OtherProcess, PhxError
from phx_proto.events import (
    ChannelJoined,
    Closed,
    Connected,
    ConnectFailed,
    Disconnected,
    Event,
    JoinFailed,
    LeaveEnded,
    PingAnswered,
    PushFailed,
    ReplyReceived,
    SocketEnded,
)

from .reports import listener_failed

T = TypeVar("T")

#: Stands for this process: another object in each fork. `os.getpid` is a system call, too much for every step.
_process = object()


def _forked() -> None:
    global _process
    _process = object()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_forked)


class Waiter(Protocol):
    """A future: the methods that are needed here."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


class Reader(Protocol):
    """A reader of a channel: the methods that are needed here; a `queues.MessageQueue` is one."""

    def release(self) -> None: ...
    def end(self) -> None: ...


class Step(Protocol):
    """Makes one call to the core with the time, and does what the core then wants done; see `Driver.step`."""

    def __call__(self, call: Callable[[float], T], /) -> T: ...


class Session:
    """The calls that wait on one client, the listeners to its events, and the readers of its channels.

    Attributes:
        closed: Whether the client has ended, for good.
        error: Why it ended; `None` before its end, or if the application closed it.
        listeners: Called with every event, in order; what they raise is logged.
        readers: The current readers of channels.
        on_begin: Called with the ref of each call, by the caller's thread or task; `None` for none. It must not raise.
    """

    def __init__(self) -> None:
        self._process = _process
        self.closed = False
        self.error: BaseException | None = None
        self.listeners: list[Callable[[Event], None]] = []
        self.readers: set[Reader] = set()
        self.on_begin: Callable[[str], None] | None = None
        self._calls: dict[str, tuple[Waiter, ...]] = {}  # by ref; a second `leave` gets the ref of the first
        self._away = {0}  # the client's sockets that should be open and are not
        self._for_connection: list[Waiter] = []
        self._for_end: list[Waiter] = []

    @property
    def is_here(self) -> bool:
        """Whether this is the client's process, and not a fork, which must neither read nor send."""
        return self._process is _process

    @property
    def connected(self) -> bool:
        """Whether all connections are open; one that never was counts only after a failed attempt."""
        return not self._away and not self.closed

    def check_process(self) -> None:
        """Refuse a fork, by `OtherProcess`."""
        if self._process is not _process:  # `is_here`, inlined: this is in every step
            raise OtherProcess

    def awaits(self, ref: str) -> bool:
        """Whether a call waits for the event with this ref."""
        return ref in self._calls

    def begin(self, call: Callable[[float], str], waiter: Waiter, now: float) -> str:
        """Make a call of the core, which the event with its ref ends; returns the ref."""
        ref = call(now)
        self._calls[ref] = (*self._calls.get(ref, ()), waiter)
        if self.on_begin is not None:
            self.on_begin(ref)
        return ref

    def wait_connected(self, waiter: Waiter) -> None:
        """End the waiter when all is connected, or at the client's end; at once if that is so already."""
        self._for_connection.append(waiter)
        if self.connected or self.closed:
            self._connection_settled()

    def wait_closed(self, waiter: Waiter) -> None:
        """End the waiter at the client's end, with its error if it has one; at once if it has ended."""
        self._for_end.append(waiter)
        if self.closed:
            self._end_settled()

    def forget(self, waiter: Waiter) -> None:
        """The wait for the connection or the end was given up."""
        for waiters in (self._for_connection, self._for_end):
            if waiter in waiters:
                waiters.remove(waiter)

    def fail(self, error: BaseException) -> None:
        """The client is about to end because of this error, of which the core does not know (`fail_fast`)."""
        if self.error is None:
            self.error = error

    def release_readers(self) -> None:
        """The client is about to end, without waiting for readers."""
        for reader in tuple(self.readers):
            reader.release()

    def end_readers(self) -> None:
        """The client has ended: readers get no further items."""
        for reader in tuple(self.readers):
            reader.end()

    def settle(self, events: Iterable[Event]) -> None:
        """End the calls that these events end, and then call the listeners, so that none of them can delay a call."""
        for event in events:
            self._settle(event)
            for listener in tuple(self.listeners):
                try:
                    listener(event)
                except (Exception, CancelledError) as error:
                    listener_failed(error)

    def _settle(self, event: Event) -> None:
        if type(event) is ReplyReceived:  # one for each push, and a `case` takes five times as long
            _end(self._calls.pop(event.ref, ()), event.reply)
            return
        match event:
            case PushFailed(ref=ref, error=error) | JoinFailed(ref=ref, error=error):
                _end(self._calls.pop(ref, ()), None, error)
            case ChannelJoined(ref=ref, response=response) if ref is not None:
                _end(self._calls.pop(ref, ()), response)
            case LeaveEnded(ref=ref):
                _end(self._calls.pop(ref, ()))
            case PingAnswered(ref=ref, elapsed=elapsed):
                _end(self._calls.pop(ref, ()), elapsed)
            case Connected(socket=socket) | SocketEnded(socket=socket):
                self._away.discard(socket)
                if self.connected:
                    self._connection_settled()
            case Disconnected(socket=socket) | ConnectFailed(socket=socket):
                self._away.add(socket)
            case Closed(error=error):
                self.closed = True
                if error is not None:
                    self.fail(error)
                self._connection_settled()
                self._end_settled()
            case _:
                pass

    def _connection_settled(self) -> None:
        waiters, self._for_connection = self._for_connection, []
        _end(waiters, None, None if self.connected else self.error or _closed_by_application())

    def _end_settled(self) -> None:
        waiters, self._for_end = self._for_end, []
        _end(waiters, None, self.error)


def _end(waiters: Iterable[Waiter], result: Any = None, error: BaseException | None = None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(result)
        else:
            waiter.set_exception(error)


def _closed_by_application() -> PhxError:
    return ConnectionClosedByClient(None, "the application closed it")
