"""Plays the client's side of a recorded session to the recorded application, at its recorded times and without I/O.

Beneath each socket lies the WebSocket parser that the adapters use, so pings, broken frames and bytes that are no frame
are played as well. Two things are played that a recording does not tell: which of the frames that the client sent at
once came in one read (the replay is told, and assumes what is usual), and broadcasts from outside that were no request
of the recording: an event which the application never sends by itself was broadcast when it was received.
"""

import enum
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from application import OWN_EVENTS, Endpoint, Socket
from recorded import Line, Session
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol as WebSocket

from phx_proto.formats.binary import SERVER_SENDS, unpack
from phx_proto.server.events import Abort, Close, Send, ServerOptions
from phx_proto.server.protocol import ServerProtocol
from phx_transports.websocket.cutter import Assembler, Received

ONE_READ: Final = 0.00035  # sends no further apart than this usually came in one read
AT_ONCE: Final = 0.005  # what is further apart than this has an order

#: When something came from the server, what (`"frame"`, `"pong"`, `"close"`, `"eof"`), and its value.
Seen: TypeAlias = tuple[float, str, Any]


class Reading(enum.Enum):
    """How a frame came that the client sent right behind another one."""

    APART = "with a read of its own, when everything before it was done"
    TOGETHER = "with the read before, and no channel got a turn meanwhile"
    RACING = "with the read before, and the channels had their turns meanwhile, but the socket did not hear of it"


class Steppable(ServerProtocol):
    """Lets a test say when a channel gets its turn; see `Reading.RACING`."""

    held = False

    def _run(self) -> None:
        if not self.held:
            super()._run()

    def step(self) -> None:
        """One frame is read, if the socket does not wait for a join."""
        if self._mail and self._joining is None:
            self._mail.popleft()()

    def turns(self) -> None:
        """Each channel that has mail takes its turn."""
        while self._ready:
            self._turn(self._ready.popleft())

    def resume(self) -> None:
        """From here on everything goes its way."""
        self.held = False
        self._run()


class Wire:
    """One connection, as the client sees it."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.seen: list[Seen] = []
        self.over = False
        self._websocket = WebSocket(max_size=10_000_000)
        self._websocket.receive_data(_HANDSHAKE)
        (request,) = self._websocket.events_received()
        self._websocket.send_response(self._websocket.accept(request))  # type: ignore[arg-type]
        self._websocket.data_to_send()
        self._assembler = Assembler(self._websocket)

    @property
    def protocol(self) -> Steppable:
        assert isinstance(self.socket.protocol, Steppable)
        return self.socket.protocol

    def read(self, line: Line) -> list[Received]:
        """The client's bytes arrive; pings are answered at once."""
        messages: list[Received] = []
        self._assembler.parse(_bytes_of(line), messages)
        for data in self._websocket.data_to_send():
            if data[:1] == b"\x8a":
                self.seen.append((line.time, "pong", data[2:]))
        return messages

    def finish(self, line: Line) -> None:
        """Ends the connection if the client did, by its close frame or by breaking a rule."""
        if line.op == "close" and (self._assembler.problem or self._websocket.close_rcvd is not None):
            self.protocol.closed(line.code, "")  # also a code that the library does not know
        elif self._websocket.close_rcvd is not None and not self._assembler.problem:
            self.protocol.closed(int(self._websocket.close_rcvd.code), "")
        elif self._assembler.problem and not self.over:
            self.protocol.closed(None, self._assembler.problem)
            assert self._websocket.close_sent is not None
            self._end(line.time, int(self._websocket.close_sent.code))

    def flush(self, now: float) -> None:
        """What the core wants sent arrives at the client."""
        for command in self.protocol.commands():
            match command:
                case Send(data):
                    self.seen.append((now, "frame", data))
                case Close(code):
                    self._end(now, code)
                case Abort():
                    self._end(now, None)

    def _end(self, now: float, code: int | None) -> None:
        if not self.over:
            self.seen += [(now, "close", code)] if code is not None else []
            self.seen.append((now, "eof", None))
        self.over = True


