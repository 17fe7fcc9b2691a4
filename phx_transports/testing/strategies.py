"""Strategies for hypothesis: valid messages, and a server's actions. Needs the extra `phx-channels[testing]`.

@given(payloads())
def test_any_payload_is_saved(payload): ...

@given(conversations(["room:lobby"]))
def test_the_consumer_survives(steps): ...
"""

from collections.abc import Callable, Sequence
from typing import Any

from phx_proto.formats import V2, V2Server
from phx_proto.message import PHOENIX_TOPIC, RESERVED_EVENTS, Message

from ..extras import needs
from .peer import Peer
from .steps import Step, end_connection, go_down, wait

with needs("hypothesis", extra="testing", user="phx_transports.testing.strategies"):
    from hypothesis import strategies as st

__all__ = ["conversations", "events", "messages", "objects", "payloads", "topics"]


def topics() -> st.SearchStrategy[str]:
    """Topics that a channel can have, mostly usual ones."""
    usual = st.builds("{}:{}".format, st.sampled_from(["room", "user", "sim"]), st.integers(0, 99))
    return usual | _text(min_size=1, max_size=20).filter(lambda topic: topic != PHOENIX_TOPIC)


def events() -> st.SearchStrategy[str]:
    """Events that an application can have: not the protocol's own."""
    usual = st.sampled_from(["shout", "new_msg", "balance", "tick"])
    return usual | _text(min_size=1, max_size=20).filter(lambda event: event not in RESERVED_EVENTS)


def payloads(*, binary: bool = False) -> st.SearchStrategy[Any]:
    """Any JSON value that the wire allows; with `binary`, bytes as well."""
    values = st.recursive(_SCALARS, lambda inner: st.lists(inner, max_size=4) | _objects(inner), max_leaves=12)
    return values | st.binary(max_size=64) if binary else values


def objects() -> st.SearchStrategy[dict[str, Any]]:
    """JSON objects, which a real server pushes and broadcasts."""
    return _objects(payloads())


def messages(
    *, topic: st.SearchStrategy[str] | None = None, event: st.SearchStrategy[str] | None = None
) -> st.SearchStrategy[Message[Any]]:
    """Messages from a server, with these topics and events, as decoded by a client: broadcasts."""

    def received(topic: str, event: str, payload: Any) -> Message[Any]:
        return V2().decode(V2Server().broadcast(topic, event, payload))

    return st.builds(received, topic or topics(), event or events(), objects() | st.binary(max_size=64))


def conversations(
    topics: Sequence[str], *, event: st.SearchStrategy[str] | None = None, max_size: int = 20
) -> st.SearchStrategy[list[Step]]:
    """A server's actions, step by step, for a client on these topics (at least one); see `steps.py`.

    No action ends a client or a channel for good, so afterwards a client is expected to be connected and joined again.
    """
    topic = st.sampled_from(topics)
    event = event or events()
    step = st.one_of(
        _step(Peer.push, topic, event, objects()),
        _step(Peer.broadcast, topic, event, objects()),
        _step(Peer.crash, topic),
        _step(end_connection, st.sampled_from([None, 1000, 1001, 1011, 1012, 1013])),
        _step(go_down, st.sampled_from([429, 500, 502, 503]), st.integers(1, 3)),
        _step(Peer.send_raw, st.sampled_from(["{not json", "[1,2]", "null", "", b"", b"\x07"])),
        _step(wait, st.sampled_from([0.0, 0.01, 1.0, 5.0, 30.0, 90.0])),
    )
    return st.lists(step, max_size=max_size)


def _step(action: Callable[..., None], *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Step]:
    return st.builds(Step, st.just(action), st.tuples(*arguments))


def _text(**sizes: int) -> st.SearchStrategy[str]:
    return st.text(st.characters(exclude_categories=["Cs"]), **sizes)  # lone surrogates cannot be encoded


def _objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(_text(max_size=10), values, max_size=4)


_SCALARS: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(10**20, 10**40),
    st.floats(allow_nan=False, allow_infinity=False),
    _text(max_size=20),
)
