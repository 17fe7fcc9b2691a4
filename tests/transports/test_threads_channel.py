"""Channels of a client on threads: joins, leaves, pushes, a full write buffer, messages one after another."""

import math
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from peer import push
from serving_in_thread import LONG, QUICK, Wire, connected, dial, joined, serving, start, tidy, until

from phx_proto.errors import (
    ChannelClosed,
    ChannelCrashed,
    InvalidPayload,
    InvalidState,
    JoinRefused,
    JoinTimeout,
    PushLost,
    PushRejected,
    PushTimeout,
)
from phx_proto.events import ChannelEnded, ChannelErrored
from phx_proto.inbox import Bound, Drop
from phx_proto.message import Message
from phx_proto.router import Router
from phx_proto.states import ChannelState
from phx_transports.threads import Channel

TOPIC = "room:lobby"


@pytest.fixture(autouse=True)
def _tidy() -> Iterator[None]:
    with tidy():
        yield


def payloads(messages: list[Message[Any]]) -> list[Any]:
    return [message.payload for message in messages]


# ---- joining and leaving --------------------------------------------------------------------------------------------


def test_a_join_gives_the_servers_answer() -> None:
    with connected() as (client, wire):
        channel = client.channel("room:1", {"name": "ann"})
        joining = start(channel.join)
        assert wire.accept("room:1", {"at": 5}).payload == {"name": "ann"}
        assert joining.result(LONG) == {"at": 5}
        assert (channel.state, channel.topic, channel.client) == (ChannelState.JOINED, "room:1", client)
        assert repr(channel) == "Channel('room:1', joined)"


def test_a_refused_join_raises_what_the_server_said_and_frees_the_topic() -> None:
    with connected() as (client, wire):
        joining = start(client.join, "room:1")
        wire.reply(wire.expect("phx_join"), {"reason": "who?"}, "error")
        with pytest.raises(JoinRefused, match="who"):
            joining.result(LONG)
        client.channel("room:1")


def test_a_join_without_an_answer_times_out_and_is_taken_back() -> None:
    with connected() as (client, wire):
        with pytest.raises(JoinTimeout):
            client.join("room:1", timeout=0.01)
        assert wire.expect("phx_join").join_ref == wire.expect("phx_leave").join_ref


def test_params_that_cannot_be_sent_are_refused_and_free_the_topic() -> None:
    with connected() as (client, _):
        with pytest.raises(InvalidPayload):
            client.join("room:1", {"a": object()})
        client.channel("room:1")


def test_a_second_join_of_a_channel_is_refused() -> None:
    with joined() as (channel, _, _), pytest.raises(InvalidState):
        channel.join()


def test_a_leave_waits_for_the_server_and_several_may_wait() -> None:
    with joined() as (channel, wire, _):
        leaving = [start(channel.leave) for _ in range(2)]
        wire.let_go()
        for one in leaving:
            one.result(LONG)
        assert channel.state is ChannelState.CLOSED


def test_a_leave_without_an_answer_is_over_in_time() -> None:
    with joined() as (channel, _, _):
        channel.leave(timeout=0.01)
        assert channel.state is ChannelState.CLOSED


def test_joined_leaves_at_the_end_of_the_block_whatever_ends_it() -> None:
    with connected() as (client, wire):

        def live() -> None:
            with client.joined("room:1"):
                raise ZeroDivisionError

        living = start(live)
        wire.accept()
        wire.let_go()
        with pytest.raises(ZeroDivisionError):
            living.result(LONG)


def test_a_topic_that_crashes_is_rejoined() -> None:
    with joined() as (channel, wire, join_ref), channel.stream(timeout=LONG) as stream:
        wire.push(TOPIC, "phx_error", {}, join_ref=join_ref)
        wire.accept()
        error, again = next(stream), next(stream)
        assert isinstance(error, ChannelErrored)
        assert isinstance(error.error, ChannelCrashed)
        assert again.rejoined  # type: ignore[union-attr]


# ---- pushes ---------------------------------------------------------------------------------------------------------


def test_replies_find_their_pushes_in_any_order() -> None:
    with joined() as (channel, wire, _):
        pushes = {name: start(channel.push, name) for name in ("a", "b", "c")}
        frames = [wire.receive() for _ in range(3)]
        for frame in reversed(frames):
            assert frame.payload == {}
            wire.reply(frame, frame.event)
        assert [pushed.result(LONG).response for pushed in pushes.values()] == ["a", "b", "c"]


def test_an_error_reply_is_raised_or_returned_as_wanted() -> None:
    with joined() as (channel, wire, _):
        for check in (True, False):
            pushing = start(channel.push, "a", check=check)
            wire.reply(wire.expect("a"), "no", "error")
            if check:
                with pytest.raises(PushRejected, match="no"):
                    pushing.result(LONG)
            else:
                assert pushing.result(LONG).status == "error"


