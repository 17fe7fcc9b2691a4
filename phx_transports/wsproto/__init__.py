"""Clients on wsproto: an engine from bytes to bytes for any runtime, and a small blocking client on it."""

from ..extras import needs

with needs("wsproto", extra="wsproto", user="phx_transports.wsproto"):
    from ..blocking.face import Channel, Client
    from ..blocking.streams import EventStream, MessageStream
    from ..client.reports import HandlerError
    from .client import connect
    from .engine import Answer, Engine
    from .machine import Machine, Stream, StreamState

__all__ = [
    "Answer",
    "Channel",
    "Client",
    "Engine",
    "EventStream",
    "HandlerError",
    "Machine",
    "MessageStream",
    "Stream",
    "StreamState",
    "connect",
]
