"""Long polling on the client's side: which requests are sent, and how their answers are handled."""

import base64
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import AbortTransport, Command, PauseSending, Resolve, ResumeSending, SendRequest
from phx_proto.errors import ConnectError, HandshakeRefused, InvalidEndpoint, PushLost
from phx_proto.events import BadFrame, Closed, Connected, ConnectFailed, Disconnected, Event, PushFailed
from phx_proto.flow import FlowLimits
from phx_proto.formats import V1, V2
from phx_proto.handlers.router import Router
from phx_proto.options import ClientOptions
from phx_proto.states import ChannelState, SocketState

TOKEN = "SFMyNTY.token-of-the-session"
OPENED = {"status": 410, "token": TOKEN, "messages": []}
POSTED = {"status": 200}


class Polled:
    """A client that polls, and the server as the test plays it: every request is kept until it is answered."""

    def __init__(self, **options: Any) -> None:
        url = options.pop("url", "ws://h/socket")
        options.setdefault("transport", "longpoll")
        self.core = ClientProtocol(url, **options)
        self.now = 0.0
        self.commands: list[Command] = []
        self.events: list[Event] = []
        self.requests: list[SendRequest] = []  # that have no answer yet
        self.tell(self.core.connect)

    def tell(self, call: Callable[[float], Any]) -> Any:
        """An input, and what follows."""
        result = call(self.now)
        self._drain()
        while (due := self.core.next_timeout()) is not None and due <= self.now:
            self.core.handle_timeout(self.now)
            self._drain()
        return result

    def _drain(self) -> None:
        commands = self.core.commands()
        self.commands += commands
        for command in commands:
            if isinstance(command, SendRequest):
                self.requests.append(command)
            elif isinstance(command, AbortTransport):
                self.requests = [request for request in self.requests if request.link is not command.link]
        self.events += self.core.events()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while (due := self.core.next_timeout()) is not None and due <= end:
            self.now = max(self.now, due)
            self.tell(self.core.handle_timeout)
        self.now = end

    @property
    def poll(self) -> SendRequest:
        (request,) = [request for request in self.requests if request.method == "GET"]
        return request

    @property
    def post(self) -> SendRequest:
        (request,) = [request for request in self.requests if request.method == "POST"]
        return request

    def answer(self, request: SendRequest, body: Any, status: int = 200, **headers: str) -> None:
        """The server answers."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.requests.remove(request)
        told = {name.replace("_", "-"): value for name, value in headers.items()}
        self.tell(lambda now: request.exchange.answered(status, told, data, now))

    def fail(self, request: SendRequest, problem: str = "the connection broke") -> None:
        """No answer comes."""
        self.requests.remove(request)
        self.tell(lambda now: request.exchange.failed(ConnectError(problem), now))

    def receive(self, *messages: Any) -> None:
        """A poll brings messages."""
        texts = [message if isinstance(message, str) else json.dumps(message) for message in messages]
        self.answer(self.poll, {"status": 200, "token": TOKEN, "messages": texts})

    def opened(self) -> "Polled":
        self.answer(self.poll, OPENED)
        return self

    def joined(self, topic: str = "room:a") -> Channel:
        """A channel whose join was posted and accepted."""
        channel = self.core.channel(topic)
        self.tell(channel.join)
        self.answer(self.post, POSTED)
        ref = channel.join_ref
        self.receive([ref, ref, topic, "phx_reply", {"status": "ok", "response": {}}])
        assert channel.state is ChannelState.JOINED
        return channel

    def lost(self) -> Disconnected:
        """What the client was told of its lost connection."""
        (event,) = [event for event in self.events if isinstance(event, Disconnected)]
        return event


def lines(request: SendRequest) -> list[list[Any]]:
    return [json.loads(line) for line in request.body.split(b"\n")]


def never_called(message: Any) -> None:
    """The tests look at what is delivered."""


# ---- a session ------------------------------------------------------------------------------------------------------


def test_a_session_is_opened_by_a_get_without_a_token() -> None:
    client = Polled(params={"user": 7}, headers={"x-team": "blue"}, auth_token="sekret")
    assert (client.poll.method, client.poll.body) == ("GET", b"")
    assert client.poll.url == "http://h/socket/longpoll?user=7&vsn=2.0.0"
    assert client.poll.headers == (
        ("x-team", "blue"),
        ("accept", "application/json"),
        ("x-phoenix-authtoken", "sekret"),
    )
    assert client.core.state is SocketState.OPENING


def test_then_a_poll_carries_its_token_last_in_the_url_and_in_a_header() -> None:
    client = Polled(params={"token": "mine"}, auth_token="sekret").opened()
    assert client.events[-1] == Connected(None, reconnected=False, transport="longpoll")
    assert [type(command) for command in client.commands] == [SendRequest, SendRequest]
    assert client.poll.url == f"http://h/socket/longpoll?token=mine&vsn=2.0.0&token={TOKEN}"
    assert dict(client.poll.headers) == {"accept": "application/json", "x-phoenix-longpoll-token": TOKEN}


def test_an_answer_with_messages_is_followed_by_a_poll_at_once_with_the_newest_token() -> None:
    client = Polled(router=_router()).opened()
    channel = client.joined()
    message = json.dumps([channel.join_ref, None, "room:a", "news", {"n": 1}])
    client.answer(client.poll, {"status": 200, "token": "a/newer+one", "messages": [message, message]})
    assert client.core.stats.delivered == 2
    assert client.poll.url.endswith("&token=a%2Fnewer%2Bone")


def test_an_empty_answer_is_followed_by_a_poll_at_once() -> None:
    client = Polled().opened()
    client.wait(10)
    client.answer(client.poll, {"status": 204})
    assert client.poll.url.endswith(TOKEN)


def test_a_server_that_does_not_hold_polls_is_not_hammered() -> None:
    client = Polled().opened()
    for _ in range(3):
        client.answer(client.poll, {"status": 204, "token": TOKEN, "messages": []})
        assert not client.requests
        client.wait(0.5)
    client.receive([None, None, "room:a", "news", {}])
    assert client.poll


@pytest.mark.parametrize(
    ("url", "path", "polled"),
    [
        ("wss://h/socket", None, "https://h/socket/longpoll"),
        ("https://h/socket/websocket", None, "https://h/socket/longpoll"),
        ("http://h/socket/longpoll/", None, "http://h/socket/longpoll/"),
        ("ws://h/socket", "/lp/:user", "http://h/socket/lp/7"),
    ],
)
def test_where_it_polls(url: str, path: str | None, polled: str) -> None:
    client = Polled(url=url, path=path, params={"user": 7})
    assert client.poll.url.partition("?")[0] == polled


@pytest.mark.parametrize("token", ["two\nlines", " ends", "ends ", "\x7f"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(InvalidEndpoint, match="has control characters or outer spaces, which no header of HTTP"):
        Polled(auth_token=token)


# ---- sending --------------------------------------------------------------------------------------------------------


def test_messages_of_one_step_go_out_together_a_line_each() -> None:
    client = Polled().opened()
    channel = client.joined()

    def push_three(now: float) -> None:
        for n in range(3):
            channel.push("shout", {"n": n}, now)

    client.tell(push_three)
    assert dict(client.post.headers)["content-type"] == "application/x-ndjson"
    assert [line[4] for line in lines(client.post)] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert not client.post.body.endswith(b"\n")


def test_one_post_at_a_time_and_in_order() -> None:
    client = Polled().opened()
    channel = client.joined()
    for n in range(3):
        client.tell(partial(channel.push, "shout", {"n": n}))
    assert [line[4]["n"] for line in lines(client.post)] == [0]
    client.answer(client.post, POSTED)
    assert [line[4]["n"] for line in lines(client.post)] == [1, 2]
    client.answer(client.post, POSTED)
    assert [request.method for request in client.requests] == ["GET"]


def test_a_post_has_a_hundred_messages_at_most_and_no_more_bytes_than_servers_take() -> None:
    client = Polled(options=ClientOptions(timeout=1e6)).opened()
    channel = client.joined()

    def push(sizes: list[int], now: float) -> None:
        for size in sizes:
            channel.push("shout", {"data": "x" * size}, now)

    client.tell(lambda now: push([0] * 250, now))
    batches = []
    while len(client.requests) == 2:
        batches.append(len(lines(client.post)))
        client.answer(client.post, POSTED)
    assert batches == [100, 100, 50]
    client.tell(lambda now: push([600_000, 600_000, 2_000_000], now))
    for size in (600_000, 600_000, 2_000_000):
        assert [len(line[4]["data"]) for line in lines(client.post)] == [size]
        client.answer(client.post, POSTED)


class Sized(V2):
    """Makes each message as long as its event says: `"1000"` has 1,000 characters."""

    def encode(self, message: Any) -> str | bytes:
        frame = super().encode(message)
        return frame.ljust(int(message.event)) if isinstance(frame, str) and message.event.isdigit() else frame


def casting(client: Polled, channel: Channel, *sizes: int) -> list[Command]:
    """What comes of casts of these sizes, one step each."""
    client.commands.clear()
    for size in sizes:
        client.tell(partial(channel.cast, str(size), {}))
    return client.commands


@pytest.mark.parametrize(("more", "bodies"), [(0, [2**20 + 1]), (1, [600_000, 2**20 - 599_999])])
def test_messages_share_a_body_of_a_mebibyte_at_most(more: int, bodies: list[int]) -> None:
    client = Polled(serializer=Sized()).opened()
    casting(client, client.joined(), 100, 600_000, 2**20 - 600_000 + more)
    client.answer(client.post, POSTED)
    for size in bodies:
        assert len(client.post.body) == size  # two lines have a line break between them
        client.answer(client.post, POSTED)
    assert [request.method for request in client.requests] == ["GET"]


@pytest.mark.parametrize(("more", "told"), [(-1, []), (0, [PauseSending])])
def test_callers_wait_from_a_quarter_of_a_mebibyte_on_that_is_queued(more: int, told: list[type]) -> None:
    client = Polled(serializer=Sized()).opened()
    channel = client.joined()
    for _ in range(2):  # what went out counts no more
        under_way, *queued = casting(client, channel, 300_000, 2**17, 2**17 + more)
        assert isinstance(under_way, SendRequest)
        assert [type(command) for command in queued] == told
        while len(client.requests) == 2:
            client.answer(client.post, POSTED)


@pytest.mark.parametrize(("size", "code"), [(1_000_000, None), (1_000_001, 1009)])
def test_a_refused_post_of_more_than_a_million_bytes_was_too_large(size: int, code: int | None) -> None:
    client = Polled(serializer=Sized()).opened()
    casting(client, client.joined(), size)
    client.answer(client.post, b"", 413)
    assert client.lost().code == code


def test_bytes_go_out_in_base64_among_lines_of_text() -> None:
    client = Polled().opened()
    channel = client.joined()

    def push(now: float) -> None:
        channel.push("text", {}, now)
        channel.push("bin", b"\x00\xff\x01", now)

    client.tell(push)
    text, binary = client.post.body.split(b"\n")
    assert json.loads(text)[3] == "text"
    assert base64.b64decode(binary).endswith(b"bin\x00\xff\x01")


def test_a_v1_message_is_a_body_of_its_own() -> None:
    client = Polled(serializer=V1()).opened()

    def join(now: float) -> None:
        client.core.channel("room:a").join(now)
        client.core.channel("room:b").join(now)

    client.tell(join)
    for topic in ("room:a", "room:b"):
        assert dict(client.post.headers)["content-type"] == "application/json"
        assert json.loads(client.post.body)["topic"] == topic
        client.answer(client.post, POSTED)


class Spread(V2):
    """A serializer of somebody's own, with line breaks in some messages."""

    line_break = "\n"

    def encode(self, message: Any) -> str | bytes:
        frame = super().encode(message)
        return frame.replace(",", f",{self.line_break}") if isinstance(frame, str) and "spread" in frame else frame


