"""The calls that an application waits for: how each begins, how it is given up, and what its caller gets. Free of I/O.

Each ends in exactly one event (see `session.py`). What an adapter adds is the waiting: `client.ask(call)`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from msgspec import UNSET

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.errors import PushRejected
from phx_proto.message import Reply

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A call of the core.

    Attributes:
        begin: Makes it, at a time; gives its ref, and raises where the core refuses it.
        give_up: Nobody waits any more for the call with this ref; at a time.
        result: What the caller gets of what the event brings; or what it raises.
    """

    begin: Callable[[float], str]
    give_up: Callable[[str, float], None]
    result: Callable[[Any], R] = lambda outcome: outcome


def join(channel: Channel, *, timeout: float | None = None) -> Call[Any]:
    """Join; gives what the server answered."""
    return Call(lambda now: channel.join(now, timeout=timeout), channel.cancel_join)


def leave(channel: Channel, *, timeout: float | None = None) -> Call[None]:
    """Leave."""
    return Call(lambda now: channel.leave(now, timeout=timeout), channel.cancel)


def push(
    channel: Channel, event: str, payload: Any = UNSET, *, timeout: float | None = None, check: bool = True
) -> Call[Reply]:
    """Send an event; gives its reply. With `check`, one that is not ok is raised as `PushRejected`."""
    body: Any = {} if payload is UNSET else payload

    def result(reply: Reply) -> Reply:
        if check and not reply.ok:
            raise PushRejected(channel.topic, event, reply, channel.shown(reply.response))
        return reply

    return Call(lambda now: channel.push(event, body, now, timeout=timeout), channel.cancel, result)


def cast(channel: Channel, event: str, payload: Any) -> Callable[[float], None]:
    """Send an event, and wait for nothing: for the client's `tell`."""
    return partial(channel.cast, event, {} if payload is UNSET else payload)


def ping(proto: ClientProtocol, *, timeout: float | None = None) -> Call[float]:
    """Send a heartbeat; gives the seconds that its answer took."""
    return Call(lambda now: proto.ping(now, timeout=timeout), lambda ref, now: proto.cancel_ping(ref))
