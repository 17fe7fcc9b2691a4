"""The world of `test_model.py`: a client, its servers and the network between them, and all that must hold of it.

Everything that happens to the client goes through `World.tell`, which carries out its commands and checks what came of
it against plain lists of what was asked and what the server sent. The checks are those of the core's contract; where
they fail, the assertion says what was broken.
"""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from math import inf
from typing import Any, Final, NamedTuple

from network import SECRET, Connection, Notebook, Outcome, Service, Setup, give_params

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
    Event,
    InboxOverflow,
    JoinFailed,
    LeaveEnded,
    PingAnswered,
    PushFailed,
    ReplyReceived,
)
from phx_proto.inbox import Bound, Drop, Tap
from phx_proto.link import Link
from phx_proto.message import PHX_JOIN, PHX_LEAVE, PHX_REPLY, Message
from phx_proto.serializer import V1, V2, V1Server, V2Server
from phx_proto.states import ChannelState, SocketState

START: Final = 1000.0
UNMATCHED: Final = {"reason": "unmatched topic"}
GIVEN: Final = give_params()
NUMBERED: Final = ("news", "noise")

_ENDINGS: Final[dict[str, tuple[type[Event], ...]]] = {
    "join": (ChannelJoined, JoinFailed),
    "leave": (LeaveEnded,),
    "push": (ReplyReceived, PushFailed),
    "ping": (PingAnswered, PushFailed),
}
_TABLES: Final = ("abandoned", "awaiting", "channels", "leaving", "live", "resolving", "unsent", "timers")


@dataclass(slots=True, eq=False)
class Life:
    """One channel, what was asked of it and what was taken from it.

    Attributes:
        stream: The join_ref of the join that the stream of a tap stands in.
        latest: Where on the wire the message stood that was taken last.
        cap: How many deliveries there may ever be, once it was left; a lifecycle event may come on top.
    """

    number: int
    channel: Channel
    tapped: bool
    bound: Bound | None
    asked: bool = False
    stream: str | None = None
    latest: int = -1
    messages: int = 0
    taken: int = 0
    cap: int | None = None

    @property
    def topic(self) -> str:
        return self.channel.topic

    @property
    def over(self) -> bool:
        return self.channel.state in (ChannelState.LEAVING, ChannelState.CLOSED)

    @property
    def waiting(self) -> list[Any]:
        return [item for _, item in self.channel.inbox.deliveries or ()]


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


