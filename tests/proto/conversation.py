"""A client and its server in conversation, with no network between them: the test plays the application and the server.

    talk = Conversation().connect()
    room = talk.joined("room:1")
    ref = talk.push(room, "shout", {"body": "hi"})
    assert talk.sent() == [("1", ref, "room:1", "shout", {"body": "hi"})]
    talk.reply(ref, "ok", {"id": 7})
    assert talk.events() == [ReplyReceived("room:1", "shout", ref, Reply("ok", {"id": 7}))]

`sent()`, `events()`, `commands()` and `deliveries()` give what has come since they were asked last. `now` moves only by
`advance`. Heartbeats are answered, and not shown, until `answers_heartbeats` is set to false. There is no random
source, so every wait is the longest of its range. Calls that are made through this class are known to it, and it checks
that each ends once.

When a test is over, `conftest.py` ends each of its conversations and checks what must always hold (see `check`).
"""

import sys
from collections import Counter
from math import inf
from typing import Any, ClassVar, Final, NamedTuple, TypeVar, cast

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import Command, OpenTransport, Resolve, SendBinary, SendText
from phx_proto.events import ChannelEvent, Event, JoinFailed, PushFailed
from phx_proto.flow import Flow
from phx_proto.formats import V1, V2, Serializer, V1Server, V2Server
from phx_proto.link import Link
from phx_proto.message import HEARTBEAT, PHOENIX_TOPIC, PHX_CLOSE, PHX_ERROR, PHX_JOIN, PHX_LEAVE, Message
from phx_proto.options import ClientOptions, JoinPolicy
from phx_proto.queues import DeliveryQueue
from phx_proto.states import SocketState

E = TypeVar("E", bound=Event)

URL = "ws://localhost:4000/socket"
START = 1000.0
EMPTY: Final[dict[str, Any]] = {}
STEPS: Final = (0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.5, 1, 2, 5)  # of the waits before reconnects


class Frame(NamedTuple):
    """A message that the client sent; compare it with a plain tuple."""

    join_ref: str | None
    ref: str
    topic: str
    event: str
    payload: Any


