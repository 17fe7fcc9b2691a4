"""The engine with no runtime: calls, handlers, deadlines and ends, on a clock that only the tests move."""

import ssl
from collections.abc import Callable
from math import inf
from typing import Any

import pytest
from frames import CLOSE, LIMIT
from rig import Rig, push, reply

from phx_proto.backoff import Backoff, ReconnectPolicy
from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.errors import CertificateError, HandshakeRefused, JoinRefused, JoinTimeout, NotJoined, PushRejected
from phx_proto.events import ConnectFailed, Disconnected
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.states import ChannelState
from phx_transports.client import calls
from phx_transports.client.calls import Call
from phx_transports.client.reports import HandlerError
from phx_transports.wsproto import Answer, Engine, StreamState
from phx_transports.wsproto.handlers import SPELL

URL = "ws://example.com:4000/socket"


class Embedding(Rig):
    """A runtime whose streams are in the test's hands."""

    def __init__(self, *, router: Router | None = None, **options: Any) -> None:
        self.now = 0.0
        self.turns = 0
        self.failures: list[HandlerError] = []
        self.events: list[Any] = []
        options.setdefault("options", ClientOptions(reconnect=ReconnectPolicy(schedule=Backoff((1.0,)))))
        self.proto = ClientProtocol(URL, router=router, **options)
        self.engine = Engine(
            self.proto,
            now=lambda: self.now,
            max_size=LIMIT,
            on_handler_error=self.failures.append,
            turned=self.count,
        )
        self.engine.session.listeners.append(self.events.append)
        self.machine = self.engine.machine
        self.engine.connect()

    def count(self) -> None:
        self.turns += 1

    def receive(self, data: bytes) -> None:
        self.engine.received(self.stream, data)

    def accept(self) -> None:
        self.receive(reply(self.sent()[-1]))

    def refuse(self) -> None:
        self.receive(reply(self.sent()[-1], status="error"))

    def wait_for(self, call: Call[Any], answer: Callable[[], None]) -> Answer[Any]:
        """Ask, and let the answer come meanwhile."""
        with self.engine.ask(call) as waiting:
            assert not waiting.done()
            answer()
        return waiting

    def joined(self, topic: str = "room:a") -> Channel:
        channel = self.proto.channel(topic)
        self.wait_for(calls.join(channel), self.accept)
        return channel

    def told(self, *kinds: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]


def opened(router: Router | None = None, **options: Any) -> Embedding:
    embedding = Embedding(router=router, **options)
    embedding.open()
    embedding.engine.turn()
    return embedding


def listening(handle: Callable[[Message[Any]], Any], **options: Any) -> Embedding:
    """With a handler, and a channel that has joined."""
    router = Router()
    router.add(handle, "shout")
    embedding = opened(router, **options)
    embedding.joined()
    return embedding


# ---- calls ----------------------------------------------------------------------------------------------------------


def test_a_call_ends_with_its_answer_in_the_turn_that_brings_it() -> None:
    embedding = opened()
    channel = embedding.joined()
    told: list[str] = []
    with embedding.engine.ask(calls.push(channel, "sum", [1, 2]), done=lambda: told.append("done")) as answer:
        (frame,) = embedding.sent()
        assert (frame[3:], told, answer.done()) == (["sum", [1, 2]], [], False)
        embedding.receive(reply(frame))
        assert told == ["done"]
    assert answer.result().ok


def test_a_call_that_fails_raises_its_error() -> None:
    embedding = opened()
    channel = embedding.proto.channel("room:a")
    answer = embedding.wait_for(calls.join(channel), embedding.refuse)
    with pytest.raises(JoinRefused, match="room:a"):
        answer.result()


def test_a_call_whose_wait_is_interrupted_is_given_up() -> None:
    embedding = opened()
    channel = embedding.proto.channel("room:a")
    channel.join(embedding.now)
    (join,) = embedding.sent()
    with pytest.raises(KeyboardInterrupt), embedding.engine.ask(calls.push(channel, "sum")):
        raise KeyboardInterrupt
    embedding.receive(reply(join))
    assert channel.state is ChannelState.JOINED
    assert embedding.sent() == []


