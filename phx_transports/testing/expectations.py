"""What the client is to send, and what the server does then: declared before it comes, or taken from what has come."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from enum import Enum
from typing import Any, Final, Self

import msgspec

from phx_proto.formats import Request, V2Server

from .clock import forward
from .connection import Connection
from .errors import CannotPlay, UnexpectedConversation
from .transcript import shown

__tracebackhide__ = True  # for pytest: a test that fails shows its own lines


class _Anything:
    """Equals everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "ANYTHING"


#: Stands for any payload, or for any value within one: `{"id": ANYTHING, "body": "hi"}`.
ANYTHING: Final[Any] = _Anything()


class Kind(Enum):
    """What may be expected of a client."""

    JOIN = "join"
    PUSH = "push"
    LEAVE = "leave"


class Answer(Enum):
    """What the server does with a message."""

    UNDECIDED = "undecided"  #: nothing yet
    REPLY = "reply"  #: answers with a status
    SILENCE = "silence"  #: never answers


class Asked:
    """A message of the client that could be expected.

    Attributes:
        connection: On which it came.
        request: As it was decoded.
        expected: Whether an expectation has taken it.
    """

    __slots__ = ("connection", "expected", "kind", "request")

    def __init__(self, kind: Kind, connection: Connection, request: Request) -> None:
        self.kind = kind
        self.connection = connection
        self.request = request
        self.expected = False

    def __str__(self) -> str:
        return described(self.kind, self.request.topic, self.request.event, self.request.payload)


class Expectation:
    """One message that the client is to send. Made by the `expect_…` methods of a `Peer`.

    What the server does with it may be said at once, before it comes (`peer.expect_join(…).reply(…)`), or later, when
    it has come. Until it is said, the client waits; a push that wants no reply is content with that.
    """

    def __init__(
        self,
        kind: Kind,
        topic: str,
        event: str,
        payload: Any,
        *,
        standing: bool,
        act: "Callable[[Asked, Answer, str, Any], None]",
        lapse: Callable[[float], None],
        settle: Callable[[], None],
        account: Callable[[], str],
        lock: "threading.RLock",
    ) -> None:
        self._kind = kind
        self._topic = topic
        self._event = event
        self._payload = payload
        self._standing = standing
        self._act = act
        self._lapse = lapse
        self._settle = settle
        self._account = account
        self._lock = lock
        self._answer = Answer.REPLY if kind is Kind.LEAVE else Answer.UNDECIDED
        self._status = "ok"
        self._response: Any = {}
        self._advance = 0.0
        self._asked: Asked | None = None
        self._arrival: Future[None] = Future()

    def __str__(self) -> str:
        return described(self._kind, self._topic, self._event, self._payload)

    # ---- what the server does ----------------------------------------------------------------------------------------

    def reply(self, response: Any = None) -> Self:
        """Answer ok.

        Args:
            response: Any JSON value, or bytes; `None` stands for `{}`.

        Raises:
            CannotPlay: It is answered already, or its connection is gone.
            LocalError: The response cannot be sent.
        """
        return self._decide(Answer.REPLY, "ok", {} if response is None else response)

    def refuse(self, response: Any = None) -> Self:
        """Answer with status `"error"`: a join is refused, a push rejected. Raises what `reply` raises."""
        return self._decide(Answer.REPLY, "error", {} if response is None else response)

    def ignore(self, *, advance: float = 0.0) -> Self:
        """Never answer.

        Args:
            advance: Seconds by which the clock moves as soon as the message has come: how a client that blocks the
                test's own thread gives up waiting.

        Raises:
            CannotPlay: It is answered already.
            ValueError: The seconds are negative.
        """
        self._advance = forward(advance)
        return self._decide(Answer.SILENCE, "", None)

    # ---- what came ---------------------------------------------------------------------------------------------------

    @property
    def came(self) -> bool:
        """Whether it has come."""
        return self._asked is not None

    @property
    def payload(self) -> Any:
        """What the client sent; the params of a join.

        Raises:
            UnexpectedConversation: It has not come.
        """
        return self._found().request.payload

    def wait(self, timeout: float = 10.0) -> Self:
        """Wait until it has come; for a test whose client is blocked in another thread.

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
        """Whether it should have come and has not."""
        return self._asked is None and not self._standing

    def wants(self, asked: Asked) -> bool:
        """Whether that is the message it is about."""
        request = asked.request
        return (
            (self._asked is None or self._standing)
            and self._kind is asked.kind
            and _fits(self._topic, request.topic, self._standing)
            and (self._kind is not Kind.PUSH or self._event == request.event)
            and _equal(self._payload, request.payload)
        )

    def take(self, asked: Asked) -> None:
        """That is the message; under the peer's lock."""
        asked.expected = True
        self._asked = asked
        if not self._arrival.done():
            self._arrival.set_result(None)
        if self._answer is not Answer.UNDECIDED:
            self._answer_now(asked)

    # ---- private -----------------------------------------------------------------------------------------------------

    def _decide(self, answer: Answer, status: str, response: Any) -> Self:
        if answer is Answer.REPLY:
            V2Server().reply(None, None, self._topic, status, response)  # what cannot be sent is refused here and now
        with self._lock:
            decided = self._answer is not Answer.UNDECIDED and self._kind is not Kind.LEAVE
            if decided or (self._answer is Answer.REPLY and self.came):
                raise CannotPlay(f"What the server does with the {self} is decided already.")
            self._answer, self._status, self._response = answer, status, response
            if self._asked is not None:
                self._answer_now(self._asked)
        self._settle()
        return self

    def _answer_now(self, asked: Asked) -> None:
        self._act(asked, self._answer, self._status, self._response)
        self._lapse(self._advance)

    def _found(self) -> Asked:
        if self._asked is None:
            raise UnexpectedConversation(f"The {self} did not come.\n{self._account()}")
        return self._asked


def described(kind: Kind, topic: str, event: str, payload: Any) -> str:
    """A message in words."""
    carried = "" if payload is ANYTHING else f" {shown(payload)}"
    match kind:
        case Kind.JOIN:
            return f'join of "{topic}"{carried}'
        case Kind.LEAVE:
            return f'leave of "{topic}"'
        case Kind.PUSH:
            return f'push "{event}" on "{topic}"{carried}'


def _fits(wanted: str, topic: str, pattern: bool) -> bool:
    return topic.startswith(wanted[:-1]) if pattern and wanted.endswith("*") else topic == wanted


def _equal(wanted: Any, got: Any) -> bool:
    if wanted is ANYTHING or wanted == got:
        return True
    try:
        return bool(msgspec.to_builtins(wanted, str_keys=True) == got)
    except (TypeError, ValueError, RecursionError):
        return False
