"""Runs the whole core in an interpreter that can no longer import modules with I/O; started by test_purity.py.

`msgspec` is loaded first, for it loads what it needs of the standard library. From then on the modules below cannot be
imported, whether or not they had been. Client and server then talk through lists, and the time is a number.
"""

import importlib
import pkgutil
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import Any

import msgspec  # noqa: F401  # before the world is taken away

FORBIDDEN = frozenset(
    {
        "_asyncio",
        "_socket",
        "_ssl",
        "asyncio",
        "concurrent",
        "logging",
        "multiprocessing",
        "queue",
        "random",
        "select",
        "selectors",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "threading",
        "time",
    }
)


class NoWorld:
    """Finds nothing of the world."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: Any = None) -> ModuleSpec | None:
        if name.partition(".")[0] in FORBIDDEN:
            raise ImportError(f"{name} is not to be had here")
        return None


def take_the_world_away() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in FORBIDDEN:
            del sys.modules[name]
    sys.meta_path.insert(0, NoWorld)
    for name in FORBIDDEN:
        try:
            importlib.import_module(name)
        except ImportError:
            continue
        raise AssertionError(f"{name} could be imported")


def import_the_core() -> None:
    package = importlib.import_module("phx_proto")
    for module in pkgutil.walk_packages(package.__path__, "phx_proto."):
        importlib.import_module(module.name)


def run_the_core() -> None:
    """A client's whole life against a server: every part of the core has its turn."""
    from phx_proto.client import ClientProtocol
    from phx_proto.commands import CloseTransport, OpenTransport, Resolve, SendBinary, SendText
    from phx_proto.events import (
        ChannelEnded,
        ChannelErrored,
        ChannelJoined,
        Closed,
        Connected,
        Disconnected,
        JoinFailed,
        LeaveEnded,
        PingAnswered,
        PresenceChanged,
        PushFailed,
        ReplyReceived,
    )
    from phx_proto.formats import V1, V2, Serializer, ServerSerializer, V1Server, V2Server
    from phx_proto.handlers.router import Router
    from phx_proto.message import Message
    from phx_proto.server.events import Close, JoinRequested, MessageIn, Send
    from phx_proto.server.protocol import ServerProtocol

    class World:
        """A client and its server, with a list for a wire and a number for a clock."""

        def __init__(self, serializer: Serializer, server_serializer: ServerSerializer) -> None:
            router = Router()
            router.add(self.handle, "*", topic="room:*")
            self.now = 0.0
            self.client = ClientProtocol(
                "wss://example.com/socket", params=lambda: {"token": "x"}, serializer=serializer, router=router
            )
            self.server_serializer = server_serializer
            self.server = ServerProtocol(server_serializer, ("room:*",), now=0.0)
            self.link: Any = None
            self.events: list[Any] = []
            self.handled: list[Any] = []

        def handle(self, message: Message[Any]) -> None:
            self.handled.append(message.payload)

        def settle(self) -> None:
            """Carry what there is back and forth until nothing is left."""
            for _ in range(100):
                commands, answers = self.client.commands(), self.server.commands()
                if not (commands or answers):
                    return
                for command in commands:
                    self.carry_out(command)
                self.serve()
                for answer in answers:
                    self.deliver(answer)
                self.events += self.client.events()
                self.work()
            raise AssertionError("client and server never come to rest")

        def carry_out(self, command: Any) -> None:
            match command:
                case Resolve(request, provider):
                    self.client.resolved(request, provider(), self.now)
                case OpenTransport(link):
                    self.link = link
                    self.server = ServerProtocol(self.server_serializer, ("room:*",), now=self.now)
                    link.opened(None, self.now)
                case SendText(_, data) | SendBinary(_, data):
                    self.server.receive(data, self.now)
                case CloseTransport(link, code):
                    self.server.closed(code, "")
                case _:
                    raise AssertionError(command)

        def deliver(self, answer: Any) -> None:
            match answer:
                case Send(data):
                    self.link.receive(data, self.now)
                case Close(code):
                    self.link.closed(code, "", self.now)

        def serve(self) -> None:
            for event in self.server.events():
                match event:
                    case JoinRequested(channel, _, payload) if payload == {"refuse": True}:
                        self.server.refuse(channel, {"reason": "no"})
                    case JoinRequested(channel):
                        self.server.accept(channel, {"welcome": True})
                        self.server.push(channel, "presence_state", {"ann": {"metas": [{"phx_ref": "1"}]}})
                    case MessageIn(event="crash"):
                        self.server.crash(event.channel)
                    case MessageIn(event="stop"):
                        self.server.stop(event.channel)
                    case MessageIn(event="disconnect"):
                        self.server.disconnect()
                    case MessageIn():
                        self.server.broadcast(event.channel.topic, "news", event.payload)
                        self.server.reply(event, "ok", event.payload)
                        self.server.finish(event)

        def work(self) -> None:
            for inbox in self.client.runnable():
                while deliveries := inbox.take():
                    for handlers, message, _ in deliveries:
                        for handler in handlers:
                            handler.function(handler.accept(message))
                    self.client.handled(deliveries, self.now)

        def sleep(self, seconds: float) -> None:
            end = self.now + seconds
            while (due := self.client.next_timeout()) is not None and due <= end:
                self.now = max(self.now, due)
                self.client.handle_timeout(self.now)
                self.settle()
            self.now = end

        def saw(self, *kinds: type) -> None:
            """These events have come since it was asked last, in this order, among others."""
            coming = iter(self.events)
            for kind in kinds:
                assert any(isinstance(event, kind) for event in coming), (kind, self.events)
            self.events = []

    worlds = [World(V2(), V2Server()), World(V1(), V1Server())]
    for world, payload in zip(worlds, (b"\x00\xff", {"a": 1}), strict=True):
        client = world.client
        client.connect(world.now, timeout=5)
        world.settle()
        world.saw(Connected)

        channel = client.channel("room:lobby", {"since": 0})
        presence = channel.track_presence()
        channel.join(world.now)
        channel.push("echo", {"early": True}, world.now)
        world.settle()
        world.saw(ChannelJoined, PresenceChanged, ReplyReceived)
        assert list(presence.entries) == ["ann"]

        channel.push("echo", payload, world.now)
        client.ping(world.now)
        world.settle()
        world.saw(PingAnswered)
        assert world.handled[-2:] == [{"early": True}, payload]

        world.link.receive("{not json", world.now)
        client.channel("room:secret", {"refuse": True}).join(world.now)
        world.settle()
        world.saw(JoinFailed)
        assert client.stats.bad_frames == 1

        channel.push("crash", {}, world.now)
        world.settle()
        world.saw(PushFailed, ChannelErrored)
        world.sleep(2)
        world.saw(ChannelJoined)

        channel.push("disconnect", {}, world.now)
        world.settle()
        world.saw(Disconnected, PushFailed, ChannelErrored)
        world.sleep(5)
        world.saw(Connected, ChannelJoined)

        other = client.channel("room:other")
        other.join(world.now)
        other.push("stop", {}, world.now)
        world.settle()
        world.saw(ChannelJoined, PushFailed, ChannelEnded)

        world.sleep(65)
        world.server.handle_timeout(world.now)
        world.settle()
        assert client.stats.reconnects == 1, "its heartbeats kept the connection"

        left = client.channel("room:left")
        left.join(world.now)
        world.settle()
        left.leave(world.now)
        world.settle()
        world.saw(LeaveEnded)

        client.close(world.now)
        world.settle()
        world.saw(LeaveEnded, Closed)


if __name__ == "__main__":
    take_the_world_away()
    import_the_core()
    run_the_core()
    assert not FORBIDDEN & set(sys.modules)
    sys.stdout.write("the core ran\n")