@pytest.mark.parametrize("line_break", ["\n", "\r"])
def test_text_with_a_line_break_is_a_body_of_its_own(line_break: str) -> None:
    spread = Spread()
    spread.line_break = line_break
    client = Polled(serializer=spread).opened()
    channel = client.joined()

    def push(now: float) -> None:
        for event in ("line", "spread", "line"):
            channel.push(event, {}, now)

    client.tell(push)
    for kind, event in (("x-ndjson", "line"), ("json", "spread"), ("x-ndjson", "line")):
        assert dict(client.post.headers)["content-type"] == f"application/{kind}"
        assert json.loads(client.post.body)[3] == event
        client.answer(client.post, POSTED)


def test_headers_of_the_applications_own_do_not_stand_beside_ours() -> None:
    client = Polled(headers={"Content-Type": "text/plain", "Accept": "text/html", "cookie": "a=b"}).opened()
    client.tell(client.core.channel("room:a").join)
    assert [value for name, value in client.post.headers if name.lower() == "content-type"] == ["application/x-ndjson"]
    assert ("cookie", "a=b") in client.post.headers


def test_callers_wait_while_much_is_queued() -> None:
    client = Polled(options=ClientOptions(timeout=1e6)).opened()
    channel = client.joined()
    client.tell(lambda now: channel.push("first", {}, now))
    client.commands.clear()
    for _ in range(3):
        client.tell(lambda now: channel.push("shout", {"data": "x" * 150_000}, now))
    (pause,) = client.commands
    assert isinstance(pause, PauseSending)
    client.commands.clear()
    client.answer(client.post, POSTED)
    posted, resume = client.commands
    assert isinstance(posted, SendRequest)
    assert isinstance(resume, ResumeSending)
    assert pause.link is resume.link is posted.link


