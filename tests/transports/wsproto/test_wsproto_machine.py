"""The byte-level machine, with no socket: what it writes and how it handles input, at every split of the stream."""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from frames import CLOSE, LIMIT, STREAMS, cuts, frame, pieces, streams
from hypothesis import given, settings
from hypothesis import strategies as st
from rig import URL, Rig, push, reply
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage

from phx_proto.client import ClientProtocol
from phx_proto.errors import ConnectError, HandshakeRefused
from phx_proto.events import Closed, Connected, ConnectFailed, Disconnected
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.states import SocketState
from phx_transports.websocket.answer import LARGEST_BODY
from phx_transports.wsproto import Machine, StreamState


@pytest.mark.parametrize(
    ("url", "host", "port", "server_hostname"),
    [
        ("ws://example.com/socket", "example.com", 80, None),
        ("wss://example.com/socket", "example.com", 443, "example.com"),
        ("ws://127.0.0.1:4000/socket", "127.0.0.1", 4000, None),
        ("wss://[::1]:4000/socket", "::1", 4000, "::1"),
    ],
)
def test_a_stream_says_where_to_connect(url: str, host: str, port: int, server_hostname: str | None) -> None:
    (stream,) = Rig(url).machine.streams()
    assert (stream.host, stream.port, stream.server_hostname) == (host, port, server_hostname)


def test_the_same_stream_is_wanted_until_it_is_over() -> None:
    rig = Rig()
    stream = rig.open()
    assert stream.wanted
    rig.feed(CLOSE)
    assert stream.state is StreamState.FINISHED
    rig.proto.handle_timeout(5.0)
    (again,) = rig.machine.streams()
    assert again is not stream


def test_nothing_is_wanted_before_the_client_connects_and_after_it_has_closed() -> None:
    proto = ClientProtocol(URL)
    machine = Machine(proto)
    assert machine.streams() == []
    proto.connect(0.0)
    assert len(machine.streams()) == 1
    proto.abort(0.0)
    assert machine.streams() == []


def test_a_stream_that_shows_itself_shows_no_params() -> None:
    (stream,) = Rig(params={"token": "hush"}).machine.streams()
    assert repr(stream) == "Stream('example.com', 4000, WANTED)"


def test_callables_for_params_are_asked_for() -> None:
    rig = Rig(params=lambda: {"token": "seven"})
    assert rig.machine.streams() == []
    (request,) = rig.machine.requests()
    assert rig.machine.requests() == []
    rig.proto.resolved(request.request, request.provider(), rig.now)
    rig.dial()
    assert "token=seven" in rig.lines()[0]


# ---- the handshake --------------------------------------------------------------------------------------------------


def test_the_request_asks_for_a_websocket() -> None:
    rig = Rig(params={"a": "b"}, headers={"x-tenant": " seven "})
    rig.dial()
    assert rig.lines()[0] == "GET /socket/websocket?a=b&vsn=2.0.0 HTTP/1.1"
    assert rig.header("host") == ["example.com:4000"]
    assert rig.header("upgrade") == ["websocket"]
    assert rig.header("connection") == ["Upgrade"]
    assert rig.header("sec-websocket-version") == ["13"]
    assert rig.header("x-tenant") == ["seven"]
    assert rig.header("sec-websocket-protocol") == []
    assert rig.request.endswith(b"\r\n\r\n")


def test_a_token_is_offered_raw_whatever_its_base64_holds() -> None:
    rig = Rig(auth_token="???>>>")
    stream = rig.dial()
    assert rig.header("sec-websocket-protocol") == ["phoenix, base64url.bearer.phx.Pz8/Pj4+"]
    stream.receive_data(rig.response("Sec-WebSocket-Protocol: phoenix"), 0.0)
    assert rig.told(Connected) == [Connected("phoenix", False)]


def test_a_host_of_any_length_can_be_asked() -> None:
    host = "a" * 63
    rig = Rig(f"ws://{host}:4000/socket")
    rig.dial()
    assert rig.header("host") == [f"{host}:4000"]


