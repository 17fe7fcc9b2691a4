"""The network in memory, with the server's end of every connection: what the peer's script is played on.

A client's commands come in through `perform`, from within its pump. What the server does goes under way, and arrives
when the client has finished what it is doing (`settle`): one thing at a time, in order, told by one thread. So there is
no re-entrance, and the same test has the same conversation every time.

Locks, where clients run on threads: `lock` is held for a moment and never while a client is told something; whoever
tells holds the turn, and takes the client's own lock after it.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from phx_proto.commands import (
    AbortTransport,
    CloseTransport,
    Command,
    OpenTransport,
    PauseReading,
    Resolve,
    ResumeReading,
    SendBinary,
    SendText,
)
from phx_proto.errors import ConnectError
from phx_proto.formats import Request, ServerSerializer
from phx_proto.link import Link
from phx_proto.message import HEARTBEAT, PHOENIX_TOPIC

from .clock import Clock
from .connecting import Accept, ConnectOutcome, Fail, Hold, Refuse
from .connection import Connection, PeerClient, State
from .errors import CannotPlay
from .transcript import NOTHING, Entry, Side, Transcript

__tracebackhide__ = True  # for pytest: a test that fails shows its own lines


class Network:
    """Every connection of one peer.

    Args:
        clock: The time.
        serializer: Instead of the one that the client asks for.
        heard: Told each request of a client but its heartbeats, under the lock.

    Attributes:
        lock: Over everything here, and over the peer's script.
        transcript: What was said so far.
        connections: Every attempt to connect so far.
        next_connects: What becomes of the next attempts to connect; they are accepted where nothing is said.
        now: What the time is.
        heartbeats: Whether they are answered.
    """

    def __init__(
        self, clock: Clock, serializer: ServerSerializer | None, heard: Callable[[Connection, Request], None]
    ) -> None:
        self.lock = threading.RLock()
        self.transcript = Transcript()
        self.connections: list[Connection] = []
        self.next_connects: deque[ConnectOutcome] = deque()
        self.heartbeats = True
        self.now = clock.now
        self._clock = clock
        self._serializer = serializer
        self._heard = heard
        self._turn = threading.Lock()
        self._teller: int | None = None  # the thread that has the turn
        self._lapses: deque[float] = deque()  # seconds that pass when everything under way has arrived
        self._lapsing = False  # a thread is advancing the clock

    # ---- from the client ---------------------------------------------------------------------------------------------

    def perform(self, command: Command, client: PeerClient) -> None:
        """Do what a client's core wants done."""
        with self.lock:
            match command:
                case OpenTransport():
                    self._attempted(command, client)
                case SendText(link=link, data=data) | SendBinary(link=link, data=data):
                    self._received(self._of(link), data)
                case CloseTransport(link=link, code=code, reason=reason):
                    self._closed(self._of(link), code, reason)
                case AbortTransport(link=link):
                    self._dropped(self._of(link))
                case PauseReading(link=link):
                    self._of(link).paused = True
                    self.say(Side.CLIENT, "stops reading")
                case ResumeReading(link=link):
                    self._of(link).paused = False
                    self.say(Side.CLIENT, "reads on")
                case Resolve():
                    raise AssertionError("params and tokens are the adapter's matter")
        client.soon(self.settle)

    def _attempted(self, command: OpenTransport, client: PeerClient) -> None:
        connection = Connection(len(self.connections) + 1, client, command, self._serializer)
        self.connections.append(connection)
        self.say(Side.CLIENT, f"connects to {connection}")
        self._answer(connection, self.next_connects.popleft() if self.next_connects else Accept())

    def _received(self, connection: Connection, data: str | bytes) -> None:
        request = connection.serializer.decode(data)
        if (request.topic, request.event) != (PHOENIX_TOPIC, HEARTBEAT):
            self._heard(connection, request)
            return
        self.say(Side.CLIENT, "sends a heartbeat", PHOENIX_TOPIC, HEARTBEAT)
        if self.heartbeats:
            frame = connection.serializer.reply(None, request.ref, PHOENIX_TOPIC, "ok", {})
            self.send(connection, frame, "answers the heartbeat", PHOENIX_TOPIC, HEARTBEAT)

    def _closed(self, connection: Connection, code: int, reason: str) -> None:
        self.say(Side.CLIENT, f"closes the connection with {code}")
        connection.close_code = code
        connection.over()
        connection.under_way.append(lambda now: connection.link.closed(code, reason, now))

    def _dropped(self, connection: Connection) -> None:
        if connection.state is not State.OVER:
            self.say(Side.CLIENT, "drops the connection" if connection.state is State.OPEN else "gives up connecting")
        connection.over()
        connection.under_way.clear()

    # ---- from the server ---------------------------------------------------------------------------------------------

    def send(
        self,
        connection: Connection,
        frame: str | bytes,
        words: str,
        topic: str | None = None,
        event: str | None = None,
        payload: Any = NOTHING,
    ) -> None:
        """Put a frame under way; the rest is what the transcript says of it."""
        self.say(Side.SERVER, words, topic, event, payload)
        connection.under_way.append(partial(connection.link.receive, frame))

    def send_end(
        self, connection: Connection, topic: str, join_ref: Any, event: str, payload: dict[str, Any], verb: str
    ) -> None:
        """Put the end of a channel under way."""
        frame = connection.serializer.push(join_ref, topic, event, payload, ref=join_ref)
        self.send(connection, frame, f'{verb} "{topic}"', topic, event, payload or NOTHING)

    def end(self, connection: Connection, code: int | None, reason: str, words: str) -> None:
        """Put the end of a connection under way."""
        self.say(Side.SERVER, words)
        connection.over()
        connection.under_way.append(lambda now: connection.link.closed(code, reason, now))

    def answer_attempt(self, outcome: ConnectOutcome) -> None:
        """Answer the attempt to connect that is held, or else the next one."""
        held = next((one for one in self.connections if one.state is State.ASKED and one.link.current), None)
        if held is None:
            self.next_connects.append(outcome)
        else:
            self._answer(held, outcome)

    def _answer(self, connection: Connection, outcome: ConnectOutcome) -> None:
        link, under_way = connection.link, connection.under_way
        if not isinstance(outcome, Accept):
            self.lapse(outcome.advance)
        match outcome:
            case Accept(subprotocol):
                connection.state = State.OPEN
                self.say(Side.SERVER, "accepts the connection")
                under_way.append(lambda now: link.opened(subprotocol, now))
            case Refuse(status, body, headers):
                connection.over()
                self.say(Side.SERVER, f"refuses the connection with HTTP {status}")
                under_way.append(lambda now: link.refused(status, headers, body, now))
            case Fail(reason):
                connection.over()
                self.say(Side.NOTE, f"no server is there: {reason}")
                under_way.append(lambda now: link.failed(ConnectError(reason), now))
            case Hold():
                self.say(Side.NOTE, "the handshake is not answered yet")

    # ---- what is under way -------------------------------------------------------------------------------------------

    def lapse(self, seconds: float) -> None:
        """Have so much time pass when everything that is under way has arrived."""
        with self.lock:
            if seconds:
                self._lapses.append(seconds)

    def settle(self) -> None:
        """Have everything that is under way arrive, and the time pass that is to pass then."""
        if self._teller == threading.get_ident():  # called from within: the one outside goes on
            return
        self._tell()
        while (seconds := self._next_lapse()) is not None:
            try:
                self._clock.advance(seconds)
            finally:
                self._lapsing = False

    def _tell(self) -> None:
        with self._turn:
            self._teller = threading.get_ident()
            try:
                while (step := self._next()) is not None:
                    client, call = step
                    client.tell(call)
            finally:
                self._teller = None

    def _next_lapse(self) -> float | None:
        with self.lock:
            if self._lapsing or not self._lapses:  # the thread that is advancing takes the next, too
                return None
            self._lapsing = True
            return self._lapses.popleft()

    def _next(self) -> tuple[PeerClient, Callable[[float], None]] | None:
        with self.lock:
            for connection in self.connections:
                if connection.under_way and not connection.paused:
                    return connection.client, connection.under_way.popleft()
        return None

    # ---- what is so now ----------------------------------------------------------------------------------------------

    @property
    def joined(self) -> list[str]:
        """The topics that are joined."""
        return [topic for connection in self.connections for topic in connection.joined]

    def open_connection(self, what: str) -> Connection:
        """The latest that is open; for what it is needed stands in the error."""
        for connection in reversed(self.connections):
            if connection.state is State.OPEN:
                return connection
        raise CannotPlay(f"The server cannot {what}: no connection is open.\n{self.account()}")

    def connection_of(self, topic: str, what: str) -> Connection:
        """The latest on which the topic is joined; for what it is needed stands in the error."""
        for connection in reversed(self.connections):
            if topic in connection.joined:
                return connection
        joined = ", ".join(f'"{one}"' for one in self.joined) or "no topic"
        raise CannotPlay(f'The server cannot {what}: "{topic}" is not joined, but {joined}.\n{self.account()}')

    def account(self) -> str:
        """The transcript under its heading."""
        return f"The conversation:\n{self.transcript}"

    def say(
        self, side: Side, words: str, topic: str | None = None, event: str | None = None, payload: Any = NOTHING
    ) -> None:
        """Write a line of the transcript."""
        self.transcript.entries.append(Entry(self._clock.now(), side, words, topic, event, payload))

    def _of(self, link: Link) -> Connection:
        return next(connection for connection in self.connections if connection.link is link)