# ---- heartbeats, and a silent peer ----------------------------------------------------------------------------------


def test_there_are_no_heartbeats() -> None:
    client = Polled().opened()
    for _ in range(10):
        client.wait(10)
        client.answer(client.poll, {"status": 204, "token": TOKEN, "messages": []})
    assert [request.method for request in client.requests] == ["GET"]


def test_a_ping_is_answered_by_a_poll() -> None:
    client = Polled().opened()
    ref = client.tell(client.core.ping)
    client.answer(client.post, POSTED)
    client.receive([None, ref, "phoenix", "phx_reply", {"status": "ok", "response": {}}])
    assert type(client.events[-1]).__name__ == "PingAnswered"


def test_a_poll_without_an_answer_is_a_lost_connection() -> None:
    client = Polled().opened()
    client.wait(19)
    assert client.core.state is SocketState.OPEN
    client.wait(7)
    assert client.lost().reason == "a poll was not answered"
    assert client.poll.url.count("token") == 0


def test_but_not_while_its_answer_is_coming() -> None:
    client = Polled().opened()
    for _ in range(10):
        client.wait(20)
        client.tell(client.poll.exchange.progressed)
    assert client.core.state is SocketState.OPEN


def test_a_post_may_take_longer_the_more_it_carries() -> None:
    client = Polled(options=ClientOptions(timeout=1e6)).opened()
    channel = client.joined()

    def push(now: float) -> None:
        for _ in range(10):
            channel.push("slow", {}, now)

    client.tell(push)
    for _ in range(10):
        client.wait(10)
        client.answer(client.poll, {"status": 204, "token": TOKEN, "messages": []})
    assert client.core.state is SocketState.OPEN
    for _ in range(3):
        client.wait(10)
        if client.core.state is SocketState.OPEN:
            client.answer(client.poll, {"status": 204, "token": TOKEN, "messages": []})
    assert client.lost().reason == "what was sent was not answered"


# ---- losing it ------------------------------------------------------------------------------------------------------

