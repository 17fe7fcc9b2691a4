"""What a client takes from outside: connections, the time, and whoever waits for both. Real ones, unless `connect` is
given others.

The core's commands go out through it, and what comes in is told to the core's links in a step of the driver's. So a
test that plays the network and the clock of a client needs to know nothing else of it.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from phx_proto.client import ClientProtocol
from phx_proto.commands import Command

from ..client.session import Step


class ClientIoThread(Protocol):
    """Tells the time, and does what has to be done by none of the application's threads; see `io_thread.IoThread`.

    Attributes:
        armed: The deadline, by the client's clock; `math.inf` for none.
    """

    armed: float

    def start(self) -> None:
        """Begin."""
        ...

    def join(self) -> None:
        """Wait until it has ended: when `goes_on` says no, after `on_end`."""
        ...

    @property
    def is_current(self) -> bool:
        """Whether this is called from within it."""
        ...

    def wake(self) -> None:
        """Have everything looked at anew; with or without the client's lock."""
        ...

    def arm(self, deadline: float) -> None:
        """Set an earlier deadline; with or without the client's lock."""
        ...

    def call(self, function: Callable[[], None]) -> None:
        """Have something called without any lock; a signal's handler may ask for it."""
        ...


class ClientTransport(Protocol):
    """The connections and the clock of one client."""

    @property
    def io_thread(self) -> ClientIoThread:
        """Its I/O thread."""
        ...

    def now(self) -> float:
        """Monotonic seconds, of the clock by which everything of this client goes."""
        ...

    def perform(self, command: Command) -> None:
        """Do what the core wants done. Called under the client's lock, so it must not tell it anything."""
        ...

    def flush(self) -> None:
        """Whoever has told the core something has released the lock: what was queued can be written."""
        ...

    @property
    def writable(self) -> bool:
        """Whether more can be sent without waiting; if not, `wait_writable` comes first."""
        ...

    def wait_writable(self, timeout: float | None = None) -> bool:
        """Wait while there is no room; gives whether there is room now."""
        ...

    def end(self) -> None:
        """After the core has ended: wait for what is under way."""
        ...


class TransportDriver(Protocol):
    """The driver of the client, as far as a transport needs it."""

    @property
    def proto(self) -> ClientProtocol:
        """The core."""
        ...

    @property
    def lock(self) -> threading.Lock:
        """Held while the core is told something."""
        ...

    @property
    def step(self) -> Step:
        """To be used for each input to the core; it takes the lock."""
        ...

    def later(self, call: Callable[[], None], /) -> None:
        """Have something done after the lock was released; under the lock."""
        ...

    def due(self, at: float, /) -> None:
        """To be called when the I/O thread's deadline has passed, with that."""
        ...

    def goes_on(self) -> bool:
        """Whether to go on while there is no connection; it takes the lock."""
        ...

    def finish(self) -> None:
        """The I/O thread's last act."""
        ...

    def fail(self, error: BaseException, /) -> None:
        """End the client with an error that was not foreseen."""
        ...


class TransportFactory(Protocol):
    """Makes the transport of a client; what `connect(…, transport=…)` takes. `phx_transports.testing.Peer` is one."""

    def threads_transport(self, driver: TransportDriver, /) -> ClientTransport:
        """Make it."""
        ...
