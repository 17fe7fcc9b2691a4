"""Whatever is joined, left and cut, and however the limit changes: each topic is joined once, no message twice."""

from collections import Counter
from random import Random

from farm import Farm, rooms
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from phx_proto.errors import JoinCancelled
from phx_proto.events import ChannelEnded, ChannelErrored, Closed, JoinFailed
from phx_proto.options import ClientOptions, JoinPolicy
from phx_proto.states import SocketState

TOPICS = rooms(1, 12)


#: Nothing times out while it stands still.
_PATIENT = ClientOptions(joins_in_flight=2, heartbeat=1e6, timeout=1e6, join=JoinPolicy(timeout=1e6))


class Sockets(RuleBasedStateMachine):
    """A client and its server, which agree on what is joined whenever all has come to rest."""

    def __init__(self) -> None:
        super().__init__()
        self.farm = Farm(3, _PATIENT, rng=Random(0))
        self.farm.connect()
        self.joined: set[str] = set()
        self.left: set[str] = set()

    @rule(topics=st.sets(st.sampled_from(TOPICS), min_size=1))
    def join(self, topics: set[str]) -> None:
        new = sorted(topics - self.joined)
        self.joined |= topics
        self.farm.join(*new)

    @precondition(lambda self: self.joined)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        topics = data.draw(st.sets(st.sampled_from(sorted(self.joined)), min_size=1))
        self.joined -= topics
        self.left |= topics
        self.farm.leave(*sorted(topics))

    @precondition(lambda self: self.farm.links)
    @rule(data=st.data())
    def cut(self, data: st.DataObject) -> None:
        numbers = data.draw(st.sets(st.integers(0, len(self.farm.links) - 1), min_size=1))
        self.farm.cut(*numbers)

    @precondition(lambda self: self.joined)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        self.farm.crash(data.draw(st.sampled_from(sorted(self.joined))))

    @rule(limit=st.integers(1, 5) | st.none())
    def change_limit(self, limit: int | None) -> None:
        self.farm.limit = limit

    @rule(topics=st.sets(st.sampled_from(TOPICS), min_size=1))
    def broadcast(self, topics: set[str]) -> None:
        self.farm.broadcast(*sorted(topics))

    @rule(held=st.booleans())
    def hold(self, held: bool) -> None:
        """What is under way stands still, or arrives."""
        self.farm.held = held
        self.farm.run()

    @rule(seconds=st.sampled_from([0.01, 0.5, 2.0]))
    def wait(self, seconds: float) -> None:
        self.farm.advance(seconds)

    @invariant()
    def nothing_of_the_limit_is_told(self) -> None:
        events = self.farm.events()
        failed = [event.error for event in events if isinstance(event, JoinFailed)]
        assert all(isinstance(error, JoinCancelled) for error in failed), "it was left before it was joined"
        assert not [event for event in events if isinstance(event, Closed)]
        ended = {event.topic for event in events if isinstance(event, ChannelEnded)}
        assert ended <= self.left
        told = [event.error for event in events if isinstance(event, ChannelErrored)]
        assert not [error for error in told if "too many" in str(error)]

    @invariant()
    def no_message_comes_twice_and_all_in_order(self) -> None:
        for numbers in self.farm.heard.values():
            assert numbers == sorted(set(numbers))

    @invariant()
    def the_sockets_and_the_channels_agree(self) -> None:
        sockets = self.farm.client._sockets.all
        members = Counter(channel for socket in sockets for channel in socket.members)
        assert set(members.values()) <= {1}, "a channel has two sockets"
        assert self.joined <= {channel.topic for channel in members}
        assert all(channel.socket is socket for socket in sockets for channel in socket.members)  # type: ignore[attr-defined]

    def teardown(self) -> None:
        farm = self.farm
        self.hold(held=False)
        farm.advance(60.0)
        joined = Counter(topic for topics in farm.topics() for topic in topics)
        assert joined == dict.fromkeys(self.joined, 1), "the server knows other topics than the client"
        assert farm.client.stats.sockets == len(farm.links)
        assert farm.topics().count([]) <= 1, "an empty socket is kept that is not the first"
        assert farm.state() is SocketState.OPEN
        farm.heard.clear()
        farm.broadcast(*sorted(self.joined))
        assert {topic: len(numbers) for topic, numbers in farm.heard.items()} == joined
        farm.client.close(farm.now)
        farm.run()
        assert farm.state() is SocketState.CLOSED
        assert (farm.links, farm.client.next_timeout()) == ([], None)
