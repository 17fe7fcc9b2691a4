"""The connections of a recorded session: each WebSocket handshake with what followed it.

Plain HTTP requests and long polling are in the sessions as well; they are told by their requests, not by their names.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

import recorded
from recorded import Line

from phx_proto.formats import ServerSerializer, serializer_for

SWITCHED: Final = 101


@dataclass(slots=True)
class Connection:
    """One attempt to open a WebSocket, and the connection if it succeeded.

    Attributes:
        session: The name of the session.
        name: The connection's name in it.
        note: What the recording says about what comes.
        path: What was asked for, with its query.
        time: When the answer came.
        status: Of the answer.
        headers: Of the answer, names as they came.
        body: Of the answer, as text.
        token: The auth token that a session of long polling was opened with.
        lines: What followed.
    """

    session: str
    name: str
    note: str
    path: str
    time: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict[str, str])
    body: str = ""
    token: str | None = None
    lines: list[Line] = field(default_factory=list[Line])

    @property
    def is_open(self) -> bool:
        return self.status == SWITCHED

    @property
    def subprotocol(self) -> str | None:
        return {name.lower(): value for name, value in self.headers.items()}.get("sec-websocket-protocol")

    @property
    def serializer(self) -> ServerSerializer:
        """The server's, as the client asked for it."""
        found = serializer_for(dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True)).get("vsn"))
        assert found is not None
        return found


def connections(session: str) -> Iterator[Connection]:
    """Every attempt of a session, in order."""
    current: dict[str, Connection] = {}
    note = ""
    for line in recorded.load(session).lines:
        if line.kind == "note":
            note = line.fields["text"]
        elif line.kind == "http_req":
            current.pop(line.connection, None)
            if _is_upgrade(line):
                path = line.fields["line"].split()[1]
                current[line.connection] = Connection(session, line.connection, note, path)
        elif line.kind == "http_resp" and line.connection in current:
            _answered(current[line.connection], line)
            yield current[line.connection]
        elif line.connection in current:
            current[line.connection].lines.append(line)


def _answered(connection: Connection, line: Line) -> None:
    fields = line.fields
    connection.time = line.time
    connection.status = int(fields["status"] if "status" in fields else fields["line"].split()[1])
    connection.headers = _pairs(fields.get("headers", {}))
    connection.body = fields.get("body") or ""


def _is_upgrade(line: Line) -> bool:
    headers = {name.lower(): value.lower() for name, value in _pairs(line.fields.get("headers", {})).items()}
    return line.fields["line"].startswith("GET ") and headers.get("upgrade") == "websocket"


def _pairs(headers: Any) -> dict[str, str]:
    return dict(headers)
