"""A `ServerProtocol` with helpers for its tests."""

import json
from typing import Any

from phx_proto.formats import V2Server
from phx_proto.server.events import ChannelHandle, JoinRequested, MessageIn, Send, ServerEvent, ServerOptions
from phx_proto.server.protocol import ServerProtocol

UNMATCHED = {"status": "error", "response": {"reason": "unmatched topic"}}
OK = {"status": "ok", "response": {}}


class Server(ServerProtocol):
    """Speaks vsn 2.0.0 and serves `room:*` and `exact`; the time is 0 unless a test tells it."""

    def __init__(self, *, last_words: bool = False, **options: Any) -> None:
        topics = ("room:*", "exact")
        super().__init__(V2Server(), topics, options=ServerOptions(**options), last_words=last_words, now=0.0)

    def hear(self, *frames: Any) -> list[ServerEvent]:
        """One read with these messages; what the application is told then."""
        self.receive_all([json.dumps(frame) for frame in frames], 0.0)
        return self.events()

    def said(self) -> list[Any]:
        """What was sent since the last time."""
        return [
            json.loads(command.data) if isinstance(command, Send) and isinstance(command.data, str) else command
            for command in self.commands()
        ]

    def ask(self, join_ref: Any = "1", topic: str = "room:a", payload: Any = None, ref: Any = ...) -> ChannelHandle:
        """A join that is not answered yet."""
        event = self.hear([join_ref, join_ref if ref is ... else ref, topic, "phx_join", payload])[-1]
        assert isinstance(event, JoinRequested)
        return event.channel

    def joined(self, join_ref: Any = "1", topic: str = "room:a", ref: Any = ...) -> ChannelHandle:
        """A join that was accepted."""
        channel = self.ask(join_ref, topic, ref=ref)
        self.accept(channel)
        self.commands()
        return channel

    def message(self, join_ref: Any = "1", ref: Any = "2", topic: str = "room:a", event: Any = "shout") -> MessageIn:
        """A message that the application was given."""
        (message,) = self.hear([join_ref, ref, topic, event, {}])
        assert isinstance(message, MessageIn)
        return message


def reply(join_ref: Any, ref: Any, topic: Any = "room:a", payload: Any = OK) -> list[Any]:
    return [join_ref, ref, topic, "phx_reply", payload]


def end(join_ref: Any, topic: str = "room:a", event: str = "phx_close", **payload: Any) -> list[Any]:
    return [join_ref, join_ref, topic, event, payload]
