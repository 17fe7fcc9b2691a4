"""A peer's text in events and errors is bounded, escaped, and without the secrets that were sent to the peer."""

import gc
import pickle
from base64 import b64encode
from functools import partial
from types import MethodType
from typing import Any
from urllib.parse import quote

import pytest
from conversation import Conversation

from phx_proto.client import ClientProtocol
from phx_proto.errors import (
    ChannelCrashed,
    ConnectError,
    HandshakeRefused,
    JoinRefused,
    PushRejected,
)
from phx_proto.events import (
    BadFrame,
    ChannelErrored,
    ChannelJoined,
    Closed,
    ConnectFailed,
    Disconnected,
    JoinFailed,
    PresenceChanged,
    ReplyReceived,
)
from phx_proto.message import Message, Reply
from phx_proto.presence import PresenceChange

TOKEN = "t0p+s3cr3t/value=="


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


HOSTILE = "\x1b[2J\r\n\x9b\u202e" + "x" * 100_000


@pytest.mark.parametrize("data", [nested(100_000), HOSTILE, {HOSTILE: HOSTILE}, ["x"] * 100_000, HOSTILE.encode()])
def test_no_text_is_long_or_raises_or_holds_a_control_character(data: Any) -> None:
    reply = Reply("error", data)
    errors = [
        JoinRefused("t", data),
        ChannelCrashed("t", data),
        PushRejected("t", "e", reply),
        HandshakeRefused(status=500, body=repr(HOSTILE).encode() + HOSTILE.encode()),
        ConnectError(HOSTILE),
    ]
    told = [
        *errors,
        reply,
        Message(topic=HOSTILE, event=HOSTILE, payload=data),
        ReplyReceived("t", "e", "1", reply),
        ChannelJoined("t", "1", "1", data),
        *(ChannelErrored("t", error, None) for error in errors),
        Disconnected(1000, HOSTILE, None),
        PresenceChanged("t", PresenceChange({HOSTILE: {"metas": data}}, {})),
    ]
    for one in told:
        for text in (str(one), repr(one)):
            assert text.isprintable()
            assert len(text) < 2000


ECHOES = {
    "as it is": TOKEN,
    "percent-encoded": quote(TOKEN, safe=""),
    "in base64": b64encode(TOKEN.encode()).decode(),
    "cut short": f"{TOKEN[:14]}",
}
SENT: dict[str, dict[str, Any]] = {
    "a param": {"params": {"user": 7, "nested": {"token": TOKEN}}},
    "a param of a callable": {"params": lambda: {"token": TOKEN}},
    "the token": {"auth_token": TOKEN},
    "a header": {"headers": {"authorization": f"Bearer {TOKEN}"}},
    "a cookie": {"headers": [("Cookie", f"a=b; session={TOKEN}")]},
    "basic credentials": {"headers": {"Authorization": f"Basic {b64encode(f'me:{TOKEN}'.encode()).decode()}"}},
    "a param in the path": {"path": "/:key", "params": {"key": TOKEN}},
    "the URL's query": {"url": f"ws://localhost/socket?token={quote(TOKEN)}"},
}


def opening(sent: str) -> Conversation:
    """A client that has begun to connect, with the token somewhere in what it sends."""
    talk = Conversation(**SENT[sent])
    talk.proto.connect(talk.now)
    answer(talk)
    return talk


def answer(talk: Conversation) -> None:
    """Answer what the core asks callables."""
    talk.commands()
    while talk.questions:
        talk.resolve(talk.questions[0].provider())
        talk.commands()


def assert_hidden(*told: object) -> None:
    for text in (*map(str, told), *map(repr, told)):
        for piece in ("t0p", quote(TOKEN)[:12], b64encode(TOKEN.encode()).decode()[:12]):
            assert piece not in text


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("sent", SENT)
def test_a_refusal_does_not_show_what_was_sent(sent: str, echo: str) -> None:
    talk = opening(sent)
    body = f"bad token: {ECHOES[echo]}".encode()
    talk.links[-1].refused(503, {}, body, talk.now)
    error = talk.event(ConnectFailed).error
    assert isinstance(error, HandshakeRefused)
    assert "bad token: [secret]" in str(error)
    assert error.body == body
    assert_hidden(error, pickle.loads(pickle.dumps(error)))


