"""Everything that can happen to a channel, in every state: where it leads, or how it is refused.

The channel's params are a callable, so that PENDING (its answer is awaited) is a state of its own on an open
connection.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import TypeAlias

import pytest
from conversation import Conversation
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto.channel import Channel
from phx_proto.errors import ChannelClosedByClient, InvalidState, NotJoined, PhxError
from phx_proto.message import PHX_REPLY
from phx_proto.states import ChannelState

TOPIC = "room:1"
IDLE, PENDING, JOINING, JOINED, ERRORED, LEAVING, CLOSED = ChannelState


class Situation:
    """A channel in one state, and its call that has not ended."""

    def __init__(self, state: ChannelState) -> None:
        self.talk = Conversation().connect()
        self.room: Channel = self.talk.channel(TOPIC, dict)
        self.call = "99"
        self.leave_ref = "98"
        if state is not IDLE:
            self.call = self.talk.join(self.room)
        if state not in (IDLE, PENDING):
            self.talk.resolve({})
        if state not in (IDLE, PENDING, JOINING):
            self.talk.reply(self.room.join_ref)
        if state is ERRORED:
            self.talk.crash_channel(TOPIC, self.room.join_ref)
        if state in (LEAVING, CLOSED):
            self.call = self.leave_ref = self.talk.leave(self.room)
        if state is CLOSED:
            self.talk.reply(self.leave_ref)
        assert self.room.state is state

    def answer(self, ref: str | None, status: str) -> None:
        self.talk.serve(TOPIC, PHX_REPLY, {"status": status, "response": {}}, ref=ref, join_ref=self.room.join_ref)

    def resolve(self) -> None:
        for _ in self.talk.questions[:]:
            self.talk.resolve({})

    def resolve_failed(self) -> None:
        for _ in self.talk.questions[:]:
            self.talk.resolve_failed(OSError())


Outcome: TypeAlias = ChannelState | type[Exception]

INPUTS: dict[str, tuple[Callable[[Situation], object], tuple[Outcome, ...]]] = {
    # the application
    "join": (
        lambda at: at.talk.join(at.room),
        (PENDING, InvalidState, InvalidState, InvalidState, InvalidState, ChannelClosedByClient, ChannelClosedByClient),
    ),
    "leave": (
        lambda at: at.talk.leave(at.room),
        (CLOSED, CLOSED, LEAVING, LEAVING, LEAVING, LEAVING, CLOSED),
    ),
    "push": (
        lambda at: at.talk.push(at.room),
        (NotJoined, PENDING, JOINING, JOINED, ERRORED, ChannelClosedByClient, ChannelClosedByClient),
    ),
    "cast": (
        lambda at: at.talk.cast(at.room),
        (NotJoined, PENDING, JOINING, JOINED, ERRORED, ChannelClosedByClient, ChannelClosedByClient),
    ),
    "cancel": (
        lambda at: at.talk.cancel(at.room, at.call),
        (IDLE, CLOSED, CLOSED, JOINED, ERRORED, CLOSED, CLOSED),
    ),
    "cancel of the join, answered or not": (
        lambda at: at.talk.cancel_join(at.room, at.call),
        (CLOSED, CLOSED, CLOSED, LEAVING, LEAVING, CLOSED, CLOSED),
    ),
    "cancel of what is unknown": (
        lambda at: at.talk.cancel(at.room, "97"),
        (IDLE, PENDING, JOINING, JOINED, ERRORED, LEAVING, CLOSED),
    ),
    "the client's close": (
        lambda at: at.talk.proto.disconnect(at.talk.now),
        (CLOSED, CLOSED, CLOSED, CLOSED, CLOSED, CLOSED, CLOSED),
    ),
    "params": (Situation.resolve, (IDLE, JOINING, JOINING, JOINED, ERRORED, LEAVING, CLOSED)),
    "no params": (Situation.resolve_failed, (IDLE, ERRORED, JOINING, JOINED, ERRORED, LEAVING, CLOSED)),
    # the server
    "ok to the join": (
        lambda at: at.answer(at.room.join_ref, "ok"),
        (IDLE, PENDING, JOINED, JOINED, ERRORED, LEAVING, CLOSED),
    ),
    "error to the join": (
        lambda at: at.answer(at.room.join_ref, "error"),
        (IDLE, PENDING, CLOSED, JOINED, ERRORED, LEAVING, CLOSED),
    ),
    "ok to the leave": (
        lambda at: at.answer(at.leave_ref, "ok"),
        (IDLE, PENDING, JOINING, JOINED, ERRORED, CLOSED, CLOSED),
    ),
    "error to the leave": (
        lambda at: at.answer(at.leave_ref, "error"),
        (IDLE, PENDING, JOINING, JOINED, ERRORED, CLOSED, CLOSED),
    ),
    "phx_error": (
        lambda at: at.talk.crash_channel(TOPIC, at.room.join_ref),
        (IDLE, PENDING, ERRORED, ERRORED, ERRORED, CLOSED, CLOSED),
    ),
    "phx_error, null": (
        lambda at: at.talk.crash_channel(TOPIC, None),
        (IDLE, PENDING, ERRORED, ERRORED, ERRORED, CLOSED, CLOSED),
    ),
    "phx_error, stale": (
        lambda at: at.talk.crash_channel(TOPIC, "0"),
        (IDLE, PENDING, JOINING, JOINED, ERRORED, LEAVING, CLOSED),
    ),
    "phx_close": (
        lambda at: at.talk.close_channel(TOPIC, at.room.join_ref),
        (IDLE, PENDING, CLOSED, CLOSED, ERRORED, CLOSED, CLOSED),
    ),
    "phx_close, null": (
        lambda at: at.talk.close_channel(TOPIC, None),
        (IDLE, PENDING, CLOSED, CLOSED, ERRORED, CLOSED, CLOSED),
    ),
    "phx_close, stale": (
        lambda at: at.talk.close_channel(TOPIC, "0"),
        (IDLE, PENDING, JOINING, JOINED, ERRORED, LEAVING, CLOSED),
    ),
    "a reply, stale": (
        lambda at: at.answer("97", "ok"),
        (IDLE, PENDING, JOINING, JOINED, ERRORED, LEAVING, CLOSED),
    ),
    "a message": (
        lambda at: at.talk.serve(TOPIC, "tick", join_ref=at.room.join_ref),
        (IDLE, PENDING, JOINING, JOINED, ERRORED, LEAVING, CLOSED),
    ),
    "a message, stale": (
        lambda at: at.talk.serve(TOPIC, "tick", join_ref="0"),
        (IDLE, PENDING, JOINING, JOINED, ERRORED, LEAVING, CLOSED),
    ),
    # the connection, and time
    "disconnect": (
        lambda at: at.talk.drop(),
        (IDLE, PENDING, PENDING, PENDING, PENDING, CLOSED, CLOSED),
    ),
    "reconnect": (
        lambda at: at.talk.reconnect(),
        (IDLE, PENDING, PENDING, PENDING, PENDING, CLOSED, CLOSED),
    ),
    "the backoff's wait": (
        lambda at: at.talk.advance(1),
        (IDLE, PENDING, JOINING, JOINED, PENDING, LEAVING, CLOSED),
    ),
    "the timeouts": (
        lambda at: at.talk.advance(10),
        (IDLE, CLOSED, CLOSED, JOINED, PENDING, CLOSED, CLOSED),
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_the_table_tells_of_every_state(name: str) -> None:
    assert len(INPUTS[name][1]) == len(ChannelState)


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize("state", ChannelState)
def test_what_an_input_makes_of_a_channel(state: ChannelState, name: str) -> None:
    at = Situation(state)
    act, outcomes = INPUTS[name]
    outcome = outcomes[list(ChannelState).index(state)]
    if isinstance(outcome, ChannelState):
        act(at)
        assert at.room.state is outcome
    else:
        with pytest.raises(outcome):
            act(at)
        assert at.room.state is state


@given(st.lists(st.sampled_from(sorted(INPUTS.keys() - {"the client's close"})), max_size=40))
@settings(max_examples=2 * settings().max_examples)
def test_whatever_happens_in_whatever_order_every_call_ends_once_and_nothing_is_left(names: list[str]) -> None:
    at = Situation(IDLE)
    for name in names:
        if not at.talk.link.current:
            at.talk.advance(5).accept()
        if at.room.state in (LEAVING, CLOSED) and TOPIC not in at.talk.channels:
            at.room = at.talk.channel(TOPIC, dict)
        with suppress(PhxError):
            ref = INPUTS[name][0](at)
            at.call = ref if isinstance(ref, str) else at.call
        at.talk.sent()
    at.talk.check()
