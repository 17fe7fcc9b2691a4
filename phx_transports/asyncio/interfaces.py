"""The interfaces behind a client: connections and the clock. `connect` may be given others.

The core's commands go out through them; what comes in is passed to the core's links in a step of the driver. So a test
can replace the network and the clock of a client with these alone.
"""

from collections.abc import Callable
from typing import Protocol

from phx_proto.commands import Command
from phx_proto.link import Link

from ..client.driver import Driver


class Timer(Protocol):
    """A pending timer; an `asyncio.TimerHandle` is one."""

    def when(self) -> float: ...
    def cancel(self) -> None: ...


class ClientTransport(Protocol):
    """The connections and the clock of one client, on its event loop."""

    def now(self) -> float:
        """Monotonic seconds, by the clock for all of this client's times."""
        ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Call something on the loop when that clock has reached `when`."""
        ...

    def perform(self, command: Command) -> None:
        """Carry out a command of the core. Called within a step, so it must not make one."""

    def writable(self, link: Link | None, /) -> bool:
        """Whether more can be sent there without waiting; if not, `wait_writable` comes first."""
        ...

    async def wait_writable(self, link: Link | None, /) -> None:
        """Let the loop run to write what was sent, and wait while there is no room."""

    async def end(self) -> None:
        """After the core has ended: stop what still runs, and wait until everything is released."""


class TransportFactory(Protocol):
    """Makes the transport of a client; what `connect(…, transport=…)` takes. `phx_transports.testing.Peer` is one."""

    def asyncio_transport(self, driver: Driver, /) -> ClientTransport:
        """Make it, on the running loop. It passes inputs to the driver by `step`, and errors by `fail`."""
        ...
