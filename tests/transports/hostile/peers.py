"""A hostile server: one thread for each connection, on blocking sockets, so that it is faster than what it attacks."""

import base64
import contextlib
import hashlib
import json
import queue
import socket
import struct
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import count, islice
from typing import Any

from .measuring import PATIENCE

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
CHUNK = 2**20  # bytes of one write, about


def frame(data: bytes, head: int = 0x81, *, mask: bool = False) -> bytes:
    """A frame; masked, with a mask of zeros, it is a client's."""
    bit, size = 0x80 if mask else 0, len(data)
    if size < 126:
        start = bytes([head, bit | size])
    elif size < 2**16:
        start = struct.pack("!BBH", head, bit | 126, size)
    else:
        start = struct.pack("!BBQ", head, bit | 127, size)
    return start + bytes(4 if mask else 0) + data


class Connection:
    """One end of a connection, that counts what it sends.

    Attributes:
        over: The test is.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(PATIENCE)
        self.sock = sock
        self.sent = 0
        self._read = b""
        self.over = threading.Event()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            size = self.sock.send(view)
            self.sent += size
            view = view[size:]

    def write_forever(self, data: bytes) -> None:
        if not data:
            self.idle()
            return
        data *= max(1, CHUNK // len(data))
        while True:
            self.write(data)

    def write_all(self, parts: Iterable[bytes]) -> None:
        """Likewise, with parts that differ."""
        parts = iter(parts)
        while data := b"".join(islice(parts, 1000)):
            self.write(data)

    def wait(self) -> None:
        """Read, and say nothing, until the other end is gone."""
        while self._more():
            self._read = b""

    def idle(self) -> None:
        """Do nothing until the connection is closed from this side, at the end of the test."""
        self.over.wait()

    def drip(self, data: bytes, *, every: float = 0.02) -> None:
        """A byte at a time, without end."""
        while True:
            for byte in data:
                self.write(bytes([byte]))
                self.over.wait(every)

    def end(self) -> None:
        """The test is over."""
        self.over.set()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()

    def read_until(self, end: bytes) -> bytes:
        while end not in self._read:
            self._need()
        data, _, self._read = self._read.partition(end)
        return data

    def read(self, size: int) -> bytes:
        while len(self._read) < size:
            self._need()
        data, self._read = self._read[:size], self._read[size:]
        return data

    def _need(self) -> None:
        if not self._more():
            raise ConnectionError("the other end is gone")

    def _more(self) -> bool:
        data = self.sock.recv(2**16)
        self._read += data
        return bool(data)


class Peer(Connection):
    """A hostile server's end of one connection.

    Args:
        sock: Connected.
        number: How many connections came before it.
        memory: What the connections of one server share.
    """

    def __init__(self, sock: socket.socket, number: int, memory: "Memory") -> None:
        super().__init__(sock)
        self.number = number
        self._inflate = zlib.decompressobj(wbits=-15).decompress
        self.memory = memory

    # ---- a WebSocket ------------------------------------------------------------------------------------------------

    def accept(self, *extensions: str) -> None:
        """Answer the handshake."""
        request = self.read_until(b"\r\n\r\n")
        key = next(line[19:] for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key: "))
        answer = base64.b64encode(hashlib.sha1(key.strip() + _GUID).digest())
        head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        for extension in extensions:
            head += f"Sec-WebSocket-Extensions: {extension}\r\n".encode()
        self.write(head + b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n")

    def meet(self, *extensions: str) -> None:
        """Open the connection; on the first, let the client join and wait until it is ready for the attack."""
        self.accept(*extensions)
        while not self.memory.ready.is_set():
            join_ref, ref, topic, event, _ = self.receive()
            if event == "phx_join":
                self.write(frame(joined(join_ref, ref, topic)))
            if event == "go":
                self.memory.ready.set()

    def receive(self) -> Any:
        """The next message, a small one."""
        head, size = self.read(2)
        size &= 127
        if size == 126:
            (size,) = struct.unpack("!H", self.read(2))
        mask, data = self.read(4), self.read(size)
        data = bytes(byte ^ mask[index % 4] for index, byte in enumerate(data))
        return json.loads(self._inflate(data + b"\x00\x00\xff\xff") if head & 0x40 else data)

    # ---- long polling -----------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Be a server for long polling until the client is ready for the attack, and has asked for messages."""
        while True:
            head = self.read_until(b"\r\n\r\n").lower()
            _, _, length = head.partition(b"content-length: ")
            body = self.read(int(length.partition(b"\r\n")[0] or 0))
            if body:
                for line in body.split(b"\n"):
                    join_ref, ref, topic, event, _ = json.loads(line)
                    if event == "phx_join":
                        self.memory.mail.put(joined(join_ref, ref, topic).decode())
                    if event == "go":
                        self.memory.ready.set()
                        self.memory.mail.put("")
                self.answer(b'{"status":200}')
            elif b"token: " not in head:
                self.answer(b'{"status":410,"token":"t","messages":[]}')
            elif self.memory.ready.is_set():
                return
            elif message := self.memory.mail.get(timeout=PATIENCE):
                self.answer(json.dumps({"status": 200, "token": "t", "messages": [message]}).encode())
            else:
                return

    def answer(self, body: bytes, *fields: str) -> None:
        head = ["HTTP/1.1 200 OK", f"content-length: {len(body)}", *fields]
        self.write("\r\n".join((*head, "", "")).encode() + body)


class Memory:
    """What the connections of one server share: whether the attack has begun, and what waits for a poll."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.mail: queue.Queue[str] = queue.Queue()


def joined(join_ref: str, ref: str, topic: str) -> bytes:
    return json.dumps([join_ref, ref, topic, "phx_reply", {"status": "ok", "response": {}}]).encode()


#: What a server does with each of its connections, until the other end is gone.
Attack = Callable[[Peer], None]


@contextmanager
def attacking(attack: Attack) -> Iterator[tuple[int, Callable[[], int]]]:
    """A hostile server: its port, and how many bytes it has sent."""
    memory = Memory()
    peers: list[Peer] = []

    def meet(peer: Peer) -> None:
        with peer.sock:
            attack(peer)

    with socket.create_server(("127.0.0.1", 0), backlog=1000) as listener:

        def serve() -> None:
            for number in count():
                sock, _ = listener.accept()
                peers.append(Peer(sock, number, memory))
                background(meet, peers[-1])

        serving = background(serve)
        try:
            yield listener.getsockname()[1], lambda: sum(peer.sent for peer in peers)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join(PATIENCE)
            for peer in peers:
                peer.end()


def background(work: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Work on a thread, until the other end is gone."""

    def quietly() -> None:
        with contextlib.suppress(OSError, ValueError):
            work(*arguments)

    thread = threading.Thread(target=quietly, daemon=True)
    thread.start()
    return thread
