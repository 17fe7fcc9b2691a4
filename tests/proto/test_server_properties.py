"""Properties of a server's socket: any input of a client, and calls of an application in any order."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import Server

from phx_proto.errors import LocalError
from phx_proto.formats import V1Server, V2Server
from phx_proto.server.events import (
    BroadcastOut,
    ChannelHandle,
    ChannelTerminated,
    JoinRequested,
    MessageIn,
    Release,
    ServerOptions,
)
from phx_proto.server.protocol import ServerProtocol

# ---- whatever comes -------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=2), values, max_size=2),
    max_leaves=4,
)
TOPICS = st.sampled_from(["room:a", "room:b", "phoenix", "nope"]) | JSON
EVENTS = st.sampled_from(["phx_join", "phx_leave", "heartbeat", "shout"]) | JSON
REFS = st.sampled_from(["1", "2", None]) | JSON
FRAMES = st.tuples(REFS, REFS, TOPICS, EVENTS, JSON).map(json.dumps) | st.text(max_size=8) | st.binary(max_size=12)


@given(st.lists(FRAMES, max_size=12), st.sampled_from([V1Server, V2Server]), st.sampled_from(list(Release)))
@settings(max_examples=2 * settings().max_examples)
def test_nothing_that_a_client_sends_raises(frames: list[str | bytes], kind: type[V2Server], release: Release) -> None:
    server = ServerProtocol(kind(), ("room:*",), options=ServerOptions(release=release), now=0.0)
    for frame in frames:
        server.receive(frame, 0.0)
        for event in server.events():
            if isinstance(event, JoinRequested):
                server.accept(event.channel)
            elif isinstance(event, MessageIn):
                server.finish(event)


STEPS = st.lists(
    st.tuples(st.just("hear"), st.sampled_from("ab"), st.sampled_from(["phx_join", "phx_leave", "shout"]))
    | st.tuples(st.sampled_from(["accept", "refuse", "finish", "reply", "push", "intercept", "stop", "crash"]))
    | st.tuples(st.just("broadcast"), st.sampled_from("ab")),
    max_size=30,
)


@given(STEPS)
@settings(max_examples=2 * settings().max_examples)
def test_a_socket_keeps_its_promises_in_any_order_of_things(steps: list[tuple[str, ...]]) -> None:
    server = Server()
    current = {"a": "0", "b": "0"}
    waiting: list[ChannelHandle] = []
    handled: list[MessageIn | BroadcastOut] = []
    accepted: list[ChannelHandle] = []
    terminated: list[ChannelHandle] = []
    sent: list[list[Any]] = []

    def drain() -> None:
        for event in server.events():
            if isinstance(event, JoinRequested):
                waiting.append(event.channel)
            elif isinstance(event, MessageIn | BroadcastOut):
                handled.append(event)
            elif isinstance(event, ChannelTerminated):
                terminated.append(event.channel)
        assert len(waiting) <= 1
        sent.extend(server.said())

    for ref, (what, *rest) in enumerate(steps, 1):
        stood_still, before = bool(waiting), len(sent)
        if what == "hear":
            room, event = rest
            if event == "phx_join":
                current[room] = str(ref)
            server.receive(json.dumps([current[room], str(ref), f"room:{room}", event, {}]), 0.0)
        elif what == "broadcast":
            server.broadcast(f"room:{rest[0]}", "news", {})
        elif what in ("accept", "refuse") and waiting:
            channel = waiting.pop()
            accepted += [channel] if what == "accept" else []
            getattr(server, what)(channel)
            stood_still = False
        elif what == "finish" and handled:
            server.finish(handled.pop())
        elif what == "reply" and handled and isinstance(message := handled[-1], MessageIn):
            server.reply(message)
        elif what in ("push", "intercept", "stop", "crash") and accepted:
            getattr(server, what)(accepted[-1], *(("tick", {}) if what in ("push", "intercept") else ()))
        drain()
        assert not (stood_still and len(sent) > before)

    server.closed(None, "gone")
    drain()
    assert sorted(channel.serial for channel in terminated) == sorted(
        channel.serial for channel in [*accepted, *waiting]
    )
    # A join's reply is the first frame of that join, and its end the last but for replies to what came before.
    for join_ref in {frame[0] for frame in sent} - {None}:
        frames = [frame for frame in sent if frame[0] == join_ref]
        joins = [frame for frame in frames if frame[1] == join_ref and frame[3] == "phx_reply"]
        assert len(joins) <= 1
        if joins and joins[0][4]["status"] == "ok":
            assert frames[0] is joins[0]
        assert sum(frame[3] in ("phx_close", "phx_error") for frame in frames) <= 1


SPEAK: list[Callable[[Server, MessageIn, Any], None]] = [
    lambda server, message, value: server.reply(message, "ok", value),
    lambda server, message, value: server.push(message.channel, "tick", value),
    lambda server, message, value: server.broadcast("room:a", "news", value),
]


@pytest.mark.parametrize("value", [float("inf"), "\ud800", object()])
@pytest.mark.parametrize("speak", SPEAK)
def test_what_cannot_be_encoded_is_refused_and_changes_nothing(
    speak: Callable[[Server, MessageIn, Any], None], value: Any
) -> None:
    server = Server()
    server.joined()
    message = server.message()
    with pytest.raises(LocalError):
        speak(server, message, value)
    assert (server.commands(), server.events()) == ([], [])
