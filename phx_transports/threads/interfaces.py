"""The interfaces behind a client: connections, the clock and the I/O thread. `connect` may be given others.

The core's commands go out through them; what comes in is passed to the core's links in a step of the driver. So a test
can replace the network and the clock of a client with these alone.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from phx_proto.client import ClientProtocol
from phx_proto.commands import Command
from phx_proto.link import Link

from ..client.driver import Alarm
from ..client.session import Session, Step


class ClientIoThread(Alarm, Protocol):
    """Runs the timer, and work that no thread of the application may have to do; see `io_thread.IoThread`.

    All but `start` and `join` may be called with or without the client's lock.
    """

    def start(self) -> None: ...
    def join(self) -> None: ...
    def wake(self) -> None: ...
    def call(self, function: Callable[[], None]) -> None: ...

    @property
    def is_current(self) -> bool: ...


class ClientTransport(Protocol):
    """The connections and the clock of one client."""

    @property
    def io_thread(self) -> ClientIoThread:
        """Its I/O thread."""
        ...

    def now(self) -> float:
        """Monotonic seconds, by the clock for all of this client's times."""
        ...

    def perform(self, command: Command) -> None:
        """Carry out a command of the core. Called under the client's lock, so it must not call the core."""

    def flush(self) -> None:
        """Write what is queued; called when a step has released the lock."""

    def writable(self, link: Link | None, /) -> bool:
        """Whether more can be sent there without waiting; if not, `wait_writable` comes first."""
        ...

    def wait_writable(self, link: Link | None, /, timeout: float | None = None) -> bool:
        """Wait while there is no room; returns whether there is room now."""
        ...

    def end(self) -> None:
        """After the core has ended: wait for what still runs."""


class TransportDriver(Protocol):
    """The driver of the client, as far as a transport needs it; see `ThreadsDriver`."""

    @property
    def proto(self) -> ClientProtocol: ...

    @property
    def session(self) -> Session:
        """The calls that wait."""
        ...

    @property
    def lock(self) -> threading.Lock: ...

    @property
    def step(self) -> Step: ...

    def later(self, call: Callable[[], None], /) -> None: ...
    def due(self, at: float, /) -> None: ...
    def fail(self, error: BaseException, /) -> None: ...

    def goes_on(self) -> bool:
        """Whether the I/O thread goes on while there is no connection; it takes the lock."""
        ...

    def finish(self) -> None:
        """The last call on the I/O thread."""


class TransportFactory(Protocol):
    """Makes the transport of a client; what `connect(…, transport=…)` takes. `phx_transports.testing.Peer` is one."""

    def threads_transport(self, driver: TransportDriver, /) -> ClientTransport:
        """Make it."""
        ...
