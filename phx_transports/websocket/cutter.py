"""Cuts a client's incoming byte stream into WebSocket frames, for speed. Pure: bytes in, messages out.

An unfragmented, uncompressed, unmasked text frame (first byte 0x81: nearly every frame of a Phoenix server) is sliced
out of the read and decoded at once. Every other frame goes, byte for byte, to a Sans-I/O parser, which applies RFC 6455
and answers pings and closes; its stream only lacks the frames already taken. A text frame that breaks a rule (over
`max_size`: from its header on; invalid UTF-8: whole) goes there too, so that the parser fails the connection. After a
close frame or a failure, and from the first invalid frame on (masked, a reserved opcode), the parser gets everything.

Tests compare the messages, closes and errors with those of websockets' parser alone, at every split of the stream.
"""

import struct
from collections.abc import Callable
from typing import Final, TypeAlias

from websockets.exceptions import PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.protocol import Protocol

#: A message: `str` from text frames, `bytes` from binary ones.
Received: TypeAlias = str | bytes

#: Takes bytes of the stream, appends the messages that they complete, and returns whether the stream has ended:
#: a close frame was read, or the connection failed.
Parse: TypeAlias = Callable[[bytes, list[Received]], bool]

#: Bytes of pongs that may wait for a peer that does not read; above this, the peer is not read either.
ANSWERS: Final = 2**16

#: Fragments that a message may have whatever its size, and the average bytes that each further one must bring.
FRAGMENTS: Final = 1024
_FRAGMENT: Final = 64

_LARGE: Final = 2**16  # bytes from which a message is not copied

_PONG: Final = 6  # bytes of a pong besides its payload: header and mask

_TEXT: Final = 0x81  # the last (and only) frame of a text message, no extension used

#: Both bytes of such a frame's header where its size is in them, at most 125, and where two bytes more have it.
_SHORT_TEXT: Final = range(0x8100, 0x817E)
_TEXT_16: Final = 0x817E
_read_header: Final = struct.Struct(">HH").unpack_from


class Cutter:
    """One connection's incoming stream.

    Attributes:
        ended: Whether the parser has read a close frame or has failed the connection: no more messages will come.
        size: Bytes of the latest message given to the parser, by the frame headers read so far.
    """

    __slots__ = ("_between", "_limit", "_need", "_owed", "_parse", "_tail", "ended", "size")

    def __init__(self, parse: Parse, *, max_size: int | None) -> None:
        """Starts at a frame boundary, after the handshake.

        Args:
            parse: Takes everything that is not cut, e.g. `Assembler(protocol).parse`.
            max_size: The largest message, in bytes of its payload; `None` for no limit. The parser must have the same.
        """
        self.ended = False
        self.size = 0
        self._parse = parse
        self._limit = 1 << 64 if max_size is None else max_size  # a header holds 64 bits at most
        self._tail = bytearray()  # the beginning of an incomplete text frame, or of any incomplete header
        self._need: int  # bytes that the tail needs before work goes on
        self._owed = 0  # bytes of the parser's current frame still to come
        self._between = True  # not inside a fragmented message

    @property
    def unfinished(self) -> bool:
        """Whether part of a message or frame has arrived."""
        return not self.ended and bool(self._tail or self._owed or not self._between)

    def drop(self) -> None:
        """The connection is over: release the memory of an incomplete message."""
        self.ended = True
        self._tail = bytearray()

    def cut(self, data: bytes | bytearray) -> list[Received]:
        """Takes one read.

        Args:
            data: The bytes read: any number of frames and parts of frames.

        Returns:
            The messages completed by it, in the order of the wire.
        """
        messages: list[Received] = []
        tail = self._tail
        if tail:
            if len(tail) + len(data) < self._need:
                tail += data
                return messages
            if len(tail) < _LARGE:
                data = b"".join((tail, data))
                tail.clear()
            else:  # no copy
                tail += data
                data, self._tail = tail, bytearray()

        position, end = 0, len(data)
        limit, append, read_header = self._limit, messages.append, _read_header
        while position < end:
            if self._between and not (self._owed or self.ended):
                # This loop is the purpose of this file: a series of text frames at some 200 ns each.
                try:
                    while position < end:
                        head, size = read_header(data, position)
                        start = position + 4
                        if head != _TEXT_16:
                            if head not in _SHORT_TEXT:
                                break
                            size = head & 0x7F
                            start = position + 2
                        stop = start + size
                        if stop > end or size > limit:
                            break
                        append(data[start:stop].decode())
                        position = stop
                except (struct.error, UnicodeDecodeError):
                    pass  # a header cut off by the end of the read, or a frame for the parser: see below
                if position == end:
                    break
            position = self._take(data, position, messages)
        return messages

    def _take(self, data: bytes | bytearray, position: int, messages: list[Received]) -> int:
        """Takes one frame of any kind, or the available part of it, and returns where it ends."""
        end = len(data)
        if self.ended:
            return self._give(data, position, end, messages)
        if self._owed:
            stop = min(position + self._owed, end)
            self._owed -= stop - position
            return self._give(data, position, stop, messages)

        start = position + 2
        if start > end:
            return self._keep(data, position, need=2)
        head, size = data[position], data[position + 1]
        if size > 127 or head & 0x07 > 2:  # masked, or a reserved opcode
            return self._give_all(data, position, messages)
        if size > 125:
            start += 2 if size == 126 else 8
            if start > end:
                return self._keep(data, position, need=start - position)
            size = int.from_bytes(data[position + 2 : start], "big")
        stop = start + size

        opcode = head & 0x0F
        if opcode < 8:
            self.size = size if opcode else self.size + size
        if head == _TEXT and self._between:
            if size > self._limit:
                return self._give_all(data, position, messages)
            if stop > end:
                return self._keep(data, position, need=stop - position)
            try:
                messages.append(str(memoryview(data)[start:stop], "utf-8"))  # may be large: no copy
            except UnicodeDecodeError:
                return self._give(data, position, stop, messages)
            return stop

        if opcode < 8:  # not a control frame, which may come between fragments
            self._between = head >= 0x80
        if stop > end:
            self._owed = stop - end
            stop = end
        return self._give(data, position, stop, messages)

    def _keep(self, data: bytes | bytearray, position: int, *, need: int) -> int:
        self._tail += memoryview(data)[position:]
        self._need = need
        return len(data)

    def _give(self, data: bytes | bytearray, position: int, stop: int, messages: list[Received]) -> int:
        if self._parse(bytes(memoryview(data)[position:stop]), messages):
            self.ended = True
        return stop

    def _give_all(self, data: bytes | bytearray, position: int, messages: list[Received]) -> int:
        self.ended = True
        return self._give(data, position, len(data), messages)


