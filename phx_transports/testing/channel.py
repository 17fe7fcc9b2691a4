"""A fake channel for handlers that take one: it records what they send, and gives the replies set by the test.

    channel = FakeChannel("room:lobby").reply("save", {"id": 1})
    deliver(router, "room:lobby", "shout", {"body": "hi"}, channel=channel).check()
    assert channel.pushes == [Sent("save", {"body": "hi"})]

One fake serves both kinds of handlers: coroutine functions get `channel.awaited`, whose `push` is awaited as on
asyncio; plain functions get `channel.blocking`, whose `push` blocks, as with threads. A test that calls a handler
itself passes one of the two. Payloads go through the real serializer, so one that cannot be sent is refused here too.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Any, Self

import msgspec
from msgspec import UNSET

from phx_proto.errors import ChannelClosedByClient, PhxError, PushRejected
from phx_proto.formats import V2, V2Server
from phx_proto.handlers.handler import HandlerKind
from phx_proto.handlers.payloads import payload_decoder
from phx_proto.message import Message, Reply
from phx_proto.states import ChannelState

from ..client.calls import decoded_reply
from .errors import NotScripted

__tracebackhide__ = True  # for pytest: a failing test shows its own lines


@dataclass(frozen=True, slots=True)
class Sent:
    """An event that a handler sent; the payload as the server reads it: a struct is an object, a tuple an array."""

    event: str
    payload: Any = field(default_factory=dict[str, Any])


class FakeChannel:
    """A joined channel without a connection.

    Attributes:
        topic: Its topic.
        pushes: Pushed events, in order.
        casts: Cast events, in order.
        left: Whether it was left; then nothing can be sent.
    """

    def __init__(self, topic: str) -> None:
        self.topic = topic
        self.pushes: list[Sent] = []
        self.casts: list[Sent] = []
        self.left = False
        self._script: dict[str, deque[Reply | PhxError]] = {}

    def __repr__(self) -> str:
        return f"FakeChannel({self.topic!r})"

    # ---- for the test ------------------------------------------------------------------------------------------------

    def reply(self, event: str, response: Any = None) -> Self:
        """Answer the next push of the event with ok; call it again for the push after that. The last answer stays."""
        return self._add(event, Reply("ok", {} if response is None else response))

    def refuse(self, event: str, response: Any = None) -> Self:
        """Answer the next push of the event with status `"error"`: `PushRejected`, unless `check=False`."""
        return self._add(event, Reply("error", {} if response is None else response))

    def fail(self, event: str, error: PhxError) -> Self:
        """Let the next push of the event raise, e.g. `PushTimeout(topic, event, 10.0)`."""
        return self._add(event, error)

    # ---- what the handler gets ---------------------------------------------------------------------------------------

    @property
    def awaited(self) -> "AwaitedChannel":
        """The channel for a coroutine function."""
        return AwaitedChannel(self)

    @property
    def blocking(self) -> "BlockingChannel":
        """The channel for a plain function."""
        return BlockingChannel(self)

    def face(self, kind: HandlerKind) -> "AwaitedChannel | BlockingChannel":
        """The one of the two for a handler of this kind."""
        return self.awaited if kind is HandlerKind.ASYNC else self.blocking

    def answer(self, event: str, payload: Any, *, response: Any, check: bool) -> Reply:
        """The result of a push, for both."""
        self.pushes.append(self._sent(event, payload))
        script = self._script.get(event)
        if not script:
            raise NotScripted(
                f"the handler pushed {event!r} on topic {self.topic!r}, and the test gave no reply for it: "
                f"FakeChannel.reply({event!r}, …)"
            )
        answer = script.popleft() if len(script) > 1 else script[0]
        if isinstance(answer, PhxError):
            raise answer
        if check and not answer.ok:
            raise PushRejected(self.topic, event, answer)
        if response is None or not answer.ok:
            return answer
        raw = Message[Any](topic=self.topic, event=event, payload=msgspec.Raw(msgspec.json.encode(answer.response)))
        return decoded_reply(Reply(answer.status, raw), payload_decoder(response), self.topic, event)

    def cast(self, event: str, payload: Any) -> None:
        self.casts.append(self._sent(event, payload))

    def _add(self, event: str, answer: Reply | PhxError) -> Self:
        self._script.setdefault(event, deque()).append(answer)
        return self

    def _sent(self, event: str, payload: Any) -> Sent:
        if self.left:
            raise ChannelClosedByClient(self.topic, "nothing can be pushed any more; make a new channel and join it")
        message = Message[Any](
            join_ref="1", ref="2", topic=self.topic, event=event, payload={} if payload is UNSET else payload
        )
        return Sent(event, V2Server().decode(V2().encode(message)).payload)


class _Face:
    """The channel as a handler uses it; a subclass adds how calls wait."""

    __slots__ = ("_fake",)

    def __init__(self, fake: FakeChannel) -> None:
        self._fake = fake

    def __repr__(self) -> str:
        return f"Channel({self.topic!r}, {self.state.value})"

    @property
    def topic(self) -> str:
        return self._fake.topic

    @property
    def state(self) -> ChannelState:
        """Joined, until it is left."""
        return ChannelState.CLOSED if self._fake.left else ChannelState.JOINED

    def begin_leave(self) -> None:
        """Nothing can be sent after it."""
        self._fake.left = True


class BlockingChannel(_Face):
    """The part of `phx_transports.threads.Channel` that handlers use."""

    __slots__ = ()

    def push(
        self, event: str, payload: Any = UNSET, *, response: Any = None, timeout: float = 10.0, check: bool = True
    ) -> Reply:
        return self._fake.answer(event, payload, response=response, check=check)

    def cast(self, event: str, payload: Any = UNSET) -> None:
        self._fake.cast(event, payload)

    def leave(self, *, timeout: float = 10.0) -> None:
        self.begin_leave()


class AwaitedChannel(_Face):
    """The part of `phx_transports.asyncio.Channel` that handlers use."""

    __slots__ = ()

    async def push(
        self, event: str, payload: Any = UNSET, *, response: Any = None, timeout: float = 10.0, check: bool = True
    ) -> Reply:
        return self._fake.answer(event, payload, response=response, check=check)

    async def cast(self, event: str, payload: Any = UNSET) -> None:
        self._fake.cast(event, payload)

    async def leave(self, *, timeout: float = 10.0) -> None:
        self.begin_leave()
