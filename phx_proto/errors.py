"""All errors of the library.

Each error is of one of three kinds, by its cause:

- `LocalError`: the application. A wrong call raises it, and has changed nothing. It also ends a waiting call if the
  application left the channel, or closed the client.
- `RemoteError`: the server or the network. An event carries the error, and the waiting call raises it.
- `Cancelled`: the call was cancelled.

`ChannelClosed` and `ConnectionClosed` may have either cause; catch them if the cause does not matter.

No error shows params, tokens or headers. Text from a peer is kept as data (`body`, `response`, `payload`) and shown as
`said`: bounded, escaped, with secrets masked (see `shown.py`). So `str` and `repr` are safe to log, and never raise.
"""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, cast, dataclass_transform

from .message import PHOENIX_TOPIC, Message, Reply
from .shown import NO_SECRETS, Secrets, escaped, shown
from .wording import LONGEST, Words, closing, refusal_advice

__all__ = [
    "BinaryNotSupported",
    "BufferFull",
    "Cancelled",
    "CertificateError",
    "ChannelClosed",
    "ChannelClosedByClient",
    "ChannelClosedByServer",
    "ChannelCrashed",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionClosed",
    "ConnectionClosedByClient",
    "ConnectionLost",
    "FieldTooLong",
    "HandshakeRefused",
    "InvalidEndpoint",
    "InvalidEvent",
    "InvalidFrame",
    "InvalidHandler",
    "InvalidPayload",
    "InvalidPayloadType",
    "InvalidPresence",
    "InvalidReply",
    "InvalidState",
    "InvalidTimeout",
    "JoinCancelled",
    "JoinRefused",
    "JoinTimeout",
    "LocalError",
    "MessageTimeout",
    "NotJoined",
    "NotRegistered",
    "OtherLoop",
    "OtherProcess",
    "PayloadMismatch",
    "PhxError",
    "ProxyError",
    "PushCancelled",
    "PushLost",
    "PushRejected",
    "PushTimeout",
    "RemoteError",
    "ResolveFailed",
    "StillRefused",
    "StreamNotOpen",
    "TopicInUse",
]


@dataclass_transform(eq_default=False, field_specifiers=(field,))
class PhxError(Exception):
    """The base class of all errors of this library. Each kind is a dataclass."""

    #: The text of `str`, with the fields' names in braces.
    _words: ClassVar[str] = "{problem!s}"
    #: The name of the field with the causing error, which becomes `__cause__`.
    _cause: ClassVar[str] = ""
    #: The name of the field with a peer's data; shown as the field `said`.
    _heard: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        dataclass(eq=False, repr=False)(cls)

    def __post_init__(self) -> None:
        if self._cause:
            self.__cause__ = getattr(self, self._cause)
        if self._heard:
            vars(self)["said"] = vars(self)["said"] or shown(getattr(self, self._heard))

    def __str__(self) -> str:
        words = self._words
        if words == "{problem!s}":  # a short path, because a peer may cause many of these
            return escaped(str(vars(self)["problem"]), LONGEST)
        return _WORDS.vformat(words, (), vars(self))

    def __repr__(self) -> str:
        names = (one.name for one in fields(cast("Any", self)) if one.repr)
        told = ", ".join(f"{name}={shown(getattr(self, name), LONGEST)}" for name in names)
        return escaped(f"{type(self).__name__}({told})", LONGEST)

    def __reduce__(self) -> tuple[Any, ...]:
        # handlers may run in other processes, so errors are pickled; `Exception` would lose keyword arguments
        return type(self).__new__, (type(self),), vars(self)


_WORDS: Final = Words()

#: Bytes of a body that are read for its text: more than are shown, because a secret may be long.
_MOST_READ: Final = 100_000


class LocalError(PhxError):
    """Caused by the application: a wrong call, which had no effect, or a call ended by its own leave or close."""


class RemoteError(PhxError):
    """Caused by the server or the network."""


class Cancelled(PhxError):
    """Cancelled by the caller."""


# ---- the application's mistakes -------------------------------------------------------------------------------------


class InvalidEndpoint(LocalError):
    """The URL, the params or the token are not valid for an address."""

    problem: str


class InvalidState(LocalError):
    """The call is not allowed in the current state, e.g. a second `connect`.

    Attributes:
        advice: What to do instead, as text.
        topic: The channel's topic, for a channel's state.
    """

    call: str
    state: str
    advice: str = ""
    topic: str | None = None

    def __str__(self) -> str:
        where = "" if self.topic is None else f" on topic {shown(self.topic)}"
        advice = f": {self.advice}" if self.advice else ""
        return f"{self.call} is not possible{where} while the state is {self.state}{advice}"