@pytest.mark.parametrize("sent", SENT)
def test_a_final_refusal_does_not_show_it_either(sent: str) -> None:
    talk = opening(sent)
    talk.links[-1].refused(410, {}, TOKEN.encode(), talk.now)
    assert_hidden(talk.event(Closed).error)


def test_a_failed_attempt_does_not_show_what_a_library_says() -> None:
    talk = opening("the token")
    talk.links[-1].failed(ConnectError(f"unexpected {TOKEN}"), talk.now)
    assert str(talk.event(ConnectFailed).error) == "unexpected [secret]"


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("sent", SENT)
def test_the_reason_of_a_close_does_not_show_what_was_sent(sent: str, echo: str) -> None:
    talk = opening(sent)
    talk.links[-1].opened(None, talk.now)
    talk.links[-1].closed(1008, f"{ECHOES[echo]} is no good\n", talk.now)
    lost = talk.event(Disconnected)
    assert lost.reason == "[secret] is no good\n"
    assert_hidden(lost)


def test_a_frame_that_is_none_does_not_show_what_was_sent() -> None:
    talk = opening("the token")
    talk.links[-1].opened(None, talk.now)
    talk.links[-1].receive(f"\x1b{TOKEN}: bad", talk.now)
    assert talk.event(BadFrame).excerpt == "\\x1b[secret]: bad"


@pytest.mark.parametrize("params", [{"key": TOKEN}, lambda: {"key": TOKEN}])
def test_the_answer_to_a_join_does_not_show_its_params(params: Any) -> None:
    talk = Conversation().connect()
    room = talk.proto.channel("room:1", params)
    ref = talk.join(room)
    answer(talk)
    talk.reply(talk.sent()[-1].ref, "error", {"reason": f"{TOKEN} is unknown"})
    failed = talk.event(JoinFailed)
    assert failed.ref == ref
    assert str(failed.error).startswith(
        "the server refused the join of topic 'room:1': {'reason': '[secret] is unknown'} (check"
    )
    assert_hidden(failed, failed.error, pickle.loads(pickle.dumps(failed.error)))


def test_the_answers_of_a_channel_do_not_show_what_was_sent() -> None:
    talk = Conversation(params={"token": TOKEN}).connect()
    room = talk.joined("room:1")
    assert room.shown({"got": [TOKEN]}) == "{'got': ['[secret]']}"
    talk.crash_channel("room:1", room.join_ref, {"why": TOKEN})
    error = talk.event(ChannelErrored).error
    assert isinstance(error, ChannelCrashed)
    assert error.payload == {"why": TOKEN}
    assert_hidden(error)


def parts(whole: object) -> list[object]:
    """The objects of the library that this one is made of, itself included."""
    found: dict[int, object] = {}
    waiting = [whole]
    while waiting:
        each = waiting.pop()
        ours = type(each).__module__.startswith("phx_proto")
        if id(each) not in found and (ours or isinstance(each, dict | list | tuple | set | MethodType | partial)):
            found[id(each)] = each
            waiting += gc.get_referents(each)
    return [each for each in found.values() if type(each).__module__.startswith("phx_proto")]


def test_no_part_of_a_client_shows_a_secret() -> None:
    client = ClientProtocol("ws://host/socket", params={"key": TOKEN}, auth_token=TOKEN)
    client.connect(0.0)
    joined, waiting = (client.channel(topic, params={"key": TOKEN}) for topic in ("room:1", "room:2"))
    ref = joined.join(0.0)
    (opening,) = client.commands()
    opening.link.opened(None, 0.0)  # type: ignore[union-attr]
    opening.link.receive_all([f'["{ref}","{ref}","room:1","phx_reply",{{"status":"ok","response":{{}}}}]'], 0.0)  # type: ignore[union-attr]
    waiting.join(0.0)
    client.commands()
    everything = [*parts(client), opening]
    assert {type(each).__name__ for each in everything} >= {
        "Channel",
        "ClientState",
        "Connection",
        "Endpoint",
        "Attempts",
    }
    assert not [type(each).__name__ for each in everything if TOKEN in repr(each)]
