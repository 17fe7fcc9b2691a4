"""Phoenix Channels on asyncio: `connect`, and the client, channels and streams that it leads to.

The server is `phx_transports.server`.
"""

from ..client.reports import HandlerError
from .client import connect
from .face import Channel, Client
from .streams import EventStream, MessageStream

__all__ = ["Channel", "Client", "EventStream", "HandlerError", "MessageStream", "connect"]