LOSSES: dict[str, tuple[str, Callable[[Polled], None]]] = {
    "a lost poll": ("a poll was lost: the connection broke", lambda client: client.fail(client.poll)),
    "a poll of a session that is gone": (
        "the session is gone: the server ended it, or was restarted",
        lambda client: client.answer(client.poll, {"status": 410, "token": "another", "messages": []}),
    ),
    "a poll that is refused": (
        "the session is gone: the server ended it, or was restarted",
        lambda client: client.answer(client.poll, {"status": 403}),
    ),
    "an unknown status": (
        "a poll was answered with 418",
        lambda client: client.answer(client.poll, {"status": 418}),
    ),
    "an HTTP error": ("a poll was answered with HTTP 502", lambda client: client.answer(client.poll, b"bad", 502)),
    "garbage": (
        "a poll was answered with what is no answer of Phoenix",
        lambda client: client.answer(client.poll, b"<html>"),
    ),
    "a token that no header can carry": (
        "a poll was answered with what is no answer of Phoenix",
        lambda client: client.answer(client.poll, {"status": 204, "token": "two\nlines", "messages": []}),
    ),
    "a lost post": ("what was sent was lost: the connection broke", lambda client: client.fail(client.post)),
    "a post of a session that is gone": (
        "the session is gone: the server ended it, or was restarted",
        lambda client: client.answer(client.post, {"status": 410}),
    ),
    "a post that is not handled in time": (
        "the server did not handle what was sent in its time (408)",
        lambda client: client.answer(client.post, {"status": 408}),
    ),
    "a post with an unknown status": (
        "what was sent was answered with 500",
        lambda client: client.answer(client.post, {"status": 500}),
    ),
    "a post with an HTTP error": (
        "what was sent was answered with HTTP 500",
        lambda client: client.answer(client.post, b"", 500),
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_no_success_is_a_lost_connection(name: str) -> None:
    reason, lose = LOSSES[name]
    client = Polled().opened()
    channel = client.joined()
    ref = client.tell(lambda now: channel.push("shout", {}, now))
    lose(client)
    assert (client.lost().code, client.lost().reason) == (None, reason)
    (failed,) = [event for event in client.events if isinstance(event, PushFailed)]
    assert failed.ref == ref
    assert isinstance(failed.error, PushLost)
    assert failed.error.sent
    client.wait(1)
    client.opened()
    assert lines(client.post)[0][2:4] == ["room:a", "phx_join"]


def test_what_was_not_sent_before_the_loss_is_sent_after_it() -> None:
    client = Polled().opened()
    channel = client.core.channel("room:a")
    client.tell(channel.join)
    ref = client.tell(lambda now: channel.push("shout", {}, now))
    client.fail(client.poll)
    client.wait(1)
    client.opened()
    client.answer(client.post, POSTED)
    join = channel.join_ref
    client.receive([join, join, "room:a", "phx_reply", {"status": "ok", "response": {}}])
    assert lines(client.post) == [[join, ref, "room:a", "shout", {}]]


def test_answers_that_come_late_are_ignored() -> None:
    client = Polled().opened()
    client.tell(client.core.channel("room:a").join)
    poll, post = client.poll, client.post
    client.fail(client.poll)
    events = len(client.events)
    for request in (poll, post):
        client.tell(partial(request.exchange.answered, 200, {}, b"{}"))
        client.tell(partial(request.exchange.failed, ConnectError("late")))
        client.tell(request.exchange.progressed)
    assert len(client.events) == events
    assert not client.requests


def test_a_post_that_is_too_large_says_so_as_a_close_code_does() -> None:
    client = Polled().opened()
    channel = client.joined()
    client.tell(lambda now: channel.push("shout", {"data": "x" * 9_000_000}, now))
    client.answer(client.post, b"", 400)
    assert client.lost().code == 1009
    (failed,) = [event for event in client.events if isinstance(event, PushFailed)]
    assert "larger than the server takes" in str(failed.error)


@pytest.mark.parametrize(("size", "status"), [(2_000_000, 500), (10, 400), (10, 413)])
def test_what_may_have_another_reason_is_not_taken_to_be_too_large(size: int, status: int) -> None:
    client = Polled(options=ClientOptions(timeout=1e6)).opened()
    channel = client.joined()
    client.tell(lambda now: channel.push("shout", {"data": "x" * size}, now))
    client.answer(client.post, b"", status)
    assert (client.lost().code, client.lost().reason) == (None, f"what was sent was answered with HTTP {status}")


@pytest.mark.parametrize("of", ["poll", "post"])
def test_a_proxys_error_is_one_also_with_the_servers_answer_in_it(of: str) -> None:
    client = Polled().opened()
    client.tell(client.core.channel("room:a").join)
    request = client.poll if of == "poll" else client.post
    client.answer(request, {"status": 200, "token": TOKEN, "messages": []}, 502)
    assert client.lost().reason.endswith("answered with HTTP 502")


def test_a_message_that_is_no_text_but_json_is_read_as_its_text() -> None:
    client = Polled(router=_router()).opened()
    channel = client.joined()
    message = [channel.join_ref, None, "room:a", "news", {"n": 1}]
    client.answer(client.poll, {"status": 200, "token": TOKEN, "messages": [message]})
    assert client.core.stats.delivered == 1


@pytest.mark.parametrize("serializer", [V1, V2])
def test_a_post_of_one_message_has_half_as_long_again_as_a_poll(serializer: Any) -> None:
    client = Polled(serializer=serializer(), options=ClientOptions(timeout=1e6)).opened()
    client.tell(lambda now: client.core.channel("room:a").join(now, timeout=1e6))
    for _ in range(3):
        client.wait(10)
        client.answer(client.poll, {"status": 204, "token": TOKEN, "messages": []})
    assert client.core.state is SocketState.OPEN
    client.wait(5)
    assert client.lost().reason == "what was sent was not answered"


@pytest.mark.parametrize("messages", [["\x02\n\x02room:lobbyob\x00"], ["{not json"], [None], [{"a": 1}], [""]])
def test_a_message_that_is_none_is_reported_and_the_others_are_delivered(messages: list[Any]) -> None:
    client = Polled(router=_router()).opened()
    channel = client.joined()
    good = json.dumps([channel.join_ref, None, "room:a", "news", {"n": 1}])
    client.answer(client.poll, {"status": 200, "token": TOKEN, "messages": [*messages, good]})
    assert [type(event) for event in client.events if isinstance(event, BadFrame)] == [BadFrame]
    assert client.core.stats.delivered == 1
    assert client.core.state is SocketState.OPEN


def answer_of(size: int, message: str) -> bytes:
    """An answer of some size whose messages are all the same JSON."""
    count = size // (len(message) + 1)
    return b'{"status":200,"token":"t","messages":[' + ",".join([message] * count).encode() + b"]}"


@pytest.mark.parametrize("text", [json.dumps(["1", None, "room:a", "news", {"n": "\\"}]), '"' * 100_000])
def test_a_large_answer_is_read_like_any_other(text: str) -> None:
    message = json.dumps(text)
    client = Polled().opened()
    client.joined()
    client.answer(client.poll, answer_of(1_200_000, message))
    assert client.core.state is SocketState.OPEN
    stats = client.core.stats
    assert stats.received + stats.bad_frames > 1_200_000 // (len(message) + 1)


@pytest.mark.parametrize("message", ['""', '"a"', "[]", "{}", "1", '"a",[]', "null"])
def test_an_answer_of_millions_of_messages_is_none(message: str) -> None:
    """Each takes some sixty bytes of memory, and a few of the wire, or less if they are compressed."""
    client = Polled().opened()
    client.joined()
    client.answer(client.poll, answer_of(10_000_000, message))
    assert "no answer of Phoenix" in client.lost().reason


@pytest.mark.parametrize(("size", "state"), [(2**20 - 1, SocketState.OPEN), (2**20, SocketState.WAITING)])
def test_an_answer_of_a_mebibyte_or_more_has_messages_of_text_alone(size: int, state: SocketState) -> None:
    client = Polled().opened()
    client.answer(client.poll, b'{"status":200,"token":"t","messages":[[]]}'.ljust(size))
    assert client.core.state is state


def test_an_answer_has_262_144_messages_at_most_if_it_is_large() -> None:
    client = Polled().opened()
    client.joined()
    messages = ["x" * 2**18, *[""] * (2**18 - 4)]  # and four more texts: the names of the fields, and the token
    client.answer(client.poll, {"status": 200, "token": "t", "messages": messages})
    assert "no answer of Phoenix" in client.lost().reason


def test_reading_pauses_between_polls() -> None:
    client = Polled(router=_router(), options=ClientOptions(flow=FlowLimits(high=2, low=1))).opened()
    channel = client.joined()
    client.receive(*([channel.join_ref, None, "room:a", "news", {}] for _ in range(3)))
    assert not client.requests
    (queue,) = client.core.runnable()
    deliveries = queue.take()
    client.tell(lambda now: client.core.handled(deliveries, now))
    assert client.poll


def test_a_pause_ends_no_session_which_a_server_keeps_for_15_s_after_the_beginning_of_a_poll() -> None:
    client = Polled(router=_router(), options=ClientOptions(flow=FlowLimits(high=2, low=1))).opened()
    channel = client.joined()
    news: list[Any] = [channel.join_ref, None, "room:a", "news", {}]
    client.wait(9)
    client.receive(*[news] * 3)
    client.wait(2.9)
    assert not client.requests
    client.wait(0.1)
    client.receive(*[news] * 3)  # in the middle of the pause
    assert not client.requests
    client.wait(7)  # the pause is as long as it may be
    assert client.poll
    client.tell(client.core.abort)
    assert client.core.next_timeout() is None


def test_a_pause_that_ends_while_such_a_poll_is_out_is_followed_by_no_other() -> None:
    client = Polled(router=_router(), options=ClientOptions(flow=FlowLimits(high=2, low=1))).opened()
    channel = client.joined()
    client.wait(9)
    client.receive(*([channel.join_ref, None, "room:a", "news", {}] for _ in range(3)))
    client.wait(3)
    poll = client.poll
    client.wait(7)
    assert client.poll is poll


def test_a_pause_that_ends_in_time_is_followed_by_one_poll() -> None:
    client = Polled(router=_router(), options=ClientOptions(flow=FlowLimits(high=2, low=1))).opened()
    channel = client.joined()
    client.receive(*([channel.join_ref, None, "room:a", "news", {}] for _ in range(3)))
    (queue,) = client.core.runnable()
    deliveries = queue.take()
    client.wait(1)
    client.tell(lambda now: client.core.handled(deliveries, now))
    client.wait(15)
    assert client.poll


def test_a_poll_that_keeps_the_session_in_a_pause_is_the_one_that_goes_on_after_it() -> None:
    client = Polled(router=_router(), options=ClientOptions(flow=FlowLimits(high=2, low=1, longest_pause=60))).opened()
    channel = client.joined()
    client.receive(*([channel.join_ref, None, "room:a", "news", {}] for _ in range(3)))
    (queue,) = client.core.runnable()
    deliveries = queue.take()
    client.wait(15)
    poll = client.poll
    client.tell(lambda now: client.core.handled(deliveries, now))
    assert client.poll is poll


def test_what_was_to_be_sent_when_the_connection_was_lost_is_no_command() -> None:
    client = Polled().opened()
    client.wait(14)
    client.tell(client.core.channel("room:a").join)
    client.answer(client.post, POSTED)
    client.wait(9.5)
    client.commands.clear()
    client.now = 25.0  # the timer is late: the join has timed out, which is followed by a leave, and the poll is lost
    client.tell(client.core.handle_timeout)
    assert client.lost()
    assert [type(command) for command in client.commands] == [AbortTransport]


def test_params_of_a_join_that_a_function_gives_are_asked_for_as_by_any_link() -> None:
    client = Polled().opened()
    client.tell(client.core.channel("room:a", lambda: {"a": 1}).join)
    (question,) = [command for command in client.commands if isinstance(command, Resolve)]
    client.tell(lambda now: client.core.resolved(question.request, {"a": 1}, now))
    assert lines(client.post)[0][2:] == ["room:a", "phx_join", {"a": 1}]


def test_params_that_a_function_gives_are_asked_for_as_by_any_link() -> None:
    client = Polled(params=lambda: {"user": 8})
    (question,) = client.commands
    assert isinstance(question, Resolve)
    client.tell(lambda now: client.core.resolved(question.request, question.provider(), now))
    assert "user=8" in client.poll.url


# ---- opening --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        *((200, b'{"status":%d}' % told, told) for told in (400, 401, 403, 599)),
        (404, b"Not Found", 404),
        (500, b"{", 500),
        (502, json.dumps(OPENED).encode(), 502),
    ],
)
def test_a_session_that_is_refused(status: int, body: bytes, told: int) -> None:
    client = Polled()
    client.answer(client.poll, body, status)
    error = next(event.error for event in client.events if isinstance(event, Closed | ConnectFailed))
    assert isinstance(error, HandshakeRefused)
    assert (error.status, error.body, error.url) == (told, body, "http://h/socket/longpoll")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b'{"status":200}',
        b'{"status":399}',
        b'{"status":600}',
        b'{"status":410}',
        b'{"status":410,"token":1}',
    ],
)
def test_an_answer_that_opens_no_session(body: bytes) -> None:
    client = Polled()
    client.answer(client.poll, body)
    (failed,) = [event for event in client.events if isinstance(event, ConnectFailed)]
    assert str(failed.error) == "http://h/socket/longpoll did not answer as long polling of Phoenix does"


