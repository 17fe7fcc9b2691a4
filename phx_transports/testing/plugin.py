"""The pytest plugin: `phx_peer`, `phx_clock` and `phx_server`, and the conversation in the report of a failing test.

Loaded by its entry point in every run, so it imports nothing of the library until a fixture is used. Its fixtures are
plain ones, and so work in plain tests and in those of any asynchronous plugin. A peer is verified when its test has
passed, as a part of the test: what did not go as expected is a failure of the test, and not an error after it.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .clock import Clock
    from .peer import Peer
    from .serving import Channels, TestServer


@pytest.fixture
def phx_clock() -> "Clock":
    """The clock of `phx_peer`: it moves only by `advance` and `elapse`."""
    from .clock import Clock

    return Clock()


@pytest.fixture
def phx_peer(phx_clock: "Clock", request: pytest.FixtureRequest) -> "Iterator[Peer]":
    """A server in memory, played by the test; what was not expected, or did not come, fails the test."""
    from .peer import Peer

    peer = Peer(clock=phx_clock)
    request.node.stash[_PEER] = peer
    yield peer
    peer.end()


@pytest.fixture
def phx_server(request: pytest.FixtureRequest) -> "Iterator[Callable[..., TestServer]]":
    """Start servers that end with the test: call it as `serve`, with channels, e.g. `{"room:*": Room}`."""
    from .serving import serve

    servers = request.node.stash[_SERVERS] = list["TestServer"]()
    with ExitStack() as stack:

        def start(channels: "Channels", **options: Any) -> "TestServer":
            servers.append(stack.enter_context(serve(channels, **options)))
            return servers[-1]

        yield start


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Verify the peer of a test that has passed: called after the test has run, and not where it has failed."""
    peer = item.stash.get(_PEER, None)
    if peer is None:
        return
    from .errors import UnexpectedConversation

    failure = None
    try:
        peer.verify()
    except UnexpectedConversation as error:
        failure = str(error)
    if failure is not None:  # not within: it says all there is, and a traceback shows only the kit's own code
        pytest.fail(failure, pytrace=False)


@pytest.hookimpl(hookwrapper=True)  # not `wrapper`, which pluggy has since 1.2 only
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the conversations of a test that has failed, unless the failure's own text does."""
    outcome = yield
    report: pytest.TestReport = outcome.get_result()
    if report.failed:
        for server in item.stash.get(_SERVERS, ()):
            report.sections.append(("conversation with phx_server", server.transcript.folded))
    peer = item.stash.get(_PEER, None)
    if peer is not None and report.failed and "The conversation:" not in report.longreprtext:
        report.sections.append(("conversation with phx_peer", peer.transcript.folded))


_PEER = pytest.StashKey["Peer"]()
_SERVERS = pytest.StashKey["list[TestServer]"]()
