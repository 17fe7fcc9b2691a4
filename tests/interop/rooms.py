"""The application that phoenix.js talks to, and the journal of what it saw."""

import asyncio
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from phx_transports.server import (
    CallbackError,
    Refuse,
    RefuseConnect,
    Reply,
    Server,
    ServerChannel,
    ServerOptions,
    ServerSocket,
    Termination,
    on,
)

#: What happened: `connect`, `refuse`, `join`, `end`, `error` or an event's name, and what is to be known of it.
Entry: TypeAlias = tuple[Any, ...]

TOKEN: Final = "sekret~~~~"

OPTIONS: Final[Mapping[str, ServerOptions]] = MappingProxyType(
    {"heartbeats_keep_a_connection": ServerOptions(timeout=0.8)}
)


class Rooms:
    """The application of one scenario.

    Attributes:
        server: To be served.
        journal: What happened until `curtain` was set.
    """

    def __init__(self, scenario: str) -> None:
        self.journal: list[Entry] = []
        self._curtain = False
        self._sockets: list[ServerSocket] = []
        options = OPTIONS.get(scenario, ServerOptions())
        self.server = Server(connect=self._connect, options=options, on_error=self._failed)
        self.server.channel("room:*")(partial(Room, self))
        self.server.channel("presence:*")(partial(Lobby, self))

    def note(self, *entry: Any) -> None:
        if not self._curtain:
            self.journal.append(entry)

    def curtain(self) -> list[tuple[int | None, str]]:
        """The scenario is over, nothing that comes now counts; how its connections ended that did end."""
        self._curtain = True
        return [(socket.ended.code, socket.ended.reason) for socket in self._sockets if socket.ended is not None]

    def _connect(self, socket: ServerSocket) -> None:
        params = {name: value for name, value in socket.params.items() if name != "vsn"}
        if "token" in params:  # a browser asks again by itself, and meets a session that is gone: it gets a new one
            return
        if socket.auth_token not in (None, TOKEN):
            self.note("refuse", socket.auth_token)
            raise RefuseConnect(403)
        self.note("connect", socket.params["vsn"], params, socket.auth_token)
        if "user" in params:
            socket.id = f"user:{params['user']}"
        self._sockets.append(socket)

    def _failed(self, report: CallbackError) -> None:
        self.note("error", report.call, type(report.error).__name__)


class Noted(ServerChannel):
    """A channel that writes down what happens to it."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms

    async def join(self, topic: str, params: Any) -> Any:
        self.rooms.note("join", topic, params)
        return {"echo": params}

    async def terminate(self, reason: Termination) -> None:
        if reason is not Termination.CONNECTION:  # of which the connection tells
            self.rooms.note("end", self.topic, reason.name)


class Room(Noted):
    """Echoes and broadcasts."""

    async def join(self, topic: str, params: Any) -> Any:
        response = await super().join(topic, params)
        attempt = sum(entry[:2] == ("join", topic) for entry in self.rooms.journal)
        match topic:
            case "room:crash_join":
                raise ZeroDivisionError
            case "room:flaky" if attempt == 1:
                raise Refuse({"reason": "flaky", "attempt": attempt})
            case "room:slow_once" | "room:stuck_once" | "room:flaky":
                if attempt == 1:
                    await asyncio.sleep(0.6 if topic == "room:slow_once" else 1.0)
                return {"attempt": attempt}
            case _:
                return response

    async def handle_in(self, event: str, payload: Any) -> Any:
        self.rooms.note(event, payload)
        match event:
            case "echo":
                return payload
            case "echo_error":
                raise Refuse(payload)
            case "echo_maybe":
                return Reply("maybe", payload)
            case "no_reply":
                return None
            case _:
                return await super().handle_in(event, payload)

    @on("bounce")
    def bounce(self, payload: Any) -> Any:
        return payload  # much of it, not for the journal

    @on("shout")
    def shout(self, payload: Any) -> Any:
        self.rooms.note("shout", payload)
        self.broadcast("news", payload)
        return {}

    @on("shout_to_others")
    def shout_to_others(self, payload: Any) -> Any:
        self.rooms.note("shout_to_others", payload)
        self.broadcast_from("news", payload)
        return {}

    @on("whisper")
    async def whisper(self, payload: Any) -> None:
        self.rooms.note("whisper", payload)
        self.push("news", payload)

    @on("to_binary")
    def to_binary(self, payload: Any) -> bytes:
        return bytes.fromhex(payload["hex"])

    @on("from_binary")
    def from_binary(self, payload: bytes) -> Any:
        return {"hex": payload.hex()}

    @on("stop")
    def stop_after(self, payload: Any) -> Any:
        self.stop()
        return payload


class Lobby(Noted):
    """Shows who is there."""

    @property
    def name(self) -> str:
        return str(self.params["name"])

    async def joined(self) -> None:
        self.presence.track(self.name, self.params["meta"])
        self.presence.push_state()

    @on("update")
    def update(self, payload: Any) -> Any:
        self.presence.update(self.name, payload)
        return {}

    @on("untrack")
    def untrack(self, payload: Any) -> Any:
        self.presence.untrack(self.name)
        return {}
