"""SIGINT and SIGTERM, brought to the running loop."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

from ..client import signals


def signals_to(handle: Callable[[int], None], policy: signals.SignalPolicy) -> AbstractContextManager[None]:
    """Have `handle` called on the running loop with each SIGINT and SIGTERM that is taken, while a block lasts."""
    loop = asyncio.get_running_loop()

    def tell(number: int) -> None:
        loop.call_soon_threadsafe(handle, number)

    return signals.signals_to(tell, policy)
