"""The calls that an application waits for: how to begin one, to give it up, and to get its result. Free of I/O.

Each ends in exactly one event (see `session.py`). An adapter adds the waiting: `client.ask(call)`.
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
        begin: Makes the call, at a time; returns its ref, and raises if the core refuses it.
        give_up: Ends the wait for the call with this ref, at a time.
        result: Turns the event's data into the caller's result; or raises.
    """

    begin: Callable[[float], str]
    give_up: Callable[[str, float], None]
    result: Callable[[Any], R] = lambda outcome: outcome


def join(channel: Channel, *, response: Any = None, timeout: float | None = None) -> Call[Any]:
    """Join; the result is the server's answer."""
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
    """Send an event; the result is its reply. With `check`, one that is not ok is raised as `PushRejected`.

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
    """A reply with an undecoded response, with the response decoded.

    Raises:
        InvalidReply: The response does not fit.
    """
    try:
        return Reply(reply.status, decoder.accept(reply.response).payload)
    except PayloadMismatch as misfit:
        problem = f"its response is not a {misfit.expected}: {misfit.problem}"
        raise InvalidReply(topic, event, problem) from None  # as in `PayloadDecoder.accept`


def cast(channel: Channel, event: str, payload: Any) -> Callable[[float], None]:
    """Send an event without a result: for a step."""
    return partial(channel.cast, event, {} if payload is UNSET else payload)


def ping(proto: ClientProtocol, *, timeout: float | None = None) -> Call[float]:
    """Send a heartbeat; the result is the seconds until its answer."""
    return Call(lambda now: proto.ping(now, timeout=timeout), lambda ref, now: proto.cancel_ping(ref))
