"""The fuzzing targets: for each one its first inputs, and what must be true for any input.

A check takes bytes, and raises where something does not hold. A parser may answer invalid input
with its own kind of error, or a message; any other exception is a finding.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any, Final

from websockets.datastructures import Headers
from websockets.proxy import parse_proxy
from websockets.uri import parse_uri

from phx_proto import V1, V2, ClientProtocol, Router, V1Server, V2Server
from phx_proto.commands import OpenTransport, SendText
from phx_proto.endpoint import Endpoint
from phx_proto.errors import ConnectError, HandshakeRefused, InvalidEndpoint, InvalidFrame, LocalError, PhxError
from phx_proto.formats import Serializer, ServerSerializer
from phx_proto.formats.soundness import MAX_DEPTH, too_deep, without_lone_surrogates
from phx_proto.message import Message
from phx_proto.server.events import JoinRequested, MessageIn
from phx_proto.server.longpoll import NDJSON, PollRequest, Polls
from phx_proto.server.protocol import ServerProtocol
from phx_proto.states import SocketState
from phx_transports.server.handshake import BadToken, RefuseConnect, read_params, take_offer
from phx_transports.websocket.answer import Answer, Upgraded
from phx_transports.websocket.proxies import Tunnel
from phx_transports.wsproto.machine import Machine

from .as_websockets import assert_as_websockets

CORPUS: Final = Path(__file__).parent / "corpus"

#: Between the frames, reads or lines of one input, where a target takes several.
SEPARATOR: Final = b"\x1e"


@dataclass(frozen=True, slots=True)
class Target:
    """One thing that is fuzzed.

    Attributes:
        name: And its folder's in the corpus.
        check: Raises if something does not hold of this input.
    """

    name: str
    check: Callable[[bytes], None]

    @property
    def folder(self) -> Path:
        """Where its inputs are."""
        return CORPUS / self.name

    def corpus(self) -> list[bytes]:
        """Its inputs."""
        return [path.read_bytes() for path in sorted(self.folder.iterdir())]

    def keep(self, data: bytes) -> Path:
        """Write an input into the corpus, so that every later run begins with it."""
        path = self.folder / f"found-{sha256(data).hexdigest()[:12]}"
        path.write_bytes(data)
        return path


def frames_of(data: bytes) -> list[str | bytes]:
    """An input as frames: what is UTF-8 is a text frame, unless it begins with a byte that only binary frames have."""
    return [_frame(part) for part in data.split(SEPARATOR)]


def _frame(data: bytes) -> str | bytes:
    with suppress(UnicodeDecodeError):
        if data[:1] >= b"\x09":
            return data.decode()
    return data


# ---- serializers -----------------------------------------------------------------------------------------------------


def decodes(serializer: Serializer) -> Callable[[bytes], None]:
    """A client's side reads a frame into a message, or says that it is none; what it reads, it can write."""

    def check(data: bytes) -> None:
        for frame in frames_of(data):
            try:
                message = serializer.decode(frame)
            except InvalidFrame:
                continue
            repr(message)
            with suppress(PhxError, ValueError, RecursionError):  # raw until now: reading it may show that it is bad
                _ = message.payload
                serializer.encode(message)

    return check


def serves(serializer: ServerSerializer) -> Callable[[bytes], None]:
    """A server's side reads a frame into a request, or says that it is none; it can answer whatever it has read."""

    def check(data: bytes) -> None:
        for frame in frames_of(data):
            try:
                request = serializer.decode(frame)
            except InvalidFrame:
                continue
            with suppress(LocalError):
                serializer.reply(request.join_ref, request.ref, request.topic, "ok", request.payload)

    return check


def round_trips(data: bytes) -> None:
    """What one side of a format writes, the other reads as it was; or it is refused at the call."""
    with suppress(ValueError, RecursionError):
        value = json.loads(data)
        for client, server in ((V2(), V2Server()), (V1(), V1Server())):
            with suppress(LocalError):
                frame = client.encode(Message(join_ref="1", ref="2", topic="t", event="e", payload=value))
                assert _same(server.decode(frame).payload, value), "a request is read as another"
            with suppress(LocalError):
                frame = server.push("1", "t", "e", value)
                assert _same(client.decode(frame).payload, value), "a push is read as another"


