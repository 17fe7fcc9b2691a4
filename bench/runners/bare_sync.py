"""The baseline for threads: a bare `websockets.sync` loop with msgspec's decoder, and just enough Phoenix to be fed."""

import itertools
import threading
import time
from concurrent.futures import Future
from typing import Any

import msgspec
from websockets.sync.client import ClientConnection, connect

from bench.meter import Meter, Result, Task, report, task


def run(task: Task) -> Result:
    with connect(f"{task.socket}/websocket?vsn=2.0.0&{task.query}") as websocket:
        for number, topic in enumerate(task.names):
            websocket.send(_encode(f"j{number}", f"j{number}", topic, "phx_join", {}))
        if task.work == "messages":
            return _messages(websocket, task.n)
        return _pushes(websocket, task)


def _messages(websocket: ClientConnection, n: int) -> Result:
    meter = Meter(n)
    decode = msgspec.json.Decoder().decode
    for frame in websocket:
        _join_ref, _ref, _topic, event, payload = decode(frame)
        if event == "balance":
            meter.balance(payload)
        elif event == "done":
            meter.done(payload)
            break
    return meter.result


def _pushes(websocket: ClientConnection, task: Task) -> Result:
    refs = itertools.count(1)
    waiting: dict[str, Future[Any]] = {}
    topic = task.names[0]
    decode = msgspec.json.Decoder().decode

    def read() -> None:
        for frame in websocket:
            _join_ref, ref, _topic, event, payload = decode(frame)
            if event == "phx_reply" and ref in waiting:
                waiting.pop(ref).set_result(payload)

    def push(payload: Any) -> Any:
        ref = str(next(refs))
        reply = waiting[ref] = Future[Any]()
        websocket.send(_encode("j0", ref, topic, "echo", payload))
        return reply.result()["response"]

    def work(pushes: int) -> None:
        for number in range(pushes):
            response = push({"number": number})
            assert response["number"] == number

    threading.Thread(target=read, daemon=True).start()
    work(1)  # the join is answered before this is
    threads = [threading.Thread(target=work, args=(task.n // task.in_flight,)) for _ in range(task.in_flight)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Result(task.n // task.in_flight * task.in_flight, time.monotonic() - started)


def _encode(join_ref: str, ref: str, topic: str, event: str, payload: Any) -> str:
    return msgspec.json.encode([join_ref, ref, topic, event, payload]).decode()


if __name__ == "__main__":
    report(run(task()))