def test_a_request_that_fails_before_the_session_is_open() -> None:
    client = Polled()
    client.fail(client.poll, "h:80 refused the connection")
    (failed,) = [event for event in client.events if isinstance(event, ConnectFailed)]
    assert str(failed.error) == "h:80 refused the connection"


def test_a_session_that_is_not_opened_in_time_is_dropped() -> None:
    client = Polled()
    first = client.poll
    client.wait(10)
    assert AbortTransport(first.link) in client.commands
    client.wait(1)
    assert client.poll is not first
    assert [repr(poll.link) for poll in (first, client.poll)] == ["Link(1)", "Link(2)"]


# ---- closing --------------------------------------------------------------------------------------------------------


def test_closing_leaves_and_drops_the_poll() -> None:
    client = Polled().opened()
    client.joined()
    client.tell(client.core.close)
    (leave,) = lines(client.post)
    assert leave[2:4] == ["room:a", "phx_leave"]
    client.answer(client.post, POSTED)
    client.receive([leave[0], leave[1], "room:a", "phx_reply", {"status": "ok", "response": {}}])
    assert client.events[-1] == Closed(None)
    assert not client.requests
    assert client.core.next_timeout() is None


def test_closing_waits_until_what_is_queued_was_taken() -> None:
    client = Polled().opened()
    channel = client.joined()
    client.tell(lambda now: channel.push("one", {}, now))
    client.tell(lambda now: channel.push("two", {}, now))
    client.tell(client.core.disconnect)
    client.answer(client.post, POSTED)
    assert client.core.state is SocketState.CLOSING
    client.receive()
    assert [request.method for request in client.requests] == ["POST"]
    client.answer(client.post, POSTED)
    assert client.events[-1] == Closed(None)


