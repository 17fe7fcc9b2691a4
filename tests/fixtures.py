"""Fixtures for the tests of several folders; what they need is imported when one of them is asked for."""

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

if TYPE_CHECKING:
    from certificates import Authority


@pytest_asyncio.fixture
async def clean_loop() -> AsyncIterator[None]:
    """The test leaves nothing behind on its loop; see `peer.tidy`."""
    from peer import tidy

    with tidy():
        yield


@pytest.fixture
def clean_threads() -> Iterator[None]:
    """The test leaves no thread behind, and nothing open; see `serving_in_thread.tidy`."""
    from serving_in_thread import tidy

    with tidy():
        yield


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> "Authority":
    """A certificate authority for TLS."""
    from certificates import Authority

    return Authority(tmp_path_factory.mktemp("tls"))
