"""What the client must send, and the server's reaction: declared before it comes, or matched with what has come."""

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Self

import msgspec

from phx_proto.formats import Request, V2Server
from phx_proto.message import PHX_JOIN, PHX_LEAVE

from .clock import forward
from .connection import Connection
from .errors import CannotPlay, UnexpectedConversation
from .network import Network
from .transcript import NOTHING, Side, described

__tracebackhide__ = True  # for pytest: a failing test shows its own lines


class _Anything:
    """Equals everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "ANYTHING"


#: Equals any payload, or any value within one: `{"id": ANYTHING, "body": "hi"}`.
ANYTHING: Final[Any] = _Anything()


@dataclass(slots=True, eq=False)
class Asked:
    """A client's message for an expectation, and whether one has taken it."""

    connection: Connection
    request: Request
    expected: bool = False

    def __str__(self) -> str:
        return described(self.request.event, self.request.topic, self.request.payload)


@dataclass(frozen=True, slots=True)
class Answer:
    """The server's reaction to a message: a reply, or none if status is `None`; then `advance` seconds pass."""

    status: str | None
    response: Any = None
    advance: float = 0.0


class Expectation:
    """One message that the client must send. Made by the `expect_…` methods of a `Peer`.

    The server's reaction may be set at once, before the message comes (`peer.expect_join(…).reply(…)`), or later. Until
    then the client waits; a push that wants no reply needs no reaction.
    """

    def __init__(self, network: Network, topic: str, event: str, payload: Any, *, standing: bool = False) -> None:
        for pattern in (topic, event) if standing else ():
            if "*" in pattern[:-1]:
                raise ValueError(f'in {pattern!r} the "*" must be the last character')
        self._network = network
        self._topic = topic
        self._event = event
        self._payload = payload
        self._standing = standing
        self._answer = Answer("ok", {}) if event == PHX_LEAVE else None
        self._asked: Asked | None = None
        self._arrival: Future[None] = Future()

    def __str__(self) -> str:
        return described(self._event, self._topic, NOTHING if self._payload is ANYTHING else self._payload)

    # ---- what the server does ----------------------------------------------------------------------------------------

    def reply(self, response: Any = None) -> Self:
        """Answer ok.

        Args:
            response: Any JSON value, or bytes; `None` stands for `{}`.

        Raises:
            CannotPlay: It is answered already, or its connection is gone.
            LocalError: The response cannot be sent.
        """
        return self._decide(Answer("ok", {} if response is None else response))

    def refuse(self, response: Any = None) -> Self:
        """Answer with status `"error"`: a join is refused, a push rejected. Raises what `reply` raises."""
        return self._decide(Answer("error", {} if response is None else response))

    def ignore(self, *, advance: float = 0.0) -> Self:
        """Never answer.

        Args:
            advance: Seconds by which the clock moves as soon as the message has come: so a client that blocks the
                test's own thread times out.

        Raises:
            CannotPlay: It is answered already.
            ValueError: The seconds are negative.
        """
        return self._decide(Answer(None, advance=forward(advance)))

    # ---- what came ---------------------------------------------------------------------------------------------------

    @property
    def came(self) -> bool:
        """Whether it has come."""
        return self._asked is not None

    @property
    def payload(self) -> Any:
        """The client's payload; the params of a join.

        Raises:
            UnexpectedConversation: It has not come.
        """
        return self._found().request.payload

    def wait(self, timeout: float = 10.0) -> Self:
        """Wait until it has come; for a test whose client is blocked in another thread.

        A message that came before it was expected, and was answered then, does not count: this waits for the next.

        Args:
            timeout: Real seconds, after which the test fails.

        Raises:
            UnexpectedConversation: It did not come in time.
        """
        try:
            self._arrival.exception(timeout)
        except TimeoutError:
            self._found()
        return self

    async def arrival(self, timeout: float = 10.0) -> Self:
        """Wait until it has come; for a test on an event loop. Arguments and errors are those of `wait`."""
        try:
            async with asyncio.timeout(timeout):
                await asyncio.wrap_future(self._arrival)
        except TimeoutError:
            self._found()
        return self

    # ---- for the peer ------------------------------------------------------------------------------------------------

    @property
    def missing(self) -> bool:
        """Whether it must come and has not."""
        return self._asked is None and not self._standing

    def wants(self, asked: Asked) -> bool:
        """Whether it expects this message."""
        request = asked.request
        return (
            (self._asked is None or self._standing)
            and _fits(self._topic, request.topic)
            and (
                self._event == request.event
                or (request.event not in (PHX_JOIN, PHX_LEAVE) and _fits(self._event, request.event))
            )
            and _equal(self._payload, request.payload)
        )

    def take(self, asked: Asked) -> None:
        """Match this message; under the peer's lock."""
        asked.expected = True
        self._asked = asked
        if not self._arrival.done():
            self._arrival.set_result(None)
        self._answer_it()

    # ---- private -----------------------------------------------------------------------------------------------------

    def _decide(self, answer: Answer) -> Self:
        if answer.status is not None:  # an invalid response is refused now
            V2Server().reply(None, None, self._topic, answer.status, answer.response)
        with self._network.acting():
            if self._answer is not None and (self._event != PHX_LEAVE or self.came):
                raise CannotPlay(f"What the server does with the {self} is decided already.")
            self._answer = answer
            self._answer_it()
        return self

    def _answer_it(self) -> None:
        if self._asked is None or self._answer is None:
            return
        if self._answer.status is not None:
            self._network.reply(self._asked.connection, self._asked.request, self._answer.status, self._answer.response)
        self._network.lapse(self._answer.advance)

    def _found(self) -> Asked:
        if self._asked is None:
            raise UnexpectedConversation(f"The {self} did not come.{self._earlier()}\n{self._network.account()}")
        return self._asked

    def _earlier(self) -> str:
        for entry in reversed(self._network.transcript.entries):
            if entry.side is Side.CLIENT and (entry.topic, entry.event) == (self._topic, self._event):
                return f" One came at {entry.at:.3f}, and something else had expected or allowed it."
        return ""


def _fits(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern


def _equal(wanted: Any, got: Any) -> bool:
    if wanted is ANYTHING or wanted == got:
        return True
    try:
        return bool(msgspec.to_builtins(wanted, str_keys=True) == got)
    except (TypeError, ValueError, RecursionError):
        return False
