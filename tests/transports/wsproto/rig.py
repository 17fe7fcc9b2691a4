"""A machine, its core, and a server of bytes at the other end."""

import json
from typing import Any

from frames import LIMIT, text
from wsproto.connection import Connection, ConnectionType
from wsproto.events import Event, TextMessage
from wsproto.utilities import generate_accept_token

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.client import ClientProtocol
from phx_proto.options import ClientOptions
from phx_proto.states import ChannelState
from phx_transports.wsproto import Machine, Stream

URL = "ws://example.com:4000/socket"


class Rig:
    """A core on a machine, and the server's end of its latest stream. The time stands still unless a test moves it."""

    def __init__(self, url: str = URL, *, max_size: int | None = LIMIT, **options: Any) -> None:
        options.setdefault("options", ClientOptions(reconnect=ReconnectPolicy(schedule=Backoff((1.0,)))))
        self.proto = ClientProtocol(url, **options)
        self.machine = Machine(self.proto, max_size=max_size)
        self.now = 0.0
        self.request = b""
        self.proto.connect(self.now)
        self.stream: Stream

    def dial(self) -> Stream:
        (stream,) = self.machine.streams()
        self.stream = stream
        self._server = Connection(ConnectionType.SERVER)
        stream.connected(self.now)
        self.request = stream.data_to_send()
        return stream

    def lines(self) -> list[str]:
        return self.request.decode().split("\r\n")

    def header(self, name: str) -> list[str]:
        fields = [line.partition(": ") for line in self.lines()[1:]]
        return [value for field, _, value in fields if field.lower() == name]

    def response(self, *more: str, **changes: str) -> bytes:
        (key,) = self.header("sec-websocket-key")
        fields = {
            "Connection": "keep-alive, Upgrade",
            "Upgrade": "websocket",
            "Sec-WebSocket-Accept": generate_accept_token(key.encode()).decode(),
        }
        fields |= {name.replace("_", "-"): value for name, value in changes.items()}
        lines = [f"{name}: {value}" for name, value in fields.items()]
        return "\r\n".join(["HTTP/1.1 101 Switching Protocols", *lines, *more, "", ""]).encode()

    def open(self, rest: bytes = b"") -> Stream:
        stream = self.dial()
        stream.receive_data(self.response() + rest, self.now)
        return stream

    def feed(self, *reads: bytes) -> None:
        for read in reads:
            self.stream.receive_data(read, self.now)

    def written(self) -> list[Event]:
        """What the client has written since the handshake."""
        if data := self.stream.data_to_send():
            self._server.receive_data(data)
        return list(self._server.events())

    def told(self, *kinds: type[Any]) -> list[Any]:
        return [event for event in self.proto.events() if isinstance(event, kinds)]

    def join(self, topic: str = "room:a") -> Any:
        """A joined channel."""
        channel = self.proto.channel(topic)
        channel.join(self.now)
        join = self.sent()[-1]
        self.feed(reply(join))
        assert channel.state is ChannelState.JOINED
        return channel

    def sent(self) -> list[Any]:
        return [json.loads(event.data) for event in self.written() if isinstance(event, TextMessage)]


def reply(to: Any, *, status: str = "ok") -> bytes:
    join_ref, ref, topic, *_ = to
    return text(json.dumps([join_ref, ref, topic, "phx_reply", {"status": status, "response": {}}]))


def push(event: str, payload: Any, topic: str = "room:a") -> bytes:
    return text(json.dumps([None, None, topic, event, payload]))


# ---- what is to be opened -------------------------------------------------------------------------------------------
