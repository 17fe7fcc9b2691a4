"""The core alone: frames of whole reads to dispatched messages, beside `orjson.loads` of the same frames. No I/O.

The option `contender` says which: `orjson`, `unhandled` (no handler wants the event), `undecoded` (each message reaches
its handler, nobody reads the payload), `decoded` (the payload is read) and `typed` (it is decoded into a Struct that
the handler declared).
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import msgspec
import orjson

from bench.feed import example
from bench.meter import Result, Task, report, task
from phx_proto.client import ClientProtocol
from phx_proto.commands import OpenTransport, SendText
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.link import Link
from phx_proto.message import Message

TOPIC = "sim:894450017"
#: Frames a read: 64 kB of them.
READ = 350


class Balance(msgspec.Struct):
    """The payload, for the handler that declares a type."""

    id: int
    msisdn: str
    balance: float
    currency: str
    at: str
    tags: list[str]
    roaming: bool
    seq: int


def run(task: Task) -> Result:
    reads = task.n // READ
    contender = _CONTENDERS[task.options["contender"]]()
    frames = [orjson.dumps([None, None, TOPIC, "balance", example(seq)]).decode() for seq in range(2 * READ)]
    source = itertools.cycle((frames[:READ], frames[READ:]))
    contender(next(source))  # warm
    started = time.perf_counter()
    for frames in itertools.islice(source, reads):
        contender(frames)
    return Result(reads * READ, time.perf_counter() - started)


Contender = Callable[[list[str]], None]


def _orjson() -> Contender:
    def read(frames: list[str]) -> None:
        for frame in frames:
            orjson.loads(frame)

    return read


def _core(
    dispatch: Callable[[Handler, Message[Any]], Any] | None, payload: Any = None, event: str = "balance"
) -> Contender:
    proto, link = _joined(event, payload)
    expected = itertools.count(READ, READ)

    def read(frames: list[str]) -> None:
        link.receive_all(frames, 2.0)
        for queue in proto.runnable():
            while deliveries := queue.take():
                for handlers, message, _ in deliveries:
                    for handler in handlers:
                        if dispatch is not None:
                            dispatch(handler, message)
                proto.handled(deliveries, 2.0)
        proto.commands()
        proto.events()
        assert proto.stats.handled + proto.stats.unhandled == next(expected)

    return read


def _joined(event: str, payload: Any) -> tuple[ClientProtocol, Link]:
    router = Router()

    @router.on(event, topic="sim:*", payload=payload)
    async def handler(message: Message[Any]) -> None: ...

    proto = ClientProtocol("ws://127.0.0.1/socket", router=router)
    proto.connect(1.0)
    (opening,) = proto.commands()
    assert isinstance(opening, OpenTransport)
    opening.link.opened(None, 1.0)
    proto.channel(TOPIC).join(1.0)
    (join,) = (command for command in proto.commands() if isinstance(command, SendText))
    join_ref, ref, *_ = orjson.loads(join.data)
    reply = [join_ref, ref, TOPIC, "phx_reply", {"status": "ok", "response": {}}]
    opening.link.receive_all([orjson.dumps(reply).decode()], 1.0)
    proto.events()
    return proto, opening.link


_CONTENDERS: dict[str, Callable[[], Contender]] = {
    "orjson": _orjson,
    "unhandled": lambda: _core(None, event="another"),
    "undecoded": lambda: _core(None),
    "decoded": lambda: _core(lambda handler, message: message.payload),
    "typed": lambda: _core(Handler.accept, Balance),
}


if __name__ == "__main__":
    report(run(task()))
