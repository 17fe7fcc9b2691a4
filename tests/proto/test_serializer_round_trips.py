"""Serializers: every field survives the wire in both directions, and what was recorded is read and written the same."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.errors import InvalidFrame
from phx_proto.formats import (
    V1,
    V2,
    Request,
    Serializer,
    ServerSerializer,
    V1Server,
    V2Server,
    decode_reply,
)
from phx_proto.message import PHX_REPLY, Message, Reply

CLIENTS: list[Serializer] = [V1(), V2()]
SERVERS: list[ServerSerializer] = [V1Server(), V2Server()]
PAIRS = list(zip(CLIENTS, SERVERS, strict=True))

each_pair = pytest.mark.parametrize(("client", "server"), PAIRS, ids=["v1", "v2"])
each_server = pytest.mark.parametrize("server", SERVERS, ids=["v1", "v2"])

texts = st.text(max_size=20)
short_texts = st.text(max_size=60)  # at most 240 bytes
refs = st.none() | short_texts.filter(bool)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


objects = st.dictionaries(texts, values, max_size=4)  # what a server may push


def fields(message: Message[Any]) -> tuple[Any, ...]:
    return message.join_ref, message.ref, message.topic, message.event, message.payload


@each_pair
@given(join_ref=refs, ref=refs, topic=texts, event=texts, payload=values)
def test_what_a_client_sends_is_what_a_server_reads(
    client: Serializer, server: ServerSerializer, join_ref: Any, ref: Any, topic: str, event: str, payload: Any
) -> None:
    sent: Message[Any] = Message(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)
    expected = Request(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)
    assert server.decode(client.encode(sent)) == expected


@given(join_ref=refs, ref=refs, topic=short_texts, event=short_texts, payload=st.binary())
def test_bytes_that_a_client_sends_are_what_a_server_reads(
    join_ref: Any, ref: Any, topic: str, event: str, payload: bytes
) -> None:
    sent: Message[Any] = Message(join_ref=join_ref, ref=ref, topic=topic, event=event, payload=payload)
    expected = Request(join_ref=join_ref or "", ref=ref or "", topic=topic, event=event, payload=payload)
    assert V2Server().decode(V2().encode(sent)) == expected


@each_pair
@given(join_ref=refs, ref=refs, topic=texts, status=texts, response=values)
def test_a_reply_reaches_the_client(
    client: Serializer, server: ServerSerializer, join_ref: Any, ref: Any, topic: str, status: str, response: Any
) -> None:
    got = client.decode(server.reply(join_ref, ref, topic, status, response))
    assert decode_reply(got) == Reply(status, response)
    assert fields(got)[1:4] == (ref, topic, PHX_REPLY)
    assert got.join_ref == (None if server.vsn == "1.0.0" else join_ref)


@given(join_ref=refs, ref=refs, topic=short_texts, status=short_texts, response=st.binary())
def test_a_binary_reply_reaches_the_client(join_ref: Any, ref: Any, topic: str, status: str, response: bytes) -> None:
    got = V2().decode(V2Server().reply(join_ref, ref, topic, status, response))
    assert fields(got)[:4] == (join_ref, ref, topic, PHX_REPLY)
    assert decode_reply(got) == Reply(status, response)


@given(join_ref=refs, topic=texts, event=texts, payload=objects)
def test_a_push_reaches_the_client(join_ref: Any, topic: str, event: str, payload: Any) -> None:
    got = V2().decode(V2Server().push(join_ref, topic, event, payload))
    assert fields(got) == (join_ref, None, topic, event, payload)


@given(join_ref=refs, topic=short_texts, event=short_texts, payload=st.binary())
def test_a_binary_push_reaches_the_client(join_ref: Any, topic: str, event: str, payload: bytes) -> None:
    got = V2().decode(V2Server().push(join_ref, topic, event, payload))
    assert fields(got) == (join_ref, None, topic, event, payload)


@each_pair
@given(topic=texts, event=texts.filter(lambda event: event not in ("phx_close", "phx_error")), payload=objects)
def test_a_broadcast_reaches_the_client_without_refs(
    client: Serializer, server: ServerSerializer, topic: str, event: str, payload: Any
) -> None:
    got = client.decode(server.broadcast(topic, event, payload))
    assert fields(got) == (None, None, topic, event, payload)


@given(topic=short_texts, event=short_texts, payload=st.binary())
def test_a_binary_broadcast_reaches_the_client_without_refs(topic: str, event: str, payload: bytes) -> None:
    got = V2().decode(V2Server().broadcast(topic, event, payload))
    assert fields(got) == (None, None, topic, event, payload)


@each_server
@given(ref=values, topic=values)
def test_a_server_echoes_a_ref_and_a_topic_of_any_type(server: ServerSerializer, ref: Any, topic: Any) -> None:
    frame = server.reply(None, ref, topic, "error", {"reason": "unmatched topic"})
    echoed = server.decode(frame)
    assert (echoed.ref, echoed.topic) == (ref, topic)


@pytest.mark.parametrize(
    ("ref", "text"), [(None, None), ("7", "7"), (7, "7"), (1.5, "1.5"), (True, "true"), ("é", "é")]
)
def test_an_echoed_ref_is_text_in_a_binary_frame(ref: Any, text: str | None) -> None:
    got = V2().decode(V2Server().reply(ref, ref, "t", "ok", b""))
    assert (got.join_ref, got.ref) == (text, text)


# ---- recorded sessions -----------------------------------------------------------------------------------------------
TRANSCRIPTS = Path(__file__).parents[1] / "conformance" / "transcripts"
RECORDED = sorted(path for path in TRANSCRIPTS.glob("*.jsonl") if not path.name.startswith("malformed"))


def recorded_frames(path: Path, direction: str) -> Iterator[tuple[str, str | bytes]]:
    """The frames of one direction, each with the vsn of its connection."""
    vsn: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").strip().split("\n"):
        entry = json.loads(line)
        connection = entry.get("c", "")
        if entry["dir"] == "http_req":
            vsn[connection] = ["1.0.0", *entry["line"].split()[1].split("vsn=")[1:]][-1].partition("&")[0]
        if entry["dir"] == direction and entry["op"] in ("text", "binary"):
            yield vsn[connection][0], bytes.fromhex(entry["hex"]) if "hex" in entry else entry["data"]


def same(made: str | bytes, recorded: str | bytes) -> bool:
    if isinstance(recorded, bytes) or isinstance(made, bytes):
        return made == recorded
    return bool(json.loads(made) == json.loads(recorded))


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_a_recorded_session_is_read_and_written_again_the_same(path: Path) -> None:
    for vsn, frame in recorded_frames(path, "recv"):
        client, server = PAIRS[vsn == "2"]
        got = client.decode(frame)
        if "" in (got.join_ref, got.ref, got.topic):
            continue  # an echo of what no client of ours sends, numbers for refs say
        if got.event == PHX_REPLY:
            reply = decode_reply(got)
            made = server.reply(got.join_ref, got.ref, got.topic, reply.status, reply.response)
        elif got.join_ref is None:
            made = server.broadcast(got.topic, got.event, got.payload)
        else:
            made = server.push(got.join_ref, got.topic, got.event, got.payload, ref=got.ref)
        assert same(made, frame)


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_what_a_recorded_client_sent_is_read_by_the_server(path: Path) -> None:
    for vsn, frame in recorded_frames(path, "send"):
        if path.name == "vsn.jsonl" and isinstance(frame, str) and (frame[0] == "[") != (vsn == "2"):
            with pytest.raises(InvalidFrame):  # it tried the other version's form, and the server closed with 1011
                SERVERS[vsn == "2"].decode(frame)
            continue
        client, server = PAIRS[vsn == "2"]
        request = server.decode(frame)
        sent: Message[Any] = Message(
            join_ref=request.join_ref,
            ref=request.ref,
            topic=request.topic,
            event=request.event,
            payload=request.payload,
        )
        made = client.encode(sent)
        assert server.decode(made) == request
        assert isinstance(made, type(frame))
