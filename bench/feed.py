"""The feeding server, a process of its own: `python -m bench.feed` prints its port and serves until stdin ends.

It speaks just enough WebSocket and Phoenix to be joined: the handshake by hand, `phx_join`, `phx_leave`, `heartbeat`,
replies to every other push with the payload it came with, and closes. Its point is the burst: frames encoded
beforehand, round robin over the joined topics, written in large joined buffers as fast as the socket takes them, then
one `done` event that tells when the burst began and how many frames it had.

The burst is described by a plan, the JSON of a `Plan`: given in the URL as `plan=…` it starts when the plan's number
of topics has been joined, which any client can do; given as the payload of a push `go` it starts at once.
"""

import asyncio
import base64
import contextlib
import hashlib
import itertools
import sys
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from typing import Any, Final, Literal
from urllib.parse import parse_qs, urlsplit

import msgspec
import orjson


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection is fed.

    Attributes:
        n: Frames in the burst.
        topics: Joins to await before it starts (of a plan in the URL).
        batch: Bytes a write.
        kind: Broadcasts carry a null join_ref, as a real server's do; pushes the channel's. The same thing in V1.
        shape: `"supabase"` wraps the payload in the one event that `realtime` accepts.
    """

    n: int = 0
    topics: int = 1
    batch: int = 64 * 1024
    kind: Literal["broadcast", "push"] = "broadcast"
    shape: Literal["plain", "supabase"] = "plain"


class Joined(msgspec.Struct, frozen=True):
    """A joined topic with its join_ref."""

    topic: str
    join_ref: str | None


def example(seq: int) -> dict[str, Any]:
    """The payload of the burst's frame number `seq`; a frame is about 180 bytes."""
    return {
        "id": 48151623,
        "msisdn": "894450000000017",
        "balance": 12.55,
        "currency": "EUR",
        "at": "2026-11-22T12:40:26Z",
        "tags": ["eu", "m2m"],
        "roaming": False,
        "seq": seq,
    }


class Balance(msgspec.Struct):
    """The payload of `example`, for handlers that declare a type."""

    id: int
    msisdn: str
    balance: float
    currency: str
    at: str
    tags: list[str]
    roaming: bool
    seq: int


def text_frame(text: bytes, opcode: int = 1) -> bytes:
    """An unmasked, unfragmented WebSocket frame."""
    size = len(text)
    head = 0x80 | opcode
    if size < 126:
        return bytes((head, size)) + text
    if size < 1 << 16:
        return bytes((head, 126)) + size.to_bytes(2, "big") + text
    return bytes((head, 127)) + size.to_bytes(8, "big") + text


def message(vsn: str, join_ref: Any, ref: Any, topic: Any, event: str, payload: Any) -> bytes:
    """A server's message as a WebSocket frame, in the serializer that `vsn` names."""
    if vsn.startswith("1."):
        fields = {"topic": topic, "event": event, "payload": payload, "ref": ref}
        return text_frame(orjson.dumps(fields))
    return text_frame(orjson.dumps([join_ref, ref, topic, event, payload]))


def burst(plan: Plan, vsn: str, joined: tuple[Joined, ...]) -> list[bytes]:
    """The plan's frames in buffers of about `plan.batch` bytes."""
    return list(_joined(_frames(plan, vsn, joined), plan.batch))


def _frames(plan: Plan, vsn: str, joined: tuple[Joined, ...]) -> Iterator[bytes]:
    for seq, channel in zip(range(plan.n), itertools.cycle(joined)):
        event, payload = _event(plan, "balance", example(seq))
        join_ref = channel.join_ref if plan.kind == "push" else None
        yield message(vsn, join_ref, None, channel.topic, event, payload)


