"""The calls that an application waits for: how to begin one, to give it up, and to get its result. Free of I/O.

Each ends in exactly one event (see `session.py`). An adapter adds the waiting: `client.ask(call)`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from msgspec import UNSET, Struct

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.errors import InvalidReply, PayloadMismatch, PushRejected
from phx_proto.handlers.payloads import PayloadDecoder, payload_decoder
from phx_proto.message import Message, Reply

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Call(Protocol[R_co]):
    """A call of the core."""

    @property
    def begin(self) -> Callable[[float], str]:
        """Makes the call, at a time; returns its ref, and raises if the core refuses it."""
        ...

    @property
    def give_up(self) -> Callable[[str, float], None]:
        """Ends the wait for the call with this ref, at a time."""
        ...

    @property
    def result(self) -> Callable[[Any], R_co]:
        """Turns the data of the event into what the caller gets; or raises."""
        ...


class _Call(Struct, Generic[R], frozen=True):
    begin: Callable[[float], str]
    give_up: Callable[[str, float], None]
    result: Callable[[Any], R] = lambda outcome: outcome


def join(channel: Channel, *, response: Any = None, timeout: float | None = None) -> Call[Any]:
    """Join; the result is the server's answer."""
    return _Call(lambda now: channel.join(now, timeout=timeout, response=response), channel.cancel_join)


def leave(channel: Channel, *, timeout: float | None = None) -> Call[None]:
    """Leave."""
    return _Call(lambda now: channel.leave(now, timeout=timeout), channel.cancel)


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
    decoder = None if response is None else payload_decoder(response)
    return _Push(channel, event, {} if payload is UNSET else payload, timeout, check, decoder)


class _Push(Struct, frozen=True, eq=False):
    """The commonest call. Closures, as the others have, would cost a twentieth of a push."""

    channel: Channel
    event: str
    payload: Any
    timeout: float | None
    check: bool
    decoder: PayloadDecoder | None

    def __repr__(self) -> str:
        return f"_Push({self.channel!r}, {self.event!r}, …)"

    def begin(self, now: float) -> str:
        return self.channel.push(self.event, self.payload, now, timeout=self.timeout, raw=self.decoder is not None)

    def give_up(self, ref: str, now: float) -> None:
        self.channel.cancel(ref, now)

    def result(self, reply: Reply) -> Reply:
        if reply.ok:
            return reply if self.decoder is None else decoded_reply(reply, self.decoder, self.channel.topic, self.event)
        if self.check:
            raise PushRejected(self.channel.topic, self.event, reply, self.channel.shown(reply.response))
        return reply


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
    return _Call(lambda now: proto.ping(now, timeout=timeout), lambda ref, now: proto.cancel_ping(ref))
