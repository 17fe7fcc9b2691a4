"""The opening handshake, bytes out and bytes in: the request, what follows an answer, and the errors of a bad one."""

import ssl
from typing import Any

import pytest
from frames import accepted
from websockets.protocol import State

from phx_proto.errors import ConnectError, HandshakeRefused
from phx_transports.websocket.handshake import Handshake, silent
from phx_transports.websocket.options import NetworkOptions

URL = "ws://server:4000/socket/websocket?token=secret"


def handshake(url: str = URL, *, network: dict[str, Any] | None = None, **options: Any) -> Handshake:
    return Handshake(url, network=NetworkOptions(**network or {}), **options)


def fields(request: bytes) -> dict[str, str]:
    _, *lines = request.decode("latin-1").split("\r\n")
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}


def test_the_request_carries_what_was_given_and_who_asks() -> None:
    shake = handshake(subprotocols=["phoenix", "base64/token"], headers=[("X-One", " X1X\t"), ("X-One", "2")])
    request = shake.request()
    assert request.startswith(b"GET /socket/websocket?token=secret HTTP/1.1\r\nHost: server:4000\r\n")
    assert b"X-One: X1X\r\nX-One: 2\r\nUser-Agent: " in request
    asked = fields(request)
    assert asked["sec-websocket-protocol"] == "phoenix, base64/token"
    assert "websockets/" in asked["user-agent"]
    assert "sec-websocket-extensions" not in asked
    assert (shake.place, shake.address.secure) == ("server:4000", False)
    assert silent.disabled


def test_the_application_may_name_itself_and_offer_compression() -> None:
    asked = fields(handshake(headers=[("User-Agent", "mine")], network={"compression": "deflate"}).request())
    assert asked["user-agent"] == "mine"
    assert asked["sec-websocket-extensions"].startswith("permessage-deflate")
    assert "sec-websocket-protocol" not in asked


def test_the_zone_of_an_address_is_for_this_machine() -> None:
    shake = handshake("ws://[fe80::1%eth0]:4000/socket")
    assert fields(shake.request())["host"] == "[fe80::1]:4000"
    assert shake.address.host == "fe80::1%eth0"


@pytest.mark.parametrize("split", [1, 40, 10_000])
def test_what_follows_the_answer_is_given_once_the_websocket_is_open(split: int) -> None:
    shake = handshake(subprotocols=["phoenix"], network={"max_size": 77})
    data = accepted(shake.request(), "Sec-WebSocket-Protocol: phoenix", "X-Other: ignored") + b"\x81\x01a"
    reads = [data[:split], data[split:]]
    rests = [shake.receive(read) for read in reads if read]
    assert rests[-1] == b"\x81\x01a"
    assert rests[:-1] == [None] * (len(rests) - 1)
    assert (shake.protocol.state, shake.protocol.subprotocol) == (State.OPEN, "phoenix")
    assert (shake.protocol.max_message_size, shake.protocol.events_received()) == (77, [])


def test_a_refusal_is_known_from_its_first_line_and_raised_when_it_is_whole() -> None:
    shake = handshake()
    shake.request()
    assert shake.receive(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\n\r\nno") is None
    assert shake.refusal is not None
    assert (shake.refusal.status, shake.refusal.body) == (403, b"no")
    with pytest.raises(HandshakeRefused) as caught:
        shake.receive(b"ne")
    assert (caught.value.status, caught.value.body) == (403, b"none")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            "Sec-WebSocket-Accept: secret",
            "the answer of server:4000 is no WebSocket handshake: its Sec-WebSocket-Accept header is missing or wrong",
        ),
        ("Sec-WebSocket-Protocol: secret", "server:4000 chose a subprotocol or an extension that was not offered"),
        ("Sec-WebSocket-Extensions: secret", "server:4000 chose a subprotocol or an extension that was not offered"),
    ],
)
def test_an_answer_that_is_no_handshake_is_told_without_what_it_holds(more: str, said: str) -> None:
    shake = handshake(subprotocols=["phoenix"])
    with pytest.raises(ConnectError) as caught:
        shake.receive(accepted(shake.request(), more))
    assert str(caught.value) == said
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_an_end_without_an_answer_is_told_and_what_may_help_where_there_is_no_tls(scheme: str) -> None:
    shake = handshake(f"{scheme}://server:4000/")
    shake.request()
    with pytest.raises(ConnectError, match=r"^server:4000 ended the connection before it answered") as caught:
        shake.receive(b"")
    assert ("is this a TLS port?" in str(caught.value)) is (scheme == "ws")


def test_no_secure_settings_for_an_insecure_url() -> None:
    with pytest.raises(ConnectError, match=r"^an SSL context was given for a ws:// URL: use wss://$"):
        handshake(network={"ssl": ssl.create_default_context()})


@pytest.mark.parametrize(
    ("url", "said"),
    [("http://server/?secret", "the URL is not valid: "), ("ws://server:secret/", "the URL is not valid: its host or")],
)
def test_an_url_that_is_none_is_refused_without_being_shown(url: str, said: str) -> None:
    with pytest.raises(ConnectError, match=f"^{said}") as caught:
        handshake(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (("na me", "v"), "header 'na me' has characters that HTTP cannot carry in its name or value"),
        (("name", "secret\n"), "header 'name' has characters that HTTP cannot carry in its name or value"),
        (("Content-Length", "0"), "header 'Content-Length' contradicts HTTP: a handshake has no body"),
        (("Transfer-Encoding", "chunked"), "header 'Transfer-Encoding' contradicts HTTP: a handshake has no body"),
    ],
)
def test_a_header_that_http_does_not_carry_is_refused_by_name(header: tuple[str, str], said: str) -> None:
    with pytest.raises(ConnectError) as caught:
        handshake(headers=[header])
    assert str(caught.value) == said
    with pytest.raises(ConnectError, match="header 'Sec-WebSocket-Protocol' has characters"):
        handshake(subprotocols=["secret\r\n"])
