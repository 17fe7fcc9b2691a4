"""`Recording`: the server's part of a recorded session, for the test kit to play to a client.

recording = Recording.read("session.jsonl")           # of `phx listen … --record session.jsonl`
recording.answer_joins(peer)
with connect(peer.url, transport=peer, router=router) as client:
    for topic in recording.joins:
        client.join(topic)
    recording.play(peer)
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from phx_proto.formats import V1, V2, decode_reply
from phx_proto.message import PHX_JOIN, Reply

from .peer import Peer
from .steps import Step, end_connection, wait
from .transcript import decoded


@dataclass(frozen=True, slots=True)
class Recording:
    """A recorded session, from the server's side.

    Attributes:
        joins: By topic, the answer to its first join.
        steps: The server's other actions, with the time between; without replies to pushes and heartbeats.
    """

    joins: Mapping[str, Reply] = field(repr=False)
    steps: tuple[Step, ...] = field(repr=False)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file of `phx listen --record`.

        Raises:
            OSError: It cannot be read.
            ValueError: It is not a recording.
        """
        lines = [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line]
        if not all(isinstance(line, dict) and "dir" in line for line in lines):
            raise ValueError(f"{path} is no recording of `phx listen --record`")
        joins: dict[str, Reply] = {}
        return cls(joins, tuple(_steps(lines, joins)))

    def answer_joins(self, peer: Peer) -> None:
        """Answer joins as in the recording."""
        for topic, reply in self.joins.items():
            if reply.ok:
                peer.allow_join(topic, reply.response)
            else:
                peer.expect_join(topic).refuse(reply.response)

    def play(self, peer: Peer) -> None:
        """Play all of the server's actions, on the peer's clock; impossible ones are skipped."""
        for step in self.steps:
            step.play(peer)


def _steps(lines: list[dict[str, Any]], joins: dict[str, Reply]) -> Iterator[Step]:
    asked: dict[str | None, str] = {}  # topics of joins, by ref
    at = 0.0
    for line in lines:
        step = _step(line, asked, joins)
        if step is None:
            continue
        now = line.get("t_ms", 0.0) / 1000
        if now > at:
            yield Step(wait, (now - at,))
        at = max(at, now)
        yield step


def _step(line: dict[str, Any], asked: dict[str | None, str], joins: dict[str, Reply]) -> Step | None:
    match line:
        case {"dir": "recv", "op": "close"}:
            return Step(end_connection, (line.get("code") or 1000,))
        case {"dir": "eof"}:
            return Step(end_connection, (None,))  # after a close frame there is no connection to cut
        case {"dir": "send" | "recv", "op": "text" | "binary"}:
            frame = line["data"] if "data" in line else bytes.fromhex(line["hex"])
        case _:
            return None
    message = decoded(frame, V2(), V1())
    if line["dir"] == "send":
        if message is not None and message.event == PHX_JOIN:
            asked[message.ref] = message.topic
        return None
    if message is None:
        return Step(Peer.send_raw, (frame,))
    match message.event:
        case "phx_reply":
            topic = asked.pop(message.ref, None)
            if topic is not None:
                joins.setdefault(topic, decode_reply(message))
            return None
        case "phx_close":
            return Step(Peer.close_channel, (message.topic,))
        case "phx_error":
            return Step(Peer.crash, (message.topic,))
        case event:
            send = Peer.broadcast if message.join_ref is None else Peer.push
            return Step(send, (message.topic, event, message.payload))
