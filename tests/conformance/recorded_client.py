"""Plays a recorded connection to the client core, and checks the result of each line.

What the recorded client did becomes calls on a `ClientProtocol`: a `phx_join` joins a channel, a `phx_leave` leaves it,
a heartbeat pings, any other message of a channel's join pushes. What the recorded server sent is given to the core as
it stands, but for its refs: the core chooses its own, so those of the recording are replaced by what the core chose for
the same request. What the recorded client sent and our core never would (malformed frames, another join's join_ref, a
topic it has not joined) becomes no call, and no call waits for the server's answer to it. The core is
judged by an `Account`.

The recorded client decides when it heartbeats and when it rejoins, so the core's own timers never fire, but for a
rejoin that the recording has as well. Where the connection is full, our core joins on another, which never opens here.
"""

import json
from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import Any, ClassVar, Final

import msgspec
from account import Account, Membership, Outcome, plain
from handshakes import Connection
from recorded import Line

from phx_proto.backoff import Backoff
from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import OpenTransport, SendBinary, SendText
from phx_proto.errors import InvalidFrame, InvalidPayload
from phx_proto.events import Connected, Connecting, PresenceChanged
from phx_proto.formats import V1, V2, Request, V1Server, V2Server
from phx_proto.formats.binary import BROADCAST, REPLY, SERVER_SENDS, pack, unpack
from phx_proto.handlers.router import Router
from phx_proto.link import Link
from phx_proto.message import HEARTBEAT, PHOENIX_TOPIC, PHX_CLOSE, PHX_ERROR, PHX_JOIN, PHX_LEAVE, PHX_REPLY, Message
from phx_proto.options import ClientOptions, JoinPolicy
from phx_proto.states import ChannelState, SocketState
from phx_proto.transports import TransportName

_OPTIONS: Final = ClientOptions(
    heartbeat=1e9, join=JoinPolicy(timeout=1e9, backoff=Backoff((1e-9,))), joins_in_flight=10_000
)


