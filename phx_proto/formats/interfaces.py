"""What a serializer is: a client's side of a wire format, and a server's.

A client's side is a `Serializer`, and a user may plug in their own. It decodes into `Message`, with the payload of a
text frame left raw, so an event that no handler wants is never parsed. A server's side is a `ServerSerializer`: it must
answer a client whatever types it put in place of a topic or a ref, so it decodes into `Request`, which has no types,
and it decodes the whole payload at once, for a real server refuses a frame with any fault in it; of a key that comes
twice it takes the first, as a real server does.

Text is `str` and binary is `bytes`, as the WebSocket frame that carries it; a transport decodes UTF-8.
"""

from typing import Any, Protocol

import msgspec

from ..errors import InvalidFrame
from ..message import Message, Reply
from .soundness import UNREADABLE, describe


class Serializer(Protocol):
    """A client's side of a wire format."""

    @property
    def vsn(self) -> str:
        """The version asked for in the URL, e.g. `"2.0.0"`."""
        ...

    def encode(self, message: Message[Any], /) -> str | bytes:
        """Make the frame that carries a message: a text frame (`str`) or a binary one (`bytes`).

        Raises:
            LocalError: The message cannot be sent; nothing was.
        """
        ...

    def decode(self, frame: str | bytes, /) -> Message[Any]:
        """Read a frame from the server.

        Raises:
            InvalidFrame: It is no message. Nothing else is raised, whatever the frame.
        """
        ...


class _RawReply(msgspec.Struct):
    status: str
    response: msgspec.Raw = msgspec.Raw(b"null")


_decode_raw_reply = msgspec.json.Decoder(_RawReply).decode


def decode_reply(message: Message[Any], *, raw: bool = False) -> Reply:
    """Read the answer out of a `phx_reply`, whichever serializer made the message.

    Args:
        message: The message; it is not to be read any more.
        raw: Whether the response of an ok reply is left as it came: it is the message then, around the response.

    Raises:
        InvalidFrame: The payload is not sound, or not a status with a response.

    >>> from phx_proto import V2
    >>> decode_reply(V2().decode('[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]'))
    Reply(status='ok', response={})
    """
    try:
        if raw:
            held = message.undecoded
            answer = _decode_raw_reply(held) if type(held) is msgspec.Raw else msgspec.convert(held, Reply)
            reply = Reply(answer.status, message.with_payload(answer.response))
            if reply.ok:
                return reply
        return msgspec.convert(message.payload, Reply)
    except UNREADABLE as error:
        raise InvalidFrame(describe(error), message.with_payload(None)) from None


class Request(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What a client sent, of whatever types it chose: a server echoes them. The fields are in the order of the wire.

    Attributes:
        join_ref: The ref of the join it belongs to.
        ref: What the reply will carry.
        topic: A string from any decent client.
        event: Likewise.
        payload: Any JSON value, or `bytes`.
    """

    join_ref: Any = None
    ref: Any
    topic: Any
    event: Any
    payload: Any

    def __repr__(self) -> str:
        # A payload may be a join's params, which may hold secrets.
        return f"Request(topic={self.topic!r}, event={self.event!r}, join_ref={self.join_ref!r}, ref={self.ref!r}, …)"


class ServerSerializer(Protocol):
    """A server's side of a wire format. All that encode raise a `LocalError` for what cannot be sent."""

    @property
    def vsn(self) -> str:
        """The version a client asks for in its URL."""
        ...

    def decode(self, frame: str | bytes, /) -> Request:
        """Read a frame from a client.

        Raises:
            InvalidFrame: It is no request; a real server closes with 1011. Nothing else is raised, whatever the frame.
        """
        ...

    def reply(self, join_ref: Any, ref: Any, topic: Any, status: str, response: Any) -> str | bytes:
        """Answer a request."""
        ...

    def push(self, join_ref: Any, topic: str, event: str, payload: Any, *, ref: Any = None) -> str | bytes:
        """Send to one channel. `ref` is for `phx_close` and `phx_error`, which carry the join's there as well."""
        ...

    def broadcast(self, topic: str, event: str, payload: Any) -> str | bytes:
        """Broadcast on a topic: one frame for all its channels."""
        ...
