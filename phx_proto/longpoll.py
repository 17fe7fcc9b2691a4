"""Long polling: a link whose messages travel in HTTP requests and their answers.

Theory of operation. A `PollingLink` replaces a WebSocket's link: the core sends to it with the same commands,
and the link reports in the same way. `carried` replaces the core's commands for such a link by the HTTP requests that
carry them, so an adapter only sees `SendRequest`.

- A GET without a token opens a session; then there is always one GET under way, which the server holds until it has
  messages (the poll), except while reading is paused. Each poll carries the newest token.
- What is sent is queued and goes out in POSTs, one at a time, which keeps the order: at most a hundred messages, one a
  line. A message that cannot be in a line (V1, or text with a line break) goes alone.
- The server forgets a poll's messages when it has sent them. So a lost or unreadable answer, or one without success,
  is a lost connection, whichever request it belongs to; then a new session is opened.

There are no heartbeats, because polls show that the peer is alive. One clock of few ticks bounds all requests: a poll
without input for `patience` seconds is lost; a POST has more time for each message, because the server answers after
handling all of them.

The session's token gives access to the session; it is secret.
"""

from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from math import inf
from typing import Annotated, Any, ClassVar, Final, TypeAlias
from urllib.parse import quote_plus

import msgspec

from .commands import (
    AbortTransport,
    CloseTransport,
    Command,
    PauseReading,
    PauseSending,
    ResumeReading,
    ResumeSending,
    SendBinary,
    SendRequest,
    SendText,
)
from .cookies import keep_cookies
from .core import Core
from .endpoint import Address
from .errors import ConnectError
from .link import Exchange, Link, LinkOwner
from .timers import NO_TIMER
from .wording import MESSAGE_TOO_BIG

#: Messages in one POST; a server drops any further ones.
_LARGEST_BATCH: Final = 100

#: Bytes in one POST of several messages; servers take 8,000,000.
_LARGEST_BODY: Final = 2**20

#: Bytes that may wait for a POST before callers must wait.
_WRITE_LIMIT: Final = 2**18

#: Ticks for which a poll may bring nothing, and the further ticks of a POST for each of its messages.
_TICKS: Final = 4
_TICKS_A_MESSAGE: Final = 2

#: The longest time from one poll's beginning to the next one's, as a part of `patience`, also while reading is paused:
#: a session ends after 15 s without a poll, and `patience` is 20.
_LONGEST_GAP: Final = 0.6

#: The least seconds from an empty answer to the next poll, for a server that does not hold polls.
_PACE: Final = 0.5

_OURS: Final = frozenset({"accept", "content-type", "x-phoenix-authtoken", "x-phoenix-longpoll-token"})

#: HTTP statuses of a request that was too large.
_TOO_LARGE: Final = (400, 413)
_SURELY_NOT_TOO_LARGE: Final = 10**6  # bytes