def test_a_reconnect_drops_the_session_before_it_opens_the_next() -> None:
    client = Polled().opened()
    link = client.poll.link
    client.commands.clear()
    client.tell(client.core.reconnect)
    assert client.commands == [AbortTransport(link), client.poll]


def test_a_session_that_has_closed_is_not_dropped_once_more_by_an_abort() -> None:
    client = Polled().opened()
    link = client.poll.link
    client.core.close(client.now)
    assert client.core.commands() == [AbortTransport(link)]
    client.core.abort(client.now)  # before it has the time for the end
    assert client.core.commands() == []
    assert client.core.state is SocketState.CLOSED
    assert client.core.next_timeout() is None


def test_the_wait_for_the_next_poll_ends_with_its_session() -> None:
    client = Polled().opened()
    client.answer(client.poll, {"status": 204})
    assert not client.requests, "the next poll waits, for this one was not held"
    client.tell(client.core.abort)
    assert client.core.next_timeout() is None


def test_an_abort_drops_all() -> None:
    client = Polled().opened()
    client.tell(client.core.channel("room:a").join)
    client.tell(client.core.abort)
    assert not client.requests
    assert client.core.next_timeout() is None


# ---- falling back ---------------------------------------------------------------------------------------------------


class Falling(Polled):
    """A client with a fallback; the WebSocket's links are the test's."""

    def __init__(self, **options: Any) -> None:
        super().__init__(transport="websocket", fallback=2.5, **options)

    @property
    def link(self) -> Any:
        return self.commands[-1].link  # type: ignore[union-attr]

    @property
    def tried(self) -> list[str]:
        kinds = {"OpenTransport": "websocket", "SendRequest": "longpoll"}
        return [kinds[name] for command in self.commands if (name := type(command).__name__) in kinds]


def test_a_websocket_that_fails_is_followed_by_a_poll_at_once() -> None:
    client = Falling()
    client.tell(lambda now: client.link.refused(400, {}, b"", now))
    assert client.tried == ["websocket", "longpoll"]
    client.opened()
    assert client.events[-1] == Connected(None, reconnected=False, transport="longpoll")


def test_so_is_one_that_does_not_open_in_time() -> None:
    client = Falling()
    client.wait(2.5)
    (failed,) = [event for event in client.events if isinstance(event, ConnectFailed)]
    assert str(failed.error) == "the server did not answer the handshake within 2.5 s"
    assert client.poll


def test_so_is_one_through_which_nothing_comes() -> None:
    client = Falling()
    client.tell(lambda now: client.link.opened(None, now))
    client.wait(2.5)
    assert client.lost().reason == "nothing came through the WebSocket"
    assert client.poll


