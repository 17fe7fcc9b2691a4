"""Invariants of a client: it shows no secrets, it never breaks, and it leaves nothing behind."""

import contextlib
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from conversation import EMPTY, Conversation
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto.commands import CloseTransport, OpenTransport, Resolve, SendBinary, SendText
from phx_proto.errors import (
    CertificateError,
    ChannelClosed,
    ConnectError,
    ConnectionClosed,
    LocalError,
    PhxError,
)
from phx_proto.events import Closed, ConnectFailed
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.inbox import Tap
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.states import SocketState

# ---- secrets --------------------------------------------------------------------------------------------------------

SECRET = "s3cret"
HIDDEN = (SECRET, b64encode(SECRET.encode()).decode().rstrip("="), SECRET.encode().hex(" ")[:8])


def shown(value: Any) -> Iterator[str]:
    """All the texts in which a value may end up in a log."""
    yield repr(value)
    yield str(value)
    yield f"{value}"
    for error in (value, getattr(value, "error", None)):
        if isinstance(error, BaseException):
            yield from (repr(error), str(error), repr(error.args), repr(error.__cause__))


def everything(talk: Conversation) -> list[Any]:
    """What a client gives away, and what can be asked of it."""
    proto = talk.proto
    objects: list[Any] = [*talk.commands(), *talk.events(), proto, proto.endpoint, proto.options, proto.stats]
    objects += [*talk.links, *proto._client.channels.values(), proto._client, *proto._sockets.all]
    return objects


def assert_no_secret(objects: list[Any]) -> None:
    for text in (text for value in objects for text in shown(value)):
        assert not any(hidden in text for hidden in HIDDEN), text


@pytest.mark.parametrize("renewable", [False, True])
def test_no_secret_is_shown_whatever_happens(renewable: bool) -> None:
    params, token = {"user": SECRET, "nested": {"key": [SECRET]}}, SECRET
    talk = Conversation(
        url=f"ws://localhost/socket?api_key={SECRET}",
        params=(lambda: params) if renewable else params,
        auth_token=(lambda: token) if renewable else token,
        headers={"authorization": f"Bearer {SECRET}"},
    )
    proto = talk.proto
    seen = everything(talk)

    def answer_questions() -> None:
        talk.events()
        while talk.questions:
            talk.resolve(params if len(talk.questions) > 1 else token)

    proto.connect(talk.now)
    answer_questions()
    talk.link.failed(ConnectError("no route to host"), talk.now)
    seen += everything(talk)
    talk.advance(0.01)
    answer_questions()
    talk.link.refused(503, {"set-cookie": SECRET}, b"", talk.now)
    seen += everything(talk)
    talk.advance(0.05)
    if renewable:
        talk.resolve_failed(KeyError(SECRET))
        talk.advance(0.1)
    answer_questions()
    talk.link.opened("phoenix", talk.now)
    room = talk.joining("room:1", {"token": SECRET})
    callable_room = talk.joining("room:2", lambda: {"token": SECRET})
    seen += everything(talk)
    talk.resolve({"token": SECRET})
    talk.reply(room.join_ref)
    talk.reply(callable_room.join_ref, "error", {})
    talk.push(room, "save", {"password": SECRET})
    talk.push(room, "save", SECRET.encode(), timeout=1.0)
    talk.receive(f'{{"token":"{SECRET}"', f'["{SECRET}', f'[null,"1","room:1","phx_reply","{SECRET}"]')
    talk.advance(2.0)
    talk.drop(1001, "")
    seen += everything(talk)
    proto.disconnect(talk.now)
    seen += everything(talk)
    assert_no_secret(seen)


def test_no_command_shows_what_it_carries() -> None:
    talk = Conversation().connect()
    commands = [
        OpenTransport(talk.link, f"ws://localhost/socket?token={SECRET}?x", (SECRET,), (("x", SECRET),)),
        SendText(talk.link, SECRET),
        SendBinary(talk.link, SECRET.encode()),
        CloseTransport(talk.link, 1000, ""),
        Resolve(7, lambda: SECRET),
    ]
    assert_no_secret(commands)
    assert repr(commands[0]) == "OpenTransport(link=Link(1), url='ws://localhost/socket', …)"
    assert [repr(command) for command in commands[1:3]] == [
        "SendText(link=Link(1), 6 characters)",
        "SendBinary(link=Link(1), 6 bytes)",
    ]
    assert repr(commands[4]) == "Resolve(request=7)"


@pytest.mark.parametrize("params", [{"token": SECRET, "at": float("nan")}, {"token": SECRET, "x": object()}])
def test_params_of_a_join_that_cannot_be_sent_are_not_shown(params: Any) -> None:
    talk = Conversation().connect()
    with pytest.raises(PhxError) as caught:
        talk.joining("room:1", params)
    assert_no_secret([caught.value])


def test_params_that_a_callable_gave_and_that_cannot_be_sent_are_not_shown() -> None:
    talk = Conversation(params=lambda: EMPTY)
    talk.proto.connect(talk.now)
    talk.resolve({"token": SECRET, "x": object()})
    failed = talk.event(ConnectFailed)
    assert_no_secret([failed, failed.error])


# ---- whatever happens -----------------------------------------------------------------------------------------------

TOPICS = ("room:1", "room:2")