class World:
    """A client in its network.

    Attributes:
        now: Virtual, in seconds.
        answers: To the next joins, see `Service`.
        runnable: Channels that have something to be taken.
        hands: Sizes of the batches that were taken and are not handled yet.
        held: How many deliveries a tap keeps.
    """

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
        self.runnable: list[Channel] = []
        self.hands: list[int] = []
        self.held = 0
        self.closed = False
        # what the checks need to know
        self._seen: Counter[type[Any]] = Counter()  # events, by kind
        self._ended: Counter[str] = Counter()  # calls
        self._channels_ended: Counter[str] = Counter()  # by topic
        self._sent: set[str] = set()  # refs on the wire
        self._joins: set[str] = set()  # sent on this connection, neither answered nor given up
        self._read: dict[int, Read] = {}
        self._delivered: set[int] = set()
        self._casts = 0
        self._evicted = 0  # messages that were delivered and gave way to later ones
        self._drained = False  # then the client leaves its channels itself
        self._handled = 0
        self._frames = 0
        self._numbers = count(1)
        self._client_side = V2() if setup.vsn == 2 else V1()
        self._server_side = V2Server() if setup.vsn == 2 else V1Server()

    # ---- what the application does -----------------------------------------------------------------------------------

    def new_channel(self, topic: str, params: Any, *, tapped: bool, bound: Bound | None) -> Life | None:
        """Make a channel, which works where the topic is free."""
        taken = any(life.topic == topic and not life.over for life in self.lives)
        outcome = self.tell("proto", 0, "channel", topic, params, bound=bound, refused=taken or self.ending)
        if outcome.error is not None:
            return None
        life = Life(len(self.lives), outcome.result, tapped, bound)
        self.lives.append(life)
        if tapped:
            self.tell("channel", life.number, "attach", Tap(_put))
        return life

    def join(self, life: Life, timeout: float | None) -> None:
        fresh = life.channel.state is ChannelState.IDLE
        life.asked |= fresh
        self.tell("channel", life.number, "join", self.now, timeout=timeout, refused=not fresh)

    def leave(self, life: Life, timeout: float) -> None:
        """Nothing that comes later is to be delivered."""
        if life.cap is None:
            life.cap = life.taken + len(life.waiting)
        draining = life.channel.state is ChannelState.LEAVING  # perhaps by the client itself, which has time
        outcome = self.tell("channel", life.number, "leave", self.now, timeout=timeout)
        assert life.over
        if draining and self._drained:
            self.calls[outcome.result].deadline = inf

    def push(self, life: Life, event: str, payload: Any, timeout: float) -> None:
        refused = self._refuses(life, payload)
        self.tell("channel", life.number, "push", event, payload, self.now, timeout=timeout, refused=refused)

    def cast(self, life: Life, event: str, payload: Any) -> None:
        self._casts += 1
        self.tell("channel", life.number, "cast", event, payload, self.now, refused=self._refuses(life, payload))

    def ping(self, timeout: float) -> None:
        connection = self.connection
        refused = connection is None or connection.closing
        self.tell("proto", 0, "ping", self.now, timeout=timeout, refused=refused)

    def cancel(self, call: Call) -> None:
        """Give a call up; from here on it has ended."""
        if call.life is None:
            self.tell("proto", 0, "cancel_ping", call.ref)
        else:
            self.tell("channel", call.life.number, "cancel", call.ref, self.now)
        assert self._ended[call.ref] == 1, "a call goes on although it was cancelled"

    @property
    def state(self) -> SocketState:
        return self.client.proto.state

    @property
    def ending(self) -> bool:
        return self.state in (SocketState.DRAINING, SocketState.CLOSING, SocketState.CLOSED)

    # ---- what the adapter does ---------------------------------------------------------------------------------------

    def take(self, limit: int) -> bool:
        """Take a batch of deliveries and look at them; tells whether there was one."""
        while self.runnable:
            channel = self.runnable[0]
            (life,) = [life for life in self.lives if life.channel is channel]
            items = [item for _, item in self.tell("channel", life.number, "take", limit).result]
            if items:
                for item in items:
                    self._look_at(life, item)
                self.hands.append(len(items))
                return True
            self.runnable.pop(0)
        return False

    def handle(self, *, hold: bool = False) -> bool:
        """Report the oldest batch as handled, or as kept by a tap for later."""
        if not self.hands:
            return False
        size = self.hands.pop(0)
        if hold:
            self.held += size
            self._handled -= size
            self.tell("proto", 0, "held", size)
        self._report(size)
        return True

    def release(self) -> bool:
        """What a tap kept is read at last."""
        size, self.held = self.held, 0
        if size:
            self._report(size)
        return size > 0

    def answer(self, value: Any = GIVEN) -> bool:
        """Answer the oldest question, with an error perhaps; the client may have forgotten it."""
        if not self.questions:
            return False
        call = "resolve_failed" if isinstance(value, Exception) else "resolved"
        self.tell("proto", 0, call, self.questions.pop(0), value, self.now)
        return True

    def open(self) -> bool:
        """The attempt succeeds."""
        if self.attempt is None:
            return False
        link, self.attempt = self.attempt, None
        service = Service(self.setup.vsn, lambda: next(self._numbers), self.answers, self.now)
        self.connections.append(Connection(link, service))
        self._joins.clear()
        self.tell("link", link.number, "opened", "phoenix", self.now)
        return True

    def give_up_attempt(self, call: str, *arguments: Any) -> None:
        """The attempt is `refused`, or has `failed`."""
        assert self.attempt is not None
        link, self.attempt = self.attempt, None
        self.tell("link", link.number, call, *arguments, self.now)

    def speak_of_old_links(self) -> None:
        """What is told to a link that is over changes nothing."""
        over = [link for number, link in self.client.links.items() if not link.current]
        for link in over[-2:]:
            for call, *arguments in (("receive", "junk"), ("closed", 1000, ""), ("opened", None), ("progressed",)):
                outcome = self.tell("link", link.number, call, *arguments, self.now)
                assert not outcome.commands, "a link that is over is heard"
                assert not outcome.events, "a link that is over is heard"

    # ---- the network -------------------------------------------------------------------------------------------------

    @property
    def connection(self) -> Connection | None:
        """The one on which the client still takes part."""
        return next((one for one in self.connections if not one.client_over), None)

    @property
    def served(self) -> list[Connection]:
        """Those on which a server still takes part, the newest last."""
        return [one for one in self.connections if not one.server_over]

    def deliver_to_client(self, limit: int) -> bool:
        """One read of the client."""
        connection = self.connection
        if connection is None:
            return False
        frames, end = connection.read_by_client(limit)
        if frames:
            self._receive(connection.link, frames)
        if end is not None:
            connection.client_over = True
            # Over those frames the client may have dropped the link; then it is told this in vain.
            self.tell("link", connection.link.number, "closed", end.code, end.reason, self.now)
        return bool(frames) or end is not None

    def deliver_to_servers(self, limit: int) -> bool:
        """One read of every server."""
        return sum(one.deliver_to_server(limit, self.now) for one in self.served) > 0

    def flow(self, *, well_behaved: bool = False) -> None:
        """Let everything that is under way arrive and be handled, until all is quiet."""
        for _ in range(1000):
            if well_behaved:
                for connection in self.served:
                    connection.service.behave()
                    connection.serve()
            busy = self.answer() + self.open() + self.deliver_to_servers(100) + self.deliver_to_client(100)
            if not busy + self.take(100) + self.handle() + self.release():
                return
        raise AssertionError("client and server talk without end")

    # ---- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due, on both sides."""
        for _ in range(100):
            due = self.client.proto.next_timeout()
            if due is None or due > self.now:
                break
            self.tell("proto", 0, "handle_timeout", self.now)
            due = self.client.proto.next_timeout()
            assert due is None or due >= self.now, "the next timeout is in the past"
        else:
            raise AssertionError("timers set each other anew without end")
        late = [call for call in self.calls.values() if call.deadline <= self.now and not self._ended[call.ref]]
        assert not late, "a call goes on beyond its time"
        for connection in self.served:
            connection.service.protocol.handle_timeout(self.now)
            connection.serve()

    def pass_time(self, seconds: float, between: Callable[[], None] = lambda: None) -> None:
        """Let time pass from one timeout to the next, and something happen at each."""
        end = self.now + seconds
        for _ in range(1000):
            between()
            due = self.client.proto.next_timeout()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.tick()
        else:
            raise AssertionError("timers set each other anew without end")
        self.now = end
        self.tick()
        between()

    # ---- the end -----------------------------------------------------------------------------------------------------

    def settle(self, seconds: float = 120.0) -> None:
        """With a healthy network and a server that behaves, all comes to what was asked for."""
        if self.state is SocketState.IDLE:
            self.tell("proto", 0, "connect", self.now)
        self.pass_time(seconds, lambda: self.flow(well_behaved=True))
        wanted = {life.topic: life.channel for life in self.lives if life.asked and not life.over}
        joined = {topic: channel.join_ref for topic, channel in wanted.items() if channel.state is ChannelState.JOINED}
        assert joined.keys() == wanted.keys(), "a channel is not joined at last"
        served = self.served[-1].service.joined if self.served else {}
        assert joined == served, "client and server do not agree on what is joined"

    def end(self, how: str) -> None:
        """`drain`, `close` or `abort`."""
        self._drained |= how == "drain"
        self.tell("proto", 0, how, self.now)

    def check_end(self) -> None:
        """A client that was told to end has ended, and is the same if it is told the same again."""
        assert self.state is SocketState.CLOSED, "the client does not end"
        while self.take(100) or self.handle() or self.release():
            pass
        self.check()
        again = self.client.played_again()
        assert again.outputs == self.client.outputs, "the same inputs gave other outputs"

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
        said = [error, str(error), outcome.commands, outcome.events, outcome.runnable, self.client.proto]
        assert SECRET not in repr(said), "a secret is shown"
        assert error is None or not (outcome.commands or outcome.events), "a call that was refused did something"
        if call in _ENDINGS and error is None:
            life = self.lives[number] if target == "channel" else None
            self._expect(call, outcome.result, life, arguments, options["timeout"])
        if self.closed:
            left = [event for event in outcome.events if not (call == "leave" and isinstance(event, LeaveEnded))]
            assert [*outcome.commands, *left, *outcome.runnable] == [], "something comes after the end"
        for command in outcome.commands:
            self._carry_out(command)
        for event in outcome.events:
            self._note(event)
        for channel in outcome.runnable:
            assert channel not in self.runnable, "a channel is runnable twice"
            self.runnable.append(channel)
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
        deadline = self.now + (self.setup.options.join.timeout if timeout is None else timeout)
        self.calls[ref] = Call(kind, ref, life, deadline, arguments[1] if kind == "push" else None)

    def _refuses(self, life: Life, payload: Any) -> bool | None:
        """Whether a channel refuses a push: it must, must not, or may for the pushes that wait already."""
        if not life.asked or life.over or (isinstance(payload, bytes) and self.setup.vsn == 1):
            return True
        return False if life.channel.state is ChannelState.JOINED else None

    def _report(self, size: int) -> None:
        self._handled += size
        self.tell("proto", 0, "handled", size, self.now)

    # ---- commands ----------------------------------------------------------------------------------------------------

    def _carry_out(self, command: Command) -> None:
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
                self._sends(command.data)
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
            case ResumeReading():
                assert connection.paused, "resumed without a pause"
                connection.paused = False
            case _:
                raise AssertionError(command)

    def _sends(self, data: str | bytes) -> None:
        request = self._server_side.decode(data)
        assert request.ref not in self._sent, "a ref was used twice"
        assert not self._ended[request.ref], "a call is sent after its end"
        self._sent.add(request.ref)
        if request.event == PHX_JOIN:
            self._joins.add(request.ref)
        elif request.event == PHX_LEAVE:
            self._joins.discard(request.join_ref)

    # ---- events ------------------------------------------------------------------------------------------------------

    def _note(self, event: Event) -> None:
        self._seen[type(event)] += 1
        if isinstance(event, ChannelEnded):
            self._channels_ended[event.topic] += 1
        if isinstance(event, InboxOverflow) and event.topic is not None:
            life = [life for life in self.lives if life.topic == event.topic][-1]
            assert life.bound is not None, "a bound that nobody set"
            self._evicted += event.dropped if life.bound.drop is Drop.OLDEST else 0
        ref = getattr(event, "ref", None)
        if ref is None:
            return
        self._ended[ref] += 1
        assert self._ended[ref] == 1, f"a call ends twice, now in {event!r}"
        if isinstance(event, PushFailed) and isinstance(event.error, PushLost | PushTimeout | PushCancelled):
            assert event.error.sent == (ref in self._sent), f"{event!r} is wrong on whether it was sent"
        call = self.calls.get(ref)
        if call is None and isinstance(event, LeaveEnded) and self._drained:
            return
        if call is None:
            self._casts -= 1
            assert isinstance(event, PushFailed), f"{event!r} ends what nobody called"
            assert self._casts >= 0, f"{event!r} ends what nobody called"
            return
        assert isinstance(event, _ENDINGS[call.kind]), f"{event!r} ends a {call.kind}"
        if isinstance(event, ReplyReceived):
            assert ref in self._sent, "a reply to what was never sent"
            assert event.reply.response in (call.payload, UNMATCHED), "another push's reply"

    # ---- messages ----------------------------------------------------------------------------------------------------

    def _receive(self, link: Link, frames: list[str | bytes]) -> None:
        """One read; every message that a joined channel is to have is in its inbox then."""
        proto = self.client.proto
        open_before = self.connection is not None and not self.connection.closing
        roomy = self.state is SocketState.OPEN and proto.stats.backlog < self.setup.options.flow.hard
        before = {
            life: (life.channel.join_ref, len(life.waiting))
            for life in self.lives
            if life.channel.state is ChannelState.JOINED and life.bound is None
        }
        messages = [message for frame in frames if (message := self._understood(frame)) is not None]
        for message in messages:
            if message.event == PHX_REPLY:
                self._joins.discard(message.ref or "")
            if (number := _number(message)) is not None:
                assert number not in self._read
                self._read[number] = Read(len(self._read), message.topic, message.join_ref)
        self._frames += len(frames) if open_before else 0
        self.tell("link", link.number, "receive_all", frames, self.now)
        for life, (join_ref, waiting) in before.items():
            if roomy and life.channel.state is ChannelState.JOINED and life.channel.join_ref == join_ref:
                mine = [one for one in messages if one.topic == life.topic and one.join_ref in (None, join_ref)]
                wanted = [one for one in mine if one.event == "news" or (life.tapped and one.event == "noise")]
                assert len(life.waiting) == waiting + len(wanted), "a message is missing"

    def _understood(self, frame: str | bytes) -> Message[Any] | None:
        try:
            return self._client_side.decode(frame)
        except InvalidFrame:
            return None

    def _look_at(self, life: Life, item: Message[Any] | Event) -> None:
        """What a channel delivers."""
        life.taken += 1
        if not isinstance(item, Message):
            assert life.tapped, "a lifecycle event without a tap"
            life.stream = item.join_ref if isinstance(item, ChannelJoined) else None
            return
        life.messages += 1
        assert item.topic == life.topic, "a message of another topic"
        assert life.cap is None or life.taken <= life.cap, "a message was delivered after the leave"
        if life.tapped:
            assert life.stream is not None, "a message was delivered while the channel was not joined"
            assert item.join_ref in (None, life.stream), "a message of another join was delivered"
        number = _number(item)
        assert number is not None, "a message was delivered that the server did not send"
        assert number not in self._delivered, "a message was delivered twice"
        self._delivered.add(number)
        read = self._read[number]
        assert (read.topic, read.join_ref) == (item.topic, item.join_ref)
        assert read.place > life.latest, "messages are out of order"
        life.latest = read.place

    # ---- what must always hold ---------------------------------------------------------------------------------------

    def check(self) -> None:
        """Between inputs."""
        stats = self.client.proto.stats
        waiting = [item for life in self.lives for item in life.waiting]
        messages = sum(life.messages for life in self.lives) + sum(isinstance(item, Message) for item in waiting)
        lifecycle = len(waiting) + sum(life.taken for life in self.lives) - messages
        assert stats.backlog == len(waiting) + sum(self.hands) + self.held
        assert stats.handled == self._handled
        assert stats.delivered == messages + self._evicted
        assert stats.delivered + lifecycle == stats.handled + stats.backlog + self._evicted
        assert stats.received + stats.bad_frames == self._frames
        assert stats.bad_frames == self._seen[BadFrame]
        assert stats.connects == self._seen[Connected]
        assert len(self._joins) <= self.setup.options.joins_in_flight, "more joins are under way than may be"
        over = Counter(life.topic for life in self.lives if life.channel.state is ChannelState.CLOSED)
        assert self._channels_ended == over, "a channel's end was not told once"

    def _check_closed(self, events: list[Event]) -> None:
        self.closed = True
        assert isinstance(events[-1], Closed), "the last event is not the end"
        assert self._seen[Closed] == 1
        assert self.client.proto.next_timeout() is None, "a timer is left"
        wire = self.client.proto._wire
        left = {name: table for name in _TABLES if (table := getattr(wire, name))}
        assert not left, "something is left in the tables"
        assert all(self._ended[ref] == 1 for ref in self.calls), "a call did not end"
        assert self.connection is None, "the client has ended and its connection has not"
        assert self.attempt is None, "the client has ended and its attempt has not"


def _put(item: Any) -> None:
    """What a tap of an adapter does; nobody calls it."""


def _number(message: Message[Any]) -> int | None:
    """The number that the server gave a message; junk has none that counts."""
    if message.event not in NUMBERED:
        return None
    number = int(message.payload) if isinstance(message.payload, bytes) else message.payload["n"]
    return number if number > 0 else None
