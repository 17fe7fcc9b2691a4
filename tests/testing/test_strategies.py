"""What the strategies make is what the wire allows; and conversations as they are meant to be used."""

from typing import Any

from hypothesis import given

from phx_proto.handlers.router import Router
from phx_proto.message import RESERVED_EVENTS, Message
from phx_proto.states import SocketState
from phx_transports.testing import Peer, deliver
from phx_transports.testing.steps import Step
from phx_transports.testing.strategies import conversations, events, messages, objects, payloads, topics


@given(topics(), events(), payloads(binary=True))
def test_whatever_is_made_can_be_sent_and_arrives_as_it_was(topic: str, event: str, payload: Any) -> None:
    router = Router()
    router.add(lambda message: (message.topic, message.event, message.payload), "*")
    assert deliver(router, topic, event, {} if payload is None else payload).check() == [
        (topic, event, {} if payload is None else payload)
    ]


@given(objects())
def test_objects_are_objects(payload: Any) -> None:
    assert isinstance(payload, dict)


@given(messages())
def test_messages_are_broadcasts_of_an_application(message: Message[Any]) -> None:
    assert message.join_ref is None
    assert message.event not in RESERVED_EVENTS
    assert isinstance(message.payload, dict | bytes)


@given(conversations(["room:lobby", "sim:1"]))
def test_whatever_a_server_does_a_client_is_back_in_the_end(steps: list[Step]) -> None:
    with Peer() as peer:
        peer.allow_join("*")
        client = peer.driver().connect()
        client.join("room:lobby")
        client.join("sim:1")
        for step in steps:
            step.play(peer)
        peer.clock.advance(200)
        assert client.state is SocketState.OPEN
        assert sorted(peer.joined) == ["room:lobby", "sim:1"]
