"""The network in memory, with the server's end of every connection, on which the peer plays the test's script.

A client's commands come in through `perform`, within its pump. What the server sends is under way first, and is
delivered when the client has finished its work (`settle`): one thing at a time, in order, by one thread. So calls are
never re-entrant, and the same test always has the same conversation.

Locks, for clients on threads: `lock` is held briefly, and never during a call into a client. One thread at a time
delivers (`_teller`); it takes the client's own lock after that.
"""

import threading
from collections import deque
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from phx_proto import commands
from phx_proto.formats import Request, ServerSerializer
from phx_proto.link import Link
from phx_proto.message import HEARTBEAT, PHOENIX_TOPIC, PHX_CLOSE, PHX_JOIN, PHX_LEAVE

from .clock import Clock
from .connection import Connection, PeerClient, State, server_frame
from .errors import CannotPlay, UnexpectedConversation
from .transcript import NOTHING, Entry, Side, Transcript, described, doing, named

__tracebackhide__ = True  # for pytest: a failing test shows its own lines

_NOBODY_MOVES_IT: Final = "The client tries again when the clock has moved, and nobody moves it."


@dataclass(frozen=True, slots=True)
class ConnectOutcome:
    """The result of an attempt to connect.

    `expected` names it in the error if it did not come, `words` in the transcript. `tell` reports it to the link, if
    the attempt is answered; then `advance` seconds pass.
    """

    expected: str
    state: State
    side: Side
    words: str
    tell: Callable[[Link, float], None] | None = None
    advance: float = 0.0


def accepted(subprotocol: str | None = None) -> ConnectOutcome:
    """The attempt to connect succeeds."""

    def tell(link: Link, now: float) -> None:
        link.opened(subprotocol, now)

    return ConnectOutcome("be accepted", State.OPEN, Side.SERVER, "accepts the connection", tell)


