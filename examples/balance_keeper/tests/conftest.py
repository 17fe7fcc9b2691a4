from collections.abc import Iterator

import pytest

from ..store import Store


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as store:
        yield store
