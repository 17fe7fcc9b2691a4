"""One connection attempt, as an object to which the adapter reports.

The link comes with the command `OpenTransport`. The transport calls its methods for all that happens. A link that is no
longer the current one ignores these calls, so no adapter needs an `if` for late callbacks.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

from msgspec import Struct

from .errors import ConnectError, HandshakeRefused


class LinkOwner(Protocol):
    """The client behind a link, as used by the link."""

    @property
    def current_link(self) -> "Link | None": ...
    def link_opened(self, subprotocol: str | None, now: float) -> None: ...
    def link_refusing(self, now: float) -> None: ...
    def link_failed(self, error: ConnectError, now: float) -> None: ...
    def link_closed(self, code: int | None, reason: str, now: float) -> None: ...
    def link_received(self, frames: Sequence[str | bytes], now: float) -> None: ...
    def link_progressed(self) -> None: ...
    def link_confided(self, secrets: Sequence[str]) -> None: ...


class Link:
    """One attempt to connect and, if it succeeds, the connection.

    All times are monotonic seconds. None of the methods raises for what the peer did.
    """

    #: Whether heartbeats distinguish a dead peer from a quiet one.
    heartbeats: ClassVar[bool] = True

    def __init__(self, owner: LinkOwner, number: int) -> None:
        self._owner = owner
        self.number = number
        #: What the attempt waits for, as text, for the error if it times out.
        self.missing = "the server did not answer the handshake"
        #: The server's refusal, while the rest of its body is awaited.
        self.refusal: HandshakeRefused | None = None

    def __repr__(self) -> str:
        return f"Link({self.number})"

    @property
    def current(self) -> bool:
        """Whether it is the client's current link."""
        return self._owner.current_link is self

    def opened(self, subprotocol: str | None, now: float) -> None:
        """The handshake succeeded.

        Args:
            subprotocol: The subprotocol that the server chose, if any.
            now: The time.
        """
        if self.current:
            self._owner.link_opened(subprotocol, now)

    def refused(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """The server answered the handshake with another status than 101."""
        lowered = {name.lower(): value for name, value in headers.items()}
        self.failed(HandshakeRefused(status=status, body=body, headers=lowered), now)

    def waits(self, missing: str) -> None:
        """The attempt begins a step that may take long.

        Args:
            missing: What to report if it times out: `example.com:443 did not accept a TCP connection`.
        """
        self.missing = missing

    def refusing(self, refusal: HandshakeRefused, now: float) -> None:
        """The server answered with another status than 101, and its body is still coming. May be called again.

        The body is awaited for a short time only; call `failed` when it is complete.
        """
        self.refusal = refusal
        if self.current:
            self._owner.link_refusing(now)

    def failed(self, error: ConnectError, now: float) -> None:
        """The attempt failed.

        Args:
            error: `CertificateError` if the server's certificate was not accepted, `HandshakeRefused` if it answered
                with an HTTP error, `ConnectError` for all else.
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
        """Part of a message was received: the peer is alive."""
        if self.current:
            self._owner.link_progressed()

    def confided(self, secrets: Sequence[str]) -> None:
        """The server sent secrets, to mask in all texts: its token and cookies."""
        if self.current:
            self._owner.link_confided(secrets)

    def closed(self, code: int | None, reason: str, now: float) -> None:
        """The connection has ended.

        Args:
            code: The code of the peer's close frame; `None` if there was none.
            reason: The close frame's reason, or a description of what happened.
            now: The time.
        """
        if self.current:
            self._owner.link_closed(code, reason, now)


class ExchangeOwner(Protocol):
    """The link behind an HTTP request, as used by the exchange."""

    def exchange_answered(
        self, exchange: "Exchange", status: int, headers: Mapping[str, str], body: bytes, now: float
    ) -> None: ...
    def exchange_failed(self, exchange: "Exchange", error: ConnectError, now: float) -> None: ...
    def exchange_progressed(self, exchange: "Exchange", now: float) -> None: ...


class Exchange(Struct, eq=False):
    """One HTTP request of a long-polling link. Calls are ignored once the request no longer matters.

    Attributes:
        limit: The age at which it counts as lost.
        age: The number of ticks of its link's clock without input.
    """

    _owner: ExchangeOwner
    limit: int
    age: int = 0

    def answered(self, status: int, headers: Mapping[str, str], body: bytes, now: float) -> None:
        """The whole answer came, with any status.

        Header names are in lower case; each cookie that is set is a separate `set-cookie` line.
        """
        self._owner.exchange_answered(self, status, headers, body, now)

    def failed(self, error: ConnectError, now: float) -> None:
        """No answer will come, or no complete one."""
        self._owner.exchange_failed(self, error, now)

    def progressed(self, now: float) -> None:
        """A part of the answer came: the peer is alive."""
        self._owner.exchange_progressed(self, now)