class Conversation:
    """One client and what it says.

    Args:
        options: The client's.
        url: The client's.
        vsn: 2 or 1.
        serializer: The client's, of that version, if not the library's own.
        settings: More arguments for `ClientProtocol`.
    """

    _going_on: ClassVar[list["Conversation"]] = []

    def __init__(
        self,
        options: ClientOptions | None = None,
        *,
        url: str = URL,
        vsn: int = 2,
        serializer: Serializer | None = None,
        now: float = START,
        **settings: Any,
    ) -> None:
        self._server = V2Server() if vsn == 2 else V1Server()
        self._client = serializer or (V2() if vsn == 2 else V1())
        self.proto = ClientProtocol(url, serializer=self._client, options=options, **settings)
        self.now = now
        self.answers_heartbeats = True
        self.links: list[Link] = []
        self.questions: list[Resolve] = []  # not answered yet
        self._sent: list[Frame] = []
        self._by_ref: dict[str, Frame] = {}
        self._events: list[Event] = []
        self._commands: list[Command] = []
        self._runnable: list[DeliveryQueue] = []  # given out, and not empty when last seen
        self._calls: dict[str, tuple[str, str]] = {}  # topic and event by ref
        self._ended: Counter[str] = Counter()
        self._going_on.append(self)

    # ---- what came of it, since the last time

    def sent(self) -> list[Frame]:
        """The messages that the client sent."""
        self._pump()
        sent, self._sent = self._sent, []
        return sent

    def events(self) -> list[Event]:
        """The events."""
        self._pump()
        events, self._events = self._events, []
        return events

    def event(self, kind: type[E]) -> E:
        """The only event of that kind; the others are dropped."""
        (event,) = [event for event in self.events() if isinstance(event, kind)]
        return event

    def commands(self) -> list[Command]:
        """The commands that sent nothing."""
        self._pump()
        commands, self._commands = self._commands, []
        return commands

    def deliveries(self) -> list[tuple[str, str, Any]]:
        """Topic, event and payload of every message that waits for handlers; they are handled now."""
        return [(message.topic, message.event, message.payload) for message in self.handle(sys.maxsize)]

    def handle(self, most: int) -> list[Message[Any]]:
        """Handlers take so many messages of those that wait, and are done with them."""
        self._runnable += [*self.proto.runnable(), *self.proto.executable()]
        messages: list[Message[Any]] = []
        while self._runnable and len(messages) < most:
            deliveries = self._runnable[0].take(most - len(messages))
            if not deliveries:
                del self._runnable[0]
            messages += [message for _, message, _ in deliveries]
            self.proto.handled(deliveries, self.now)
        return messages

    def tapped(self) -> list[Message[Any] | ChannelEvent]:
        """What came through taps; it is read now."""
        items = [item for _, item in self.proto.tapped()]
        self.proto.handled([item for item in items if isinstance(item, tuple)], self.now)
        return [item[1] if isinstance(item, tuple) else item for item in items]

    # ---- time

    def advance(self, seconds: float) -> "Conversation":
        """Let time pass, as an adapter does it: timer by timer."""
        end = self.now + seconds
        for _ in range(10_000):
            self._pump()
            due = self.proto.next_timeout()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.proto.handle_timeout(self.now)
        else:
            raise AssertionError("timers set each other anew without end")
        self.now = end
        self._pump()
        return self

    # ---- the connection

    @property
    def link(self) -> Link:
        """The latest."""
        self._pump()
        return self.links[-1]

    def connect(self) -> "Conversation":
        """Connect and be accepted; what was sent and happened then is not shown."""
        self.proto.connect(self.now)
        return self.accept()

    def accept(self) -> "Conversation":
        """The server accepts the attempt that is under way. Events of connecting are not shown; frames sent are."""
        self.link.opened(None, self.now)
        self.commands()
        self.events()
        return self

    def drop(self, code: int | None = None, reason: str = "cut") -> None:
        """The connection is lost."""
        self.link.closed(code, reason, self.now)
        self._pump()

    def reconnect(self) -> "Conversation":
        """The connection is lost, and back after the shortest wait."""
        self.drop()
        wait = self.proto.next_timeout()
        assert wait is not None
        self.advance(wait - self.now)
        return self.accept()

    def resolve(self, value: Any) -> None:
        """The oldest question (`Resolve`) is answered."""
        self._pump()
        self.proto.resolved(self.questions.pop(0).request, value, self.now)
        self._pump()

    def resolve_failed(self, error: BaseException) -> None:
        """The callable of the oldest question raised."""
        self._pump()
        self.proto.resolve_failed(self.questions.pop(0).request, error, self.now)
        self._pump()

    # ---- the application speaks

    def channel(self, topic: str = "room:1", params: Any = None, **settings: Any) -> Channel:
        return self.proto.channel(topic, params, **settings)

    def joining(self, topic: str = "room:1", params: Any = None, **settings: Any) -> Channel:
        """A channel that was asked to join; its join is among what was sent."""
        channel = self.channel(topic, params)
        self.join(channel, **settings)
        return channel

    def joined(self, topic: str = "room:1", params: Any = None, response: Any = EMPTY, **settings: Any) -> Channel:
        """A channel that is joined; what was sent and happened then is not shown."""
        channel = self.joining(topic, params, **settings)
        self._pump()
        assert channel.join_ref is not None
        self.reply(channel.join_ref, "ok", response)
        self.sent()
        self.events()
        return channel

    def join(self, channel: Channel, **settings: Any) -> str:
        return self._called(channel.join(self.now, **settings), channel.topic, PHX_JOIN)

    def leave(self, channel: Channel, **settings: Any) -> str:
        return self._called(channel.leave(self.now, **settings), channel.topic, PHX_LEAVE)

    def push(self, channel: Channel, event: str = "shout", payload: Any = EMPTY, **settings: Any) -> str:
        return self._called(channel.push(event, payload, self.now, **settings), channel.topic, event)

    def cast(self, channel: Channel, event: str = "shout", payload: Any = EMPTY) -> None:
        channel.cast(event, payload, self.now)

    def cancel(self, channel: Channel, ref: str) -> None:
        channel.cancel(ref, self.now)

    def cancel_join(self, channel: Channel, ref: str) -> None:
        channel.cancel_join(ref, self.now)

    def ping(self, **settings: Any) -> str:
        return self._called(self.proto.ping(self.now, **settings), PHOENIX_TOPIC, HEARTBEAT)

    # ---- the server speaks

    def reply(self, ref: str | None, status: str = "ok", response: Any = EMPTY) -> None:
        """The server answers what was sent with that ref."""
        self._pump()
        assert ref is not None
        asked = self._by_ref[ref]
        self.receive(self._server.reply(asked.join_ref, ref, asked.topic, status, response))

    def serve(
        self, topic: str, event: str, payload: Any = EMPTY, *, join_ref: str | None = None, ref: str | None = None
    ) -> None:
        """The server sends a message, be it one that no Phoenix sends; without a join_ref it is a broadcast."""
        if not isinstance(payload, dict | bytes):
            message = Message[Any](join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)
            self.receive(self._client.encode(message))
            return
        self.receive(self._server.push(join_ref, topic, event, payload, ref=ref))

    def close_channel(self, topic: str, join_ref: str | None) -> None:
        """The server ends a channel."""
        self.serve(topic, PHX_CLOSE, join_ref=join_ref, ref=join_ref)

    def crash_channel(self, topic: str, join_ref: str | None, payload: Any = EMPTY) -> None:
        """The server's channel crashes."""
        self.serve(topic, PHX_ERROR, payload, join_ref=join_ref, ref=join_ref)

    def receive(self, *frames: str | bytes) -> None:
        """One read brings these frames."""
        self.link.receive_all(frames, self.now)
        self._pump()

    # ---- inside the core

    @property
    def channels(self) -> dict[str, Channel]:
        """The live channels by topic."""
        return cast("dict[str, Channel]", self.proto._client.channels)

    @property
    def flow(self) -> Flow:
        """The back-pressure of the open connection."""
        return next(self.proto._sockets.connections).flow

    # ---- what must always hold

    def check(self) -> None:
        """End the client: nothing is left of it, and every call has ended once."""
        if self.proto.state is not SocketState.CLOSED:
            self.proto.abort(self.now)
        self._pump()
        assert self.proto.next_timeout() is None, "a timer is left"
        assert dict(self._ended) == dict.fromkeys(self._calls, 1), "a call did not end exactly once"
        left = [name for name in _TABLES if getattr(self.proto._client, name)]
        left += [name for name in _SOCKET_TABLES for socket in self.proto._sockets.all if getattr(socket, name)]
        assert not left, "something is left in the tables"

    @classmethod
    def check_all(cls) -> None:
        """Check every conversation that was begun since the last time."""
        going_on, cls._going_on[:] = cls._going_on[:], []
        for conversation in going_on:
            conversation.check()

    # ---- private

    def _called(self, ref: str, topic: str, event: str) -> str:
        self._calls[ref] = topic, event
        self._pump()
        return ref

    def _pump(self) -> None:
        for command in self.proto.commands():
            if isinstance(command, SendText | SendBinary):
                self._said(command)
                continue
            if isinstance(command, OpenTransport):
                self.links.append(command.link)
            elif isinstance(command, Resolve):
                self.questions.append(command)
            else:
                assert command.link in self.links, f"{command!r} is for no link of ours"
            self._commands.append(command)
        events = self.proto.events()
        for event in events:
            self._check_event(event)
        self._events += events
        self._ended.update(ref for event in events if (ref := _ended_by(event)) in self._calls)

    def _check_event(self, event: Event) -> None:
        """It names what the call was about, and so does its error, which tells whether that was sent."""
        ref = getattr(event, "ref", None)
        error: Any = getattr(event, "error", None)
        about = dict(zip(("topic", "event"), self._calls.get(ref or "", ()), strict=False))
        for told in (event, error):
            for name in ("topic", "event"):
                expected = about.get(name, getattr(event, name, getattr(error, name, None)))
                assert getattr(told, name, expected) == expected, f"{told!r} is not of {expected!r}"
        if hasattr(error, "sent"):
            assert error.sent is (ref in self._by_ref), f"{error!r} is wrong about that"
        for name in ("problem", "reason"):
            assert getattr(error, name, ...) is not None, f"{error!r} does not say why"

    def _said(self, command: SendText | SendBinary) -> None:
        assert command.link is self.links[-1], "something was sent on a link that is over"
        request = self._server.decode(command.data)
        frame = Frame(request.join_ref, request.ref, request.topic, request.event, request.payload)
        assert frame.ref not in self._by_ref, "a ref was used twice"
        self._by_ref[frame.ref] = frame
        if (frame.topic, frame.event) == (PHOENIX_TOPIC, HEARTBEAT) and self.answers_heartbeats:
            self.receive(self._server.reply(None, frame.ref, PHOENIX_TOPIC, "ok", {}))
            return
        self._sent.append(frame)


