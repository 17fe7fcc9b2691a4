"""Whatever is joined, left and cut, and however the limit changes: each topic is joined once, no message twice."""

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Final, TypeVar

from farm import Farm, rooms
from player import Machine, rule

from phx_proto.errors import JoinCancelled
from phx_proto.events import ChannelEnded, ChannelErrored, Closed, JoinFailed
from phx_proto.options import ClientOptions, JoinPolicy
from phx_proto.states import SocketState

TOPICS: Final = rooms(1, 12)
#: Which of several, as a number whose bits say it.
SOME: Final = range(1, 2**12)

#: Nothing times out while it stands still.
_PATIENT: Final = ClientOptions(joins_in_flight=2, heartbeat=1e6, timeout=1e6, join=JoinPolicy(timeout=1e6))


class Sockets(Machine):
    """A client and its server, which agree on what is joined whenever all has come to rest."""

    @rule()
    def begin(self) -> None:
        self.farm = Farm(3, _PATIENT, rng=Random(0))
        self.farm.connect()
        self.joined: set[str] = set()
        self.left: set[str] = set()

    @rule(some=SOME)
    def join(self, some: int) -> None:
        topics = _chosen(TOPICS, some)
        new = [topic for topic in topics if topic not in self.joined]
        self.joined |= set(topics)
        self.farm.join(*new)

    @rule(lambda self: self.joined, some=SOME)
    def leave(self, some: int) -> None:
        topics = _chosen(sorted(self.joined), some)
        self.joined -= set(topics)
        self.left |= set(topics)
        self.farm.leave(*topics)

    @rule(lambda self: self.farm.links, some=SOME)
    def cut(self, some: int) -> None:
        self.farm.cut(*_chosen(range(len(self.farm.links)), some))

    @rule(lambda self: self.joined, pick=range(12))
    def crash(self, pick: int) -> None:
        self.farm.crash(sorted(self.joined)[pick % len(self.joined)])

    @rule(limit=(None, *range(1, 6)))
    def change_limit(self, limit: int | None) -> None:
        self.farm.limit = limit

    @rule(some=SOME)
    def broadcast(self, some: int) -> None:
        self.farm.broadcast(*_chosen(TOPICS, some))

    @rule(held=(False, True))
    def hold(self, held: bool) -> None:
        """What is under way stands still, or arrives."""
        self.farm.held = held
        self.farm.run()

    @rule(seconds=(0.01, 0.5, 2.0))
    def wait(self, seconds: float) -> None:
        self.farm.advance(seconds)

    def check(self) -> None:
        self._nothing_of_the_limit_is_told()
        self._no_message_comes_twice_and_all_in_order()
        self._the_sockets_and_the_channels_agree()

    def _nothing_of_the_limit_is_told(self) -> None:
        events = self.farm.events()
        failed = [event.error for event in events if isinstance(event, JoinFailed)]
        assert all(isinstance(error, JoinCancelled) for error in failed), "it was left before it was joined"
        assert not [event for event in events if isinstance(event, Closed)]
        ended = {event.topic for event in events if isinstance(event, ChannelEnded)}
        assert ended <= self.left
        told = [event.error for event in events if isinstance(event, ChannelErrored)]
        assert not [error for error in told if "too many" in str(error)]

    def _no_message_comes_twice_and_all_in_order(self) -> None:
        for numbers in self.farm.heard.values():
            assert numbers == sorted(set(numbers))

    def _the_sockets_and_the_channels_agree(self) -> None:
        sockets = self.farm.client._sockets.all
        members = Counter(channel for socket in sockets for channel in socket.members)
        assert set(members.values()) <= {1}, "a channel has two sockets"
        assert self.joined <= {channel.topic for channel in members}
        assert all(channel.socket is socket for socket in sockets for channel in socket.members)  # type: ignore[attr-defined]

    def finish(self) -> None:
        farm = self.farm
        farm.held = False
        farm.run()
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


_T = TypeVar("_T")


def _chosen(items: Sequence[_T], some: int) -> list[_T]:
    """Those whose bits are set; at least one."""
    chosen = [item for place, item in enumerate(items) if some >> place & 1]
    return chosen or [items[some % len(items)]]
