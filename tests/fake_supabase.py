"""A server that behaves like Supabase Realtime, as seen by its clients.

What it sends and expects was taken from the official clients, `@supabase/realtime-js` and `realtime` of PyPI, which the
tests run against it.
"""

from itertools import count
from typing import Any, Final

import msgspec

from phx_proto.errors import InvalidFrame
from phx_proto.formats import Request, ServerSerializer, V2Server, serializer_for
from phx_transports.server import Refuse, RefuseConnect, Server, ServerChannel, ServerSocket, on

KEY: Final = "anon-key"
TOKENS: Final = {"fresh", "renewed", KEY}
PREFIX: Final = "realtime:"

_USER_BROADCAST_PUSH, _USER_BROADCAST, _JSON = 3, 4, 1


class SupabaseV2(V2Server):
    """vsn 2.0.0 with Supabase's own binary frames: user broadcasts of both directions."""

    def decode(self, frame: str | bytes, /) -> Request:
        if isinstance(frame, str) or frame[:1] != bytes([_USER_BROADCAST_PUSH]):
            return super().decode(frame)
        *sizes, encoding = frame[1:7]
        if sum(sizes) + 7 > len(frame):
            raise InvalidFrame("a user broadcast that is shorter than its header says")
        fields, position = [], 7
        for size in sizes:
            fields.append(frame[position : position + size].decode())
            position += size
        join_ref, ref, topic, event, _metadata = fields
        payload = msgspec.json.decode(frame[position:]) if encoding == _JSON else frame[position:]
        inner = {"type": "broadcast", "event": event, "payload": payload}
        return Request(join_ref=join_ref, ref=ref, topic=topic, event="broadcast", payload=inner)

    def broadcast(self, topic: str, event: str, payload: Any) -> str | bytes:
        if event != "broadcast":
            return super().broadcast(topic, event, payload)
        names = [topic.encode(), payload["event"].encode(), b""]
        body = payload["payload"]
        encoding, data = (0, body) if isinstance(body, bytes) else (_JSON, msgspec.json.encode(body))
        return b"".join([bytes([_USER_BROADCAST, *map(len, names), encoding]), *names, data])


def serializer_of(params: dict[str, Any]) -> ServerSerializer | None:
    """For `phx_transports.server.running`, in place of its own: which serializer a client is spoken to with."""
    vsn = params.get("vsn")
    return SupabaseV2() if vsn == "2.0.0" else serializer_for(vsn)


class Realtime(ServerChannel):
    """A channel `realtime:…`; its config comes with the join."""

    _ids = count(1)

    async def join(self, topic: str, params: Any) -> Any:
        self.config = params.get("config", {})
        if self.config.get("private") and params.get("access_token") not in TOKENS:
            raise Refuse({"reason": "Unauthorized: You do not have permissions to read from this Channel topic"})
        bindings = self.config.get("postgres_changes") or []
        self.changes = [{"id": next(self._ids), **binding} for binding in bindings]
        return {"postgres_changes": self.changes}

    async def joined(self) -> None:
        if self.changes:
            name = self.topic.removeprefix(PREFIX)
            told = {"status": "ok", "extension": "postgres_changes", "message": "Subscribed to PostgreSQL"}
            self.push("system", {**told, "channel": name})
        self.push("presence_state", self.presence.list())

    @on("broadcast")
    async def broadcasted(self, payload: Any) -> Any:
        options = self.config.get("broadcast") or {}
        (self.broadcast if options.get("self") else self.broadcast_from)("broadcast", payload)
        return {} if options.get("ack") else None

    @on("presence")
    async def present(self, payload: Any) -> Any:
        key = (self.config.get("presence") or {}).get("key") or "somebody"
        if payload["event"] == "track":
            self.presence.track(key, payload["payload"])
        else:
            self.presence.untrack(key)
        return {}

    @on("access_token")
    async def renewed(self, payload: Any) -> None:
        if payload["access_token"] not in TOKENS:
            told = {"status": "error", "extension": "system", "message": "Token has expired"}
            self.push("system", {**told, "channel": self.topic.removeprefix(PREFIX)})
            self.stop()

    def tell(self, change: dict[str, Any]) -> None:
        """A row has changed; it reaches those who asked for changes of its table."""
        ids = [
            binding["id"]
            for binding in self.changes
            if binding["table"] == change["table"] and binding["event"] in ("*", change["type"])
        ]
        if ids:
            self.push("postgres_changes", {"ids": ids, "data": change})


class Supabase:
    """The server, and its database.

    Attributes:
        app: To be served; its path is Supabase's.
    """

    def __init__(self) -> None:
        self.app = Server(path="/realtime/v1", connect=self._connect)
        self._channels: list[Realtime] = []
        self.app.channel(f"{PREFIX}*")(self._channel)

    def insert(self, table: str, record: dict[str, Any]) -> None:
        """What an `INSERT` into the table does. Called on the server's loop."""
        columns = [
            {"name": name, "type": "int8" if isinstance(value, int) else "text"} for name, value in record.items()
        ]
        change = {
            "schema": "public",
            "table": table,
            "type": "INSERT",
            "commit_timestamp": "2026-11-28T12:00:00.000Z",
            "columns": columns,
            "record": record,
            "errors": None,
        }
        for channel in self._channels:
            channel.tell(change)

    def _channel(self) -> Realtime:
        channel = Realtime()
        self._channels.append(channel)
        return channel

    def _connect(self, socket: ServerSocket) -> None:
        if socket.params.get("apikey") != KEY:
            raise RefuseConnect(401, "No API key found in request")