def test_a_header_that_contradicts_http_fails_the_attempt() -> None:
    rig = Rig(headers={"content-length": "hush"})
    assert rig.dial().state is StreamState.DROPPED
    (failed,) = rig.told(ConnectFailed)
    assert "contradicts HTTP" in str(failed.error)
    assert "hush" not in str(failed.error)


def test_the_response_may_come_in_any_pieces_with_frames_behind_it() -> None:
    whole = Rig()
    whole.open(push("x", 1) + CLOSE)
    expected = repr(whole.proto.events()), [repr(event) for event in whole.written()]
    for at in range(150):
        rig = Rig()
        stream = rig.dial()
        data = rig.response() + push("x", 1) + CLOSE
        stream.receive_data(data[:at], 0.0)
        stream.receive_data(data[at:], 0.0)
        assert (repr(rig.proto.events()), [repr(event) for event in rig.written()]) == expected


def test_other_1xx_responses_are_passed_over() -> None:
    rig = Rig()
    stream = rig.dial()
    stream.receive_data(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + rig.response(), 0.0)
    assert rig.proto.state is SocketState.OPEN


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"Connection": "close"}, "its Connection header is missing or wrong"),
        ({"Upgrade": "h2c"}, "its Upgrade header is missing or wrong"),
        ({"Sec_WebSocket_Accept": "bm9uc2Vuc2U="}, "its Sec-WebSocket-Accept header is missing or wrong"),
        ({"Sec_WebSocket_Protocol": "hush"}, "chose a subprotocol or an extension that was not offered"),
        ({"Sec_WebSocket_Protocol": "hüsh"}, "chose a subprotocol or an extension that was not offered"),
        ({"Sec_WebSocket_Extensions": "permessage-deflate"}, "chose a subprotocol or an extension"),
    ],
)
def test_a_response_that_is_not_right_fails_the_attempt(changes: dict[str, str], problem: str) -> None:
    rig = Rig()
    changed = {name.replace("_", "-"): value for name, value in changes.items()}
    stream = rig.dial()
    stream.receive_data(rig.response(**changed), 0.0)
    (failed,) = rig.told(ConnectFailed)
    assert type(failed.error) is ConnectError
    assert problem in str(failed.error)
    assert "hush" not in str(failed.error)
    assert stream.state is StreamState.DROPPED


@pytest.mark.parametrize("data", [b"\x16\x03\x01", b"nonsense\r\n\r\n", b"\r\n\r\n", b"x" * 100_000])
def test_what_is_not_http_fails_the_attempt(data: bytes) -> None:
    rig = Rig()
    stream = rig.dial()
    stream.receive_data(data + b"\r\n\r\n", 0.0)
    (failed,) = rig.told(ConnectFailed)
    assert "example.com:4000 did not answer in HTTP" in str(failed.error)


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 101 Sw", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
def test_an_end_before_the_answer_fails_the_attempt(data: bytes) -> None:
    rig = Rig()
    stream = rig.dial()
    if data:
        stream.receive_data(data, 0.0)
    stream.receive_eof(0.0)
    (failed,) = rig.told(ConnectFailed)
    assert "ended the connection before it answered" in str(failed.error)


@given(st.binary(max_size=60), st.integers(0, 150), st.lists(st.integers(0, 200), max_size=4))
@settings(max_examples=2 * settings().max_examples)
def test_no_answer_makes_it_raise(junk: bytes, at: int, splits: list[int]) -> None:
    rig = Rig()
    stream = rig.dial()
    response = rig.response()
    for piece in pieces(response[:at] + junk + response[at + len(junk) :], splits):
        stream.receive_data(piece, 0.0)
    stream.receive_eof(0.0)
    assert stream.state is not StreamState.WANTED


# ---- refusals -------------------------------------------------------------------------------------------------------

