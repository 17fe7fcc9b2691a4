"""A timeout that is no number is refused at the call: as a deadline, NaN would keep every other from being due."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from conversation import START, Conversation

from phx_proto.errors import InvalidTimeout

CALLS: dict[str, Callable[[Conversation, Any], object]] = {
    "connect": lambda talk, timeout: Conversation().proto.connect(START, timeout=timeout),
    "drain": lambda talk, timeout: talk.proto.drain(talk.now, timeout=timeout),
    "ping": lambda talk, timeout: talk.proto.ping(talk.now, timeout=timeout),
    "join": lambda talk, timeout: talk.proto.channel("room:2").join(talk.now, timeout=timeout),
    "leave": lambda talk, timeout: talk.proto.channel("room:2").leave(talk.now, timeout=timeout),
    "push": lambda talk, timeout: talk.joined("room:1").push("shout", {}, talk.now, timeout=timeout),
}


@pytest.mark.parametrize("timeout", [math.nan, "10"])
@pytest.mark.parametrize("call", CALLS)
def test_it_is_refused_by_its_call(call: str, timeout: object) -> None:
    with pytest.raises(InvalidTimeout, match=f"the timeout of {call} is a number of seconds"):
        CALLS[call](Conversation().connect(), timeout)


def test_a_refused_call_changes_nothing() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.sent()
    talk.events()
    due = talk.proto.next_timeout()
    with pytest.raises(InvalidTimeout):
        room.push("shout", {}, talk.now, timeout=math.nan)
    assert (talk.sent(), talk.events(), talk.proto.next_timeout()) == ([], [], due)
