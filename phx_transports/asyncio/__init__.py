"""Phoenix Channels on asyncio: `connect` and handlers, and a server to match."""

from .channel import Channel, MessageStream
from .client import Client, EventStream, connect

__all__ = ["Channel", "Client", "EventStream", "MessageStream", "connect"]
