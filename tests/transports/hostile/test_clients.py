"""Clients before hostile servers: memory and time are bounded, and calls end, whatever the server sends or leaves out.

Each row of a table is an attack, what the client does meanwhile, and the bounds (`Bounds` where it says nothing). Each
adapter meets it in a process of its own. `--hostile-seconds` says for how long.
"""

import json
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import count
from typing import Any

import pytest

from .measuring import MB, Bounds, Subjects, record
from .peers import CHUNK, Attack, Peer, attacking, frame

ADAPTERS = ("asyncio", "threads", "wsproto")


SMALL = Bounds()
LARGE = Bounds(memory=100 * MB)
QUIET = Bounds(cpu=0.1)


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One attack.

    Attributes:
        attack: What the server does.
        work: What the client does meanwhile; see `subjects.py`.
        bounds: Within which it stays.
        network: Options of the client.
        scheme: Of the URL.
        adapters: Those that have what it needs.
    """

    attack: Attack
    work: str = "wait"
    bounds: Bounds = SMALL
    network: dict[str, Any] = field(default_factory=dict[str, Any])
    scheme: str = "ws"
    adapters: tuple[str, ...] = ADAPTERS


# ---- attacks on an open WebSocket -----------------------------------------------------------------------------------


def sending(data: bytes) -> Attack:
    """The same, without end."""

    def attack(peer: Peer) -> None:
        peer.meet()
        peer.write_forever(data)

    return attack


def numbering(make: Callable[[int], str]) -> Attack:
    """A message with another number each time."""

    def attack(peer: Peer) -> None:
        peer.meet()
        peer.write_all(frame(make(number).encode()) for number in count())

    return attack


def beginning(*starts: bytes, then: bytes) -> Attack:
    """Something once, and then something without end, on each connection."""

    def attack(peer: Peer) -> None:
        peer.meet()
        peer.write(b"".join(starts))
        peer.write_forever(then)

    return attack


def message(payload: str, topic: str = "room:1", event: str = "n") -> bytes:
    return frame(f'[null,null,"{topic}","{event}",{payload}]'.encode())


def text(size: int) -> bytes:
    return message('"' + "x" * size + '"')


def presence_diff(number: int) -> str:
    joins = {f"user {number}": {"metas": [{"phx_ref": str(number)}]}}
    return json.dumps([None, None, "room:1", "presence_diff", {"joins": joins, "leaves": {}}])


def crash(peer: Peer) -> None:
    """The channel crashes whenever it is joined."""
    peer.accept()
    while True:
        join_ref, ref, topic, event, _ = peer.receive()
        if event == "phx_join":
            answer = [join_ref, ref, topic, "phx_reply", {"status": "ok", "response": {}}]
            peer.write(frame(json.dumps(answer).encode()))
            if peer.memory.ready.is_set():
                peer.write(frame(json.dumps([join_ref, None, topic, "phx_error", {}]).encode()))
        if event == "go":
            peer.memory.ready.set()
            peer.write(frame(json.dumps([join_ref, None, topic, "phx_error", {}]).encode()))


def drip(peer: Peer) -> None:
    peer.meet()
    peer.drip(frame(b" " * 2**20))


def hang_up(peer: Peer) -> None:
    peer.meet()


def read_nothing(peer: Peer) -> None:
    peer.meet()
    peer.idle()


def presences(peer: Peer) -> None:
    """A state, and then diffs that only add to it; not without end, for all that is present is kept."""
    peer.meet()
    peer.write(message("{}", event="presence_state"))
    peer.write_all(frame(presence_diff(number).encode()) for number in range(10_000))
    peer.idle()


@cache
def bomb() -> bytes:
    """A message that inflates a thousandfold: 15 kB that become 15 MB."""
    deflate = zlib.compressobj(wbits=-15)
    data = deflate.compress(b'[null,null,"room:1","n","' + b"x" * 15_000_000 + b'"]') + deflate.flush(zlib.Z_SYNC_FLUSH)
    return frame(data[:-4], 0xC1)


def bombs(peer: Peer) -> None:
    data = bomb()
    peer.meet("permessage-deflate; server_no_context_takeover")
    peer.write_forever(data)


DEEP = "[" * 100_000 + "]" * 100_000

OPEN: dict[str, Scenario] = {
    "small messages that nobody handles": Scenario(attack=sending(message("1"))),
    "small messages, a handler": Scenario(attack=sending(message("1")), work="quick"),
    "small messages, a slow handler": Scenario(attack=sending(message("1")), work="slow"),
    "small messages, an unanswered call": Scenario(attack=sending(message("1")), work="call"),
    "messages of 1 kB, an unanswered call": Scenario(attack=sending(text(1_000)), work="call", bounds=LARGE),
    "messages of 100 kB, a stream that is not read": Scenario(attack=sending(text(10**5)), work="stream", bounds=LARGE),
    "messages of 1 MB, a slow handler": Scenario(attack=sending(text(10**6)), work="slow", bounds=LARGE),
    "messages of 1 MB, an unanswered call": Scenario(attack=sending(text(10**6)), work="call", bounds=LARGE),
    "messages of 10 MB, an unanswered call": Scenario(attack=sending(text(10**7)), work="call", bounds=LARGE),
    "topics without number": Scenario(attack=numbering('[null,null,"t{}","n",1]'.format)),
    "events without number": Scenario(attack=numbering('[null,null,"room:1","e{}",1]'.format)),
    "refs without number": Scenario(attack=numbering('["{0}","{0}","room:1","phx_reply",{{}}]'.format)),
    "statuses without number": Scenario(
        attack=numbering('["1","{0}","room:1","phx_reply",{{"status":"{0}","response":1}}]'.format)
    ),
    "presence diffs before the state": Scenario(attack=numbering(presence_diff), work="presence"),
    "10,000 presences": Scenario(attack=presences, work="presence"),
    "a channel that crashes at each join": Scenario(attack=crash, bounds=QUIET),
    "no messages": Scenario(attack=sending(frame(b"{not json") + frame(b"[1,2]") + frame(b""))),
    "deep payloads, a handler": Scenario(attack=sending(message(DEEP)), work="quick"),
    "deep frames": Scenario(attack=sending(frame(DEEP.encode()))),
    "huge numbers, a handler": Scenario(attack=sending(message("9" * 10**6)), work="quick"),
    "numbers out of range, a handler": Scenario(attack=sending(message("1e999")), work="quick"),
    "text that is not UTF-8": Scenario(attack=sending(frame(b"\xff" * 100))),
    "strings that are not UTF-8, a handler": Scenario(attack=sending(message('"\\ud83d"')), work="quick"),
    "binary messages that are none": Scenario(attack=sending(frame(b"\x00\xff\xff\xff\xff", 0x82))),
    "pings, nothing is read": Scenario(attack=sending(frame(b"x" * 125, 0x89))),
    "pongs": Scenario(attack=sending(frame(b"x" * 125, 0x8A))),
    "a message over max_size": Scenario(
        attack=beginning(b"\x81\x7f" + (2**40).to_bytes(8, "big"), then=b"x" * CHUNK), bounds=LARGE
    ),
    "a message over max_size in fragments": Scenario(
        attack=beginning(frame(b"x" * CHUNK, 0x01), then=frame(b"x" * CHUNK, 0x00)), bounds=LARGE
    ),
    "a message in fragments of nothing": Scenario(attack=beginning(frame(b"", 0x01), then=frame(b"", 0x00))),
    "a message that never ends": Scenario(
        attack=beginning(b"\x81\x7f" + (16 * 2**20).to_bytes(8, "big") + b"x" * 16_000_000, then=b""), bounds=LARGE
    ),
    "a frame that drips": Scenario(attack=drip, bounds=QUIET),
    "frames that break the rules": Scenario(attack=sending(b"\xf3\x01x")),
    "no connection lasts": Scenario(attack=hang_up, bounds=QUIET),
    "a peer that does not read": Scenario(attack=read_nothing, work="cast"),
    "messages after the close frame": Scenario(attack=beginning(frame(b"\x03\xe8", 0x88), then=message("1"))),
    "compression bombs": Scenario(
        attack=bombs, network={"compression": "deflate"}, adapters=("asyncio", "threads"), bounds=LARGE
    ),
}


# ---- attacks on the handshake ---------------------------------------------------------------------------------------

UPGRADE = b"HTTP/1.1 101 Switching Protocols\r\n"
CHUNKED = b"HTTP/1.1 403 Forbidden\r\ntransfer-encoding: chunked\r\n\r\n"


def silence(peer: Peer) -> None:
    peer.idle()


def answering(start: bytes, then: bytes = b"") -> Attack:
    """To each request something once, and then something without end, or nothing."""

    def attack(peer: Peer) -> None:
        peer.read_until(b"\r\n\r\n")
        peer.write(start)
        peer.write_forever(then)

    return attack


def dripping(start: bytes, then: bytes) -> Attack:
    """Likewise, a byte at a time."""

    def attack(peer: Peer) -> None:
        peer.write(start)
        peer.drip(then)

    return attack


def redirect(peer: Peer) -> None:
    """To itself, at once."""
    peer.read_until(b"\r\n\r\n")
    place = f"http://127.0.0.1:{peer.sock.getsockname()[1]}/socket/websocket"
    peer.write(f"HTTP/1.1 301 Moved Permanently\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n".encode())


def hang_up_at_once(peer: Peer) -> None:
    pass


HANDSHAKE: dict[str, Scenario] = {
    "no answer": Scenario(attack=silence, bounds=QUIET),
    "no TLS": Scenario(attack=silence, bounds=QUIET, scheme="wss"),
    "TLS that drips": Scenario(attack=dripping(b"\x16\x03\x03\x40\x00\x02", b"\x00"), bounds=QUIET, scheme="wss"),
    "TLS without end": Scenario(attack=answering(b"", b"\x16\x03\x03\x40\x00" + bytes(2**14)), scheme="wss"),
    "no connection is taken": Scenario(attack=hang_up_at_once, bounds=QUIET),
    "an answer that drips": Scenario(attack=dripping(UPGRADE, b"x-one: more\r\n"), bounds=QUIET),
    "a status line without end": Scenario(attack=answering(b"HTTP/1.1 101 ", b"x")),
    "a header without end": Scenario(attack=answering(UPGRADE + b"x-one: ", b"x")),
    "headers without number": Scenario(attack=answering(UPGRADE, b"x-one: more\r\n")),
    "headers of a refusal without number": Scenario(attack=answering(b"HTTP/1.1 403 No\r\n", b"x-one: more\r\n")),
    "interim answers without number": Scenario(attack=answering(b"", b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")),
    "a refusal's body without end": Scenario(attack=answering(b"HTTP/1.1 403 Forbidden\r\n\r\n", b"x")),
    "a refusal's chunks without number": Scenario(attack=answering(CHUNKED, b"1\r\nx\r\n")),
    "a refusal's chunk without end": Scenario(attack=answering(CHUNKED + b"ffffffffff\r\n", b"x")),
    "a chunk's size without end": Scenario(attack=answering(CHUNKED, b"1")),
    "trailers without number": Scenario(attack=answering(CHUNKED + b"0\r\n", b"x-one: more\r\n")),
    "redirects in a circle": Scenario(attack=redirect, bounds=QUIET),
    "what is no HTTP, without end": Scenario(attack=answering(b"220 smtp.example.com ESMTP\r\n", b"x")),
    "a proxy that does not answer": Scenario(
        attack=silence, bounds=QUIET, network={"proxy": ""}, adapters=("asyncio", "threads")
    ),
    "a proxy's headers without number": Scenario(
        attack=answering(b"HTTP/1.1 200 OK\r\n", b"x-one: more\r\n"),
        network={"proxy": ""},
        adapters=("asyncio", "threads"),
    ),
}


# ---- attacks on long polling ----------------------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"


def polled(start: bytes, then: bytes = b"") -> Attack:
    """To each poll something once, and then something without end, or nothing."""

    def attack(peer: Peer) -> None:
        while True:
            peer.poll()
            peer.write(start)
            if then:
                peer.write_forever(then)

    return attack


def polled_drip(peer: Peer) -> None:
    peer.poll()
    peer.write(OK + b"content-length: 60000000\r\n\r\n")
    peer.drip(b" ")


def polled_body(body: bytes, *fields: str) -> Attack:
    """To each poll the same answer."""
    head = "\r\n".join(("HTTP/1.1 200 OK", f"content-length: {len(body)}", *fields, "", ""))
    return polled(head.encode() + body)


def messages(*texts: str) -> bytes:
    return json.dumps({"status": 200, "token": "t", "messages": texts}).encode()


def many(element: bytes, size: int) -> bytes:
    """So many bytes of messages that are as small as they can be."""
    return b'{"status":200,"token":"t","messages":[' + b",".join([element] * (size // (len(element) + 1))) + b"]}"


ONE, MEGABYTE = (f'[null,null,"room:1","n","{"x" * size}"]' for size in (1, 10**6))

POLLING: dict[str, Scenario] = {
    "a poll without an answer": Scenario(attack=polled(b""), bounds=QUIET),
    "a session without an answer": Scenario(attack=silence, bounds=QUIET),
    "an answer's head without end": Scenario(attack=polled(OK, b"x-one: more\r\n")),
    "an answer's body without end": Scenario(attack=polled(OK + b"\r\n", b"x"), bounds=LARGE),
    "an answer's chunks without number": Scenario(
        attack=polled(OK + b"transfer-encoding: chunked\r\n\r\n", b"1\r\nx\r\n"), bounds=LARGE
    ),
    "an answer's body that never ends": Scenario(
        attack=polled(OK + b"content-length: 60000000\r\n\r\n" + b"x" * 50_000_000), bounds=LARGE
    ),
    "an answer that drips": Scenario(attack=polled_drip, bounds=QUIET),
    "an answer that inflates": Scenario(
        attack=polled_body(zlib.compress(messages("x" * 60_000_000)), "content-encoding: deflate"), bounds=LARGE
    ),
    "an answer that inflates to many messages": Scenario(
        attack=polled_body(zlib.compress(many(b'"a"', 60_000_000)), "content-encoding: deflate"), bounds=LARGE
    ),
    "an answer that inflates to many elements": Scenario(
        attack=polled_body(zlib.compress(many(b"[]", 60_000_000)), "content-encoding: deflate"), bounds=LARGE
    ),
    "answers at once": Scenario(attack=polled_body(messages(ONE))),
    "empty answers at once": Scenario(attack=polled_body(messages()), bounds=QUIET),
    "large messages, a slow handler": Scenario(
        attack=polled_body(messages(*[MEGABYTE] * 20)), work="slow", bounds=LARGE
    ),
    "large messages, an unanswered call": Scenario(
        attack=polled_body(messages(*[MEGABYTE] * 20)), work="call", bounds=LARGE
    ),
    "elements that are no messages": Scenario(attack=polled_body(many(b"[]", 10_000))),
    "deep answers": Scenario(attack=polled_body(b'{"status":200,"messages":' + b"[" * 10**6)),
    "another session each time": Scenario(attack=polled_body(b'{"status":410,"token":"u","messages":[]}')),
    "no HTTP": Scenario(attack=polled(b"220 smtp.example.com ESMTP\r\n", b"x")),
}


# ---- the tests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPEN)
def test_an_open_connection(name: str, subjects: Subjects, seconds: float) -> None:
    run(name, OPEN[name], subjects, seconds)


@pytest.mark.parametrize("name", HANDSHAKE)
def test_a_handshake(name: str, subjects: Subjects, seconds: float) -> None:
    run(name, HANDSHAKE[name], subjects, seconds)


@pytest.mark.parametrize("name", POLLING)
def test_long_polling(name: str, subjects: Subjects, seconds: float) -> None:
    scenario = POLLING[name]
    run(name, replace(scenario, network={"transport": "longpoll"}), subjects, seconds)


def test_what_a_client_keeps_is_measured(subjects: Subjects, seconds: float) -> None:
    """The proof of the measure: an application that keeps what it gets is out of bounds."""
    with pytest.raises(AssertionError, match="above idle"):
        run("kept", Scenario(attack=sending(text(10**5)), work="keep", bounds=Bounds(memory=5 * MB)), subjects, seconds)


def run(name: str, scenario: Scenario, subjects: Subjects, seconds: float) -> None:
    """All adapters at once, each before a server of its own."""
    with ExitStack() as running:
        runs: list[Any] = []
        for adapter in scenario.adapters:
            port, sent = running.enter_context(attacking(scenario.attack))
            network = {"proxy": None, **scenario.network}
            if network["proxy"] is not None:
                network["proxy"] = f"http://127.0.0.1:{port}"
            url = f"{scenario.scheme}://127.0.0.1:{port}/socket"
            order = {"url": url, "work": scenario.work, "seconds": seconds, **network}
            runs.append((adapter, running.enter_context(subjects.subject(adapter, **order)), sent))
        for adapter, subject, sent in runs:
            outcome = subject.outcome(sent)
            record(f"{name}, {adapter}", outcome)
            outcome.check(scenario.bounds, seconds)
