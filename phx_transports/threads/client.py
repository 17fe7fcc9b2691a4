"""A client on threads: `connect`. The client itself is in `phx_transports.blocking.face`."""

import random
from concurrent.futures import Executor
from ssl import SSLContext
from typing import Literal

from phx_proto.client import ClientProtocol
from phx_proto.commands import Provider
from phx_proto.endpoint import Headers, Params
from phx_proto.formats import Serializer
from phx_proto.handlers.router import Router
from phx_proto.options import ClientOptions
from phx_proto.transports import TransportName

from ..blocking.driver import check_providers
from ..blocking.face import Client, opened
from ..client.options import ClientSettings, first_timeout
from ..client.reports import OnHandlerError, log_handler_error
from ..websocket.options import MAX_SIZE, Factory, NetworkOptions, proxy_secrets
from .driver import ThreadsDriver
from .handlers import placement
from .interfaces import TransportFactory


def connect(
    url: str,
    *,
    params: Params | Provider | None = None,
    auth_token: str | Provider | None = None,
    headers: Headers = (),
    path: str | None = None,
    router: Router | None = None,
    serializer: Serializer | None = None,
    options: ClientOptions | None = None,
    timeout: float | None = None,
    wait: bool = True,
    ssl: SSLContext | None = None,
    proxy: str | Literal[True] | None = True,
    max_size: int | None = MAX_SIZE,
    compression: Literal["deflate"] | None = None,
    factory: Factory | None = None,
    transport: TransportName | TransportFactory | None = None,
    fallback: float | None = None,
    executor: Executor | None = None,
    on_handler_error: OnHandlerError = log_handler_error,
    fail_fast: bool = False,
    drain_timeout: float = 10.0,
) -> Client:
    """Connect to a Phoenix server, and stay connected until closed.

    `with connect(url) as client:` closes gracefully at the end, at once if an exception ends it;
    `client = connect(url)` leaves that to you.

    Args:
        url: The socket's mount, e.g. `"wss://example.com/socket"`.
        params: For the server's `connect/3`: a mapping, or a plain callable read again at every connect, on a thread of
            its own.
        auth_token: For a socket with `auth_token: true`; a string, or a callable likewise.
        headers: To send with the handshake.
        path: Follows the mount instead of `/websocket`, for a socket with a path of its own, e.g. `"/:key"`; a `:key`
            in it is taken from the params. Empty if the URL is whole.
        router: The handlers, all of them plain functions. Without one, `client.router` is empty, for you to fill.
        serializer: The wire format; V2 by default.
        options: How the client behaves: heartbeat, retries, joins, bounds.
        timeout: Seconds for the first connection; `math.inf` to keep trying until there is one. 10 by default, or no
            limit with `wait=False`.
        wait: Whether to wait for the first connection. If not, the client is returned at once, and connects in the
            background; see docs/connecting.md. The connection's errors listed below are then raised by
            `wait_connected` and `run`, and reported as events.
        ssl: For `wss://`; by default the system's certificates are trusted and the host's name is verified.
        proxy: A proxy's URL (HTTP or SOCKS), `None` for none, `True` for the one in the environment.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one.
        compression: `"deflate"` to offer permessage-deflate.
        factory: Makes the TCP connection instead, from host and port (a tunnel, a Unix socket).
        transport: `"websocket"` (the default) or `"longpoll"`; see docs/long-polling.md. Or, for tests, a
            `phx_transports.testing.Peer` in place of the network and the clock. Then retries have no jitter, and the
            five arguments before this one have no effect.
        fallback: Seconds in which a WebSocket must open and carry a message; otherwise, or if it fails, long polling is
            tried. The first that works is kept for the client's life. `None` for no fallback.
        executor: Runs handlers; by default threads of the client's own do. In a process pool they take the message
            alone, and are functions of a module.
        on_handler_error: Called with what a handler raised, on the handler's thread, or on one of the client's own for
            an executor's handler; by default it is logged with its traceback.
        fail_fast: Whether a handler's error ends the client, with that error; nothing more is handled then.
        drain_timeout: Seconds that closing may take: handlers that finish, leaves, the closing handshake.

    Raises:
        InvalidEndpoint: URL, params, token or headers cannot be sent.
        HandshakeRefused: The server refused, for good or until the timeout; see `status` and `body`.
        ConnectTimeout: There was no connection in time; `last` says how the latest attempt failed.
        CertificateError: The server's certificate was not accepted.
        InvalidHandler: The router has a coroutine function, or a handler that cannot run where the executor does.
    """
    check_providers(params=params, auth_token=auth_token)
    played = None if isinstance(transport, str) else transport
    proto = ClientProtocol(
        url,
        params=params,
        auth_token=auth_token,
        headers=headers,
        path=path,
        transport=transport if isinstance(transport, str) else "websocket",
        fallback=fallback,
        router=router,
        serializer=serializer,
        options=options,
        rng=random.Random() if played is None else None,
        placement=placement(executor),
        confidential=proxy_secrets(proxy),
    )
    settings = ClientSettings(
        executor=executor, on_handler_error=on_handler_error, fail_fast=fail_fast, drain_timeout=drain_timeout
    )
    network = NetworkOptions(ssl=ssl, proxy=proxy, max_size=max_size, compression=compression, factory=factory)
    timeout = first_timeout(timeout, wait=wait)
    return opened(ThreadsDriver(proto, settings, network=network, transport=played), timeout, wait=wait)
