"""The server's options, its events for the application, and its commands for the transport.

Phoenix releases differ in a few points, and so do the web servers under them. Both differences are tables here, so
`protocol.py` has no `if` on a release or a server.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import msgspec

from ..checks import check_count, check_kind, check_seconds

# ---- options --------------------------------------------------------------------------------------------------------


class Release(enum.Enum):
    """The Phoenix release to behave like."""

    V1_8_2 = "1.8.2"
    V1_8_3 = "1.8.3"
    V1_8_4 = "1.8.4"
    V1_8_5 = "1.8.5"
    V1_8_6 = "1.8.6"
    V1_8_7 = "1.8.7"
    V1_8_8 = "1.8.8"
    V1_8_9 = "1.8.9"
    V1_8_10 = "1.8.10"
    V1_8_11 = "1.8.11"
    V1_8_12 = "1.8.12"


class Host(enum.Enum):
    """The web server under Phoenix, which closes connections in its own way."""

    BANDIT = "bandit"
    COWBOY = "cowboy"


#: What a waiting message costs besides its bytes, in bytes.
MESSAGE_COST: Final = 1_024


class ServerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a socket is configured.

    Attributes:
        timeout: Seconds without a byte from the client after which the connection is closed; `None` for never.
        poll_window: Seconds for which a poll of long polling waits for messages, and a posted message waits to be
            handled (`window_ms`); a session ends one and a half of them, or three, after its last poll began.
        max_channels: How many topics may be joined at once; `None` for any number. By default the release's.
        max_topic: Characters of a topic that can be joined; a longer one is unmatched. A join's refs, which are sent
            back, may be this long too; longer ones close the connection with 1011. Phoenix has no limit.
        max_waiting: Bytes of a client's messages that may wait for the application, with `MESSAGE_COST` added for each
            message. Above it, nothing more is read from the client until some are handled. `None` for no limit.
        release: The Phoenix release to behave like.
        host: The web server to behave like.
    """

    timeout: float | None = 60.0
    poll_window: float = 10.0
    max_channels: int | msgspec.UnsetType | None = msgspec.UNSET
    max_topic: int = 2**14
    max_waiting: int | None = 2**20
    release: Release = Release.V1_8_12
    host: Host = Host.BANDIT

    def __post_init__(self) -> None:
        check_seconds("timeout", self.timeout, endless=True, optional=True)
        check_seconds("poll_window", self.poll_window)
        check_kind("release", self.release, Release)
        check_kind("host", self.host, Host)
        check_count("max_topic", self.max_topic)
        check_count("max_waiting", self.max_waiting, least=0, optional=True)
        if self.max_channels is not msgspec.UNSET:
            check_count("max_channels", self.max_channels, least=0, optional=True)


class JoinRefRule(enum.Enum):
    """Which messages a channel takes, by their join_ref and that of its join."""

    ANY = "any, but a leave only with the same or for a join without one"
    SAME = "the same, and any for a join without one"
    SAME_OR_NULL = "the same or none; none for a join without one"


@dataclass(frozen=True, slots=True)
class ReleaseRules:
    """The differences between releases.

    Attributes:
        disconnect: The close code of `disconnect`.
        crash_reason: The reason in the payload of `phx_error`; `None` for an empty payload.
        max_channels: How many topics may be joined at once, unless the options have another limit.
        fits: Which messages a channel takes.
    """

    disconnect: int
    crash_reason: str | None
    max_channels: int | None
    fits: JoinRefRule