class Anything:
    """A client to which anything may happen, in any order. What it is asked for in vain, it refuses properly."""

    def __init__(self, renewable: bool) -> None:
        router = Router()
        router.add(lambda message: None, "tick")
        options = ClientOptions(flow=FlowLimits(high=3, low=1, hard=6), joins_in_flight=1, push_buffer=2)
        self.talk = Conversation(options, router=router, params=(lambda: EMPTY) if renewable else None)
        self.talk.answers_heartbeats = False
        self.proto = self.talk.proto

    def step(self, name: str, number: int) -> None:
        with contextlib.suppress(LocalError, ChannelClosed, ConnectionClosed):
            getattr(self, name)(number)
        self.talk._pump()
        stats = self.proto.stats
        assert stats.backlog >= 0
        assert (self.proto.next_timeout() is None) or self.proto.state is not SocketState.CLOSED

    def room(self, number: int) -> Any:
        topic = TOPICS[number % 2]
        return self.proto._client.channels.get(topic) or self.proto.channel(topic)

    def connect(self, number: int) -> None:
        self.proto.connect(self.talk.now, timeout=float(1 + number))

    def reconnect(self, number: int) -> None:
        self.proto.reconnect(self.talk.now)

    def disconnect(self, number: int) -> None:
        self.proto.disconnect(self.talk.now)

    def close(self, number: int) -> None:
        self.proto.close(self.talk.now)

    def abort(self, number: int) -> None:
        self.proto.abort(self.talk.now)

    def ping(self, number: int) -> None:
        self.talk.ping()

    def join(self, number: int) -> None:
        self.talk.join(self.room(number))

    def leave(self, number: int) -> None:
        self.talk.leave(self.room(number))

    def push(self, number: int) -> None:
        self.talk.push(self.room(number))

    def cast(self, number: int) -> None:
        self.talk.cast(self.room(number))

    def cancel(self, number: int) -> None:
        for ref in list(self.talk._calls)[: number + 1]:
            self.room(number).cancel(ref, self.talk.now)
            self.proto.cancel_ping(ref)

    def tap(self, number: int) -> None:
        self.room(number).attach(Tap(lambda item: None))

    def opened(self, number: int) -> None:
        if self.talk.links:
            self.talk.links[-1].opened(None, self.talk.now)

    def failed(self, number: int) -> None:
        if self.talk.links:
            error = CertificateError("expired") if number == 7 else ConnectError("refused")
            self.talk.links[-1].failed(error, self.talk.now)

    def refused(self, number: int) -> None:
        if self.talk.links:
            self.talk.links[-1].refused((403, 503, 404, 429)[number % 4], {}, b"", self.talk.now)

    def closed(self, number: int) -> None:
        if self.talk.links:
            self.talk.links[-1].closed((None, 1000, 1001, 1012)[number % 4], "", self.talk.now)

    def answered(self, number: int) -> None:
        """The server answers, perhaps what it has answered before, or on a link that is over."""
        refs = list(self.talk._by_ref)
        if refs:
            self.talk.reply(refs[-1 - number % len(refs)], "ok" if number % 3 else "error")

    def served(self, number: int) -> None:
        if self.talk.links:
            room = self.proto._client.channels.get(TOPICS[number % 2])
            event = ("tick", "tick", "phx_close", "phx_error")[number % 4]
            self.talk.serve(TOPICS[number % 2], event, join_ref=room.join_ref if room else None)

    def handled(self, number: int) -> None:
        self.talk.deliveries()

    def resolved(self, number: int) -> None:
        if self.talk.questions:
            self.talk.resolve({} if number else ["no mapping"])

    def resolve_failed(self, number: int) -> None:
        if self.talk.questions:
            self.talk.resolve_failed(OSError())

    def time(self, number: int) -> None:
        self.talk.advance((0.01, 0.1, 1.0, 5.0, 10.0, 30.0)[number % 6])


STEPS = [
    *("connect", "reconnect", "ping", "join", "leave", "push", "cast", "cancel", "tap", "opened", "failed", "refused"),
    *("closed", "answered", "served", "handled", "resolved", "resolve_failed", "time"),
]
ENDINGS = ["disconnect", "abort", "close"]
#: An ending now and then, for not much happens after it.
names = st.one_of(*[st.sampled_from(STEPS)] * 9, st.sampled_from(ENDINGS))
steps = st.lists(st.tuples(names, st.integers(0, 7)), min_size=5, max_size=60)


@given(steps, st.booleans())
@settings(max_examples=2 * settings().max_examples)
def test_nothing_that_happens_breaks_a_client(happenings: list[tuple[str, int]], renewable: bool) -> None:
    anything = Anything(renewable)
    anything.step("connect", 7)
    if not renewable:
        anything.step("opened", 0)
    for name, number in happenings:
        anything.step(name, number)
    talk = anything.talk
    talk.proto.abort(talk.now)
    talk.deliveries()
    assert talk.proto.stats.backlog == 0
    events = talk.events()
    assert sum(isinstance(event, Closed) for event in events) == 1
    Conversation.check_all()


@given(steps)
@settings(max_examples=settings().max_examples // 2)
def test_the_same_happenings_give_the_same_outputs(happenings: list[tuple[str, int]]) -> None:
    def outputs() -> str:
        anything = Anything(renewable=False)
        for name, number in happenings:
            if name != "cancel":  # which refs are cancelled is the test's own choice, from a set
                anything.step(name, number)
        talk = anything.talk
        outputs = repr((talk.commands(), talk.events(), talk.sent(), talk.deliveries(), talk.proto.stats))
        Conversation.check_all()
        return outputs

    assert outputs() == outputs()


def test_a_messages_payload_is_not_shown_whole() -> None:
    assert len(repr(Message(topic="room:1", event="shout", payload="x" * 1000))) < 200
