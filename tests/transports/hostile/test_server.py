"""A server before hostile clients: memory and time are bounded, and other clients are served, whatever these send.

Each row of the table is an attack, on several connections at once. The server meets it in a process of its own, and
must answer a client that behaves meanwhile. `--hostile-seconds` says for how long.
"""

import json
import socket
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from itertools import count
from typing import Any

import pytest

from .measuring import MB, PATIENCE, Bounds, Subjects, record
from .peers import Connection, background, frame

SMALL = Bounds(cpu=3.0)  # another client is served, whose turn comes between those of three that stream
QUIET = Bounds(cpu=0.1)


class Client(Connection):
    """A hostile client's end of one connection."""

    def __init__(self, port: int) -> None:
        super().__init__(socket.create_connection(("127.0.0.1", port), PATIENCE))

    def open(self, *fields: str) -> None:
        """The handshake of a WebSocket."""
        key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
        self.write(request("GET /socket/websocket?vsn=2.0.0", "Sec-WebSocket-Version: 13", key, *UPGRADE, *fields))
        self.read_until(b"\r\n\r\n")

    def say(self, *message: Any) -> None:
        self.write(masked(json.dumps(message).encode()))

    def join(self, topic: str = "room:1", *, vsn: str = "2.0.0") -> None:
        self.open()
        self.say("1", "1", topic, "phx_join", {})
        self.read_until(b"phx_reply")

    def session(self) -> str:
        """A session of long polling, which has joined a topic."""
        self.write(request("GET /socket/longpoll?vsn=2.0.0"))
        token: str = json.loads(self.answer())["token"]
        self.post(token, b'["1","1","room:1","phx_join",{}]')
        self.answer()
        return token

    def post(self, token: str, body: bytes, *, length: int | None = None) -> None:
        kind = "content-type: application/x-ndjson"
        size = f"content-length: {len(body) if length is None else length}"
        self.write(request(f"POST /socket/longpoll?vsn=2.0.0&token={token}", kind, size) + body)

    def answer(self) -> bytes:
        head = self.read_until(b"\r\n\r\n").lower()
        return self.read(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))


UPGRADE = ("Upgrade: websocket", "Connection: Upgrade")


def request(line: str, *fields: str) -> bytes:
    return "\r\n".join((f"{line} HTTP/1.1", "Host: localhost", *fields, "", "")).encode()


def masked(data: bytes, head: int = 0x81) -> bytes:
    return frame(data, head, mask=True)


