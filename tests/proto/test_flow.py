"""Back-pressure: when reading pauses, for how long, and what happens at the hard bound."""

from math import inf
from typing import Any

import pytest
from conversation import Conversation

from phx_proto.backoff import ReconnectPolicy
from phx_proto.commands import PauseReading, ResumeReading
from phx_proto.errors import ConnectionClosed, PushTimeout
from phx_proto.events import ChannelErrored, ChannelJoined, Closed, InboxOverflow, PushFailed
from phx_proto.flow import MIB, FlowLimits
from phx_proto.handlers.router import Router
from phx_proto.options import ClientOptions, JoinPolicy
from phx_proto.queues import LARGEST_TURN, Bound, Drop

TICK = '[null,null,"room:1","tick",{}]'


def talking(topics: tuple[str, ...] = ("room:1",), *, join: JoinPolicy | None = None, **limits: Any) -> Conversation:
    """Joined, with a handler for ticks; reading pauses at 10 messages and goes on at 3, by default."""
    router = Router()
    router.add(lambda message: None, "tick")
    flow = FlowLimits(**{"high": 10, "low": 3, **limits})
    talk = Conversation(ClientOptions(flow=flow, join=join or JoinPolicy()), router=router).connect()
    for topic in topics:
        talk.joined(topic)
    return talk


def paused(**limits: Any) -> Conversation:
    """At the high mark; the command that says so is not shown."""
    talk = talking(**limits)
    talk.receive(*[TICK] * 10)
    assert talk.commands() == [PauseReading(talk.link)]
    return talk


# ---- pausing and going on -------------------------------------------------------------------------------------------


def test_reading_goes_on_below_the_high_mark() -> None:
    talk = talking()
    talk.receive(*[TICK] * 9)
    assert talk.commands() == []


def test_reading_stands_still_at_the_high_mark() -> None:
    talk = talking()
    talk.receive(*[TICK] * 9)
    talk.receive(TICK)
    assert talk.commands() == [PauseReading(talk.link)]


def test_one_read_may_come_on_top() -> None:
    talk = talking()
    talk.receive(*[TICK] * 25)
    assert talk.commands() == [PauseReading(talk.link)]
    assert talk.proto.stats.backlog == 25


def test_a_pause_is_told_once() -> None:
    talk = paused()
    talk.receive(TICK)  # was on its way
    assert talk.commands() == []


def test_messages_of_all_topics_count_together() -> None:
    talk = talking(("room:1", "room:2"))
    talk.receive(*[TICK] * 5)
    talk.receive(*[TICK.replace("room:1", "room:2")] * 5)
    assert talk.commands() == [PauseReading(talk.link)]


def test_messages_that_nobody_handles_do_not_count() -> None:
    talk = talking()
    talk.receive(*[TICK.replace("tick", "tock")] * 100)
    assert (talk.commands(), talk.proto.stats.backlog) == ([], 0)


def test_reading_goes_on_at_the_low_mark() -> None:
    talk = paused()
    talk.handle(6)
    assert talk.commands() == []
    talk.handle(1)
    assert talk.commands() == [ResumeReading(talk.link)]


def test_reading_can_pause_again_and_again() -> None:
    talk = talking()
    for _ in range(3):
        talk.receive(*[TICK] * 10)
        talk.handle(10)
    assert [type(command) for command in talk.commands()] == [PauseReading, ResumeReading] * 3


# ---- a pause has an end ---------------------------------------------------------------------------------------------


def test_a_pause_lasts_ten_seconds_at_most() -> None:
    talk = paused()
    talk.advance(9.999)
    assert talk.commands() == []
    talk.advance(0.001)
    assert talk.commands() == [ResumeReading(talk.link)]


