"""Phoenix Channels on asyncio: `connect` and handlers, and a server to match."""

from .channel import Channel
from .client import Client, connect
from .streams import EventStream, MessageStream

__all__ = ["Channel", "Client", "EventStream", "MessageStream", "connect"]