def test_so_is_one_that_ends_before_anything_came() -> None:
    client = Falling()
    link = client.link
    client.tell(lambda now: link.opened(None, now))
    client.tell(lambda now: link.closed(None, "cut", now))
    client.wait(0)
    assert client.poll


def test_what_opened_once_is_kept() -> None:
    client = Falling()
    client.tell(lambda now: client.link.refused(400, {}, b"", now))
    client.opened()
    for _ in range(3):
        client.fail(client.poll)
        client.wait(6)
    assert client.tried.count("websocket") == 1


def test_a_websocket_that_carried_a_message_is_kept() -> None:
    client = Falling()
    link = client.link
    client.tell(lambda now: link.opened(None, now))
    client.tell(lambda now: link.receive('[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]', now))
    client.wait(3)
    assert client.core.state is SocketState.OPEN
    client.tell(lambda now: link.closed(None, "cut", now))
    client.wait(1)
    assert client.tried == ["websocket", "websocket"]


def test_so_is_one_that_was_cut_soon_after_it() -> None:
    client = Falling()
    link = client.link
    client.tell(lambda now: link.opened(None, now))
    client.tell(lambda now: link.receive('[null,"1","phoenix","phx_reply",{"status":"ok","response":{}}]', now))
    client.tell(lambda now: link.closed(None, "cut", now))
    client.wait(1)
    assert client.tried == ["websocket", "websocket"]


def test_while_neither_opens_they_take_turns() -> None:
    client = Falling()
    for _ in range(2):
        client.tell(lambda now: client.link.failed(ConnectError("down"), now))
        client.fail(client.poll, "down")
        client.wait(1)
    assert client.tried == ["websocket", "longpoll", "websocket", "longpoll", "websocket"]


def test_a_poll_that_is_not_mounted_does_not_end_a_client_whose_websocket_may_come_back() -> None:
    client = Falling()
    client.tell(lambda now: client.link.refused(503, {}, b"", now))
    client.answer(client.poll, b"Not Found", 404)
    assert client.core.state is SocketState.WAITING
    client.wait(1)
    client.tell(lambda now: client.link.refused(404, {}, b"", now))
    client.answer(client.poll, b"Not Found", 404)
    assert isinstance(client.events[-1], Closed)


@pytest.mark.parametrize(("transport", "fallback"), [("pigeon", None), ("websocket", 0), ("websocket", float("inf"))])
def test_what_cannot_be_is_refused(transport: str, fallback: float | None) -> None:
    with pytest.raises(ValueError, match=r"transport is|fallback is"):
        ClientProtocol("ws://h/socket", transport=transport, fallback=fallback)  # type: ignore[arg-type]


def test_the_fallback_has_its_usual_path_and_takes_the_params_of_the_other_ones_path() -> None:
    client = Falling(path="/ws/:user", params={"user": 7, "vsn": "9.0.0"})
    client.tell(lambda now: client.link.refused(400, {}, b"", now))
    assert client.poll.url == "http://h/socket/longpoll?user=7&vsn=2.0.0"


# ---- secrets --------------------------------------------------------------------------------------------------------


def test_a_sessions_token_is_shown_nowhere() -> None:
    client = Polled(params={"key": "open sesame"}, auth_token="sekrét token").opened()
    client.answer(client.poll, {"status": 200, "token": TOKEN, "messages": [f"{TOKEN} sekrét token"]})
    client.fail(client.poll, f"cannot GET /longpoll?key=open%20sesame&token={TOKEN}")
    shown = f"{client.events} {client.commands} {client.requests}"
    assert "BadFrame" in shown
    for secret in (TOKEN, "sesame", "sekrét"):
        assert secret not in shown


def test_of_many_tokens_the_latest_are_kept_in_mind() -> None:
    client = Polled(params={"key": "open sesame"}).opened()
    for number in range(1000):
        client.answer(client.poll, {"status": 200, "token": f"{number:04}-of-all-tokens", "messages": ["[]"]})
    kept = client.core.secrets
    assert kept.masked("open sesame, 0998-of-all-tokens, 0999-of-all-tokens") == "[secret], [secret], [secret]"
    assert kept.masked("0001-of-all-tokens") == "0001-of-all-tokens"


# ---- whatever comes -------------------------------------------------------------------------------------------------

ANSWERS = st.tuples(
    st.sampled_from([200, 200, 200, 204, 302, 400, 410, 500]),
    st.one_of(
        st.binary(max_size=40),
        st.fixed_dictionaries(
            {},
            optional={
                "status": st.sampled_from([200, 204, 408, 410, 403, 500, None, "200"]),
                "token": st.one_of(st.none(), st.text(max_size=5), st.just("a\nb"), st.integers()),
                "messages": st.lists(
                    st.one_of(st.text(max_size=10), st.none(), st.integers(), st.just('[null,null,"t","e",{}]')),
                    max_size=4,
                ),
            },
        ).map(lambda body: json.dumps(body).encode()),
        st.just(b"[" * 100_000),
        st.just(json.dumps(OPENED).encode()),
    ),
)


@given(st.lists(st.tuples(st.integers(0, 2), ANSWERS, st.sampled_from([0.0, 1.0, 30.0])), max_size=20))
def test_no_answer_ever_raises_and_there_are_never_more_than_two_requests(
    steps: list[tuple[int, tuple[int, bytes], float]],
) -> None:
    client = Polled()
    client.tell(client.core.channel("room:a").join)
    for which, (status, body), seconds in steps:
        if client.requests and which < 2:
            client.answer(client.requests[min(which, len(client.requests) - 1)], body, status)
        elif client.requests:
            client.fail(client.requests[0])
        client.wait(seconds)
        assert len(client.requests) <= 2
        assert len([request for request in client.requests if request.method == "GET"]) <= 1
    if client.core.state is SocketState.OPEN:
        client.tell(client.core.ping)