def test_after_the_longest_pause_a_mebibyte_is_read_whatever_the_backlog() -> None:
    talk = paused(hard=10**6)
    talk.advance(10.0)
    talk.commands()
    big = '[null,null,"room:1","tick",{"data":"' + "x" * 2**16 + '"}]'
    read = 0
    while read < MIB:
        talk.receive(big)
        read += len(big)
        assert talk.commands() == []
    talk.receive(TICK)
    assert talk.commands() == [PauseReading(talk.link)]


def test_all_that_is_read_counts_toward_the_mebibyte() -> None:
    talk = paused(hard=10**6)
    talk.advance(10.0)
    talk.commands()
    talk.receive("x" * 2**19, b"\xff" * 2**19)
    talk.receive(TICK)
    assert talk.commands() == [PauseReading(talk.link)]


def test_a_backlog_that_came_down_ends_the_allowance_too() -> None:
    talk = paused()
    talk.advance(10.0)
    talk.handle(10)
    talk.commands()
    talk.receive(*[TICK] * 10)
    assert talk.commands() == [PauseReading(talk.link)]


def test_a_client_whose_handlers_stand_still_reads_again_and_again() -> None:
    talk = paused(hard=10**6)
    for _ in range(5):
        talk.advance(10.0)
        talk.receive("x" * MIB)
        talk.receive(TICK)
    assert [type(command) for command in talk.commands()] == [ResumeReading, PauseReading] * 5


# ---- the hard bound -------------------------------------------------------------------------------------------------


def test_at_the_hard_bound_messages_are_dropped_counted_and_told() -> None:
    talk = talking(hard=20)
    talk.receive(*[TICK] * 20)
    talk.receive(TICK, TICK, TICK)
    assert talk.events() == [InboxOverflow(None, 3, 20)]
    assert (talk.proto.stats.dropped, talk.proto.stats.backlog) == (3, 20)


def test_an_overflow_is_told_once_a_read() -> None:
    talk = talking(hard=20)
    talk.receive(*[TICK] * 20)
    talk.receive(TICK, TICK)
    talk.receive(TICK)
    assert talk.events() == [InboxOverflow(None, 2, 20), InboxOverflow(None, 1, 20)]


def test_below_the_hard_bound_messages_are_delivered_again() -> None:
    talk = talking(hard=20)
    talk.receive(*[TICK] * 20)
    talk.receive(TICK)
    talk.handle(1)
    talk.receive(TICK)
    assert (talk.proto.stats.dropped, talk.proto.stats.delivered) == (1, 21)


def test_replies_are_heard_at_the_hard_bound() -> None:
    talk = talking(hard=20)
    talk.receive(*[TICK] * 20)
    room = talk.channels["room:1"]
    talk.reply(talk.push(room))
    assert len(talk.events()) == 1


def test_the_hard_bound_is_sixty_four_times_the_high_mark_if_it_is_not_given() -> None:
    assert FlowLimits().hard == 64_000
    assert FlowLimits(high=10, low=1).hard == 640
    assert FlowLimits(high=10, low=1, hard=10).hard == 10


@pytest.mark.parametrize(
    "limits",
    [
        {"low": -1},
        {"low": 1000},
        {"high": 0, "low": 0},
        {"hard": 999},
        {"low_bytes": -1},
        {"low_bytes": 8 * MIB},
        {"high_bytes": 0},
        {"hard_bytes": 1},
        {"longest_pause": 0.0},
        {"longest_pause": inf},
        {"longest_pause": float("nan")},
    ],
)
def test_limits_that_cannot_be_are_refused(limits: Any) -> None:
    with pytest.raises(ValueError, match=r"is needed|is positive|is at least 0"):
        FlowLimits(**limits)


