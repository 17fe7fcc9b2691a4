"""Plays the client's side of recorded long polling to the recorded application, at its recorded times, without I/O.

A session that the recorded server opened gets the token that it had there, so that the requests which carry it are
played as they stand.
"""

import json
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final

import polls as recorded_polls
import recorded
from agreement import settings
from application import Endpoint, Socket
from msgspec.structs import replace
from polls import Exchange
from replay import topic_and_event

from phx_proto.formats import serializer_for
from phx_proto.server import Abort, Close, PollAnswer, PollRequest, Polls, PollSession, Send, ServerOptions

#: What the recorded application does with these values of `token`.
_REFUSED: Final = ("bad", "unauthorized")


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer of ours."""

    time: float
    answer: PollAnswer


@dataclass
class PollReplay:
    """One replay of a session."""

    name: str
    setting: ServerOptions
    answers: dict[int, Answered] = field(default_factory=dict[int, Answered])  # by the exchange's index

    def __post_init__(self) -> None:
        self._endpoint = Endpoint(replace(self.setting, timeout=None))
        self._polls = Polls()
        self._sockets: dict[PollSession, Socket] = {}
        self._under_way: dict[PollRequest, Exchange] = {}
        self._exchanges = {exchange.index: exchange for exchange in recorded_polls.exchanges(self.name)}

    def run(self) -> "PollReplay":
        for index, line in enumerate(recorded.load(self.name).lines):
            if line.kind != "http_req":
                continue
            self._advance(line.time)
            exchange = self._exchanges.get(index)
            if exchange is None:
                self._endpoint.get(line.target)
            elif not exchange.clipped:  # or what follows from it would not be known
                self._ask(exchange, line.time)
            self._pump(line.time)
        self._advance(max([0.0, *(exchange.response.time for exchange in self._exchanges.values())]) + 1)
        return self

    # ---- private ----------------------------------------------------------------------------------------------------

    def _ask(self, exchange: Exchange, now: float) -> None:
        kind = exchange.request.headers.get("content-type", "")
        request = PollRequest(exchange.method, exchange.token, kind, exchange.body.encode())
        self._under_way[request] = exchange
        self._polls.request(request, now)

    def _advance(self, now: float) -> None:
        while True:
            due = [self._endpoint.next_timeout(), self._polls.timers.next()]
            at = min((time for time in due if time is not None), default=now + 1)
            if at > now:
                return
            self._endpoint.handle_timeout(at)
            self._polls.timers.fire(at)
            self._pump(at)

    def _pump(self, now: float) -> None:
        """Everything that follows at one moment."""
        busy = True
        while busy:
            self._send(now)
            busy = False
            for session, socket in self._sockets.items():
                while socket.protocol.ready and (frame := session.take(now)) is not None:
                    socket.protocol.receive(frame, now)
                    self._send(now)
                    busy = True
        while self._polls.expired:
            self._sockets[self._polls.expired.pop()].protocol.closed(None, "no poll came")
        for session in self._sockets:
            session.flush()
        while self._polls.openings:
            self._open(self._polls.openings.pop(0), now)
        while self._polls.answers:
            answer = self._polls.answers.pop(0)
            self.answers[self._under_way.pop(answer.request).index] = Answered(now, answer)

    def _send(self, now: float) -> None:
        self._endpoint.pump(now)
        for session, socket in self._sockets.items():
            for command in socket.protocol.commands():
                match command:
                    case Send(data):
                        session.put(data)
                    case Close() | Abort():
                        session.end()

    def _open(self, request: PollRequest, now: float) -> None:
        exchange = self._under_way[request]
        params = dict(exchange.params)
        if exchange.answer.get("status") == 403 and not _is_welcome(exchange.request.target, params):
            self._polls.refuse(request)
        elif params.get("token") == "crash":
            self._polls.crash(request)
        elif params.get("token") == "slow":
            self._endpoint.timers.at(now + 2, partial(self._let_in, request))
        else:
            self._let_in(request, now)

    def _let_in(self, request: PollRequest, now: float) -> None:
        exchange = self._under_way[request]
        socket = self._endpoint.connect(exchange.request.target.replace("/longpoll", "/websocket"), now)
        token = exchange.answer.get("token") or f"not recorded {exchange.index}"
        self._sockets[self._polls.open(request, token, now)] = socket


def _is_welcome(target: str, params: dict[str, str]) -> bool:
    """Only the plain socket's rules are played here; those of the others are the adapter's."""
    known = serializer_for(params.get("vsn")) is not None
    return known and target.startswith("/socket/") and params.get("token") not in _REFUSED


@cache
def best_replay(name: str) -> PollReplay:
    """The replay of a recorded session that agrees, or the one that comes closest."""
    replays = [PollReplay(name, setting).run() for setting in settings(recorded.load(name))]
    return min(replays, key=_missed)


def compared(replay: PollReplay, exchange: Exchange) -> tuple[Any, Any]:
    """The recorded answer and ours.

    Without messages, and where a poll brought any or none: which of several polls a message comes with depends on how
    the processes of a real server took turns.
    """
    answered = replay.answers.get(exchange.index)
    theirs = _without_messages(exchange, exchange.response.status, str(exchange.response.fields.get("body") or ""))
    if answered is None:
        return theirs, None
    return theirs, _without_messages(exchange, answered.answer.status, answered.answer.body.decode())


def polled(replay: PollReplay, token: str) -> tuple[Any, Any]:
    """What the polls of one session brought, as recorded and as replayed: by topic, each in its order."""
    theirs: list[str] = []
    ours: list[str] = []
    for exchange in recorded_polls.exchanges(replay.name):
        answered = replay.answers.get(exchange.index)
        if exchange.token == token and exchange.method == "GET" and answered is not None:
            theirs += exchange.answer.get("messages") or []
            ours += _messages(answered.answer.body)
    return _by_topic(theirs), _by_topic(ours)


# ---- private --------------------------------------------------------------------------------------------------------


def _missed(replay: PollReplay) -> int:
    exchanges = [exchange for exchange in recorded_polls.exchanges(replay.name) if not exchange.clipped]
    pairs = [compared(replay, exchange) for exchange in exchanges]
    pairs += [polled(replay, token) for token in {exchange.token or "" for exchange in exchanges}]
    return sum(theirs != ours for theirs, ours in pairs)


def _without_messages(exchange: Exchange, status: int, text: str) -> Any:
    try:
        body = json.loads(text)
    except ValueError:
        return status, text
    if exchange.method == "GET" and isinstance(body, dict) and body.get("status") in (200, 204):
        return status, body.get("token")
    return status, body


def _messages(body: bytes) -> list[str]:
    answer = json.loads(body or b"{}")
    return answer.get("messages") or []


def _by_topic(texts: list[str]) -> dict[str, list[Any]]:
    refs: dict[str, str] = {}
    found: dict[str, list[Any]] = {}
    for text in texts:
        if text[:1] in ("[", "{"):
            topic, event = topic_and_event(text)
            key = f"{topic!r} {'diff' if event == 'presence_diff' else ''}"
            found.setdefault(key, []).append(recorded.comparable(text, refs))
        else:  # bytes that were mangled
            found.setdefault("", []).append(text)
    return found
