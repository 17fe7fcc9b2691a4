"""Clients on wsproto: an engine of bytes in and bytes out for any runtime, and a small blocking client on it."""

from ..extras import needs

with needs("wsproto", extra="wsproto", user="phx_transports.wsproto"):
    from .channel import Channel
    from .client import Client, connect
    from .engine import Answer, Engine
    from .machine import Machine, Stream, StreamState
    from .streams import EventStream, MessageStream

__all__ = [
    "Answer",
    "Channel",
    "Client",
    "Engine",
    "EventStream",
    "Machine",
    "MessageStream",
    "Stream",
    "StreamState",
    "connect",
]