def test_a_push_without_a_reply_times_out() -> None:
    with joined() as (channel, _, _), pytest.raises(PushTimeout) as caught:
        channel.push("slow", timeout=0.01)
    assert caught.value.sent


def test_a_push_is_lost_with_its_connection() -> None:
    with joined() as (channel, wire, _):
        pushing = start(channel.push, "slow")
        wire.expect("slow")
        wire.cut()
        with pytest.raises(PushLost) as caught:
            pushing.result(LONG)
        assert caught.value.sent


def test_a_push_before_the_join_is_sent_after_it() -> None:
    with connected() as (client, wire):
        channel = client.channel("room:1")
        joining = start(channel.join)
        join = wire.expect("phx_join")
        pushing = start(channel.push, "a", 1)
        channel.cast("b", 2)
        until(lambda: client._proto._wire.unsent == 2)
        wire.reply(join)
        frames = {frame.event: frame for frame in (wire.receive(), wire.receive())}
        assert {frame.join_ref for frame in frames.values()} == {join.join_ref}
        wire.reply(frames["a"])
        assert pushing.result(LONG).ok
        joining.result(LONG)


def test_bytes_travel_both_ways() -> None:
    with joined() as (channel, wire, join_ref), channel.messages(timeout=LONG) as messages:
        channel.cast("up", b"\x00\xff")
        frame = wire.expect("up", TOPIC)
        assert (frame.payload, frame.join_ref) == (b"\x00\xff", join_ref)
        wire.send(bytes([2, len(TOPIC), 4]) + TOPIC.encode() + b"down" + b"\x01\x02")
        message = next(messages)
        assert (message.event, message.payload) == ("down", b"\x01\x02")


@pytest.mark.parametrize("call", ["push", "cast"])
def test_what_cannot_be_sent_is_refused_at_the_call(call: str) -> None:
    with joined() as (channel, wire, _):
        with pytest.raises(InvalidPayload, match="price"):
            getattr(channel, call)("shout", {"price": math.inf})
        channel.cast("fine")
        wire.expect("fine")


def test_casts_of_many_threads_all_arrive_those_of_one_in_order() -> None:
    with joined() as (channel, wire, _):

        def work(worker: int) -> None:
            for number in range(100):
                channel.cast("n", [worker, number])

        workers = [start(work, number) for number in range(5)]
        work(5)  # the main thread, whose writing is done by another
        came: dict[int, list[int]] = {}
        for _ in range(600):
            worker, number = wire.expect("n").payload
            came.setdefault(worker, []).append(number)
        for one in workers:
            one.result(LONG)
        assert came == {worker: list(range(100)) for worker in range(6)}


# ---- a full write buffer --------------------------------------------------------------------------------------------

BIG = "x" * 200_000
CASTS = 100


def fill(channel: Channel, wire: Wire) -> Any:
    """Have somebody cast until he has to wait, for the server does not read."""
    wire.stop_reading()

    def cast() -> None:
        for _ in range(CASTS):
            channel.cast("big", BIG)

    casting = start(cast)
    until(lambda: channel.client._transport._senders == 1)  # type: ignore[attr-defined]
    return casting


def test_casts_wait_while_the_server_does_not_read_and_all_arrive_when_it_does() -> None:
    with joined() as (channel, wire, _):
        casting = fill(channel, wire)
        wire.read_on()
        for _ in range(CASTS):
            wire.expect("big")
        casting.result(LONG)


def test_a_push_waits_likewise_and_its_timeout_runs() -> None:
    with joined() as (channel, wire, _):
        casting = fill(channel, wire)
        with pytest.raises(PushTimeout) as caught:
            channel.push("small", timeout=0.02)
        assert not caught.value.sent
        pushing = start(channel.push, "small", timeout=math.inf)
        until(lambda: channel.client._transport._senders == 2)  # type: ignore[attr-defined]
        wire.read_on()
        for _ in range(CASTS + 1):
            frame = wire.receive()
            if frame.event == "small":
                wire.reply(frame)
        assert pushing.result(LONG).ok
        casting.result(LONG)


def test_who_waits_for_the_write_buffer_goes_on_when_the_connection_is_lost() -> None:
    with serving() as peer:
        client = dial(peer)
        wire = peer.wire()
        joining = start(client.join, TOPIC)
        wire.accept()
        channel = joining.result(LONG)
        casting = fill(channel, wire)
        wire.cut()
        wire = peer.wire()
        wire.accept()
        wire.expect("big")
        casting.result(LONG)
        client.abort()


def test_who_waits_for_the_write_buffer_goes_on_when_the_client_is_closed() -> None:
    with joined() as (channel, wire, _):
        casting = fill(channel, wire)
        channel.client.abort()
        with pytest.raises(ChannelClosed):
            casting.result(LONG)
        wire.read_on()