class RecordedClient:
    """One recorded connection, played to a core of its own.

    Attributes:
        problems: Where the core and the account differ: the line, what came, what should have.
        seen: Every outcome, in order, for tests that look for a certain one.
        delivered: Every message that was delivered, as topic, event and payload.
        calls: The refs of the calls that were made.
        ended: How often each of them ended.
        presences: How often the server's own list of who is there could be compared.
    """

    TRANSPORT: ClassVar[TransportName] = "websocket"

    def __init__(self, handshake: Connection) -> None:
        self.problems: list[tuple[Any, ...]] = []
        self.seen: list[Outcome] = []
        self.delivered: list[Outcome] = []
        self.calls: set[str] = set()
        self.ended: Counter[str] = Counter()
        self.presences = 0
        self._server = handshake.serializer
        router = Router()
        router.add(_never_called, "*")
        self.core = ClientProtocol(
            f"ws://recorded{handshake.path}",
            serializer=V1() if isinstance(self._server, V1Server) else V2(),
            router=router,
            options=_OPTIONS,
            transport=self.TRANSPORT,
            auth_token=handshake.token,
        )
        self._account = Account()
        self._channels: dict[str, Channel] = {}
        self._refs: dict[tuple[str, str], str] = {}  # topic and recorded ref of a request: ours
        self._join_refs: dict[tuple[str, str], str] = {}  # the same of joins
        self._joined_with: dict[str, Any] = {}  # topic: the recorded join_ref of its current join
        self._requests: dict[str, Request] = {}  # ours: what it has to carry
        self.core.connect(handshake.time)
        self.link: Link = self._open(handshake)
        assert [type(event) for event in self.core.events()] == [Connecting, Connected]

    def _open(self, handshake: Connection) -> Link:
        (opening,) = self.core.commands()
        assert isinstance(opening, OpenTransport)
        opening.link.opened(handshake.subprotocol, handshake.time)
        return opening.link

    def play(self, line: Line) -> None:
        """One line of the recording."""
        now = line.time
        expected: list[Outcome] = []
        delivered: list[Outcome] = []
        match line.kind, line.op:
            case "send", "text" | "binary":
                expected = self._send(line)
            case "recv", "text" | "binary":
                expected, delivered = self._receive(line)
            case "send", "close" if not self._is_over:
                self.core.disconnect(now)
                expected = self._account.gone()
            case "recv", "close" if not self._is_over:
                self.link.closed(line.code, line.fields["reason"], now)
                expected = self._account.lost(("disconnected", line.code, line.fields["reason"]), line.code)
            case ("recv", "close") | ("eof", _) if self.link.current:
                expected = [("closed", None)]
                if not self._is_closing:
                    expected = self._account.lost(("disconnected", None, "end of the stream"), None)
                self.link.closed(None, "end of the stream", now)
            case "tcp_close", _:
                self.core.abort(now)
                expected = [*self._account.gone(), ("closed", None)]
            case _:
                return
        self._check(line, expected, delivered)

    def finish(self, now: float) -> None:
        """The recording is over; whoever still waits for something is told now."""
        self.core.abort(now)
        if self.link.current or self._account.here or self._account.leaving:
            self._check("the end", [*self._account.gone(), ("closed", None)], [])

    # ---- private: the recorded client --------------------------------------------------------------------------------

    def _send(self, line: Line) -> list[Outcome]:
        try:
            request = self._server.decode(line.data)
        except InvalidFrame:
            return []
        if not (isinstance(request.topic, str) and isinstance(request.event, str)) or self._is_over:
            return []
        try:
            return self._call(request, line.time)
        except InvalidPayload:
            return []

    def _call(self, request: Request, now: float) -> list[Outcome]:
        topic = request.topic
        channel, fits = self._channels.get(topic), request.join_ref == self._joined_with.get(topic, _NOBODY)
        if request.event == PHX_JOIN:
            return self._join(request, channel, now)
        if topic == PHOENIX_TOPIC and request.event == HEARTBEAT:
            ref = self.core.ping(now)
            self._account.pings.append(ref)
            self._made(request, ref)
        elif channel is None or not fits or topic not in self._account.here:
            return []
        elif request.event == PHX_LEAVE:
            return self._leave(request, channel, now)
        elif self._account.here[topic].state != "crashed":
            ref = channel.push(request.event, request.payload, now, timeout=inf)
            self._account.here[topic].pushes[ref] = (request.event, channel.state is ChannelState.JOINED)
            self._made(request, ref)
        return []

    def _join(self, request: Request, channel: Channel | None, now: float) -> list[Outcome]:
        topic = request.topic
        outcomes: list[Outcome] = []
        if topic in self._account.here and self._account.here[topic].state == "crashed":
            assert channel is not None
            self.core.handle_timeout(now)  # every channel that crashed is joined again, whoever asked for it
            self._account.here[topic].state = "joining"
        else:
            if topic in self._account.here and channel is not None:  # a client of ours has to leave it first
                outcomes = self._account.left(topic, channel.leave(now, timeout=inf))
            channel = self.core.channel(topic, request.payload)
            if topic.startswith("presence:"):
                channel.track_presence()
            ref = channel.join(now, timeout=inf)
            self._channels[topic] = channel
            self._account.here[topic] = Membership(topic, join=ref)
            self.calls.add(ref)
            if channel.join_ref is None:  # it is joined on another connection, for this one is full
                self._joined_with.pop(topic, None)
                return outcomes
            self._requests[channel.join_ref] = request  # a rejoin carries the same params again
        assert channel.join_ref is not None
        self._account.here[topic].join_ref = channel.join_ref
        self._joined_with[topic] = request.join_ref
        self._refs[topic, _text(request.ref)] = self._join_refs[topic, _text(request.ref)] = channel.join_ref
        return outcomes

    def _leave(self, request: Request, channel: Channel, now: float) -> list[Outcome]:
        ref = channel.leave(now, timeout=inf)
        self._made(request, ref)
        del self._joined_with[request.topic]
        return self._account.left(request.topic, ref)

    def _made(self, request: Request, ref: str) -> None:
        self._refs[request.topic, _text(request.ref)] = ref
        self.calls.add(ref)
        if request.event not in (PHX_LEAVE, HEARTBEAT):  # what these carry is never looked at
            self._requests[ref] = request

    # ---- private: the recorded server --------------------------------------------------------------------------------

    def _receive(self, line: Line) -> tuple[list[Outcome], list[Outcome]]:
        frame, message = self._translated(line.data)
        self.link.receive(frame, line.time)
        return ([], []) if self._is_over else self._brings(message)

    def _brings(self, message: Message[Any]) -> tuple[list[Outcome], list[Outcome]]:
        """What comes of a message, and what is delivered."""
        outcomes, is_delivered = self._account.received(message)
        return outcomes, [(message.topic, message.event, message.payload)] if is_delivered else []

    def _translated(self, frame: str | bytes) -> tuple[str | bytes, Message[Any]]:
        """The frame with our refs in place of the recorded ones, and what it says, read by another parser."""
        if isinstance(frame, bytes):
            kind, fields, data = unpack(SERVER_SENDS, frame)
            if kind == BROADCAST:
                return frame, Message(topic=fields[0], event=fields[1], payload=data)
            topic = fields[-2]
            fields[0] = self._our_join_ref(topic, fields[0]) or ""
            if kind == REPLY:
                fields[1] = self._our_ref(topic, fields[1]) or ""
                payload = {"status": fields[3], "response": data}
                message = Message[Any](
                    join_ref=fields[0] or None, ref=fields[1], topic=topic, event=PHX_REPLY, payload=payload
                )
            else:
                message = Message(join_ref=fields[0] or None, topic=topic, event=fields[2], payload=data)
            return pack(SERVER_SENDS, kind, tuple(fields), data), message
        if isinstance(self._server, V2Server):
            join_ref, ref, topic, event, payload = json.loads(frame)
            parts = msgspec.json.decode(frame, type=list[msgspec.Raw])
            refs = [self._our_join_ref(topic, join_ref), self._our_ref(topic, ref, event)]
            translated = msgspec.json.encode([*refs, *parts[2:]]).decode()
            return translated, Message(join_ref=refs[0], ref=refs[1], topic=_text(topic), event=event, payload=payload)
        whole = json.loads(frame)
        topic, event = whole["topic"], whole["event"]
        ref = self._our_ref(topic, whole["ref"], event)
        parts_by_name = msgspec.json.decode(frame, type=dict[str, msgspec.Raw])
        join_ref = ref if event in (PHX_CLOSE, PHX_ERROR) else None
        translated = msgspec.json.encode({**parts_by_name, "ref": ref}).decode()
        payload = whole["payload"]
        return translated, Message(join_ref=join_ref, ref=ref, topic=_text(topic), event=event, payload=payload)

    def _our_ref(self, topic: Any, ref: Any, event: str = PHX_REPLY) -> str | None:
        refs = self._join_refs if event in (PHX_CLOSE, PHX_ERROR) else self._refs
        return None if ref is None else refs.get((_text(topic), _text(ref)), f"recorded {_text(ref)}")

    def _our_join_ref(self, topic: Any, join_ref: Any) -> str | None:
        return self._our_ref(topic, join_ref or None, PHX_CLOSE)

    # ---- private: the comparison -------------------------------------------------------------------------------------

    @property
    def _is_closing(self) -> bool:
        return self.core.state is SocketState.CLOSING

    @property
    def _is_over(self) -> bool:
        return self._is_closing or not self.link.current

    def _check(self, line: Any, expected: list[Outcome], delivered: list[Outcome]) -> None:
        self._check_sent()
        events = [plain(event) for event in self.core.events() if not isinstance(event, PresenceChanged | Connecting)]
        messages = self._taken()
        if _sorted(events) != _sorted(expected) or messages != delivered:
            self.problems.append((line, events, expected, messages, delivered))
        self.seen += events
        self.delivered += messages
        self.ended.update(event[_CALL[event[0]]] for event in events if event[0] in _CALL)
        self._check_presence(events)

    def _taken(self) -> list[Outcome]:
        messages: list[Outcome] = []
        for queue in self.core.runnable():
            while deliveries := queue.take():
                messages += [(message.topic, message.event, message.payload) for _, message, _ in deliveries]
                self.core.handled(deliveries, 0.0)
        return messages

    def _check_presence(self, events: list[Outcome]) -> None:
        """The recorded application's answer to `list` is who the server thinks is there."""
        for event in events:
            if event[:1] == ("replied",) and event[2] == "list" and event[1].startswith("presence:"):
                ours = self._channels[event[1]].track_presence().entries
                self.presences += 1
                if ours != event[5]:
                    self.problems.append(("presence", dict(ours), event[5]))

    def _sent(self) -> Iterator[str | bytes]:
        for command in self.core.commands():
            if isinstance(command, SendText | SendBinary):
                yield command.data

    def _check_sent(self) -> None:
        for data in self._sent():
            sent = self._server.decode(data)
            asked = self._requests.pop(sent.ref, None)
            if asked is None:
                continue
            payload = {} if asked.event == PHX_JOIN and asked.payload is None else asked.payload
            if (sent.topic, sent.event, sent.payload) != (asked.topic, asked.event, payload):
                self.problems.append(("sent", sent, asked))


_NOBODY: Final = object()

#: The outcomes that end a call, and where in them its ref is.
_CALL: Final = {
    "joined": 2,
    "refused": 2,
    "join failed": 2,
    "left": 2,
    "replied": 3,
    "lost": 3,
    "failed": 3,
    "pong": 1,
}


def _never_called(message: Message[Any]) -> None:
    """The test takes what is for it."""


def _text(echo: Any) -> str:
    """Of a ref or a topic; a server sends back whatever it got for one."""
    return echo if isinstance(echo, str) else json.dumps(echo)


def _sorted(outcomes: list[Outcome]) -> list[Outcome]:
    return sorted(outcomes, key=repr)
