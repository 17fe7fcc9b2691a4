"""Long polling on the server's side: HTTP requests in, their answers out, between a client and its `ServerProtocol`.

Theory of operation. On a real server (`Phoenix.Transports.LongPoll`) a session is a process with a mailbox, and each
HTTP request is a process that sends it a message and waits for the answer. That determines what a client sees:

- A request is first accepted: the session has to confirm it within `patience`. A session that is busy with a join, or
  has ended, does not, and the request is treated like one without a session: a GET opens a new one, a POST gets 410.
- A POST passes on its messages one by one, each when the one before was handled. If one is not handled within the
  `window`, the POST ends with 408, and the message may still be handled later.
- A poll is answered when there are messages, with all of them; after the `window` with none. A later poll takes the
  messages from one that still waits.
- A session ends when its last poll began more than one and a half windows ago, which is checked every one and a half
  windows. A message that crashes the socket ends the session without a report to the client: its POST gets 408.

`Polls` has the sessions of one mount. It decides nothing about the application: a GET without a session is an opening,
which the adapter answers with `open`, `refuse` or `crash`.
"""

import enum
from base64 import b64decode
from collections import deque
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from ..timers import NO_TIMER, Timer, Timers

#: Messages of one POST that are handled; the rest is dropped.
LARGEST_BATCH: Final = 100

#: Bytes of a POST's body; a larger one is answered with HTTP 400.
LARGEST_BODY: Final = 8_000_000

#: Windows for which an ended session is remembered, so that a request for it has to wait as on a real server.
_REMEMBERED: Final = 4

NDJSON: Final = "application/x-ndjson"


class PollRequest(msgspec.Struct, frozen=True, eq=False):
    """One HTTP request for a mount's `/longpoll`.

    Attributes:
        method: `GET` or `POST`; any other is answered with HTTP 400.
        token: The token of its session, if it has one. Secret.
        content_type: The body's, from the header; only `NDJSON` has several messages.
        body: The body of a POST.
    """

    method: str
    token: str | None = None
    content_type: str = ""
    body: bytes = b""

    def __repr__(self) -> str:
        return f"PollRequest({self.method}, {len(self.body)} bytes)"


class PollAnswer(msgspec.Struct, frozen=True):
    """The answer to a request.

    Attributes:
        status: The HTTP status; long polling's own status is in the body.
        body: JSON, or empty.
    """

    request: PollRequest
    status: int
    body: bytes

    def __repr__(self) -> str:
        return f"PollAnswer({self.request!r}, HTTP {self.status}, {len(self.body)} bytes)"


class _Step(enum.Enum):
    """What a request wants of its session."""

    LET_IN = "to be accepted"
    DISPATCH = "to have its next message handled"
    FLUSH = "to be given the messages"


@dataclass(slots=True, eq=False)
class _Waiting:
    """A request that waits for its session.

    Attributes:
        frames: For a POST: those that are not passed on yet.
        timer: The end of the wait; pending until it is answered.
    """

    request: PollRequest
    frames: deque[str | bytes]
    timer: Timer = NO_TIMER


class PollSession:
    """One session, in front of one `ServerProtocol`. Made by `Polls.open`.

    Attributes:
        token: Gives access to the session. Secret.
        buffered: Bytes, or characters, that wait for a poll.
        over: Whether the session handles nothing more.
    """

    def __init__(self, polls: "Polls", token: str, now: float) -> None:
        self.token = token
        self.buffered = 0
        self.over = False
        self._polls = polls
        self._mail: deque[tuple[_Step, _Waiting]] = deque()
        self._handled: _Waiting | None = None  # the request of the latest message
        self._poll: _Waiting | None = None  # the poll that waits for messages
        self._buffer: list[str | bytes] = []
        self._polled_at = now
        polls.timers.at(now + 1.5 * polls.window, self._look)

    def __repr__(self) -> str:
        return f"PollSession({'over' if self.over else 'alive'}, {self.buffered} bytes)"

    # ---- for the socket ---------------------------------------------------------------------------------------------

    def put(self, data: str | bytes) -> None:
        """Queue a frame for the client; call `flush` after the last one."""
        if not self.over:
            self._buffer.append(data)
            self.buffered += len(data)

    def flush(self) -> None:
        """Answer the waiting poll, if there is something for it."""
        if self._poll is not None and self._buffer:
            self._give(self._poll)

    def take(self, now: float) -> str | bytes | None:
        """The next message for the socket; `None` if there is none.

        Call it only while the socket is ready, as it is when it has handled the message before; see
        `ServerProtocol.ready`.
        """
        if self.over:
            return None
        handled, self._handled = self._handled, None
        if handled is not None and handled.timer.pending:
            if handled.frames:
                self._wait(_Step.DISPATCH, handled, now)
            else:
                self._answer(handled, {"status": 200})
        while self._mail:
            step, waiting = self._mail.popleft()
            if step is _Step.DISPATCH:
                self._handled = waiting
                return waiting.frames.popleft()
            if not waiting.timer.pending:
                continue
            if step is _Step.LET_IN:
                self._wait(_Step.DISPATCH if waiting.frames else _Step.FLUSH, waiting, now)
            else:
                self._polled_at = now
                self._poll = waiting
                self.flush()
        return None

    def end(self) -> None:
        """The socket is over; waiting requests get no answer."""
        self.over = True
        self._buffer.clear()
        self.buffered = 0

    # ---- for `Polls` ------------------------------------------------------------------------------------------------

    def request(self, request: PollRequest, frames: deque[str | bytes], now: float) -> None:
        """A request has come; a poll has no frames."""
        self._wait(_Step.LET_IN, _Waiting(request, frames), now)

    def forget(self, request: PollRequest) -> None:
        """The connection of a poll is gone: frames are kept for the next one."""
        if self._poll is not None and self._poll.request is request:
            self._poll.timer.cancel()
            self._poll = None

    # ---- private ----------------------------------------------------------------------------------------------------

    def _wait(self, step: _Step, waiting: _Waiting, now: float) -> None:
        waiting.timer.cancel()
        seconds = self._polls.patience if step is _Step.LET_IN else self._polls.window
        waiting.timer = self._polls.timers.at(now + seconds, lambda now: self._timed_out(step, waiting))
        self._mail.append((step, waiting))

    def _timed_out(self, step: _Step, waiting: _Waiting) -> None:
        if step is _Step.LET_IN:
            self._mail.remove((step, waiting))
            self._polls.without_session(waiting.request)
        elif step is _Step.DISPATCH:
            while len(waiting.frames) > 1 or (waiting is self._handled and waiting.frames):
                waiting.frames.pop()  # but not the one that was passed on, and may still be handled
            self._answer(waiting, {"status": 408})
        else:
            if self._poll is waiting:
                self._poll = None
            self._answer(waiting, {"status": 204, "token": self.token, "messages": []})

    def _give(self, waiting: _Waiting) -> None:
        self._poll = None
        frames, self._buffer = self._buffer, []
        self.buffered = 0
        try:
            texts = [frame if isinstance(frame, str) else frame.decode() for frame in frames]
        except UnicodeDecodeError:  # not for bytes; a real server loses them too
            waiting.timer.cancel()
            self._polls.crash(waiting.request)
            return
        self._answer(waiting, {"status": 200, "token": self.token, "messages": texts})

    def _answer(self, waiting: _Waiting, body: dict[str, Any]) -> None:
        waiting.timer.cancel()
        self._polls.answer(waiting.request, 200, body)

    def _look(self, now: float) -> None:
        """Check whether the client still polls."""
        polls = self._polls
        if self.over:
            polls.timers.at(now + _REMEMBERED * polls.window, self._forget)
            return
        if now - self._polled_at > 1.5 * polls.window:
            polls.expired.append(self)
        polls.timers.at(now + 1.5 * polls.window, self._look)

    def _forget(self, now: float) -> None:
        del self._polls.sessions[self.token]


