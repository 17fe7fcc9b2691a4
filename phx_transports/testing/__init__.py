"""The test kit: for tests of what an application does with Phoenix Channels. It needs no pytest.

- `deliver` runs the handlers that a message would reach, and gives what each of them did.
- `Peer` plays the server in memory, on a clock that the test moves.
- `serve` is a real server on a free port, with faults to order.
- `phx_transports.testing.strategies` makes topics, payloads, messages and conversations for hypothesis.

The pytest plugin, which is loaded by itself, gives the fixtures `phx_peer`, `phx_clock` and `phx_server`.
"""

from .channel import FakeChannel, Sent
from .clock import Clock
from .delivery import Outcome, Outcomes, deliver, deliver_async
from .driver import Driver
from .errors import CannotPlay, NothingHandled, NotScripted, TestKitError, UnexpectedConversation
from .expectations import ANYTHING, Expectation
from .faults import Faults
from .peer import Peer
from .serving import AsyncTestServer, TestServer, serve
from .transcript import Entry, Side, Transcript

__all__ = [
    "ANYTHING",
    "AsyncTestServer",
    "CannotPlay",
    "Clock",
    "Driver",
    "Entry",
    "Expectation",
    "FakeChannel",
    "Faults",
    "NotScripted",
    "NothingHandled",
    "Outcome",
    "Outcomes",
    "Peer",
    "Sent",
    "Side",
    "TestKitError",
    "TestServer",
    "Transcript",
    "UnexpectedConversation",
    "deliver",
    "deliver_async",
    "serve",
]
