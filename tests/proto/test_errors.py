"""Every error says what happened, on which topic, and travels to another process as it is."""

import math
import pickle
from collections.abc import Iterator

import pytest

from phx_proto import errors
from phx_proto.errors import PhxError
from phx_proto.message import Reply

CHECK = " (check the topic, the join's params, and who the client's params or token say it is)"


def table() -> list[tuple[PhxError, str]]:
    """Each error, made now: what is made when this module is imported tells nothing of a change since."""
    return [
        (errors.InvalidEndpoint("the URL has no host"), "the URL has no host"),
        (errors.InvalidState("finish", "finished"), "finish is not possible while the state is finished"),
        (
            errors.InvalidState("join", "joined", "it is called once", "room:1"),
            "join is not possible on topic 'room:1' while the state is joined: it is called once",
        ),
        (
            errors.InvalidTimeout("push", math.nan),
            "the timeout of push is a number of seconds, math.inf for no bound, or None for the options', not nan",
        ),
        (
            errors.TopicInUse("room:1"),
            "a channel of topic 'room:1' is already live on this client: use that one, or leave it first",
        ),
        (errors.NotJoined("room:1"), "the channel of topic 'room:1' was never joined: call join before push"),
        (
            errors.InvalidPayload("room:1", "shout", "payload.a", "is NaN"),
            "cannot send event 'shout' on topic 'room:1': payload.a is NaN",
        ),
        (errors.InvalidHandler("m.f", "it is not callable"), "m.f cannot be a handler: it is not callable"),
        (
            errors.OtherLoop(),
            "this client or server belongs to its event loop: call it there, from elsewhere with "
            "asyncio.run_coroutine_threadsafe or loop.call_soon_threadsafe",
        ),
        (
            errors.OtherProcess(),
            "this client belongs to the process that connected it: connect a new one in the forked process",
        ),
        (
            errors.StreamNotOpen("messages of topic 'room:1'"),
            "the stream of the messages of topic 'room:1' is not open: read it within its block: "
            "async with … as stream: async for item in stream (blocking: with and for)",
        ),
        (errors.NotRegistered("m.f", "it was taken off"), "m.f cannot be taken off: it was taken off"),
        (
            errors.InvalidPresence("room:1", "ann", "is not tracked"),
            "the presence of 'ann' on topic 'room:1' is not tracked",
        ),
        (
            errors.FieldTooLong("topic", 300),
            "topic has 300 bytes; a binary message takes 255 at most (send JSON, or shorten it)",
        ),
        (
            errors.BinaryNotSupported("1.0.0"),
            "serializer 1.0.0 cannot carry bytes: use vsn 2.0.0, or encode the payload as text",
        ),
        (
            errors.BufferFull("room:1", 5),
            "5 pushes already wait unsent; topic 'room:1' takes no more until it is joined",
        ),
        (
            errors.ChannelClosedByClient("room:1", "it was left"),
            "the channel of topic 'room:1' is closed: it was left",
        ),
        (
            errors.ChannelClosedByServer("room:1", "the server closed it"),
            "the channel of topic 'room:1' is closed: the server closed it",
        ),
        (errors.InvalidEvent("its event is empty"), "no message can be read of it: its event is empty"),
        (
            errors.InvalidPayloadType("Balance", "nothing is known of it"),
            "payload type Balance cannot be decoded: nothing is known of it",
        ),
        (errors.InvalidFrame("not JSON"), "not JSON"),
        (
            errors.PayloadMismatch("room:1", "shout", "Balance", "no id"),
            "the payload of 'shout' on topic 'room:1' is not a Balance: no id",
        ),
        (errors.ConnectError("no address"), "no address"),
        (errors.ConnectError("x" * 1000), "x" * 1000),
        (errors.ConnectError("x" * 1001), f"{'x' * 999}…"),
        (errors.CertificateError("expired"), "expired"),
        (errors.ResolveFailed("it raised"), "it raised"),
        (errors.ProxyError("no way", 407), "no way"),
        (
            errors.HandshakeRefused(status=403, body=b" no \n"),
            "the server refused the handshake with HTTP 403: no (check params, token, vsn and origin)",
        ),
        (
            errors.HandshakeRefused(status=502, body=b"x" * 998 + b"\xff\n\x1bx"),
            f"the server refused the handshake with HTTP 502: {'x' * 998}\N{REPLACEMENT CHARACTER}…",
        ),
        (
            errors.HandshakeRefused(status=500, url="wss://example.com/socket/websocket"),
            "the server refused the handshake of wss://example.com/socket/websocket with HTTP 500",
        ),
        (errors.ConnectTimeout(timeout=2.0), "no connection within 2 s"),
        (
            errors.ConnectTimeout(timeout=2.0, last=errors.ConnectError("down")),
            "no connection within 2 s; the last attempt: down",
        ),
        (errors.ConnectionLost(1001, "away"), "the connection is closed with code 1001 (going away): away"),
        (
            errors.StillRefused.after(3.0, errors.HandshakeRefused(status=429, body=b"later")),
            "no connection within 3 s; the last attempt: the server refused the handshake with HTTP 429: later",
        ),
        (errors.ConnectionLost(4999, "odd"), "the connection is closed with code 4999: odd"),
        (errors.ConnectionClosedByClient(), "the connection is closed without a close code"),
        (
            errors.JoinRefused("room:1", {"reason": "no"}),
            f"the server refused the join of topic 'room:1': {{'reason': 'no'}}{CHECK}",
        ),
        (
            errors.JoinRefused("room:1", {"reason": "unmatched topic"}),
            "the server refused the join of topic 'room:1': {'reason': 'unmatched topic'} "
            "(the server has no channel of that name: check the topic)",
        ),
        (
            errors.JoinRefused("room:*", {}),
            "the server refused the join of topic 'room:*': {} (a topic is joined by its whole name: patterns are for"
            " handlers)",
        ),
        (
            errors.JoinRefused("room:1", "x" * 198),
            f"the server refused the join of topic 'room:1': '{'x' * 198}'{CHECK}",
        ),
        (
            errors.JoinRefused("room:1", "x" * 199),
            f"the server refused the join of topic 'room:1': '{'x' * 198}…{CHECK}",
        ),
        (errors.JoinTimeout("room:1", 3.0), "the join of topic 'room:1' was not answered within 3 s"),
        (
            errors.JoinTimeout("room:1", 3.0, "there is no connection", errors.ConnectError("down")),
            "the join of topic 'room:1' did not succeed within 3 s: there is no connection; the latest attempt: down",
        ),
        (errors.JoinCancelled("room:1"), "the join of topic 'room:1' was cancelled"),
        (errors.ChannelCrashed("room:1", {}), "the channel of topic 'room:1' crashed on the server: {}"),
        (
            errors.PushRejected("room:1", "shout", Reply("error", "no")),
            "the server answered 'shout' on topic 'room:1' with status 'error': 'no'",
        ),
        (
            errors.InvalidReply("room:1", "shout", "Number out of range"),
            "the server answered 'shout' on topic 'room:1', and its reply cannot be read: Number out of range",
        ),
        (
            errors.MessageTimeout("room:1", "shout", 3.0),
            "no 'shout' that was waited for came on topic 'room:1' within 3 s",
        ),
        (
            errors.PushTimeout("room:1", "shout", 3.0),
            "push 'shout' on topic 'room:1' was not answered within 3 s "
            "(it may have run: timeout= waits longer, and cast is for what the server does not answer)",
        ),
        (
            errors.PushTimeout("phoenix", "heartbeat", 3.0),
            "push 'heartbeat' on topic 'phoenix' was not answered within 3 s",
        ),
        (
            errors.PushTimeout("room:1", "shout", 3.0, sent=False),
            "push 'shout' on topic 'room:1' could not be sent within 3 s "
            "(its channel was not joined in that time: it was not run)",
        ),
        (
            errors.PushLost("room:1", "shout", sent=True),
            "push 'shout' on topic 'room:1' was lost after it was sent: it may have run or not",
        ),
        (
            errors.PushLost("room:1", "shout", sent=False),
            "push 'shout' on topic 'room:1' was lost before it was sent: it was not run",
        ),
        (
            errors.PushLost("room:1", "shout", sent=True, why=errors.ConnectionClosed(1001, "away")),
            "push 'shout' on topic 'room:1' was lost after it was sent: it may have run or not"
            " (the connection is closed with code 1001 (going away): away)",
        ),
        (
            errors.PushCancelled("room:1", "shout", sent=True),
            "push 'shout' on topic 'room:1' was cancelled after sending",
        ),
        (
            errors.PushCancelled("room:1", "shout", sent=False),
            "push 'shout' on topic 'room:1' was cancelled before sending",
        ),
    ]


