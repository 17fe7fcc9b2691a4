"""The recorded handshakes, replayed to the asyncio server over real sockets: each must be answered as it was.

Compared are the status, the body and the headers that are the application's or the WebSocket's: dates, caching and
whether the connection stays open after a refusal are the web server's own.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import recorded
from agreement import settings
from recorded import Line
from recorded_sockets import recorded_server

from phx_proto.server.events import Host

HEADERS = ("upgrade", "sec-websocket-accept", "sec-websocket-protocol", "sec-websocket-extensions", "retry-after")


def _handshakes() -> Iterator[Any]:
    seen: set[str] = set()
    for name in recorded.names():
        session = recorded.load(name)
        host = settings(session)[0].host
        asked: dict[str, Line] = {}
        for line in session.lines:
            if line.kind == "http_req":
                asked[line.connection] = line
            elif line.kind == "http_resp" and (request := asked.pop(line.connection, None)) is not None:
                headers = {key: value for key, value in request.headers.items() if key != "sec-websocket-key"}
                what = f"{host} {request.fields['line']} {headers}"
                if _is_handshake(request) and what not in seen:
                    seen.add(what)
                    yield pytest.param(host, request, line, id=f"{name} {line.connection}")


def _is_handshake(request: Line) -> bool:
    """Long polling, and requests that act on the application's sockets, are none."""
    return request.fields["line"].split()[-1].startswith("HTTP/") and "/longpoll" not in request.target


@pytest.mark.asyncio
@pytest.mark.parametrize(("host", "request_line", "response"), list(_handshakes()))
async def test_a_handshake_is_answered_as_by_the_recorded_server(
    host: Host, request_line: Line, response: Line
) -> None:
    status, headers, body = await ask(host, request_line)
    assert status == response.status
    assert body == (response.fields.get("body") or "")
    told = {name: value for name, value in response.headers.items() if name in HEADERS}
    assert {name: value for name, value in headers.items() if name in HEADERS} == told


async def ask(host: Host, request: Line) -> tuple[int, dict[str, str], str]:
    """Sends a recorded request; the status, headers and body of the answer."""
    pairs = request.fields.get("headers") or []
    headers = [f"{name}: {value}" for name, value in (pairs.items() if isinstance(pairs, dict) else pairs)]
    async with asyncio.timeout(10), recorded_server(host).serve() as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write("\r\n".join([request.fields["line"], *headers, "", ""]).encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        answered = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        is_open = head[0].split()[1] == "101"
        body = b"" if is_open else await reader.read()
        writer.transport.abort()
    return int(head[0].split()[1]), answered, body.decode()


def test_there_are_handshakes() -> None:
    statuses = {param.values[2].status for param in _handshakes()}
    assert statuses >= {101, 403}
