"""A client on wsproto: `connect`. The client itself is in `phx_transports.blocking.face`."""

import random
from ssl import SSLContext

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
from ..websocket.options import MAX_SIZE, Factory, NetworkOptions
from .driver import WsprotoDriver


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
    max_size: int | None = MAX_SIZE,
    factory: Factory | None = None,
    transport: TransportName | None = None,
    fallback: float | None = None,
    on_handler_error: OnHandlerError = log_handler_error,
    fail_fast: bool = False,
    drain_timeout: float = 10.0,
) -> Client:
    """Connect to a Phoenix server, and stay connected until closed.

    `with connect(url) as client:` closes gracefully at the end, at once if an exception ends it;
    `client = connect(url)` leaves that to you. There are no proxies and no compression here.

    Args:
        url: The socket's mount, e.g. `"wss://example.com/socket"`.
        params: For the server's `connect/3`: a mapping, or a function that is called again at every connect.
        auth_token: For a socket with `auth_token: true`; a string, or a function likewise.
        headers: To send with the handshake.
        path: Follows the mount instead of `/websocket`, for a socket with a path of its own, e.g. `"/:key"`; a `:key`
            in it is taken from the params. Empty if the URL is whole.
        router: The handlers: plain functions, called on the thread that uses the client. Without one, `client.router`
            is empty, for you to fill.
        serializer: The wire format; V2 by default.
        options: How the client behaves: heartbeat, retries, joins, bounds.
        timeout: Seconds for the first connection; `math.inf` to keep trying until there is one. 10 by default, or no
            limit with `wait=False`.
        wait: Whether to wait for the first connection. If not, the client is returned at once, and connects during its
            calls; see docs/connecting.md. The connection's errors listed below are then raised by `wait_connected`
            and `run`, and reported as events.
        ssl: For `wss://`; by default the system's certificates are trusted and the host's name is verified.
        max_size: The largest message to receive, in bytes; the connection is closed with 1009 at a larger one.
        factory: Makes the TCP connection instead, from host and port (a tunnel, a Unix socket).
        transport: `"websocket"` (the default) or `"longpoll"`; see docs/long-polling.md.
        fallback: Seconds in which a WebSocket must open and carry a message; otherwise, or if it fails, long polling is
            tried. The first that works is kept for the client's life. `None` for no fallback.
        on_handler_error: Called with what a handler raised; by default it is logged with its traceback.
        fail_fast: Whether a handler's error ends the client, with that error; nothing more is handled then.
        drain_timeout: Seconds that closing may take: handlers that finish, leaves, the closing handshake.

    Raises:
        InvalidEndpoint: URL, params, token or headers cannot be sent.
        HandshakeRefused: The server refused, for good or until the timeout; see `status` and `body`.
        ConnectTimeout: There was no connection in time; `last` says how the latest attempt failed.
        CertificateError: The server's certificate was not accepted.
        InvalidHandler: The router has a coroutine function, or a handler with an executor.
    """
    check_providers(params=params, auth_token=auth_token)
    proto = ClientProtocol(
        url,
        params=params,
        auth_token=auth_token,
        headers=headers,
        path=path,
        transport=transport or "websocket",
        fallback=fallback,
        router=router,
        serializer=serializer,
        options=options,
        rng=random.Random(),
    )
    settings = ClientSettings(on_handler_error=on_handler_error, fail_fast=fail_fast, drain_timeout=drain_timeout)
    network = NetworkOptions(ssl=ssl, max_size=max_size, factory=factory)
    timeout = first_timeout(timeout, wait=wait)
    return opened(WsprotoDriver(proto, settings, network=network), timeout, wait=wait)
