"""The baseline for wsproto: a blocking socket, a bare `WSConnection`, `orjson.loads`, and just enough Phoenix."""

import socket
from collections.abc import Iterator
from typing import Any

import orjson
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request, TextMessage

from bench.meter import Meter, Result, Task, report, task


def run(task: Task) -> Result:
    meter = Meter(task.n)

    def handler(payload: Any) -> None:
        meter.balance(payload)

    with socket.create_connection(("127.0.0.1", task.port)) as sock:
        websocket = WSConnection(ConnectionType.CLIENT)
        target = f"/socket/websocket?vsn=2.0.0&{task.query}"
        sock.sendall(websocket.send(Request(host=f"127.0.0.1:{task.port}", target=target)))
        while websocket.connection is None:
            websocket.receive_data(sock.recv(1 << 16))
        for number, topic in enumerate(task.names):
            join = [f"j{number}", f"j{number}", topic, "phx_join", {}]
            sock.sendall(websocket.send(TextMessage(orjson.dumps(join).decode())))
        for frame in _frames(sock, websocket):
            _join_ref, _ref, _topic, event, payload = orjson.loads(frame)
            if event == "balance":
                handler(payload)
            elif event == "done":
                meter.done(payload)
                break
    return meter.result


def _frames(sock: socket.socket, websocket: WSConnection) -> Iterator[str]:
    parts: list[str] = []
    while True:
        for event in websocket.events():
            if isinstance(event, TextMessage):
                parts.append(event.data)  # a frame comes in pieces where reads end in it
                if event.message_finished:
                    yield "".join(parts)
                    parts.clear()
        websocket.receive_data(sock.recv(1 << 16))


if __name__ == "__main__":
    report(run(task()))
