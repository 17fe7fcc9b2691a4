"""Clients on wsproto: a machine of bytes in and bytes out for any runtime, and a small blocking client on it."""

from .channel import Channel
from .client import Client, connect
from .connection import Machine, Stream, StreamState
from .streams import EventStream, MessageStream

__all__ = ["Channel", "Client", "EventStream", "Machine", "MessageStream", "Stream", "StreamState", "connect"]
