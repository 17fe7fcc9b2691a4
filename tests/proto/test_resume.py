"""Resuming: each join names the message that was handled last, in the order received."""

from typing import Any

import pytest
from conversation import Conversation
from hypothesis import given
from hypothesis import strategies as st

from phx_proto.channel import Channel
from phx_proto.errors import InvalidPayload, ResolveFailed
from phx_proto.events import ChannelErrored
from phx_proto.flow import FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.inbox import Tap
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.queues import Bound, Delivery, Drop
from phx_proto.resume import Resume

BY_ID = Resume(by="id", param="since")


class Resumed:
    """A topic that is resumed, with a handler of `n` in the line; those of `m` and `o` have queues of their own."""

    def __init__(
        self, resume: Resume = BY_ID, params: Any = None, *, limits: FlowLimits | None = None, **settings: Any
    ) -> None:
        router = Router()
        router.add(print, "n")
        router.add(print, "both")
        router.add(print, "both", concurrency=2)
        router.add(print, "m", concurrency=2)
        router.add(print, "o", concurrency=1)
        options = ClientOptions() if limits is None else ClientOptions(flow=limits)
        self.talk = Conversation(options, router=router).connect()
        self.room: Channel = self.talk.channel("room:1", params, resume=resume, **settings)
        self.talk.join(self.room)
        self.first = self.asked() if not self.talk.questions else None

    def asked(self) -> Any:
        """The params of the join that was just sent, which is accepted."""
        (join,) = [frame for frame in self.talk.sent() if frame.event == "phx_join"]
        self.talk.reply(join.ref)
        return join.payload

    def rejoined(self) -> Any:
        """The params with which it is joined again after a cut."""
        self.talk.reconnect()
        return self.asked()

    def serve(self, *ids: Any, event: str = "n") -> None:
        for one in ids:
            self.talk.serve("room:1", event, {"id": one})

    def taken(self) -> list[Delivery]:
        """Whatever waits, in the hands of workers."""
        queues = [*self.talk.proto.runnable(), *self.talk.proto.executable()]
        return [delivery for queue in queues for delivery in iter_take(queue)]

    def handled(self, *deliveries: Delivery) -> None:
        self.talk.proto.handled(deliveries, self.talk.now)


def iter_take(queue: Any) -> list[Delivery]:
    deliveries: list[Delivery] = []
    while taken := queue.take():
        deliveries += taken
    return deliveries


def test_a_rejoin_says_what_was_handled_last() -> None:
    topic = Resumed()
    assert topic.first == {}
    topic.serve(1, 2)
    topic.talk.deliveries()
    assert topic.room.last_seen == 2
    assert topic.rejoined() == {"since": 2}
    topic.serve(3)
    topic.talk.deliveries()
    assert topic.rejoined() == {"since": 3}


def test_a_channel_that_crashed_is_resumed_likewise() -> None:
    topic = Resumed()
    topic.serve(1)
    topic.talk.deliveries()
    topic.talk.crash_channel("room:1", topic.room.join_ref)
    topic.talk.advance(1)
    assert topic.asked() == {"since": 1}


def test_what_was_received_and_not_handled_is_asked_for_again() -> None:
    topic = Resumed()
    topic.serve(1, 2, 3)
    first, *_ = topic.taken()
    topic.handled(first)
    assert topic.rejoined() == {"since": 1}


def test_an_earlier_message_that_is_not_handled_holds_later_ones_back() -> None:
    topic = Resumed()
    topic.serve(1, 2, 3, event="m")
    first, second, third = topic.taken()
    topic.handled(third, second)
    assert topic.room.last_seen is None
    topic.handled(first)
    assert topic.room.last_seen == 3


def test_a_message_is_handled_when_all_its_handlers_and_streams_have_it() -> None:
    topic = Resumed()
    topic.room.attach(Tap(lambda item: None))
    topic.serve(1, event="both")
    in_line, in_queue = topic.taken()
    topic.handled(in_line)
    topic.handled(in_queue)
    assert topic.room.last_seen is None
    topic.talk.tapped()
    assert topic.room.last_seen == 1