class Network:
    """Every connection of one peer, and the results of the next attempts to connect: they succeed by default.

    `heard` is called with each request that a test may expect, under `lock`, which guards this object and the script.
    """

    def __init__(
        self,
        clock: Clock,
        serializer: ServerSerializer | None,
        heard: Callable[[Connection, Request], None],
        patience: float,
        max_channels: int | None,
    ) -> None:
        self.lock = threading.RLock()
        self.transcript = Transcript()
        self.connections: list[Connection] = []
        self.next_connects: deque[ConnectOutcome] = deque()
        self.heartbeats = True
        self.clock = clock
        self._serializer = serializer
        self._heard = heard
        self._patience = patience
        self._max_channels = max_channels
        self._turn = threading.Lock()
        self._teller: int | None = None  # the thread that delivers now
        self._lapses: deque[float] = deque()  # seconds that pass when everything under way has been delivered
        self._lapsing = False  # a thread is advancing the clock

    # ---- from the client ---------------------------------------------------------------------------------------------

    def perform(self, command: commands.Command, client: PeerClient[Any]) -> None:
        with self.lock:
            match command:
                case commands.OpenTransport():
                    self._attempted(command, client)
                case commands.SendText(link=link, data=data) | commands.SendBinary(link=link, data=data):
                    self._received(self._of(link), data)
                case commands.CloseTransport(link=link, code=code, reason=reason):
                    connection = self._of(link)
                    connection.close_code = code
                    self.end(connection, code, reason, f"closes the connection with {code}", Side.CLIENT)
                case commands.AbortTransport(link=link):
                    self._dropped(self._of(link))
                case commands.PauseReading(link=link):
                    self._of(link).paused = True
                    self.say(Side.CLIENT, "stops reading")
                case commands.ResumeReading(link=link):
                    self._of(link).paused = False
                    self.say(Side.CLIENT, "reads on")
                case commands.Resolve():
                    words = f"A callable that gives params or a token raised, or did not return. {_NOBODY_MOVES_IT}"
                    self.watch(client, "there are no params, or no token", lambda: [words])
                    client.resolve(command)
                case commands.SendRequest() | commands.PauseSending() | commands.ResumeSending():
                    raise AssertionError("a peer speaks WebSocket, and no long polling")
        client.soon(self.settle)

    def _attempted(self, command: commands.OpenTransport, client: PeerClient[Any]) -> None:
        connection = Connection(client, command, self._serializer)
        self.connections.append(connection)
        self.say(Side.CLIENT, f"connects to {connection}")
        self._answer(connection, self.next_connects.popleft() if self.next_connects else accepted())
        if not any(connection.state is State.OPEN for connection in self.connections):
            self.watch(client, "there is no connection", lambda: [f"There is no connection. {_NOBODY_MOVES_IT}"])

    def _received(self, connection: Connection, data: str | bytes) -> None:
        request = connection.serializer.decode(data)
        topic, event = request.topic, request.event
        if (topic, event) == (PHOENIX_TOPIC, HEARTBEAT):
            self.say(Side.CLIENT, "sends a heartbeat", topic, event)
            if self.heartbeats:
                frame = connection.serializer.reply(None, request.ref, topic, "ok", {})
                self.send(connection, frame, "answers the heartbeat", topic, event)
            return
        self.say(Side.CLIENT, doing(event, topic), topic, event, NOTHING if event == PHX_LEAVE else request.payload)
        joined, limit = connection.joined, self._max_channels
        if event == PHX_JOIN and limit is not None and topic not in joined and len(joined) >= limit:
            response = {"reason": "too many channels joined"}
            frame = connection.serializer.reply(request.join_ref, request.ref, topic, "error", response)
            self.send(connection, frame, f'refuses one more topic, "{topic}"', topic, event, response)
        elif event in (PHX_JOIN, PHX_LEAVE) or connection.joined.get(topic) == request.join_ref:
            self._heard(connection, request)
        elif topic not in connection.joined:  # as a real server; one of an earlier join is ignored
            response = {"reason": "unmatched topic"}
            frame = connection.serializer.reply(None, request.ref, topic, "error", response)
            self.send(connection, frame, f'knows no "{topic}"', topic, event, response)

    def _dropped(self, connection: Connection) -> None:
        if connection.state is not State.OVER:
            self.say(Side.CLIENT, "drops the connection" if connection.state is State.OPEN else "gives up connecting")
        connection.over()
        connection.under_way.clear()

    # ---- from the server ---------------------------------------------------------------------------------------------

    @contextmanager
    def acting(self) -> Generator[None]:
        """Hold the lock while the test acts as the server; then deliver."""
        with self.lock:
            yield
        self.settle()

    def send(
        self,
        connection: Connection,
        frame: str | bytes,
        words: str,
        topic: str | None = None,
        event: str | None = None,
        payload: Any = NOTHING,
    ) -> None:
        """Put a frame under way; the other arguments are for the transcript."""
        self.say(Side.SERVER, words, topic, event, payload)
        connection.under_way.append(partial(connection.link.receive, frame))

    def push(
        self, connection: Connection, join_ref: Any, topic: str, event: str, payload: Any, *, words: str = "pushes {}"
    ) -> None:
        """Put an event under way: a broadcast if the join_ref is null."""
        payload = {} if payload is None else payload
        frame = server_frame(connection.serializer, join_ref, topic, event, payload)
        self.send(connection, frame, words.format(f'"{event}" to "{topic}"'), topic, event, payload)

    def reply(self, connection: Connection, request: Request, status: str, response: Any) -> None:
        """Answer a request, with the consequences of that on a real server."""
        topic, event, join_ref = request.topic, request.event, request.join_ref
        if connection.state is not State.OPEN:
            what = described(event, topic, request.payload)
            raise CannotPlay(f"The {what} cannot be answered: its connection is gone.\n{self.account()}")
        frame = connection.serializer.reply(join_ref, request.ref, topic, status, response)
        self.send(connection, frame, f"answers the {named(event, topic)} with {status}", topic, event, response)
        old = connection.joined.get(topic)
        if event == PHX_JOIN and status == "ok":
            connection.joined[topic] = join_ref
        elif event == PHX_LEAVE and old == join_ref:
            connection.joined.pop(topic, None)
        else:
            return
        if old is not None:
            self.send_end(connection, topic, old, PHX_CLOSE, {}, "closes")

    def send_end(
        self, connection: Connection, topic: str, join_ref: Any, event: str, payload: dict[str, Any], verb: str
    ) -> None:
        frame = connection.serializer.push(join_ref, topic, event, payload, ref=join_ref)
        self.send(connection, frame, f'{verb} "{topic}"', topic, event, payload or NOTHING)

    def end(self, connection: Connection, code: int | None, reason: str, words: str, side: Side = Side.SERVER) -> None:
        self.say(side, words)
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
        connection.state = outcome.state
        self.say(outcome.side, outcome.words)
        self.lapse(outcome.advance)
        if outcome.tell is not None:
            connection.under_way.append(partial(outcome.tell, connection.link))

    # ---- what is under way -------------------------------------------------------------------------------------------

    def lapse(self, seconds: float) -> None:
        """Let so much time pass when everything under way has been delivered."""
        with self.lock:
            if seconds:
                self._lapses.append(seconds)

    def settle(self) -> None:
        """Deliver everything under way, and let time pass that was to pass after it."""
        if self._teller == threading.get_ident():  # called within a delivery: the outer call goes on
            return
        self._tell()
        while (seconds := self._next_lapse()) is not None:
            try:
                self.clock.advance(seconds)
            finally:
                self._lapsing = False

    def _tell(self) -> None:
        with self._turn:
            self._teller = threading.get_ident()
            try:
                while (step := self._next()) is not None:
                    client, call = step
                    client.driver.step(call)
            finally:
                self._teller = None

    def _next_lapse(self) -> float | None:
        with self.lock:
            if self._lapsing or not self._lapses:  # the thread that is advancing the clock takes this too
                return None
            self._lapsing = True
            return self._lapses.popleft()

    def _next(self) -> tuple[PeerClient[Any], Callable[[float], None]] | None:
        with self.lock:
            for connection in self.connections:
                if connection.under_way and not connection.paused:
                    return connection.client, connection.under_way.popleft()
        return None

    # ---- patience ----------------------------------------------------------------------------------------------------

    def watch(
        self,
        client: PeerClient[Any],
        note: str,
        words: Callable[[], list[str]],
        *,
        stuck: Callable[[], bool] | None = None,
    ) -> None:
        """End a client that waits for something that will not come, so that the test fails and does not wait forever.

        A client on asyncio or threads blocks the test that calls it, and only the test moves the clock. It ends with
        `words` if it is still `stuck` when the patience is over; by default, if nothing was sent until then.
        """
        before = self._progress()

        def look() -> None:
            with self.lock:
                if not (self._progress() == before if stuck is None else stuck()):
                    return
                self.say(Side.NOTE, f"{note}: the client is ended")
                text = "\n".join([*words(), self.account()])
            client.driver.fail(UnexpectedConversation(text))

        client.after(self._patience, look)

    def _progress(self) -> tuple[int, float]:
        return len(self.transcript), self.clock.now()

    # ---- what is so now ----------------------------------------------------------------------------------------------

    def clients(self) -> list[PeerClient[Any]]:
        """The clients that have connected or tried to."""
        return list(dict.fromkeys(connection.client for connection in self.connections))

    @property
    def joined(self) -> list[str]:
        return [topic for connection in self.connections for topic in connection.joined]

    def connection_for(self, what: str, *, topic: str | None = None) -> Connection:
        """The latest open connection, or the one with this topic; `what` names its purpose in the error."""
        for connection in reversed(self.connections):
            if connection.state is State.OPEN if topic is None else topic in connection.joined:
                return connection
        joined = ", ".join(f'"{one}"' for one in self.joined) or "no topic"
        why = "no connection is open" if topic is None else f'"{topic}" is not joined, but {joined}'
        raise CannotPlay(f"The server cannot {what}: {why}.\n{self.account()}")

    def account(self) -> str:
        """The transcript with its heading."""
        return f"The conversation:\n{self.transcript.folded}"

    def say(
        self, side: Side, words: str, topic: str | None = None, event: str | None = None, payload: Any = NOTHING
    ) -> None:
        self.transcript.entries.append(Entry(self.clock.now(), side, words, topic, event, payload))

    def _of(self, link: Link) -> Connection:
        return next(connection for connection in self.connections if connection.link is link)
