"""`Peer` plays the server: in memory, over the real wire format, on a clock that the test moves.

    with Peer() as peer:
        client = peer.driver().connect()                        # or connect(peer.url, transport=peer)
        peer.expect_join("room:lobby").reply({"ok": 1})
        joining = client.join("room:lobby")
        assert joining.result(0) == {"ok": 1}
        peer.push("room:lobby", "shout", {"body": "hi"})
        assert client.messages[0].payload == {"body": "hi"}

Every frame is encoded and decoded by the real serializers of both sides, and the client is the real one: its joins,
retries and timeouts work as usual, but on the peer's clock (`peer.clock.advance(30)`) and without jitter, so that every
wait is the longest of its range. Nothing opens a port or takes real time.

The test declares what must come (`expect_…`), before it comes or after. At the end of the peer's context, or at
`verify`, the test fails if something unexpected came or something expected did not; the error shows the conversation.
Connects, heartbeats and leaves need no expectation: they are answered as by a server.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Self

from phx_proto.checks import check_count, check_seconds, checked_timeout
from phx_proto.client import ClientProtocol
from phx_proto.errors import ConnectError
from phx_proto.formats import Request, ServerSerializer
from phx_proto.link import Link
from phx_proto.message import PHX_CLOSE, PHX_ERROR, PHX_JOIN, PHX_LEAVE

from .clock import Clock, forward, settle_loop
from .connection import Connection, State
from .errors import TestKitError, UnexpectedConversation
from .expectations import ANYTHING, Asked, Expectation
from .network import ConnectOutcome, Network, accepted
from .presences import Presences
from .transcript import Side, Transcript, named

if TYPE_CHECKING:
    from ..asyncio.interfaces import ClientTransport as AsyncioTransport
    from ..client.driver import Driver
    from ..threads.interfaces import ClientTransport as ThreadsTransport
    from ..threads.interfaces import TransportDriver
    from .driver import PeerDriver

__tracebackhide__ = True  # for pytest: a failing test shows its own lines

#: The URL for clients of a peer. No such host exists, and none is looked up.
URL: Final = "ws://peer.test/socket"

_GLANCE: Final = 0.05  # real seconds between two checks of handlers
_STUCK: Final = 0.25  # real seconds for a handler that waits for a reply that will not come


class Peer:
    """The server of one test. It verifies at the end of its context; so does the fixture `phx_peer`.

    Args:
        clock: A clock to share with other objects; by default the peer's own.
        serializer: The server's side of a wire format of your own; by default the one that the client asks for.
        patience: Real seconds after which a client on asyncio or threads is ended if it waits for something that will
            not come: an unexpected request's answer, or a time to retry while no time passes.
        max_channels: How many topics may be joined on a connection; one more is refused as by Phoenix since 1.8.9, and
            the client joins it on another. `None` for any number.

    Attributes:
        clock: The clock of the peer and its clients.
        url: For clients to connect to; any other URL works as well.
    """

    url = URL

    def __init__(
        self,
        *,
        clock: Clock | None = None,
        serializer: ServerSerializer | None = None,
        patience: float = 10.0,
        max_channels: int | None = None,
    ) -> None:
        check_seconds("patience", patience, zero=True, endless=True)
        check_count("max_channels", max_channels, least=0, optional=True)
        self.clock = Clock() if clock is None else clock
        self._network = Network(self.clock, serializer, self._heard, patience, max_channels)
        self._expectations: list[Expectation] = []
        self._standing: list[Expectation] = []  # allowed messages; they are matched last
        self._asked: list[Asked] = []  # messages that may be expected
        self._presences = Presences()
        self._endings: list[Callable[[], None]] = []
        self.clock.between(self._network.settle)

    def __repr__(self) -> str:
        return f"Peer({len(self.connections)} connections, {len(self.transcript)} lines said)"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None:
                self.verify()
            elif not isinstance(error, TestKitError):
                error.add_note(self._network.account())
        finally:
            self.end()

    # ---- what the client is to send ----------------------------------------------------------------------------------

    def expect_join(self, topic: str, params: Any = ANYTHING) -> Expectation:
        """Expect a join, or rejoin, of a topic.

        Args:
            topic: The topic; or a prefix and `*`.
            params: The params; a struct or dataclass is compared in its encoded form.

        Returns:
            The expectation, to set the server's reaction: `.reply(…)`, `.refuse(…)`, `.ignore()`.
        """
        return self._expect(topic, PHX_JOIN, params)

    def expect_push(self, topic: str, event: str, payload: Any = ANYTHING) -> Expectation:
        """Expect an event, with a reply (`push`) or without (`cast`).

        Args:
            topic: The topic; or a prefix and `*`.
            event: The event; or a prefix and `*`.
            payload: The payload; `ANYTHING` within it equals any value there.
        """
        return self._expect(topic, event, payload)

    def expect_leave(self, topic: str) -> Expectation:
        """Expect a leave of a topic. It is answered as usual, unless `.ignore()` is called before it comes."""
        return self._expect(topic, PHX_LEAVE, ANYTHING)

    def allow_join(self, topic: str, response: Any = None) -> None:
        """Accept any number of otherwise unexpected joins of the topic with this response; `None` is `{}`.

        Raises:
            ValueError: There is a `*` before the end of the topic.
        """
        self._expect(topic, PHX_JOIN, ANYTHING, standing=True).reply(response)

    def allow_push(self, topic: str, event: str, response: Any = None) -> None:
        """Answer ok to any number of otherwise unexpected pushes of the event; the event `"*"` is any.

        Raises:
            ValueError: There is a `*` before the end of topic or event.
        """
        self._expect(topic, event, ANYTHING, standing=True).reply(response)

    # ---- what the server sends ---------------------------------------------------------------------------------------

    def push(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event to the client's channel, with any JSON value, or bytes; `None` stands for `{}`.

        Raises:
            CannotPlay: The topic is not joined.
            LocalError: The payload cannot be sent.
        """
        with self._network.acting():
            connection = self._network.connection_for(f'push "{event}"', topic=topic)
            self._network.push(connection, connection.joined[topic], topic, event, payload)

    def broadcast(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event on every connection that has joined the topic. Raises what `push` raises."""
        with self._network.acting():
            self._network.connection_for(f'broadcast "{event}"', topic=topic)
            for connection in self._network.connections:
                if topic in connection.joined:
                    self._network.push(connection, None, topic, event, payload, words="broadcasts {}")

    def push_unjoined(self, topic: str, event: str, payload: Any = None) -> None:
        """Send an event on a topic that the client did not join, as Absinthe does; for handlers with `unjoined=True`.

        Raises:
            CannotPlay: No connection is open.
            LocalError: The payload cannot be sent.
        """
        with self._network.acting():
            connection = self._network.connection_for(f'push "{event}"')
            self._network.push(connection, None, topic, event, payload, words="pushes {}, which is not joined")

    def presence_state(self, topic: str, entries: Mapping[str, Any] | None = None) -> None:
        """Push the presence state, as a channel with presence does after a join.

        Args:
            topic: A joined topic; else `CannotPlay`.
            entries: By key the meta, or a list of metas, of those present; each gets a `phx_ref` if it has none. `None`
                for those present according to earlier calls.
        """
        with self._network.lock:
            self._network.connection_for("tell who is present", topic=topic)
            state = self._presences.state(topic, entries)
        self.push(topic, "presence_state", state)

    def presence_diff(self, topic: str, *, joins: Mapping[str, Any] | None = None, leaves: Iterable[str] = ()) -> None:
        """Broadcast a presence diff, `joins` as the entries of `presence_state`; a key in both is an update.

        Raises:
            CannotPlay: The topic is not joined, or a key that leaves is not present.
        """
        with self._network.lock:
            self._network.connection_for("tell who came and went", topic=topic)
            diff = self._presences.diff(topic, {} if joins is None else joins, leaves)
        self.broadcast(topic, "presence_diff", diff)

    def crash(self, topic: str) -> None:
        """Crash the channel (`phx_error`); the client will rejoin. Raises `CannotPlay` if the topic is not joined."""
        self._end_channel(topic, PHX_ERROR, {"reason": "channel_crash"}, "crashes")

    def close_channel(self, topic: str) -> None:
        """Stop the channel (`phx_close`). Raises `CannotPlay` if the topic is not joined."""
        self._end_channel(topic, PHX_CLOSE, {}, "closes")

    def send_raw(self, frame: str | bytes) -> None:
        """Send any frame, `str` as text, `bytes` as binary. Raises `CannotPlay` if no connection is open."""
        with self._network.acting():
            connection = self._network.connection_for("send a frame")
            self._network.send(connection, frame, f"sends a frame of its own, of size {len(frame)}")

    # ---- what happens to the connection ------------------------------------------------------------------------------

    def accept_connect(self, subprotocol: str | None = None) -> None:
        """Accept the attempt that is held, or expect the next one and accept it."""
        self._answer_attempt(accepted(subprotocol), times=1)

    def refuse_connect(
        self,
        status: int = 403,
        body: str | bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        times: int = 1,
        advance: float = 0.0,
    ) -> None:
        """Answer the attempt that is held, or the next one, with an HTTP error.

        Args:
            status: From 400 on.
            body: Of the response.
            headers: Of the response, e.g. `{"retry-after": "7"}`.
            times: The number of attempts.
            advance: Seconds by which the clock moves after each: so a `connect` that blocks the test's own thread
                retries, or times out. `ValueError` if they are negative.
        """
        data = body.encode() if isinstance(body, str) else body

        def tell(link: Link, now: float) -> None:
            link.refused(status, headers or {}, data, now)

        words = f"refuses the connection with HTTP {status}"
        outcome = ConnectOutcome("be refused", State.OVER, Side.SERVER, words, tell, forward(advance))
        self._answer_attempt(outcome, times)

    def fail_connect(self, reason: str = "connection refused", *, times: int = 1, advance: float = 0.0) -> None:
        """Let the attempt that is held, or the next one, fail without an answer; the client gets the reason.

        `times`, `advance` and what is raised are those of `refuse_connect`.
        """

        def tell(link: Link, now: float) -> None:
            link.failed(ConnectError(reason), now)

        words = f"no server is there: {reason}"
        self._answer_attempt(ConnectOutcome("fail", State.OVER, Side.NOTE, words, tell, forward(advance)), times)

    def hold_connect(self, *, advance: float = 0.0) -> None:
        """Leave the next attempt unanswered until one of the other three methods answers it; `advance` as there."""
        words = "the handshake is not answered yet"
        outcome = ConnectOutcome("be held", State.ASKED, Side.NOTE, words, advance=forward(advance))
        with self._network.lock:
            self._network.next_connects.append(outcome)

    def close(self, code: int = 1000, reason: str = "", *, topic: str | None = None) -> None:
        """Close the connection with a close frame.

        Args:
            code: E.g. 1001 for a disconnect, 1012 for a server that restarts.
            reason: Of the frame.
            topic: If there are several connections, the one with this topic; the latest by default.

        Raises:
            CannotPlay: There is no open connection.
        """
        words = f"closes the connection with {code}{f' ({reason})' if reason else ''}"
        self._end_connection(topic, code, reason, words)

    def cut(self, topic: str | None = None) -> None:
        """End the connection (chosen as by `close`) without a close frame, like a broken network.

        Raises:
            CannotPlay: There is no open connection.
        """
        reason = "the server ended the connection without a close frame"
        self._end_connection(topic, None, reason, "cuts the connection")

    def stop_answering_heartbeats(self) -> None:
        """Stop answering heartbeats, like a server that hangs."""
        self._network.heartbeats = False

    def answer_heartbeats(self) -> None:
        """Answer heartbeats again, from the next one on."""
        self._network.heartbeats = True

    # ---- what is so now ----------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        """Whether a connection is open."""
        return any(connection.state is State.OPEN for connection in self._network.connections)

    @property
    def connections(self) -> tuple[Connection, ...]:
        """Every attempt to connect so far, with its params and headers."""
        return tuple(self._network.connections)

    @property
    def joined(self) -> list[str]:
        """The topics that are joined now."""
        return self._network.joined

    @property
    def transcript(self) -> Transcript:
        """The conversation so far."""
        return self._network.transcript

    def verify(self) -> None:
        """Check that everything went as expected so far.

        Raises:
            UnexpectedConversation: Something unexpected came, or something expected did not.
        """
        self._network.settle()
        with self._network.lock:
            missing = [str(expectation) for expectation in self._expectations if expectation.missing]
            missing += [f"an attempt to connect, to {outcome.expected}" for outcome in self._network.next_connects]
            surplus = self._surplus()
            if not missing and not surplus:
                return
            parts = ["The conversation did not go as expected.", *surplus]
            if missing:
                parts += ["Was expected, and did not come:", *(f"  {line}" for line in missing)]
            unused = [f"  {expectation}" for expectation in self._standing if not expectation.came]
            if surplus and unused:
                parts += ["Was allowed, and did not come:", *unused]
            raise UnexpectedConversation("\n".join([*parts, self._network.account()]))

    def end(self) -> None:
        """End the clients made by `driver`, without verifying; the context and the fixture call it."""
        for end in self._endings:
            end()

    def settle(self, *, timeout: float = 10.0) -> None:
        """Deliver everything under way, and wait until the threads of a client on threads have handled it.

        A handler that waits for a reply gets it only from an expectation that was declared before.

        Args:
            timeout: Real seconds for handlers to end; unread items of a stream count as not handled. A handler that
                waits for a reply that will not come is waited for at most a quarter of a second.

        Raises:
            UnexpectedConversation: They did not; the text names them, and what they wait for.
        """
        checked_timeout("settle", timeout)
        self._network.settle()
        began = monotonic()
        for client in self._network.clients():
            while not client.rest(_GLANCE):
                self._give_up(monotonic() - began, timeout)

    async def settled(self, *, timeout: float = 10.0) -> None:
        """Deliver everything under way, and wait until it is handled and the event loop has settled.

        Arguments and errors are those of `settle`.
        """
        checked_timeout("settled", timeout)
        began = monotonic()
        while True:
            self._network.settle()
            await settle_loop(lambda: (len(self.transcript), self._backlog()))
            if not self._backlog():
                return
            self._give_up(monotonic() - began, timeout)
            await asyncio.sleep(0.001)

    # ---- clients -----------------------------------------------------------------------------------------------------

    def driver(self, proto: ClientProtocol | None = None) -> "PeerDriver":
        """Drive a bare `ClientProtocol`, by default a new one, as an adapter does; results are there at once."""
        from .driver import PeerDriver

        proto = ClientProtocol(self.url) if proto is None else proto
        driver = PeerDriver(proto, self._network)
        self._endings.append(driver.abort)
        return driver

    def asyncio_transport(self, driver: "Driver", /) -> "AsyncioTransport":
        """The network of a client on asyncio; for `phx_transports.asyncio.connect`."""
        from .on_asyncio import AsyncioPeerClient

        return AsyncioPeerClient(driver, self.clock, self._network.perform)

    def threads_transport(self, driver: "TransportDriver", /) -> "ThreadsTransport":
        """The network of a client on threads; for `phx_transports.threads.connect`."""
        from .on_threads import ThreadsPeerClient

        return ThreadsPeerClient(driver, self.clock, self._network.perform)

    def note(self, words: str) -> None:
        """Add a line of the test's own to the transcript."""
        with self._network.lock:
            self._network.say(Side.NOTE, words)

    def _backlog(self) -> int:
        return sum(client.backlog for client in self._network.clients())

    def _give_up(self, waited: float, timeout: float) -> None:
        with self._network.lock:
            at_work = [each for client in self._network.clients() for each in client.at_work]
            unanswered = [
                asked
                for asked in self._asked
                if asked.request.topic in dict(at_work) and asked.connection.client.awaits(asked.request.ref)
            ]
            if waited < min(timeout, _STUCK if unanswered else timeout):
                return
            parts = [
                f"Messages that arrived are not handled: {self._backlog()}.",
                *(f'  {name} is at work on "{topic}"' for topic, name in at_work),
                *([] if at_work else ["  what waits in a stream counts until it is read"]),
                *(f"  nobody answers the {asked}" for asked in unanswered),
                *self._surplus(),
            ]
            raise UnexpectedConversation("\n".join([*parts, self._network.account()]))

    # ---- private -----------------------------------------------------------------------------------------------------

    def _heard(self, connection: Connection, request: Request) -> None:
        asked = Asked(connection, request)
        self._asked.append(asked)
        taker = next((one for one in (*self._expectations, *self._standing) if one.wants(asked)), None)
        if taker is not None:
            taker.take(asked)
        elif request.event == PHX_LEAVE:
            asked.expected = True
            self._network.reply(connection, request, "ok", {})
        else:
            self._network.watch(
                connection.client,
                f"nobody answers the {named(request.event, request.topic)}",
                lambda: ["Nobody answered what the client waits for.", *self._surplus()],
                stuck=lambda: not asked.expected,
            )

    def _surplus(self) -> list[str]:
        surplus = [f"  {asked}" for asked in self._asked if not asked.expected]
        return ["Came, and was not expected:", *surplus] if surplus else []

    def _expect(self, topic: str, event: str, payload: Any, *, standing: bool = False) -> Expectation:
        expectation = Expectation(self._network, topic, event, payload, standing=standing)
        with self._network.lock:
            (self._standing if standing else self._expectations).append(expectation)
            for asked in self._asked:
                if not asked.expected and expectation.wants(asked):
                    expectation.take(asked)
        return expectation

    def _end_channel(self, topic: str, event: str, payload: dict[str, Any], verb: str) -> None:
        with self._network.acting():
            connection = self._network.connection_for("end the channel", topic=topic)
            self._network.send_end(connection, topic, connection.joined.pop(topic), event, payload, verb)

    def _end_connection(self, topic: str | None, code: int | None, reason: str, words: str) -> None:
        with self._network.acting():
            connection = self._network.connection_for("end the connection", topic=topic)
            self._network.end(connection, code, reason, words)

    def _answer_attempt(self, outcome: ConnectOutcome, times: int) -> None:
        for _ in range(times):
            with self._network.acting():
                self._network.answer_attempt(outcome)