REFUSALS = {
    "counted": (b"HTTP/1.1 403 Forbidden\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 4\r\n\r\nwho?", b"who?"),
    "counted, more behind": (b"HTTP/1.1 403 Forbidden\r\nX-A: 1, 2\r\nContent-Length: 4\r\n\r\nwho?more", b"who?"),
    "chunked": (
        b"HTTP/1.1 403 Forbidden\r\nX-A: 1, 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nwh\r\n2\r\no?\r\n0\r\n\r\n",
        b"who?",
    ),
    "empty": (b"HTTP/1.1 403 Forbidden\r\nX-A: 1, 2\r\nContent-Length: 0\r\n\r\n", b""),
    "to the end": (b"HTTP/1.1 403 Forbidden\r\nX-A: 1, 2\r\nConnection: close\r\n\r\nwho?", b"who?"),
    "cut": (b"HTTP/1.1 403 Forbidden\r\nX-A: 1, 2\r\nContent-Length: 9\r\n\r\nwho?", b"who?"),
    "broken": (
        b"HTTP/1.1 403 Forbidden\r\nX-A: 1, 2\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwho?\r\nZ\r\n",
        b"who?",
    ),
}


@pytest.mark.parametrize(("answer", "body"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_tells_status_headers_and_body_at_every_split(answer: bytes, body: bytes) -> None:
    for at in range(len(answer) + 1):
        rig = Rig()
        stream = rig.dial()
        for piece in pieces(answer, [at]):
            stream.receive_data(piece, 0.0)
        stream.receive_eof(0.0)
        (closed,) = rig.told(Closed)
        assert isinstance(closed.error, HandshakeRefused)
        assert (closed.error.status, closed.error.body) == (403, body)
        assert closed.error.headers["x-a"] == "1, 2"
        assert stream.state is StreamState.DROPPED


def test_a_refusal_whose_body_has_no_end_is_told_at_a_bound() -> None:
    rig = Rig()
    stream = rig.dial()
    stream.receive_data(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n", 0.0)
    for _ in range(100):
        stream.receive_data(b"x" * 1000, 0.0)
    (closed,) = rig.told(Closed)
    assert isinstance(closed.error, HandshakeRefused)
    assert closed.error.body == b"x" * LARGEST_BODY


def test_an_answer_that_is_no_upgrade_is_a_refusal_whatever_its_status() -> None:
    rig = Rig()
    rig.dial().receive_data(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", 0.0)
    (closed,) = rig.told(Closed)
    assert isinstance(closed.error, HandshakeRefused)
    assert closed.error.status == 200


# ---- messages -------------------------------------------------------------------------------------------------------


def test_a_channel_joins_pushes_and_receives() -> None:
    router = Router()
    router.add(lambda message: None, "shout")
    rig = Rig(router=router, max_size=None)
    rig.open()
    channel = rig.join()
    channel.push("shout", {"a": 1}, 0.0)
    channel.push("blob", b"\x00\x01", 0.0)
    (pushed, binary) = rig.written()
    assert isinstance(pushed, TextMessage)
    assert json.loads(pushed.data)[2:] == ["room:a", "shout", {"a": 1}]
    assert isinstance(binary, BytesMessage)
    assert binary.data.endswith(b"blob\x00\x01")
    rig.feed(push("shout", {"n": 1}) + push("shout", {"n": 2}))
    (runnable,) = rig.proto.runnable()
    assert [item.payload for _, item, _ in runnable.take() if isinstance(item, Message)] == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize("head", [0x81, 0x01])
def test_part_of_a_message_shows_that_the_peer_lives(head: int) -> None:
    options = ClientOptions(heartbeat=10.0)
    whole = frame(b"x" * 50, head=head)

    def alive_after(*reads: bytes) -> bool:
        rig = Rig(options=options)
        rig.open()
        rig.proto.handle_timeout(10.0)
        for read in reads:
            rig.stream.receive_data(read, 15.0)
        rig.proto.handle_timeout(20.0)
        return rig.stream.state is StreamState.WANTED

    assert alive_after(whole[:30])
    assert not alive_after()
    assert not alive_after(frame(b"", head=0x89))  # a proxy's pings tell nothing of the server


def test_reading_stops_and_goes_on_as_the_core_says() -> None:
    router = Router()
    router.add(lambda message: None, "shout")
    rig = Rig(router=router, options=ClientOptions(flow=FlowLimits(high=2, low=1)))
    stream = rig.open()
    rig.join()
    assert stream.reading
    rig.feed(push("shout", 1) + push("shout", 2))
    assert not stream.reading
    (queue,) = rig.proto.runnable()
    rig.proto.handled(queue.take(), 0.0)
    assert stream.reading


# ---- frames ---------------------------------------------------------------------------------------------------------


class Alone:
    """wsproto alone, fed whole, with messages, answers and end made of its events in the plainest way."""

    def __init__(self, stream: bytes, max_size: int | None) -> None:
        self.connection = Connection(ConnectionType.CLIENT)
        self.messages: list[str | bytes] = []
        self.answers = b""
        self.ending: tuple[int | None, str] | None = None
        self.connection.receive_data(stream)
        parts: list[bytes] = []
        for event in self.connection.events():
            if isinstance(event, Ping):
                self.answers += _unmasked(self.connection.send(event.response()))
            elif isinstance(event, CloseConnection):
                peer = self.connection.state is ConnectionState.REMOTE_CLOSING
                reason = "invalid UTF-8" if event.code == 1007 and not peer else event.reason or ""
                self._end((int(event.code) if peer else None, reason), CloseConnection(event.code, reason))
                return
            elif isinstance(event, TextMessage | BytesMessage):
                parts.append(event.data.encode() if isinstance(event, TextMessage) else bytes(event.data))
                if max_size is not None and sum(map(len, parts)) > max_size:
                    problem = f"a message of more than {max_size} bytes"
                    self._end((None, problem), CloseConnection(1009, problem))
                    return
                if event.message_finished:
                    whole = b"".join(parts)
                    self.messages.append(whole.decode() if isinstance(event, TextMessage) else whole)
                    parts.clear()

    def _end(self, ending: tuple[int | None, str], close: CloseConnection) -> None:
        self.answers += _unmasked(self.connection.send(CloseConnection(close.code, close.reason)))
        self.ending = ending


def _unmasked(data: bytes) -> bytes:
    """The frames with their masks applied and gone, for masks are random."""
    server = Connection(ConnectionType.SERVER)
    server.receive_data(data)
    return "".join(repr(event) for event in server.events()).encode()


class Heard:
    """What a link is told of a stream of frames, and what is answered."""

    def __init__(self, reads: Iterable[bytes], max_size: int | None = LIMIT) -> None:
        rig = Rig(max_size=max_size)
        stream = rig.open()
        self.messages: list[str | bytes] = []
        self.ending: tuple[int | None, str] | None = None
        link = rig.proto._sockets.first.current_link
        assert link is not None
        stream._command = _Command(self)  # type: ignore[assignment]
        answers = b""
        for read in reads:
            stream.receive_data(read, 0.0)
            answers += b"".join(_unmasked(one) for one in _frames(stream.data_to_send()))
        self.answers = answers
        assert (stream.state is StreamState.FINISHED) == (self.ending is not None)

    def receive_all(self, frames: Sequence[str | bytes], now: float) -> None:
        self.messages += frames

    def progressed(self, now: float) -> None: ...

    def closed(self, code: int | None, reason: str, now: float) -> None:
        assert self.ending is None
        self.ending = code, reason.partition(", which is max_size")[0]  # the size told depends on the reads

    @property
    def seen(self) -> Any:
        return self.messages, self.answers, self.ending


class _Command:
    def __init__(self, link: Heard) -> None:
        self.link = link


def _frames(data: bytes) -> list[bytes]:
    found: list[bytes] = []
    while data:
        size = 6 + (data[1] & 0x7F)  # control frames alone
        found.append(data[:size])
        data = data[size:]
    return found


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_every_split_in_two_reads_as_by_wsproto_alone(stream: bytes) -> None:
    alone = Alone(stream, LIMIT)
    expected = alone.messages, alone.answers, alone.ending
    for at in range(len(stream) + 1):
        assert Heard(filter(None, (stream[:at], stream[at:]))).seen == expected


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_single_bytes_read_as_by_wsproto_alone(stream: bytes) -> None:
    alone = Alone(stream, LIMIT)
    assert Heard(bytes([byte]) for byte in stream).seen == (alone.messages, alone.answers, alone.ending)


@given(streams, cuts, st.sampled_from([LIMIT, 5, 1, None]))
@settings(max_examples=2 * settings().max_examples)
def test_how_a_stream_is_split_makes_no_difference(stream: bytes, cuts: list[int], max_size: int | None) -> None:
    once = Heard([stream] if stream else [], max_size)
    split = Heard(pieces(stream, cuts), max_size)
    assert _either_fault(split.seen) == _either_fault(once.seen)


def _either_fault(seen: Any) -> str:
    """A message may be too large and no UTF-8 both: which is found first depends on the reads."""
    both = r"<CloseReason.INVALID_FRAME_PAYLOAD_DATA: 1007>|<CloseReason.MESSAGE_TOO_BIG: 1009>"
    return re.sub(rf"{both}|invalid UTF-8|a message of more than \d+ bytes", "fault", repr(seen))


@pytest.mark.parametrize(
    ("data", "code", "problem"),
    [
        (frame(b"x", head=0x83), 1002, "Invalid opcode"),
        (frame(b"x", mask=True), 1002, "masked"),
        (frame(b"x", head=0x80), 1002, "CONTINUATION"),
        (frame(b"\x03", head=0x88), 1002, "1 byte"),
        (frame(b"\xff"), 1007, "invalid UTF-8"),
        (frame(b"x" * (LIMIT + 1)), 1009, f"more than {LIMIT} bytes"),
        (frame(b"x" * LIMIT, head=0x02) + frame(b"x", head=0x80), 1009, f"more than {LIMIT} bytes"),
    ],
)
def test_a_broken_rule_closes_with_its_code_and_is_told(data: bytes, code: int, problem: str) -> None:
    rig = Rig()
    stream = rig.open()
    rig.feed(data)
    (close,) = rig.written()
    assert isinstance(close, CloseConnection)
    assert close.code == code
    (lost,) = rig.told(Disconnected)
    assert lost.code is None
    assert problem in lost.reason
    assert stream.state is StreamState.FINISHED


def test_pings_are_answered_and_pongs_ignored() -> None:
    rig = Rig()
    rig.open()
    rig.feed(frame(b"a", head=0x89) + frame(b"b", head=0x8A) + frame(b"c", head=0x89))
    assert rig.written() == [Pong(b"a"), Pong(b"c")]


# ---- the end --------------------------------------------------------------------------------------------------------


def test_the_peers_close_is_answered_and_told() -> None:
    rig = Rig()
    stream = rig.open()
    rig.feed(CLOSE + push("late", 1))
    assert rig.written() == [CloseConnection(1001, "bye")]
    assert rig.told(Disconnected) == [Disconnected(1001, "bye", 1.0)]
    assert stream.state is StreamState.FINISHED


def test_an_empty_close_counts_as_1005_and_is_answered_empty() -> None:
    rig = Rig()
    rig.open()
    rig.feed(frame(b"", head=0x88))
    (close,) = rig.written()
    assert isinstance(close, CloseConnection)
    assert close.code == 1005
    (lost,) = rig.told(Disconnected)
    assert lost.code == 1005


def test_our_close_waits_for_the_peers() -> None:
    rig = Rig()
    stream = rig.open()
    rig.proto.disconnect(0.0)
    (close,) = rig.written()
    assert isinstance(close, CloseConnection)
    assert close.code == 1000
    rig.feed(frame(b"ping", head=0x89), push("late", 1))
    assert rig.written() == []
    assert stream.wanted
    rig.feed(frame((1000).to_bytes(2, "big"), head=0x88))
    assert stream.state is StreamState.FINISHED
    assert rig.told(Closed) == [Closed(None)]
    assert rig.written() == []


def test_a_broken_rule_after_our_close_ends_it_without_another() -> None:
    rig = Rig()
    stream = rig.open()
    rig.proto.disconnect(0.0)
    rig.written()
    rig.feed(frame(b"x", head=0x83))
    assert stream.data_to_send() == b""
    assert stream.state is StreamState.FINISHED
    assert rig.told(Closed) == [Closed(None)]


def test_an_end_without_a_close_frame_is_told_as_such() -> None:
    rig = Rig()
    stream = rig.open()
    stream.receive_eof(0.0)
    (lost,) = rig.told(Disconnected)
    assert (lost.code, lost.reason) == (None, "the server ended the connection without a close frame")
    assert stream.state is StreamState.FINISHED


def test_an_end_in_the_closing_handshake_ends_the_client() -> None:
    rig = Rig()
    stream = rig.open()
    rig.proto.disconnect(0.0)
    stream.receive_eof(0.0)
    assert rig.told(Closed) == [Closed(None)]


def test_a_stream_that_could_not_be_opened_is_followed_by_another() -> None:
    rig = Rig()
    (stream,) = rig.machine.streams()
    stream.failed(ConnectError("no way"), 0.0)
    (failed,) = rig.told(ConnectFailed)
    assert str(failed.error) == "no way"
    rig.proto.handle_timeout(2.0)
    (again,) = rig.machine.streams()
    assert again is not stream


def test_a_stream_that_broke_is_a_lost_connection() -> None:
    rig = Rig()
    stream = rig.open()
    stream.failed(ConnectError("reset by peer"), 0.0)
    (lost,) = rig.told(Disconnected)
    assert lost.reason == "reset by peer"
    assert stream.state is StreamState.DROPPED


def test_a_stream_that_is_given_up_writes_nothing_more() -> None:
    rig = Rig()
    stream = rig.open()
    rig.proto.channel("room:a").join(0.0)
    rig.proto.abort(0.0)
    assert stream.data_to_send() == b""
    assert stream.state is StreamState.DROPPED


def test_what_is_told_to_a_stream_that_is_over_is_ignored() -> None:
    rig = Rig()
    old = rig.open()
    rig.proto.reconnect(0.0)
    new = rig.open()
    assert new is not old
    old.receive_data(CLOSE, 0.0)
    old.receive_eof(0.0)
    old.failed(ConnectError("late"), 0.0)
    old.connected(0.0)
    assert old.data_to_send() == b""
    assert rig.proto.state is SocketState.OPEN
    assert new.state is StreamState.WANTED


def test_bytes_before_the_stream_was_called_connected_are_ignored() -> None:
    (stream,) = Rig().machine.streams()
    stream.receive_data(b"HTTP/1.1 403 Forbidden\r\n\r\n", 0.0)
    assert stream.state is StreamState.WANTED


def test_an_end_before_the_stream_was_called_connected_fails_the_attempt() -> None:
    rig = Rig()
    (stream,) = rig.machine.streams()
    stream.receive_eof(0.0)
    (failed,) = rig.told(ConnectFailed)
    assert str(failed.error) == "example.com:4000 ended the connection before it was open"
    assert stream.state is StreamState.DROPPED


def test_a_read_of_nothing_is_no_end() -> None:
    rig = Rig()
    stream = rig.dial()
    stream.receive_data(b"", 0.0)
    assert stream.state is StreamState.WANTED


def test_what_is_to_be_sent_when_the_peer_has_just_closed_goes_nowhere() -> None:
    rig = Rig()
    stream = rig.open()
    channel = rig.proto.channel("room:a")
    channel.join(0.0, timeout=1.0)
    join = rig.sent()[-1]
    rig.proto.handle_timeout(1.0)  # the join is given up; an ok that comes late is to be answered with a leave
    rig.written()
    rig.feed(reply(join) + CLOSE)
    assert rig.written() == [CloseConnection(1001, "bye")]
    assert stream.data_to_send() == b""


# ---- purity ---------------------------------------------------------------------------------------------------------


def test_the_machine_and_the_engine_touch_no_socket_clock_thread_or_loop() -> None:
    code = (
        "import ast, pathlib, phx_transports.wsproto as package\n"
        "home = pathlib.Path(package.__file__).parent\n"
        "for name in ('machine', 'assembler', 'engine', 'handlers'):\n"
        "    tree = ast.parse((home / f'{name}.py').read_text())\n"
        "    for node in ast.walk(tree):\n"
        "        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []\n"
        "        names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []\n"
        "        for module in names:\n"
        "            print(module.partition('.')[0])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {"assembler", "client", "handlers", "longpoll", "machine", "phx_proto", "websocket"}
    neutral = {
        "collections",
        "contextlib",
        "dataclasses",
        "enum",
        "functools",
        "inspect",
        "math",
        "operator",
        "types",
        "typing",
        "urllib",
    }
    assert set(done.stdout.split()) <= ours | neutral | {"h11", "wsproto"}
