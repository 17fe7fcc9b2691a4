"""The HTTP connections of links that use long polling, on threads: at most two for each link, which are reused.

Requests are queued under the client's lock; only the I/O thread reads and writes.
"""

from collections.abc import Callable
from functools import partial
from time import monotonic

from phx_proto.commands import SendRequest
from phx_proto.errors import ConnectError
from phx_proto.link import Link

from ..client.session import Step
from ..client.transport import LinkProgress
from ..longpoll.http import HttpDialogue
from ..websocket.connection import DROPPED
from ..websocket.options import Factory, NetworkOptions
from .dialing import Attempt, Stream, dial
from .io_thread import IoThread


class HttpConnection:
    """One connection, with a request under way or idle; a `Watched` of the I/O thread."""

    readable = True
    has_early = False
    ending = None

    def __init__(self, stream: Stream, http: HttpDialogue) -> None:
        self.http = http
        self.stuck = False
        self.stream = stream
        self._unwritten = memoryview(b"")
        stream.sock.setblocking(False)

    def fileno(self) -> int:
        return self.stream.sock.fileno()

    @property
    def aborted(self) -> bool:
        return self.http.over

    def send(self, command: SendRequest) -> None:
        """Send a request, under the client's lock; the I/O thread writes it."""
        data = self.http.request(command)
        tls = self.stream.tls
        self._unwritten = memoryview(data if tls is None else tls.send(data))

    # ---- on the I/O thread ------------------------------------------------------------------------------------------

    def flush(self) -> None:
        while self._unwritten and not (self.stuck or self.aborted):
            try:
                self._unwritten = self._unwritten[self.stream.sock.send(self._unwritten) :]
            except BlockingIOError:
                self.stuck = True
            except OSError:  # the next read reports it
                self._unwritten = memoryview(b"")

    def writable(self) -> None:
        self.stuck = False
        self.flush()

    def destroy(self) -> None:
        self.stream.sock.close()


class Requests:
    """The HTTP connections of all long-polling links of one client.

    Args:
        start: Starts a thread that runs something, after the lock is released.
    """

    def __init__(
        self,
        network: NetworkOptions[Factory],
        step: Step,
        io_thread: IoThread,
        start: Callable[[Callable[[], None]], None],
    ) -> None:
        self._network = network
        self._step = step
        self._io_thread = io_thread
        self._start = start
        self._attempts: dict[Link, set[Attempt]] = {}
        self._connections: dict[Link, set[HttpConnection]] = {}

    # ---- under the client's lock ------------------------------------------------------------------------------------

    def send(self, command: SendRequest) -> None:
        """Send a request, on an open connection or a new one."""
        for connection in self._connections.setdefault(command.link, set()):
            if connection.http.may_be_used(monotonic()):
                connection.send(command)
                self._io_thread.wake()
                return
            if connection.http.idle:
                connection.http.over = True
        attempt = Attempt(LinkProgress(command.link, self._step))
        self._attempts.setdefault(command.link, set()).add(attempt)
        self._start(lambda: self._dial(command, attempt))

    def drop(self, link: Link) -> bool:
        """Drop all connections of a link; returns whether it had any."""
        connections = self._connections.pop(link, None)
        for attempt in self._attempts.pop(link, ()):
            attempt.cancel()
        for connection in connections or ():
            connection.http.over = True
        self._io_thread.wake()
        return connections is not None

    def _opened(self, command: SendRequest, attempt: Attempt, connection: HttpConnection, now: float) -> None:
        attempts = self._attempts.get(command.link)
        if attempts is None:  # dropped in the meantime
            connection.destroy()
            return
        attempts.discard(attempt)
        try:
            connection.send(command)
        except ConnectError as error:
            command.exchange.failed(error, now)
        connections = self._connections[command.link]
        connections -= {one for one in connections if one.aborted}
        connections.add(connection)
        self._io_thread.add(connection)

    # ---- on threads of their own ------------------------------------------------------------------------------------

    def _dial(self, command: SendRequest, attempt: Attempt) -> None:
        try:
            http = HttpDialogue(command, self._network)
            connection = HttpConnection(dial(http.address, self._network, attempt), http)
        except ConnectError as error:
            attempt.drop()
            self._step(partial(command.exchange.failed, error))
        except BaseException:
            attempt.drop()
            raise
        else:
            self._step(partial(self._opened, command, attempt, connection))

    # ---- on the I/O thread ------------------------------------------------------------------------------------------

    def read(self, connection: HttpConnection) -> None:
        """A connection can be read."""
        try:
            data = connection.stream.receive()
        except BlockingIOError:
            return
        except OSError as error:
            self._step(partial(connection.http.failed, ConnectError(f"the connection broke: {error}")))
        else:
            if data is not None:
                self._step(partial(connection.http.receive, data))

    def gone(self, connection: HttpConnection) -> None:
        """A connection was closed."""
        self._step(partial(connection.http.failed, ConnectError(DROPPED)))
