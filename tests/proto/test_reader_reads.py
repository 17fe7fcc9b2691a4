"""The reader's fast routes: every handler and stream gets the same as by its slower code, in the same order."""

import json
import sys
from collections import defaultdict
from typing import Any

import msgspec
from conversation import Conversation
from hypothesis import given, settings
from hypothesis import strategies as st

from phx_proto.errors import PayloadMismatch
from phx_proto.events import InboxOverflow
from phx_proto.handlers.handler import Handler
from phx_proto.handlers.router import Router
from phx_proto.inbox import Tap
from phx_proto.message import Message
from phx_proto.queues import Bound, ConcurrentQueue, Delivery, DeliveryQueue, Drop, HandlerQueue, Place, by_concurrency
from phx_proto.resume import Resume


class Count(msgspec.Struct):
    n: int


def count(message: Message[Count]) -> None: ...


def note(message: Message) -> None: ...


def execute(message: Message[Count]) -> None: ...


def placed(handler: Handler) -> Place:
    return Place.EXECUTOR if handler.function is execute else by_concurrency(handler)


#: The channels, with their options.
CHANNELS: dict[str, dict[str, Any]] = {
    "room:1": {},
    "room:2": {},  # shares its routes with the first
    "own:1": {},
    "executed:1": {},
    "bound:1": {"bound": Bound(2, Drop.OLDEST)},
    "resumed:1": {"resume": Resume(by="n", param="n")},
    "streamed:1": {},
    "present:1": {},
    "joining:1": {},  # the answer to its join is among the frames
}
TOPICS = [*CHANNELS, "unjoined:1", "unknown:1"]
HANDLED = ["line", "note", "both", "own", "several", "execute", "rare"]
OTHERS = ["presence_state", "presence_diff", "phx_close", "phx_error", "phx_reply", "phx_join"]
PAYLOADS = [*({"n": n} for n in range(8)), {"n": "x"}, {"joins": {"a": {"metas": [{"phx_ref": "1"}]}}, "leaves": {}}]


