"""The connections of one client: carries out the core's commands, and reports to each link what its connection saw.

A link is an attempt to connect: first a thread, then a connection. The core decides when it ends. What is sent is
queued under the client's lock and written after its release, so code that sends much must wait while the socket takes
no more (`wait_writable`).
"""

import threading
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Any

from phx_proto.commands import (
    OpenTransport,
    PauseSending,
    Resolve,
    ResumeSending,
    SendRequest,
)
from phx_proto.errors import ConnectError
from phx_proto.link import Link

from ..blocking.waits import deadline_after, slice_until
from ..client.transport import CommandTransport, LinkProgress, plain_value
from ..websocket.connection import LINGER
from ..websocket.options import Factory, NetworkOptions
from .connection import Connection, open_connection
from .dialing import Attempt
from .interfaces import TransportDriver
from .io_thread import IoThread, Watched
from .polling import HttpConnection, Requests


class Transport(CommandTransport[Attempt, Connection]):
    """Connects for one client, sends, and calls its `params` and `auth_token`.

    Attributes:
        io_thread: Reads, and runs the timer.
    """

    def __init__(self, driver: TransportDriver, network: NetworkOptions[Factory]) -> None:
        super().__init__()
        self.now = monotonic
        self._driver = driver
        self._step = driver.step
        self._network = network
        self.io_thread = IoThread(
            "phx-client",
            on_bytes=self._read,
            on_gone=self._gone,
            on_due=driver.due,
            goes_on=driver.goes_on,
            on_end=driver.finish,
            on_crash=driver.fail,
        )
        self._requests = Requests(network, driver.step, self.io_thread, self._start)
        self._held: set[Link] = set()  # links on which the core makes callers wait
        self._links: dict[Connection, Link] = {}
        self._unwritten: set[Connection] = set()  # those on which something is queued
        self._openers: set[threading.Thread] = set()
        self._room = threading.Condition(driver.lock)
        self._senders = 0  # the number of threads that wait for room

    def flush(self) -> None:
        """Write what is queued; called after the lock is released."""
        while self._unwritten:
            try:
                connection = self._unwritten.pop()
            except KeyError:  # another thread was faster
                return
            connection.flush()

    def writable(self, link: Link | None) -> bool:
        """Whether more can be sent there without waiting; if not, `wait_writable` comes first."""
        if link is None:
            return True
        connection = self.connections.get(link)
        return link not in self._held and (connection is None or not connection.full)

    def wait_writable(self, link: Link | None, timeout: float | None = None) -> bool:
        """Wait while the socket takes no more; returns whether there is room now."""
        deadline = deadline_after(timeout)
        with self._room:
            self._senders += 1
            try:
                while not self.writable(link) and (patience := slice_until(deadline)):
                    self._room.wait(patience)
            finally:
                self._senders -= 1
        return self.writable(link)

    def end(self) -> None:
        """After the core has ended: wait for what still runs, except what cannot be stopped (a name's look-up)."""
        deadline = monotonic() + LINGER
        for thread in tuple(self._openers):
            thread.join(max(0.0, deadline - monotonic()))

    # ---- the core's commands ----------------------------------------------------------------------------------------

    def _open(self, command: OpenTransport) -> None:
        attempt = self.attempts[command.link] = Attempt(LinkProgress(command.link, self._step))
        self._start(partial(self._connect, command, attempt))

    def _connect(self, command: OpenTransport, attempt: Attempt) -> None:
        link = command.link
        try:
            connection = open_connection(
                command.url,
                subprotocols=command.subprotocols,
                headers=command.headers,
                network=self._network,
                lock=self._driver.lock,
                attempt=attempt,
            )
        except ConnectError as error:
            failure = error
            self._step(lambda now: self._failed(link, failure, now))
        else:
            self._step(lambda now: self._opened(link, connection, now))

    def _failed(self, link: Link, error: ConnectError, now: float) -> None:
        self.attempts.pop(link, None)
        link.failed(error, now)

    def _opened(self, link: Link, connection: Connection, now: float) -> None:
        if self.attempts.pop(link, None) is None:  # given up in the meantime
            connection.destroy()
            return
        connection.on_queued = self._unwritten.add
        connection.on_work = self.io_thread.wake
        connection.on_room = self._has_room
        self.connections[link] = connection
        self._links[connection] = link
        link.opened(connection.subprotocol, now)
        self.io_thread.add(connection)

    def _resolve(self, command: Resolve) -> None:
        # A thread of its own: it may block, and all other threads may be waiting for its result.
        thread = threading.Thread(target=self._guarded, args=(self._call, command), name="phx-resolve", daemon=True)
        self._driver.later(thread.start)

    def _call(self, command: Resolve) -> None:
        resolve(command, self._driver)

    def _send_request(self, command: SendRequest) -> None:
        self._requests.send(command)

    def _drop_requests(self, link: Link) -> bool:
        dropped = self._requests.drop(link)
        if dropped:
            self._release(link)
        return dropped

    def _pause_sending(self, command: PauseSending) -> None:
        self._held.add(command.link)

    def _resume_sending(self, command: ResumeSending) -> None:
        self._release(command.link)

    def _release(self, link: Link) -> None:
        self._held.discard(link)
        self._room.notify_all()  # under the lock, as in all commands

    # ---- callbacks of connections -----------------------------------------------------------------------------------

    def _read(self, connection: Watched) -> None:
        """A connection can be read; on the I/O thread."""
        if isinstance(connection, HttpConnection):
            self._requests.read(connection)
            return
        assert isinstance(connection, Connection)
        link = self._links[connection]
        frames = connection.receive()
        if frames:
            self._step(partial(link.receive_all, frames))
        elif connection.unfinished:
            self._step(link.progressed)
        if connection.ending is not None:
            self._step(lambda now: self._closed(connection, link, now))

    def _gone(self, connection: Watched) -> None:
        """A connection was closed; on the I/O thread."""
        if isinstance(connection, HttpConnection):
            self._requests.gone(connection)
            return
        assert isinstance(connection, Connection)
        link = self._links.pop(connection)
        self._step(lambda now: self._closed(connection, link, now))

    def _closed(self, connection: Connection, link: Link, now: float) -> None:
        """The connection of a link is over; a second call does nothing."""
        if self.connections.pop(link, None) is not None:
            self._room.notify_all()
            assert connection.ending is not None
            link.closed(*connection.ending, now)

    def _has_room(self) -> None:
        if self._senders:
            with self._room:
                self._room.notify_all()

    # ---- private ----------------------------------------------------------------------------------------------------

    def _start(self, open_connection: Callable[[], None]) -> None:
        """Open a connection on a thread of its own."""

        def run() -> None:
            self._openers.add(threading.current_thread())
            try:
                self._guarded(open_connection)
            finally:
                self._openers.discard(threading.current_thread())

        self._driver.later(threading.Thread(target=run, name="phx-connect", daemon=True).start)

    def _guarded(self, run: Callable[..., None], *args: Any) -> None:
        try:
            run(*args)
        except BaseException as error:
            self._driver.fail(error)


def resolve(command: Resolve, driver: TransportDriver) -> None:
    """Call the provider of params or token, and pass the result to the core."""
    try:
        value = plain_value(command)
    except BaseException as error:
        driver.step(partial(driver.proto.resolve_failed, command.request, error))
    else:
        driver.step(partial(driver.proto.resolved, command.request, value))
