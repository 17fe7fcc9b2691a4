"""The timeouts of calls: the defaults, and the values that are refused.

A value that is not a number is refused at the call: as a deadline, NaN would keep every other from being due.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
from conversation import START, Conversation

from phx_proto.channel import Channel
from phx_proto.errors import InvalidTimeout
from phx_proto.events import Closed, LeaveEnded, PushFailed
from phx_proto.options import ClientOptions

PATIENT: dict[str, Callable[[Conversation, Channel], object]] = {
    "push": lambda talk, room: talk.push(room),
    "leave": lambda talk, room: talk.leave(room),
    "ping": lambda talk, room: talk.ping(),
    "close": lambda talk, room: talk.proto.close(talk.now),
}


@pytest.mark.parametrize("call", PATIENT)
def test_a_call_waits_ten_seconds_where_it_is_not_told(call: str) -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.answers_heartbeats = False
    PATIENT[call](talk, room)
    ended = []
    for seconds in (9.999, 0.001):
        talk.advance(seconds)
        ended.append(any(isinstance(event, PushFailed | LeaveEnded | Closed) for event in talk.events()))
    assert ended == [False, True]


@pytest.mark.parametrize("call", ["push", "leave"])
def test_that_is_the_options_to_say(call: str) -> None:
    talk = Conversation(options=ClientOptions(timeout=2.0)).connect()
    PATIENT[call](talk, talk.joined("room:1"))
    ended = []
    for seconds in (1.999, 0.001):
        talk.advance(seconds)
        ended.append(any(isinstance(event, PushFailed | LeaveEnded) for event in talk.events()))
    assert ended == [False, True]


CALLS: dict[str, Callable[[Conversation, Any], object]] = {
    "connect": lambda talk, timeout: Conversation().proto.connect(START, timeout=timeout),
    "close": lambda talk, timeout: talk.proto.close(talk.now, timeout=timeout),
    "ping": lambda talk, timeout: talk.proto.ping(talk.now, timeout=timeout),
    "join": lambda talk, timeout: talk.proto.channel("room:2").join(talk.now, timeout=timeout),
    "leave": lambda talk, timeout: talk.proto.channel("room:2").leave(talk.now, timeout=timeout),
    "push": lambda talk, timeout: talk.joined("room:1").push("shout", {}, talk.now, timeout=timeout),
}


@pytest.mark.parametrize("timeout", [math.nan, "10", True, 10**400])
@pytest.mark.parametrize("call", CALLS)
def test_it_is_refused_by_its_call(call: str, timeout: object) -> None:
    with pytest.raises(InvalidTimeout) as caught:
        CALLS[call](Conversation().connect(), timeout)
    assert vars(caught.value) == {"call": call, "timeout": timeout}


def test_a_refused_call_changes_nothing() -> None:
    talk = Conversation().connect()
    room = talk.joined("room:1")
    talk.sent()
    talk.events()
    due = talk.proto.next_timeout()
    with pytest.raises(InvalidTimeout):
        room.push("shout", {}, talk.now, timeout=math.nan)
    assert (talk.sent(), talk.events(), talk.proto.next_timeout()) == ([], [], due)
