"""One topic: its joins, its leave, its pushes, its own handlers, its presence."""

from dataclasses import replace
from decimal import Decimal
from math import inf
from typing import Any

import msgspec
import pytest
from peer import push
from serving_in_thread import LONG, QUICK, Flag, Wire, serving, start, until

from phx_proto.errors import (
    InvalidHandler,
    InvalidPayload,
    InvalidPayloadType,
    InvalidReply,
    InvalidState,
    JoinCancelled,
    JoinTimeout,
    NotJoined,
    PushRejected,
    PushTimeout,
    TopicInUse,
)
from phx_proto.events import ChannelJoined, PresenceChanged
from phx_proto.formats import V2
from phx_proto.message import Message, Reply
from phx_proto.options import JoinPolicy
from phx_proto.queues import Bound, Drop
from phx_proto.states import ChannelState

from .adapters import TOPIC, Adapter
from .faces import Channel
from .shared import leave, several_calls

# ---- joining and leaving --------------------------------------------------------------------------------------------


def test_a_join_gives_the_servers_answer(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        channel = client.channel("room:1", {"name": "ann"})
        joining = start(channel.join)
        join = wire.accept("room:1", {"at": 5})
        assert (join.payload, join.join_ref) == ({"name": "ann"}, join.ref)
        assert joining.result(LONG) == {"at": 5}
        assert (channel.state, channel.topic) == (ChannelState.JOINED, "room:1")
        assert channel.client.native is client.native
        assert repr(channel) == "Channel('room:1', joined)"
        assert channel.native.response == {"at": 5}


def test_join_params_may_be_a_callable(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        joining = start(client.join, "room:1", lambda: {"since": 7})
        assert wire.accept().payload == {"since": 7}
        joining.result(LONG)


def test_a_join_without_an_answer_times_out_and_is_taken_back(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        with pytest.raises(JoinTimeout):
            client.join("room:1", timeout=0.01)
        assert wire.expect("phx_join").join_ref == wire.expect("phx_leave").join_ref


def test_params_that_cannot_be_sent_are_refused_and_free_the_topic(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        with pytest.raises(InvalidPayload):
            client.join("room:1", {"a": object()})
        adapter.join(client, wire, "room:1")


def test_a_second_join_of_a_channel_is_refused(adapter: Adapter) -> None:
    with adapter.joined() as (channel, _, _), pytest.raises(InvalidState):
        channel.join()


def test_two_live_channels_of_one_topic_are_refused(adapter: Adapter) -> None:
    with adapter.connected() as (client, _):
        client.channel("room:1")
        with pytest.raises(TopicInUse):
            client.channel("room:1")


def test_a_client_knows_its_live_channels_by_topic(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        channels = client.channels
        assert (dict(channels), len(channels)) == ({}, 0)
        waiting = client.channel("room:2")
        joined, _ = adapter.join(client, wire, "room:1")
        assert list(channels) == ["room:2", "room:1"]
        assert list(channels.items()) == [("room:2", waiting.native), ("room:1", joined.native)]
        assert list(channels.values()) == [waiting.native, joined.native]
        assert repr(channels) == "Channels({'room:2': Channel('room:2', idle), 'room:1': Channel('room:1', joined)})"
        leave(joined, wire)
        waiting.leave()
        assert (len(channels), channels.get("room:1")) == (0, None)
        with pytest.raises(TypeError):
            channels["room:3"] = waiting.native  # type: ignore[index]


def test_a_leave_waits_for_the_server(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, join_ref):
        leaving = start(channel.leave)
        frame = wire.expect("phx_leave", TOPIC)
        assert frame.join_ref == join_ref
        assert not leaving.done()
        wire.reply(frame)
        leaving.result(LONG)
        assert channel.state is ChannelState.CLOSED
        channel.leave()  # once more does nothing


def test_a_leave_without_an_answer_is_over_in_time(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        channel.leave(timeout=0.01)
        assert channel.state is ChannelState.CLOSED
        wire.expect("phx_leave")


def test_joined_leaves_at_the_end_of_the_block(adapter: Adapter) -> None:
    channels: list[Channel] = []
    with adapter.connected() as (client, wire):

        def live() -> None:
            with client.joined("room:1", {"a": 1}) as channel:
                channels.append(channel)
                assert channel.state is ChannelState.JOINED

        living = start(live)
        assert wire.accept().payload == {"a": 1}
        wire.let_go("room:1")
        living.result(LONG)
        assert channels[0].state is ChannelState.CLOSED


def test_joined_that_an_exception_ends_sends_the_leave_and_does_not_wait(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):

        def live() -> None:
            with client.joined("room:1"):
                raise ZeroDivisionError

        living = start(live)
        wire.accept()
        with pytest.raises(ZeroDivisionError):
            living.result(LONG)  # the peer has not answered the leave
        leave = wire.expect("phx_leave", "room:1")
        wire.reply(leave)
        joining = start(client.join, "room:1")
        wire.accept("room:1")
        joining.result(LONG)


def test_a_client_that_an_exception_ends_with_what_is_joined_sends_the_leave_and_does_not_wait(
    adapter: Adapter,
) -> None:
    with serving() as peer:

        def live() -> None:
            with adapter.connecting(peer.url) as client, client.joined("room:1"):
                raise ZeroDivisionError

        living = start(live)
        wire = peer.wire()
        wire.accept()
        with pytest.raises(ZeroDivisionError):
            living.result(LONG)
        wire.expect("phx_leave", "room:1")
        assert wire.ended() is None


@several_calls
def test_two_who_leave_at_once_both_come_to_an_end(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        leaving = [start(channel.leave) for _ in range(2)]
        wire.let_go()
        for one in leaving:
            one.result(LONG)
        assert channel.state is ChannelState.CLOSED


@several_calls
def test_leaving_while_the_join_is_unanswered_ends_the_join(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        channel = client.channel("room:1")
        joining = start(channel.join)
        wire.expect("phx_join")
        leaving = start(channel.leave)
        with pytest.raises(JoinCancelled):
            joining.result(LONG)
        wire.let_go()
        leaving.result(LONG)


def test_the_policys_join_timeout_is_the_default(adapter: Adapter) -> None:
    with adapter.connected(options=replace(QUICK, join=JoinPolicy(timeout=0.02))) as (client, wire):
        with pytest.raises(JoinTimeout):
            client.join("room:1")
        wire.expect("phx_join", "room:1")


# ---- pushes ---------------------------------------------------------------------------------------------------------


def test_a_push_gives_its_reply(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, join_ref):
        pushing = start(channel.push, "shout", {"body": "hi"})
        frame = wire.expect("shout", TOPIC)
        assert (frame.payload, frame.join_ref) == ({"body": "hi"}, join_ref)
        wire.reply(frame, {"id": 7})
        reply = pushing.result(LONG)
        assert (reply.status, reply.response) == ("ok", {"id": 7})


def test_a_push_without_a_payload_sends_an_empty_object(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        pushing = start(channel.push, "shout")
        frame = wire.expect("shout")
        wire.reply(frame)
        assert frame.payload == {}
        assert pushing.result(LONG).response == {}


@several_calls
def test_replies_find_their_pushes_in_any_order(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        pushes = {name: start(channel.push, name) for name in ("a", "b", "c")}
        frames = [wire.receive() for _ in range(3)]
        for frame in reversed(frames):
            wire.reply(frame, frame.event)
        assert [pushed.result(LONG).response for pushed in pushes.values()] == ["a", "b", "c"]


def test_a_reply_with_status_error_is_raised_or_returned_as_wanted(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        for check in (True, False):
            pushing = start(channel.push, "a", check=check)
            wire.reply(wire.expect("a"), "no", "error")
            if check:
                with pytest.raises(PushRejected, match="no"):
                    pushing.result(LONG)
            else:
                assert pushing.result(LONG).status == "error"


def test_a_push_on_a_channel_that_was_never_joined_is_refused(adapter: Adapter) -> None:
    with adapter.connected() as (client, _):
        channel = client.channel("room:1")
        with pytest.raises(NotJoined):
            channel.push("a")
        assert repr(channel) == "Channel('room:1', idle)"


@several_calls
def test_a_push_before_the_join_is_sent_after_it(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        channel = client.channel("room:1")
        joining = start(channel.join)
        join = wire.expect("phx_join")
        channel.cast("a", 1)
        pushing = start(channel.push, "b", 2)
        wire.reply(join)
        frame = wire.expect("a")
        assert (frame.payload, frame.join_ref) == (1, join.join_ref)
        wire.reply(wire.expect("b"))
        assert pushing.result(LONG).ok
        joining.result(LONG)


def test_a_cast_wants_no_reply(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, join_ref):
        channel.cast("shout", {"n": 1})
        frame = wire.expect("shout", TOPIC)
        assert (frame.payload, frame.join_ref) == ({"n": 1}, join_ref)


def test_bytes_travel_both_ways(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, join_ref), channel.messages() as messages:
        channel.cast("up", b"\x00\xff")
        frame = wire.expect("up", TOPIC)
        assert (frame.payload, frame.join_ref) == (b"\x00\xff", join_ref)
        wire.send(bytes([2, len(TOPIC), 4]) + TOPIC.encode() + b"down" + b"\x01\x02")
        message = next(messages)
        assert (message.event, message.payload) == ("down", b"\x01\x02")


def test_pushes_wait_for_a_server_that_does_not_read_and_all_arrive_when_it_does(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        wire.stop_reading()
        sent: list[bool] = []
        while not sent or sent[-1]:
            with pytest.raises(PushTimeout) as caught:
                channel.push("big", "x" * 1_000_000, timeout=0.01)
            sent.append(caught.value.sent)
        assert 1 < len(sent) < 40
        wire.read_on()
        for _ in sent[:-1]:
            wire.expect("big")
        channel.cast("small")
        wire.expect("small")


def test_a_reply_that_cannot_be_read_ends_its_push_at_once(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, join_ref):
        pushing = start(channel.push, "sum", {}, timeout=inf)
        ref = wire.expect("sum").ref
        wire.send(f'["{join_ref}","{ref}","{TOPIC}","phx_reply",{{"status":"ok","response":{{"n":1e400}}}}]')
        with pytest.raises(InvalidReply, match=r"answered 'sum' on topic 'room:lobby', .* Number out of range"):
            pushing.result(LONG)
        asking = start(channel.push, "again")
        wire.reply(wire.expect("again"), 1)
        assert asking.result(LONG).response == 1


class Sum(msgspec.Struct):
    total: Decimal
    parts: dict[str, Any]


OPEN = '{"total":1234567890123456.78,"parts":{"a":0.10}}'


def answer(wire: Wire, join_ref: str, response: str, status: str = "ok") -> None:
    ref = wire.expect("sum").ref
    wire.send(f'["{join_ref}","{ref}","{TOPIC}","phx_reply",{{"status":"{status}","response":{response}}}]')


def test_a_reply_comes_in_the_type_that_was_asked_for_with_every_number_as_it_was_written(adapter: Adapter) -> None:
    with adapter.joined(serializer=V2(floats=Decimal)) as (channel, wire, join_ref):
        pushing = start(channel.push, "sum", response=Sum)
        answer(wire, join_ref, OPEN)
        total = Decimal("1234567890123456.78")
        assert repr(pushing.result(LONG)) == repr(Reply("ok", Sum(total, {"a": Decimal("0.10")})))


def test_the_answer_to_a_join_comes_in_the_type_that_was_asked_for(adapter: Adapter) -> None:
    with adapter.connected(serializer=V2(floats=Decimal)) as (client, wire):
        channel = client.channel(TOPIC)
        joining = start(channel.join, response=Sum)
        ref = wire.expect("phx_join").ref
        wire.send(f'["{ref}","{ref}","{TOPIC}","phx_reply",{{"status":"ok","response":{OPEN}}}]')
        total = Sum(Decimal("1234567890123456.78"), {"a": Decimal("0.10")})
        assert repr(joining.result(LONG)) == repr(channel.native.response) == repr(total)


def test_an_answer_to_a_join_that_does_not_fit_is_an_invalid_reply_and_the_topic_is_left(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        joining = start(client.join, TOPIC, response=Sum)
        join = wire.accept(TOPIC, {"total": "s3cret"})
        with pytest.raises(InvalidReply, match="its response is not a Sum: Invalid decimal string"):
            joining.result(LONG)
        leave = wire.expect("phx_leave")
        assert leave.join_ref == join.join_ref
        adapter.join(client, wire)


def test_a_join_whose_answer_can_be_of_no_such_type_is_not_sent_and_its_topic_stays_free(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire):
        with pytest.raises(InvalidPayloadType):
            client.join(TOPIC, response="Sum")
        adapter.join(client, wire)


def test_a_response_that_does_not_fit_says_what_is_wrong_with_it(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, join_ref):
        for response, problem in (('{"total":"s3cret"}', "Invalid decimal string"), ("[1e999]", "Expected `object`")):
            pushing = start(channel.push, "sum", response=Sum)
            answer(wire, join_ref, response)
            with pytest.raises(InvalidReply) as misfit:
                pushing.result(LONG)
            assert str(misfit.value).startswith(
                f"the server answered 'sum' on topic '{TOPIC}', and its reply cannot be read: "
                f"its response is not a Sum: {problem}"
            )
            assert "s3cret" not in repr(misfit.value)


def test_an_error_reply_stays_as_it_came_whatever_type_was_asked_for(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, join_ref):
        for check in (True, False):
            pushing = start(channel.push, "sum", response=Sum, check=check)
            answer(wire, join_ref, '{"reason":"no"}', "error")
            if check:
                with pytest.raises(PushRejected) as rejected:
                    pushing.result(LONG)
                assert rejected.value.response == {"reason": "no"}
            else:
                assert pushing.result(LONG).response == {"reason": "no"}


def test_a_push_whose_response_can_be_of_no_such_type_is_not_sent(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        with pytest.raises(InvalidPayloadType):
            channel.push("sum", response="Sum")
        channel.cast("next")
        assert wire.receive().event == "next"


# ---- handlers of its own, presence, bounds --------------------------------------------------------------------------


def test_a_channel_has_handlers_of_its_own_until_they_are_taken_back(adapter: Adapter) -> None:
    with adapter.joined() as (channel, wire, _):
        seen: list[Any] = []
        adapter.join(channel.client, wire, "room:2")

        @channel.on("n")
        def first(message: Message[Any]) -> None:
            seen.append(("first", message.payload))

        def second(message: Message[Any], channel: Channel) -> None:
            seen.append((channel.topic, message.payload))

        handler = channel.add(second, "n")
        wire.push(TOPIC, "n", 1)
        until(lambda: len(seen) == 2)
        channel.off(handler)
        wire.push("room:2", "n", 2)
        wire.push(TOPIC, "n", 3)
        until(lambda: len(seen) == 3)
        assert sorted(seen) == [("first", 1), ("first", 3), (TOPIC, 1)]
        assert channel.client.stats.unhandled == 1
        with pytest.raises(InvalidHandler):
            channel.add(second, "phx_reply")


def test_presence_is_tracked_and_its_changes_are_told(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire), client.events() as events:
        channel = client.channel("room:1")
        with pytest.raises(InvalidState, match=r"on topic 'room:1' while .* track_presence comes first"):
            _ = channel.present
        assert channel.track_presence().entries == channel.present == {}
        joining = start(channel.join)
        join_ref = wire.accept().join_ref
        joining.result(LONG)
        ann, bob = {"metas": [{"phx_ref": "a"}]}, {"metas": [{"phx_ref": "b"}]}
        wire.push("room:1", "presence_state", {"ann": ann}, join_ref=join_ref)
        events.next_of(PresenceChanged)
        assert list(channel.present) == ["ann"]
        wire.push("room:1", "presence_diff", {"joins": {"bob": bob}, "leaves": {"ann": ann}})
        change = events.next_of(PresenceChanged)
        assert (change.topic, list(channel.present)) == ("room:1", ["bob"])


class Meta(msgspec.Struct):
    limit: Decimal


class Entry(msgspec.Struct):
    metas: list[Meta]


@pytest.mark.parametrize("floats", [float, Decimal])
def test_decimals_of_presence_are_exact_in_its_entries_and_in_typed_handlers(adapter: Adapter, floats: Any) -> None:
    handlers = adapter.handlers()
    seen: list[Any] = []
    handlers.add(lambda message: seen.append(message.payload), "presence_state", payload=dict[str, Entry])
    with adapter.connected(router=handlers, serializer=V2(floats=floats)) as (client, wire):
        channel = client.channel("room:1")
        channel.track_presence()
        joining = start(channel.join)
        join_ref = wire.accept().join_ref
        joining.result(LONG)
        state = '{"ann":{"metas":[{"phx_ref":"a","limit":12.30}]}}'
        wire.send(f'["{join_ref}",null,"room:1","presence_state",{state}]')
        until(lambda: channel.present and seen)
        limit = channel.present["ann"]["metas"][0]["limit"]
        assert (type(limit), str(limit)) == (floats, str(floats("12.30")))
        assert str(seen[0]["ann"].metas[0].limit) == "12.30"


def test_who_joins_and_leaves_is_told_to_handlers_and_streams_that_name_it(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    seen: list[Any] = []
    handlers.add(lambda message: seen.append(list(message.payload)), "presence_join")
    with adapter.connected(router=handlers) as (client, wire):
        channel = client.channel("room:1")
        channel.track_presence(state="here", diff="moved")
        with channel.messages("presence_leave", payload=dict[str, Entry]) as leaves:
            joining = start(channel.join)
            join_ref = wire.accept().join_ref
            joining.result(LONG)
            ann = {"ann": {"metas": [{"phx_ref": "a", "limit": 1}]}}
            wire.send(push("room:1", "here", ann, join_ref=join_ref))
            wire.send(push("room:1", "moved", {"joins": {}, "leaves": ann}))
            assert next(leaves).payload["ann"].metas[0].limit == 1
            until(lambda: seen == [["ann"]])


def test_a_bound_keeps_the_latest(adapter: Adapter) -> None:
    handlers = adapter.handlers()
    seen: list[Any] = []
    entered, go_on = Flag(), Flag()

    @handlers.on("n")
    def hear(message: Message[Any]) -> None:
        entered.set()
        adapter.wait(go_on)
        seen.append(message.payload)

    with adapter.connected(router=handlers) as (client, wire):
        channel = client.channel("room:1", bound=Bound(2, Drop.OLDEST))
        joining = start(channel.join)
        wire.accept()
        joining.result(LONG)
        wire.push("room:1", "n", 0)
        entered.wait()
        wire.send(*(push("room:1", "n", number) for number in range(1, 10)))
        until(lambda: client.stats.received == 11)
        go_on.set()
        until(lambda: client.stats.backlog == 0)
        assert seen == [0, 8, 9]
        assert client.stats.dropped == 7


def test_a_join_is_told_among_the_clients_events(adapter: Adapter) -> None:
    with adapter.connected() as (client, wire), client.events() as events:
        channel, _ = adapter.join(client, wire)
        joined = events.next_of(ChannelJoined)
        assert (joined.topic, joined.rejoined) == (channel.topic, False)