class PollingLink(Link):
    """One session, from the first GET to its end.

    Args:
        owner: The client behind it.
        number: The attempt's number.
        address: The address to connect to.
        core: For commands and timers.
        patience: Seconds for which a poll may bring nothing.

    Attributes:
        over: Whether the session has ended: nothing more is sent or received.
    """

    heartbeats: ClassVar[bool] = False

    def __init__(self, owner: LinkOwner, number: int, address: Address, core: Core, *, patience: float) -> None:
        super().__init__(owner, number)
        self._address = address
        self._core = core
        self._tick = patience / _TICKS
        self._gap = patience * _LONGEST_GAP
        self._cookies: dict[str, str] = {}  # for a load balancer, which may find the session's server by one
        self._token: str | None = None  # without one, the first GET is under way
        self._poll: Exchange | None
        self._post: Exchange | None = None
        self._post_size: int  # bytes
        self._queue: deque[str | bytes] = deque()
        self._queued = 0  # bytes, or characters
        self._full = False  # callers were made to wait
        self._paused = False
        self._closing = False
        self.over = False
        self._close = NO_TIMER  # reports the end once everything is sent
        self._dropped = False  # the adapter got the command to drop its requests
        self._polled_at: float  # when the latest poll began, as far as is known
        self._polled_before: float  # when the latest answered poll began
        self._pace = NO_TIMER  # until the next poll
        self._overdue = NO_TIMER  # the same while reading is paused
        self._ticking = NO_TIMER

    def open(self) -> None:
        """Begin: a GET without a token."""
        self._core.polls.append(self)
        self._poll = self._request("GET", self._address.token_header)

    # ---- the core's commands -----------------------------------------------------------------------------------------

    def take(self, command: Command) -> None:
        """One of the core's commands for this link; `flush` follows."""
        match command:
            case SendText(data=data) | SendBinary(data=data):
                self._queue.append(data)
                self._queued += len(data)
            case PauseReading() | ResumeReading():
                self._paused = isinstance(command, PauseReading)
                self._overdue.cancel()
            case CloseTransport():
                self._closing = True
            case _:
                assert isinstance(command, AbortTransport)
                self._end()

    def flush(self) -> None:
        """Send the requests that may be sent now."""
        if self._token is not None and not self.over:
            self._poll_on()
            self._post_on()
        if self.over and not self._dropped:
            self._dropped = True
            self._core.commands.append(AbortTransport(self))
        if self.over and not self.current:  # else dropping it again would not be a command
            self._core.polls.remove(self)
            self._close.cancel()

    # ---- the results of requests (see `link.py`) ---------------------------------------------------------------------

    def exchange_answered(
        self, exchange: Exchange, status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> None:
        if self.over:
            return
        if "set-cookie" in headers:
            keep_cookies(self._cookies, headers["set-cookie"], headers.get("date", ""))
            self._confide()
        if exchange is self._post:
            self._posted(status, body, now)
        elif self._token is None:
            self._opened(status, headers, body, now)
        else:
            self._polled(status, body, now)

    def exchange_failed(self, exchange: Exchange, error: ConnectError, now: float) -> None:
        if self.over:
            return
        if self._token is None:
            self._end()
            self.failed(error, now)
        else:
            self._lost(f"{self._name(exchange)} was lost: {error}", now)

    def exchange_progressed(self, exchange: Exchange, now: float) -> None:
        exchange.age = 0
        self.progressed(now)

    # ---- private: answers -------------------------------------------------------------------------------------------

    def _opened(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        answer = _read(status, body)
        if answer is not None and answer.status == 410 and answer.token:
            self._poll = None
            self._keep(answer.token)
            self._polled_before = self._polled_at = now
            self._ticking = self._core.timers.at(now + self._tick, self._ticked)
            self.opened(None, now)
            return
        self._end()
        if answer is not None and 400 <= answer.status <= 599 and answer.status != 410:
            self.refused(answer.status, headers, body, now)
        elif status != 200:
            self.refused(status, headers, body, now)
        else:
            self.failed(ConnectError(f"{self._address.redacted} did not answer as long polling of Phoenix does"), now)

    def _polled(self, status: int, body: bytes, now: float) -> None:
        answer = _read(status, body)
        if answer is None:
            self._lost(f"a poll was answered with {_what(status)}", now)
        elif answer.status not in (200, 204):
            self._lost(_GONE if answer.status in (410, 403) else f"a poll was answered with {answer.status}", now)
        else:
            self._poll = None
            if answer.token:
                self._keep(answer.token)
            if not answer.messages and now - self._polled_at < _PACE:
                self._pace = self._core.timers.at(self._polled_at + _PACE, self._paced)
            self._polled_before, self._polled_at = self._polled_at, now
            if answer.messages:  # one that is not text is no message: passed on as JSON, it is reported by the core
                texts = [
                    each if isinstance(each, str) else msgspec.json.encode(each).decode() for each in answer.messages
                ]
                self.receive_all(texts, now)

    def _posted(self, status: int, body: bytes, now: float) -> None:
        match _read(status, body):
            case _Answer(status=200):
                self._post = None
            case _Answer(status=410):
                self._lost(_GONE, now)
            case _Answer(status=408):
                self._lost("the server did not handle what was sent in its time (408)", now)
            case _Answer(status=other):
                self._lost(f"what was sent was answered with {other}", now)
            case _ if status in _TOO_LARGE and self._post_size > _SURELY_NOT_TOO_LARGE:
                self._lost(f"a POST of {self._post_size} bytes was answered with HTTP {status}", now, MESSAGE_TOO_BIG)
            case _:
                self._lost(f"what was sent was answered with {_what(status)}", now)

    def _keep(self, token: str) -> None:
        if token != self._token:
            self._token = token
            self._confide()

    def _confide(self) -> None:
        self.confided([*self._cookies.values(), *([self._token] if self._token else [])])

    def _lost(self, reason: str, now: float, code: int | None = None) -> None:
        self._end()
        self.closed(code, reason, now)

    def _end(self) -> None:
        self.over = True
        self._queue.clear()
        for timer in (self._pace, self._overdue, self._ticking):
            timer.cancel()

    # ---- private: requests ------------------------------------------------------------------------------------------

    def _poll_on(self) -> None:
        if self._poll is None and not self._pace.pending and not self._closing:
            if not self._paused:
                self._poll = self._request("GET", ())
            elif not self._overdue.pending:
                self._overdue = self._core.timers.at(self._polled_before + self._gap, self._poll_anyway)

    def _poll_anyway(self, now: float) -> None:
        """Reading is paused, but the session would end without a poll."""
        self._polled_at = now
        self._poll = self._request("GET", ())

    def _post_on(self) -> None:
        if self._post is None:
            if self._queue:
                self._send()
            elif self._closing:
                self._end()
                self._close = self._core.timers.at(-inf, lambda now: self.closed(None, "", now))  # now, with the time
                return
        full = self._queued >= _WRITE_LIMIT
        if full is not self._full:
            self._full = full
            self._core.commands.append(PauseSending(self) if full else ResumeSending(self))

    def _send(self) -> None:
        """POST as much of the queue as one body can carry."""
        first = self._queue.popleft()
        size = len(first)
        if _is_whole_body(first):
            kind, count, body = "application/json", 1, _encoded(first)
        else:
            lines = [_encoded(first)]
            while self._queue and len(lines) < _LARGEST_BATCH:
                following = self._queue[0]
                if size + len(following) > _LARGEST_BODY or _is_whole_body(following):
                    break
                size += len(following)
                lines.append(_encoded(self._queue.popleft()))
            kind, count, body = "application/x-ndjson", len(lines), b"\n".join(lines)
        self._queued -= size
        self._post_size = len(body)
        self._post = self._request("POST", (("content-type", kind),), body, _TICKS + _TICKS_A_MESSAGE * count)

    def _request(
        self, method: str, headers: tuple[tuple[str, str], ...], body: bytes = b"", limit: int = _TICKS
    ) -> Exchange:
        url = self._address.url
        given = [(name, value) for name, value in self._address.headers if name.lower() not in _OURS]
        cookies = [value for name, value in given if name.lower() == "cookie"]
        cookies += [f"{name}={value}" for name, value in self._cookies.items()]
        fields = [(name, value) for name, value in given if name.lower() != "cookie"]
        fields += [("cookie", "; ".join(cookies))] if cookies else []
        fields += [("accept", "application/json"), *headers]
        if self._token is not None:
            url = f"{url}&token={quote_plus(self._token)}"
            fields.append(("x-phoenix-longpoll-token", self._token))
        exchange = Exchange(self, limit)
        self._core.commands.append(SendRequest(self, exchange, method, url, tuple(fields), body))
        return exchange

    def _paced(self, now: float) -> None:
        self._polled_at = now

    def _ticked(self, now: float) -> None:
        self._ticking = self._core.timers.at(now + self._tick, self._ticked)
        for exchange in (self._poll, self._post):
            if exchange is not None:
                exchange.age += 1
                if exchange.age > exchange.limit:
                    self._lost(f"{self._name(exchange)} was not answered", now)
                    return

    def _name(self, exchange: Exchange) -> str:
        return "what was sent" if exchange is self._post else "a poll"


def carried(core: Core) -> list[Command]:
    """The core's commands for its adapter; those for long-polling links become requests."""
    asked, core.commands = core.commands, []
    for command in asked:
        link = getattr(command, "link", None)
        if not isinstance(link, PollingLink) or isinstance(command, _PASSED_ON):
            core.commands.append(command)
        elif not link.over:  # else it ended by itself before the command
            link.take(command)
            if link.over:  # its requests are dropped before those of the next session go out
                link.flush()
    for polled in tuple(core.polls):
        polled.flush()
    done, core.commands = core.commands, []
    return done


# ---- private --------------------------------------------------------------------------------------------------------

_PASSED_ON: Final = (SendRequest, PauseSending, ResumeSending)

_GONE: Final = "the session is gone: the server ended it, or was restarted"


#: As an HTTP header can carry it in any case.
_Token: TypeAlias = Annotated[str, msgspec.Meta(pattern=r"^[!-~]*\Z")]


class _Answer(msgspec.Struct):
    status: int
    token: _Token | None = None
    messages: list[Any] = []


class _LargeAnswer(_Answer):
    messages: list[str] = []


_decode: Final = msgspec.json.Decoder(_Answer).decode
_decode_large: Final = msgspec.json.Decoder(_LargeAnswer).decode

#: Bytes of an answer above which it is checked before decoding: it may have millions of tiny messages.
_LARGE: Final = 2**20

#: Messages of such an answer; each takes some 60 bytes besides its own.
_MOST_MESSAGES: Final = 2**18


def _read(status: int, body: bytes) -> _Answer | None:
    """The answer in a body; `None` where that is not an answer of Phoenix's long polling."""
    if status != 200:
        return None
    large = len(body) >= _LARGE
    if large and body.count(b'"') - body.count(b'\\"') > 2 * _MOST_MESSAGES:  # a text has two, others are escaped
        return None
    try:
        return (_decode_large if large else _decode)(body)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _what(status: int) -> str:
    return "what is no answer of Phoenix" if status == 200 else f"HTTP {status}"


def _is_whole_body(frame: str | bytes) -> bool:
    """Whether it must be a body of its own, not a line among others."""
    return isinstance(frame, str) and (not frame.startswith("[") or "\n" in frame or "\r" in frame)


def _encoded(frame: str | bytes) -> bytes:
    return frame.encode() if isinstance(frame, str) else b64encode(frame)
