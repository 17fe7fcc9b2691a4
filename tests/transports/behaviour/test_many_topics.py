"""More topics than a server accepts on one socket; it accepts 100, as Phoenix does since 1.8.9."""

from collections import defaultdict
from itertools import count
from typing import Any

import pytest
from serving_in_thread import QUICK, start, until

from phx_proto.events import Connected, Disconnected, SocketEnded
from phx_proto.message import Message
from phx_proto.options import ClientOptions
from phx_proto.states import ChannelState, SocketState

from .adapters import Adapter
from .faces import Channel
from .house import House, house

TOPICS = [f"room:{number}" for number in range(350)]


class Crowd:
    """A client with all topics joined, and what its handlers were given of each."""

    def __init__(self, adapter: Adapter, server: House, **options: Any) -> None:
        self.server = server
        self.heard: defaultdict[str, list[int]] = defaultdict(list)
        handlers = adapter.handlers()
        handlers.add(self._hear, "n")
        users = count()
        params = lambda: {"user": f"user {next(users)}"}  # noqa: E731 - asked anew at every connect
        self.client = adapter.connect(server.url, router=handlers, params=params, **{"options": QUICK} | options)
        self.channels: list[Channel] = [self.client.join(topic) for topic in TOPICS]
        self._sent = 0

    def broadcast(self) -> None:
        """One more number to every topic; each was heard once, after those before it."""
        self._sent += 1
        self.server.broadcast(TOPICS, "n", {"n": self._sent})
        expected = list(range(1, self._sent + 1))
        until(lambda: all(len(self.heard[topic]) >= self._sent for topic in TOPICS))
        assert all(self.heard[topic] == expected for topic in TOPICS)

    def until_joined(self, times: int) -> None:
        """Until the server has had so many joins, and all of them have been answered."""
        until(lambda: len(self.server.joins) == times)
        until(lambda: all(channel.state is ChannelState.JOINED for channel in self.channels))

    def _hear(self, message: Message[Any]) -> None:
        self.heard[message.topic].append(message.payload["n"])


def test_350_topics_are_joined_on_four_sockets_and_live_through_cuts_of_one_and_of_all(adapter: Adapter) -> None:
    with house() as server:
        crowd = Crowd(adapter, server)
        assert (server.sockets, crowd.client.stats.sockets) == (4, 4)
        crowd.broadcast()
        with crowd.client.events() as events:
            server.disconnect("user 1")
            assert events.next_of(Disconnected).socket == 1
            crowd.until_joined(450)
            assert events.next_of(Connected).socket == 1
        crowd.broadcast()
        server.kill()
        until(lambda: crowd.client.state is SocketState.WAITING)
        server.up()
        crowd.until_joined(350)
        crowd.broadcast()
        assert server.sockets == 4
        assert crowd.client.channels.keys() == set(TOPICS)
        assert crowd.channels[-1].push("echo", 7).response == 7
        crowd.client.close()
        until(lambda: server.sockets == 0)


@pytest.mark.parametrize("transport", ["websocket", "longpoll"])
def test_a_number_that_is_given_is_kept_to(adapter: Adapter, transport: str) -> None:
    with house() as server:
        client = adapter.connect(server.url, transport=transport, options=ClientOptions(topics_per_socket=2))
        channels = [client.join(topic) for topic in TOPICS[:5]]
        assert (server.sockets, client.stats.sockets) == (3, 3)
        assert [channel.push("echo", number).response for number, channel in enumerate(channels)] == [0, 1, 2, 3, 4]
        channels[-1].leave()
        until(lambda: client.stats.sockets == 2)
        client.close()


def test_a_socket_without_a_topic_is_closed(adapter: Adapter) -> None:
    with house() as server:
        client = adapter.connect(server.url, options=ClientOptions(topics_per_socket=1))
        client.join(TOPICS[0])
        channel = client.join(TOPICS[1])
        with client.events() as events:
            channel.leave()
            assert events.next_of(SocketEnded) == SocketEnded(None, 1)
        until(lambda: server.sockets == 1)
        assert client.ping() > 0


def test_the_client_is_connected_when_all_sockets_are(adapter: Adapter) -> None:
    with house() as server:
        crowd = Crowd(adapter, server)
        with crowd.client.events() as events:
            server.kill()
            assert {events.next_of(Disconnected).socket for _ in range(4)} == {0, 1, 2, 3}
            waiting = start(crowd.client.wait_connected)
            server.up()
            assert {events.next_of(Connected).socket for _ in range(4)} == {0, 1, 2, 3}
        waiting.result(10)
        assert crowd.client.state is SocketState.OPEN
