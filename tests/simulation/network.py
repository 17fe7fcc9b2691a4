"""A network between a client and its server, and both ends of it: for `conversation_rules.py`.

Time is virtual and nothing moves by itself. What one side sends waits in a stream until it is delivered, in order, any
number of frames as one read. A cut loses what is under way; each side sees the end when it is delivered, so one may see
it long before the other. A client that has paused reading is delivered nothing at all.

`Notebook` is the client's end: a `ClientProtocol` of which every input and every output is written down, so that a run
can be played again. `Service` is the other: a `ServerProtocol` with an application behind it, which does as the names
of the events tell it.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, ClassVar, Final, NamedTuple

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import Command, OpenTransport, SendBinary, SendRequest, SendText
from phx_proto.errors import PhxError
from phx_proto.events import Event
from phx_proto.flow import FlowLimits
from phx_proto.formats import V1, V2, V1Server, V2Server
from phx_proto.handlers.router import Router
from phx_proto.inbox import Tap, TapItem
from phx_proto.link import Exchange, Link
from phx_proto.message import Message
from phx_proto.options import ClientOptions, JoinPolicy
from phx_proto.presence import PRESENCE_STATE, Presence
from phx_proto.queues import Delivery, DeliveryQueue
from phx_proto.server.events import (
    Abort,
    ChannelHandle,
    ChannelTerminated,
    Close,
    JoinRequested,
    MessageIn,
    Send,
    ServerOptions,
)
from phx_proto.server.protocol import ServerProtocol
from phx_proto.server.tracker import Tracker
from phx_proto.transports import TransportName

SECRET: Final = "hunter2"


def give_params() -> dict[str, Any]:
    """What the adapter would call; here the network answers for it."""
    return {"token": SECRET}


def save(message: Message[Any]) -> None:
    """A handler in its topic's line; nobody calls it."""


def count(message: Message[Any]) -> None:
    """One with a queue of its own."""


# ---- the client's end -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """How a run's client is made."""

    vsn: int = 2
    callables: bool = False  # whether params are asked for at every connect
    seed: int | None = None  # without one every wait is the longest of its range
    policy: JoinPolicy = JoinPolicy()  # noqa: RUF009
    transport: TransportName = "websocket"
    fallback: float | None = None
    in_bytes: bool = False  # whether the bounds on what waits are in bytes
    presence: bool = False  # whether the server tells who is present, and the client keeps it
    again: bool = False  # whether it is played twice, to see that the same comes of it

    def options(self) -> ClientOptions:
        """Bounds so small that a run comes to them."""
        if self.in_bytes:
            flow = FlowLimits(high=90, low=80, hard=100, high_bytes=300, low_bytes=100, hard_bytes=600)
        else:
            flow = FlowLimits(high=4, low=1, hard=10)
        return ClientOptions(joins_in_flight=2, push_buffer=4, join=self.policy, flow=flow)


class Input(NamedTuple):
    """One call: of the client itself, or of its link or channel of that number."""

    target: str
    number: int
    call: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]


@dataclass(slots=True)
class Outcome:
    """What came of one input."""

    result: Any
    error: PhxError | None
    commands: list[Command]
    events: list[Event]
    runnable: list[DeliveryQueue]
    tapped: list[tuple[Tap, TapItem]]


