"""The queue of a stream: which items it takes, what counts as not handled, and how it ends."""

from collections.abc import Sequence
from typing import Any

import pytest

from phx_proto.client import ClientProtocol
from phx_proto.errors import ChannelClosed, ConnectError, StreamNotOpen
from phx_proto.events import ChannelEnded, ChannelJoined, Closed, Connecting
from phx_proto.message import Message
from phx_proto.queues import Delivery
from phx_transports.client.queues import EventQueue, Item, MessageQueue, everything, messages_only
from phx_transports.client.session import Session

JOINED = ChannelJoined("room:1", "1", "1", {})
LEFT = ChannelEnded("room:1", None)
CLOSED = ChannelClosed("room:1", "the server closed it")


def message(event: str) -> Message[Any]:
    return Message(join_ref="1", ref=None, topic="room:1", event=event, payload={})


class ReadChannel:
    """A channel with one reader; `handled` is what he is done with."""

    def __init__(self, select: Any = everything) -> None:
        self.session = Session()
        self.channel = ClientProtocol("ws://127.0.0.1/socket").channel("room:1")
        self.handled = 0  # messages
        self.queue: MessageQueue[Any] = MessageQueue(self.channel, self.session, select, on_handled=self._on_handled)

    def _on_handled(self, deliveries: Sequence[Delivery]) -> None:
        self.handled += len(deliveries)

    def put(self, *items: Item) -> None:
        for item in items:
            for tap in self.channel.inbox.taps:
                tap.put(((), item, 100) if isinstance(item, Message) else item)


def test_what_is_read_is_handled_and_what_waits_is_not() -> None:
    room = ReadChannel()
    room.queue.open()
    room.put(JOINED, message("a"), message("b"))
    assert (room.queue.take(), room.queue.take().event) == (JOINED, "a")
    assert (room.handled, len(room.queue.waiting)) == (1, 1)  # the lifecycle does not count


def test_what_is_not_selected_is_handled_at_once() -> None:
    room = ReadChannel(messages_only)
    room.queue.open()
    room.put(JOINED, message("a"))
    assert [item.event for item in room.queue.waiting] == ["a"]
    assert room.handled == 0
    selective = ReadChannel(lambda item: None)
    selective.queue.open()
    selective.put(message("a"))
    assert (selective.handled, len(selective.queue.waiting)) == (1, 0)


def test_the_reader_is_woken_by_what_comes_by_the_end_and_by_the_closing() -> None:
    room, woken = ReadChannel(messages_only), [0]

    def wake() -> None:
        woken[0] += 1

    room.queue.open(wake)
    room.put(message("a"))
    assert woken == [1]
    room.put(LEFT)
    assert woken == [2]
    room.queue.close()
    assert woken == [3]


@pytest.mark.parametrize("select", [everything, messages_only])
def test_a_channel_that_is_left_ends_it_behind_its_messages(select: Any) -> None:
    room = ReadChannel(select)
    room.queue.open()
    room.put(message("a"), LEFT)
    assert room.queue.ended
    assert room.queue.error is None
    assert room.queue.take().event == "a"
    assert list(room.queue.waiting) == ([LEFT] if select is everything else [])


def test_what_ended_the_channel_is_the_readers_error() -> None:
    room = ReadChannel()
    room.queue.open()
    room.put(ChannelEnded("room:1", CLOSED))
    assert room.queue.error is CLOSED


@pytest.mark.parametrize("error", [SystemExit(), KeyboardInterrupt()])
def test_what_asks_for_the_programs_end_is_not_the_readers(error: BaseException) -> None:
    room = ReadChannel()
    room.queue.open()
    room.session.fail(error)
    room.put(LEFT)
    assert room.queue.error is None


def test_a_reader_that_has_not_opened_it_is_told_what_it_has_not_opened() -> None:
    for queue, name in (
        (ReadChannel().queue, "messages of topic 'room:1'"),
        (EventQueue(Session()), "client's events"),
    ):
        assert str(queue.error) == str(StreamNotOpen(name))
        queue.close() if isinstance(queue, MessageQueue) else None  # nobody is woken


def test_one_event_of_all_may_be_read() -> None:
    room = ReadChannel()
    queue: MessageQueue[Any] = MessageQueue(room.channel, room.session, everything, event="b", on_handled=print)
    assert queue.accept is None
    queue.open()
    (tap,) = room.channel.inbox.taps
    assert tap.event == "b"


def test_an_error_of_which_the_core_knows_nothing_is_the_readers_too() -> None:
    room, error = ReadChannel(), ZeroDivisionError()
    room.queue.open()
    room.session.fail(error)
    room.put(LEFT)
    assert room.queue.error is error


def test_it_has_ended_before_it_is_opened_after_it_was_closed_and_on_a_closed_channel() -> None:
    room = ReadChannel()
    assert room.queue.ended
    room.queue.open()
    assert not room.queue.ended
    room.queue.close()
    assert room.queue.ended
    room.channel.leave(0.0)
    room.queue.open()
    assert room.queue.ended


def test_what_was_on_its_way_when_it_was_closed_is_handled_and_dropped() -> None:
    room = ReadChannel()
    room.queue.open()
    (tap,) = room.channel.inbox.taps
    room.put(message("a"))
    room.queue.close()
    tap.put(((), message("b"), 100))
    assert (room.handled, len(room.queue.waiting)) == (2, 0)
    assert room.channel.inbox.taps == ()
    assert room.session.readers == set()


def test_once_released_everything_counts_as_handled_and_can_still_be_read() -> None:
    room = ReadChannel()
    room.queue.open()
    room.put(message("a"))
    room.session.release_readers()
    assert room.handled == 1
    room.put(message("b"))
    assert room.handled == 2
    assert [room.queue.take().event for _ in range(2)] == ["a", "b"]
    room.session.release_readers()
    assert room.handled == 2


@pytest.mark.parametrize(("error", "told"), [(CLOSED, CLOSED), (ZeroDivisionError(), None), (None, None)])
def test_the_clients_end_ends_it_with_its_error(error: Any, told: Any) -> None:
    room = ReadChannel()
    room.queue.open()
    room.put(message("a"))
    if error is not None:
        room.session.fail(error)
    room.session.end_readers()
    assert (room.handled, room.queue.ended, room.queue.error) == (1, True, error)
    assert [room.queue.take().event, room.queue.take()] == ["a", ChannelEnded("room:1", told)]
    room.session.end_readers()  # it has ended
    assert not room.queue.waiting


def test_events_are_kept_up_to_the_clients_end() -> None:
    session = Session()
    queue = EventQueue(session)
    session.settle([Connecting(1)])
    assert queue.ended
    queue.open()
    session.settle([Connecting(2), Closed(None)])
    assert queue.ended
    assert [queue.take(), queue.take()] == [Connecting(2), Closed(None)]
    queue.close()
    session.settle([Connecting(3)])
    assert not queue.waiting


def test_events_opened_after_the_clients_end_have_ended() -> None:
    session = Session()
    session.settle([Closed(ConnectError("down"))])
    queue = EventQueue(session)
    queue.open()
    assert queue.ended
    assert queue.error is None


def test_the_oldest_events_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EventQueue, "LIMIT", 2)
    session = Session()
    queue = EventQueue(session)
    queue.open()
    session.settle([Connecting(number) for number in range(5)])
    assert (queue.dropped, list(queue.waiting)) == (3, [Connecting(3), Connecting(4)])
