"""`ClientProtocol` against the sessions recorded from a real server: how its frames end the calls of a client.

See `recorded_client.py` for how a recording is played, and `account.py` for what must come of it.
"""

import json
from collections import Counter
from functools import cache
from typing import Any, Final

import pytest
import recorded
from handshakes import Connection, connections
from recorded import Line
from recorded_client import RecordedClient

from phx_proto.client import ClientProtocol
from phx_proto.commands import OpenTransport
from phx_proto.errors import HandshakeRefused, InvalidFrame
from phx_proto.events import Closed, Connected, ConnectFailed, Connecting, Disconnected, Event, UnclaimedMessages
from phx_proto.formats import V1, V2, V1Server, decode_reply
from phx_proto.link import Link
from phx_proto.message import Message

ATTEMPTS = [connection for name in recorded.names() for connection in connections(name)]
OPENED = [connection for connection in ATTEMPTS if connection.is_open]
REFUSED = [connection for connection in ATTEMPTS if not connection.is_open]


#: With the server's close code; `None` where it sent none.
CUT_OFF = [
    (connection, line.code if line.op == "close" else None)
    for connection in OPENED
    for line in [next((line for line in connection.lines if line.op == "close" or line.kind == "eof"), None)]
    if line is not None and line.kind != "send"
]

#: Counted by hand, so that a replay which plays nothing cannot pass.
HAPPENS: Final = {
    "binary.v2": {"joined": 6, "replied": 16, "crashed": 1, "delivered": 10},
    "broadcast.v1": {"joined": 3, "replied": 3, "left": 1, "delivered": 11},
    "channel_limit.v2": {"refused": 0, "joined": 104},
    "disconnect.v2": {"disconnected": 6, "joined": 9},
    "heartbeat.v2": {"pong": 6},
    "join_variants.v2": {"refused": 5, "joined": 7, "crashed": 1},
    "presence.v2": {"joined": 8, "crashed": 1, "left": 3},
    "push_burst.v2": {"replied": 4, "delivered": 10},
    "stop_crash.v2": {"crashed": 3, "joined": 6, "replied": 2},
    "unjoined.v2": {"replied": 0, "delivered": 0},
}


def label(connection: Connection) -> str:
    return f"{connection.session}-{connection.name}"


@cache
def _played(session: str, name: str, time: float) -> RecordedClient:
    (connection,) = [each for each in OPENED if (each.session, each.name, each.time) == (session, name, time)]
    client = RecordedClient(connection)
    for line in connection.lines:
        client.play(line)
    client.finish(max([connection.time, *(line.time for line in connection.lines)]) + 1)
    return client


def played(connection: Connection) -> RecordedClient:
    return _played(connection.session, connection.name, connection.time)


@pytest.mark.parametrize("connection", OPENED, ids=label)
def test_every_frame_of_the_server_brings_what_it_should(connection: Connection) -> None:
    assert played(connection).problems == []


@pytest.mark.parametrize("connection", OPENED, ids=label)
def test_every_call_ends_once(connection: Connection) -> None:
    client = played(connection)
    assert {ref: client.ended[ref] for ref in client.calls} == dict.fromkeys(client.calls, 1)


@pytest.mark.parametrize("connection", OPENED, ids=label)
def test_no_frame_of_the_server_is_bad(connection: Connection) -> None:
    assert played(connection).core.stats.bad_frames == 0


def test_there_is_something_to_play() -> None:
    assert OPENED
    assert REFUSED
    assert CUT_OFF
    assert sum(len(played(connection).calls) for connection in OPENED) > len(OPENED)
    assert sum(played(connection).presences for connection in OPENED)


@pytest.mark.parametrize("session", [name for name in HAPPENS if name in recorded.names()])
def test_what_a_session_was_recorded_for_happens(session: str) -> None:
    clients = [played(connection) for connection in OPENED if connection.session == session]
    happened = Counter(name for client in clients for name, *_ in client.seen)
    happened["delivered"] = sum(len(client.delivered) for client in clients)
    assert {name: happened[name] for name in HAPPENS[session]} == HAPPENS[session]


# ---- the same frames, to a core that is not prepared for them -------------------------------------------------------


@pytest.mark.parametrize("connection", OPENED, ids=label)
def test_frames_that_nobody_waits_for_are_dropped_and_at_most_counted(connection: Connection) -> None:
    core, link = opened(connection)
    link.receive_all([line.data for line in received(connection)], connection.time)
    assert all(isinstance(event, UnclaimedMessages) for event in core.events())
    assert core.stats.bad_frames == 0


# ---- the codecs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("connection", OPENED, ids=label)
def test_what_the_server_sent_is_decoded_as_it_is(connection: Connection) -> None:
    serializer = client_serializer(connection)
    for line in received(connection):
        message = serializer.decode(line.data)
        if isinstance(line.data, str):
            assert said(message) == by_hand(line.data)
        if message.event == "phx_reply":
            assert decode_reply(message).status


