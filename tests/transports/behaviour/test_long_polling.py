"""Long polling, and falling back to it, over each adapter that has it; FAULTS.md's rows where they apply.

A server that behaves well is the embedded one; one that does not is scripted (`Scripted`).
"""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

import pytest
from certificates import Authority
from reported import Reports
from serving_in_thread import LONG, Flag, Loop, looping, start, until

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.errors import (
    ChannelClosedByServer,
    ConnectError,
    ConnectTimeout,
    HandshakeRefused,
    InvalidPayload,
    JoinRefused,
    JoinTimeout,
    PushLost,
    PushTimeout,
)
from phx_proto.events import BadFrame, ChannelErrored, Connected, ConnectFailed, Disconnected, Event
from phx_proto.flow import FlowLimits
from phx_proto.options import ClientOptions, JoinPolicy
from phx_proto.states import ChannelState, SocketState
from phx_transports.server import Refuse, RefuseConnect, RunningServer, Server, ServerChannel, ServerSocket, on
from phx_transports.server import ServerOptions as Serving

from .adapters import TOPIC, Adapter
from .faces import Client, Stream

#: What needs several calls at a time, or a proxy, which the client on wsproto has not.
not_on_wsproto = pytest.mark.parametrize("adapter", ["asyncio", "threads"], indirect=True)

QUICK: Final = ClientOptions(
    reconnect=ReconnectPolicy(schedule=Backoff((0.02,))), join=JoinPolicy(backoff=Backoff((0.02,))), poll_timeout=5.0
)


class Room(ServerChannel):
    """Answers, and what the rows ask for besides."""

    async def join(self, topic: str, params: Any) -> Any:
        if topic == "room:private":
            raise Refuse({"reason": "unauthorized"})
        return {"echo": params}

    @on("echo")
    async def echo(self, payload: Any) -> Any:
        return payload

    @on("shout")
    async def shout(self, payload: Any) -> Any:
        self.broadcast("news", payload)
        return {}

    @on("silence")
    async def silence(self, payload: Any) -> None:
        """Is never answered."""

    @on("halt")
    async def halt(self, payload: Any) -> Any:
        self.stop()
        return {}

    @on("size")
    def size(self, payload: bytes) -> Any:
        return {"size": len(payload)}

    @on("burst")
    async def burst(self, payload: Any) -> Any:
        for n in range(payload["n"]):
            self.push("n", {"n": n})
        return {}


def make(**options: Any) -> Server:
    server = Server(options=Serving(poll_window=0.5), on_error=lambda report: None, **options)
    server.channel("room:*")(Room)
    return server


class Site:
    """The embedded server, on a loop in a thread; it can be ended and begun again on its port."""

    def __init__(self, loop: Loop, server: Server, **serving: Any) -> None:
        self.loop = loop
        self.server = server
        self._serving = serving
        self._context: AbstractAsyncContextManager[RunningServer] | None = None
        self.begin()

    def begin(self) -> None:
        self._context = self.server.serve(**self._serving)
        self.running = self.loop(self._context.__aenter__())
        self._serving["port"] = self.running.port

    def end(self, *, kill: bool = False) -> None:
        if self._context is not None:
            if kill:
                self.loop(self.running.abort())
            context, self._context = self._context, None
            self.loop(context.__aexit__(None, None, None))

    def do(self, call: Callable[[], Any]) -> Any:
        return self.loop.do(call)


@contextmanager
def site(server: Server | None = None, **serving: Any) -> Iterator[Site]:
    with looping() as loop:
        served = Site(loop, make() if server is None else server, **serving)
        try:
            yield served
        finally:
            served.end()


@contextmanager
def polling(adapter: Adapter, served: Site, **options: Any) -> Iterator[Client]:
    client = adapter.connect(served.running.url, **{"transport": "longpoll", "options": QUICK} | options)
    try:
        yield client
    finally:
        client.abort()


def event_of(stream: Stream, kind: type[Event]) -> Any:
    """The next event of this kind."""
    return next(event for event in stream if isinstance(event, kind))


# ---- a session ------------------------------------------------------------------------------------------------------


def test_joins_pushes_messages_bytes_and_leaves(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served, params={"user": 7}) as client:
        channel = client.join(TOPIC, {"since": 1})
        with channel.messages("news") as news:
            assert channel.push("echo", {"é": "漢🎉"}).response == {"é": "漢🎉"}
            assert channel.push("size", b"\x00\xff\n").response == {"size": 3}
            channel.push("shout", {"n": 1})
            served.do(lambda: served.server.broadcast(TOPIC, "news", {"n": 2}))
            assert [next(news).payload for _ in range(2)] == [{"n": 1}, {"n": 2}]
        assert client.ping() < LONG
        channel.leave()
        assert channel.state is ChannelState.CLOSED
        client.close()
        assert client.state is SocketState.CLOSED