def _same(one: Any, other: Any) -> bool:
    """Equal, and of the same types throughout: `1`, `1.0` and `true` are three values."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and one == other


def sound(data: bytes) -> None:
    """The bound on nesting, and lone surrogates, against the standard library's reader."""
    text = data.decode(errors="replace")
    mended = without_lone_surrogates(text)
    with suppress(ValueError, RecursionError):
        value = json.loads(text)
        assert too_deep(text) == (_depth(value) > MAX_DEPTH), "the depth is another"
        json.dumps(json.loads(mended), ensure_ascii=False).encode()


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


# ---- protocols -------------------------------------------------------------------------------------------------------


def client(data: bytes) -> None:
    """A client with a joined topic, presence and handlers takes any frames; it says the same the second time."""
    assert _client(data) == _client(data), "not deterministic"


def _client(data: bytes) -> list[str]:
    router = Router()
    router.add(_handle, "*")
    router.add(_handle, "n", topic="t:*", concurrency=1)
    proto = ClientProtocol("ws://127.0.0.1/socket", router=router, rng=Random(1))
    channel = proto.channel("t:1")
    channel.join(0.0)
    proto.connect(0.0)
    (opening,) = [one for one in proto.commands() if isinstance(one, OpenTransport)]
    link = opening.link
    link.opened(None, 0.0)
    (join,) = [one for one in proto.commands() if isinstance(one, SendText) and "phx_join" in one.data]
    ref = V2Server().decode(join.data).ref
    link.receive(V2Server().reply(ref, ref, "t:1", "ok", {}), 0.0)
    channel.push("get", {}, 0.0)
    said: list[str] = []
    link.receive_all([frame.replace(_REF, ref) if isinstance(frame, str) else frame for frame in frames_of(data)], 1.0)
    for now in (1.0, 40.0, 80.0):
        proto.handle_timeout(now)
        for queue in proto.runnable():
            while deliveries := queue.take(10):
                for handlers, message, _ in deliveries:
                    for handler in handlers:
                        with suppress(PhxError):
                            handler.accept(message)
                proto.handled(deliveries, now)
        said += map(repr, [*proto.commands(), *proto.events(), proto.stats, proto.state, proto.next_timeout()])
    proto.abort(90.0)
    assert proto.state is SocketState.CLOSED
    assert proto.next_timeout() is None
    return said


#: In an input of `client`, the ref of the join.
_REF: Final = "REF"


def _handle(message: Message[Any]) -> None:
    """Nobody calls it."""


def server(data: bytes) -> None:
    """A server's socket takes any frames; what it sends, a client can read."""
    proto = ServerProtocol(V2Server(), ("t:*",), now=0.0)
    proto.receive_all(frames_of(data), 0.0)
    for _ in range(len(data) + 1):
        events = proto.events()
        for event in events:
            if isinstance(event, JoinRequested):
                proto.accept(event.channel, {})
            elif isinstance(event, MessageIn):
                proto.reply(event, "ok", {})
                proto.finish(event)
        if not events:
            break
    for command in proto.commands():
        if (frame := getattr(command, "data", None)) is not None:
            V2().decode(frame)
    proto.handle_timeout(100.0)
    proto.abort()


# ---- bytes -----------------------------------------------------------------------------------------------------------


def cutter(data: bytes) -> None:
    """The cutter reads a stream, at the splits that the input has, as websockets' parser does."""
    reads = [read for read in data.split(SEPARATOR) if read]
    for compressed in (False, True):
        assert_as_websockets(reads, compressed=compressed)


def machine(data: bytes) -> None:
    """The byte-level machine takes any answer to its handshake, and any stream of frames behind it."""
    proto = ClientProtocol("ws://127.0.0.1/socket", rng=Random(1))
    stream_of = Machine(proto)
    proto.connect(0.0)
    (stream,) = stream_of.streams()
    stream.connected(0.0)
    stream.data_to_send()
    for read in data.split(SEPARATOR):
        stream.receive_data(read, 1.0)
        stream.data_to_send()
    stream.receive_eof(2.0)
    repr(proto.events())


