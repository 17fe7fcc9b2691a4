"""A client beside a WSGI application, whose handlers run in threads of the same process; `/health` reports its state.

    PHX_URL=ws://localhost:4000/socket gunicorn --chdir examples/frameworks --bind 127.0.0.1:8000 wsgi_service:app

Each worker process has a client of its own, made when the worker imports this module. So do not preload the
application (`--preload`): a client does not survive a fork. A worker that ends closes its client in `atexit`.
"""

import atexit
import json
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import inf
from typing import Any

from phx_proto import ChannelState, Message, PhxError, Router
from phx_transports.threads import connect

TOPIC = "sim:1"
router = Router()
latest: dict[str, Any] = {}


@router.on("balance", topic="sim:*")
def save(message: Message[dict[str, int]]) -> None:
    latest[message.topic] = message.payload


client = connect(os.environ["PHX_URL"], router=router, wait=False, drain_timeout=3.0)
atexit.register(client.close)


def join() -> None:
    with suppress(PhxError):  # the client was closed; anything else is in the log
        client.join(TOPIC, timeout=inf)


threading.Thread(target=join, daemon=True).start()


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    status, body = "200 OK", dict(latest)
    if environ["PATH_INFO"] == "/health":
        channel = client.channels.get(TOPIC)
        if channel is None or channel.state is not ChannelState.JOINED:
            status = "503 Service Unavailable"
        body = {"connection": client.state.value}
    start_response(status, [("content-type", "application/json")])
    return [json.dumps(body).encode()]
