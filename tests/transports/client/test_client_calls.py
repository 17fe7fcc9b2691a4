"""The calls that an application waits for: how they begin, how they are given up, and their results."""

from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from phx_proto.channel import Channel
from phx_proto.client import ClientProtocol
from phx_proto.commands import OpenTransport, SendText
from phx_proto.errors import InvalidReply, InvalidState, JoinCancelled, PushCancelled, PushRejected
from phx_proto.events import JoinFailed, LeaveEnd, LeaveEnded, PushFailed, ReplyReceived
from phx_proto.message import Reply
from phx_transports.client import calls

TOPIC = "room:1"
OK = '{"status":"ok","response":{}}'
REFUSED = Reply("error", {"reason": "no"})


def connected() -> ClientProtocol:
    proto = ClientProtocol("ws://127.0.0.1/socket")
    proto.connect(0.0)
    (command,) = proto.commands()
    assert isinstance(command, OpenTransport)
    command.link.opened(None, 0.0)
    proto.events()
    return proto


def joined(params: Any = None) -> tuple[ClientProtocol, Channel]:
    proto = connected()
    channel = proto.channel(TOPIC, params)
    channel.join(0.0)
    (joining,) = proto.commands()
    assert isinstance(joining, SendText)
    joining.link.receive_all([f'["{channel.join_ref}","{channel.join_ref}","{TOPIC}","phx_reply",{OK}]'], 0.0)
    return proto, channel


def events(proto: ClientProtocol, kind: type[Any]) -> list[Any]:
    return [event for event in proto.events() if isinstance(event, kind)]


def test_a_join_that_is_given_up_is_cancelled() -> None:
    proto = connected()
    call = calls.join(proto.channel(TOPIC), timeout=None)
    call.give_up(call.begin(0.0), 1.0)
    (failed,) = events(proto, JoinFailed)
    assert isinstance(failed.error, JoinCancelled)


def test_a_leave_that_is_given_up_is_a_leave_all_the_same() -> None:
    proto = connected()
    channel = proto.channel(TOPIC)
    channel.join(0.0)
    call = calls.leave(channel, timeout=10.0)
    call.give_up(call.begin(0.0), 1.0)
    (ended,) = events(proto, LeaveEnded)
    assert ended.end is LeaveEnd.CANCELLED
    assert "phx_leave" in [command.data for command in proto.commands() if isinstance(command, SendText)][-1]


def test_a_push_that_is_given_up_is_cancelled() -> None:
    proto = connected()
    channel = proto.channel(TOPIC)
    channel.join(0.0)
    call = calls.push(channel, "shout", None, timeout=10.0, check=True)
    call.give_up(call.begin(0.0), 1.0)
    (failed,) = events(proto, PushFailed)
    assert isinstance(failed.error, PushCancelled)


@pytest.mark.parametrize(("payload", "sent"), [(UNSET, "{}"), (None, "null"), ([], "[]"), (0, "0")])
def test_no_payload_is_an_empty_object_and_none_is_null(payload: Any, sent: str) -> None:
    proto, channel = joined()
    calls.cast(channel, "shout", payload)(0.0)
    calls.push(channel, "shout", payload, timeout=10.0, check=True).begin(0.0)
    frames = [command.data for command in proto.commands() if isinstance(command, SendText)]
    assert [frame.endswith(f'"shout",{sent}]') for frame in frames] == [True, True]


@pytest.mark.parametrize(
    ("begin", "failed"),
    [
        (lambda proto, channel: calls.join(channel, timeout=2.0), JoinFailed),
        (lambda proto, channel: calls.push(channel, "shout", timeout=2.0), PushFailed),
        (lambda proto, channel: calls.ping(proto, timeout=2.0), PushFailed),
    ],
)
def test_a_call_fails_when_its_time_is_over(begin: Any, failed: type[Any]) -> None:
    proto, channel = joined() if failed is PushFailed else (client := connected(), client.channel(TOPIC))
    begin(proto, channel).begin(0.0)
    proto.handle_timeout(1.9)
    assert events(proto, failed) == []
    proto.handle_timeout(2.0)
    (event,) = events(proto, failed)
    assert isinstance(event.error, TimeoutError)


def test_a_leave_ends_when_its_time_is_over() -> None:
    proto, channel = joined()
    calls.leave(channel, timeout=2.0).begin(0.0)
    proto.handle_timeout(2.0)
    (ended,) = events(proto, LeaveEnded)
    assert ended.end is LeaveEnd.TIMEOUT


class Count(msgspec.Struct):
    n: int


def reply_to(proto: ClientProtocol, channel: Channel, call: calls.Call[Reply], answer: str) -> Reply:
    """What the caller gets of this answer."""
    ref = call.begin(0.0)
    (sent, *_) = [command for command in proto.commands() if isinstance(command, SendText)]
    sent.link.receive_all([f'["{channel.join_ref}","{ref}","{TOPIC}","phx_reply",{answer}]'], 0.0)
    (received,) = events(proto, ReplyReceived)
    return call.result(received.reply)


def test_a_response_is_decoded_into_the_type_that_is_asked_for_if_the_reply_is_ok() -> None:
    proto, channel = joined()
    call = calls.push(channel, "count", response=Count, check=False)
    assert reply_to(proto, channel, call, '{"status":"ok","response":{"n":3}}') == Reply("ok", Count(3))
    refused = reply_to(proto, channel, call, '{"status":"error","response":{"reason":"no"}}')
    assert (refused.status, refused.response) == ("error", {"reason": "no"})
    with pytest.raises(InvalidReply) as caught:
        reply_to(proto, channel, call, '{"status":"ok","response":{"n":"secret"}}')
    assert (caught.value.topic, caught.value.event) == (TOPIC, "count")
    assert "its response is not a Count: " in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_refused_push_says_what_was_refused_and_why() -> None:
    proto, channel = joined()
    for response in (None, Count):
        call = calls.push(channel, "count", response=response)  # `check` is the default
        with pytest.raises(PushRejected) as caught:
            reply_to(proto, channel, call, '{"status":"error","response":{"reason":"no"}}')
        error = caught.value
        assert (error.topic, error.event, error.reply.status) == (TOPIC, "count", "error")
        assert "reason" in str(error)


def test_a_refusal_shows_no_secret_of_ours_that_it_repeats() -> None:
    proto, channel = joined({"token": "s3cr3t-t0ken"})
    answer = '{"status":"error","response":{"reason":"bad s3cr3t-t0ken"}}'
    with pytest.raises(PushRejected) as caught:
        reply_to(proto, channel, calls.push(channel, "count"), answer)
    assert "bad" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_a_reply_that_is_not_ok_is_raised_unless_it_is_not_checked() -> None:
    channel = connected().channel(TOPIC)
    with pytest.raises(PushRejected, match="no"):
        calls.push(channel, "shout", {}, timeout=10.0, check=True).result(REFUSED)
    assert calls.push(channel, "shout", {}, timeout=10.0, check=False).result(REFUSED) is REFUSED
    assert calls.push(channel, "shout", {}, timeout=10.0, check=True).result(Reply("ok", 1)) == Reply("ok", 1)


def test_a_ping_that_is_given_up_is_forgotten() -> None:
    proto = connected()
    call = calls.ping(proto, timeout=10.0)
    call.give_up(call.begin(0.0), 1.0)
    (failed,) = events(proto, PushFailed)
    assert isinstance(failed.error, PushCancelled)


def test_a_call_that_the_core_refuses_does_not_begin() -> None:
    with pytest.raises(InvalidState):
        calls.ping(ClientProtocol("ws://127.0.0.1/socket"), timeout=10.0).begin(0.0)