class Polls:
    """The sessions of one mount.

    Args:
        window: Seconds that a poll waits for messages, and a message of a POST to be handled (`window_ms`).
        patience: Seconds that a session has to accept a request (`pubsub_timeout_ms`).

    Attributes:
        sessions: By their tokens, including recently ended ones.
        expired: Sessions whose clients no longer poll; for the adapter to remove.
        openings: Requests for a new session; for the adapter to answer.
        answers: The answers to send.
        timers: All waits.
    """

    def __init__(self, *, window: float = 10.0, patience: float = 2.0) -> None:
        self.window = window
        self.patience = patience
        self.sessions: dict[str, PollSession] = {}
        self.expired: list[PollSession] = []
        self.openings: list[PollRequest] = []
        self.answers: list[PollAnswer] = []
        self.timers = Timers()

    def request(self, request: PollRequest, now: float) -> PollSession | None:
        """A request has come; returns its session, if it has one, for the adapter to serve (`take`)."""
        if request.method not in ("GET", "POST"):
            self.answer(request, 400, None)
            return None
        session = self.sessions.get(request.token or "")
        if session is None:
            self.without_session(request)
            return None
        try:
            frames = _frames(request) if request.method == "POST" else deque[str | bytes]()
        except ValueError:
            self.crash(request)
            return None
        session.request(request, frames, now)
        return session

    def open(self, request: PollRequest, token: str, now: float) -> PollSession:
        """The application accepts a client.

        Args:
            request: The opening.
            token: A new, unpredictable one.
            now: Monotonic seconds.
        """
        session = self.sessions[token] = PollSession(self, token, now)
        self.answer(request, 200, {"status": 410, "token": token, "messages": []})
        return session

    def refuse(self, request: PollRequest) -> None:
        """The application refuses the client, which gets status 403 whatever the reason."""
        self.answer(request, 200, {"status": 403})

    def crash(self, request: PollRequest) -> None:
        """The application failed: HTTP 500."""
        self.answer(request, 500, {"errors": {"detail": "Internal Server Error"}})

    # ---- for sessions -----------------------------------------------------------------------------------------------

    def without_session(self, request: PollRequest) -> None:
        """It has no session, or none that accepts it."""
        if request.method == "GET":
            self.openings.append(request)
        else:
            self.answer(request, 200, {"status": 410})

    def answer(self, request: PollRequest, status: int, body: dict[str, Any] | None) -> None:
        """A request is answered."""
        self.answers.append(PollAnswer(request, status, b"" if body is None else msgspec.json.encode(body)))


# ---- private --------------------------------------------------------------------------------------------------------


def _frames(request: PollRequest) -> deque[str | bytes]:
    """The messages of a POST.

    Raises:
        ValueError: A line is neither text nor base64.
    """
    if request.content_type != NDJSON:
        return deque([_text(request.body)])
    lines = request.body.replace(b"\r\n", b"\n").split(b"\n", LARGEST_BATCH)[:LARGEST_BATCH]
    return deque(_text(line) if line.startswith(b"[") else b64decode(line, validate=True) for line in lines)


def _text(body: bytes) -> str:
    return body.decode(errors="surrogateescape")  # invalid UTF-8 is not JSON either
