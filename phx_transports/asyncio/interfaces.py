"""What a client takes from outside: connections and the time. Real ones, unless `connect` is given others.

The core's commands go out through it, and what comes in is told to the core's links in a step of the driver's. So a
test that plays the network and the clock of a client needs to know nothing else of it.
"""

from collections.abc import Callable
from typing import Protocol

from phx_proto.commands import Command
from phx_proto.link import Link

from ..client.driver import Driver


class Timer(Protocol):
    """Something to be called at a time; an `asyncio.TimerHandle` is one."""

    def when(self) -> float: ...
    def cancel(self) -> None: ...


class ClientTransport(Protocol):
    """The connections and the clock of one client, on its event loop."""

    def now(self) -> float:
        """Monotonic seconds, of the clock by which everything of this client goes."""
        ...

    def call_at(self, when: float, callback: Callable[[], object], /) -> Timer:
        """Have something called on the loop when that clock says so."""
        ...

    def perform(self, command: Command) -> None:
        """Do what the core wants done. Called from within a step, so it must not make one."""

    def writable(self, link: Link | None, /) -> bool:
        """Whether more can be sent there without waiting; if not, `wait_writable` comes first."""
        ...

    async def wait_writable(self, link: Link | None, /) -> None:
        """Give the loop a turn to write what was sent, and wait while there is no room."""

    async def end(self) -> None:
        """After the core has ended: give up what is under way, and wait until nothing is left."""


class TransportFactory(Protocol):
    """Makes the transport of a client; what `connect(…, transport=…)` takes. `phx_transports.testing.Peer` is one."""

    def asyncio_transport(self, driver: Driver, /) -> ClientTransport:
        """Make it, on the running loop; its driver is told what comes in (`step`), and what goes wrong (`fail`)."""
        ...
