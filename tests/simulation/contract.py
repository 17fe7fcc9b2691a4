"""Checks the core's contract: a client's outputs for each input, compared with the calls and the server's frames.

Everything that happens to the client goes through `Watched.tell`, which carries out its commands on the connections of
`network.py` and looks at every command, event and message. What was asked and what was read is kept in plain lists;
where the two do not fit, an assertion says what was broken.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, count
from random import Random
from typing import Any, ClassVar, Final, NamedTuple

from network import SECRET, Connection, Notebook, Outcome, Setup

from phx_proto.channel import Channel
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
from phx_proto.errors import InvalidFrame, PushCancelled, PushLost, PushTimeout
from phx_proto.events import (
    BadFrame,
    ChannelEnded,
    ChannelJoined,
    Closed,
    Connected,
    Disconnected,
    Event,
    InboxOverflow,
    JoinFailed,
    LeaveEnded,
    PingAnswered,
    PushFailed,
    ReplyReceived,
)
from phx_proto.formats import V1, V2, V1Server, V2Server
from phx_proto.inbox import Tap, TapItem
from phx_proto.link import Link
from phx_proto.message import PHX_JOIN, PHX_LEAVE, PHX_REPLY, RESERVED_EVENTS, Message
from phx_proto.presence import PRESENCE_DIFF, PRESENCE_STATE
from phx_proto.queues import Bound, ConcurrentQueue, DeliveryQueue, Drop, size_of
from phx_proto.server.tracker import Tracker
from phx_proto.states import ChannelState, SocketState

START: Final = 1000.0
UNMATCHED: Final = {"reason": "unmatched topic"}
NUMBERED: Final = ("news", "noise")
PRESENCE: Final = (PRESENCE_STATE, PRESENCE_DIFF)

_ENDINGS: Final[dict[str, tuple[type[Event], ...]]] = {
    "join": (ChannelJoined, JoinFailed),
    "leave": (LeaveEnded,),
    "push": (ReplyReceived, PushFailed),
    "ping": (PingAnswered, PushFailed),
}
_TABLES: Final = ("channels", "resolving", "unsent", "timers", "polls")  # of the client
_SOCKET_TABLES: Final = ("connection", "members")  # of each of its sockets


@dataclass(slots=True, eq=False)
class Life:
    """One channel, what was asked of it and what was taken from it.

    Attributes:
        tap: What reads it besides the handlers.
        stream: The join_ref of the join that the stream of the tap stands in.
        left: How many messages the client had read when it was left; none that came later may be delivered.
    """

    number: int
    channel: Channel
    tap: Tap | None
    bound: Bound | None
    asked: bool = False
    stream: str | None = None
    left: int | None = None

    @property
    def topic(self) -> str:
        return self.channel.topic

    @property
    def over(self) -> bool:
        return self.channel.state in (ChannelState.LEAVING, ChannelState.CLOSED)


@dataclass(slots=True)
class Call:
    """A join, leave, push or ping that is to end once."""

    kind: str
    ref: str
    life: Life | None
    deadline: float
    payload: Any = None


class Read(NamedTuple):
    """A numbered message as the client has read it."""

    place: int
    topic: str
    join_ref: str | None


class Watched:
    """A client in its network, and what must hold of it.

    Attributes:
        now: Virtual, in seconds.
        answers: To the next joins, see `Service`.
        runnable: Queues that have something to be taken: as often as workers may have them.
        may_wait: Whether what was sent may wait in the core until it is on the wire.
    """

    may_wait: ClassVar[bool] = False

    def __init__(self, setup: Setup) -> None:
        self.now = START
        self.setup = setup
        self.client = Notebook(setup)
        self.attempt: Link | None = None
        self.connections: list[Connection] = []
        self.questions: list[int] = []
        self.answers: deque[str] = deque()
        self.lives: list[Life] = []
        self.calls: dict[str, Call] = {}
        self.runnable: list[DeliveryQueue] = []
        self.closed = False
        # what the checks need to know
        self._seen: Counter[type[Any]] = Counter()  # events, by kind
        self.ended: Counter[str] = Counter()  # calls
        self._channels_ended: Counter[str] = Counter()  # by topic
        self._sent: dict[str, Link] = {}  # refs on the wire
        self.joins: set[str] = set()  # sent on this connection, neither answered nor given up
        self._read: dict[int, Read] = {}
        self._latest: dict[object, int] = {}  # where on the wire the message stood that a consumer got last
        self._given: set[int] = set()  # messages that somebody got, by their numbers
        self.casts = 0
        self.heard_at = START
        self._paused_at = START
        self._allowed = False  # to read on, for a pause was as long as it may be
        self.tracker = Tracker(Random(0))  # of the servers
        self._presences: list[Message[Any]] = []  # messages of presence that were delivered; kept for their ids
        self._evicted = 0  # messages that were delivered and gave way to later ones
        self.drained = False  # then the client leaves its channels itself
        self._frames = 0
        self.numbers = count(1)
        self._client_side = V2() if setup.vsn == 2 else V1()
        self._server_side = V2Server() if setup.vsn == 2 else V1Server()

    @property
    def state(self) -> SocketState:
        return self.client.proto.state

    @property
    def ending(self) -> bool:
        return self.state in (SocketState.DRAINING, SocketState.CLOSING, SocketState.CLOSED)

    @property
    def read_so_far(self) -> int:
        """How many numbered messages the client has read."""
        return len(self._read)

    @property
    def connection(self) -> Connection | None:
        """The one on which the client still takes part."""
        return next((one for one in self.connections if not one.client_over), None)

    # ---- one input ---------------------------------------------------------------------------------------------------

    def tell(
        self, target: str, number: int, call: str, *arguments: Any, refused: bool | None = False, **options: Any
    ) -> Outcome:
        """Give the client an input, do what it asks for, and check what it says.

        Args:
            refused: Whether the call must raise an error of the library; `None` where it may.
        """
        outcome = self.client.tell(target, number, call, *arguments, **options)
        error = outcome.error
        assert refused is None or refused == (error is not None), f"{call} should be refused: {refused}; was: {error!r}"
        said = [
            error,
            str(error),
            outcome.commands,
            outcome.events,
            outcome.runnable,
            outcome.tapped,
            self.client.proto,
        ]
        assert SECRET not in repr(said), "a secret is shown"
        assert error is None or not (outcome.commands or outcome.events), "a call that was refused did something"
        if call in _ENDINGS and error is None:
            life = self.lives[number] if target == "channel" else None
            self._expect(call, outcome.result, life, arguments, options["timeout"])
        if call == "handle_timeout":
            self._allowed |= any(isinstance(command, ResumeReading) for command in outcome.commands)
        elif call in ("handle", "read") and not self._reached("low", more=True):
            self._allowed = False
        if self.closed:
            left = [event for event in outcome.events if not (call == "leave" and isinstance(event, LeaveEnded))]
            assert [*outcome.commands, *left, *outcome.runnable] == [], "something comes after the end"
        for command in outcome.commands:
            self.carry_out(command)
        for event in outcome.events:
            self._note(event)
        for queue in outcome.runnable:
            assert isinstance(queue, ConcurrentQueue) or queue not in self.runnable, "a queue is given to two workers"
            self.runnable.append(queue)
        for tap, item in outcome.tapped:
            (life,) = [life for life in self.lives if life.tap is tap]
            self._look_at_stream(life, item)
        if not self.closed and self.state is SocketState.CLOSED:
            self._check_closed(outcome.events)
        return outcome

    def _expect(
        self, kind: str, ref: str, life: Life | None, arguments: tuple[Any, ...], timeout: float | None
    ) -> None:
        """A call was taken, and is to end once."""
        before = self.calls.get(ref)
        if before is not None:
            assert kind == "leave", "a ref was given twice"
            assert before.life is life, "a ref was given twice"
            return
        deadline = self.now + (self.client.options.join.timeout if timeout is None else timeout)
        self.calls[ref] = Call(kind, ref, life, deadline, arguments[1] if kind == "push" else None)

    # ---- commands ----------------------------------------------------------------------------------------------------

    def carry_out(self, command: Command) -> None:
        match command:
            case Resolve(request):
                self.questions.append(request)
            case OpenTransport(link):
                assert self.attempt is None, "two attempts at once"
                assert self.connection is None, "an attempt beside a connection"
                assert link.number == max(self.client.links), "a link is opened twice"
                self.attempt = link
            case AbortTransport(link) if link is self.attempt:
                self.attempt = None
            case _:
                connection = self.connection
                assert connection is not None, f"{command!r} without a connection"
                assert command.link is connection.link, f"{command!r} is not for the open link"
                self._carry(connection, command)

    def _carry(self, connection: Connection, command: Command) -> None:
        match command:
            case SendText() | SendBinary():
                self.sends(connection.link, command.data)
                connection.carry(command)
            case CloseTransport(_, code):
                assert code == 1000
                assert not connection.closing, "closed twice"
                connection.client_ends(code)
            case AbortTransport():
                connection.client_ends()
            case PauseReading():
                assert not connection.paused, "paused twice"
                connection.paused = True
                self._paused_at = self.now
            case ResumeReading():
                assert connection.paused, "resumed without a pause"
                connection.paused = False
            case _:
                raise AssertionError(command)

    def sends(self, link: Link, data: str | bytes) -> None:
        request = self._server_side.decode(data)
        assert request.ref not in self._sent, "a ref was used twice"
        assert self.may_wait or not self.ended[request.ref], "a call is sent after its end"
        self._sent[request.ref] = link
        if request.event == PHX_JOIN:
            self.joins.add(request.ref)
            assert len(self.joins) <= self.client.options.joins_in_flight, "more joins are under way than may be"
        elif request.event == PHX_LEAVE:
            self.joins.discard(request.join_ref)

    # ---- events ------------------------------------------------------------------------------------------------------

    def _note(self, event: Event) -> None:
        self._seen[type(event)] += 1
        if isinstance(event, ChannelEnded):
            self._channels_ended[event.topic] += 1
        if isinstance(event, Disconnected) and event.reason.startswith("nothing was heard"):
            assert self.now - self.heard_at >= self.client.options.heartbeat - 1e-3, "the peer lives"
        if isinstance(event, InboxOverflow) and event.topic is not None:
            life = [life for life in self.lives if life.topic == event.topic][-1]
            assert life.bound is not None, "a bound that nobody set"
            self._evicted += event.dropped if life.bound.drop is Drop.OLDEST else 0
        ref = getattr(event, "ref", None)
        if ref is None:
            return
        self.ended[ref] += 1
        assert self.ended[ref] == 1, f"a call ends twice, now in {event!r}"
        if isinstance(event, PushFailed) and isinstance(event.error, PushLost | PushTimeout | PushCancelled):
            on_the_wire = ref in self._sent or (self.may_wait and event.error.sent)
            assert event.error.sent == on_the_wire, f"{event!r} is wrong on whether it was sent"
        call = self.calls.get(ref)
        if call is None and isinstance(event, LeaveEnded) and self.drained:
            return
        if call is None:
            self.casts -= 1
            assert isinstance(event, PushFailed), f"{event!r} ends what nobody called"
            assert self.casts >= 0, f"{event!r} ends what nobody called"
            return
        assert isinstance(event, _ENDINGS[call.kind]), f"{event!r} ends a {call.kind}"
        if isinstance(event, ReplyReceived):
            assert ref in self._sent, "a reply to what was never sent"
            assert event.reply.response in (call.payload, UNMATCHED), "another push's reply"

    # ---- messages ----------------------------------------------------------------------------------------------------

    def receive(self, link: Link, frames: list[str | bytes]) -> None:
        """One read of a WebSocket."""
        self.hear(frames, lambda: self.tell("link", link.number, "receive_all", frames, self.now))

    def hear(self, frames: list[str | bytes], tell: Callable[[], object]) -> None:
        """One read, of which the client is told; each message that a joined channel is to have is in its inbox then."""
        proto = self.client.proto
        open_before = self.connection is not None and not self.connection.closing
        flow = self.client.options.flow
        full = self._reached("hard")
        roomy = self.state is SocketState.OPEN and not full
        before = {
            life: life.channel.join_ref
            for life in self.lives
            if life.channel.state is ChannelState.JOINED and life.bound is None
        }
        waited = {life: self.numbers_waiting(life) for life in before}
        messages = [message for frame in frames if (message := self._understood(frame)) is not None]
        for message in messages:
            if message.event == PHX_REPLY:
                self.joins.discard(message.ref or "")
            if (number := _number(message)) is not None:
                assert number not in self._read
                self._read[number] = Read(len(self._read), message.topic, message.join_ref)
        self._frames += len(frames) if open_before else 0
        self.heard_at = self.now
        stats, draining = proto.stats, self.state is SocketState.DRAINING
        evicted = self._evicted
        tell()
        plain = sum(message.event not in RESERVED_EVENTS for message in messages)
        after = proto.stats
        delivered = after.delivered - stats.delivered
        placed = delivered + after.unhandled - stats.unhandled + after.dropped - stats.dropped - self._evicted + evicted
        bounded = any(life.bound is not None for life in self.lives)  # one may be dropped in one place of two
        assert bounded or placed <= plain, "a message is counted twice"
        assert not open_before or placed + after.stale - stats.stale >= plain, "a message is not counted"
        assert not (draining and delivered), "a message was delivered while draining"
        assert after.backlog < (stats.backlog + 1 if full else flow.hard + len(frames)), "too much waits"
        read = sum(map(len, frames))
        assert after.backlog_bytes < (stats.backlog_bytes + 1 if full else flow.hard_bytes + read), "too much waits"
        self._check_pause()
        for life, join_ref in before.items():
            if roomy and life.channel.state is ChannelState.JOINED and life.channel.join_ref == join_ref:
                mine = [one for one in messages if one.topic == life.topic and one.join_ref in (None, join_ref)]
                wanted = [number for one in mine if one.event == "news" and (number := _number(one)) is not None]
                for queue, numbers in self.numbers_waiting(life).items():
                    assert numbers == waited[life].get(queue, []) + wanted, "a message is missing"

    def _check_pause(self) -> None:
        """After a read: if much waits, no more is read, unless a call waits for its answer."""
        connection = self.connection
        if connection is None or self.state is not SocketState.OPEN or self.may_wait:
            return
        awaited = self.joins or any(call.ref in self._sent for call in self._going_on)
        allowed = awaited or self._allowed or connection.paused
        assert allowed or not self._reached("high"), "reading goes on"

    def _reached(self, mark: str, *, more: bool = False) -> bool:
        """Whether a mark of the bounds on what waits is reached, or passed."""
        stats, flow = self.client.proto.stats, self.client.options.flow
        messages: int = getattr(flow, mark)
        size: int = getattr(flow, f"{mark}_bytes")
        return stats.backlog >= messages + more or stats.backlog_bytes >= size + more

    def _understood(self, frame: str | bytes) -> Message[Any] | None:
        try:
            return self._client_side.decode(frame)
        except InvalidFrame:
            return None

    def numbers_waiting(self, life: Life) -> dict[DeliveryQueue, list[int]]:
        """What waits in each queue that a channel has used, its own line among them."""
        mine = [queue for queue in self.client.queues if queue.channel is life.channel]
        return {queue: [_number(message) or 0 for _, message, _ in queue.waiting] for queue in mine}

    def look_at(self, life: Life, consumer: object, message: Message[Any]) -> None:
        """What a consumer of a channel gets."""
        assert message.topic == life.topic, "a message of another topic"
        number = _number(message)
        if message.event in PRESENCE:
            self._presences.append(message)
            self._given.add(id(message))
            return
        assert number is not None, "a message was delivered that the server did not send"
        read = self._read[number]
        assert (read.topic, read.join_ref) == (message.topic, message.join_ref)
        assert life.left is None or read.place < life.left, "a message was delivered after the leave"
        assert read.place > self._latest.get(consumer, -1), "messages are out of order, or come twice"
        self._latest[consumer] = read.place
        self._given.add(number)

    def _look_at_stream(self, life: Life, item: TapItem) -> None:
        if not isinstance(item, tuple):
            life.stream = item.join_ref if isinstance(item, ChannelJoined) else None
            return
        message = item[1]
        assert life.stream is not None, "a message was delivered while the channel was not joined"
        assert message.join_ref in (None, life.stream), "a message of another join was delivered"
        self.look_at(life, life.tap, message)

    # ---- what must always hold ---------------------------------------------------------------------------------------

    @property
    def _going_on(self) -> list[Call]:
        return [call for call in self.calls.values() if not self.ended[call.ref]]

    def check(self) -> None:
        """Between inputs."""
        self._check_stats()
        connection = self.connection
        sent = [self._sent[call.ref] for call in self._going_on if call.ref in self._sent]
        if connection is not None and connection.paused:
            assert not connection.closing, "the server's close frame is not read"
            assert not sent, "a reply is awaited and not read"
            assert self._reached("low", more=True), "reading does not go on"
        assert set(sent) <= {connection.link if connection else None}, "a call outlives its connection"
        left = {call.life.topic for call in self._going_on if call.kind == "leave" and call.life}
        joined = {life.topic for life in self.lives if life.channel.state is ChannelState.JOINED}
        assert not left & joined, "a leave goes on beside a newer join"
        assert self.client.proto._client.unsent <= self.client.options.push_buffer, "too many pushes wait"
        assert all(queue in self.runnable for queue in self.client.queues if queue.deliveries), (
            "a message waits for nobody"
        )
        over = Counter(life.topic for life in self.lives if life.channel.state is ChannelState.CLOSED)
        assert self._channels_ended == over, "a channel's end was not told once"

    def check_deadlines(self) -> None:
        """After timeouts."""
        assert all(call.deadline > self.now for call in self._going_on), "a call goes on beyond its time"
        connection, longest = self.connection, self.client.options.flow.longest_pause
        assert connection is None or not connection.paused or self._paused_at + longest >= self.now, "the pause is long"

    def _check_stats(self) -> None:
        stats = self.client.proto.stats
        client = self.client
        places = [queue.waiting for queue in client.queues] + [*client.hands, client.unread]
        waiting = {_number(message) or id(message): size_of(one) for one in chain(*places) for message in one[1:2]}
        assert stats.backlog == len(waiting), "the backlog is not what waits"
        assert stats.backlog_bytes == sum(waiting.values()), "the bytes of the backlog are not those that wait"
        gone = stats.delivered - stats.handled - stats.backlog  # messages that were dropped where they waited last
        assert 0 <= gone <= self._evicted
        assert self._evicted or stats.delivered == len(self._given | waiting.keys()), "a message is counted twice"
        assert stats.received + stats.bad_frames == self._frames
        assert stats.bad_frames == self._seen[BadFrame]
        assert stats.connects == self._seen[Connected]

    def _check_closed(self, events: list[Event]) -> None:
        self.closed = True
        assert isinstance(events[-1], Closed), "the last event is not the end"
        assert self._seen[Closed] == 1
        assert self.client.proto.next_timeout() is None, "a timer is left"
        left = [name for name in _TABLES if getattr(self.client.proto._client, name)]
        left += [n for n in _SOCKET_TABLES for socket in self.client.proto._sockets.all if getattr(socket, n)]
        assert not left, "something is left in the tables"
        assert all(self.ended[ref] == 1 for ref in self.calls), "a call did not end"
        assert self.connection is None, "the client has ended and its connection has not"
        assert self.attempt is None, "the client has ended and its attempt has not"


def _number(message: Message[Any]) -> int | None:
    """The number that the server gave a message; junk has none that counts."""
    if message.event not in NUMBERED:
        return None
    number = int(message.payload) if isinstance(message.payload, bytes) else message.payload["n"]
    return number if number > 0 else None
