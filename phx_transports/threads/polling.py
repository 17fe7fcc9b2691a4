"""The HTTP connections of links that are polled, on threads: two a link at most, used again and again.

They are told what to send under the client's lock; the I/O thread alone reads and writes.
"""

from collections.abc import Callable
from time import monotonic

from phx_proto.commands import SendRequest
from phx_proto.errors import ConnectError
from phx_proto.link import Link

from ..client.session import Step
from ..client.transport import LinkProgress
from ..longpoll.http import REUSED_WITHIN, HttpAnswer, HttpDialogue, address_of_request
from ..websocket.connection import DROPPED
from ..websocket.options import Factory, NetworkOptions
from .dialing import Attempt, Stream, dial
from .interfaces import TransportDriver
from .io_thread import IoThread


class HttpConnection:
    """One connection, with a request under way or idle.

    Args:
        stream: Connected.
        http: What is said on it.
        link: Whose it is.

    Attributes:
        command: The request that has no answer yet.
        stuck: Whether the socket takes no more; the I/O thread is to call `writable` when it does.
        aborted: Whether the socket is to be closed now.
        ending: How it has ended; see `Connection`.
    """

    readable = True
    has_early = False

    def __init__(self, stream: Stream, http: HttpDialogue, link: Link) -> None:
        self.link = link
        self.command: SendRequest | None = None
        self.stuck = False
        self.aborted = False
        self.ending: tuple[int | None, str] | None = None
        self._stream = stream
        self._http = http
        self._used_at = 0.0
        self._unwritten = memoryview(b"")
        stream.sock.setblocking(False)

    def fileno(self) -> int:
        """For selectors."""
        return self._stream.sock.fileno()

    # ---- under the client's lock ------------------------------------------------------------------------------------

    @property
    def fresh(self) -> bool:
        """Whether it may be used again."""
        return not self.aborted and monotonic() - self._used_at < REUSED_WITHIN

    def send(self, command: SendRequest) -> None:
        """Send a request; the I/O thread writes it.

        Raises:
            ConnectError: It cannot be sent.
        """
        data = self._http.request(command)
        tls = self._stream.tls
        self._unwritten = memoryview(data if tls is None else tls.send(data))
        self.command = command

    def abort(self) -> None:
        """Drop it; nothing more is told."""
        self.command = None
        self.aborted = True

    # ---- on the I/O thread ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        """Write what is to be sent, as far as the socket takes it."""
        while self._unwritten and not (self.stuck or self.aborted):
            try:
                self._unwritten = self._unwritten[self._stream.sock.send(self._unwritten) :]
            except BlockingIOError:
                self.stuck = True
            except OSError:  # what happened is told by the next read
                self._unwritten = memoryview(b"")

    def writable(self) -> None:
        """The socket takes more."""
        self.stuck = False
        self.flush()

    def receive(self) -> HttpAnswer | None:
        """One read; gives the answer once it is whole.

        Raises:
            ConnectError: There will be none.
        """
        try:
            data = self._stream.receive()
        except BlockingIOError:
            return None
        except OSError as error:
            raise ConnectError(f"the connection broke: {error}") from None
        if data is None:
            return None
        if self.command is None:
            raise ConnectError(DROPPED)
        answer = self._http.receive(data)
        if answer is not None:
            self._used_at = monotonic()
            self.aborted = not self._http.reusable
        return answer

    def destroy(self) -> None:
        """Close the socket; it must not be waited for any more."""
        self.aborted = True
        self._stream.sock.close()


class Requests:
    """The HTTP connections of all links of one client that are polled.

    Args:
        network: How connections are opened.
        driver: Of the client.
        io_thread: Reads and writes.
        start: Starts a thread that runs something, once the lock is released.
    """

    def __init__(
        self,
        network: NetworkOptions[Factory],
        driver: TransportDriver,
        io_thread: IoThread,
        start: Callable[[Callable[[], None]], None],
    ) -> None:
        self._network = network
        self._step: Step = driver.step
        self._io_thread = io_thread
        self._start = start
        self._attempts: dict[Link, set[Attempt]] = {}
        self._connections: dict[Link, set[HttpConnection]] = {}

    # ---- under the client's lock ------------------------------------------------------------------------------------

    def send(self, command: SendRequest) -> None:
        """Send a request, on a connection that is there or a new one."""
        link = command.link
        for connection in tuple(self._connections.setdefault(link, set())):
            if connection.command is not None:
                continue
            if connection.fresh:
                connection.send(command)
                self._io_thread.wake()
                return
            self._forget(connection)
        attempt = Attempt(LinkProgress(link, self._step))
        self._attempts.setdefault(link, set()).add(attempt)
        self._start(lambda: self._dial(command, attempt))

    def drop(self, link: Link) -> bool:
        """Drop all that a link has; gives whether it has anything."""
        attempts, connections = self._attempts.pop(link, None), self._connections.pop(link, None)
        for attempt in attempts or ():
            attempt.cancel()
        for connection in connections or ():
            connection.abort()
        self._io_thread.wake()
        return connections is not None

    def _forget(self, connection: HttpConnection) -> None:
        connection.abort()
        self._connections.get(connection.link, set()).discard(connection)
        self._io_thread.wake()

    def _opened(self, command: SendRequest, attempt: Attempt, connection: HttpConnection, now: float) -> None:
        attempts = self._attempts.get(command.link)
        if attempts is None:  # dropped meanwhile
            connection.destroy()
            return
        attempts.discard(attempt)
        self._connections[command.link].add(connection)
        try:
            connection.send(command)
        except ConnectError as error:
            command.exchange.failed(error, now)
        self._io_thread.add(connection)

    # ---- on threads of their own ------------------------------------------------------------------------------------

    def _dial(self, command: SendRequest, attempt: Attempt) -> None:
        try:
            address = address_of_request(command, self._network)
            stream = dial(address, self._network, attempt)
        except ConnectError as error:
            attempt.drop()
            failure = error
            self._step(lambda now: command.exchange.failed(failure, now))
        except BaseException:
            attempt.drop()
            raise
        else:
            connection = HttpConnection(stream, HttpDialogue(address, self._network), command.link)
            self._step(lambda now: self._opened(command, attempt, connection, now))

    # ---- on the I/O thread ------------------------------------------------------------------------------------------

    def read(self, connection: HttpConnection) -> None:
        """A connection can be read."""
        try:
            answer = connection.receive()
        except ConnectError as error:
            failure = error
            self._step(lambda now: self._failed(connection, failure, now))
            return
        if answer is not None:
            self._step(lambda now: self._answered(connection, answer, now))
        elif connection.command is not None:
            self._step(connection.command.exchange.progressed)

    def gone(self, connection: HttpConnection) -> None:
        """A connection was closed."""
        self._step(lambda now: self._failed(connection, ConnectError(DROPPED), now))

    def _answered(self, connection: HttpConnection, answer: HttpAnswer, now: float) -> None:
        command, connection.command = connection.command, None
        if connection.aborted:
            self._forget(connection)
        if command is not None:
            command.exchange.answered(answer.status, answer.headers, answer.body, now)

    def _failed(self, connection: HttpConnection, error: ConnectError, now: float) -> None:
        command = connection.command
        self._forget(connection)
        if command is not None:
            command.exchange.failed(error, now)