@pytest.mark.parametrize("connection", OPENED, ids=label)
def test_what_the_client_sent_is_refused_where_the_server_refused_it(connection: Connection) -> None:
    frames = [line for line in connection.lines if line.op in ("text", "binary", "close")]
    for line, following in zip(frames, [*frames[1:], None], strict=True):
        if line.kind != "send" or line.op == "close" or (line.op == "text" and isinstance(line.data, bytes)):
            continue
        is_refused = following is not None and following.op == "close" and following.code == 1011
        try:
            connection.serializer.decode(line.data)
        except InvalidFrame:
            assert is_refused
        else:
            assert not is_refused


# ---- connections that end, and those that never open ----------------------------------------------------------------


@pytest.mark.parametrize(("connection", "code"), CUT_OFF)
def test_whoever_was_cut_off_is_told_the_code_and_comes_back(connection: Connection, code: int | None) -> None:
    core, link = opened(connection)
    now = connection.lines[-1].time
    link.closed(code, "", now)
    (event,) = core.events()
    assert isinstance(event, Disconnected)
    assert event.code == code
    assert event.retry_in is not None
    core.handle_timeout(now + event.retry_in)
    assert [type(command) for command in core.commands()] == [OpenTransport]


def outcome_of_refusal(connection: Connection, **options: Any) -> Event:
    core = ClientProtocol("ws://recorded/socket", **options)
    core.connect(0.0)
    for command in core.commands():
        if not isinstance(command, OpenTransport):
            core.resolved(command.request, {}, 0.0)  # type: ignore[union-attr]
            (command,) = core.commands()
        assert isinstance(command, OpenTransport)
        command.link.refused(connection.status, connection.headers, connection.body.encode(), 1.0)
    connecting, event = core.events()
    assert isinstance(connecting, Connecting)
    return event


def is_temporary(connection: Connection) -> bool:
    return connection.status in (408, 425, 429) or connection.status >= 500


@pytest.mark.parametrize("connection", REFUSED, ids=label)
def test_a_refused_handshake_is_told_whole(connection: Connection) -> None:
    event = outcome_of_refusal(connection)
    assert isinstance(event, Closed | ConnectFailed)
    error = event.error
    assert isinstance(error, HandshakeRefused)
    assert (error.status, error.body) == (connection.status, connection.body.encode())
    assert error.headers == {name.lower(): value for name, value in connection.headers.items()}


@pytest.mark.parametrize("connection", REFUSED, ids=label)
def test_a_refusal_is_final_at_the_first_connect_unless_it_will_pass(connection: Connection) -> None:
    event = outcome_of_refusal(connection)
    assert isinstance(event, ConnectFailed if is_temporary(connection) else Closed)


@pytest.mark.parametrize("connection", REFUSED, ids=label)
def test_refused_credentials_are_tried_again_where_they_can_change(connection: Connection) -> None:
    event = outcome_of_refusal(connection, params=dict)
    is_retried = is_temporary(connection) or connection.status in (401, 403)
    assert isinstance(event, ConnectFailed if is_retried else Closed)


@pytest.mark.parametrize("connection", [each for each in REFUSED if "retry-after" in each.headers], ids=label)
def test_the_server_says_how_long_to_wait(connection: Connection) -> None:
    event = outcome_of_refusal(connection)
    assert isinstance(event, ConnectFailed)
    assert event.retry_in >= float(connection.headers["retry-after"])


# ---- helpers --------------------------------------------------------------------------------------------------------


def opened(connection: Connection) -> tuple[ClientProtocol, Link]:
    core = ClientProtocol(f"ws://recorded{connection.path}", serializer=client_serializer(connection))
    core.connect(connection.time)
    (opening,) = core.commands()
    assert isinstance(opening, OpenTransport)
    opening.link.opened(connection.subprotocol, connection.time)
    assert [type(event) for event in core.events()] == [Connecting, Connected]
    return core, opening.link


def client_serializer(connection: Connection) -> V1 | V2:
    return V1() if isinstance(connection.serializer, V1Server) else V2()


def received(connection: Connection) -> list[Line]:
    return [line for line in connection.lines if line.kind == "recv" and line.op in ("text", "binary")]


def by_hand(frame: str) -> list[Any]:
    """The five fields, without our codec."""
    fields = json.loads(frame)
    if isinstance(fields, dict):
        ends = fields["event"] in ("phx_close", "phx_error")
        fields = [fields["ref"] if ends else None, *(fields[name] for name in ("ref", "topic", "event", "payload"))]
    join_ref, ref, topic, event, payload = fields
    # An echo of refs or a topic that no client of ours sends is for nobody here.
    refs = [ref if isinstance(ref, str | None) else "" for ref in (join_ref, ref)]
    return [*refs, topic if isinstance(topic, str) else "", event, payload]


def said(message: Message[Any]) -> list[Any]:
    return [message.join_ref, message.ref, message.topic, message.event, message.payload]