def test_who_joins_moves_no_position() -> None:
    topic = Resumed()
    topic.room.add(print, "presence_join")
    topic.serve(1)
    topic.talk.serve("room:1", "presence_state", {})
    topic.talk.serve("room:1", "presence_diff", {"joins": {"id": {"metas": [{"phx_ref": "a"}]}}, "leaves": {}})
    assert [event for _, event, _ in topic.talk.deliveries()] == ["n", "presence_join"]
    assert topic.rejoined() == {"since": 1}


@pytest.mark.parametrize("event", ["n", "m", "o"])
def test_messages_are_taken_one_at_a_time_so_that_each_is_reported(event: str) -> None:
    topic = Resumed()
    topic.serve(1, 2, 3, event=event)
    queue, *_ = topic.talk.proto.runnable()
    assert [len(queue.take()) for _ in range(3)] == [1, 1, 1]


def test_it_begins_where_it_is_told_and_keeps_the_other_params() -> None:
    topic = Resumed(Resume(by="id", param="since", start=40), {"name": "ann", "since": "not this"})
    assert topic.first == {"name": "ann", "since": 40}
    assert topic.room.last_seen == 40


def test_callable_params_are_read_at_every_join_and_the_position_is_added() -> None:
    topic = Resumed(params=lambda: {"token": 1})
    topic.talk.resolve(topic.talk.questions[0].provider())
    assert topic.asked() == {"token": 1}
    topic.serve(7)
    topic.talk.deliveries()
    topic.talk.reconnect()
    topic.talk.resolve({"token": 2})
    assert topic.asked() == {"token": 2, "since": 7}


def test_a_message_without_an_id_does_not_move_it() -> None:
    topic = Resumed()
    for payload in ({"id": 1}, {"id": None}, {}, [2], b"\x00"):
        topic.talk.serve("room:1", "n", payload)
    topic.talk.receive('[null,null,"room:1","n",{"id":1e999}]')
    topic.handled(*topic.taken())
    assert topic.room.last_seen == 1


def test_events_can_be_chosen() -> None:
    topic = Resumed(Resume(by="id", param="since", events={"n"}))
    topic.serve(1)
    topic.serve(2, event="m")
    topic.handled(*topic.taken())
    assert topic.room.last_seen == 1


def test_what_no_handler_wants_is_passed_over_in_its_turn() -> None:
    topic = Resumed()
    topic.serve(1)
    topic.serve(2, event="unwanted")
    assert topic.room.last_seen is None
    topic.handled(*topic.taken())
    assert topic.room.last_seen == 2
    assert topic.talk.proto.stats.unhandled == 1


@pytest.mark.parametrize("drop", list(Drop))
def test_what_a_bound_drops_is_passed_over(drop: Drop) -> None:
    topic = Resumed(bound=Bound(1, drop))
    topic.serve(1, 2)
    topic.handled(*topic.taken())
    assert topic.room.last_seen == 2


def test_what_is_dropped_at_the_hard_bound_holds_all_after_it_back_until_the_next_join() -> None:
    topic = Resumed(limits=FlowLimits(low=0, high=1, hard=2))
    topic.serve(1, 2, 3)
    topic.handled(*topic.taken())
    topic.serve(4)
    topic.handled(*topic.taken())
    assert topic.rejoined() == {"since": 2}
    topic.serve(3, 4)
    topic.handled(*topic.taken())
    assert topic.room.last_seen == 4


def test_what_comes_while_the_client_drains_is_not_passed() -> None:
    topic = Resumed()
    topic.serve(1)
    topic.talk.proto.close(topic.talk.now)
    topic.serve(2)
    topic.handled(*topic.taken())
    assert topic.room.last_seen == 1


def test_so_many_handled_messages_wait_for_an_earlier_one_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("phx_proto.resume._MOST_PENDING", 3)
    topic = Resumed()
    topic.serve(1, 2, 3, 4, 5, event="m")
    first, *others = topic.taken()
    topic.handled(*others)
    topic.handled(first)
    assert topic.room.last_seen == 3


