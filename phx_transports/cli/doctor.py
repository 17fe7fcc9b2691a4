"""`phx doctor`: each step of the way to a joined channel, with its time; at the first that fails, what to do.

Name, TCP and TLS are tested separately, then the client's own handshake on a new connection. After that, frames are
exchanged one by one without a client, which would retry: so the report shows exactly what the server did.
"""

import argparse
import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Generator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from typing import Any, Final

from websockets.uri import parse_uri

from phx_proto import Endpoint, Message, PhxError, Serializer
from phx_proto.errors import CertificateError, ConnectError, ConnectionClosed, HandshakeRefused, JoinRefused, LocalError
from phx_proto.formats import decode_reply
from phx_proto.message import HEARTBEAT, PHOENIX_TOPIC, PHX_JOIN, PHX_REPLY, Reply
from phx_proto.shown import Secrets, escaped

from ..asyncio.connection import Connection, open_connection
from ..websocket.cutter import Received
from ..websocket.errors import told
from ..websocket.options import NetworkOptions, proxy_secrets
from ..websocket.proxies import named, proxy_for
from ..websocket.reaching import place_of
from .target import Target

_WIDTH: Final = 600  # characters of a line
_TOO_MANY: Final[Any] = {"reason": "too many channels joined"}
_STRIPPED: Final = (
    "something on the way, a reverse proxy or a load balancer, takes it for plain HTTP: let it pass the headers "
    "Upgrade and Connection (nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade"), or connect to the server directly'
)


class Request(Target):
    """The command line: a topic to join, and how many like it to find the server's limit."""

    topic: str | None
    channels: int | None


def run(arguments: argparse.Namespace) -> int:
    """Take each step and report its result; returns the exit code."""
    request = Request(arguments)
    return request.run(_examine(request))


async def _examine(request: Request) -> int:
    try:
        await Doctor(request).examine()
    except _Failed:
        return 1
    return 0


class _Failed(Exception):
    """A step failed, and was reported."""


class _Blocked(_Failed):
    """No WebSocket gets through, but something else may."""


class _Silence(Exception):
    """There was no answer in time."""


@dataclass(slots=True)
class Finding:
    """The result of a step, as text; with a note there is a problem, but no reason to stop."""

    words: str = ""
    note: str = ""