def _router() -> Router:
    router = Router()
    router.add(never_called, "*")
    return router


def cookies_of(request: SendRequest) -> list[str]:
    return [value for name, value in request.headers if name.lower() == "cookie"]


def test_cookies_of_a_balancer_are_kept_for_the_session_and_no_longer() -> None:
    client = Polled(headers=[("Cookie", "mine=1")])
    assert cookies_of(client.poll) == ["mine=1"]
    client.answer(client.poll, OPENED, set_cookie="server=a=1==; Path=/; HttpOnly\nseen=yes; Max-Age=60\nodd")
    assert cookies_of(client.poll) == ["mine=1; server=a=1==; seen=yes"]
    client.answer(client.poll, {"status": 200, "token": TOKEN, "messages": ["x"]}, set_cookie="server=b2\nseen=")
    assert cookies_of(client.poll) == ["mine=1; server=b2"]
    assert "b2" not in repr(client.poll)
    client.fail(client.poll)
    client.wait(1.0)
    assert cookies_of(client.poll) == ["mine=1"]


DATE = "Sun, 29 Nov 2026 03:00:00 GMT"


@pytest.mark.parametrize(
    "line",
    [
        "server=",
        "server=gone; Max-Age=0",
        "server=gone; Path=/; max-age = -1 ; Secure",
        "server=gone; Expires=Thu, 01 Jan 1970 00:00:00 GMT",
        "server=gone; expires=Thu, 01-Jan-70 00:00:00 GMT; Path=/",
        "server=gone; Expires=Sun, 29 Nov 2026 02:59:59 GMT; HttpOnly",
        "server=gone; Expires=" + DATE,
        "server=gone; Expires=Thu, 01 Jan 2099 00:00:00 GMT; Max-Age=0",
    ],
)
def test_a_balancer_takes_a_cookie_back(line: str) -> None:
    client = Polled()
    client.answer(client.poll, OPENED, set_cookie="server=a1; Max-Age=60\n=nameless")
    assert cookies_of(client.poll) == ["server=a1"]
    client.answer(client.poll, {"status": 200, "token": TOKEN, "messages": ["x"]}, set_cookie=line, date=DATE)
    assert cookies_of(client.poll) == []


@pytest.mark.parametrize(
    "attributes",
    [
        "Expires=Sun, 29 Nov 2026 03:00:01 GMT",
        "expires=Tue, 01-Dec-26 00:00:00 GMT",
        "Expires=Thu, 01 Jan 1970 00:00:00 GMT; Max-Age=60",
        "Expires=tomorrow",
        "Max-Age=" + "9" * 5000,
        "Expires=01 Foo 2020 00:00:00",
    ],
)
def test_a_cookie_that_is_good_for_a_while_is_kept(attributes: str) -> None:
    client = Polled()
    client.answer(client.poll, OPENED, set_cookie=f"server=a1; {attributes}", date=DATE)
    assert cookies_of(client.poll) == ["server=a1"]


@pytest.mark.parametrize(("year", "whole"), [("70", 1970), ("99", 1999), ("00", 2000), ("26", 2026), ("69", 2069)])
def test_a_year_of_two_digits_is_one_of_1970_to_2069(year: str, whole: int) -> None:
    client = Polled()
    lines = "\n".join(f"at{second}=x; Expires=Sun, 29-Nov-{year} 03:00:0{second} GMT" for second in (1, 3))
    client.answer(client.poll, OPENED, set_cookie=lines, date=f"Sun, 29 Nov {whole} 03:00:02 GMT")
    assert cookies_of(client.poll) == ["at3=x"]


def test_without_a_date_in_the_answer_only_what_was_long_ago_is_past() -> None:
    client = Polled()
    lines = "old=1; Expires=Thu, 01 Jan 1970 00:00:00 GMT\nnew=2; Expires=Thu, 01 Jan 2099 00:00:00 GMT"
    client.answer(client.poll, OPENED, set_cookie=lines)
    assert cookies_of(client.poll) == ["new=2"]


def test_a_cookie_of_more_than_4096_bytes_is_ignored() -> None:
    client = Polled()
    client.answer(client.poll, OPENED, set_cookie=f"big={'x' * 4093}\nfits={'x' * 4091}")
    assert cookies_of(client.poll) == [f"fits={'x' * 4091}"]


def test_cookies_and_tokens_are_masked_in_what_the_server_says() -> None:
    client = Polled()
    client.answer(client.poll, OPENED, set_cookie="server=first-cookie-value; Path=/")
    for number in range(100):  # as balancers do that renew theirs with each answer
        cookie = f"renewed=renewed-cookie-{number}"
        client.answer(client.poll, {"status": 200, "token": TOKEN, "messages": ["x"]}, set_cookie=cookie)
    told = client.core.secrets.masked(f"first-cookie-value renewed-cookie-98 renewed-cookie-99 {TOKEN}")
    assert told == "[secret] [secret] [secret] [secret]"


def test_a_cookie_is_masked_in_the_refusal_that_sets_it() -> None:
    client = Polled()
    client.answer(client.poll, {"oops": "first-cookie-value"}, status=503, set_cookie="server=first-cookie-value")
    (error,) = [event.error for event in client.events if isinstance(event, ConnectFailed)]
    assert "oops" in str(error)
    assert "first-cookie-value" not in str(error)


def test_a_server_cannot_set_cookies_without_bound() -> None:
    client = Polled()
    client.answer(client.poll, OPENED, set_cookie="\n".join(f"c{number}={number}" for number in range(1000)))
    assert cookies_of(client.poll) == ["; ".join(f"c{number}={number}" for number in range(50))]
