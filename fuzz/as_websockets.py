"""Compares the cutter with websockets' own parser: the same stream must give the same messages, answers and closes."""

from collections.abc import Sequence
from dataclasses import dataclass

from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import CLIENT, SERVER, Protocol, State

from phx_transports.websocket.cutter import Assembler, Cutter, Received

LIMIT = 300  # bytes of a message: beyond the 126 from which a header has more bytes


def protocol(*, compressed: bool = False, max_size: int | None = LIMIT) -> Protocol:
    made = Protocol(CLIENT, state=State.OPEN, max_size=max_size)
    if compressed:
        made.extensions = [PerMessageDeflate(False, False, 15, 15)]
    return made


class Cut:
    """A cutter before websockets' protocol, as the adapters have it."""

    def __init__(
        self, *, compressed: bool = False, max_size: int | None = LIMIT, max_fragmented: int | None = None
    ) -> None:
        self.protocol = protocol(compressed=compressed, max_size=max_size)
        self.assembler = Assembler(self.protocol, max_fragmented=max_fragmented)
        self.given: list[bytes] = []
        self.cutter = Cutter(self._parse, max_size=max_size)
        self.messages: list[Received] = []
        self.written = b""

    def _parse(self, data: bytes, messages: list[Received]) -> bool:
        self.given.append(data)
        return self.assembler.parse(data, messages)

    def feed(self, data: bytes) -> list[Received]:
        messages = self.cutter.cut(data)
        self.messages += messages
        self.written += b"".join(self.protocol.data_to_send())
        return messages


@dataclass
class Seen:
    messages: list[Received]
    answers: list[tuple[Opcode, bytes]]
    close_sent: Close | None
    close_rcvd: Close | None
    state: State
    error: str

    @classmethod
    def of(cls, messages: list[Received], written: bytes, protocol: Protocol) -> "Seen":
        server = Protocol(SERVER, max_size=None)
        server.receive_data(written)
        frames = [event for event in server.events_received() if isinstance(event, Frame)]
        answers = [(one.opcode, bytes(one.data)) for one in frames]
        error = repr(protocol.parser_exc)
        return cls(list(messages), answers, protocol.close_sent, protocol.close_rcvd, protocol.state, error)


class Reference:
    """websockets alone, a byte at a time, with messages made of its frames as its own connections make them."""

    def __init__(self, *, compressed: bool = False, max_size: int | None = LIMIT) -> None:
        self.protocol = protocol(compressed=compressed, max_size=max_size)
        self.messages: list[Received] = []
        self.written = b""
        self.frames: list[Frame] = []

    def feed(self, data: bytes) -> None:
        for byte in data:
            self.protocol.receive_data(bytes([byte]))
            for event in self.protocol.events_received():
                assert isinstance(event, Frame)
                if event.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                    self.frames.append(event)
                    if event.fin:
                        self._message()
            self.written += b"".join(self.protocol.data_to_send())

    def _message(self) -> None:
        frames, self.frames = self.frames, []
        data = b"".join(one.data for one in frames)
        if frames[0].opcode is Opcode.BINARY:
            self.messages.append(data)
            return
        try:
            self.messages.append(data.decode())
        except UnicodeDecodeError as error:
            self.protocol.fail(1007, f"{error.reason} at position {error.start}")


def assert_as_websockets(reads: Sequence[bytes], *, compressed: bool = False, max_size: int | None = LIMIT) -> None:
    """After every read: the same messages, answers, closes and errors, so none is later either."""
    cut = Cut(compressed=compressed, max_size=max_size)
    reference = Reference(compressed=compressed, max_size=max_size)
    for read in reads:
        cut.feed(read)
        reference.feed(read)
        seen = Seen.of(cut.messages, cut.written, cut.protocol)
        expected = Seen.of(reference.messages, reference.written, reference.protocol)
        assert seen == expected
    for one in (cut.protocol, reference.protocol):
        one.receive_eof()
    assert (cut.protocol.state, cut.protocol.close_code) == (reference.protocol.state, reference.protocol.close_code)