class Assembler:
    """The usual parser behind a `Cutter`: websockets' Sans-I/O protocol, and messages made of its frames.

    It fails the connection with 1007 for a text message that is not UTF-8 (RFC 6455 §8.1; that protocol leaves this to
    its user), and with 1008 for a message in too many fragments, because each costs as much to read as a whole message.
    The bytes to send in answer are in `protocol.data_to_send()` afterwards.

    Attributes:
        problem: The peer's fault, as text, once the connection has failed.
        answered: Bytes of all pongs.
    """

    __slots__ = ("_fragments", "_most", "_parts", "_protocol", "_text", "answered", "problem")

    def __init__(self, protocol: Protocol, *, max_fragmented: int | None = None) -> None:
        """Starts after the handshake.

        Args:
            protocol: Open, with its events drained, and the same `max_size` as the cutter's.
            max_fragmented: The largest fragmented message, in bytes, if lower than that.
        """
        self.problem = ""
        self.answered = 0
        self._protocol = protocol
        self._most = max_fragmented
        self._fragments: int  # of the current message
        self._parts: bytearray  # of the current fragmented message
        self._text: bool  # whether that is a text message
        self._forget_parts()

    def parse(self, data: bytes, messages: list[Received]) -> bool:
        """Takes bytes of the stream, as `Parse` says."""
        protocol = self._protocol
        protocol.receive_data(data)
        for frame in protocol.events_received():
            assert isinstance(frame, Frame), "the handshake was before"
            opcode = frame.opcode
            if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
                self._text = opcode is Opcode.TEXT
            elif opcode is not Opcode.CONT:
                if opcode is Opcode.PING:
                    self.answered += _PONG + len(frame.data)
                continue
            size = len(self._parts) + len(frame.data)
            if self._most is not None and size > self._most and not (frame.fin and opcode is not Opcode.CONT):
                self._fail(CloseCode.MESSAGE_TOO_BIG, f"a message in fragments of more than {self._most} bytes")
                return True
            if not frame.fin:
                self._parts += frame.data
                self._fragments += 1
                if too_many(self._fragments, len(self._parts)):
                    self._fail(CloseCode.POLICY_VIOLATION, in_fragments(self._fragments, len(self._parts)))
                    return True
                continue
            message = self._parts + frame.data if self._parts else frame.data
            self._forget_parts()
            if not self._text:
                messages.append(bytes(message))
                continue
            try:
                messages.append(str(message, "utf-8"))
            except UnicodeDecodeError as error:
                what = f"{error.reason} at position {error.start}"
                self._fail(CloseCode.INVALID_DATA, what, f"invalid UTF-8 in a text message: {what}")
                return True
        if protocol.parser_exc is not None and not self.problem:
            self.problem = _parser_problem(protocol.parser_exc)
            self._forget_parts()
        return bool(self.problem) or protocol.close_rcvd is not None

    def drop(self) -> None:
        """The connection is over and fully read: release the memory of an incomplete message."""
        self._forget_parts()
        protocol = self._protocol
        protocol.reader.discard()
        protocol.parser.close()  # it, or the last error's traceback, holds the last frame
        if protocol.parser_exc is not None:
            protocol.parser_exc.__traceback__ = None

    def _forget_parts(self) -> None:
        self._parts = bytearray()
        self._fragments = 0

    def _fail(self, code: CloseCode, reason: str, problem: str = "") -> None:
        self.problem = problem or reason
        self._forget_parts()
        self._protocol.fail(code, reason)


def too_many(fragments: int, size: int) -> bool:
    """Whether the current message has too many fragments."""
    return fragments > FRAGMENTS + size // _FRAGMENT


def in_fragments(fragments: int, size: int) -> str:
    """The error's text for a message in too many fragments."""
    return f"a message in too many fragments: its first {size} bytes came in {fragments}"


def _parser_problem(error: Exception) -> str:
    if not isinstance(error, PayloadTooBig):
        return str(error)
    size = None if error.size is None else error.size + (error.current_size or 0)
    return over_limit(size, error.max_size)


def over_limit(size: int | None, limit: int) -> str:
    """The error's text for a message over `max_size`.

    Args:
        size: Its size in bytes, as far as known; `None` for a compressed message, which grew too large.
        limit: `max_size`.
    """
    known = "it grew so large when it was inflated" if size is None else f"it has {size} bytes or more"
    return f"a message of more than {limit} bytes, which is max_size: {known}; connect with a larger max_size"
