"""What the hot paths cost: the calls of Python functions that a message takes, which can be counted where time cannot.

A message in the line of its topic costs none at all: this is what makes `Reader.receive_all` fast. All this would also
be correct by a longer way; then only these tests notice.
"""

import gc
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any

import pytest
from conversation import Conversation

from phx_proto.channel import Channel
from phx_proto.errors import InvalidFrame
from phx_proto.formats import V2Server
from phx_proto.handlers.payloads import payload_decoder
from phx_proto.handlers.router import Router
from phx_proto.shown import escaped, shown

TICK = '[null,null,"room:1","tick",{"n":1}]'


def calls(action: Callable[[], object]) -> Counter[str]:
    """The Python functions that an action calls, by name; a generator counts each time it goes on."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            found[frame.f_code.co_qualname] += 1

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # a collection calls functions of others: hypothesis has a hook there
    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return found


def steps(action: Callable[[], object]) -> int:
    """How many bytecode instructions of Python code an action takes, which also counts the turns of a loop."""
    number = 0

    def note(frame: FrameType, event: str, _: object) -> Any:
        nonlocal number
        frame.f_trace_opcodes = True
        number += event == "opcode"
        return note

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # on Python 3.12, set before `settrace` or no frame's opcodes are traced
    sys.settrace(note)
    try:
        action()
    finally:
        sys.settrace(before)
    assert number, "opcodes are not traced"
    return number


def cost(action: Callable[[int], object]) -> Counter[str]:
    """What one more of something costs: the calls for eleven of it without those for one, a tenth of them."""
    action(1)  # the first of all may have something to make
    few, many = (calls(partial(action, number)) for number in (1, 11))
    many.subtract(few)
    assert all(number % 10 == 0 for number in many.values())
    return Counter({name: number // 10 for name, number in many.items() if number})


def listening(router: Router | None = None) -> tuple[Conversation, Channel]:
    talk = Conversation(router=router).connect()
    return talk, talk.joined("room:1")


def handling(talk: Conversation, *frames: str) -> Counter[str]:
    """What it costs to read these frames and to handle the messages of one line, in the middle of a batch."""
    proto = talk.proto

    def handle(number: int) -> None:
        talk.link.receive_all(frames * number, talk.now)
        for queue in proto.runnable():
            deliveries = queue.take()
            proto.release(deliveries)
            assert not queue.take()

    return cost(handle)


def reading(talk: Conversation, *frames: str) -> Counter[str]:
    """What it costs to read these frames, in the middle of a read."""
    link = talk.link
    return cost(lambda number: link.receive_all(frames * number, talk.now))


@pytest.mark.parametrize("registered", ["tick", "*", "tock"])
@pytest.mark.parametrize("length", [len(TICK), 256])
def test_a_message_for_the_line_of_its_topic_costs_no_call(registered: str, length: int) -> None:
    talk, room = listening()
    room.add(print, registered)
    assert reading(talk, TICK.replace("}", f"{' ' * (length - len(TICK))}}}")) == {}


def test_a_message_of_another_topic_than_the_one_before_costs_no_call() -> None:
    router = Router()
    router.add(print, "tick", topic="room:1")
    router.add(print, "tock")
    talk, room = listening(router)
    talk.joined("room:2")
    tock = '[null,null,"room:2","tock",{}]'
    assert reading(talk, TICK, tock, tock, f'["{room.join_ref}",null,"room:1","tick",{{}}]') == {}


def test_nor_does_a_message_for_a_handlers_own_queue_and_finding_the_queue_of_another_topic_costs_one() -> None:
    router = Router()
    router.add(print, "tick", concurrency=1)
    talk, _ = listening(router)
    assert reading(talk, TICK) == {}
    talk.joined("room:2")
    assert reading(talk, TICK, TICK.replace("room:1", "room:2")) == {"Inbox.queue": 2}


def test_a_read_costs_the_same_however_many_channels_there_are() -> None:
    router = Router()
    talk, _ = listening(router)
    router.add(print, "tick")

    def read() -> Counter[str]:
        for _ in range(
            3
        ):  # the first looks up the routes of every channel anew, and what comes is expected to come again
            found = calls(partial(talk.link.receive_all, [TICK], talk.now))
        return found

    one = read()
    for number in range(2, 12):
        talk.joined(f"room:{number}")
    assert read() == one


def test_messages_that_are_handled_cost_no_call_if_each_waits_in_one_place() -> None:
    talk, room = listening()
    room.add(print, "tick")
    assert handling(talk, TICK) == {}
    other = room.add(print, "tick", concurrency=1)
    talk.receive(TICK)
    assert len(talk.deliveries()) == 2  # one message that counts until both are done
    room.off(other)
    assert handling(talk, TICK) == {}


def test_a_handler_with_a_queue_of_its_own_costs_a_few_calls() -> None:
    talk, room = listening()
    room.add(print, "tick", concurrency=1)
    assert sum(reading(talk, TICK).values()) <= 11


def test_a_payload_with_nulls_is_searched_for_nothing() -> None:
    talk, room = listening()

    def cast(payload: Any) -> Counter[str]:
        return calls(lambda: room.cast("shout", payload, talk.now))

    cast({})  # the first of a channel has something to make
    assert cast({"a": None}) == cast({"a": None, "b": [1.5, {"c": None}, "null"]})
    assert cast({}) == cast({"a": 1, "b": [1.5, {"c": "none"}]})


def test_a_topic_whose_handlers_another_has_too_costs_no_table_of_its_own() -> None:
    router = Router()
    router.add(print, "tick", topic="room:*")
    first, second = (calls(partial(router.routes, topic)) for topic in ("room:1", "room:2"))
    assert second.total() < first.total()
    talk = Conversation(router=router)
    first, second, third = (calls(partial(talk.channel, topic)) for topic in ("room:1", "room:2", "room:3"))
    assert second == third
    assert second.total() < first.total()


def test_a_payload_type_costs_one_decoder_however_often_it_is_named() -> None:
    assert payload_decoder(dict[str, int]) is payload_decoder(dict[str, int])


@pytest.mark.parametrize("value", [[1], {1: 1}, "x", b"x", [{1: [1]}]])
def test_a_value_is_shown_at_the_cost_of_what_is_shown_of_it(value: Any) -> None:
    few, many = (value * size if not isinstance(value, dict) else dict.fromkeys(range(size)) for size in (99, 9999))
    assert calls(lambda: shown(few, 50)) == calls(lambda: shown(many, 50))


def test_a_text_is_read_back_only_if_it_has_other_nulls_than_its_refs() -> None:
    plain, null = (calls(partial(V2Server().broadcast, "room:1", "tick", {"a": value})) for value in (1, None))
    assert null.total() == plain.total() + 1


def test_the_text_of_a_bad_frame_costs_no_more_than_its_escaping() -> None:
    error = InvalidFrame("not JSON")
    assert calls(partial(str, error)).total() == 1 + calls(partial(escaped, error.problem)).total()


@pytest.mark.parametrize("event", ["phx_reply", "phx_close"])
def test_an_answer_costs_the_same_however_many_leaves_have_none(event: str) -> None:
    def answering(leaves: int) -> int:
        talk = Conversation().connect()
        for number in range(leaves):
            talk.leave(talk.joined(f"left:{number}"))
        joins = [talk.joining(f"room:{number}") for number in range(2)]
        replies = [
            f'["{join.join_ref}","{join.join_ref}","{join.topic}","phx_reply",{{"status":"ok","response":{{}}}}]'
            for join in joins
        ]
        closes = [f'[null,null,"{topic}","phx_close",{{}}]' for topic in ("room:0", "none")]
        frames = replies if event == "phx_reply" else closes
        talk.link.receive_all(frames[:1], talk.now)  # the first of all may have something to make
        return steps(partial(talk.link.receive_all, frames[1:], talk.now))

    assert answering(1) == answering(20)
