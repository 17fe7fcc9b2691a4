"""One connection, and all state that ends with it.

A `Connection` is made when the handshake has succeeded, and dropped when the connection ends, whatever ended it. So its
state never has to be reset: requests without an answer, joins under way, leaves, heartbeats, the pause in reading.
"""

from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, Final, Protocol

from msgspec import Struct

from .core import Core
from .errors import ConnectionClosed, PhxError
from .events import LeaveEnd
from .flow import Flow
from .heartbeat import Heartbeat
from .inbox import Inbox
from .joins import JoinQueue
from .link import Link
from .message import PHX_LEAVE, Message, Reply
from .options import ClientOptions
from .queues import Backlog
from .requests import Requests
from .shown import Secrets
from .states import ChannelState

#: How many joins that were given up are remembered; usually no more are under way at a time.
_MOST_GIVEN_UP: Final = 128


class Member(Protocol):
    """A channel, as used by its connection and its client: see `Channel`."""

    topic: str
    state: ChannelState
    join_ref: str | None
    inbox: Inbox
    context: Any

    @property
    def connection(self) -> "Connection | None": ...
    def start_join(self, now: float) -> None: ...
    def move(self, now: float) -> None: ...
    def leave(self, now: float, *, timeout: float = ...) -> str: ...
    def crashed(self, payload: Any, now: float) -> None: ...
    def closed_by_server(self, now: float) -> None: ...
    def left(self, end: LeaveEnd, now: float) -> None: ...
    def disconnected(self, error: ConnectionClosed, now: float) -> None: ...
    def client_closed(self, error: PhxError | None, now: float) -> None: ...


class Connection:
    """One open connection.

    Attributes:
        requests: What was sent on it, and the requests that await replies.
        flow: Its back-pressure.
        heartbeat: Its heartbeats and pings.
        joins: Which channel joins next.
        live: The inboxes of the topics that are joined and take messages.
        leaving: Channels whose leave has not ended, by the join_ref that they leave; see `add_leaving`.
        given_up: The refs of the latest leaves whose topics the server had, or may have had, until then, without a
            channel here that counts: its join or its leave was given up, or the answer to its join is unreadable.
        limit: How many topics the server accepts on it; `None` until it has refused one.
        secrets: The secrets that were sent to open it.
        join_answered: When any join was last answered, on the reading clock (see `flow.py`).
    """

    def __init__(
        self,
        link: Link,
        core: Core,
        options: ClientOptions,
        *,
        held: Backlog,
        secrets: Secrets,
        suspects: dict[Member, None],  # their joins may have ended the connection before
        on_silence: Callable[[float], None],  # the peer counts as dead
        now: float,
    ) -> None:
        self._core = core
        self.secrets = secrets
        self.requests = Requests(core, link)
        self.flow = Flow(options.flow, held, self.requests, core)
        self.heartbeat = Heartbeat(
            options.heartbeat if link.heartbeats else inf,
            on_silence=on_silence,
            core=core,
            requests=self.requests,
            flow=self.flow,
            now=now,
        )
        self.joins = JoinQueue(options.joins_in_flight, suspects)
        self.live: dict[str, Inbox] = {}
        self.leaving: dict[str, Member] = {}
        self._leaving_topics: dict[str, dict[str, Member]] = {}  # the same by topic, then join_ref
        self.given_up: deque[int] = deque(maxlen=_MOST_GIVEN_UP)
        self.limit: int | None = None
        self.join_answered = 0.0

    def end(self, why: PhxError | None) -> None:
        """It is gone. The owner informs the channels, and those in `leaving`."""
        self.flow.end()
        self.heartbeat.end(why)

    def drain(self, now: float) -> None:
        """The client ends: accept no further joins or messages, and go on reading."""
        self.joins.stopped = True
        self.flow.resume(now)

    @property
    def draining(self) -> bool:
        """Whether no further joins and messages are accepted."""
        return self.joins.stopped

    def add_leaving(self, join_ref: str, channel: Member) -> None:
        """The channel leaves this join."""
        self.leaving[join_ref] = channel
        self._leaving_topics.setdefault(channel.topic, {})[join_ref] = channel

    def remove_leaving(self, join_ref: str) -> None:
        """The leave of this join has ended."""
        topic = self.leaving.pop(join_ref).topic
        channels = self._leaving_topics[topic]
        del channels[join_ref]
        if not channels:
            del self._leaving_topics[topic]

    def leaving_topic(self, topic: str) -> tuple[Member, ...]:
        """The channels in `leaving` of this topic, the oldest leave first."""
        return tuple(self._leaving_topics.get(topic, {}).values())

    def send_leave(self, topic: str, join_ref: str) -> str:
        """Send a phx_leave for a join that was sent on it, answered or not; returns its ref."""
        ref = self._core.new_ref()
        self.requests.send(Message(join_ref=join_ref, ref=ref, topic=topic, event=PHX_LEAVE, payload={}))
        return ref

    def abandon(self, topic: str, join_ref: str) -> None:
        """Give up a join that was sent and not answered: the server may have accepted it, so leave."""
        leave_ref = self.send_leave(topic, join_ref)
        self.requests.abandon(join_ref, _Abandoned(self, topic, join_ref, int(leave_ref)))

    def held_at(self, join_ref: str) -> int:
        """How many topics the server had on it when it answered a join, which was just now.

        A topic that was given up counts if its leave was sent after the join in question.
        """
        given_up = sum(leave_ref > int(join_ref) for leave_ref in self.given_up)
        return len(self.live) + len(self.leaving) + given_up

    def note_join_answer(self, now: float) -> None:
        """Any join was answered: the server is processing joins."""
        self.join_answered = self.flow.clock(now)


class _Abandoned(Struct, frozen=True, eq=False):
    """A join that was given up: if it is accepted late, or may have been, the topic is left again."""

    connection: Connection
    topic: str
    join_ref: str
    leave_ref: int
    raw: bool = False

    def replied(self, reply: Reply, now: float) -> None:
        self.connection.note_join_answer(now)
        if reply.ok:
            self._leave()

    def unreadable(self, problem: str, now: float) -> None:
        self.connection.note_join_answer(now)
        self._leave()

    def _leave(self) -> None:
        self.connection.given_up.append(self.leave_ref)
        self.connection.send_leave(self.topic, self.join_ref)  # harmless if it is not joined
