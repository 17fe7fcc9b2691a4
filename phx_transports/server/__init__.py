"""A Phoenix server on asyncio, for tests, demos and tools; see `application.py`.

It exports everything that an application needs; the modules are private to the package.
"""

from phx_proto.message import Reply
from phx_proto.server.events import HOSTS, Host, Release, ServerOptions, Termination

from .application import Server
from .channel import Refuse, ServerChannel, on
from .handshake import RefuseConnect
from .mount import CheckOrigin, Connect, Origin
from .reports import CallbackError, log_callback_error
from .running import RunningServer
from .socket import ConnectInfo, ServerSocket

__all__ = [
    "HOSTS",
    "CallbackError",
    "CheckOrigin",
    "Connect",
    "ConnectInfo",
    "Host",
    "Origin",
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
