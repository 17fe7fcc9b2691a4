from collections.abc import Iterator

import pytest
from conversation import Conversation


@pytest.fixture(autouse=True)
def _every_conversation_ends_well() -> Iterator[None]:
    yield
    Conversation.check_all()