class InvalidTimeout(LocalError):
    """A call's timeout is not a number of seconds."""

    call: str
    timeout: object
    _words = (
        "the timeout of {call} is a number of seconds, math.inf for no bound, or None for the options', not {timeout!r}"
    )


class TopicInUse(LocalError):
    """A live channel of the topic exists; use it, or leave it first."""

    topic: str
    _words = "a channel of topic {topic!r} is already live on this client: use that one, or leave it first"


class NotJoined(LocalError):
    """A push on a channel whose `join` was never called."""

    topic: str
    _words = "the channel of topic {topic!r} was never joined: call join before push"


class InvalidPayload(LocalError):
    """A payload for which a Phoenix server would close the socket, or that cannot be encoded at all.

    Attributes:
        where: The path of the field, e.g. `payload.price[2]`.
    """

    topic: str
    event: str
    where: str
    problem: str
    _words = "cannot send event {event!r} on topic {topic!r}: {where!s} {problem!s}"


class FieldTooLong(LocalError):
    """A field of a binary message is over the 255 UTF-8 bytes its header can count."""

    field: str
    size: int
    _words = "{field} has {size} bytes; a binary message takes 255 at most (send JSON, or shorten it)"


class BinaryNotSupported(LocalError):
    """A payload of bytes on a serializer that has no binary form."""

    vsn: str
    _words = "serializer {vsn} cannot carry bytes: use vsn 2.0.0, or encode the payload as text"


class BufferFull(LocalError):
    """Too many pushes wait for their channel to be joined."""

    topic: str
    limit: int
    _words = "{limit} pushes already wait unsent; topic {topic!r} takes no more until it is joined"


class InvalidHandler(LocalError):
    """A function, or the event, topic or payload type for it, is not valid for a handler."""

    handler: str
    problem: str
    _words = "{handler} cannot be a handler: {problem}"


class InvalidEvent(LocalError):
    """No message can have this event, so there is none to read."""

    problem: str
    _words = "no message can be read of it: {problem!s}"


class InvalidPayloadType(LocalError):
    """No payload or response can be decoded into the type."""

    payload_type: str
    problem: str
    _words = "payload type {payload_type} cannot be decoded: {problem}"


class StreamNotOpen(LocalError):
    """A stream was read before its `with` block: nothing was kept for it.

    Attributes:
        stream: The stream, e.g. `"messages of topic 'room:1'"`.
    """

    stream: str
    _words = (
        "the stream of the {stream} is not open: "
        "read it within its block: async with … as stream: async for item in stream (blocking: with and for)"
    )


class OtherProcess(LocalError):
    """The client was made by another process, of which this is a fork."""

    _words = "this client belongs to the process that connected it: connect a new one in the forked process"


class OtherLoop(LocalError):
    """The client on asyncio was connected on another event loop, or the server serves on another one."""

    _words = (
        "this client or server belongs to its event loop: call it there, from elsewhere with "
        "asyncio.run_coroutine_threadsafe or loop.call_soon_threadsafe"
    )


class NotRegistered(InvalidHandler):
    """`off` did not find what it was to remove."""

    _words = "{handler} cannot be taken off: {problem}"


class InvalidPresence(LocalError):
    """A presence that cannot be tracked or updated."""

    topic: str
    key: str
    problem: str
    _words = "the presence of {key!r} on topic {topic!r} {problem}"


# ---- what the wire brought ------------------------------------------------------------------------------------------


class InvalidFrame(RemoteError):
    """A frame that is not a Phoenix message. Its connection and every other channel go on.

    Attributes:
        envelope: The message without its payload, if that can be read: a call that waits for it ends.
    """

    problem: str
    envelope: Message[Any] | None = field(default=None, repr=False)


class PayloadMismatch(RemoteError):
    """A payload does not fit the type its handler declared, or cannot be read; reported like a handler's error."""

    topic: str
    event: str
    expected: str
    problem: str
    _words = "the payload of {event!r} on topic {topic!r} is not a {expected}: {problem!s}"


# ---- the connection -------------------------------------------------------------------------------------------------


class ConnectError(RemoteError):
    """An attempt to connect failed before the server answered."""

    problem: str

    def mask(self, secrets: Secrets) -> None:
        """Mask these: texts of the peer, a proxy or a library may repeat what was sent to connect."""
        self.problem = secrets.masked(self.problem)


class CertificateError(ConnectError):
    """The server's TLS certificate was not accepted: final at the first connect, because it would be refused again."""


