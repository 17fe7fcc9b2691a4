"""Carries out the core's commands: attempts to connect, and connections, by their links. Free of I/O."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from phx_proto.commands import (
    AbortTransport,
    CloseTransport,
    Command,
    OpenTransport,
    PauseReading,
    PauseSending,
    Resolve,
    ResumeReading,
    ResumeSending,
    SendBinary,
    SendRequest,
    SendText,
)
from phx_proto.errors import HandshakeRefused
from phx_proto.link import Link

from .session import Step


class Attempt(Protocol):
    """An attempt to connect."""

    def cancel(self) -> object:
        """Give the attempt up."""


class Connection(Protocol):
    """An open connection. No method waits; what is sent after its end is dropped."""

    def send_text(self, data: str, /) -> None: ...
    def send_binary(self, data: bytes, /) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def close(self, code: int, reason: str, /) -> None:
        """Start the closing handshake, after what is queued."""

    def abort(self) -> None:
        """Drop the connection without a handshake."""


A = TypeVar("A", bound=Attempt)
C = TypeVar("C", bound=Connection)


class CommandTransport(ABC, Generic[A, C]):
    """The connections of one client; an adapter's transport extends it.

    Attributes:
        attempts: The running attempts.
        connections: The open connections.
    """

    def __init__(self) -> None:
        self.attempts: dict[Link, A] = {}
        self.connections: dict[Link, C] = {}
        self._performers: dict[type[Command], Callable[[Any], None]] = {
            OpenTransport: self._open,
            SendText: self._send_text,
            SendBinary: self._send_binary,
            CloseTransport: self._close,
            AbortTransport: self._abort,
            PauseReading: self._pause_reading,
            ResumeReading: self._resume_reading,
            Resolve: self._resolve,
            SendRequest: self._send_request,
            PauseSending: self._pause_sending,
            ResumeSending: self._resume_sending,
        }

    def perform(self, command: Command) -> None:
        """Carry out a command of the core; called within a step of the driver, so it must not make one."""
        self._performers[type(command)](command)

    @abstractmethod
    def _open(self, command: OpenTransport) -> None:
        """Begin an attempt, and report its result to the link."""

    @abstractmethod
    def _resolve(self, command: Resolve) -> None:
        """Begin to call the provider of params or token, and pass its result to the core."""

    @abstractmethod
    def _send_request(self, command: SendRequest) -> None:
        """Begin an HTTP request, and pass its result to the exchange."""

    @abstractmethod
    def _drop_requests(self, link: Link) -> bool:
        """Drop a link's requests, with their connections; returns whether it had any."""

    @abstractmethod
    def _pause_sending(self, command: PauseSending) -> None:
        """Make callers wait before they send more."""

    @abstractmethod
    def _resume_sending(self, command: ResumeSending) -> None:
        """Let them send again."""

    def _send_text(self, command: SendText) -> None:
        self.connections[command.link].send_text(command.data)

    def _send_binary(self, command: SendBinary) -> None:
        self.connections[command.link].send_binary(command.data)

    def _close(self, command: CloseTransport) -> None:
        self.connections[command.link].close(command.code, command.reason)

    def _abort(self, command: AbortTransport) -> None:
        if self._drop_requests(command.link):
            return
        attempt = self.attempts.pop(command.link, None)
        if attempt is not None:
            attempt.cancel()
        else:
            self._drop(command.link, self.connections.pop(command.link))

    def _drop(self, link: Link, connection: C) -> None:
        connection.abort()

    def _pause_reading(self, command: PauseReading) -> None:
        self.connections[command.link].pause_reading()

    def _resume_reading(self, command: ResumeReading) -> None:
        self.connections[command.link].resume_reading()


class LinkProgress:
    """Reports an attempt's progress to its link."""

    __slots__ = ("_link", "_step")

    def __init__(self, link: Link, step: Step) -> None:
        self._link = link
        self._step = step

    def waits(self, missing: str) -> None:
        self._link.waits(missing)

    def refusing(self, refusal: HandshakeRefused) -> None:
        self._step(lambda now: self._link.refusing(refusal, now))


def plain_value(command: Resolve) -> Any:
    """Call a plain provider of params or token.

    Raises:
        BaseException: What the provider raises; `TypeError` if it would have to be awaited.
    """
    value = command.provider()
    if inspect.iscoroutine(value):
        value.close()
    if inspect.isawaitable(value):
        raise TypeError("params and token cannot be async here: give plain values or functions")
    return value
