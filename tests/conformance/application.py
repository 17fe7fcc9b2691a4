"""The application that the recorded server ran (see `transcripts/README.md`), on `ServerProtocol` and without I/O.

An `Endpoint` holds the sockets and stands in for the parts of Phoenix around them: PubSub, timers, presence. Whoever
drives it tells the time, and calls `pump` after every input. What a handler raises crashes its channel, whatever it is,
as everywhere in Phoenix.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import msgspec

from phx_proto.errors import LocalError
from phx_proto.formats import ServerSerializer, serializer_for
from phx_proto.server.events import (
    ChannelHandle,
    ChannelTerminated,
    JoinRequested,
    MessageIn,
    ServerEvent,
    ServerOptions,
    SocketClosed,
    Termination,
)
from phx_proto.server.protocol import ServerProtocol
from phx_proto.server.tracker import Diff, Tracker
from phx_proto.timers import Timers
from phx_transports.server.handshake import read_params

EDGES: Final = {
    "big": 12345678901234567890,
    "bool": True,
    "ctl": 'a\u0000b\u001f\t\n"\\/\u2028</script>',
    "exp": 1.0e300,
    "f": 1.1,
    "huge": 10**40,
    "neg": -(2**63),
    "negzero": -0.0,
    "nested": {"a": [1, [2, {"b": []}]], "e": {}},
    "nil": None,
    "small": 5.0e-324,
    "unicode": "é漢🎉",
    "whole": 1.0,
}

#: What the sockets' mounts say of them, beside the release and the host of the endpoint.
_MOUNTS: Final[dict[str, dict[str, Any]]] = {"/shortsocket": {"timeout": 3.0}, "/limitsocket": {"max_channels": 3}}

#: The events by which the application itself pushes and broadcasts; any other was broadcast from outside.
OWN_EVENTS: Final = frozenset(
    {
        "phx_reply",
        "phx_close",
        "phx_error",
        "pushed",
        "bin_pushed",
        "broadcasted",
        "bin_broadcasted",
        "burst",
        "welcome",
    }
    | {"presence_state", "presence_diff"}
)

_UNTRACK_DELAY: Final = 0.001  # what it takes a real server to notice that a connection's channels are gone


class Crash(Exception):
    """What the recorded application raises on purpose."""


@dataclass(eq=False)
class Channel:
    """One joined channel: what a channel process knows."""

    endpoint: "Endpoint"
    socket: "Socket"
    id: ChannelHandle
    params: Any

    @property
    def topic(self) -> str:
        return self.id.topic

    def push(self, event: str, payload: Any) -> None:
        self.socket.protocol.push(self.id, event, _checked(payload))

    def broadcast(self, event: str, payload: Any) -> None:
        self.endpoint.broadcast(self.topic, event, payload)


@dataclass(eq=False)
class Socket:
    """One connection, with what came out of it."""

    protocol: ServerProtocol
    params: dict[str, Any]
    channels: dict[ChannelHandle, Channel] = field(default_factory=dict)

    @property
    def id(self) -> str | None:
        user = self.params.get("user_id")
        return None if user is None else f"user:{user}"


@dataclass(eq=False)
class Call:
    """One message being handled."""

    channel: Channel
    message: MessageIn
    now: float

    @property
    def payload(self) -> Any:
        return self.message.payload

    def reply(self, status: str = "ok", response: Any = None) -> None:
        self.channel.socket.protocol.reply(self.message, status, {} if response is None else response)

    def finish(self) -> None:
        self.channel.socket.protocol.finish(self.message)

    def later(self, action: Callable[[], None]) -> None:
        self.channel.endpoint.timers.at(self.now + self.payload["ms"] / 1000, lambda _: action())


class Endpoint:
    """The whole server but its network.

    Args:
        options: Which Phoenix to be, on which web server.
        make: Makes a socket's protocol.
    """

    def __init__(self, options: ServerOptions, make: Callable[..., ServerProtocol] = ServerProtocol) -> None:
        self.timers = Timers()
        self._options = options
        self._make = make
        self.tracker = Tracker(Random(1))
        self._sockets: list[Socket] = []
        self._attempts: dict[str, int] = {}

    def connect(self, url: str, now: float) -> Socket:
        """Open a socket; the URL was accepted."""
        parts = urlsplit(url)
        params = read_params(parts.query)
        mount = _MOUNTS.get(parts.path.rstrip("/").removesuffix("/websocket"), {})
        options = msgspec.structs.replace(self._options, **mount)
        serializer = _serializer(params)
        socket = Socket(self._make(serializer, ("room:*", "presence:*"), options=options, now=now), params)
        self._sockets.append(socket)
        return socket

    def get(self, url: str) -> None:
        """A plain HTTP request that acts on the sockets."""
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        if parts.path == "/broadcast":
            self._broadcast_from_outside(query)
        act = {"/disconnect": ServerProtocol.disconnect, "/drain": ServerProtocol.drain, "/kill": ServerProtocol.abort}
        if parts.path in act:
            for socket in self._of(query["id"]):
                act[parts.path](socket.protocol)

    def shutdown(self) -> None:
        """The server is told to stop (SIGTERM)."""
        for socket in self._sockets:
            socket.protocol.shutdown()

    def next_timeout(self) -> float | None:
        times = [self.timers.next(), *(socket.protocol.next_timeout() for socket in self._sockets)]
        return min((time for time in times if time is not None), default=None)

    def handle_timeout(self, now: float) -> None:
        self.timers.fire(now)
        for socket in self._sockets:
            socket.protocol.handle_timeout(now)

    def pump(self, now: float) -> None:
        """Handle every event there is."""
        while events := [(socket, event) for socket in self._sockets for event in socket.protocol.events()]:
            for socket, event in events:
                self._handle(socket, event, now)

    def broadcast(self, topic: str, event: str, payload: Any, *, but: ChannelHandle | None = None) -> None:
        for socket in self._sockets:
            if but not in socket.channels:
                socket.protocol.broadcast(topic, event, _checked(payload))

    def disconnect(self, socket_id: str | None) -> None:
        for socket in self._of(socket_id):
            socket.protocol.disconnect()

    # ---- events ------------------------------------------------------------------------------------------------------

    def _handle(self, socket: Socket, event: ServerEvent, now: float) -> None:
        match event:
            case JoinRequested(pattern="presence:*"):
                self._presence_join(socket, event)
            case JoinRequested():
                self._room_join(socket, event, now)
            case MessageIn():
                self._message(Call(socket.channels[event.channel], event, now))
            case ChannelTerminated():
                self._terminated(socket, event, now)
            case SocketClosed():
                pass

    def _joined(self, socket: Socket, event: JoinRequested, response: Any) -> None:
        socket.protocol.accept(event.channel, response)
        socket.channels[event.channel] = Channel(self, socket, event.channel, event.payload)

    def _presence_join(self, socket: Socket, event: JoinRequested) -> None:
        try:
            self._joined(socket, event, {"echo": event.payload})
        except LocalError:
            socket.protocol.crash_join(event.channel)
            return
        try:
            _presence_joined(socket.channels[event.channel])
        except Exception:
            socket.protocol.crash(event.channel)

    def _room_join(self, socket: Socket, event: JoinRequested, now: float) -> None:
        try:
            self._join(socket, event, now)
        except Exception:
            if event.channel in socket.channels:
                socket.protocol.crash(event.channel)
            else:
                socket.protocol.crash_join(event.channel)

    def _join(self, socket: Socket, event: JoinRequested, now: float) -> None:
        protocol, topic, params = socket.protocol, event.channel.topic, event.payload
        echo = params if isinstance(params, bytes) else {"echo": params}
        accept = partial(self._joined, socket, event)
        match topic:
            case "room:private":
                protocol.refuse(event.channel, {"reason": "unauthorized"})
            case "room:crash_join":
                protocol.crash_join(event.channel)
            case "room:slow_join":
                self.timers.at(now + 2, lambda _: accept(echo))
            case "room:empty_reply":
                accept({})
            case "room:close_soon" | "room:crash_soon":
                accept(echo)
                end = protocol.stop if topic == "room:close_soon" else protocol.crash
                self.timers.at(now + params.get("ms", 300) / 1000, lambda _: end(event.channel))
            case "room:push_on_join":
                accept(echo)
                protocol.push(event.channel, "welcome", {"hello": "world"})
            case "room:flaky":
                attempt = self._attempts[params["key"]] = self._attempts.get(params["key"], 0) + 1
                if attempt <= params["fail"]:
                    protocol.refuse(event.channel, {"reason": "flaky", "attempt": attempt})
                else:
                    accept({"attempt": attempt})
            case _:
                accept(echo)

    def _message(self, call: Call) -> None:
        handlers = PRESENCE_EVENTS if call.channel.topic.startswith("presence:") else ROOM_EVENTS
        handler = handlers.get(call.message.event)
        try:
            if handler is None:
                raise Crash
            handler(call)
        except Exception:
            call.channel.socket.protocol.crash(call.channel.id)
        if handler is not _slow_echo:
            call.finish()

    def _terminated(self, socket: Socket, event: ChannelTerminated, now: float) -> None:
        channel = socket.channels.pop(event.channel, None)
        if channel is None:
            return
        if event.reason is Termination.CONNECTION:
            self.timers.at(now + _UNTRACK_DELAY, lambda _: _untrack_all(channel))
        else:
            _untrack_all(channel)

    # ---- from outside ------------------------------------------------------------------------------------------------

    def _of(self, socket_id: str | None) -> list[Socket]:
        return [socket for socket in self._sockets if socket_id is not None and socket.id == socket_id]

    def _broadcast_from_outside(self, query: dict[str, str]) -> None:
        data = "x" * int(query.get("size", 0))
        for i in range(1, int(query.get("n", 1)) + 1):
            payload = _numbered(i, data) if "bin" in query else {"i": i, "data": data}
            with suppress(LocalError):  # for a V1 client: an HTTP 500
                self.broadcast(query["topic"], query["event"], payload)


def _serializer(params: dict[str, Any]) -> ServerSerializer:
    found = serializer_for(params.get("vsn"))
    assert found is not None, "the recorded server took it"
    return found


def _checked(payload: Any) -> Any:
    """What Phoenix.Channel pushes and broadcasts: an object or bytes."""
    if not isinstance(payload, dict | bytes):
        raise Crash
    return payload


# ---- what a room does -----------------------------------------------------------------------------------------------


def _numbered(i: int, data: str) -> bytes:
    return i.to_bytes(4, "big") + data.encode()


def _slow_echo(call: Call) -> None:
    def answer() -> None:
        call.reply("ok", call.payload)
        call.finish()

    call.later(answer)


def _reply_later(call: Call) -> None:
    call.later(lambda: call.reply("ok", call.payload))


def _broadcast(call: Call) -> None:
    call.channel.broadcast("broadcasted", call.payload)
    call.reply()


def _broadcast_from(call: Call) -> None:
    call.channel.endpoint.broadcast(call.channel.topic, "broadcasted", call.payload, but=call.channel.id)
    call.reply()


def _push(call: Call) -> None:
    call.channel.push("pushed", call.payload)
    call.reply()


def _burst(call: Call) -> None:
    n, data = call.payload["n"], "x" * call.payload.get("size", 0)
    for i in range(1, n + 1):
        call.channel.push("burst", {"i": i, "data": data})
    call.reply("ok", {"n": n})


def _bin_burst(call: Call) -> None:
    n, data = call.payload["n"], "x" * call.payload.get("size", 0)
    for i in range(1, n + 1):
        call.channel.push("burst", _numbered(i, data))
    call.reply("ok", {"n": n})


def _stop(call: Call) -> None:
    call.reply("ok", call.payload)
    call.channel.socket.protocol.stop(call.channel.id)


def _stop_noreply(call: Call) -> None:
    call.channel.socket.protocol.stop(call.channel.id)


def _crash(call: Call) -> None:
    raise Crash


def _bytes_of(payload: Any, filler: bytes) -> bytes:
    return payload if isinstance(payload, bytes) else filler * payload["size"]


def _bin_echo(status: str, call: Call) -> None:
    if not isinstance(call.payload, bytes):
        raise Crash
    call.reply(status, call.payload)


def _bin_push(call: Call) -> None:
    call.channel.push("bin_pushed", _bytes_of(call.payload, b"\xab"))
    call.reply()


def _bin_broadcast(call: Call) -> None:
    call.channel.broadcast("bin_broadcasted", _bytes_of(call.payload, b"\xcd"))
    call.reply()


def _from_bin(call: Call) -> None:
    call.reply("ok", {"size": len(call.payload), "hex": call.payload.hex()})


def _disconnect_me(call: Call) -> None:
    call.channel.endpoint.disconnect(call.channel.socket.id)
    call.reply()


def _null_reply(call: Call) -> None:
    call.channel.socket.protocol.reply(call.message, "ok", None)


def _echo(call: Call) -> None:
    call.channel.socket.protocol.reply(call.message, "ok", call.payload)


ROOM_EVENTS: Final[dict[str, Callable[[Call], None]]] = {
    "echo": _echo,
    "echo_error": lambda call: call.reply("error", call.payload),
    "echo_status": lambda call: call.reply("ok"),
    "echo_status_error": lambda call: call.reply("error"),
    "echo_custom_status": lambda call: call.reply("maybe", call.payload),
    "noreply": lambda call: None,
    "slow_echo": _slow_echo,
    "reply_later": _reply_later,
    "broadcast": _broadcast,
    "broadcast_from": _broadcast_from,
    "push": _push,
    "push_only": lambda call: call.channel.push("pushed", call.payload),
    "burst": _burst,
    "bin_burst": _bin_burst,
    "stop": _stop,
    "stop_noreply": _stop_noreply,
    "stop_shutdown": _stop_noreply,
    "stop_error": _crash,
    "crash": _crash,
    "bin_echo": partial(_bin_echo, "ok"),
    "bin_echo_error": partial(_bin_echo, "error"),
    "bin_push": _bin_push,
    "bin_broadcast": _bin_broadcast,
    "to_bin": lambda call: call.reply("ok", call.payload["text"].encode()),
    "from_bin": _from_bin,
    "disconnect_me": _disconnect_me,
    "kill_transport": lambda call: call.channel.socket.protocol.abort(),
    "connect_params": lambda call: call.reply("ok", call.channel.socket.params),
    "decimal": lambda call: call.reply("ok", EDGES),
    "float": lambda call: call.reply("ok", EDGES),
    "list_reply": lambda call: call.reply("ok", [1, 2, 3]),
    "string_reply": lambda call: call.reply("ok", "str"),
    "null_reply": _null_reply,
}

# ---- what a presence channel does ------------------------------------------------------------------------------------


def _name(channel: Channel) -> str:
    return str(channel.params.get("name", "anon"))


def _publish(channel: Channel, diff: Diff | None) -> None:
    if diff is not None:
        channel.broadcast("presence_diff", diff)


def _presence_joined(channel: Channel) -> None:
    tracker, name = channel.endpoint.tracker, _name(channel)
    _publish(channel, tracker.track(channel.topic, channel, name, {**channel.params.get("meta", {}), "name": name})[1])
    channel.push("presence_state", tracker.state(channel.topic))


def _untrack_all(channel: Channel) -> None:
    _publish(channel, channel.endpoint.tracker.untrack(channel.topic, channel))


def _track(call: Call) -> None:
    channel, name = call.channel, call.payload["name"]
    if channel.endpoint.tracker.find(channel.topic, channel, name) is not None:
        call.reply("error", {"reason": f'{{:already_tracked, #PID<0.1.0>, "{channel.topic}", "{name}"}}'})
        return
    ref, diff = channel.endpoint.tracker.track(channel.topic, channel, name, call.payload.get("meta", {}))
    call.reply("ok", {"phx_ref": ref})
    _publish(channel, diff)


def _update(call: Call) -> None:
    channel, name = call.channel, _name(call.channel)
    if channel.endpoint.tracker.find(channel.topic, channel, name) is None:
        call.reply("error", {"reason": ":nopresence"})
        return
    ref, diff = channel.endpoint.tracker.update(channel.topic, channel, name, {**call.payload, "name": name})
    call.reply("ok", {"phx_ref": ref})
    _publish(channel, diff)


def _untrack(call: Call) -> None:
    channel = call.channel
    call.reply()
    _publish(channel, channel.endpoint.tracker.untrack(channel.topic, channel, _name(channel)))


PRESENCE_EVENTS: Final[dict[str, Callable[[Call], None]]] = {
    "track": _track,
    "update": _update,
    "untrack": _untrack,
    "list": lambda call: call.reply("ok", call.channel.endpoint.tracker.state(call.channel.topic)),
    "crash": _crash,
    "echo": _echo,
}
