"""An open WebSocket without its socket: what is sent, when senders and reads have to wait, and how it ends."""

from typing import Any

import pytest
from frames import CLOSE, accepted, frame, text
from websockets.frames import Frame, Opcode
from websockets.protocol import SERVER, Protocol, State

from phx_transports.websocket.connection import WebSocket
from phx_transports.websocket.cutter import ANSWERS
from phx_transports.websocket.handshake import Handshake
from phx_transports.websocket.options import NetworkOptions


class Socket(WebSocket):
    """Its methods for adapters are called as an adapter calls them; nothing is written."""

    def __init__(self, max_size: int | None = 1000) -> None:
        network: NetworkOptions[Any] = NetworkOptions(max_size=max_size)
        handshake = Handshake("ws://localhost/socket", subprotocols=["phoenix"], network=network)
        handshake.receive(accepted(handshake.request(), "Sec-WebSocket-Protocol: phoenix"))
        super().__init__(handshake)
        self.is_full = False
        self.writes = 0

    def _write_soon(self) -> None:
        self.writes += 1

    @property
    def full(self) -> bool:
        return self.is_full

    def read(self, data: bytes) -> list[str | bytes]:
        return self._cut(data)

    def sent(self) -> list[tuple[Opcode, bytes]]:
        server = Protocol(SERVER, state=State.OPEN, max_size=None)
        server.receive_data(b"".join(self._protocol.data_to_send()))
        return [(each.opcode, bytes(each.data)) for each in server.events_received() if isinstance(each, Frame)]


def test_what_is_sent_is_written_in_its_order_while_it_is_open() -> None:
    socket = Socket()
    socket.send_text("é")
    socket.send_binary(b"\xff")
    socket.close(1001, "é" * 62)
    assert socket.writes == 3
    socket.send_text("late")
    socket.send_binary(b"late")
    socket.close()
    assert socket.writes == 3
    reason = "é" * 61  # as much as a close frame holds
    assert socket.sent() == [
        (Opcode.TEXT, "é".encode()),
        (Opcode.BINARY, b"\xff"),
        (Opcode.CLOSE, (1001).to_bytes(2, "big") + reason.encode()),
    ]
    assert socket.subprotocol == "phoenix"


def test_it_closes_normally_unless_told_otherwise() -> None:
    socket = Socket()
    socket.close()
    assert socket.sent() == [(Opcode.CLOSE, b"\x03\xe8")]


@pytest.mark.parametrize(
    ("read", "ending"),
    [
        (CLOSE, (1001, "bye")),
        (frame(head=0x88), (1005, "")),
        (frame(b"\xff"), (None, "invalid UTF-8 in a text message: invalid start byte at position 0")),
    ],
)
def test_it_ends_once_and_the_first_reason_counts(read: bytes, ending: tuple[int | None, str]) -> None:
    socket = Socket()
    assert socket.read(text("a")) == ["a"]
    assert socket.ending is None
    assert socket.read(text("b") + read + text("c")) == ["b"]
    assert socket.ending == ending
    socket._lost("reset by the peer")
    socket.read(text("d"))
    assert socket.ending == ending


def test_a_connection_that_is_gone_says_why() -> None:
    socket = Socket()
    socket._lost("reset by the peer")
    assert socket.ending == (None, "reset by the peer")


def test_it_holds_nothing_of_a_message_that_will_never_be_whole() -> None:
    socket = Socket()
    socket.read(frame(b"a", head=0x01))
    assert socket.unfinished
    socket._forget()
    assert not socket.unfinished
    assert (socket._cutter._tail, socket._assembler._parts) == (b"", b"")


def test_a_message_over_the_limit_ends_it() -> None:
    socket = Socket(max_size=10)
    socket.read(frame(size=11))
    assert socket.ending is not None
    assert "more than 10 bytes" in socket.ending[1]


def test_a_peer_that_reads_no_answers_is_not_read_until_it_reads_again() -> None:
    socket = Socket()
    ping = frame(b"x" * 125, head=0x89)
    socket.read(ping)
    assert socket._may_be_read
    socket.is_full = True
    pings = ANSWERS // 131  # a pong has 6 bytes around what it carries
    socket.read(ping * pings)
    assert socket._may_be_read
    socket.read(ping)
    assert not socket._may_be_read
    socket.is_full = False
    assert socket._may_be_read
    socket.read(text("a"))
    socket.is_full = True
    socket.read(text("a"))
    assert socket._may_be_read