@dataclass(frozen=True, slots=True)
class HostRules:
    """The differences between web servers.

    Attributes:
        idle_code: The close code for a silent client.
        idle_ticks: The timeout is counted in so many steps, from the connection's beginning; a silent client is closed
            at the first step after a whole timeout of silence. 0: exactly when the time is over.
        shutdown_unjoined: The close code at a shutdown for a socket without a joined channel; `None`: it is dropped.
        refused_codes: The client's close codes that are answered with 1002.
        answer: The answer to every other code; `None` for the code itself.
        max_request_line: Bytes; a longer one is answered with HTTP 414.
        max_fragmented: Bytes of a message in fragments; a larger one is closed with 1009. `None`: as for any message.
        max_inflation: How many times its size a compressed frame may grow to; at more it is closed with 1009.
    """

    idle_code: int
    idle_ticks: int
    shutdown_unjoined: int | None
    refused_codes: tuple[range, ...]
    answer: int | None
    max_request_line: int
    max_fragmented: int | None
    max_inflation: int | None

    def close_answer(self, code: int) -> int:
        """The code that answers a client's close frame. 1005 stands for a frame without a code, in both directions."""
        if any(code in codes for codes in self.refused_codes):
            return 1002
        return code if self.answer is None else self.answer

    def idle_end(self, opened: float, heard: float, timeout: float) -> float:
        """When the connection is closed if the client sends nothing more.

        Args:
            opened: When the connection was opened, in monotonic seconds.
            heard: When the client last sent anything.
            timeout: The socket's option.
        """
        if not self.idle_ticks:
            return heard + timeout
        tick = timeout / self.idle_ticks
        return opened + ((heard - opened) // tick + self.idle_ticks + 1) * tick


#: What each release changed, in order. `RELEASES` has the complete rules.
_CHANGES: Final[Mapping[Release, Mapping[str, Any]]] = {
    Release.V1_8_2: {"disconnect": 1000, "crash_reason": None, "max_channels": None, "fits": JoinRefRule.ANY},
    Release.V1_8_3: {"fits": JoinRefRule.SAME},
    Release.V1_8_8: {"disconnect": 1001},
    Release.V1_8_9: {"max_channels": 100},
    Release.V1_8_10: {"crash_reason": "channel_crash"},
    Release.V1_8_12: {"fits": JoinRefRule.SAME_OR_NULL},
}


def _rules() -> Iterator[tuple[Release, ReleaseRules]]:
    rules: dict[str, Any] = {}
    for release in Release:
        rules |= _CHANGES.get(release, {})
        yield release, ReleaseRules(**rules)


RELEASES: Final[Mapping[Release, ReleaseRules]] = MappingProxyType(dict(_rules()))

#: 1005 is missing: it stands for a frame without a code, which is valid.
_BANDIT_REFUSES: Final = (range(1000), range(1004, 1005), range(1006, 1007), range(1012, 3000))

#: The rules of each web server that Phoenix runs on.
HOSTS: Final[Mapping[Host, HostRules]] = MappingProxyType(
    {
        Host.BANDIT: HostRules(1002, 0, 1000, _BANDIT_REFUSES, 1000, 10_000, 8_000_000, 25),
        Host.COWBOY: HostRules(1000, 10, None, (), None, 8_000, None, None),
    }
)

# ---- events for the application -------------------------------------------------------------------------------------


class ChannelHandle(msgspec.Struct, frozen=True, eq=False):
    """Identifies one join of one topic on one socket; it equals only itself.

    Attributes:
        serial: The join's number on its socket, counted from 1.
    """

    serial: int
    topic: str


class JoinRequested(msgspec.Struct, frozen=True):
    """The client joins a topic: answer with `accept`, `refuse` or `crash_join`. The socket waits for the answer.

    Attributes:
        pattern: Which of the socket's topic patterns matched.
        payload: The client's params, any JSON value or bytes. They may hold secrets.
    """

    channel: ChannelHandle
    pattern: str
    payload: Any

    def __repr__(self) -> str:
        return f"JoinRequested(channel={self.channel!r}, pattern={self.pattern!r}, payload=…)"


class MessageIn(msgspec.Struct, frozen=True, eq=False):
    """A message for a channel: handle it, answer with `reply` if it needs an answer, and call `finish`.

    The channel's next message comes after `finish`. A reply may be sent later, too.

    Attributes:
        ref: The client's, for the reply; any JSON value.
        payload: Any JSON value or bytes.
    """

    channel: ChannelHandle
    ref: Any
    event: str
    payload: Any


class BroadcastOut(msgspec.Struct, frozen=True, eq=False):
    """A broadcast that a channel intercepts: handle it, `push` to the client what it is to get, and call `finish`.

    It is queued among the channel's messages: a broadcast that a message causes comes after that message's reply.

    Attributes:
        payload: The payload of the broadcast, not encoded; shared by all channels that intercept it.
    """

    channel: ChannelHandle
    event: str
    payload: Any


class Termination(enum.Enum):
    """Why a channel ended."""

    LEFT = "the client left"
    STOPPED = "the application stopped it"
    CRASHED = "it crashed"
    REPLACED = "the client joined the topic anew"
    CONNECTION = "the connection ended"


class ChannelTerminated(msgspec.Struct, frozen=True):
    """A channel, or a join that waited for its answer, has ended: later calls that name it do nothing."""

    channel: ChannelHandle
    reason: Termination


class SocketClosed(msgspec.Struct, frozen=True):
    """The connection has ended. This is its last event.

    Attributes:
        code: Of the first close frame, from either side; `None` if none was sent.
        reason: The client's reason, or a description of what happened.
    """

    code: int | None
    reason: str


#: All events of a server.
ServerEvent: TypeAlias = JoinRequested | MessageIn | BroadcastOut | ChannelTerminated | SocketClosed

# ---- commands: what the transport is asked --------------------------------------------------------------------------


class Send(msgspec.Struct, frozen=True):
    """Send one frame: a text frame for `str`, a binary one for `bytes`."""

    data: str | bytes

    def __repr__(self) -> str:
        return f"Send({len(self.data)} {'characters' if isinstance(self.data, str) else 'bytes'})"


class Close(msgspec.Struct, frozen=True):
    """Send a close frame and end the connection; the last command. Code 1005 is a close frame without a code."""

    code: int
    reason: str = ""


class Abort(msgspec.Struct, frozen=True):
    """End the connection without a close frame; the last command."""


#: All commands of a server.
ServerCommand: TypeAlias = Send | Close | Abort