ERRORS = table()
each_error = pytest.mark.parametrize("number", range(len(ERRORS)), ids=[type(error).__name__ for error, _ in ERRORS])


def kinds(root: type[PhxError]) -> Iterator[type[PhxError]]:
    for kind in root.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_the_repr_of_a_refused_handshake_is_short() -> None:
    error = errors.HandshakeRefused(status=500, body=b"x" * 10**6, headers={"set-cookie": "s3cret"})
    assert repr(error) == "HandshakeRefused(problem='', status=500)"
    assert len(str(error)) < 1100


def test_the_repr_of_an_error_is_cut_at_a_thousand_characters() -> None:
    fits, cut = (repr(errors.InvalidFrame("x" * length)) for length in (1000 - 24, 1000 - 23))
    assert fits == f"InvalidFrame(problem='{'x' * (1000 - 24)}')"
    assert cut == f"{fits[:-2]}x…"


def test_every_error_is_in_the_table() -> None:
    bases = {*BY_CAUSE, errors.ChannelClosed, errors.ConnectionClosed}
    assert {type(error) for error, _ in ERRORS} == {
        kind for kind in kinds(PhxError) if kind.__module__ == errors.__name__
    } - bases


BY_CAUSE = (errors.LocalError, errors.RemoteError, errors.Cancelled)


