"""The recorded application's sockets (see `transcripts/README.md`), mounted on the asyncio server."""

import asyncio
from typing import Any

from phx_proto.server.events import Host, ServerOptions
from phx_transports.server import RefuseConnect, Server, ServerSocket

SLOW = 0.02  # seconds; 2 in the recorded application


async def _connect(socket: ServerSocket) -> None:
    match socket.params.get("token"):
        case "bad" | "unauthorized":
            raise RefuseConnect
        case "crash":
            raise RuntimeError
        case "slow":
            await asyncio.sleep(SLOW)
    user = socket.params.get("user_id")
    socket.id = None if user is None else f"user:{user}"


def _connect_with_token(socket: ServerSocket) -> None:
    if socket.auth_token != "sekret":
        raise RefuseConnect


def _connect_with_token_or_401(socket: ServerSocket) -> None:
    if socket.auth_token != "sekret":
        token = "nil" if socket.auth_token is None else f'"{socket.auth_token}"'
        raise RefuseConnect(401, f"bad auth token: {token}")


def _connect_with_error_handler(socket: ServerSocket) -> None:
    match socket.params.get("token"):
        case "unauthorized":
            raise RefuseConnect(401, "Unauthorized")
        case "rate_limit":
            raise RefuseConnect(429, "Too many requests", {"retry-after": "7"})
        case "bad":
            raise RefuseConnect


MOUNTS: dict[str, dict[str, Any]] = {
    "/authsocket": {"connect": _connect_with_token, "auth_token": True},
    "/authsocket401": {"connect": _connect_with_token_or_401, "auth_token": True},
    "/errsocket": {"connect": _connect_with_error_handler},
    "/subsocket": {"subprotocols": ("phoenix", "other")},
    "/originsocket": {"check_origin": ("//good.example",)},
    "/shortsocket": {"timeout": 3.0},
    "/limitsocket": {"max_channels": 3},
}


def recorded_server(host: Host) -> Server:
    """All of them, on a web server of this kind."""
    server = Server(path="/socket", connect=_connect, options=ServerOptions(host=host), auth_token=False)
    for path, settings in MOUNTS.items():
        options = {name: value for name, value in settings.items() if name in ServerOptions.__struct_fields__}
        arguments = {"auth_token": False} | {name: settings[name] for name in settings.keys() - options.keys()}
        server.mount(path, options=ServerOptions(host=host, **options), **arguments)
    return server