class ResolveFailed(ConnectError):
    """A callable for params or token raised: a failed attempt. Its text is not shown, because it may hold secrets.

    Attributes:
        raised: What it raised; `None` if it returned a value that cannot be sent.
    """

    raised: BaseException | None = field(default=None, repr=False)


class HandshakeRefused(ConnectError):
    """The server answered the handshake with an HTTP error.

    Attributes:
        status: The HTTP status.
        body: The answer's body, unchanged.
        headers: The answer's headers, unchanged, names in lower case.
        url: The address without its query, if it is known.
    """

    problem: str = field(init=False, default="")
    status: int = 0
    body: bytes = field(default=b"", repr=False)
    headers: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    said: str = field(default="", repr=False)
    url: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.said:
            self.mask(NO_SECRETS)

    def mask(self, secrets: Secrets) -> None:
        """Mask these secrets."""
        self.said = secrets.escaped(self.body[:_MOST_READ].decode(errors="replace").strip(), LONGEST)

    def __str__(self) -> str:
        said = f": {self.said}" if self.said else ""
        advice = refusal_advice(self.status, self.headers.get("location"))
        where = f" of {self.url}" if self.url else ""
        return f"the server refused the handshake{where} with HTTP {self.status}{said}{advice}"


class ProxyError(ConnectError):
    """The proxy refused, or cannot be used at all: final at the first connect, except for 5xx and the like.

    Attributes:
        status: The HTTP status of its answer: 407 if it wants other credentials. `None` if it did not answer.
    """

    status: int | None = None


class ConnectTimeout(ConnectError, TimeoutError):
    """The first connection was not open in time.

    Attributes:
        timeout: Seconds.
        last: The error of the latest attempt, if one ended; also the error's `__cause__`.
    """

    problem: str = field(init=False, default="")
    timeout: float = 0.0
    last: ConnectError | None = None
    _cause = "last"

    def __str__(self) -> str:
        return f"no connection within {self.timeout:g} s{f'; the last attempt: {self.last}' if self.last else ''}"


class StillRefused(HandshakeRefused, ConnectTimeout):
    """The server refused the first connection, was tried again, and refused until the timeout.

    Both a `HandshakeRefused`, with the data of the latest refusal, and a `ConnectTimeout`.
    """

    def __str__(self) -> str:
        return ConnectTimeout.__str__(self)

    @classmethod
    def after(cls, timeout: float, last: HandshakeRefused) -> "StillRefused":
        """The latest refusal, after `timeout` seconds."""
        refusal = {name: getattr(last, name) for name in ("status", "body", "headers", "said", "url")}
        return cls(timeout=timeout, last=last, **refusal)


class ConnectionClosed(PhxError):
    """The connection is closed, or closed while a call waited on it.

    Attributes:
        code: The WebSocket close code; `None` if there was none (a cut, a timeout).
        reason: The close frame's reason, or a description of what happened.
    """

    code: int | None = None
    reason: str = ""

    def __str__(self) -> str:
        return f"the connection is closed {closing(self.code, self.reason)}"


class ConnectionClosedByClient(ConnectionClosed, LocalError):
    """The application closed the client, or called `reconnect`."""


class ConnectionLost(ConnectionClosed, RemoteError):
    """The server closed the connection, or it was cut, or nothing was received on it."""


# ---- joins and pushes -----------------------------------------------------------------------------------------------


class ChannelClosed(PhxError):
    """The channel has ended; a call that waited on it ends, a call made on it is refused.

    Attributes:
        reason: What ended it, as text.
    """

    topic: str
    reason: str
    _words = "the channel of topic {topic!r} is closed: {reason!s}"


class ChannelClosedByClient(ChannelClosed, LocalError):
    """The application left the channel, cancelled its join, or closed the client."""


class ChannelClosedByServer(ChannelClosed, RemoteError):
    """The server closed the channel, refused to join it, or could not be reached any more."""


class JoinRefused(RemoteError):
    """The server refused the join.

    Attributes:
        response: The server's response, any JSON value or bytes.
    """

    topic: str
    response: Any = field(repr=False)
    status: str = "error"
    said: str = ""
    _heard = "response"

    def __str__(self) -> str:
        return f"the server refused the join of topic {shown(self.topic)}: {self.said} ({self._advice})"

    @property
    def _advice(self) -> str:
        if self.topic.endswith("*"):
            return "a topic is joined by its whole name: patterns are for handlers"
        if self.response == {"reason": "unmatched topic"}:
            return "the server has no channel of that name: check the topic"
        return "check the topic, the join's params, and who the client's params or token say it is"


