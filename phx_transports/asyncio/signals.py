"""SIGINT and SIGTERM, passed to the running loop."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager

from ..client import signals


def signals_to(handle: Callable[[int], None], policy: signals.SignalPolicy) -> AbstractContextManager[bool]:
    """Call `handle` on the running loop with each SIGINT and SIGTERM that is caught during the block."""
    loop = asyncio.get_running_loop()

    def tell(number: int) -> None:
        loop.call_soon_threadsafe(handle, number)

    return signals.signals_to(tell, policy)