def test_reading_goes_on_while_nothing_can_be_written() -> None:
    with joined() as (channel, wire, _), channel.messages(timeout=LONG) as messages:
        casting = fill(channel, wire)
        for number in range(50):
            wire.push(TOPIC, "n", number)
        assert payloads([next(messages) for _ in range(50)]) == list(range(50))
        wire.read_on()
        casting.result(LONG)


# ---- messages one after another -------------------------------------------------------------------------------------


def test_a_stream_opened_before_the_join_misses_nothing() -> None:
    with connected() as (client, wire):
        channel = client.channel("room:1")
        with channel.messages(timeout=LONG) as messages:
            joining = start(channel.join)
            join = wire.expect("phx_join")
            wire.reply(join)
            wire.send(*(push("room:1", "n", number, join_ref=join.join_ref) for number in range(3)))
            joining.result(LONG)
            assert payloads([next(messages) for _ in range(3)]) == [0, 1, 2]


def test_messages_end_quietly_when_the_channel_is_left() -> None:
    with joined() as (channel, wire, _), channel.messages() as messages:
        wire.push(TOPIC, "a")
        reading = start(list[Any], messages)
        until(lambda: channel.client.stats.handled)
        leaving = start(channel.leave)
        wire.let_go()
        leaving.result(LONG)
        assert [message.event for message in reading.result(LONG)] == ["a"]


def test_messages_raise_what_ended_the_channel() -> None:
    with joined() as (channel, wire, join_ref), channel.messages(timeout=LONG) as messages:
        wire.send(push(TOPIC, "last"), push(TOPIC, "phx_close", {}, join_ref=join_ref))
        until(lambda: channel.state is ChannelState.CLOSED)
        assert next(messages).event == "last"
        for _ in range(2):
            with pytest.raises(ChannelClosed, match=TOPIC):
                next(messages)


def test_messages_of_a_closed_channel_end_at_once() -> None:
    with joined() as (channel, wire, _):
        leaving = start(channel.leave)
        wire.let_go()
        leaving.result(LONG)
        with channel.messages() as messages:
            assert list(messages) == []


@pytest.mark.parametrize("how", ["close", "abort"])
def test_messages_end_when_the_client_does(how: str) -> None:
    with joined() as (channel, wire, _), channel.stream() as stream:
        reading = start(list[Any], stream)
        closing = start(getattr(channel.client, how))
        if how == "close":
            wire.let_go()
        closing.result(LONG)
        assert reading.result(LONG) == [ChannelEnded(TOPIC, None)]


def test_the_stream_of_a_channel_never_joined_ends_with_the_client() -> None:
    with connected() as (client, _), client.channel("room:1").messages() as messages:
        reading = start(list[Any], messages)
        client.close()
        assert reading.result(LONG) == []


def test_what_waits_in_a_stream_when_the_client_closes_can_still_be_read() -> None:
    with joined() as (channel, wire, _), channel.messages() as messages:
        wire.send(*(push(TOPIC, "n", number) for number in range(3)))
        until(lambda: channel.client.stats.received == 4)
        closing = start(channel.client.close)
        wire.let_go()
        closing.result(LONG)
        assert channel.client.stats.backlog == 0
        assert payloads(list(messages)) == [0, 1, 2]


def test_every_stream_gets_every_message_and_so_do_handlers() -> None:
    router = Router()
    handled: list[Any] = []

    @router.on("n")
    def hear(message: Message[int]) -> None:
        handled.append(message.payload)

    with (
        joined(router=router) as (channel, wire, _),
        channel.messages(timeout=LONG) as one,
        channel.messages(timeout=LONG) as two,
    ):
        wire.send(*(push(TOPIC, "n", number) for number in range(3)))
        assert payloads([next(one) for _ in range(3)]) == payloads([next(two) for _ in range(3)]) == [0, 1, 2]
        until(lambda: handled == [0, 1, 2])
        until(lambda: channel.client.stats.backlog == 0)
        stats = channel.client.stats
        assert (stats.delivered, stats.handled) == (3, 3)


def test_two_readers_of_one_stream_share_it() -> None:
    with joined() as (channel, wire, _), channel.messages() as messages:
        readers = [start(list[Any], messages) for _ in range(2)]
        wire.send(*(push(TOPIC, "n", number) for number in range(4)))
        until(lambda: channel.client.stats.received == 5)
        leaving = start(channel.leave)
        wire.let_go()
        leaving.result(LONG)
        one, two = (reader.result(LONG) for reader in readers)
        assert sorted(payloads(one) + payloads(two)) == [0, 1, 2, 3]


def test_a_reader_ends_when_somebody_closes_his_stream() -> None:
    with joined() as (channel, _, _):
        with channel.messages() as messages:
            reading = start(list[Any], messages)
        assert reading.result(LONG) == []


