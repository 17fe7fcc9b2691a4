"""The server's side of the protocol: `ServerProtocol`, its commands and events, and presence."""

from .events import (
    Abort,
    BroadcastOut,
    ChannelHandle,
    ChannelTerminated,
    Close,
    Host,
    JoinRequested,
    MessageIn,
    Release,
    Send,
    ServerCommand,
    ServerEvent,
    ServerOptions,
    SocketClosed,
    Termination,
)
from .longpoll import PollAnswer, PollRequest, Polls, PollSession
from .protocol import ServerProtocol
from .tracker import Diff, Tracker

__all__ = [
    "Abort",
    "BroadcastOut",
    "ChannelHandle",
    "ChannelTerminated",
    "Close",
    "Diff",
    "Host",
    "JoinRequested",
    "MessageIn",
    "PollAnswer",
    "PollRequest",
    "PollSession",
    "Polls",
    "Release",
    "Send",
    "ServerCommand",
    "ServerEvent",
    "ServerOptions",
    "ServerProtocol",
    "SocketClosed",
    "Termination",
    "Tracker",
]
