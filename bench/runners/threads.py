"""Our client on threads, with the same work as the others."""

import threading
import time
from typing import Any

from bench.meter import Meter, Result, Task, report, task
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.threads import Channel, connect


def run(task: Task) -> Result:
    meter = Meter(task.n)
    router = Router()

    @router.on("balance")
    def balance(message: Message[Any]) -> None:
        meter.balance(message.payload)  # its `+= 1` is one step for CPython, whatever the thread

    @router.on("done")
    def done(message: Message[Any]) -> None:
        meter.done(message.payload)

    with connect(task.socket, params={"plan": task.plan}, router=router) as client:
        for topic in task.names:
            client.join(topic, timeout=60.0)
        return pushes_over(client.join("sim:pushes"), task) if task.work == "pushes" else meter.wait_blocking()


def pushes_over(channel: Channel, task: Task) -> Result:
    """Pushes to their replies, each thread one at a time."""

    def work(pushes: int) -> None:
        for number in range(pushes):
            reply = channel.push("echo", {"number": number})
            assert reply.response["number"] == number

    work(1)
    threads = [threading.Thread(target=work, args=(task.n // task.in_flight,)) for _ in range(task.in_flight)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Result(task.n // task.in_flight * task.in_flight, time.monotonic() - started)


if __name__ == "__main__":
    report(run(task()))