def connected(**join: Any) -> Conversation:
    """A conversation whose client is connected and whose channels join by this policy."""
    return Conversation(ClientOptions(join=JoinPolicy(**join))).connect()


def joined() -> tuple[Conversation, Channel]:
    """A client, and a channel that is joined."""
    talk = Conversation().connect()
    return talk, talk.joined("room:1")


def not_yet_joined() -> tuple[Conversation, Channel]:
    """A client, and a channel whose join is under way."""
    talk = Conversation().connect()
    room = talk.joining("room:1")
    talk.sent()
    return talk, room


def accept_join(talk: Conversation, room: Channel) -> None:
    talk.sent()
    talk.reply(room.join_ref)


def dialling(options: ClientOptions | None = None, *, timeout: float = inf, **settings: Any) -> Conversation:
    """A client that has begun to connect."""
    talk = Conversation(options, **settings)
    talk.proto.connect(talk.now, timeout=timeout)
    return talk


def opening(talk: Conversation) -> OpenTransport:
    """The one attempt to connect."""
    (command,) = [command for command in talk.commands() if isinstance(command, OpenTransport)]
    return command


def failure(talk: Conversation, kind: type[JoinFailed | PushFailed]) -> Any:
    """The error of the one call that failed."""
    return talk.event(kind).error


def names(frames: list[Frame]) -> list[tuple[str, str]]:
    """Topic and event of each."""
    return [(frame.topic, frame.event) for frame in frames]


# ---- private

_TABLES = ("channels", "resolving", "unsent")  # of the client
_SOCKET_TABLES = ("connection", "members")  # of each of its sockets


def _ended_by(event: Event) -> str | None:
    """The ref of the call that the event ends, if it ends one."""
    return getattr(event, "ref", None)
