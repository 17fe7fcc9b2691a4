"""`ServerProtocol` under the recorded application, against the sessions recorded from a real server.

The client's side of each session is played at its recorded times; every frame, pong, close and end of the server's side
must come out, in order and about when it did. `replay.py` and `agreement.py` tell how, and what a recording leaves
open; that they do not agree with everything is shown on sessions that were made up.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import recorded
from agreement import best_outcome, outcome, recordings, settings

from phx_proto.server.events import HOSTS, RELEASES, Host, Release

TOLERANCE = 0.2  # how far a recorded server was from its own clock


def _connections() -> Iterator[Any]:
    for name in recorded.names():
        for connection, recording in recordings(recorded.load(name)).items():
            if not recording.clipped:
                yield pytest.param(name, connection)


@pytest.mark.parametrize(("name", "connection"), list(_connections()))
def test_the_server_answers_as_the_recorded_one(name: str, connection: str) -> None:
    theirs, ours = outcome(name).pairs[connection]
    assert [what for _, *what in ours] == [what for _, *what in theirs]


@pytest.mark.parametrize(("name", "connection"), list(_connections()))
def test_the_server_answers_when_the_recorded_one_did(name: str, connection: str) -> None:
    """A recorded time is when the client read, which may be late; but not for the end of a quiet connection."""
    theirs, ours = outcome(name).pairs[connection]
    late = [(our, their) for (their, *_), (our, *_) in zip(theirs, ours, strict=True) if our > their + TOLERANCE]
    assert late == []
    setting = outcome(name).setting
    step = (setting.timeout or 0.0) / (HOSTS[setting.host].idle_ticks or float("inf"))  # where a step began is not told
    ends = [(their, our) for (their, what, _), (our, *_) in zip(theirs, ours, strict=True) if what == "close"]
    stopped = any(line.kind == "signal" for line in recorded.load(name).lines)
    assert stopped or all(abs(our - their) < TOLERANCE + step for their, our in ends)


def test_there_are_sessions() -> None:
    assert recorded.names()


# ---- sessions that were made up -------------------------------------------------------------------------------------

OPENED: list[tuple[float, dict[str, Any]]] = [
    (0, {"dir": "http_req", "line": "GET /socket/websocket?vsn=2.0.0 HTTP/1.1"}),
    (0, {"dir": "http_resp", "line": "HTTP/1.1 101 Switching Protocols"}),
]


def made_up(*lines: tuple[float, str, Any], headers: Any = (), name: str = "made up") -> recorded.Session:
    """A session of one connection: `>` the client sends, `<` it receives; the time is in milliseconds."""
    (request, response) = (fields for _, fields in OPENED)
    fields = [{"t_ms": 0, "c": "A", **request}, {"t_ms": 0, "c": "A", **response, "headers": list(headers)}]
    for time, way, what in lines:
        data = {"op": "close", "code": what} if isinstance(what, int) else {"op": "text", "data": json.dumps(what)}
        fields.append({"t_ms": time, "c": "A", "dir": {">": "send", "<": "recv"}[way], **data})
        if way == "<" and isinstance(what, int):
            fields.append({"t_ms": time, "c": "A", "dir": "eof"})
    return recorded.Session(name, tuple(map(recorded.line_of, fields)))


def reply(join_ref: str, ref: str, topic: str, response: Any) -> list[Any]:
    return [join_ref, ref, topic, "phx_reply", {"status": "ok", "response": response}]


JOINED = [
    (1, ">", ["1", "1", "room:a", "phx_join", {}]),
    (2, "<", reply("1", "1", "room:a", {"echo": {}})),
    (3, ">", ["2", "2", "room:b", "phx_join", {}]),
    (4, "<", reply("2", "2", "room:b", {"echo": {}})),
]
LEFT_AND_JOINED = [(20, ">", ["1", "3", "room:a", "phx_leave", {}]), (20.1, ">", ["4", "4", "room:a", "phx_join", {}])]
LEAVES_REPLY, JOINS_REPLY = reply("1", "3", "room:a", {}), reply("4", "4", "room:a", {"echo": {}})
CLOSE = ["1", "1", "room:a", "phx_close", {}]


@pytest.mark.parametrize(
    "answers",
    [
        [JOINS_REPLY, CLOSE],
        [LEAVES_REPLY, CLOSE, JOINS_REPLY],
        [JOINS_REPLY, LEAVES_REPLY, CLOSE],
    ],
    ids=["never answered", "answered before the join", "answered after the join"],
)
def test_a_leave_that_a_join_follows_is_answered_in_one_of_three_ways(answers: list[Any]) -> None:
    received = [(21 + n / 10, "<", answer) for n, answer in enumerate(answers)]
    assert best_outcome(made_up(*JOINED, *LEFT_AND_JOINED, *received)).missed == 0


@pytest.mark.parametrize(
    "answers",
    [
        [LEAVES_REPLY, JOINS_REPLY, CLOSE],
        [JOINS_REPLY],
        [CLOSE, JOINS_REPLY],
        [LEAVES_REPLY, CLOSE, JOINS_REPLY, CLOSE],
        [LEAVES_REPLY, CLOSE, reply("4", "4", "room:a", {"echo": {"x": 1}})],
    ],
)
def test_and_in_no_other(answers: list[Any]) -> None:
    received = [(21 + n / 10, "<", answer) for n, answer in enumerate(answers)]
    assert best_outcome(made_up(*JOINED, *LEFT_AND_JOINED, *received)).missed > 0


@pytest.mark.parametrize(("gap", "agrees"), [(0.1, True), (50, False)])
def test_only_what_came_at_once_has_no_order_among_channels(gap: float, agrees: bool) -> None:
    asked = [(20, ">", ["1", "5", "room:a", "echo", 1]), (20.1, ">", ["2", "6", "room:b", "echo", 2])]
    answered = [(21, "<", reply("2", "6", "room:b", 2)), (21 + gap, "<", reply("1", "5", "room:a", 1))]
    assert (best_outcome(made_up(*JOINED, *asked, *answered)).missed == 0) is agrees


def test_the_release_and_the_web_server_are_found_out() -> None:
    crashed = [(20, ">", ["1", "3", "room:a", "crash", {}])]
    told = [(21, "<", ["1", "1", "room:a", "phx_error", {"reason": "channel_crash"}])]
    closed = [(30, ">", 1001), (31, "<", 1001)]
    found = best_outcome(made_up(*JOINED, *crashed, *told, *closed))
    assert found.missed == 0
    assert (found.setting.host, found.setting.release) == (Host.COWBOY, Release.V1_8_12)


@pytest.mark.parametrize(
    ("name", "headers", "count"),
    [
        ("cowboy-1.8.12/leave.v2", [], 1),
        ("leave.v2", [["server", "Cowboy"]], len(set(RELEASES.values()))),
        ("leave.bandit.v2", [], len(set(RELEASES.values()))),
        ("leave.v2", [], 2 * len(set(RELEASES.values()))),
    ],
)
def test_what_a_recording_says_of_its_server_is_believed(name: str, headers: Any, count: int) -> None:
    found = settings(made_up(headers=headers, name=name))
    assert len(found) == count
    assert found[0].host is (Host.COWBOY if "cowboy" in f"{name} {headers}".lower() else Host.BANDIT)


def test_a_broadcast_that_no_request_caused_came_from_outside() -> None:
    news = [(50, "<", [None, None, "room:a", "news", {"n": 1}]), (90, "<", [None, None, "room:c", "news", {"n": 1}])]
    assert best_outcome(made_up(*JOINED, news[0])).missed == 0
    assert best_outcome(made_up(*JOINED, *news)).missed > 0
