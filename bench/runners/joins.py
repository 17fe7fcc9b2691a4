"""Our clients' joins: of all topics at once, and of all again after the connection was dropped.

The option `adapter` is `"asyncio"` or `"threads"`. The works are `"joins"`, `"rejoins"` (from the call of `reconnect`
to the last `ChannelJoined`, with the handshake), and `"memory"`: the bytes that a joined topic takes.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from bench.meter import Memory, Result, Task, report, task
from phx_proto.events import ChannelJoined
from phx_transports import asyncio as on_asyncio
from phx_transports import threads as on_threads

#: Threads that join at a time: each waits for its answer.
THREADS = 20


async def asyncio_joins(task: Task) -> Result:
    """On the loop, all at once."""
    async with on_asyncio.connect(task.socket) as client:
        memory = Memory() if task.work == "memory" else None
        started = time.monotonic()
        await asyncio.gather(*(client.join(topic, timeout=60.0) for topic in task.names))
        result = Result(task.topics, time.monotonic() - started)
        if memory is not None:
            return replace(result, bytes_a_topic=memory.a_topic(task.topics))
        if task.work == "joins":
            return result
        async with client.events() as events:
            started, awaited = time.monotonic(), task.topics
            client.reconnect()
            async for event in events:
                awaited -= isinstance(event, ChannelJoined)
                if not awaited:
                    break
        return Result(task.topics, time.monotonic() - started)


def threads_joins(task: Task) -> Result:
    """From some threads."""
    with on_threads.connect(task.socket) as client, ThreadPoolExecutor(THREADS) as pool:
        memory = Memory() if task.work == "memory" else None
        started = time.monotonic()
        channels = list(pool.map(lambda topic: client.join(topic, timeout=60.0), task.names))
        result = Result(len(channels), time.monotonic() - started)
        if memory is not None:
            return replace(result, bytes_a_topic=memory.a_topic(task.topics))
        if task.work == "joins":
            return result
        with client.events() as events:
            started, awaited = time.monotonic(), task.topics
            client.reconnect()
            for event in events:
                awaited -= isinstance(event, ChannelJoined)
                if not awaited:
                    break
        return Result(task.topics, time.monotonic() - started)


def run(task: Task) -> Result:
    return threads_joins(task) if task.options["adapter"] == "threads" else asyncio.run(asyncio_joins(task))


if __name__ == "__main__":
    report(run(task()))
