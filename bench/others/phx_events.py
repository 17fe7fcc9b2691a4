"""phx-events: V1 only, async handlers on the loop, a queue and a task for each event."""

import asyncio
from typing import Any

from phx_events.client import PHXChannelsClient  # type: ignore[import-not-found]

from bench.meter import Memory, Meter, Result, Task, report, task


async def run(task: Task) -> Result:
    memory = Memory() if task.work == "memory" else None
    meter = Meter(task.n)

    async def balance(message: Any, client: Any) -> None:
        meter.balance(message.payload)

    async def done(message: Any, client: Any) -> None:
        meter.done(message.payload)

    async with PHXChannelsClient(f"{task.socket}/websocket?vsn=1.0.0&{task.query}") as client:
        for topic in task.names:
            client.register_topic_subscription(topic)
        client.register_event_handler("balance", [balance])
        client.register_event_handler("done", [done])
        processing = asyncio.create_task(client.start_processing())
        waiting = asyncio.create_task(meter.wait())
        await asyncio.wait((processing, waiting), return_when=asyncio.FIRST_COMPLETED)
        if processing.done():
            waiting.cancel()
            processing.result()
        result = meter.result
        if memory is not None:
            result = Result(result.count, bytes_a_topic=memory.a_topic(task.topics))
        processing.cancel()
        await asyncio.wait((processing,))
        return result


if __name__ == "__main__":
    report(asyncio.run(run(task())))
