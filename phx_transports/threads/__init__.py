"""Phoenix Channels on threads: what `phx_transports.asyncio` has, without `await` and without an event loop."""

from .channel import Channel
from .client import Client, connect
from .streams import EventStream, MessageStream

__all__ = ["Channel", "Client", "EventStream", "MessageStream", "connect"]
