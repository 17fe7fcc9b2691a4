"""What the consumer does with messages. Handlers run in threads, so the ORM may be used as it is."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from django.db import close_old_connections

from accounts.models import Balance
from phx_proto import Message, Router


class Charged(msgspec.Struct):
    cents: int


@contextmanager
def with_connections(handler: Any, message: Any) -> Iterator[None]:
    """What Django does around a request: a connection that the database has dropped is not used again."""
    close_old_connections()
    try:
        yield
    finally:
        close_old_connections()


router = Router(around=with_connections)


@router.on("balance", topic="sim:*")
def save(message: Message[Charged]) -> None:
    Balance.objects.update_or_create(topic=message.topic, defaults={"cents": message.payload.cents})