def test_a_push_that_is_answered_with_an_error_raises_it() -> None:
    embedding = opened()
    answer = embedding.wait_for(calls.push(embedding.joined(), "sum"), embedding.refuse)
    with pytest.raises(PushRejected, match="sum"):
        answer.result()


def test_a_call_that_gets_no_answer_ends_in_the_turn_at_its_deadline() -> None:
    embedding = opened()
    channel = embedding.proto.channel("room:a")
    with embedding.engine.ask(calls.join(channel, timeout=2.0)) as answer:
        assert embedding.engine.deadline == 2.0
        embedding.now = 2.0
        embedding.engine.turn()
    with pytest.raises(JoinTimeout):
        answer.result()


def test_a_call_that_cannot_be_made_raises_at_once() -> None:
    embedding = opened()
    channel = embedding.proto.channel("room:a")
    with pytest.raises(NotJoined), embedding.engine.ask(calls.push(channel, "sum")):
        pytest.fail("there is nothing to wait for")


# ---- turns ----------------------------------------------------------------------------------------------------------


def test_whatever_is_told_ends_with_a_turn() -> None:
    embedding = opened()
    engine, stream = embedding.engine, embedding.stream
    tellings: list[Callable[[], None]] = [
        lambda: engine.connected(stream),
        lambda: engine.received(stream, CLOSE),
        lambda: engine.received(stream, b""),
        lambda: engine.failed(stream, OSError("late")),
        engine.close,
        engine.turn,
    ]
    for tell in tellings:
        before = embedding.turns
        tell()
        assert embedding.turns == before + 1


def test_nothing_is_due_before_something_happens() -> None:
    embedding = Embedding(params=dict)
    assert embedding.engine.deadline == 10.0  # to connect
    embedding.engine.close()
    assert embedding.engine.closed
    assert embedding.engine.deadline == inf


# ---- handlers -------------------------------------------------------------------------------------------------------


def test_handlers_have_their_messages_in_the_turn_that_brings_them() -> None:
    seen: list[Any] = []
    embedding = listening(lambda message: seen.append(message.payload))
    embedding.receive(push("shout", 1) + push("shout", 2))
    assert seen == [1, 2]
    assert embedding.proto.stats.handled == 2


def test_a_handler_that_raises_is_reported_and_the_next_message_handled() -> None:
    seen: list[Any] = []

    def handle(message: Message[Any]) -> None:
        seen.append(1 / message.payload)

    embedding = listening(handle)
    embedding.receive(push("shout", 0) + push("shout", 2))
    assert seen == [0.5]
    assert [type(report.error) for report in embedding.failures] == [ZeroDivisionError]


def test_a_turn_ends_when_handlers_have_taken_a_spell_and_the_next_is_due_at_once() -> None:
    seen: list[Any] = []

    def handle(message: Message[Any]) -> None:
        seen.append(message.payload)
        embedding.now += SPELL

    embedding = listening(handle)
    embedding.receive(push("shout", 1) + push("shout", 2) + push("shout", 3))
    assert seen == [1]
    assert embedding.engine.deadline == embedding.now
    for _ in range(3):  # the third finds nothing more
        embedding.engine.turn()
    assert seen == [1, 2, 3]
    assert embedding.engine.deadline > embedding.now


def test_a_stream_is_not_read_while_handlers_are_behind() -> None:
    def handle(message: Message[Any]) -> None:
        embedding.now += SPELL

    embedding = listening(handle, options=ClientOptions(flow=FlowLimits(high=2, low=1)))
    embedding.receive(push("shout", 1) + push("shout", 2) + push("shout", 3))
    assert not embedding.stream.reading
    embedding.engine.turn()
    assert embedding.stream.reading


def test_a_handler_may_make_calls() -> None:
    def handle(message: Message[Any]) -> None:
        channel.push("heard", message.payload, embedding.now)
        embedding.engine.turn()  # does not call this handler again

    embedding = listening(handle)
    channel = embedding.joined("room:b")
    embedding.receive(push("shout", 1) + push("shout", 2))
    assert [frame[3:] for frame in embedding.sent()] == [["heard", 1], ["heard", 2]]


