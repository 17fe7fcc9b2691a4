"""The event loop that a runner of asyncio uses: the option `loop` says which, asyncio's own without it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from bench.meter import Result, Task


def run_on(task: Task, run: Callable[[Task], Coroutine[Any, Any, Result]]) -> Result:
    """Runs it on the loop that the task's option `loop` names: `"asyncio"`, or `"uvloop"`."""
    factory = None
    if task.options.get("loop") == "uvloop":
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(run(task))
