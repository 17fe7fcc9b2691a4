"""What becomes of an attempt to connect. Where it does not come about, time may pass then: `advance`, in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias


@dataclass(frozen=True, slots=True)
class Accept:
    """The attempt to connect succeeds."""

    subprotocol: str | None = None


@dataclass(frozen=True, slots=True)
class Refuse:
    """It is answered with an HTTP status."""

    status: int
    body: bytes
    headers: Mapping[str, str]
    advance: float = 0.0


@dataclass(frozen=True, slots=True)
class Fail:
    """It never reaches a server."""

    reason: str
    advance: float = 0.0


@dataclass(frozen=True, slots=True)
class Hold:
    """It is not answered yet, or never."""

    advance: float = 0.0


ConnectOutcome: TypeAlias = Accept | Refuse | Fail | Hold

#: In words, where it was expected and did not come.
EXPECTED: Final[dict[type[ConnectOutcome], str]] = {
    Accept: "an attempt to connect, to be accepted",
    Refuse: "an attempt to connect, to be refused",
    Fail: "an attempt to connect, to fail",
    Hold: "an attempt to connect, to be held",
}