Attack = Callable[[Client], None]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One attack.

    Attributes:
        attack: What each client does.
        clients: How many.
        bounds: Within which the server stays.
        stands_still_in: Where its application does.
        options: Its `ServerOptions`.
        serving: Other arguments of `Server`.
        others: Whether a client that behaves is served meanwhile.
    """

    attack: Attack
    clients: int = 3
    bounds: Bounds = SMALL
    stands_still_in: str = ""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    serving: dict[str, Any] = field(default_factory=dict[str, Any])
    others: bool = True


# ---- attacks --------------------------------------------------------------------------------------------------------


def silent(client: Client) -> None:
    client.idle()


def sending(data: bytes) -> Attack:
    """Bytes on a new connection, without end."""
    return lambda client: client.write_forever(data)


def beginning(start: bytes, then: bytes) -> Attack:
    """Something once, and then something without end."""

    def attack(client: Client) -> None:
        client.write(start)
        client.write_forever(then)

    return attack


def dripping(start: bytes, then: bytes) -> Attack:
    def attack(client: Client) -> None:
        client.write(start)
        client.drip(then)

    return attack


def joined(start: bytes, then: bytes = b"", *, reading: bool = False) -> Attack:
    """The same after a join; what is answered is read, or not."""

    def attack(client: Client) -> None:
        client.join()
        if reading:
            background(client.wait)
        client.write(start)
        client.write_forever(then)

    return attack


def streaming(client: Client) -> None:
    """A handshake, a join, and messages, all without waiting."""
    key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="
    client.write(request("GET /socket/websocket?vsn=2.0.0", "Sec-WebSocket-Version: 13", key, *UPGRADE))
    client.write(masked(b'["1","1","room:1","phx_join",{}]'))
    client.write_forever(masked(b'["1","2","room:1","n","' + b"x" * 10_000 + b'"]'))


def numbering(make: Callable[[int], bytes]) -> Attack:
    """A message with another number each time; what is answered is read."""

    def attack(client: Client) -> None:
        client.join()
        background(client.wait)
        client.write_all(masked(make(number)) for number in count())

    return attack


@cache
def bomb() -> bytes:
    """A message that inflates a thousandfold."""
    deflate = zlib.compressobj(wbits=-12)
    data = deflate.compress(b'["1","2","room:1","n","' + b"x" * 9_000_000 + b'"]') + deflate.flush(zlib.Z_SYNC_FLUSH)
    return masked(data[:-4], 0xC1)


def deflated(client: Client) -> None:
    client.open("Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover")
    client.write_forever(bomb())


def sessions(client: Client) -> None:
    """Sessions that are never polled, as many as can be had."""
    while True:
        client.write(request("GET /socket/longpoll?vsn=2.0.0"))
        client.answer()


def posting(body: bytes, *, length: int | None = None, then: bytes = b"") -> Attack:
    """The same POST, again and again; or a body without end."""

    def attack(client: Client) -> None:
        token = client.session()
        while True:
            client.post(token, body, length=length)
            if length is not None:
                client.write_forever(then)
            client.answer()

    return attack


def chunked(client: Client) -> None:
    token = client.session()
    client.write(request(f"POST /socket/longpoll?vsn=2.0.0&token={token}", "transfer-encoding: chunked"))
    client.write_forever(b"1000\r\n" + b"x" * 0x1000 + b"\r\n")


def unread(client: Client) -> None:
    """A session whose messages are never polled."""
    token = client.session()
    while True:
        client.post(token, b"\n".join([b'["1","2","room:1","send",{"count":1,"size":100000}]'] * 100))
        client.answer()


def message(payload: bytes = b"1", event: bytes = b"n") -> bytes:
    return masked(b'["1","2","room:1","' + event + b'",' + payload + b"]")


PER_CLIENT = Bounds(memory=3 * 25 * MB, cpu=3.0)
DEEP = b"[" * 50_000 + b"]" * 50_000
GET = b"GET /socket/websocket?vsn=2.0.0"
POLL = b"GET /socket/longpoll?vsn=2.0.0 HTTP/1.1\r\nhost: localhost\r\n"
OPTIONS = b"OPTIONS" + POLL.removeprefix(b"GET") + b"access-control-request-headers: %b\r\n\r\n" % (b"x" * 10_000)
POST = b"POST" + POLL.removeprefix(b"GET") + b"content-length: 1000000\r\n\r\n"

SCENARIOS: dict[str, Scenario] = {
    "many silent connections": Scenario(attack=silent, clients=100, bounds=QUIET),
    "more connections than may be": Scenario(
        attack=silent, clients=50, bounds=QUIET, serving={"max_connections": 10}, others=False
    ),
    "a request line without end": Scenario(attack=beginning(GET, b"x")),
    "request headers without number": Scenario(attack=beginning(GET + b" HTTP/1.1\r\n", b"x-one: more\r\n")),
    "a request that drips": Scenario(attack=dripping(GET, b"x"), clients=20, bounds=QUIET),
    "no request": Scenario(attack=sending(b"\x16\x03\x01")),
    "streaming during connect": Scenario(attack=streaming, stands_still_in="connect", others=False),
    "streaming during join": Scenario(attack=streaming, stands_still_in="join", others=False),
    "streaming during a handler": Scenario(attack=streaming, stands_still_in="handle"),
    "small messages, replies are read": Scenario(attack=joined(b"", message(), reading=True)),
    "small messages, nothing is read": Scenario(attack=joined(b"", message())),
    "large messages, nothing is read": Scenario(
        attack=joined(b"", message(b'"' + b"x" * 10**6 + b'"')), bounds=PER_CLIENT
    ),
    "pushes that nobody reads": Scenario(
        attack=joined(b"", message(b'{"count":1,"size":100000}', b"send")), bounds=PER_CLIENT
    ),
    "joins without number": Scenario(
        attack=numbering(lambda n: b'["%d","%d","room:%d","phx_join",{}]' % (n, n, n + 2)), bounds=SMALL
    ),
    "joins of one topic without number": Scenario(
        attack=numbering(lambda n: b'["%d","%d","room:1","phx_join",{}]' % (n, n))
    ),
    "topics without number": Scenario(attack=numbering(lambda n: b'["1","2","room:%d","n",1]' % n)),
    "events without number": Scenario(attack=numbering(lambda n: b'["1","2","room:1","e%d",1]' % n)),
    "a topic of 1 MB": Scenario(
        attack=joined(b"", masked(b'["2","2","room:' + b"x" * 10**6 + b'","phx_join",{}]')), bounds=PER_CLIENT
    ),
    "heartbeats": Scenario(attack=joined(b"", masked(b'[null,"2","phoenix","heartbeat",{}]'))),
    "messages that are none": Scenario(attack=joined(b"", masked(b"{not json"))),
    "deep messages": Scenario(attack=joined(b"", message(DEEP), reading=True)),
    "huge numbers": Scenario(attack=joined(b"", message(b"9" * 10**6), reading=True)),
    "pings, nothing is read": Scenario(attack=joined(b"", masked(b"x" * 125, 0x89))),
    "a message over max_size": Scenario(
        attack=joined(b"\x81\xff" + (2**40).to_bytes(8, "big"), b"x"), bounds=PER_CLIENT
    ),
    "a message that never ends": Scenario(
        attack=joined(b"\x81\xff" + (10**7).to_bytes(8, "big") + bytes(4) + b"x" * 9_000_000), bounds=PER_CLIENT
    ),
    "fragments without end": Scenario(
        attack=joined(masked(b"x" * 10**5, 0x01), masked(b"x" * 10**5, 0x00)), bounds=PER_CLIENT
    ),
    "fragments of nothing": Scenario(attack=joined(masked(b"", 0x01), masked(b"", 0x00))),
    "compression bombs, as on Bandit": Scenario(attack=deflated, serving={"compress": True}),
    "compression bombs, as on Cowboy": Scenario(
        attack=deflated,
        serving={"compress": True},
        options={"host": "cowboy"},
        bounds=Bounds(memory=3 * 50 * MB, cpu=5.0),
        others=False,
    ),
    "a poll's headers without number": Scenario(attack=beginning(POLL, b"x-one: more\r\n")),
    "a poll that drips": Scenario(attack=dripping(POLL, b"x"), clients=20, bounds=QUIET),
    "a POST that drips": Scenario(attack=dripping(POST, b"x"), clients=20, bounds=QUIET),
    "requests whose answers are not read": Scenario(attack=sending(OPTIONS)),
    "polls behind each other": Scenario(
        attack=sending(POLL + b"\r\n"), serving={"max_connections": 1_000}, others=False
    ),
    "sessions that are never polled": Scenario(attack=sessions, serving={"max_connections": 1_000}, others=False),
    "a session's messages that are never polled": Scenario(attack=unread, bounds=PER_CLIENT),
    "a POST without end": Scenario(attack=posting(b"", length=10**12, then=b"x"), bounds=PER_CLIENT),
    "chunks of a POST without number": Scenario(attack=chunked, bounds=PER_CLIENT),
    "a POST of line breaks": Scenario(attack=posting(b"[1\n" * 2_000_000), bounds=PER_CLIENT),
    "POSTs during a handler": Scenario(
        attack=posting(b'["1","2","room:1","n","' + b"x" * 7_000_000 + b'"]'),
        bounds=Bounds(memory=3 * 40 * MB),
        stands_still_in="handle",
    ),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_server(name: str, subjects: Subjects, seconds: float) -> None:
    scenario = SCENARIOS[name]
    order = {"stands_still_in": scenario.stands_still_in, "options": scenario.options, **scenario.serving}
    with subjects.subject("server", **order) as subject:
        port = subject.told()["port"]
        clients = [Client(port) for _ in range(scenario.clients)]
        threads = [background(scenario.attack, client) for client in clients]
        threading.Event().wait(seconds)
        if scenario.others:
            serve_another(port)
        subject.stop()
        outcome = subject.outcome(lambda: sum(client.sent for client in clients))
        for client in clients:
            client.end()
        for thread in threads:
            thread.join(PATIENCE)
    record(name, outcome)
    outcome.check(scenario.bounds, seconds)


def serve_another(port: int) -> None:
    """It joins within the time that any call has."""
    client = Client(port)
    client.join()
    client.end()