class Notebook:
    """A client, with all that it was told and all that it said, if it is to be played again."""

    def __init__(self, setup: Setup) -> None:
        router = Router()
        router.add(save, "news")
        router.add(count, "news", concurrency=2)
        self.setup = setup
        self.options = setup.options()
        self.proto = ClientProtocol(
            "wss://example.com/socket",
            params=give_params if setup.callables else {"token": SECRET},
            auth_token=SECRET,
            headers={"authorization": SECRET},
            transport=setup.transport,
            fallback=setup.fallback,
            serializer=V2() if setup.vsn == 2 else V1(),
            router=router,
            options=self.options,
            rng=None if setup.seed is None else Random(setup.seed),
        )
        self.channels: list[Channel] = []
        self.queues: list[DeliveryQueue] = []  # all that were ever runnable
        self.hands: list[list[Delivery]] = []  # batches that were taken and are not handled yet
        self.unread: list[Delivery] = []  # what came through taps and was not read yet
        self.links: dict[int, Link] = {}
        self.exchanges: list[Exchange] = []  # of all requests
        self.inputs: list[Input] = []
        self.outputs: list[tuple[str, ...]] = []

    def tell(self, target: str, number: int, call: str, *arguments: Any, **options: Any) -> Outcome:
        """Give the client one input; a `PhxError` is an outcome, anything else that is raised is a bug."""
        if self.setup.again:
            self.inputs.append(Input(target, number, call, arguments, options))
        result: Any = None
        error: PhxError | None = None
        try:
            result = getattr(self._find(target, number), call)(*arguments, **options)
        except PhxError as raised:
            error = raised
        if isinstance(result, Channel):
            self.channels.append(result)
        proto = self.proto
        outcome = Outcome(result, error, proto.commands(), proto.events(), proto.runnable(), proto.tapped())
        self.queues += [queue for queue in outcome.runnable if queue not in self.queues]
        self.unread += [item for _, item in outcome.tapped if isinstance(item, tuple)]
        for command in outcome.commands:
            if isinstance(command, OpenTransport | SendRequest):
                self.links[command.link.number] = command.link
            if isinstance(command, SendRequest):
                self.exchanges.append(command.exchange)
        if self.setup.again:
            self.outputs.append(
                (
                    "" if isinstance(result, Presence) else repr(result),
                    repr(error),
                    *map(_whole, outcome.commands),
                    *map(repr, outcome.events),
                    *map(repr, outcome.runnable),
                    *map(repr, [_shown(item) for _, item in outcome.tapped]),
                    f"{proto.state} {proto.next_timeout()} {proto.stats}",
                )
            )
        return outcome

    def take(self, number: int, limit: int) -> list[Message[Any]]:
        """Take a batch out of a queue."""
        taken = self.queues[number].take(limit)
        if taken:
            self.hands.append(taken)
        messages = [message for _, message, _ in taken]
        for message in messages:
            _ = message.payload  # which shows in its repr
        return messages

    def handle(self, now: float) -> None:
        """Report the oldest batch."""
        self.proto.handled(self.hands.pop(0), now)

    def read(self, now: float) -> None:
        """Report all that came through taps."""
        read, self.unread = self.unread, []
        self.proto.handled(read, now)

    def played_again(self) -> "Notebook":
        """Another client that was told the same."""
        other = Notebook(self.setup)
        for told in self.inputs:
            other.tell(told.target, told.number, told.call, *told.arguments, **told.options)
        return other

    def _find(self, target: str, number: int) -> Any:
        if target == "channel":
            return self.channels[number]
        if target == "adapter":
            return self
        if target == "exchange":
            return self.exchanges[number]
        return self.links[number] if target == "link" else self.proto


def _shown(item: TapItem) -> object:
    return item[1] if isinstance(item, tuple) else item


def _whole(command: Command) -> str:
    """A repr that hides nothing of what is sent."""
    return " ".join(
        [repr(command), *(f"{name}={getattr(command, name, '')!r}" for name in ("data", "url", "headers", "body"))]
    )


# ---- the server's end -----------------------------------------------------------------------------------------------


