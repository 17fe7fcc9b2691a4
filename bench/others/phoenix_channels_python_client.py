"""phoenix-channels-python-client: V1 and V2, a queue and a task for each topic, a task for each message.

Options: `version` ("1.0" or "2.0") and `queue`, its bound of a topic's queue, beyond which it drops (None: its
default, 1,000).
"""

import asyncio
import logging
from typing import Any

from phoenix_channels_python_client import PHXChannelsClient  # type: ignore[import-not-found]

from bench.meter import Memory, Meter, Result, Task, report, task

#: Joins in flight at a time: `subscribe_to_topic` waits for the reply of each.
AT_ONCE = 100


async def run(task: Task) -> Result:
    logging.disable(logging.CRITICAL)
    meter = Meter(task.n)
    events = {"balance": meter.balance, "done": meter.done}

    async def handler(message: Any) -> None:
        if (act := events.get(message.event)) is not None:
            act(message.payload)

    queue = task.options.get("queue")
    async with PHXChannelsClient(
        f"{task.socket}/websocket?{task.query}",
        api_key="none",
        protocol_version=task.options["version"],
        auto_reconnect=False,
        **({} if queue is None else {"max_topic_queue_size": queue}),
    ) as client:
        memory = Memory() if task.work == "memory" else None
        topics = task.names
        for start in range(0, len(topics), AT_ONCE):
            await asyncio.gather(*(client.subscribe_to_topic(t, handler) for t in topics[start : start + AT_ONCE]))
        result = await meter.wait()
        if memory is not None:
            result = Result(result.count, bytes_a_topic=memory.a_topic(task.topics))
        # Leaving 10,000 topics is no part of the measurement, nor is a clean end.
        report(result)
        return result


if __name__ == "__main__":
    asyncio.run(run(task()))
