"""phxsocket: V1, a thread with a loop; plain callbacks run on that thread."""

from phxsocket import Client  # type: ignore[import-not-found]

from bench.meter import Memory, Meter, Result, Task, report, task


def run(task: Task) -> Result:
    meter = Meter(task.n)
    client = Client(f"{task.socket}/websocket", {"plan": task.plan})
    client.connect()
    memory = Memory() if task.work == "memory" else None
    for topic in task.names:
        channel = client.channel(topic)
        channel.on("balance", meter.balance)
        channel.on("done", meter.done)
        channel.join()
    result = meter.wait_blocking()
    if memory is not None:
        result = Result(result.count, bytes_a_topic=memory.a_topic(task.topics))
    return result


if __name__ == "__main__":
    report(run(task()))
