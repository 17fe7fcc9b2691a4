"""One connection attempt, as an object that the adapter talks to.

The link comes with `OpenTransport`, and what the transport saw goes to it. A link that is no longer the current one
ignores what it is told, so no adapter needs an `if` for callbacks that come late.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from .errors import ConnectError, HandshakeRefused


class LinkOwner(Protocol):
    """The client behind a link, as the link sees it."""

    @property
    def current_link(self) -> "Link | None": ...
    def link_opened(self, subprotocol: str | None, now: float) -> None: ...
    def link_refusing(self, now: float) -> None: ...
    def link_failed(self, error: ConnectError, now: float) -> None: ...
    def link_closed(self, code: int | None, reason: str, now: float) -> None: ...
    def link_received(self, frames: Sequence[str | bytes], now: float) -> None: ...
    def link_progressed(self, now: float) -> None: ...
    def link_confided(self, secret: str) -> None: ...


class Link:
    """One attempt to connect and, if it succeeds, the connection.

    All times are monotonic seconds. None of the methods raises for what the peer did.
    """

    __slots__ = ("_owner", "missing", "number", "refusal")

    #: Whether heartbeats tell a dead peer from a quiet one.
    heartbeats: ClassVar[bool] = True

    def __init__(self, owner: LinkOwner, number: int) -> None:
        self._owner = owner
        self.number = number
        #: What has not come yet, in words: the error's, should the time for the attempt run out.
        self.missing = "the server did not answer the handshake"
        #: What the server answers, while the rest of its body is coming.
        self.refusal: HandshakeRefused | None = None

    def __repr__(self) -> str:
        return f"Link({self.number})"

    @property
    def current(self) -> bool:
        """Whether the client still cares for it."""
        return self._owner.current_link is self

    def opened(self, subprotocol: str | None, now: float) -> None:
        """The handshake succeeded.

        Args:
            subprotocol: The one that the server chose, if any.
            now: The time.
        """
        if self.current:
            self._owner.link_opened(subprotocol, now)

    def refused(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """The server answered the handshake with another status than 101."""
        lowered = {name.lower(): value for name, value in headers.items()}
        self.failed(HandshakeRefused(status=status, body=body, headers=lowered), now)

    def waits(self, missing: str) -> None:
        """The attempt has come to a step that may take its time.

        Args:
            missing: What has not come, should the time run out: `example.com:443 did not accept a TCP connection`.
        """
        self.missing = missing

    def refusing(self, refusal: HandshakeRefused, now: float) -> None:
        """The server answered with another status than 101, and its body is coming; a later call takes the place.

        The body is waited for a moment only; `failed` is called where it came whole.
        """
        self.refusal = refusal
        if self.current:
            self._owner.link_refusing(now)

    def failed(self, error: ConnectError, now: float) -> None:
        """The attempt failed.

        Args:
            error: `CertificateError` where the server's certificate was not accepted, `HandshakeRefused` where it
                answered with an HTTP error, `ConnectError` for all else.
            now: The time.
        """
        if self.current:
            self._owner.link_failed(error, now)

    def receive(self, frame: str | bytes, now: float) -> None:
        """One frame came; see `receive_all`."""
        self.receive_all((frame,), now)

    def receive_all(self, frames: Sequence[str | bytes], now: float) -> None:
        """One read brought these frames, in order: `str` for text, `bytes` for binary."""
        if self.current:
            self._owner.link_received(frames, now)

    def progressed(self, now: float) -> None:
        """Bytes of a message came, but not yet its end: the peer lives."""
        if self.current:
            self._owner.link_progressed(now)

    def confided(self, secret: str) -> None:
        """The server gave a token, which is to be shown to nobody."""
        if self.current:
            self._owner.link_confided(secret)

    def closed(self, code: int | None, reason: str, now: float) -> None:
        """The connection is over.

        Args:
            code: From the peer's close frame; `None` where none came.
            reason: From the close frame, or what happened in words.
            now: The time.
        """
        if self.current:
            self._owner.link_closed(code, reason, now)


class ExchangeOwner(Protocol):
    """The link behind an HTTP request, as the exchange sees it."""

    def exchange_answered(
        self, exchange: "Exchange", status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> None: ...
    def exchange_failed(self, exchange: "Exchange", error: ConnectError, now: float) -> None: ...
    def exchange_progressed(self, exchange: "Exchange", now: float) -> None: ...


class Exchange:
    """One HTTP request of a link that is polled. What is told of one that no longer matters is ignored.

    Attributes:
        age: For how many ticks of its link's clock nothing has come.
        limit: At which age it counts as lost.
    """

    __slots__ = ("_owner", "age", "limit")

    def __init__(self, owner: ExchangeOwner, limit: int) -> None:
        self._owner = owner
        self.age = 0
        self.limit = limit

    def answered(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """The whole answer came, with whichever status; names of headers in lower case."""
        self._owner.exchange_answered(self, status, headers, body, now)

    def failed(self, error: ConnectError, now: float) -> None:
        """No answer will come, or no whole one."""
        self._owner.exchange_failed(self, error, now)

    def progressed(self, now: float) -> None:
        """A part of the answer came: the peer lives."""
        self._owner.exchange_progressed(self, now)
