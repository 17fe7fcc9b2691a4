"""The pytest plugin: `phx_peer`, `phx_clock` and `phx_server`, and the conversation in the report of a failing test.

Its entry point loads it in every run, so it imports nothing of the library until a fixture is used. Its fixtures are
synchronous, so they work in plain tests and with any asynchronous plugin. A peer is verified when its test has passed,
as a part of the test: a problem is a failure of the test, not an error after it.
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
    """A server in memory, played by the test; an unexpected or missing message fails the test."""
    from .peer import Peer

    peer = Peer(clock=phx_clock)
    request.node.stash[_PEER] = peer
    yield peer
    peer.end()


@pytest.fixture
def phx_server(request: pytest.FixtureRequest) -> "Iterator[Callable[..., TestServer]]":
    """Start servers that end with the test; arguments as for `serve`, e.g. `{"room:*": Room}`."""
    from .serving import serve

    servers = request.node.stash[_SERVERS] = list["TestServer"]()
    with ExitStack() as stack:

        def start(channels: "Channels", **options: Any) -> "TestServer":
            servers.append(stack.enter_context(serve(channels, **options)))
            return servers[-1]

        yield start


@pytest.hookimpl(trylast=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """Verify the peer of a test that has passed: called after the test, unless it has failed."""
    peer = item.stash.get(_PEER, None)
    if peer is None:
        return
    from .errors import UnexpectedConversation

    failure = None
    try:
        peer.verify()
    except UnexpectedConversation as error:
        failure = str(error)
    if failure is not None:  # not inside `except`: its text is complete, and a traceback would only show the kit's code
        pytest.fail(failure, pytrace=False)


@pytest.hookimpl(hookwrapper=True)  # not `wrapper`, which needs pluggy 1.2
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, None]:
    """Show the conversations of a failed test, unless the failure's own text does."""
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
