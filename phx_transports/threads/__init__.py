"""Phoenix Channels on threads: what `phx_transports.asyncio` has, without `await` and without an event loop."""

from ..blocking.face import Channel, Client
from ..blocking.streams import EventStream, MessageStream
from ..client.reports import HandlerError
from .client import connect

__all__ = ["Channel", "Client", "EventStream", "HandlerError", "MessageStream", "connect"]