class Service:
    """One socket of the server and its application.

    Attributes:
        answers: What the next joins get: `"refuse"`, `"crash"` or `"wait"`; when none is left, `"accept"`.
        waiting: A join that is not answered yet; while there is one, the socket stands still.
        owed: Messages whose reply comes later.
        unfinished: Messages that are still handled.
        past: Topics and join_refs of all joins that were accepted.
    """

    def __init__(
        self,
        vsn: int,
        number: Callable[[], int],
        answers: deque[str],
        now: float,
        *,
        presence: Tracker | None,
        polled: bool = False,
    ) -> None:
        options = ServerOptions(timeout=None) if polled else ServerOptions()
        self.protocol = ServerProtocol(V2Server() if vsn == 2 else V1Server(), ("room:*",), options=options, now=now)
        self.answers = answers
        self.channels: list[ChannelHandle] = []
        self.past: list[tuple[str, Any]] = []
        self.waiting: JoinRequested | None = None
        self.owed: list[MessageIn] = []
        self.unfinished: list[MessageIn] = []
        self._number = number
        self._presence = presence
        self._binary = vsn == 2 and not polled  # which would arrive as text

    @property
    def joined(self) -> dict[str, Any]:
        """The join_ref of every topic that is joined."""
        return {topic: one.join_ref for topic, one in self.protocol._channels.items() if one.alive}

    def work(self) -> None:
        """Handle every event there is."""
        while events := self.protocol.events():
            for event in events:
                match event:
                    case JoinRequested():
                        self.waiting = event
                        answer = self.answers.popleft() if self.answers else "accept"
                        if answer != "wait":
                            self.answer_join(answer)
                    case MessageIn():
                        self._handle(event)
                    case ChannelTerminated():
                        self._forget(event.channel)
                    case _:
                        pass

    def answer_join(self, answer: str) -> None:
        """Answer the join that waits."""
        assert self.waiting is not None
        channel, self.waiting = self.waiting.channel, None
        if answer == "accept":
            self.channels.append(channel)
            self.protocol.accept(channel, {"since": 0})
            if self._presence is not None:
                self.protocol.push(channel, PRESENCE_STATE, self._presence.state(channel.topic))
            if channel.topic in self.joined:
                self.past.append((channel.topic, self.joined[channel.topic]))
        elif answer == "refuse":
            self.protocol.refuse(channel, {"reason": "full"})
        else:
            self.protocol.crash_join(channel)

    def behave(self) -> None:
        """Do all that was put off."""
        self.answers.clear()
        if self.waiting is not None:
            self.answer_join("accept")
        while self.owed:
            self.pay(self.owed[0])
        while self.unfinished:
            self.finish(self.unfinished[0])

    def pay(self, message: MessageIn) -> None:
        """Send a reply that is owed."""
        self.owed.remove(message)
        self.protocol.reply(message, "ok", message.payload)

    def finish(self, message: MessageIn) -> None:
        """A message is handled, after all."""
        self.unfinished.remove(message)
        self.protocol.reply(message, "ok", message.payload)
        self.protocol.finish(message)

    def push(self, channel: ChannelHandle, event: str = "news") -> None:
        """Send a numbered message to one channel."""
        self.protocol.push(channel, event, self._payload())

    def broadcast(self, topic: str, event: str = "news") -> None:
        """Send a numbered message to whoever has the topic."""
        self.protocol.broadcast(topic, event, self._payload())

    def straggler(self, pick: int) -> str | bytes:
        """A message for one of all the joins there were."""
        topic, join_ref = self.past[-1 - pick % len(self.past)]
        return self.protocol.serializer.push(join_ref, topic, "news", self._payload())

    def _payload(self) -> Any:
        """The number of the message; every third is bytes where that can be."""
        number = self._number()
        return str(number).encode() if self._binary and number % 3 == 0 else {"n": number}

    def _handle(self, message: MessageIn) -> None:
        act = self._acts.get(message.event)
        if act is not None:
            act(self, message)
        if message not in self.unfinished:
            self.protocol.finish(message)

    def _echo(self, message: MessageIn) -> None:
        self.protocol.reply(message, "ok", message.payload)

    def _deny(self, message: MessageIn) -> None:
        self.protocol.reply(message, "error", message.payload)

    def _twice(self, message: MessageIn) -> None:
        self._echo(message)
        self._deny(message)

    def _noisy(self, message: MessageIn) -> None:
        """A broadcast that a push causes comes before its reply, an intercepted one (a push) behind it."""
        self.broadcast(message.channel.topic)
        self._echo(message)
        self.push(message.channel)

    def _flood(self, message: MessageIn) -> None:
        for _ in range(8):
            self.push(message.channel)
        self._echo(message)

    def _stop(self, message: MessageIn) -> None:
        self._echo(message)
        self.protocol.stop(message.channel)

    def _crash(self, message: MessageIn) -> None:
        self.protocol.crash(message.channel)

    def _later(self, message: MessageIn) -> None:
        self.owed.append(message)

    def _slow(self, message: MessageIn) -> None:
        self.unfinished.append(message)

    _acts: ClassVar[dict[str, Callable[["Service", MessageIn], None]]] = {
        "echo": _echo,
        "deny": _deny,
        "twice": _twice,
        "noisy": _noisy,
        "flood": _flood,
        "stop": _stop,
        "crash": _crash,
        "later": _later,
        "slow": _slow,
    }

    def _forget(self, channel: ChannelHandle) -> None:
        if self.waiting is not None and self.waiting.channel is channel:
            self.waiting = None
        self.channels = [other for other in self.channels if other is not channel]
        self.owed = [message for message in self.owed if message.channel is not channel]
        self.unfinished = [message for message in self.unfinished if message.channel is not channel]


