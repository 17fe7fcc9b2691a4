"""How well a replay of a session agrees with its recording, and the replay that agrees best.

Two facts that a recording does not contain are determined, in the same way for every session:

- Which release on which web server it was, unless the file's path, `PHX_RELEASE`, `PHX_HOST` or a response's header
  says so: the first setting under which the whole session agrees.
- Which of the frames that the client sent at once came in one read, and whether the channels, which are processes of
  their own on a real server, got a turn between two of them: see `Reading`. What is usual is tried first.

What several channels, or presence, say at once comes in any order on a real server. So what was received within
`AT_ONCE` of one another is compared topic by topic, presence diffs apart; everything else in order.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise, product
from math import inf
from typing import Final

import recorded
from recorded import Session
from replay import AT_ONCE, Reading, Replay, Seen, may_be_one_read, topic_and_event, unused

from phx_proto.server.events import RELEASES, Host, Release, ServerOptions

TRIES: Final = 200  # replays of one session, to find out how its frames were read


@dataclass(frozen=True, slots=True)
class Recording:
    """What one WebSocket connection of a session received.

    Attributes:
        name: The connection's, with a number if it is not the first of that name.
        seen: In order.
        clipped: Whether it cannot be replayed, for the recording lacks parts of it.
    """

    name: str
    seen: list[Seen]
    clipped: bool


def recordings(session: Session) -> dict[str, Recording]:
    """What each WebSocket connection of a session received."""
    found: dict[str, Recording] = {}
    current: dict[str, Recording] = {}
    for line in session.lines:
        name = line.connection
        if line.kind == "http_resp" and line.status == 101:
            own = unused(name, found)
            current[name] = found[own] = Recording(own, [], any(_clipped(session, name)))
        elif name in current:
            seen = current[name].seen
            if line.kind == "recv" and line.op in ("text", "binary"):
                seen.append((line.time, "frame", line.data))
            elif line.kind == "recv" and line.op == "pong":
                seen.append((line.time, "pong", line.data))
            elif line.kind == "recv" and line.op == "close":
                seen.append((line.time, "close", line.code))
            elif line.kind == "eof":
                seen.append((line.time, "eof", None))
    return found


def compared(recording: Recording, seen: list[Seen]) -> tuple[list[Seen], list[Seen]]:
    """The recorded and the replayed, in an order that both can have, with what is random in them named alike."""
    gaps = enumerate(pairwise(recording.seen), 1)
    starts = [0, *(index for index, (before, after) in gaps if after[0] - before[0] > AT_ONCE)]
    ends = [*starts[1:], max(len(recording.seen), len(seen))]
    return _canonical(recording.seen, starts, ends), _canonical(seen, starts, ends)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The best replay of a session: by connection what was recorded and what was replayed."""

    setting: ServerOptions
    pairs: dict[str, tuple[list[Seen], list[Seen]]]

    @property
    def missed(self) -> int:
        """How many of the things received do not agree, counted from the first that does not in each connection."""
        return sum(len(theirs) + len(ours) - 2 * _agreeing(theirs, ours) for theirs, ours in self.pairs.values())

    def first_difference(self) -> float:
        """When the first thing that does not agree was received."""
        return min((_difference(*pair) for pair in self.pairs.values()), default=inf)


@cache
def outcome(name: str) -> Outcome:
    """The replay of a recorded session that agrees, or the one that comes closest."""
    return best_outcome(recorded.load(name))


def best_outcome(session: Session) -> Outcome:
    """The same of a session that was loaded, or made up."""
    outcomes: list[Outcome] = []
    for setting in settings(session):
        outcomes.append(_outcome(session, setting, {}))
        if not outcomes[-1].missed:
            return outcomes[-1]
    best = min(outcomes, key=lambda each: each.missed)
    return _resolved(session, best)


def settings(session: Session) -> list[ServerOptions]:
    """What may have been recorded, the likeliest first; one of each kind of releases where none is told."""
    told = f"{session.name} {os.environ.get('PHX_RELEASE', '')} {os.environ.get('PHX_HOST', '')}".lower()
    responses = [line.headers for line in session.lines if line.kind == "http_resp"]
    hosts = [host for host in Host if host.value in told]
    if not hosts and any("cowboy" in headers.get("server", "").lower() for headers in responses):
        hosts = [Host.COWBOY]
    number = re.search(r"1[._]8[._](\d+)", told)
    releases = [release for release in Release if number and release.value == f"1.8.{number[1]}"]
    kinds = {RELEASES[release]: release for release in (*reversed(Release), Release.V1_8_9)}
    likely = sorted(kinds.values(), key=lambda release: release is not Release.V1_8_9)
    return [
        ServerOptions(release=release, host=host) for host, release in product(hosts or list(Host), releases or likely)
    ]


def _resolved(session: Session, best: Outcome) -> Outcome:
    """Looks for how the frames were read, from the first difference backwards, one change at a time."""
    readings: dict[int, Reading] = {}
    lines = session.lines
    tries = TRIES
    while best.missed and tries:
        difference = best.first_difference()
        places = [
            index
            for index in range(len(lines) - 1, 0, -1)
            if lines[index].time <= difference and may_be_one_read(lines[index - 1], lines[index])
        ]
        for index, reading in product(places, Reading):
            changed = {**readings, index: reading}
            tries -= 1
            tried = _outcome(session, best.setting, changed)
            if tried.missed < best.missed or tried.first_difference() > difference:
                readings, best = changed, tried
                break
            if not tries:
                break
        else:
            break
    return best


def _outcome(session: Session, setting: ServerOptions, readings: dict[int, Reading]) -> Outcome:
    replay = Replay(session, setting, readings).run()
    pairs = {
        name: compared(recording, replay.wires[name].seen)
        for name, recording in recordings(session).items()
        if not recording.clipped
    }
    return Outcome(setting, pairs)


def _agreeing(theirs: list[Seen], ours: list[Seen]) -> int:
    """How many agree before the first that does not."""
    pairs = enumerate(zip(theirs, ours, strict=False))
    return next((n for n, (a, b) in pairs if a[1:] != b[1:]), min(len(theirs), len(ours)))


def _difference(theirs: list[Seen], ours: list[Seen]) -> float:
    agreeing = _agreeing(theirs, ours)
    if agreeing == max(len(theirs), len(ours)):
        return inf
    return (theirs if agreeing < len(theirs) else ours)[agreeing][0]


def _canonical(seen: list[Seen], starts: list[int], ends: list[int]) -> list[Seen]:
    refs: dict[str, str] = {}
    ordered = [each for start, end in zip(starts, ends, strict=True) for each in sorted(seen[start:end], key=_stream)]
    return [
        (time, what, recorded.comparable(value, refs) if what == "frame" else value) for time, what, value in ordered
    ]


def _stream(seen: Seen) -> tuple[int, str]:
    """What has an order of its own on a real server."""
    _, what, value = seen
    if what != "frame":
        return (1 if what == "pong" else 2), ""
    topic, event = topic_and_event(value)
    return 0, f"{topic!r} {'diff' if event == 'presence_diff' else ''}"


def _clipped(session: Session, name: str) -> Iterator[bool]:
    return (line.clipped for line in session.lines if line.connection == name and line.kind in ("send", "recv"))
