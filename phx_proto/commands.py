"""The core's commands to its adapter: drained in order with `commands()`, and carried out at once.

Commands name the link (the connection attempt) they are for. Their reprs show no params, tokens or payloads.
"""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import msgspec

from .link import Exchange, Link

__all__ = [
    "AbortTransport",
    "CloseTransport",
    "Command",
    "OpenTransport",
    "PauseReading",
    "PauseSending",
    "Provider",
    "Resolve",
    "ResumeReading",
    "ResumeSending",
    "SendBinary",
    "SendRequest",
    "SendText",
]

#: A callable for params or a token, called at each connect or join; plain or async.
Provider: TypeAlias = Callable[[], Any | Awaitable[Any]]


class OpenTransport(msgspec.Struct, frozen=True, eq=False):
    """Open a WebSocket, and report the result to the link: `opened`, `refused` or `failed`.

    Attributes:
        url: The whole URL, with `/websocket`, params and vsn. Secret.
        subprotocols: To offer, unchanged: a token among them may contain characters that RFC 6455 forbids. Secret.
        headers: To send besides the handshake's own. Secret.
    """

    link: Link
    url: str
    subprotocols: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    #: The URL for logs if its path has params; otherwise it is the URL without its query.
    shown: str = ""

    def __repr__(self) -> str:
        return f"OpenTransport(link={self.link!r}, url={self.shown or self.url.partition('?')[0]!r}, …)"


class SendText(msgspec.Struct, frozen=True):
    """Send one text frame."""

    link: Link
    data: str

    def __repr__(self) -> str:
        return f"SendText(link={self.link!r}, {len(self.data)} characters)"


class SendBinary(msgspec.Struct, frozen=True):
    """Send one binary frame."""

    link: Link
    data: bytes

    def __repr__(self) -> str:
        return f"SendBinary(link={self.link!r}, {len(self.data)} bytes)"


class CloseTransport(msgspec.Struct, frozen=True):
    """Start the closing handshake, and call `link.closed` when it has ended; the core bounds the wait."""

    link: Link
    code: int
    reason: str


class AbortTransport(msgspec.Struct, frozen=True):
    """Drop the connection, or the attempt to make one, without a handshake. No more calls of the link are needed.

    For a long-polling link: drop its requests and their connections.
    """

    link: Link


class PauseReading(msgspec.Struct, frozen=True):
    """Stop reading from the connection: too many messages wait for their handlers."""

    link: Link


class ResumeReading(msgspec.Struct, frozen=True):
    """Resume reading."""

    link: Link


class SendRequest(msgspec.Struct, frozen=True, eq=False):
    """Send an HTTP request, and report the result to the exchange: `answered` or `failed`.

    A long-polling link has no other commands than this one, `PauseSending`, `ResumeSending` and `AbortTransport`. It
    has at most two requests under way, each on a connection of its own, which later requests may reuse.

    Attributes:
        method: `GET` or `POST`.
        url: The whole `http://` or `https://` URL. Secret.
        headers: To send besides HTTP's own; values are Latin-1. Secret.
        body: Empty for `GET`.
    """

    link: Link
    exchange: Exchange
    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def __repr__(self) -> str:
        return f"SendRequest(link={self.link!r}, {self.method}, {len(self.body)} bytes)"


class PauseSending(msgspec.Struct, frozen=True):
    """Make callers wait before they send more: much is queued in the core, which long polling sends one by one."""

    link: Link


class ResumeSending(msgspec.Struct, frozen=True):
    """Let callers send again."""

    link: Link


class Resolve(msgspec.Struct, frozen=True):
    """Call `provider` (await what it returns if that is awaitable) and answer `resolved` or `resolve_failed`.

    Attributes:
        request: The request's number, for the answer.
    """

    request: int
    provider: Provider

    def __repr__(self) -> str:
        return f"Resolve(request={self.request})"


#: All commands.
Command: TypeAlias = (
    OpenTransport
    | SendText
    | SendBinary
    | CloseTransport
    | AbortTransport
    | PauseReading
    | ResumeReading
    | SendRequest
    | PauseSending
    | ResumeSending
    | Resolve
)