# ---- between them ---------------------------------------------------------------------------------------------------


class End(NamedTuple):
    """The end of a stream: a close frame with a code, or none."""

    code: int | None
    reason: str


@dataclass(eq=False)
class Connection:
    """One opened link: two streams, and who still takes part.

    Attributes:
        log: Every frame that the server sent, in order.
    """

    link: Link
    service: Service
    to_server: deque[str | bytes | End] = field(default_factory=deque[str | bytes | End])
    to_client: deque[str | bytes | End] = field(default_factory=deque[str | bytes | End])
    log: list[str | bytes] = field(default_factory=list[str | bytes])
    client_over: bool = False
    server_over: bool = False
    closing: bool = False  # the client has sent its close frame
    paused: bool = False

    def carry(self, command: Command) -> None:
        """The client sends a frame."""
        assert isinstance(command, SendText | SendBinary)
        assert not self.closing, "something was sent behind the end"
        if not self.server_over:
            self.to_server.append(command.data)

    def client_ends(self, code: int | None = None) -> None:
        """The client closes with a code, or drops the connection."""
        if code is None:
            self.client_over = True
            self.to_client.clear()
        self.closing = True
        if not self.server_over:
            self.to_server.append(End(code, "the client has ended it"))

    def server_ends(self, code: int | None) -> None:
        """The server closes with a code, or drops the connection."""
        self.server_over = True
        self.to_server.clear()
        if not self.client_over:
            self.to_client.append(End(code, "the server has ended it"))

    def cut(self) -> None:
        """What is under way is lost."""
        for stream, over in ((self.to_server, self.server_over), (self.to_client, self.client_over)):
            stream.clear()
            if not over:
                stream.append(End(None, "cut"))

    def serve(self) -> None:
        """Let the service work, and take what it sends."""
        self.service.work()
        for command in self.service.protocol.commands():
            if self.server_over:
                continue
            match command:
                case Send(data):
                    self.send(data)
                case Close(code):
                    self.server_ends(code)
                case Abort():
                    self.server_ends(None)

    def send(self, frame: str | bytes) -> None:
        """A frame for the client, from the service or made up."""
        self.log.append(frame)
        if not self.client_over:
            self.to_client.append(frame)

    def deliver_to_server(self, limit: int, now: float) -> bool:
        """One read of the server; tells whether there was anything to read."""
        frames, end = _read(self.to_server, limit)
        if frames:
            self.service.protocol.receive_all(frames, now)
        if end is not None:
            self.service.protocol.closed(end.code, end.reason)
        self.serve()
        if end is not None and end.code is None and not self.server_over:
            self.server_ends(None)
        return bool(frames) or end is not None

    def read_by_client(self, limit: int) -> tuple[list[str | bytes], End | None]:
        """What one read brings the client."""
        return ([], None) if self.paused else _read(self.to_client, limit)


def _read(stream: deque[str | bytes | End], limit: int) -> tuple[list[str | bytes], End | None]:
    frames: list[str | bytes] = []
    while stream and len(frames) < limit:
        item = stream.popleft()
        if isinstance(item, End):
            return frames, item
        frames.append(item)
    return frames, None