# ---- connecting -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ConnectionRefusedError(), "example.com:4000 refused the connection (is the server up?)"),
        (OSError("no route"), "no connection to example.com:4000: no route"),
        (ValueError("odd"), "no connection to example.com:4000: ValueError('odd')"),
    ],
)
def test_a_stream_that_could_not_be_opened_tells_why_and_is_followed_by_another(error: Exception, words: str) -> None:
    embedding = Embedding()
    (stream,) = embedding.engine.streams()
    embedding.engine.failed(stream, error)
    (failed,) = embedding.told(ConnectFailed)
    assert str(failed.error) == words
    assert embedding.engine.streams() == []
    embedding.now = embedding.engine.deadline
    embedding.engine.turn()
    (again,) = embedding.engine.streams()
    assert again is not stream


def test_a_stream_that_broke_is_a_lost_connection() -> None:
    embedding = opened()
    embedding.engine.failed(embedding.stream, ConnectionResetError("reset by peer"))
    (lost,) = embedding.told(Disconnected)
    assert lost.reason == "the connection broke: reset by peer"


def test_a_read_of_nothing_is_the_streams_end() -> None:
    embedding = opened()
    embedding.receive(b"")
    (lost,) = embedding.told(Disconnected)
    assert lost.reason == "the server ended the connection without a close frame"


def test_a_certificate_that_is_not_accepted_is_final_also_within_an_error_of_the_runtimes() -> None:
    embedding = Embedding()
    (stream,) = embedding.engine.streams()
    broken = RuntimeError("stream broken")
    broken.__cause__ = cause = ssl.SSLCertVerificationError()
    cause.verify_message = "self-signed"
    embedding.engine.failed(stream, broken)
    assert isinstance(embedding.engine.error, CertificateError)
    assert embedding.engine.closed


def test_callables_for_params_are_called() -> None:
    embedding = Embedding(params=lambda: {"token": "seven"})
    embedding.dial()
    assert "token=seven" in embedding.lines()[0]


async def _token() -> dict[str, str]:
    return {}


@pytest.mark.parametrize(("params", "error"), [(_token, "TypeError"), ({}.popitem, "KeyError")])
def test_a_callable_that_fails_or_would_have_to_be_awaited_fails_the_attempt(
    params: Callable[[], Any], error: str
) -> None:
    embedding = Embedding(params=params)
    (failed,) = embedding.told(ConnectFailed)
    assert error in str(failed.error)


# ---- the end --------------------------------------------------------------------------------------------------------


def test_it_is_closed_when_it_has_left_and_shaken_hands() -> None:
    embedding = opened()
    embedding.joined()
    embedding.engine.close()
    (leave,) = embedding.sent()
    embedding.receive(reply(leave))
    assert not embedding.engine.closed
    embedding.receive(CLOSE)
    assert embedding.engine.closed
    assert embedding.engine.error is None
    assert embedding.stream.state is StreamState.FINISHED


def test_an_error_ends_it_and_is_there_to_be_raised() -> None:
    embedding = Embedding()
    embedding.dial()
    embedding.receive(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
    assert embedding.engine.closed
    assert isinstance(embedding.engine.error, HandshakeRefused)


def test_what_had_come_before_an_error_is_handled_before_it_is_closed() -> None:
    seen: list[Any] = []

    def handle(message: Message[Any]) -> None:
        seen.append(message.payload)
        embedding.now += SPELL

    embedding = listening(handle, options=ClientOptions(reconnect=ReconnectPolicy(final_codes=frozenset({1001}))))
    embedding.receive(push("shout", 1) + push("shout", 2) + push("shout", 3) + CLOSE)
    embedding.engine.turn()
    assert (seen, embedding.engine.closed) == ([1, 2], False)
    embedding.engine.turn()
    embedding.engine.turn()
    assert (seen, embedding.engine.closed) == ([1, 2, 3], True)


def test_what_waits_for_its_handlers_when_the_application_aborts_is_given_up() -> None:
    seen: list[Any] = []

    def handle(message: Message[Any]) -> None:
        seen.append(message.payload)
        embedding.now += SPELL

    embedding = listening(handle)
    embedding.receive(push("shout", 1) + push("shout", 2))
    embedding.proto.abort(embedding.now)
    embedding.engine.turn()
    assert seen == [1]
    assert embedding.engine.closed
    assert embedding.stream.state is StreamState.DROPPED
