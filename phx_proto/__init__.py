"""Phoenix Channels as a pure state machine: inputs in, outputs out, no I/O at all.

Start at `ClientProtocol` to embed a client in a runtime of your own; `Router` holds handlers, for any transport. Events
are in `phx_proto.events`, commands for the adapter in `phx_proto.commands`, errors in `phx_proto.errors`.
"""

from typing import TYPE_CHECKING, Any

from . import commands, errors, events
from .backoff import RECONNECT, REJOIN, Backoff, ReconnectPolicy
from .channel import Channel
from .client import ClientProtocol
from .core import Stats
from .endpoint import Endpoint
from .errors import PhxError
from .flow import FlowLimits
from .formats import V1, V2, Serializer, ServerSerializer, V1Server, V2Server
from .handlers import Dispatch, Handler, HandlerKind, Router
from .inbox import Tap
from .link import Link
from .message import Message, Reply
from .options import ClientOptions, JoinPolicy, Refusal, ServerClose
from .presence import Presence, PresenceChange
from .queues import Bound, Drop, Place
from .resume import Resume
from .states import ChannelState, SocketState

if TYPE_CHECKING:
    from .server import ServerProtocol

__version__ = "0.1.0"

__all__ = [
    "RECONNECT",
    "REJOIN",
    "V1",
    "V2",
    "Backoff",
    "Bound",
    "Channel",
    "ChannelState",
    "ClientOptions",
    "ClientProtocol",
    "Dispatch",
    "Drop",
    "Endpoint",
    "FlowLimits",
    "Handler",
    "HandlerKind",
    "JoinPolicy",
    "Link",
    "Message",
    "PhxError",
    "Place",
    "Presence",
    "PresenceChange",
    "ReconnectPolicy",
    "Refusal",
    "Reply",
    "Resume",
    "Router",
    "Serializer",
    "ServerClose",
    "ServerProtocol",
    "ServerSerializer",
    "SocketState",
    "Stats",
    "Tap",
    "V1Server",
    "V2Server",
    "commands",
    "errors",
    "events",
]


def __getattr__(name: str) -> Any:
    """Import the server's side on first use: a client does not need it, and it takes a tenth of the import time."""
    if name != "ServerProtocol":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .server import ServerProtocol

    return ServerProtocol
