"""Options of a client and its channels: frozen values, given when a client is made."""

import enum
from dataclasses import dataclass, field

from .backoff import REJOIN, Backoff, ReconnectPolicy
from .checks import check_count, check_kind, check_seconds
from .flow import FlowLimits

__all__ = ["ClientOptions", "JoinPolicy", "Refusal", "ServerClose"]


class Refusal(enum.Enum):
    """What follows when the server refuses a join."""

    FIRST_IS_FINAL = "the first join's refusal closes the channel; a rejoin's is tried again"
    FINAL = "any refusal closes the channel"
    RETRY = "any refusal is tried again; the first join waits on, until its timeout"


class ServerClose(enum.Enum):
    """What follows when the server closes a channel (`phx_close`)."""

    FINAL = "the channel is closed"
    REJOIN = "the channel is joined again"


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinPolicy:
    """How a channel joins and rejoins.

    Attributes:
        timeout: Seconds for the server to answer a join, from the last answer to any join on the connection.
        backoff: Waits between a failed join, or a crash, and the next attempt.
        refusal: What follows a refusal.
        server_close: What follows a `phx_close`.
        stable_after: Seconds for which a channel must have been joined before its waits start again.
    """

    timeout: float = 10.0
    backoff: Backoff = REJOIN
    refusal: Refusal = Refusal.FIRST_IS_FINAL
    server_close: ServerClose = ServerClose.FINAL
    stable_after: float = 5.0

    def __post_init__(self) -> None:
        check_seconds("timeout", self.timeout)
        check_kind("backoff", self.backoff, Backoff)
        check_kind("refusal", self.refusal, Refusal)
        check_kind("server_close", self.server_close, ServerClose)
        check_seconds("stable_after", self.stable_after, zero=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """A client's behaviour; the defaults are those of phoenix.js if it has them.

    Attributes:
        heartbeat: Seconds between heartbeats, and of silence after one until the connection counts as dead.
        poll_timeout: Seconds for which a poll may bring nothing, in long polling; servers hold one for 10.
        open_timeout: Seconds for an attempt to connect, with the callables for params and token.
        close_timeout: Seconds to wait for the server's close frame.
        reconnect: What follows a lost connection or a failed attempt.
        timeout: Seconds for the answer to a push, a leave or a ping whose own `timeout` is `None`. In every call of
            this library, `None` means the option (`join.timeout` for joins), or no bound if there is no option;
            `math.inf` means no bound.
        join: How channels join and rejoin.
        joins_in_flight: The greatest number of joins that are sent and not yet answered.
        push_buffer: How many pushes may wait for their channel's join, on all channels.
        flow: Bounds on messages received and not yet handled.
        topics_per_socket: How many topics are joined on one socket; for more topics the client opens further sockets.
            `None` for as many as the server accepts, which the client learns from its refusal.
    """

    heartbeat: float = 30.0
    poll_timeout: float = 20.0
    open_timeout: float = 10.0
    close_timeout: float = 5.0
    reconnect: ReconnectPolicy = field(default_factory=ReconnectPolicy)
    timeout: float = 10.0
    join: JoinPolicy = field(default_factory=JoinPolicy)
    joins_in_flight: int = 32
    push_buffer: int = 1000
    flow: FlowLimits = field(default_factory=FlowLimits)
    topics_per_socket: int | None = None

    def __post_init__(self) -> None:
        for name in ("heartbeat", "poll_timeout", "open_timeout", "close_timeout"):
            check_seconds(name, getattr(self, name))
        check_seconds("timeout", self.timeout, endless=True)
        for name, kind in (("reconnect", ReconnectPolicy), ("join", JoinPolicy), ("flow", FlowLimits)):
            check_kind(name, getattr(self, name), kind)
        check_count("joins_in_flight", self.joins_in_flight)
        check_count("push_buffer", self.push_buffer, least=0)
        check_count("topics_per_socket", self.topics_per_socket, optional=True)