class Doctor:
    """Examines the way to one server. `LocalError`: the request cannot be sent."""

    def __init__(self, request: Request) -> None:
        self._request = request
        endpoint = Endpoint(
            request.url,
            params=request.params,
            auth_token=request.token,
            headers=request.headers,
            path=None if request.longpoll else request.path,
        )
        self._address = endpoint.request(request.vsn, request.params, request.token)
        self._network: NetworkOptions[Any] = NetworkOptions(**request.network)
        self._uri = parse_uri(self._address.url)
        self._secrets = Secrets([*self._address.secrets(), *proxy_secrets(self._network.proxy)])

    async def examine(self) -> None:
        """Take each step."""
        print(f"examining {self._request.shown}, vsn {self._request.vsn}", flush=True)
        with self._step("proxy") as found:
            proxy = proxy_for(self._uri, self._network.proxy)
            found.words = "none" if proxy is None else named(proxy)
        host, port = (self._uri.host, self._uri.port) if proxy is None else (proxy.host, proxy.port)
        whose = "" if proxy is None else "the proxy "
        loop = asyncio.get_running_loop()
        with self._step("dns") as found, told(host, port, proxy=whose):
            infos = await self._in_time(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            found.words = f"{host} is " + ", ".join(dict.fromkeys(str(info[4][0]) for info in infos))
        with self._step("tcp") as found, told(host, port, proxy=whose):
            _, writer = await self._in_time(asyncio.open_connection(host, port))
            found.words = f"connected to {place_of(*writer.get_extra_info('peername')[:2])}"
            writer.close()
        if self._uri.secure and proxy is None:
            await self._shake_hands(host, port)
        if self._request.longpoll:
            await self._poll()
            return
        try:
            await self._talk()
        except _Blocked:
            await self._poll()  # its line says whether polling works; the result is a failure anyway
            raise

    async def _shake_hands(self, host: str, port: int) -> None:
        with self._step("tls") as found, told(host, port, secure=True):
            context = self._network.ssl or ssl.create_default_context()
            _, writer = await self._in_time(asyncio.open_connection(host, port, ssl=context, server_hostname=host))
            found.words = _certificate(writer.get_extra_info("ssl_object"))
            writer.transport.abort()

    async def _talk(self) -> None:
        request, line = self._request, _Line(self._request.serializer)
        with self._step("handshake") as found:
            connection = await self._in_time(
                open_connection(
                    self._address.url,
                    subprotocols=self._address.subprotocols,
                    headers=self._address.headers,
                    network=self._network,
                    receiver=line,
                )
            )
            found.words = f"accepted, vsn {request.vsn}, subprotocol {escaped(connection.subprotocol or 'none')}"
            if request.token is not None and connection.subprotocol != "phoenix":
                found.note = "the server took no notice of the token: its socket has no `auth_token: true`"
        try:
            with self._step("heartbeat") as found:
                await self._in_time(line.ask(connection, PHOENIX_TOPIC, HEARTBEAT, {}))
                found.words = "answered"
            if request.topic is not None:
                await self._join(connection, line, request.topic)
            with self._step("close") as found:
                connection.close()
                await self._in_time(connection.wait_closed())
                found.words = "closed with 1000"
        finally:
            connection.abort()
            await connection.wait_closed()

    async def _poll(self) -> None:
        with self._step("longpoll") as found:
            async with self._request.connect(transport="longpoll") as client:
                if self._request.topic is not None:
                    channel = client.channel(self._request.topic, self._request.join_params)
                    await channel.join(timeout=self._request.timeout)
                topic = "" if self._request.topic is None else f", {escaped(self._request.topic)} joined"
                found.words = f"long polling works{topic}: --longpoll, or connect(…, fallback=5)"

    async def _join(self, connection: Connection, line: "_Line", topic: str) -> None:
        params: Any = {} if self._request.join_params is None else self._request.join_params

        async def join(topic: str, *, limited: bool = False) -> bool:
            reply = await self._in_time(line.ask(connection, topic, PHX_JOIN, params))
            if not (reply.ok or (limited and reply.response == _TOO_MANY)):
                raise JoinRefused(topic, reply.response, reply.status, self._secrets.shown(reply.response))
            return bool(reply.ok)

        with self._step("join") as found:
            await join(topic)
            found.words = f"{escaped(topic)} joined"
        if self._request.channels is None:
            return
        with self._step("channels") as found:
            found.words = f"{self._request.channels} joined on one socket"
            for number in range(2, self._request.channels + 1):
                if not await join(f"{topic}-doctor-{number}", limited=True):
                    found.words = f"{number - 1} joined; the server takes no more on one socket"
                    found.note = "a client opens further sockets for more, by itself; "
                    found.note += "the limit: max_channels_per_transport"
                    return

    async def _in_time(self, what: Any) -> Any:
        try:
            async with asyncio.timeout(self._request.timeout):
                return await what
        except TimeoutError:
            raise _Silence from None

    @contextlib.contextmanager
    def _step(self, name: str) -> Generator[Finding]:
        found, began = Finding(), time.perf_counter()

        def tell(mark: str, words: str) -> None:
            took = (time.perf_counter() - began) * 1000
            print(f"{mark:<5}{name:<10}{took:>9.1f} ms  {self._secrets.escaped(words, _WIDTH)}", flush=True)

        try:
            yield found
        except _Silence:
            failure = _Blocked() if name == "handshake" else _Failed()
            tell("FAIL", f"no answer within {self._request.timeout:g} s ({_SILENCE[name]}; --timeout waits longer)")
        except LocalError:
            raise  # an invalid command line
        except PhxError as error:
            if isinstance(error, ConnectError):
                error.mask(self._secrets)
            failure = _Blocked() if _is_stripped(error) else _Failed()
            stripped = f" ({_STRIPPED})" if _is_stripped(error) else ""
            tell("FAIL", f"{error}{' (here: --ca FILE)' if isinstance(error, CertificateError) else stripped}")
        else:
            tell("note" if found.note else "ok", f"{found.words}{f' ({found.note})' if found.note else ''}")
            return
        raise failure


class _Line:
    """The incoming messages, for one request at a time; a `Receiver` of the connection."""

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer
        self._refs = map(str, count(1))
        self._came: asyncio.Queue[Message[Any] | ConnectionClosed] = asyncio.Queue()

    async def ask(self, connection: Connection, topic: str, event: str, payload: Any) -> Reply:
        """Send a message, and wait for its reply; `ConnectionClosed` if the connection ends first."""
        ref = next(self._refs)
        join_ref = ref if event == PHX_JOIN else None
        message = Message[Any](join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)
        frame = self._serializer.encode(message)
        if isinstance(frame, str):
            connection.send_text(frame)
        else:
            connection.send_binary(frame)
        while True:
            came = await self._came.get()
            if isinstance(came, ConnectionClosed):
                raise came
            if (came.event, came.ref) == (PHX_REPLY, ref):
                return decode_reply(came)

    def frames(self, frames: list[Received]) -> None:
        for frame in frames:
            with contextlib.suppress(PhxError):
                self._came.put_nowait(self._serializer.decode(frame))

    def closed(self, code: int | None, reason: str) -> None:
        self._came.put_nowait(ConnectionClosed(code, reason))

    def waits(self, missing: str) -> None: ...
    def refusing(self, refusal: HandshakeRefused) -> None: ...
    def progress(self) -> None: ...
    def blocked(self) -> None: ...
    def writable(self) -> None: ...


_SILENCE: Final = {
    "proxy": "",
    "dns": "is this machine's resolver there?",
    "tcp": "a firewall that drops packets, or the host is down",
    "tls": "does the port speak TLS? if not, give the URL with ws://",
    "handshake": "the server accepts connections and is busy, or what answers is no web server",
    "heartbeat": "what answered is no Phoenix socket, or the server is busy",
    "join": "the channel's join/3 takes its time",
    "channels": "the channel's join/3 takes its time",
    "close": "the server does not answer the close frame",
}


def _is_stripped(error: PhxError) -> bool:
    """Whether something on the way took the handshake for plain HTTP."""
    return isinstance(error, HandshakeRefused) and (error.status in (200, 426) or "upgrade" in error.said.lower())


def _certificate(tls: ssl.SSLObject) -> str:
    """The protocol, and the certificate's subject, issuer and expiry."""
    certificate: Any = tls.getpeercert() or {}
    names = ["/".join(pair[1] for part in certificate.get(side, ()) for pair in part) for side in ("subject", "issuer")]
    for_whom = ", ".join(value for _, value in certificate.get("subjectAltName", ())) or names[0] or "nobody named"
    until = certificate.get("notAfter")
    if until is None:
        return f"{tls.version()}, a certificate that is not verified"
    ends = datetime.fromtimestamp(ssl.cert_time_to_seconds(until), UTC)
    days = (ends - datetime.now(UTC)).days
    return f"{tls.version()}, certificate for {for_whom} by {names[1]}, valid for {days} more days"