class JoinTimeout(RemoteError, TimeoutError):
    """A join did not succeed in time. The channel is closed; make a new one to try again.

    Attributes:
        timeout: Seconds.
        problem: What prevented success, as text; empty if the server just did not answer.
        last: The error of the latest attempt to join or, without a connection, to connect: `JoinRefused`,
            `ResolveFailed`, `HandshakeRefused` and so on; `None` if no attempt ended. Also the error's `__cause__`.
    """

    topic: str
    timeout: float
    problem: str = ""
    last: PhxError | None = None
    _cause = "last"

    def __str__(self) -> str:
        last = f"; the latest attempt: {self.last}" if self.last else ""
        how = "did not succeed" if self.problem else "was not answered"
        why = f": {self.problem}" if self.problem else ""
        return f"the join of topic {shown(self.topic)} {how} within {self.timeout:g} s{why}{last}"


class JoinCancelled(Cancelled):
    """A join was given up by its caller, or its channel was left before the answer."""

    topic: str
    _words = "the join of topic {topic!r} was cancelled"


class ChannelCrashed(RemoteError):
    """The channel's process on the server died (`phx_error`); it is rejoined by its backoff.

    Attributes:
        payload: The server's payload, any JSON value or bytes.
    """

    topic: str
    payload: Any = field(default=None, repr=False)
    said: str = ""
    _heard = "payload"
    _words = "the channel of topic {topic!r} crashed on the server: {said}"


class PushRejected(RemoteError):
    """The reply's status was not `"ok"`; `check=False` returns such a reply instead.

    Attributes:
        response: The server's response, any JSON value or bytes.
    """

    topic: str
    event: str
    reply: Reply = field(repr=False)
    said: str = ""
    _heard = "response"
    _words = "the server answered {event!r} on topic {topic!r} with status {reply.status!r}: {said}"

    @property
    def response(self) -> Any:
        """The server's response."""
        return self.reply.response

    @property
    def status(self) -> str:
        """The reply's status."""
        return self.reply.status


class InvalidReply(RemoteError):
    """The server answered, but its answer could not be read. The server may have done the work."""

    topic: str
    event: str
    problem: str
    _words = "the server answered {event!r} on topic {topic!r}, and its reply cannot be read: {problem!s}"


class PushTimeout(RemoteError, TimeoutError):
    """No reply in time. Whether the server ran it is unknown unless `sent` is false."""

    topic: str
    event: str
    timeout: float
    sent: bool = True

    def __str__(self) -> str:
        how = "was not answered" if self.sent else "could not be sent"
        if not self.sent:
            advice = " (its channel was not joined in that time: it was not run)"
        elif self.topic == PHOENIX_TOPIC:
            advice = ""
        else:
            advice = " (it may have run: timeout= waits longer, and cast is for what the server does not answer)"
        return f"push {shown(self.event)} on topic {shown(self.topic)} {how} within {self.timeout:g} s{advice}"


class MessageTimeout(RemoteError, TimeoutError):
    """No matching message came in time."""

    topic: str
    event: str
    timeout: float
    _words = "no {event!r} that was waited for came on topic {topic!r} within {timeout:g} s"


class PushLost(RemoteError):
    """The connection or the channel was lost before the reply.

    Attributes:
        sent: `False`: it was certainly not run. `True`: unknown; it may have run.
        why: The cause: `ConnectionClosed`, `ChannelCrashed` and so on. Also the error's `__cause__`.
    """

    topic: str
    event: str
    sent: bool
    why: PhxError | None = None
    _cause = "why"

    @property
    def code(self) -> int | None:
        """The close code, if the connection was closed with one."""
        return self.why.code if isinstance(self.why, ConnectionClosed) else None

    @property
    def reason(self) -> str:
        """The close frame's reason, or a description of what happened."""
        return self.why.reason if isinstance(self.why, ConnectionClosed) else str(self.why or "")

    def __str__(self) -> str:
        how = "after it was sent: it may have run or not" if self.sent else "before it was sent: it was not run"
        why = f" ({self.why})" if self.why else ""
        return f"push {shown(self.event)} on topic {shown(self.topic)} was lost {how}{why}"


class PushCancelled(Cancelled):
    """The caller gave the push up. If it is unsent, it is never sent; a late reply is dropped."""

    topic: str
    event: str
    sent: bool

    def __str__(self) -> str:
        when = "after" if self.sent else "before"
        return f"push {shown(self.event)} on topic {shown(self.topic)} was cancelled {when} sending"