@dataclass
class Replay:
    """One replay of a session.

    Attributes:
        setting: Which Phoenix on which web server to be.
        readings: How frames came, by their place in the session, where it was not as usual.
    """

    session: Session
    setting: ServerOptions
    readings: dict[int, Reading] = field(default_factory=dict)
    wires: dict[str, Wire] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._endpoint = Endpoint(self.setting, Steppable)
        self._targets: dict[str, str] = {}
        self._current: dict[str, str] = {}
        self._last = {line.connection: index for index, line in enumerate(self.session.lines)}
        self._closed: set[str] = set()  # by the server first: what the client sends after that is not read
        self._stopping = False

    def run(self) -> "Replay":
        outside = _broadcasts(self.session)
        for reads in self._groups():
            index, line = reads[0]
            while outside and outside[0][0] <= line.time:
                at, topic, event, payload = outside.pop(0)
                self._advance(at)
                self._endpoint.broadcast(topic, event, payload)
                self._pump(at)
            self._advance(line.time)
            self._play(index, line, reads)
            self._pump(line.time)
        return self

    # ---- time --------------------------------------------------------------------------------------------------------

    def _advance(self, now: float) -> None:
        while (due := self._endpoint.next_timeout()) is not None and due <= now:
            self._endpoint.handle_timeout(due)
            self._pump(due)

    def _pump(self, now: float) -> None:
        self._endpoint.pump(now)
        for wire in self.wires.values():
            wire.flush(now)

    # ---- the lines ---------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[list[tuple[int, Line]]]:
        """The lines, with those together that came in one read."""
        group: list[tuple[int, Line]] = []
        for index, line in enumerate(self.session.lines):
            if group and self.reading(index) is Reading.APART:
                yield group
                group = []
            group.append((index, line))
        if group:
            yield group

    def reading(self, index: int) -> Reading:
        """How the frame of this line came."""
        if index in self.readings:
            return self.readings[index]
        before, line = self.session.lines[index - 1], self.session.lines[index]
        at_once = may_be_one_read(before, line) and line.time - before.time <= ONE_READ
        return Reading.TOGETHER if at_once and line.op in ("text", "binary") else Reading.APART

    def _play(self, index: int, line: Line, reads: list[tuple[int, Line]]) -> None:
        name = line.connection
        match line.kind:
            case "http_req":
                self._targets[name] = line.target
                self._endpoint.get(line.target)
            case "http_resp" if line.status == 101:
                self._open(name, line)
            case "tcp_close" | "send" | "recv" if name not in self._current:
                pass  # of a connection whose handshake was not recorded
            case "tcp_close":
                self._wire(name).protocol.closed(None, "gone")
            case "signal":
                self._signal(line)
            case "recv" if line.op == "close":
                self._closed.add(self._current[name])
            case "send" if not self._wire(name).over and self._current[name] not in self._closed:
                self._send(self._wire(name), reads)
                if line.op == "close" and self._last[name] == index:  # no answer was recorded: the client did not wait
                    self._wire(name).over = True
                    self._wire(name).protocol.closed(None, "gone")
            case _:
                pass

    def _open(self, name: str, line: Line) -> None:
        self._current[name] = unused(name, self.wires)
        wire = self.wires[self._current[name]] = Wire(self._endpoint.connect(self._targets[name], line.time))
        if self._stopping:
            self._endpoint.timers.at(line.time + 1, lambda _: wire.protocol.shutdown())

    def _wire(self, name: str) -> Wire:
        return self.wires[self._current[name]]

    def _signal(self, line: Line) -> None:
        self._stopping = True
        if "KILL" in str(line.fields).upper():
            for wire in self.wires.values():
                wire.protocol.abort()
        else:
            self._endpoint.shutdown()

    def _send(self, wire: Wire, reads: list[tuple[int, Line]]) -> None:
        """One read, with the frames of these lines."""
        protocol, now = wire.protocol, reads[0][1].time
        protocol.held = len(reads) > 1
        messages = [message for _, line in reads for message in wire.read(line)]
        if messages:
            protocol.receive_all(messages, now)
        else:
            protocol.touched(now)
        for index, line in reads if protocol.held else ():
            if self.reading(index) is Reading.RACING:
                protocol.turns()
                self._endpoint.pump(now)
            if line.op != "close":
                protocol.step()
        if reads[-1][1].op != "close":
            protocol.resume()
        wire.flush(now)
        wire.finish(reads[-1][1])
        protocol.resume()  # a close frame behind a join waits for its answer


# ---- frames ---------------------------------------------------------------------------------------------------------


def topic_and_event(frame: str | bytes) -> tuple[Any, Any]:
    """Of a frame from the server, in either version."""
    if isinstance(frame, bytes):
        kind, fields, _ = unpack(SERVER_SENDS, frame)
        names = dict(zip(SERVER_SENDS[kind], fields, strict=True))
        return names["topic"], names.get("event", "phx_reply")
    message = json.loads(frame)
    return (message["topic"], message["event"]) if isinstance(message, dict) else (message[2], message[3])


# ---- private --------------------------------------------------------------------------------------------------------

_HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_OPCODES: Final = {
    "text": Opcode.TEXT,
    "binary": Opcode.BINARY,
    "ping": Opcode.PING,
    "pong": Opcode.PONG,
    "close": Opcode.CLOSE,
}


def _bytes_of(line: Line) -> bytes:
    data = line.data.encode() if isinstance(line.data, str) else line.data
    if line.op == "raw":
        return data
    if line.op == "close":
        code = line.fields.get("code")
        data = b"" if code in (None, 1005) else code.to_bytes(2, "big") + (line.fields.get("reason") or "").encode()
    return Frame(_OPCODES[line.op], data).serialize(mask=True)


def unused(name: str, names: dict[str, Any]) -> str:
    number = 1 + sum(each.partition("#")[0] == name for each in names)
    return name if number == 1 else f"{name}#{number}"


def may_be_one_read(before: Line, line: Line) -> bool:
    """Whether both frames may have come in one read."""
    return (
        before.kind == line.kind == "send"
        and before.connection == line.connection
        and before.op in ("text", "binary")
        and line.op in ("text", "binary", "close")
        and line.time - before.time <= AT_ONCE
    )


def _broadcasts(session: Session) -> list[tuple[float, str, str, Any]]:
    """Those from outside that are no request in the recording: when, topic, event, payload."""
    asked = " ".join(line.target for line in session.lines if line.kind == "http_req")
    found: list[tuple[float, str, str, Any]] = []
    for line in session.lines:
        if line.kind != "recv" or line.op not in ("text", "binary"):
            continue
        topic, event = topic_and_event(line.data)
        if event in OWN_EVENTS or f"event={event}" in asked:
            continue
        payload = _payload(line.data)
        if not any(line.time - time < 0.05 and what == [topic, event, payload] for time, *what in found):
            found.append((line.time, topic, event, payload))
    return found


def _payload(frame: str | bytes) -> Any:
    if isinstance(frame, bytes):
        return unpack(SERVER_SENDS, frame)[2]
    message = json.loads(frame)
    return message["payload"] if isinstance(message, dict) else message[4]
