"""`Recording`: sessions of real servers, and of `phx listen --record`, played to a client."""

import json
from pathlib import Path
from typing import Any

import pytest
from snippets import blocks, run

from phx_proto.errors import JoinRefused
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_transports.testing import Peer, Recording
from phx_transports.threads import connect

ROOT = Path(__file__).parents[2]
SESSIONS = ROOT / "tests" / "conformance" / "transcripts"


def written(path: Path, *lines: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def frame(at: float, direction: str, *fields: Any) -> dict[str, Any]:
    return {"t_ms": at, "dir": direction, "c": "1", "op": "text", "data": json.dumps(fields)}


def test_a_session_of_a_real_server_is_played_to_a_client() -> None:
    recording = Recording.read(SESSIONS / "push_burst.v2.jsonl")
    router, seen = Router(), list[str]()

    @router.on("*")
    def see(message: Message[Any]) -> None:
        seen.append(message.event)

    with Peer() as peer:
        recording.answer_joins(peer)
        with connect(peer.url, transport=peer, router=router) as client:
            for topic in recording.joins:
                client.join(topic)
            recording.play(peer)
            peer.settle()
    assert seen[:3] == ["pushed", "pushed", "burst"]


@pytest.mark.parametrize("path", sorted(SESSIONS.glob("*.jsonl")), ids=lambda path: path.name)
def test_every_session_can_be_read_and_played(path: Path) -> None:
    recording = Recording.read(path)
    peer = Peer()
    peer.allow_join("*")
    client = peer.driver().connect()
    for topic in recording.joins:
        client.join(topic)
    recording.play(peer)
    peer.end()


def test_what_the_server_did_comes_in_order_and_at_its_time(tmp_path: Path) -> None:
    path = written(
        tmp_path / "session.jsonl",
        frame(0.0, "send", "1", "1", "room:1", "phx_join", {}),
        frame(0.0, "send", "2", "2", "room:2", "phx_join", {}),
        frame(1.0, "recv", "1", "1", "room:1", "phx_reply", {"status": "ok", "response": {"n": 1}}),
        frame(1.0, "recv", "2", "2", "room:2", "phx_reply", {"status": "error", "response": {"reason": "full"}}),
        frame(500.0, "recv", "1", None, "room:1", "tick", {"n": 1}),
        frame(500.0, "recv", None, None, "room:1", "tock", {"n": 2}),
        {"t_ms": 600.0, "dir": "recv", "c": "1", "op": "binary", "hex": "02060470616e6963"},
        {"t_ms": 600.0, "dir": "recv", "c": "1", "op": "text", "data": "{not json"},
        frame(700.0, "recv", "1", "1", "room:1", "phx_error", {}),
        {"t_ms": 900.0, "dir": "recv", "c": "1", "op": "close", "code": 1012, "reason": ""},
        {"t_ms": 900.1, "dir": "eof", "c": "1"},
        frame(9000.0, "recv", "3", "3", "room:1", "phx_close", {}),
    )
    recording = Recording.read(path)
    with Peer() as peer:
        recording.answer_joins(peer)
        client = peer.driver().connect()
        assert client.join("room:1").result(0) == {"n": 1}
        refused = client.join("room:2")
        recording.play(peer)
        with pytest.raises(JoinRefused):
            refused.result(0)
        assert [(message.event, message.payload) for message in client.messages] == [
            ("tick", {"n": 1}),
            ("tock", {"n": 2}),
        ]
        words = [(round(entry.at, 1), entry.words) for entry in peer.transcript if entry.side.value == "server"]
    assert words == [
        (0.0, "accepts the connection"),
        (0.0, 'answers the join of "room:1" with ok'),
        (0.0, 'answers the join of "room:2" with error'),
        (0.5, 'pushes "tick" to "room:1"'),
        (0.5, 'broadcasts "tock" to "room:1"'),
        (0.6, "sends a frame of its own, of size 8"),
        (0.6, "sends a frame of its own, of size 9"),
        (0.7, 'crashes "room:1"'),
        (0.9, "closes the connection with 1012"),
        (5.9, "accepts the connection"),
        (5.9, 'answers the join of "room:1" with ok'),
        (9.0, 'closes "room:1"'),
    ]


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no recording of `phx listen --record`"):
        Recording.read(written(tmp_path / "other.jsonl", {"topic": "room:1"}))


def test_the_guides_way_to_replay_works(tmp_path: Path) -> None:
    path = written(
        tmp_path / "session.jsonl",
        frame(0.0, "send", "1", "1", "room:1", "phx_join", {}),
        frame(1.0, "recv", "1", "1", "room:1", "phx_reply", {"status": "ok", "response": {}}),
        frame(2.0, "recv", None, None, "room:1", "shout", {"body": "hi"}),
    )
    module = run(blocks(ROOT / "docs" / "tools.md", marker="recording"))
    assert module["replayed"](path) == ["hi"]
