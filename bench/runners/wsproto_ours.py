"""Our blocking client on wsproto, with the same work as the bare loop."""

from time import monotonic
from typing import Any

from bench.meter import Meter, Result, Task, report, task
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.wsproto import connect


def run(task: Task) -> Result:
    meter = Meter(task.n)
    router = Router()

    @router.on("balance")
    def balance(message: Message[Any]) -> None:
        meter.balance(message.payload)

    @router.on("done")
    def done(message: Message[Any]) -> None:
        meter.done(message.payload)

    with connect(task.socket, params={"plan": task.plan}, router=router) as client:
        for topic in task.names:
            client.join(topic, timeout=60.0)
        seen = -1
        while not meter.complete and meter.count != seen:  # until all is handled, or nothing has come for a while
            seen, until = meter.count, monotonic() + 5.0
            while not meter.complete and monotonic() < until:
                client.run(timeout=0.05)
    return meter.result


if __name__ == "__main__":
    report(run(task()))
