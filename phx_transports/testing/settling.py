"""Turns of an event loop: letting everything on it go as far as it can, without any time passing."""

import asyncio
from collections.abc import Callable
from typing import Final

_QUIET: Final = 16  # turns in which nothing happened, after which nothing will: no chain of callbacks here is longer
_MOST: Final = 100_000  # turns in all


async def settle_loop(signs: Callable[[], object]) -> None:
    """Give the loop turns until the signs of life have stood still for a while.

    Args:
        signs: Any value that changes while something still happens.

    Raises:
        RuntimeError: It never comes to rest.
    """
    seen, still = signs(), 0
    for _ in range(_MOST):
        await asyncio.sleep(0)
        now = signs()
        still = still + 1 if now == seen else 0
        if still == _QUIET:
            return
        seen = now
    raise RuntimeError("the event loop never comes to rest")
