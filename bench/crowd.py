"""A crowd of clients in a process of its own, as cheap as can be: `python -m bench.crowd PORT SOCKETS TOPIC`.

It opens plain sockets, shakes hands, joins the topic on each, says `ready`, and then does what it is told on stdin, one
line each, saying `done` after it: `receive BYTES` reads until that many bytes have come in all; `beat TIMES` sends a
heartbeat on every socket and awaits the answers, that often. It counts bytes and parses nothing, and reads once in a
millisecond, so that the server has a processor to itself.
"""

import resource
import select
import socket
import sys
import time
from collections.abc import Iterator

from websockets.frames import Frame, Opcode

_HANDSHAKE = (
    "GET /socket/websocket?vsn=2.0.0 HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_BEAT = '[null,"1","phoenix","heartbeat",{}]'


def main() -> None:
    port, sockets, topic = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    allow_sockets(sockets)
    crowd = [_joined(port, topic) for _ in range(sockets)]
    poll = select.epoll()
    by_number = {each.fileno(): each for each in crowd}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    print("ready", flush=True)
    for line in sys.stdin:
        command, amount = line.split()
        if command == "receive":
            _receive(poll, by_number, int(amount))
        else:
            for _ in range(int(amount)):
                _beat(crowd)
        print("done", flush=True)


def allow_sockets(sockets: int) -> None:
    """Raises the limit of open files, as far as that goes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = sockets + 100
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY and hard < wanted else wanted, hard)
    )


def _joined(port: int, topic: str) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.sendall(_HANDSHAKE.encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += sock.recv(4096)
    assert answer.startswith(b"HTTP/1.1 101"), answer
    sock.sendall(_frame(f'["1","1","{topic}","phx_join",{{}}]'))
    assert sock.recv(4096)
    return sock


def _frame(text: str) -> bytes:
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)


def _receive(poll: select.epoll, crowd: dict[int, socket.socket], expected: int) -> None:
    buffer = bytearray(2**20)
    while expected > 0:
        for number, _ in poll.poll():
            expected -= crowd[number].recv_into(buffer) or _gone()
        time.sleep(0.001)


def _beat(crowd: list[socket.socket]) -> None:
    beat = _frame(_BEAT)
    for sock in crowd:
        sock.sendall(beat)
    for sock in crowd:
        assert b"phx_reply" in b"".join(_reply(sock))


def _reply(sock: socket.socket) -> Iterator[bytes]:
    """One short frame."""
    head = sock.recv(2, socket.MSG_WAITALL)
    yield sock.recv(head[1], socket.MSG_WAITALL)


def _gone() -> int:
    raise ConnectionError("the server dropped a socket")


if __name__ == "__main__":
    main()