def _event(plan: Plan, event: str, payload: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if plan.shape == "supabase":
        return "broadcast", {"event": event, "payload": payload}
    return event, payload


def _joined(frames: Iterator[bytes], size: int) -> Iterator[bytes]:
    buffer = bytearray()
    for frame in frames:
        buffer += frame
        if len(buffer) >= size:
            yield bytes(buffer)
            buffer.clear()
    if buffer:
        yield bytes(buffer)


GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
LONGEST_FRAME: Final = 1 << 20


def _cut(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Takes the whole (masked) frames out of `buffer`: opcode and payload each."""
    position, end = 0, len(buffer)
    while position + 6 <= end:
        size, start = buffer[position + 1] & 0x7F, position + 2
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(buffer[position + 2 : start], "big")
        if start <= end and size > LONGEST_FRAME:
            raise ConnectionError("a frame is longer than anything a benchmark sends")
        stop = start + 4 + size
        if stop > end:
            break
        mask = bytes(buffer[start : start + 4]) * (size // 4 + 1)
        data = int.from_bytes(buffer[start + 4 : stop], "big") ^ int.from_bytes(mask[:size], "big")
        yield buffer[position] & 0x0F, data.to_bytes(size, "big")
        position = stop
    del buffer[:position]


class _Connection:
    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.vsn = "2.0.0"
        self.plan: Plan | None = None
        self.joined: dict[str, Joined] = {}
        self.out = bytearray()
        self.bursts: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        await self._handshake()
        buffer = bytearray()
        while data := await self.reader.read(1 << 16):
            buffer += data
            for opcode, payload in _cut(buffer):
                if opcode == 8:
                    self.writer.write(text_frame(payload[:2], opcode=8))
                    return
                if opcode == 9:
                    self.out += text_frame(payload, opcode=10)
                elif opcode in (1, 2):
                    self._receive(orjson.loads(payload))
            # What one read asked for is answered in one write.
            self._flush()
            await self.writer.drain()

    def _flush(self) -> None:
        if self.out:
            self.writer.write(bytes(self.out))
            self.out.clear()

    async def _handshake(self) -> None:
        request = await self.reader.readuntil(b"\r\n\r\n")
        line, *lines = request.split(b"\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        query = parse_qs(urlsplit(line.split(b" ")[1].decode()).query)
        # A repeated key: the last wins, as in Phoenix; no vsn means 1.0.0.
        self.vsn = query.get("vsn", ["1.0.0"])[-1]
        if "plan" in query:
            self.plan = msgspec.json.decode(query["plan"][-1], type=Plan)
        accept = base64.b64encode(hashlib.sha1(headers[b"sec-websocket-key"] + GUID, usedforsecurity=False).digest())
        self.writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n"
            b"sec-websocket-accept: " + accept + b"\r\n\r\n"
        )

    def _receive(self, fields: Any) -> None:
        if isinstance(fields, dict):
            fields = [fields.get("join_ref"), fields["ref"], fields["topic"], fields["event"], fields["payload"]]
        join_ref, ref, topic, event, payload = fields
        if event == "phx_join":
            self.joined[topic] = Joined(topic, join_ref)
            self._reply(join_ref, ref, topic, {})
            if self.plan is not None and len(self.joined) == self.plan.topics:
                self._start(self.plan)
        elif event == "phx_leave":
            channel = self.joined.pop(topic, None)
            self._reply(join_ref, ref, topic, {})
            if channel is not None:
                self.out += message(self.vsn, channel.join_ref, channel.join_ref, topic, "phx_close", {})
        elif event == "go":
            self._reply(join_ref, ref, topic, {})
            self._start(msgspec.convert(payload, type=Plan))
        else:
            self._reply(join_ref, ref, topic, {} if event == "heartbeat" else payload)

    def _reply(self, join_ref: Any, ref: Any, topic: Any, response: Any) -> None:
        payload = {"status": "ok", "response": response}
        self.out += message(self.vsn, join_ref, ref, topic, "phx_reply", payload)

    def _start(self, plan: Plan) -> None:
        self._flush()
        task = asyncio.create_task(self._send(plan, tuple(self.joined.values())))
        self.bursts.add(task)
        task.add_done_callback(self.bursts.discard)

    async def _send(self, plan: Plan, joined: tuple[Joined, ...]) -> None:
        buffers = burst(plan, self.vsn, joined)
        # CLOCK_MONOTONIC is the system's, so the client's process reads the same clock.
        started = time.monotonic()
        for buffer in buffers:
            self.writer.write(buffer)
            await self.writer.drain()
        event, payload = _event(plan, "done", {"n": plan.n, "started": started, "sent": time.monotonic()})
        channel = joined[0]
        join_ref = channel.join_ref if plan.kind == "push" else None
        self.writer.write(message(self.vsn, join_ref, None, channel.topic, event, payload))


async def _accept(reader: StreamReader, writer: StreamWriter) -> None:
    connection = _Connection(reader, writer)
    # A client that goes away, in whatever way, is none of the feed's business; nor is one left when the feed ends.
    with contextlib.suppress(OSError, EOFError, asyncio.CancelledError):
        await connection.serve()
    for task in connection.bursts:
        task.cancel()
    writer.close()


async def _main() -> None:
    server = await asyncio.start_server(_accept, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Whoever started the feed holds its stdin: when that process is gone, so is the feed.
    loop = asyncio.get_running_loop()
    stdin = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    await stdin.read()
    server.close()


if __name__ == "__main__":
    asyncio.run(_main())
