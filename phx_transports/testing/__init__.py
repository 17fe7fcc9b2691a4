"""The test kit: for tests of what an application does with Phoenix Channels. It needs no pytest.

- `deliver` runs the handlers that a message reaches, and returns their results.
- `Peer` plays the server in memory, on a clock that the test moves: against a bare `ClientProtocol`, and against the
  clients on asyncio and threads (`connect(url, transport=peer)`). The wsproto client is a machine of bytes that a test
  can feed directly (`phx_transports.wsproto.machine`); it takes no peer.
- `background` makes a blocking call, such as `client.run`, on a thread of its own.
- `serve` is a real server on a free port, with faults set by the test.
- `Recording` plays the server's part of a session that `phx listen --record` has written.
- `phx_transports.testing.strategies` makes topics, payloads, messages and conversations for hypothesis.

The pytest plugin, which is loaded automatically, has the fixtures `phx_peer`, `phx_clock` and `phx_server`.
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

# Every run of pytest on the machine imports the plugin, and this package with it. Names are imported on first use, so
# that a run without them costs nothing, and coverage is measured for what the run itself imports.
_MODULES: Final = "errors calls clock transcript channel delivery expectations peer driver recording faults serving"


def __getattr__(name: str) -> Any:
    for module in _MODULES.split() if name in __all__ else ():
        if hasattr(found := import_module(f".{module}", __name__), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # for `help` and completion