class World:
    """A client with handlers in every place, and what it got and told.

    Args:
        settings: Of every channel.
    """

    def __init__(self, **settings: Any) -> None:
        self.router = router = Router()
        for topic in ("*", "unjoined:*"):
            unjoined = topic != "*"
            router.add(count, "line", topic=topic, unjoined=unjoined)
            router.add(note, "note", topic=topic, unjoined=unjoined)
            router.add(note, "both", topic=topic, unjoined=unjoined)
            router.add(count, "both", topic=topic, concurrency=1, unjoined=unjoined)
            router.add(count, "own", topic=topic, concurrency=1, unjoined=unjoined)
            router.add(count, "several", topic=topic, concurrency=3, unjoined=unjoined)
            router.add(execute, "execute", topic=topic, unjoined=unjoined)
        self.talk = Conversation(router=router, placement=placed).connect()
        self.rooms = {topic: self.talk.channel(topic, **{**settings, **options}) for topic, options in CHANNELS.items()}
        for topic, room in self.rooms.items():
            self.talk.join(room)
            if topic != "joining:1":
                self.talk.reply(room.join_ref)
        self.refs = {topic: room.join_ref for topic, room in self.rooms.items()}
        self.rooms["own:1"].add(note, "rare", concurrency=1)
        self.rooms["executed:1"].add(execute, "rare")
        self.rooms["present:1"].track_presence()
        self.got = defaultdict[Any, list[Any]](list)
        self.events: list[str] = []  # their errors are equal to none
        self.taps: list[Tap] = []
        self.queues: list[DeliveryQueue] = []  # that workers have
        self.added: Handler | None = None
        self.listen("streamed:1")

    def frame(self, kind: tuple[str, str, str | None, Any]) -> str:
        topic, event, ref, payload = kind
        if topic == "joining:1" and event == "phx_reply":
            ref, payload = "current", {"status": "ok", "response": {}}
        join_ref = self.refs.get(topic) if ref == "current" else ref
        return json.dumps([join_ref, join_ref if event.startswith("phx_") else None, topic, event, payload])

    def listen(self, topic: str) -> None:
        self.taps.append(Tap(lambda item: None))
        self.rooms[topic].attach(self.taps[-1])

    def act(self, action: str) -> None:
        """What the application does between reads."""
        if action == "handle":
            self.handle()
        elif action == "begin":
            self.handle(turns=1)
        elif action == "listen":
            self.listen("room:2")
        elif action == "leave" and "room:1" in self.talk.channels:
            self.talk.leave(self.rooms["room:1"])
        elif action == "add or remove" and self.added is None:
            self.added = self.router.add(note, "own")
        elif action == "add or remove":
            self.router.off(self.added)  # type: ignore[arg-type]
            self.added = None
        events = self.talk.events()
        self.events += [str(event) for event in events if not isinstance(event, InboxOverflow)]  # these sum up a read

    def handle(self, turns: int = sys.maxsize) -> None:
        """What waits is handled: everything, or what each worker takes at first."""
        proto = self.talk.proto
        runnable, executable = proto.runnable(), proto.executable()
        assert all(queue.place is Place.EXECUTOR for queue in executable)
        assert not any(isinstance(queue, HandlerQueue) and queue.place is Place.EXECUTOR for queue in runnable)
        self.queues += [*runnable, *executable]
        alone = [queue for queue in self.queues if not isinstance(queue, ConcurrentQueue)]
        assert len({*alone}) == len(alone), "two workers have a queue"
        for queue in self.queues[:]:
            for _ in range(turns):
                deliveries = queue.take()
                if not deliveries:
                    self.queues.remove(queue)
                    break
                self.handled(queue, deliveries)
        for tap, item in proto.tapped():
            told = self.got[self.taps.index(tap)]
            if isinstance(item, tuple):
                told.append((item[1].event, item[1].join_ref, str(item[1].payload)))
                proto.handled([item], self.talk.now)
            else:
                told.append(str(item))

    def handled(self, queue: DeliveryQueue, deliveries: list[Delivery]) -> None:
        for handlers, message, _ in deliveries:
            for handler in handlers:
                name = (handler.name, handler.event, handler.topic, handler.concurrency)
                place = (isinstance(queue, HandlerQueue) and name, queue.channel.topic)
                self.got[place].append(
                    (name, message.topic, message.event, message.join_ref, accepted(handler, message))
                )
        self.talk.proto.handled(deliveries, self.talk.now)


def accepted(handler: Handler, message: Message) -> str:
    try:
        return str(handler.accept(message).payload)
    except PayloadMismatch as error:
        return str(error)


@st.composite
def conversations(draw: st.DrawFn) -> list[tuple[list[Any], str]]:
    """Reads, of few kinds of frames each, and what the application does after each."""
    some = {
        "topics": draw(st.lists(st.sampled_from(["room:1", "room:2"] * 4 + TOPICS), min_size=1, max_size=3)),
        "events": draw(st.lists(st.sampled_from(HANDLED * 2 + OTHERS), min_size=1, max_size=3)),
    }
    join_refs = st.sampled_from([None, None, None, "current", "99"])
    kinds = st.tuples(*map(st.sampled_from, some.values()), join_refs, st.sampled_from(PAYLOADS))
    actions = st.sampled_from(["handle", "begin", "listen", "leave", "add or remove", "none"])
    return draw(st.lists(st.tuples(st.lists(kinds, max_size=8), actions), max_size=8))


@given(conversations())
@settings(max_examples=3 * settings().max_examples)
def test_a_read_of_many_frames_is_as_reads_of_one_by_the_slower_code(steps: list[tuple[list[Any], str]]) -> None:
    fast, slow = World(), World(bound=Bound(1000, Drop.NEWEST))  # a channel with a bound has no fast routes
    for kinds, action in steps:
        fast.talk.receive(*map(fast.frame, kinds))
        for kind in kinds:
            slow.talk.receive(slow.frame(kind))
        for world in (fast, slow):
            world.act(action)
    for world in (fast, slow):
        world.act("handle")
    assert fast.got == slow.got
    assert fast.events == slow.events
    assert fast.talk.proto.stats == slow.talk.proto.stats
    assert fast.talk.proto.stats.backlog == 0
    Conversation.check_all()