def test_who_waits_for_a_message_waits_only_so_long_and_may_go_on() -> None:
    with joined() as (channel, wire, _), channel.messages(timeout=0.01) as messages:
        with pytest.raises(TimeoutError):
            next(messages)
        wire.push(TOPIC, "late")
        assert messages.next(timeout=LONG).event == "late"


def test_a_slow_reader_counts_as_backlog_until_he_goes() -> None:
    with joined() as (channel, wire, _):
        client = channel.client
        with channel.messages(timeout=LONG) as messages:
            wire.send(*(push(TOPIC, "n", number) for number in range(5)))
            until(lambda: client.stats.backlog == 5)
            next(messages)
            next(messages)
            assert client.stats.backlog == 3
        assert client.stats.backlog == 0


def test_a_stream_closed_while_messages_are_on_their_way_owes_nothing() -> None:
    with joined() as (channel, wire, _):
        entered, go_on = threading.Event(), threading.Event()

        @channel.on("n")
        def block(message: Message[Any]) -> None:
            entered.set()
            go_on.wait(LONG)

        with channel.messages():
            wire.send(push(TOPIC, "n"), push(TOPIC, "n"), push(TOPIC, "m"))
            assert entered.wait(LONG)
            until(lambda: channel.client.stats.delivered == 3)
        go_on.set()
        until(lambda: channel.client.stats.backlog == 0)


def test_wait_for_gives_the_next_message_that_is_meant() -> None:
    with joined() as (channel, wire, _):
        waiting = start(channel.wait_for, "n", lambda message: message.payload == 2, timeout=LONG)
        until(lambda: channel.client.streams)
        wire.send(push(TOPIC, "m", 2), push(TOPIC, "n", 1), push(TOPIC, "n", 2))
        assert waiting.result(LONG).payload == 2


def test_wait_for_waits_only_so_long() -> None:
    with joined() as (channel, _, _), pytest.raises(TimeoutError):
        channel.wait_for("never", timeout=0.01)


def test_wait_for_raises_what_ended_the_channel() -> None:
    with joined() as (channel, wire, _):
        waiting = start(channel.wait_for, "never")
        until(lambda: channel.client.streams)
        leaving = start(channel.leave)
        wire.let_go()
        leaving.result(LONG)
        with pytest.raises(ChannelClosed, match="it was left"):
            waiting.result(LONG)


def test_an_iterator_gets_its_messages_while_every_thread_is_busy() -> None:
    router = Router()
    go_on = threading.Event()
    router.add(lambda message: go_on.wait(LONG), "block")
    with connected(router=router) as (client, wire):
        topics = [f"room:{number}" for number in range(40)]
        for topic in topics:
            joining = start(client.join, topic)
            wire.accept()
            joining.result(LONG)
        joining = start(client.join, "free")
        wire.accept()
        with joining.result(LONG).messages(timeout=LONG) as messages:
            wire.send(*(push(topic, "block") for topic in topics), push("free", "n", 1))
            assert next(messages).payload == 1
        go_on.set()
        until(lambda: client.stats.backlog == 0)


# ---- handlers of its own, presence, bounds --------------------------------------------------------------------------


def test_a_channel_has_handlers_of_its_own_until_they_are_taken_back() -> None:
    with joined() as (channel, wire, _):
        seen: list[Any] = []
        handler = channel.add(lambda message: seen.append(message.payload), "n")
        wire.push(TOPIC, "n", 1)
        until(lambda: seen == [1])
        channel.off(handler)
        wire.push(TOPIC, "n", 2)
        until(lambda: channel.client.stats.unhandled == 1)
        assert seen == [1]


def test_presence_is_tracked() -> None:
    with joined() as (channel, wire, join_ref):
        channel.track_presence()
        wire.push(TOPIC, "presence_state", {"ann": {"metas": [{"phx_ref": "a"}]}}, join_ref=join_ref)
        until(lambda: list(channel.present) == ["ann"])


def test_a_bound_keeps_the_latest() -> None:
    router = Router()
    seen: list[Any] = []
    entered, go_on = threading.Event(), threading.Event()

    @router.on("n")
    def hear(message: Message[Any]) -> None:
        entered.set()
        go_on.wait(LONG)
        seen.append(message.payload)

    with connected(router=router, options=QUICK) as (client, wire):
        channel = client.channel("room:1", bound=Bound(2, Drop.OLDEST))
        joining = start(channel.join)
        wire.accept()
        joining.result(LONG)
        wire.push("room:1", "n", 0)
        assert entered.wait(LONG)
        wire.send(*(push("room:1", "n", number) for number in range(1, 10)))
        until(lambda: client.stats.received == 11)
        go_on.set()
        until(lambda: client.stats.backlog == 0)
        assert seen == [0, 8, 9]
        assert client.stats.dropped == 7
