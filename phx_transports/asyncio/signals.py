"""SIGINT and SIGTERM, brought to the running loop."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

from .. import signals


def signals_to(handle: Callable[[], None]) -> AbstractContextManager[None]:
    """Have `handle` called on the running loop at each SIGINT and SIGTERM, for the length of a block."""
    loop = asyncio.get_running_loop()

    def tell() -> None:
        loop.call_soon_threadsafe(handle)

    return signals.signals_to(tell)
