"""`ServerProtocol` under the recorded application, against the sessions recorded from a real server.

The client's side of each session is played at its recorded times; every frame and close of the server's side must come
out, in order and about when it did. Frames that the client sent at once are given as one read. Left to the transport
are pongs and close 1007 (text that is not UTF-8).
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import recorded
from application import Endpoint, Socket
from recorded import Line

from phx_proto.server import serializer_for
from phx_proto.server_events import Abort, Close, Send

AT_ONCE = 0.00035  # sends no further apart than this came in one read
TOLERANCE = 0.1  # how far a recorded server was from its own clock

# Races that a recording cannot tell: these frames came with a later read than the ones sent right before them.
READ_LATER = {("stop_crash.v2", '["90","94","room:s","echo",{}]')}

# Broadcasts from outside that were not recorded as requests.
OUTSIDE = {
    "timeout_short.v2": [(at, "/broadcast?topic=room:lobby&event=tick&n=1") for at in (28.884, 29.891)],
}

# Where we answer otherwise.
DIFFERENT = {
    ("malformed.v2", "M"): "of a key that comes twice msgspec keeps the last value, the recorded server the first",
}

Seen = tuple[float, str, Any]


@dataclass
class Replay:
    """Plays the client's lines of a session to an `Endpoint`."""

    session: recorded.Session
    endpoint: Endpoint = field(default_factory=Endpoint)
    sockets: dict[str, Socket] = field(default_factory=dict)
    requests: dict[str, str] = field(default_factory=dict)
    half_sent: set[str] = field(default_factory=set)
    spoilt: dict[str, float] = field(default_factory=dict)

    def run(self) -> None:
        outside = [(at, url) for at, url in OUTSIDE.get(self.session.name, [])]
        lines = list(self.session.lines)
        for group in _reads(self.session.name, lines):
            while outside and outside[0][0] <= group[0].time:
                at, url = outside.pop(0)
                self._advance(at)
                self.endpoint.get(url)
                self.endpoint.pump(at)
            self._advance(group[-1].time)
            self._play(group)
            self.endpoint.pump(group[-1].time)

    def _advance(self, now: float) -> None:
        while (due := self.endpoint.next_timeout()) is not None and due <= now:
            self.endpoint.handle_timeout(due)
            self.endpoint.pump(due)

    def _play(self, group: list[Line]) -> None:
        line = group[0]
        name = line.connection
        match line.kind:
            case "http_req":
                url = self.requests[name] = line.fields["line"].split()[1]
                self.endpoint.get(url)
            case "http_resp" if "101" in line.fields.get("line", ""):
                self.sockets[name] = self.endpoint.connect(self.requests[name], line.time)
            case "tcp_close":
                self.sockets[name].protocol.closed(None, "gone")
            case "send":
                self._send(name, group)
            case _:
                pass

    def _send(self, name: str, group: list[Line]) -> None:
        line, protocol = group[0], self.sockets[name].protocol
        if line.op == "raw" and line.data[:1] != b"\x8a":  # part of a frame, which swallows what comes after it
            self.half_sent.add(name)
        if name in self.half_sent and line.op == "close":
            protocol.closed(None, "gone")
        elif name in self.half_sent or line.op in ("ping", "pong", "raw"):
            protocol.touched(line.time)
        elif line.op == "close":
            protocol.closed(line.code, line.fields["reason"])
        elif line.op == "text" and isinstance(line.data, bytes) and line.data:
            self.spoilt[name] = line.time
            protocol.closed(None, "text that is not UTF-8")
        else:
            protocol.receive_all([each.data for each in group], group[-1].time)


def _reads(name: str, lines: list[Line]) -> list[list[Line]]:
    groups: list[list[Line]] = []
    for line in lines:
        last = groups[-1][-1] if groups else None
        together = (
            last is not None
            and last.kind == line.kind == "send"
            and last.connection == line.connection
            and {last.op, line.op} <= {"text", "binary"}
            and line.time - last.time <= AT_ONCE
            and (name, line.data) not in READ_LATER
        )
        if together:
            groups[-1].append(line)
        else:
            groups.append([line])
    return groups


def _expected(session: recorded.Session, name: str) -> list[Seen]:
    refs: dict[str, str] = {}
    seen: list[Seen] = []
    for line in session.lines:
        if line.connection != name:
            continue
        if line.kind == "recv" and line.op in ("text", "binary"):
            seen.append((line.time, "frame", recorded.comparable(line.data, refs)))
        elif line.kind == "recv" and line.op == "close":
            seen.append((line.time, "close", line.code))
        elif line.kind == "eof":
            seen.append((line.time, "eof", None))
    return seen


def _answered(replay: Replay, name: str) -> list[Seen]:
    refs: dict[str, str] = {}
    seen: list[Seen] = []
    for time, command in replay.sockets[name].commands:
        match command:
            case Send(data):
                seen.append((time, "frame", recorded.comparable(data, refs)))
            case Close(code):
                seen += [(time, "close", code), (time, "eof", None)]
            case Abort():
                seen.append((time, "eof", None))
    if name in replay.spoilt:
        seen += [(replay.spoilt[name], "close", 1007), (replay.spoilt[name], "eof", None)]
    return seen


@cache
def _replayed(name: str) -> Replay:
    replay = Replay(recorded.load(name))
    replay.run()
    return replay


def _connections() -> Iterator[Any]:
    for name in recorded.names():
        for connection in recorded.load(name).connections:
            why = DIFFERENT.get((name, connection))
            marks = () if why is None else (pytest.mark.xfail(reason=why, strict=True),)
            yield pytest.param(name, connection, marks=marks)


@pytest.mark.parametrize(("name", "connection"), list(_connections()))
def test_the_server_answers_as_the_recorded_one(name: str, connection: str) -> None:
    replay = _replayed(name)
    expected, answered = _expected(replay.session, connection), _answered(replay, connection)
    assert [what for _, *what in answered] == [what for _, *what in expected]
    delays = [ours - theirs for (theirs, *_), (ours, *_) in zip(expected, answered, strict=True)]
    assert all(abs(delay) < TOLERANCE for delay in delays)


def test_there_are_sessions() -> None:
    assert recorded.names()


def _handshakes() -> dict[str, bool]:
    """By query: whether the recorded server took its vsn."""
    lines = recorded.load("vsn").lines if "vsn" in recorded.names() else ()
    asked = [line.fields["line"].split()[1] for line in lines if line.kind == "http_req"]
    taken = ["101" in line.fields["line"] for line in lines if line.kind == "http_resp"]
    return dict(zip((urlsplit(url).query for url in asked), taken, strict=True))


@pytest.mark.parametrize(("query", "taken"), list(_handshakes().items()))
def test_versions_are_taken_and_refused_as_recorded(query: str, taken: bool) -> None:
    vsn = dict(parse_qsl(query.replace("[]", ""), keep_blank_values=True)).get("vsn")
    if "[]" in query:  # a list, which no version is
        vsn = repr([vsn])
    assert (serializer_for(vsn) is not None) is taken
