"""`python -m bench.memory`: the peak of memory of a process that meets a hostile peer, above what it takes idle.

Each row of the table is a process of its own, everything at its defaults: a client of each adapter before a server that
floods it, pings it without reading, or sends messages over `max_size` again after each reconnect; and a server before a
client that streams while the application stands still. The bound is 100 MB.
"""

import argparse
import base64
import contextlib
import hashlib
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

#: Bytes that a process may take above what it takes idle.
BOUND = 100_000_000
ADAPTERS = ("asyncio", "threads", "wsproto")
MIB = 2**20

RUNNER = "bench.runners.memory"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_PATIENCE = 60.0


@dataclass(frozen=True)
class Outcome:
    """What a process took.

    Attributes:
        above: Bytes of its peak above what it takes idle.
        sent: Bytes that the peer has sent to it.
        numbers: What it has counted.
    """

    above: int
    sent: int
    numbers: dict[str, int]


class Peer:
    """The hostile end of one connection.

    Args:
        sock: Connected.

    Attributes:
        sent: Bytes, over all.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.sent = 0
        sock.settimeout(_PATIENCE)

    def accept(self) -> None:
        """Answer the handshake."""
        request = b""
        while b"\r\n\r\n" not in request:
            request += self.sock.recv(4096)
        key = next(line[19:] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        answer = base64.b64encode(hashlib.sha1(key.strip() + _GUID).digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        self.sock.sendall(head + b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n")

    def let_join(self) -> None:
        """Let the client join, and wait until it says that it is ready."""
        while True:
            join_ref, ref, topic, event, _ = self.receive()
            if event == "phx_join":
                self.send(json.dumps([join_ref, ref, topic, "phx_reply", {"status": "ok", "response": {}}]).encode())
            if event == "go":
                return

    def receive(self) -> Any:
        """The next message, a small one."""
        _, size = self._exactly(2)
        size &= 127
        if size == 126:
            (size,) = struct.unpack("!H", self._exactly(2))
        mask, data = self._exactly(4), self._exactly(size)
        return json.loads(bytes(byte ^ mask[index % 4] for index, byte in enumerate(data)))

    def send(self, data: bytes, head: int = 0x81) -> None:
        self.write(framed(head, data))

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            count = self.sock.send(view)
            self.sent += count
            view = view[count:]

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = self.sock.recv(size - len(data))
            if not part:
                raise ConnectionError("the other end is gone")
            data += part
        return data


def framed(head: int, data: bytes) -> bytes:
    """A frame as a server sends it."""
    if len(data) < 126:
        return bytes([head, len(data)]) + data
    if len(data) < 2**16:
        return struct.pack("!BBH", head, 126, len(data)) + data
    return struct.pack("!BBQ", head, 127, len(data)) + data


# ---- what it does ---------------------------------------------------------------------------------------------------


def flood(size: int) -> Callable[[Peer, int], None]:
    """Messages of so many bytes, without end (row 40)."""

    def work(peer: Peer, connection: int) -> None:
        peer.let_join()
        frames = framed(0x81, b'[null,null,"room:1","n","' + b"x" * size + b'"]') * max(1, MIB // size)
        while True:
            peer.write(frames)

    return work


def ping(peer: Peer, connection: int) -> None:
    """Pings, and nothing is read (row 43)."""
    peer.let_join()
    pings = framed(0x89, b"x" * 125) * 8192
    while True:
        peer.write(pings)


def exceed(peer: Peer, connection: int) -> None:
    """A message over `max_size`, in fragments (row 44), on every connection."""
    if connection == 0:
        peer.let_join()
    peer.send(b"x" * MIB, 0x01)
    while True:
        peer.send(b"x" * MIB, 0x00)


#: What the client does, and what the peer does meanwhile.
CASES: dict[str, tuple[str, Callable[[Peer, int], None]]] = {
    "40: a slow handler, 1 MB": ("handler", flood(1_000_000)),
    "40: and an unanswered push, 1 MB": ("call", flood(1_000_000)),
    "40: and an unanswered push, 1 kB": ("call", flood(1_000)),
    "40: and an unanswered push, 10 MB": ("call", flood(10_000_000)),
    "40: a stream that nobody reads, 100 kB": ("stream", flood(100_000)),
    "43: pings, and nothing is read": ("handler", ping),
    "44: over max_size, at each reconnect": ("handler", exceed),
}
SERVER_CASES = {f"42: streaming during {where}": where for where in ("connect", "join", "handle")}


def measure(adapter: str, case: str, seconds: float) -> Outcome:
    """Run one client before a hostile server."""
    client, work = CASES[case]
    with _hostile(work) as (port, sent), _process(adapter, client, str(port), str(seconds)) as process:
        return _outcome(process, seconds, sent)


def measure_server(case: str, seconds: float) -> Outcome:
    """Run a server before a hostile client."""
    where = SERVER_CASES[case]
    with _process("server", where, "0", str(seconds)) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2].partition("/")[0])
        with socket.create_connection(("127.0.0.1", port), _PATIENCE) as sock:
            peer = Peer(sock)
            streaming = threading.Thread(target=_quietly, args=(_stream, peer, where), daemon=True)
            streaming.start()
            return _outcome(process, seconds, lambda: peer.sent)


def _stream(peer: Peer, where: str) -> None:
    request = "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    request += "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    peer.write(request.encode())
    peer.write(_masked(b'["1","1","room:1","phx_join",{}]'))
    frames = _masked(b'["1","2","room:1","n","' + b"x" * 10_000 + b'"]') * 100
    while True:
        peer.write(frames)


def _masked(data: bytes) -> bytes:
    size = bytes([0x80 | len(data)]) if len(data) < 126 else struct.pack("!BH", 0xFE, len(data))
    return b"\x81" + size + bytes(4) + data  # a mask of zeros


# ---- processes ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _process(*arguments: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", RUNNER, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        try:
            yield process
        finally:
            process.kill()


def _outcome(process: "subprocess.Popen[str]", seconds: float, sent: Callable[[], int]) -> Outcome:
    output, _ = process.communicate(timeout=seconds + _PATIENCE)
    numbers = json.loads(output.splitlines()[-1])
    return Outcome(numbers.pop("peak") - numbers.pop("idle"), sent(), numbers)


@contextlib.contextmanager
def _hostile(work: Callable[[Peer, int], None]) -> Iterator[tuple[int, Callable[[], int]]]:
    peers: list[Peer] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                sock, _ = listener.accept()
                peer = Peer(sock)
                peers.append(peer)
                threading.Thread(target=_quietly, args=(_meet, peer, len(peers) - 1, work), daemon=True).start()

        threading.Thread(target=_quietly, args=(serve,), daemon=True).start()
        try:
            yield listener.getsockname()[1], lambda: sum(peer.sent for peer in peers)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for peer in peers:
                peer.sock.close()


def _meet(peer: Peer, connection: int, work: Callable[[Peer, int], None]) -> None:
    with contextlib.closing(peer.sock):
        peer.accept()
        work(peer, connection)


def _quietly(work: Callable[..., None], *arguments: Any) -> None:
    with contextlib.suppress(OSError, ValueError):  # the other end is gone
        work(*arguments)


def main() -> int:
    """Measures all, prints a table; fails where the bound is not kept."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="of each process")
    parser.add_argument("--only", default="", help="cases whose name begins so, e.g. 40")
    arguments = parser.parse_args()
    runs = [(case, adapter) for case in CASES for adapter in ADAPTERS] + [(case, "server") for case in SERVER_CASES]
    kept = True
    print(f"{'':42}{'':10}{'above idle':>12}{'sent to it':>14}")
    for case, who in runs:
        if not case.startswith(arguments.only):
            continue
        seconds = arguments.seconds
        outcome = measure_server(case, seconds) if who == "server" else measure(who, case, seconds)
        kept &= outcome.above < BOUND
        print(f"{case:42}{who:10}{outcome.above / 1e6:9.1f} MB{outcome.sent / 1e6:11.1f} MB", flush=True)
    return 0 if kept else 1


if __name__ == "__main__":
    raise SystemExit(main())