@pytest.mark.parametrize(
    ("limits", "problem"),
    [
        ({"low": 1000}, "low < high <= hard is needed, not 1000, 1000, 64000"),
        ({"low_bytes": 9, "high_bytes": 8}, "low_bytes < high_bytes <= hard_bytes is needed, not 9, 8, 24"),
    ],
)
def test_limits_in_a_wrong_order_are_told_with_their_names_and_numbers(limits: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{problem}$"):
        FlowLimits(**limits)


def test_a_pause_may_be_shorter_than_a_second() -> None:
    talk = paused(longest_pause=0.5)
    talk.advance(0.5)
    assert talk.commands() == [ResumeReading(talk.link)]


# ---- somebody awaits an answer --------------------------------------------------------------------------------------


def test_reading_goes_on_while_a_call_awaits_its_reply() -> None:
    talk = talking()
    ref = talk.push(talk.channels["room:1"])
    talk.receive(*[TICK] * 10)
    assert talk.commands() == []
    talk.reply(ref)
    talk.receive(TICK)
    assert talk.commands() == [PauseReading(talk.link)]


def awaited_push(talk: Conversation) -> object:
    return talk.push(talk.channels["room:1"])


def awaited_join(talk: Conversation) -> object:
    return talk.joining("room:2")


def awaited_leave(talk: Conversation) -> object:
    return talk.leave(talk.channels["room:1"])


def awaited_ping(talk: Conversation) -> object:
    talk.answers_heartbeats = False
    return talk.ping()


@pytest.mark.parametrize("call", [awaited_push, awaited_join, awaited_leave, awaited_ping])
def test_a_call_that_awaits_an_answer_ends_a_pause(call: Any) -> None:
    talk = paused()
    call(talk)
    assert talk.commands() == [ResumeReading(talk.link)]
    talk.receive(TICK)
    assert talk.commands() == []


def test_a_cast_awaits_nothing() -> None:
    talk = paused()
    talk.cast(talk.channels["room:1"])
    assert talk.commands() == []


def test_reading_stands_still_when_the_awaited_push_has_timed_out() -> None:
    talk = talking()
    talk.push(talk.channels["room:1"], timeout=2.0)
    talk.receive(*[TICK] * 10)
    talk.advance(2.0)
    talk.receive(TICK)
    assert talk.commands() == [PauseReading(talk.link)]


# ---- bytes, beside messages -----------------------------------------------------------------------------------------


def large(length: int, topic: str = "room:1") -> str:
    """A frame of so many characters."""
    rest = f'[null,null,"{topic}","tick",""]'
    return f'[null,null,"{topic}","tick","{"x" * (length - len(rest))}"]'


def large_binary(length: int) -> bytes:
    header = bytes([2, 6, 4]) + b"room:1tick"
    return header + b"x" * (length - len(header))


def limited(**limits: Any) -> Conversation:
    """Joined; reading pauses at 10,000 bytes, goes on at 2,500, and at 40,000 messages are dropped."""
    return talking(high=1000, low=250, high_bytes=10_000, **{"hard_bytes": 40_000, **limits})


def test_reading_stands_still_at_the_high_mark_of_bytes() -> None:
    talk = limited()
    talk.receive(large(9_999))
    assert talk.commands() == []
    talk.receive(TICK)
    assert talk.commands() == [PauseReading(talk.link)]
    assert talk.proto.stats.backlog_bytes == 9_999 + len(TICK)


def test_reading_goes_on_when_messages_and_bytes_are_at_the_low_mark() -> None:
    talk = limited()
    talk.receive(*[large(1_000)] * 10)
    talk.commands()
    talk.handle(7)
    assert talk.commands() == []
    talk.handle(1)
    assert talk.commands() == [ResumeReading(talk.link)]


def test_at_the_hard_bound_of_bytes_messages_are_dropped_counted_and_told() -> None:
    talk = limited()
    talk.receive(*[large(1_000)] * 40)
    talk.receive(TICK, TICK)
    assert talk.events() == [InboxOverflow(None, 2, 40)]
    assert (talk.proto.stats.dropped, talk.proto.stats.backlog_bytes) == (2, 40_000)


def test_a_message_that_is_larger_than_all_bounds_is_delivered_where_there_is_room() -> None:
    talk = limited()
    talk.receive(large(50_000))
    assert [type(event) for event in talk.events()] == []
    assert (talk.proto.stats.dropped, talk.proto.stats.backlog) == (0, 1)


@pytest.mark.parametrize("call", [awaited_push, awaited_join, awaited_ping])
def test_a_call_that_is_never_answered_does_not_lift_the_hard_bound_of_bytes(call: Any) -> None:
    talk = limited()
    call(talk)
    for _ in range(100):
        talk.receive(*[large(1_000)] * 5)
    assert PauseReading(talk.link) not in talk.commands()
    assert talk.proto.stats.backlog_bytes == 40_000
    assert talk.proto.stats.dropped == 460


def test_messages_that_nobody_handles_hold_no_bytes() -> None:
    talk = limited()
    talk.receive(*[large(1_000).replace("tick", "tock")] * 100)
    assert (talk.commands(), talk.proto.stats.backlog_bytes) == ([], 0)


def test_bytes_that_several_have_count_once_until_the_last_is_done() -> None:
    talk = limited()
    room = talk.channels["room:1"]
    room.add(print, "tick", concurrency=1)
    talk.receive(large(4_000))
    for queue in talk.proto.runnable():
        assert (talk.proto.stats.backlog, talk.proto.stats.backlog_bytes) == (1, 4_000)
        talk.proto.handled(queue.take(), talk.now)
    assert (talk.proto.stats.backlog, talk.proto.stats.backlog_bytes) == (0, 0)


@pytest.mark.parametrize("frame", [large(2_000), large_binary(2_000), large(200), large_binary(200)])
def test_an_inbox_tells_the_bytes_of_what_it_gives(frame: str | bytes) -> None:
    talk = limited()
    talk.receive(frame)
    (inbox,) = talk.proto.runnable()
    ((_, _, size),) = inbox.take()
    assert size == talk.proto.stats.backlog_bytes
    assert len(frame) <= size < len(frame) + 50


def test_a_text_with_an_emoji_counts_as_what_it_takes_in_memory() -> None:
    talk = limited()
    talk.receive(large(1_000).replace("xx", "\U0001f600x"))
    assert talk.proto.stats.backlog_bytes > 4_000


@pytest.mark.parametrize("drop", list(Drop))
def test_a_message_that_gives_way_at_a_topics_bound_holds_no_bytes(drop: Drop) -> None:
    talk = limited()
    room = talk.proto.channel("room:2", bound=Bound(2, drop))
    room.join(talk.now)
    talk.reply(talk.sent()[-1].ref)
    talk.receive(large(5_000))  # of another topic
    talk.receive(*[large(number * 100, "room:2") for number in (1, 2, 3)])
    assert talk.proto.stats.backlog == 3
    assert talk.proto.stats.backlog_bytes == 5_000 + (500 if drop is Drop.OLDEST else 300)


def test_a_turn_of_large_messages_is_short() -> None:
    talk = talking(high=1000, low=250)
    talk.receive(TICK, *[large(LARGEST_TURN // 4)] * 5, large(2 * LARGEST_TURN), TICK)
    (inbox,) = talk.proto.runnable()
    assert [len(deliveries) for deliveries in iter(inbox.take, [])] == [4, 2, 1, 1]


def test_turns_are_as_long_as_they_may_be_where_little_is_held() -> None:
    talk = talking(high=1000, low=250)
    talk.receive(*[large(1_000)] * 300)
    (inbox,) = talk.proto.runnable()
    assert [len(deliveries) for deliveries in iter(inbox.take, [])] == [256, 44]


def test_the_bounds_on_bytes_follow_from_the_high_mark_where_they_are_not_given() -> None:
    assert FlowLimits().hard_bytes == 24 * MIB
    limits = FlowLimits(high_bytes=4_000)
    assert (limits.low_bytes, limits.hard_bytes) == (1_000, 12_000)


# ---- the reading clock ----------------------------------------------------------------------------------------------


def crashed_and_retrying(policy: JoinPolicy) -> Conversation:
    """A topic whose rejoin is sent, and not answered."""
    talk = talking(("room:1", "room:2"), join=policy, longest_pause=50.0)
    room = talk.channels["room:2"]
    talk.crash_channel("room:2", room.join_ref)
    talk.advance(1.0)
    assert [frame.event for frame in talk.sent()] == ["phx_join"]
    talk.events()
    return talk


def test_a_joins_clock_runs_while_reading_goes_on() -> None:
    talk = crashed_and_retrying(JoinPolicy(timeout=10.0))
    talk.advance(10.0)
    assert len([event for event in talk.events() if isinstance(event, ChannelErrored)]) == 1


def test_a_joins_clock_stands_still_with_reading() -> None:
    talk = crashed_and_retrying(JoinPolicy(timeout=10.0))
    talk.advance(4.0)
    talk.flow._pause(talk.now)  # an awaited join keeps reading going by itself
    talk.advance(50.0 + 5.999)
    assert talk.events() == []
    talk.advance(0.002)
    assert len([event for event in talk.events() if isinstance(event, ChannelErrored)]) == 1


def test_the_reading_clock_stands_still_in_every_pause() -> None:
    talk = paused()
    flow = talk.flow
    began = flow.clock(talk.now)
    for _ in range(2):
        talk.advance(3.0)
        talk.handle(10)
        talk.advance(1.0)
        talk.receive(*[TICK] * 10)
    talk.advance(3.0)
    assert flow.clock(talk.now) == began + 2.0


def test_nobody_is_woken_for_a_deadline_of_the_reading_clock_before_reading_can_have_gone_on() -> None:
    talk = paused(longest_pause=5.0)
    assert talk.flow.after(2.0, talk.now) == talk.now + 5.0 + 2.0


def test_a_callers_clock_runs_while_reading_stands_still() -> None:
    talk = paused()
    talk.push(talk.channels["room:1"], timeout=4.0)
    talk.flow._pause(talk.now)
    talk.advance(4.0)
    assert isinstance(talk.event(PushFailed).error, PushTimeout)


# ---- a connection that ends while it is not read --------------------------------------------------------------------


def test_a_pause_ends_with_its_connection_and_the_next_one_is_read() -> None:
    talk = paused()
    talk.drop()
    assert talk.commands() == []
    talk.advance(0.01)
    talk.accept()
    assert talk.commands() == []
    assert talk.proto.stats.backlog == 10


def test_a_connection_that_is_replaced_while_it_is_not_read_leaves_the_next_one_read() -> None:
    talk = paused()
    talk.proto.reconnect(talk.now)
    talk.accept()
    assert not talk.flow.paused


def test_a_client_may_end_for_good_while_reading_stands_still() -> None:
    router = Router()
    router.add(lambda message: None, "tick")
    options = ClientOptions(flow=FlowLimits(high=10, low=3), reconnect=ReconnectPolicy(final_codes=frozenset({1000})))
    talk = Conversation(options, router=router).connect()
    talk.joined("room:1")
    talk.receive(*[TICK] * 10)
    talk.drop(1000)
    assert isinstance(talk.event(Closed).error, ConnectionClosed)


def test_the_backlog_of_an_older_connection_stops_the_next_one_too() -> None:
    talk = paused()
    talk.reconnect()
    room = talk.channels["room:1"]
    talk.reply(room.join_ref)
    assert talk.event(ChannelJoined).rejoined
    talk.receive(TICK)
    assert talk.commands() == [PauseReading(talk.link)]


def test_the_allowance_ends_with_its_connection() -> None:
    talk = paused()
    talk.advance(10.0)
    talk.reconnect()
    talk.reply(talk.channels["room:1"].join_ref)
    talk.receive(TICK)
    assert talk.commands() == [PauseReading(talk.link)]


def test_handling_goes_on_between_connections() -> None:
    talk = paused()
    talk.drop()
    talk.handle(10)
    assert (talk.proto.stats.backlog, talk.commands()) == (0, [])
