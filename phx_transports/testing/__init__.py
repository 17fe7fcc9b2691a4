"""The test kit: for tests of what an application does with Phoenix Channels. It needs no pytest.

- `deliver` runs the handlers that a message would reach, and returns what each of them did.
- `Peer` plays the server in memory, on a clock that the test moves: against a bare `ClientProtocol`, and against the
  clients on asyncio and threads (`connect(url, transport=peer)`). The wsproto client is a machine of bytes that a test
  can feed by itself (`phx_transports.wsproto.machine`); it takes no peer.
- `background` calls what blocks, such as `client.run`, on a thread of its own.
- `serve` is a real server on a free port, with faults to order.
- `Recording` plays what a server did in a session that `phx listen --record` has written down.
- `phx_transports.testing.strategies` makes topics, payloads, messages and conversations for hypothesis.

The pytest plugin, which is loaded by itself, gives the fixtures `phx_peer`, `phx_clock` and `phx_server`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .calls import background
    from .channel import FakeChannel, Sent
    from .clock import Clock
    from .delivery import Outcome, Outcomes, deliver, deliver_async
    from .driver import PeerDriver
    from .errors import CannotPlay, NothingHandled, NotScripted, TestKitError, UnexpectedConversation
    from .expectations import ANYTHING, Expectation
    from .faults import Faults
    from .peer import Peer
    from .recording import Recording
    from .serving import AsyncTestServer, TestServer, serve
    from .transcript import Entry, Side, Transcript

__all__ = [
    "ANYTHING",
    "AsyncTestServer",
    "CannotPlay",
    "Clock",
    "Entry",
    "Expectation",
    "FakeChannel",
    "Faults",
    "NotScripted",
    "NothingHandled",
    "Outcome",
    "Outcomes",
    "Peer",
    "PeerDriver",
    "Recording",
    "Sent",
    "Side",
    "TestKitError",
    "TestServer",
    "Transcript",
    "UnexpectedConversation",
    "background",
    "deliver",
    "deliver_async",
    "serve",
]

# The plugin is imported in every run of pytest on the machine, and brings this package with it: names are imported when
# they are first used, so that a run without them pays nothing, and measures the coverage of what it imports itself.
_MODULES: Final = "errors calls clock transcript channel delivery expectations peer driver recording faults serving"


def __getattr__(name: str) -> Any:
    for module in _MODULES.split() if name in __all__ else ():
        if hasattr(found := import_module(f".{module}", __name__), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # for `help` and completion
