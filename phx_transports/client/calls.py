"""The calls that an application waits for: how each begins, how it is given up, and what its caller gets. Free of I/O.

Each ends in exactly one event (see `session.py`). What an adapter adds is the waiting: `client.ask(call)`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, TypeVar

from msgspec import UNSET, Struct

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.errors import InvalidReply, PayloadMismatch, PushRejected
from phx_proto.handlers.payloads import PayloadDecoder, payload_decoder
from phx_proto.message import Message, Reply

R = TypeVar("R")


class Call(Struct, Generic[R], frozen=True):
    """A call of the core.

    Attributes:
        begin: Makes it, at a time; gives its ref, and raises where the core refuses it.
        give_up: Nobody waits any more for the call with this ref; at a time.
        result: What the caller gets of what the event brings; or what it raises.
    """

    begin: Callable[[float], str]
    give_up: Callable[[str, float], None]
    result: Callable[[Any], R] = lambda outcome: outcome


def join(channel: Channel, *, response: Any = None, timeout: float | None = None) -> Call[Any]:
    """Join; gives what the server answered."""
    return Call(lambda now: channel.join(now, timeout=timeout, response=response), channel.cancel_join)


def leave(channel: Channel, *, timeout: float | None = None) -> Call[None]:
    """Leave."""
    return Call(lambda now: channel.leave(now, timeout=timeout), channel.cancel)


def push(
    channel: Channel,
    event: str,
    payload: Any = UNSET,
    *,
    response: Any = None,
    timeout: float | None = None,
    check: bool = True,
) -> Call[Reply]:
    """Send an event; gives its reply. With `check`, one that is not ok is raised as `PushRejected`.

    Raises:
        InvalidPayloadType: Nothing can be decoded into the type of the response.
    """
    body: Any = {} if payload is UNSET else payload
    decoder = None if response is None else payload_decoder(response)

    def result(reply: Reply) -> Reply:
        if check and not reply.ok:
            raise PushRejected(channel.topic, event, reply, channel.shown(reply.response))
        return reply if decoder is None or not reply.ok else decoded_reply(reply, decoder, channel.topic, event)

    raw = decoder is not None
    return Call(lambda now: channel.push(event, body, now, timeout=timeout, raw=raw), channel.cancel, result)


def decoded_reply(reply: Reply[Message], decoder: PayloadDecoder, topic: str, event: str) -> Reply:
    """A reply to a push whose response was left undecoded, with the response decoded.

    Raises:
        InvalidReply: The response does not fit.
    """
    try:
        return Reply(reply.status, decoder.accept(reply.response).payload)
    except PayloadMismatch as misfit:
        problem = f"its response is not a {misfit.expected}: {misfit.problem}"
        raise InvalidReply(topic, event, problem) from None  # as in `PayloadDecoder.accept`


def cast(channel: Channel, event: str, payload: Any) -> Callable[[float], None]:
    """Send an event, and wait for nothing: for the client's `tell`."""
    return partial(channel.cast, event, {} if payload is UNSET else payload)


def ping(proto: ClientProtocol, *, timeout: float | None = None) -> Call[float]:
    """Send a heartbeat; gives the seconds that its answer took."""
    return Call(lambda now: proto.ping(now, timeout=timeout), lambda ref, now: proto.cancel_ping(ref))
