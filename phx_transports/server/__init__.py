"""A Phoenix server on asyncio, for tests, demos and tools; see `application.py`."""

from phx_proto.message import Reply
from phx_proto.server.events import HOSTS, Host, Release, ServerOptions, Termination

from .application import RunningServer, Server
from .channel import (
    CallbackError,
    Refuse,
    ServerChannel,
    log_callback_error,
    on,
)
from .handshake import RefuseConnect
from .mount import Connect
from .socket import ServerSocket

__all__ = [
    "HOSTS",
    "CallbackError",
    "Connect",
    "Host",
    "Refuse",
    "RefuseConnect",
    "Release",
    "Reply",
    "RunningServer",
    "Server",
    "ServerChannel",
    "ServerOptions",
    "ServerSocket",
    "Termination",
    "log_callback_error",
    "on",
]
