"""The serializer interfaces: a client's side of a wire format, and a server's.

A client's side is a `Serializer`; an application may pass its own. It decodes into `Message`, with the payload of a
text frame left raw, so an event without a handler is never parsed. A server's side is a `ServerSerializer`. It must
answer a client whatever types that put in place of a topic or a ref, so it decodes into `Request`, which is untyped.
And it decodes the whole payload at once, because a real server refuses an invalid frame; if a key comes twice, the
first counts, as on a real server.

Text is `str` and binary is `bytes`, like the WebSocket frame that carries it; a transport decodes UTF-8.
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
            InvalidFrame: It is not a message. Nothing else is raised, whatever the frame.
        """
        ...


class _RawReply(msgspec.Struct):
    status: str
    response: msgspec.Raw = msgspec.Raw(b"null")


_decode_raw_reply = msgspec.json.Decoder(_RawReply).decode
_decode_reply = msgspec.json.Decoder(Reply).decode


def decode_reply(message: Message[Any], *, raw: bool = False) -> Reply:
    """Read the answer from a `phx_reply`, whichever serializer made the message.

    Args:
        message: The message; do not read it afterwards.
        raw: Whether the response of an ok reply stays undecoded: the result then has the message, with it as payload.

    Raises:
        InvalidFrame: The payload is invalid, or not a status with a response.

    >>> from phx_proto import V2
    >>> decode_reply(V2().decode('[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]'))
    Reply(status='ok', response={})
    """
    held = message.undecoded
    if type(held) is msgspec.Raw and type(message) is Message and not raw:
        try:
            return _decode_reply(held)
        except UNREADABLE:
            pass  # what is wrong with it comes below
    try:
        if raw:
            answer = _decode_raw_reply(held) if type(held) is msgspec.Raw else msgspec.convert(held, Reply)
            reply = Reply(answer.status, message.with_payload(answer.response))
            if reply.ok:
                return reply
        return msgspec.convert(message.payload, Reply)
    except UNREADABLE as error:
        raise InvalidFrame(describe(error), message.with_payload(None)) from None


class Request(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """A client's message, with the types that it chose: a server echoes them. The fields are in the order of the wire.

    Attributes:
        join_ref: The ref of the join it belongs to.
        ref: The ref for the reply.
        topic: A string from any valid client.
        event: The same.
        payload: Any JSON value, or `bytes`.
    """

    join_ref: Any = None
    ref: Any
    topic: Any
    event: Any
    payload: Any

    def __repr__(self) -> str:
        # A payload may be a join's params, and those may hold secrets.
        return f"Request(topic={self.topic!r}, event={self.event!r}, join_ref={self.join_ref!r}, ref={self.ref!r}, …)"


class ServerSerializer(Protocol):
    """A server's side of a wire format. The encoding methods raise a `LocalError` for what cannot be sent."""

    @property
    def vsn(self) -> str:
        """The version that a client asks for in its URL."""
        ...

    def decode(self, frame: str | bytes, /) -> Request:
        """Read a frame from a client.

        Raises:
            InvalidFrame: It is not a request; a real server closes with 1011. Nothing else is raised.
        """
        ...

    def reply(self, join_ref: Any, ref: Any, topic: Any, status: str, response: Any) -> str | bytes:
        """Answer a request."""
        ...

    def push(self, join_ref: Any, topic: str, event: str, payload: Any, *, ref: Any = None) -> str | bytes:
        """Send to one channel. `ref` is for `phx_close` and `phx_error`, which also carry the join's there."""
        ...

    def broadcast(self, topic: str, event: str, payload: Any) -> str | bytes:
        """Broadcast on a topic: one frame for all its channels."""
        ...
