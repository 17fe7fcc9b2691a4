"""realtime (Supabase): V1, plain callbacks on the loop; it takes messages of the event `broadcast` alone."""

import asyncio
from typing import Any

from realtime import AsyncRealtimeClient  # type: ignore[import-not-found]

from bench.meter import Memory, Meter, Result, Task, report, task

#: Joins in flight at a time: `subscribe` waits for the reply of each.
AT_ONCE = 100


async def run(task: Task) -> Result:
    meter = Meter(task.n)

    # The payload of a Supabase broadcast wraps the application's.
    def balance(payload: Any) -> None:
        meter.balance(payload["payload"])

    def done(payload: Any) -> None:
        meter.done(payload["payload"])

    client = AsyncRealtimeClient(task.socket, params={"plan": task.plan}, auto_reconnect=False)
    await client.connect()
    memory = Memory() if task.work == "memory" else None
    topics = task.names
    for start in range(0, len(topics), AT_ONCE):
        channels = [client.channel(topic) for topic in topics[start : start + AT_ONCE]]
        for channel in channels:
            channel.on_broadcast("balance", balance).on_broadcast("done", done)
        await asyncio.gather(*(channel.subscribe() for channel in channels))
    result = await meter.wait()
    if memory is not None:
        result = Result(result.count, bytes_a_topic=memory.a_topic(task.topics))
    await client.close()
    return result


if __name__ == "__main__":
    report(asyncio.run(run(task())))
