"""The core alone: frames of whole reads to dispatched messages, beside `orjson.loads` of the same frames. No I/O.

The time is the process's own, so that other work on the machine counts little. The option `contender` says which:
`orjson`, `unhandled` (the event has no handler), `undecoded` (each message reaches its handler, which does not read the
payload), `decoded` (the payload is read) and `typed` (it is decoded into a Struct that the handler declared).
"""

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson

from bench.feed import Balance, example
from bench.meter import Result, Task, report, task
from phx_proto.client import ClientProtocol
from phx_proto.commands import OpenTransport, SendText
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.link import Link
from phx_proto.message import Message

#: Frames a read: 64 kB of them.
READ = 350


def run(task: Task) -> Result:
    contender = _CONTENDERS[task.options["contender"]](task.names)
    source = _reads(task.names)
    contender(next(source))  # warm
    spent = 0.0
    for frames in itertools.islice(source, task.n // READ):
        started = time.process_time()
        contender(frames)
        spent += time.process_time() - started
    return Result(task.n // READ * READ, spent)


def _reads(topics: list[str]) -> Iterator[list[str]]:
    """Reads without end, of texts just made, as they come from a socket; each message is of the next topic."""
    count = -(-max(len(topics), 2 * READ) // READ) * READ
    frames = [
        orjson.dumps([None, None, topic, "balance", example(seq)])
        for seq, topic in enumerate(itertools.islice(itertools.cycle(topics), count))
    ]
    for start in itertools.cycle(range(0, count, READ)):
        yield [frame.decode() for frame in frames[start : start + READ]]


Contender = Callable[[list[str]], None]


def _orjson(topics: list[str]) -> Contender:
    def read(frames: list[str]) -> None:
        for frame in frames:
            orjson.loads(frame)

    return read


def _core(
    topics: list[str],
    dispatch: Callable[[Handler, Message[Any]], Any] | None,
    payload: Any = None,
    event: str = "balance",
) -> Contender:
    proto, link = _joined(topics, event, payload)
    release = proto.release
    expected = itertools.count(READ, READ)

    def read(frames: list[str]) -> None:
        link.receive_all(frames, 2.0)
        for queue in proto.runnable():
            while deliveries := queue.take():
                for handlers, message, _ in deliveries:
                    for handler in handlers:
                        if dispatch is not None:
                            dispatch(handler, message)
                release(deliveries)
        proto.handled((), 2.0)
        proto.commands()
        proto.events()
        assert proto.stats.handled + proto.stats.unhandled == next(expected)

    return read


def _joined(topics: list[str], event: str, payload: Any) -> tuple[ClientProtocol, Link]:
    router = Router()

    @router.on(event, topic="sim:*", payload=payload)
    async def handler(message: Message[Any]) -> None: ...

    proto = ClientProtocol("ws://127.0.0.1/socket", router=router)
    proto.connect(1.0)
    (opening,) = proto.commands()
    assert isinstance(opening, OpenTransport)
    opening.link.opened(None, 1.0)
    for topic in topics:
        proto.channel(topic).join(1.0)
    while joins := [command.data for command in proto.commands() if isinstance(command, SendText)]:
        for join_ref, ref, topic, *_ in map(orjson.loads, joins):
            reply = [join_ref, ref, topic, "phx_reply", {"status": "ok", "response": {}}]
            opening.link.receive(orjson.dumps(reply).decode(), 1.0)
    proto.events()
    return proto, opening.link


_CONTENDERS: dict[str, Callable[[list[str]], Contender]] = {
    "orjson": _orjson,
    "unhandled": lambda topics: _core(topics, None, event="another"),
    "undecoded": lambda topics: _core(topics, None),
    "decoded": lambda topics: _core(topics, lambda handler, message: message.payload),
    "typed": lambda topics: _core(topics, lambda handler, message: handler.accept(message), Balance),
}


if __name__ == "__main__":
    report(run(task()))