@not_on_wsproto
def test_many_pushes_at_once_are_answered_each(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client:
        channel = client.join(TOPIC)
        answers = [start(channel.push, "echo", {"n": n}) for n in range(150)]
        assert [answer.result(LONG).response for answer in answers] == [{"n": n} for n in range(150)]


def test_a_session_lives_through_quiet_windows_on_two_connections(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client:
        channel = client.join(TOPIC)
        (socket_there,) = served.server.sockets
        for _ in range(3):
            threading.Event().wait(0.4)  # windows are 0.5 s, and a session ends after 0.75 without a poll
            channel.push("echo")
        assert served.server.sockets == (socket_there,)
        assert client.stats.connects == 1


def test_the_auth_token_opens_the_session(adapter: Adapter) -> None:
    seen: list[str | None] = []

    def connect(socket: ServerSocket) -> None:
        seen.append(socket.auth_token)

    with site(make(connect=connect)) as served, polling(adapter, served, auth_token="sekrét/=") as client:
        client.join(TOPIC)
    assert seen == ["sekrét/="]


def test_over_tls(adapter: Adapter, authority: Authority) -> None:
    with site(ssl=authority.server()) as served, polling(adapter, served, ssl=authority.trusting()) as client:
        channel = client.join(TOPIC)
        assert channel.push("echo", {"data": "x" * 300_000}).response == {"data": "x" * 300_000}


@not_on_wsproto
def test_through_a_proxy(adapter: Adapter) -> None:
    with (
        site() as served,
        relay(served, tunnel=True) as place,
        polling(adapter, served, proxy=f"http://{place}") as client,
    ):
        assert client.join(TOPIC).push("echo", {"n": 1}).response == {"n": 1}


# ---- falling back ---------------------------------------------------------------------------------------------------


def test_where_a_proxy_strips_upgrades_the_client_falls_back_and_comes_back_after_a_restart(
    adapter: Adapter, caplog: pytest.LogCaptureFixture
) -> None:
    with site() as served, relay(served, strip=True) as place:
        client = adapter.connect(f"ws://{place}/socket", fallback=1.0, options=QUICK)
        with client.events() as events:
            channel = client.join(TOPIC)
            assert channel.push("echo", {"n": 1}).response == {"n": 1}
            served.end()
            assert isinstance(event_of(events, Disconnected), Disconnected)
            served.begin()
            assert event_of(events, Connected) == Connected(None, reconnected=True, transport="longpoll")
            until(lambda: channel.state is ChannelState.JOINED)
            assert channel.push("echo", {"n": 2}).response == {"n": 2}
        client.close()
    told = f"no WebSocket gets through to ws://{place}/socket/websocket: it is polled, by HTTP, from now on"
    assert [record.message for record in caplog.records].count(told) == 1


def test_presence_is_the_servers_again_after_a_restart(adapter: Adapter) -> None:
    server = make()

    @server.channel("cafe:*")
    class Cafe(ServerChannel):
        async def join(self, topic: str, params: Any) -> Any:
            self.name = params["name"]

        async def joined(self) -> None:
            self.presence.track(self.name, {})
            self.presence.push_state()

    handlers = adapter.handlers()
    handlers.add(lambda message: None, "presence_join")  # so presence is tracked
    with (
        site(server) as served,
        polling(adapter, served) as other,
        polling(adapter, served, router=handlers.native) as client,
    ):
        cafe = client.join("cafe:1", {"name": "ann"})
        other.join("cafe:1", {"name": "bob"})
        until(lambda: set(cafe.present) == {"ann", "bob"})
        other.abort()
        served.end(kill=True)
        served.begin()
        until(lambda: set(cafe.present) == {"ann"})
        assert client.stats.connects == 2


def test_where_websockets_work_it_does_not_fall_back(adapter: Adapter) -> None:
    with site() as served:
        client = adapter.connect(served.running.url, fallback=0.3, options=QUICK)
        with client.events() as events:
            client.join(TOPIC)
            threading.Event().wait(0.4)
            assert client.stats.connects == 1
            served.do(served.running.cut)
            assert event_of(events, Connected).transport == "websocket"
        client.abort()


def test_without_a_fallback_the_refusal_is_told(adapter: Adapter) -> None:
    with site() as served, relay(served, strip=True) as place:
        with pytest.raises(HandshakeRefused) as refused:
            adapter.connect(f"ws://{place}/socket", options=QUICK, timeout=2)
        assert refused.value.status == 400


# ---- the rows of FAULTS.md ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [True, False])
def test_01_02_03_a_server_that_is_killed_or_stopped_and_back(adapter: Adapter, kill: bool) -> None:
    with site() as served, polling(adapter, served) as client, client.events() as events:
        channels = [client.join(f"room:{n}") for n in range(3)]
        served.end(kill=kill)
        lost = event_of(events, Disconnected)
        assert lost.code is None
        assert lost.reason
        assert isinstance(event_of(events, ConnectFailed).error, ConnectError)
        served.begin()
        event_of(events, Connected)
        until(lambda: all(channel.state is ChannelState.JOINED for channel in channels))
        assert channels[0].push("echo", {"n": 1}).response == {"n": 1}
        assert len(served.server.sockets) == 1


def test_04_disconnected_by_id(adapter: Adapter) -> None:
    def connect(socket: ServerSocket) -> None:
        socket.id = "user:7"

    with site(make(connect=connect)) as served, polling(adapter, served) as client, client.events() as events:
        channel = client.join(TOPIC)
        served.do(lambda: served.server.disconnect("user:7"))
        assert event_of(events, Disconnected).reason == "the session is gone: the server ended it, or was restarted"
        until(lambda: channel.state is ChannelState.JOINED)
        assert channel.push("echo", {"n": 1}).response == {"n": 1}


@not_on_wsproto
def test_05_a_channel_that_crashes(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client, client.events() as events:
        channel, other = client.join(TOPIC), client.join("room:other")
        lost = start(channel.push, "no such event", timeout=LONG)
        assert event_of(events, ChannelErrored).topic == TOPIC
        with pytest.raises(PushLost):
            lost.result(LONG)
        until(lambda: channel.state is ChannelState.JOINED)
        assert other.push("echo", {"n": 1}).response == {"n": 1}


def test_06_a_channel_that_the_server_stops(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client:
        channel = client.join(TOPIC)
        channel.push("halt")
        until(lambda: channel.state is ChannelState.CLOSED)
        with pytest.raises(ChannelClosedByServer):
            channel.push("echo")


def test_07_a_join_that_is_refused(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client:
        with pytest.raises(JoinRefused) as refused:
            client.join("room:private")
        assert refused.value.response == {"reason": "unauthorized"}


def test_08_a_connect_that_is_refused(adapter: Adapter) -> None:
    def connect(socket: ServerSocket) -> None:
        raise RefuseConnect(401, "not said over long polling")

    with site(make(connect=connect)) as served:
        with pytest.raises(HandshakeRefused) as refused, polling(adapter, served):
            pass
        assert refused.value.status == 403
        assert "/socket/longpoll" in str(refused.value)


def test_09_a_server_that_is_down_at_the_first_connect(adapter: Adapter) -> None:
    with site() as served:
        served.end()
        with pytest.raises(ConnectTimeout, match=r"refused the connection \(is the server up\?\)"):
            adapter.connect(served.running.url, transport="longpoll", timeout=0.3, options=QUICK)


def test_10_a_push_that_is_never_answered(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client, pytest.raises(PushTimeout):
        client.join(TOPIC).push("silence", timeout=0.2)


@not_on_wsproto
def test_11_a_push_in_flight_is_lost_at_once(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client:
        channel = client.join(TOPIC)
        pushed = start(channel.push, "silence", timeout=LONG)
        until(lambda: client.stats.received >= 1)
        threading.Event().wait(0.1)  # it is posted
        served.do(served.running.cut)
        with pytest.raises(PushLost):
            pushed.result(LONG)


def test_12_a_handler_that_raises_on_one_message(adapter: Adapter) -> None:
    handlers, reports, numbers = adapter.handlers(), Reports(), list[int]()

    @handlers.on("n")
    def n(message: Any) -> None:
        if message.payload["n"] == 1:
            raise ZeroDivisionError
        numbers.append(message.payload["n"])

    with site() as served, polling(adapter, served, router=handlers.native, on_handler_error=reports) as client:
        client.join(TOPIC).push("burst", {"n": 4})
        until(lambda: numbers == [0, 2, 3])
        until(lambda: len(reports.all) == 1)


def test_13_garbage_and_then_a_good_message(adapter: Adapter) -> None:
    with Scripted() as scripted, client_of(adapter, scripted) as client, client.events() as events:
        channel = scripted.joined(client)
        with channel.messages() as messages:
            scripted.say("{not json", "[1,2]", "null", "", "\x02\n\x02room", [None, None, TOPIC, "news", {"n": 1}])
            assert next(messages).payload == {"n": 1}
        bad = [event_of(events, BadFrame) for _ in range(5)]
        assert len(bad) == 5
        assert client.state is SocketState.OPEN


def test_cookies_of_a_balancer_are_kept_for_the_session(adapter: Adapter) -> None:
    with Scripted() as scripted, client_of(adapter, scripted) as client:
        scripted.joined(client)
        until(lambda: len(scripted.cookies) >= 2)
        first, *others = scripted.cookies
    assert first is None
    assert set(others) == {"server=s1; seen=yes"}


def test_14_a_peer_that_falls_silent(adapter: Adapter) -> None:
    options = ClientOptions(reconnect=QUICK.reconnect, poll_timeout=0.4)
    with Scripted() as scripted, client_of(adapter, scripted, options=options) as client, client.events() as events:
        assert event_of(events, Disconnected).reason == "a poll was not answered"
        event_of(events, Connected)
        assert scripted.opened >= 2


def test_15_a_server_that_accepts_then_drops_again_and_again(adapter: Adapter) -> None:
    schedule = ReconnectPolicy(schedule=Backoff((0.05, 0.1, 5.0)))
    with Scripted() as scripted:
        scripted.polls = lambda: (500, b"")
        with client_of(adapter, scripted, options=ClientOptions(reconnect=schedule)) as client:
            until(lambda: scripted.opened == 3)
            until(lambda: client.state is SocketState.WAITING)
            threading.Event().wait(0.3)
            assert scripted.opened == 3


def test_16_a_slow_handler_under_a_flood(adapter: Adapter) -> None:
    handlers, gate, numbers = adapter.handlers(), Flag(), list[int]()

    @handlers.on("n")
    def n(message: Any) -> None:
        adapter.wait(gate)
        numbers.append(message.payload["n"])

    options = ClientOptions(flow=FlowLimits(high=100, low=20))
    with site() as served, polling(adapter, served, router=handlers.native, options=options) as client:
        channel = client.join(TOPIC)
        for _ in range(10):
            channel.cast("burst", {"n": 100})
        until(lambda: client.stats.backlog >= 100)
        gate.set()
        until(lambda: len(numbers) == 1000)
        assert numbers == [*range(100)] * 10
        assert client.stats.dropped == 0


def test_19_what_would_end_the_session_is_refused_at_the_call(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client:
        channel = client.join(TOPIC)
        with pytest.raises(InvalidPayload):
            channel.push("echo", {"n": float("nan")})
        assert channel.push("echo", {"n": 1}).response == {"n": 1}


def test_23_a_join_without_a_connection_says_why(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client, client.events() as events:
        served.end(kill=True)
        event_of(events, ConnectFailed)
        with pytest.raises(JoinTimeout) as late:
            client.join(TOPIC, timeout=0.3)
        assert isinstance(late.value.__cause__, ConnectError)


def test_25_a_message_that_is_too_large_says_so(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served) as client:
        channel = client.join(TOPIC)
        with pytest.raises(PushLost, match="larger than the server takes"):
            channel.push("echo", {"data": "x" * 9_000_000})
        until(lambda: channel.state is ChannelState.JOINED)


def test_26_an_answer_that_is_too_large_names_max_size(adapter: Adapter) -> None:
    with site() as served, polling(adapter, served, max_size=1000) as client, client.events() as events:
        channel = client.join(TOPIC)
        channel.cast("echo", {"data": "x" * 5000})
        assert "2 times max_size, which is 1000" in event_of(events, Disconnected).reason


# ---- what is no server of long polling ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (200, b"<html>", "did not answer as long polling of Phoenix does"),
        (404, b"Not Found", "HTTP 404: Not Found"),
        (302, b"", "HTTP 302"),
    ],
)
def test_what_answers_otherwise_is_told(adapter: Adapter, status: int, body: bytes, told: str) -> None:
    with Scripted() as scripted:
        scripted.openings = lambda: (status, body)
        with pytest.raises(ConnectError, match=told):
            adapter.connect(scripted.url, transport="longpoll", timeout=0.3, options=QUICK)


def test_what_speaks_no_http_is_told(adapter: Adapter) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            with suppress(OSError):
                while True:
                    sock, _ = listener.accept()
                    with sock:
                        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

        greeting = threading.Thread(target=greet)
        greeting.start()
        try:
            with pytest.raises(ConnectTimeout, match="did not answer in HTTP"):
                adapter.connect(
                    f"ws://127.0.0.1:{listener.getsockname()[1]}/socket",
                    transport="longpoll",
                    timeout=0.3,
                    options=QUICK,
                )
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            greeting.join(LONG)


# ---- servers and proxies of the tests -------------------------------------------------------------------------------


_UPGRADE: Final = (b"upgrade:", b"connection:")


class Scripted:
    """A server of long polling that does what the test says; its polls wait until `say`."""

    def __init__(self) -> None:
        self.opened = 0
        self.cookies: list[str | None] = []  # that came with each request
        self.posted: list[list[Any]] = []
        self.openings: Callable[[], tuple[int, bytes]] = self._open
        self.polls: Callable[[], tuple[int, bytes]] = self._poll
        self._said: list[str] = []
        self._news = threading.Condition()
        self._over = False
        script = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._answer(*(script.polls if "token=" in self.path else script.openings)())

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with script._news:
                    script.posted += [json.loads(line) for line in body.split(b"\n")]
                self._answer(200, b'{"status":200}')

            def _answer(self, status: int, body: bytes) -> None:
                script.cookies.append(self.headers["cookie"])
                with suppress(OSError):
                    self.send_response(status)
                    self.send_header("set-cookie", f"server=s{script.opened}; Path=/; HttpOnly")
                    self.send_header("set-cookie", "seen=yes")
                    self.send_header("content-length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Nobody reads it."""

        class Listener(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A client is gone."""

        self._server = Listener(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self.url = f"ws://127.0.0.1:{self._server.server_port}/socket"

    def __enter__(self) -> "Scripted":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._news:
            self._over = True
            self._news.notify_all()
        self._server.shutdown()
        self._thread.join(LONG)
        self._server.server_close()

    def say(self, *messages: Any) -> None:
        """What the next poll brings."""
        with self._news:
            self._said += [each if isinstance(each, str) else json.dumps(each) for each in messages]
            self._news.notify_all()

    def joined(self, client: Client) -> Any:
        joining = start(client.join, TOPIC)
        until(lambda: self.posted)
        join_ref, ref, topic, *_ = self.posted[0]
        self.say([join_ref, ref, topic, "phx_reply", {"status": "ok", "response": {}}])
        return joining.result(LONG)

    def _open(self) -> tuple[int, bytes]:
        self.opened += 1
        return 200, json.dumps({"status": 410, "token": f"T{self.opened}", "messages": []}).encode()

    def _poll(self) -> tuple[int, bytes]:
        with self._news:
            self._news.wait_for(lambda: self._said or self._over, LONG)
            said, self._said = self._said, []
        return 200, json.dumps({"status": 200, "token": f"T{self.opened}", "messages": said}).encode()


@contextmanager
def client_of(adapter: Adapter, scripted: Scripted, **options: Any) -> Iterator[Client]:
    client = adapter.connect(scripted.url, **{"transport": "longpoll", "options": QUICK} | options)
    try:
        yield client
    finally:
        client.abort()


@contextmanager
def relay(served: Site, *, strip: bool = False, tunnel: bool = False) -> Iterator[str]:
    """A proxy on the way to the server: it takes the upgrade out of requests, or is asked for a tunnel."""

    def carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if strip and target is not source:
                    lines = data.split(b"\r\n")
                    data = b"\r\n".join(
                        line for line in lines if not line.lower().startswith((b"upgrade:", b"connection:"))
                    )
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def serve(near: socket.socket) -> None:
        with near, suppress(OSError):
            if tunnel:
                request = b""
                while b"\r\n\r\n" not in request and (part := near.recv(1 << 16)):
                    request += part
                assert request.startswith(b"CONNECT ")
                near.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with socket.create_connection(("127.0.0.1", served.running.port)) as far:
                sockets.append(far)
                back = threading.Thread(target=carry, args=(far, near))
                back.start()
                carry(near, far)
                back.join(LONG)

    def accept() -> None:
        with suppress(OSError):
            while True:
                near, _ = listener.accept()
                sockets.append(near)
                thread = threading.Thread(target=serve, args=(near,))
                threads.append(thread)
                thread.start()

    sockets: list[socket.socket] = []
    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            accepting.join(LONG)
            for sock in sockets:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            for thread in threads:
                thread.join(LONG)
