"""A client with several sockets, and their server, which accepts only so many topics on each.

    farm = Farm(limit=2)
    farm.join("room:1", "room:2", "room:3")
    assert farm.topics() == {0: ["room:1", "room:2"], 1: ["room:3"]}

All that is under way arrives at once, unless `farm.held` is set; time moves only by `advance`. A message that is
handled is noted in `farm.heard`, by its topic.
"""

from collections import defaultdict
from typing import Any

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
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
from phx_proto.events import Event
from phx_proto.formats import V2, V2Server
from phx_proto.handlers.router import Router
from phx_proto.link import Link
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.server.events import ChannelHandle, ChannelTerminated, JoinRequested, MessageIn, Send, ServerOptions
from phx_proto.server.protocol import ServerProtocol
from phx_proto.states import SocketState


class Farm:
    """A client and its server.

    Args:
        limit: How many topics the server takes on a socket; `None` for any number.
        options: The client's.
        settings: More arguments for `ClientProtocol`.

    Attributes:
        limit: As given; of the sockets that are opened from then on.
        refuses: The status with which attempts to connect are refused, if they are.
        unheard: Topics on which the server answers no joins.
        garbled: Topics on which the server's replies cannot be read.
        held: Whether nothing arrives.
        handles: Whether messages are handled as they come.
        heard: What was handled, by topic.
        paused: The links that are not read.
    """

    def __init__(self, limit: int | None = None, options: ClientOptions | None = None, **settings: Any) -> None:
        router = Router()
        router.add(lambda message: None, "n")
        self.client = ClientProtocol("ws://farm/socket", router=router, options=options, **settings)
        self.limit = limit
        self.now = 0.0
        self.refuses: int | None = None
        self.held = False
        self.handles = True
        self.unheard: set[str] = set()
        self.garbled: set[str] = set()
        self.heard: defaultdict[str, list[int]] = defaultdict(list)
        self.paused: set[Link] = set()
        self.asked: list[Command] = []
        self.links: list[Link] = []  # the open ones, in the order in which they were opened
        self._servers: dict[Link, ServerProtocol] = {}
        self._handles: dict[Link, dict[str, ChannelHandle]] = {}
        self._numbers: defaultdict[str, int] = defaultdict(int)
        self._events: list[Event] = []

    def connect(self) -> "Farm":
        self.client.connect(self.now)
        return self.run()

    # ---- the application

    def join(self, *topics: str) -> list[Channel]:
        channels = [self.client.channel(topic) for topic in topics]
        for channel in channels:
            channel.join(self.now)
        self.run()
        return channels

    def leave(self, *topics: str) -> None:
        for topic in topics:
            self.channel(topic).leave(self.now)
        self.run()

    def channel(self, topic: str) -> Channel:
        channel = self.client.channels[topic]
        assert isinstance(channel, Channel)
        return channel

    def state(self) -> SocketState:
        return self.client.state

    def events(self, *kinds: type[Event]) -> list[Event]:
        """What has happened since the last time: all, or what is of some kinds."""
        events, self._events = self._events, []
        return [event for event in events if not kinds or isinstance(event, kinds)]

    # ---- the server

    def topics(self) -> list[list[str]]:
        """The topics that are joined on each open socket, as the server knows them, the oldest connection first."""
        return [list(self._handles[link]) for link in self.links]

    def broadcast(self, *topics: str) -> None:
        """The next number is sent on each of these topics, to whoever is joined."""
        for topic in topics:
            self._numbers[topic] += 1
            self.push(topic, "n", {"n": self._numbers[topic]})
        self.run()

    def push(self, topic: str, event: str, payload: Any) -> None:
        for link in self.links:
            if topic in self._handles[link]:
                self._servers[link].push(self._handles[link][topic], event, payload)

    def crash(self, topic: str) -> None:
        """The server's channel crashes."""
        for link in self.links:
            if topic in self._handles[link]:
                self._servers[link].crash(self._handles[link].pop(topic))
        self.run()

    def cut(self, *numbers: int, code: int | None = None) -> None:
        """These of the open connections are lost."""
        for link in [self.links[number] for number in numbers]:
            self._drop(link)
            link.closed(code, "cut", self.now)
        self.run()

    # ---- time

    def advance(self, seconds: float) -> "Farm":
        """Let time pass, timer by timer."""
        end = self.now + seconds
        for _ in range(100_000):
            due = self.client.next_timeout()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            self.client.handle_timeout(self.now)
            self.run()
        else:
            raise AssertionError("timers set each other anew without end")
        self.now = end
        return self

    def run(self) -> "Farm":
        """Let all arrive that is under way."""
        for _ in range(100_000):
            commands = self.client.commands()
            self.asked += commands
            for command in commands:
                self._obey(command)
            self._events += self.client.events()
            served = [] if self.held else [self._serve(link) for link in tuple(self.links)]
            handled = self.handles and self.handle()
            if not (commands or any(served) or handled):
                return self
        raise AssertionError("it never comes to rest")

    def handle(self) -> bool:
        """Handle all that waits; gives whether anything did."""
        queues = self.client.runnable()
        for queue in queues:
            while deliveries := queue.take():
                for _, message, _ in deliveries:
                    self.heard[message.topic].append(message.payload["n"])
                self.client.handled(deliveries, self.now)
        return bool(queues)

    # ---- private

    def _obey(self, command: Command) -> None:
        match command:
            case Resolve(request=request, provider=provider):
                self.client.resolved(request, provider(), self.now)
            case OpenTransport(link=link):
                if self.refuses is not None:
                    link.refused(self.refuses, {}, b"", self.now)
                    return
                options = ServerOptions(max_channels=self.limit, timeout=None)
                self._servers[link] = ServerProtocol(V2Server(), ("*",), options=options, now=self.now)
                self._handles[link] = {}
                self.links.append(link)
                link.opened(None, self.now)
            case SendText(link=link, data=data) | SendBinary(link=link, data=data):
                self._servers[link].receive(data, self.now)
            case CloseTransport(link=link):
                self._drop(link)
                link.closed(1000, "", self.now)
            case AbortTransport(link=link):
                self._drop(link)
            case PauseReading(link=link):
                self.paused.add(link)
            case ResumeReading(link=link):
                self.paused.discard(link)

    def _drop(self, link: Link) -> None:
        self._servers.pop(link, None)
        self._handles.pop(link, None)
        self.paused.discard(link)
        if link in self.links:
            self.links.remove(link)

    def _serve(self, link: Link) -> bool:
        """The application on the server does its part, and the client reads what comes of it."""
        server, handles = self._servers[link], self._handles[link]
        for event in server.events():
            match event:
                case JoinRequested(channel=handle):
                    if handle.topic not in self.unheard:
                        handles[handle.topic] = handle
                        server.accept(handle)
                case MessageIn():
                    server.reply(event)
                    server.finish(event)
                case ChannelTerminated(channel=handle):
                    if handles.get(handle.topic) is handle:
                        del handles[handle.topic]
                case _:
                    pass
        if link in self.paused:
            return False
        frames = [self._sent(command.data) for command in server.commands() if isinstance(command, Send)]
        if frames:
            link.receive_all(frames, self.now)
        return bool(frames)

    def _sent(self, frame: str | bytes) -> str | bytes:
        assert isinstance(frame, str)
        garbled = any(f'"{topic}"' in frame for topic in self.garbled)
        return frame.replace('"response":{}', '"response":1e999') if garbled else frame


def rooms(first: int, last: int) -> list[str]:
    """`room:1` to `room:350`, say."""
    return [f"room:{number}" for number in range(first, last + 1)]


def message(topic: str, join_ref: str | None, event: str) -> str | bytes:
    """A message that a server sends, be it one that no Phoenix would."""
    message = Message[Any](join_ref=join_ref, ref=None, topic=topic, event=event, payload={"n": 1})
    return V2().encode(message)