# ---- by a function --------------------------------------------------------------------------------------------------


def sequence(message: Message[Any]) -> Any:
    return message.payload["meta"]["seq"]


def by_function(*payloads: Any) -> Resumed:
    topic = Resumed(Resume(by=sequence, param="after", events={"n"}))
    topic.talk.resolve(topic.talk.questions[0].provider())
    topic.asked()
    for payload in payloads:
        topic.talk.serve("room:1", "n", payload)
    topic.talk.serve("room:1", "m", {})
    topic.handled(*topic.taken())
    topic.talk.reconnect()
    return topic


def test_a_function_is_called_by_the_adapter_when_it_joins() -> None:
    topic = by_function({"meta": {"seq": 8}}, {"meta": {"seq": 9}})
    (question,) = topic.talk.questions
    topic.talk.resolve(question.provider())
    assert topic.asked() == {"after": 9}
    assert topic.room.last_seen == 9


def test_a_function_that_gives_none_does_not_move_it() -> None:
    topic = by_function({"meta": {"seq": None}})
    topic.talk.resolve(topic.talk.questions[0].provider())
    assert topic.asked() == {}


def test_a_function_is_called_once_a_message_and_the_latest_id_stays() -> None:
    called: list[Any] = []

    def seq(message: Message[Any]) -> Any:
        called.append(message.payload["id"])
        return message.payload["id"]

    topic = Resumed(Resume(by=seq, param="since"))
    topic.talk.resolve(topic.talk.questions[0].provider())
    topic.asked()
    for one, last in ((1, 1), (None, 1), (2, 2)):
        topic.serve(one)
        topic.talk.deliveries()
        assert [topic.room.last_seen, topic.room.last_seen] == [last, last]
    assert called == [1, None, 2]


def test_a_function_that_raises_fails_the_attempt() -> None:
    topic = by_function({})
    with pytest.raises(KeyError) as caught:
        topic.talk.questions[0].provider()
    topic.talk.resolve_failed(caught.value)
    error = topic.talk.event(ChannelErrored).error
    assert isinstance(error, ResolveFailed)
    assert "params or the position of topic 'room:1' raised KeyError" in str(error)


# ---- misuse ---------------------------------------------------------------------------------------------------------


def test_params_that_are_no_object_are_refused_once_there_is_something_to_add() -> None:
    talk = Conversation().connect()
    room = talk.channel("room:1", [1], resume=Resume(by="id", param="since", start=1))
    with pytest.raises(InvalidPayload) as caught:
        room.join(talk.now)
    refused = InvalidPayload("room:1", "phx_join", "the params", "are no object, and resume adds 'since'")
    assert str(caught.value) == str(refused)
    room.leave(talk.now)


def test_without_resume_nothing_was_seen() -> None:
    talk = Conversation().connect()
    assert talk.joined("room:1").last_seen is None


# ---- whatever happens -----------------------------------------------------------------------------------------------


@given(st.data())
def test_the_server_is_never_told_past_a_message_that_was_not_handled(data: st.DataObject) -> None:
    """A server that gives again what comes after the position: every message is handled, whatever is cut."""
    topic = Resumed()
    served, handled, sent = 12, set[int](), 0
    waiting: list[Delivery] = []
    for _ in range(60):
        match data.draw(st.sampled_from(["serve", "handle", "cut"])):
            case "serve" if sent < served:
                sent += 1
                topic.serve(sent, event=data.draw(st.sampled_from(["n", "m"])))
                waiting += topic.taken()
            case "handle" if waiting:
                delivery = waiting.pop(data.draw(st.integers(0, len(waiting) - 1)))
                handled.add(delivery[1].payload["id"])
                topic.handled(delivery)
            case "cut":
                if data.draw(st.booleans()):
                    waiting.clear()  # as a program that ends, though this one goes on
                since = topic.rejoined().get("since", 0)
                assert set(range(1, since + 1)) <= handled
                sent = since
            case _:
                pass