@each_error
def test_an_error_tells_who_caused_it(number: int) -> None:
    error, _ = table()[number]
    assert sum(isinstance(error, cause) for cause in BY_CAUSE) == 1


@each_error
def test_an_error_says_what_happened(number: int) -> None:
    error, words = table()[number]
    assert str(error) == words


@each_error
def test_an_error_travels_to_another_process(number: int) -> None:
    error, _ = table()[number]
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))


@pytest.mark.parametrize("status", [414, 431])
def test_a_request_that_is_too_long_is_explained(status: int) -> None:
    assert "as params of a join" in str(errors.HandshakeRefused(status=status))


def test_a_close_with_1009_tells_what_may_have_been_too_big() -> None:
    words = str(errors.PushLost("room:1", "shout", sent=True, why=errors.ConnectionClosed(1009, "")))
    assert "with code 1009" in words
    assert "larger than the server takes" in words
    assert "compression" in words


def test_a_lost_push_tells_code_and_reason_of_what_took_it_away() -> None:
    closed = errors.PushLost("room:1", "shout", sent=True, why=errors.ConnectionClosed(1009, "too big"))
    crashed = errors.PushLost("room:1", "shout", sent=True, why=errors.ChannelCrashed("room:1"))
    unknown = errors.PushLost("room:1", "shout", sent=True)
    assert [(lost.code, lost.reason) for lost in (closed, crashed, unknown)] == [
        (1009, "too big"),
        (None, "the channel of topic 'room:1' crashed on the server: None"),
        (None, ""),
    ]


def test_what_was_too_late_is_a_timeout_error_as_well_and_the_latest_attempt_is_its_cause() -> None:
    for error in (
        errors.ConnectTimeout(timeout=2.0, last=errors.ConnectError("down")),
        errors.StillRefused.after(2.0, errors.HandshakeRefused(status=503)),
        errors.JoinTimeout("room:1", 3.0, last=errors.ResolveFailed("it raised")),
    ):
        assert isinstance(error, TimeoutError)
        assert error.__cause__ is error.last is not None
    assert isinstance(errors.PushTimeout("room:1", "shout", 3.0), TimeoutError)


def test_a_refusal_until_the_timeout_is_both_a_refusal_and_a_timeout() -> None:
    last = errors.HandshakeRefused(status=503, body=b"soon", headers={"retry-after": "1"})
    error = errors.StillRefused.after(2.0, last)
    assert isinstance(error, errors.ConnectTimeout)
    assert isinstance(error, errors.HandshakeRefused)
    assert (error.timeout, error.status, error.body, error.headers) == (2.0, 503, b"soon", {"retry-after": "1"})


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("https://login.example:8443/in?token=s3cret", "https://login.example:8443"),
        ("https://me:s3cret@login.example/", "https://login.example"),
        ("//login.example/", "//login.example"),
        ("http://[2001:db8::1]/", "http://[2001:db8::1]"),
        ("https://lo\x1bgin.example/", r"https://lo\x1bgin.example"),
        ("/s3cret", None),
        ("http://host:port/s3cret", None),
    ],
)
@pytest.mark.parametrize("status", [300, 302, 399])
def test_a_redirect_tells_the_host_that_it_points_to_and_no_more(status: int, location: str, told: str | None) -> None:
    advice = f"it redirects to {told}, which is not followed: if that is the right server, give its URL"
    if told is None:
        advice = "it redirects to another path, which is not followed: is the socket mounted there?"
    error = errors.HandshakeRefused(status=status, headers={"location": location})
    assert str(error) == f"the server refused the handshake with HTTP {status} ({advice})"


@pytest.mark.parametrize(
    ("status", "headers"),
    [(301, {}), (301, {"location": ""}), *((status, {"location": "https://h"}) for status in (201, 299, 400))],
)
def test_a_redirect_without_a_target_and_a_target_without_a_redirect_are_told_as_any_refusal(
    status: int, headers: dict[str, str]
) -> None:
    error = errors.HandshakeRefused(status=status, headers=headers)
    assert str(error) == f"the server refused the handshake with HTTP {status}"


def test_an_error_of_ones_own_is_made_told_and_compared_as_the_others_are() -> None:
    class Full(errors.LocalError):
        topic: str
        limit: int = 5
        _words = "{topic!r} takes {limit}"

    error = Full("room:1", limit=7)
    assert (str(error), repr(error)) == ("'room:1' takes 7", "Full(topic='room:1', limit=7)")
    assert error != Full("room:1", limit=7)
    assert {error: 1}[error] == 1


def test_a_refused_join_and_a_rejected_push_tell_alike_what_the_server_said() -> None:
    said = {"reason": "no"}
    refused, rejected = errors.JoinRefused("t", said), errors.PushRejected("t", "e", Reply("error", said))
    assert (refused.response, refused.status) == (rejected.response, rejected.status) == (said, "error")