def polls(data: bytes) -> None:
    """A client that polls takes whatever is answered: bytes that are no HTTP, HTTP that is no answer of Phoenix."""
    proto = ClientProtocol("ws://127.0.0.1/socket", transport="longpoll", rng=Random(1))
    proto.channel("t:1").join(0.0)
    proto.connect(0.0)
    machine = Machine(proto)
    reads = [b'HTTP/1.1 200 OK\r\ncontent-length: 31\r\n\r\n{"status":410,"token":"sekret"}', *data.split(SEPARATOR)]
    streams = machine.streams()
    for stream in streams:
        stream.connected(0.0)
    for read in reads:
        for stream in streams:
            stream.receive_data(read, 1.0)
            assert "sekret" not in repr(proto.events()), "the session's token is shown"
        for stream in machine.streams():
            stream.connected(1.0)
            streams.append(stream)
        assert sum(stream.wanted for stream in streams) <= 2, "more than a poll and a POST"
    proto.abort(2.0)
    machine.perform()
    assert proto.next_timeout() is None


def posts(data: bytes) -> None:
    """The sessions of a server take any bodies, and answer each request once."""
    mount, proto = Polls(), ServerProtocol(V2Server(), ("t:*",), now=0.0)
    asked = [PollRequest("GET"), PollRequest("GET", "T")]
    mount.request(asked[0], 0.0)
    session = mount.open(asked[0], "T", 0.0)
    for number, body in enumerate(data.split(SEPARATOR)):
        asked.append(PollRequest("POST", "T", NDJSON if number % 2 == 0 else "application/json", body))
    mount.openings.clear()
    for request in asked[1:]:
        mount.request(request, 0.0)
    for now in (0.0, 3.0, 20.0, 40.0):
        while proto.ready and (frame := session.take(now)) is not None:
            proto.receive(frame, now)
            for event in proto.events():
                if isinstance(event, JoinRequested):
                    proto.accept(event.channel, {})
                elif isinstance(event, MessageIn):
                    proto.finish(event)
            for command in proto.commands():
                if (sent := getattr(command, "data", None)) is not None:
                    session.put(sent)
                else:
                    session.end()
        session.flush()
        mount.timers.fire(now)
    answered = [*(each.request for each in mount.answers), *mount.openings]
    assert sorted(map(id, answered)) == sorted(map(id, asked)), "not each is answered, or one is answered twice"


def answer(data: bytes) -> None:
    """The answer to a handshake is read to an outcome, the same one whatever the splits, with no more than a status."""
    whole, split = _outcome([data.replace(SEPARATOR, b"")]), _outcome(data.split(SEPARATOR))
    assert whole == split, f"{whole} in one read, {split} in several"


def _outcome(reads: list[bytes]) -> tuple[str, object]:
    reader = Answer("127.0.0.1:80", secure=False)
    outcome = None
    for read in [*filter(None, reads), b""]:
        outcome = reader.receive(read)
        if outcome is not None:
            break
    assert isinstance(outcome, Upgraded | ConnectError), "no outcome at the end"
    return type(outcome).__name__, outcome.status if isinstance(outcome, HandshakeRefused) else None


def tunnel(data: bytes) -> None:
    """A proxy's answer opens the way, or is an error that does not show the credentials."""
    way = Tunnel(parse_proxy("http://user:hunter2@127.0.0.1:1"), parse_uri("ws://127.0.0.1/"))
    said = ""
    try:
        for read in [*filter(None, data.split(SEPARATOR)), b""]:
            if way.receive(read):
                break
    except ConnectError as error:
        said = str(error)
    assert "hunter2" not in said


def request(data: bytes) -> None:
    """The server's side of a handshake: its params and the offered subprotocols."""
    text = data.decode("latin-1")
    json.dumps(read_params(text))
    headers = Headers()
    headers["Sec-WebSocket-Protocol"] = re.sub(r"[^\t\x20-\x7e]", "", text)  # the library refuses others itself
    with suppress(RefuseConnect, BadToken):
        take_offer(headers)


def endpoint(data: bytes) -> None:
    """A URL of the user's makes an address, or is refused; neither shows its secrets."""
    text = data.decode(errors="surrogateescape")
    with suppress(InvalidEndpoint):
        made = Endpoint(text, params={"token": "hunter2"})
        assert "hunter2" not in repr(made) + made.redacted


def _targets() -> Iterator[Target]:
    yield Target("v1_client", decodes(V1()))
    yield Target("v2_client", decodes(V2()))
    yield Target("v1_server", serves(V1Server()))
    yield Target("v2_server", serves(V2Server()))
    for check in (round_trips, sound, client, server, cutter, machine, polls, posts, answer, tunnel, request, endpoint):
        yield Target(check.__name__, check)


TARGETS: Final = {target.name: target for target in _targets()}
