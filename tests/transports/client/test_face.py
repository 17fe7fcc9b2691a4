"""A channel as the application sees it, the part that does not wait: each method is a step of the client's driver."""

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from phx_proto.client import ClientProtocol
from phx_proto.errors import InvalidHandler, InvalidState, NotRegistered
from phx_proto.handlers.handler import Handler
from phx_proto.queues import Bound, Drop
from phx_proto.resume import Resume
from phx_proto.states import ChannelState, SocketState
from phx_transports.client.face import ChannelFace, ClientFace


class Steps:
    """What the channel needs of a driver."""

    def __init__(self) -> None:
        self.count = 0
        self.proto = ClientProtocol("ws://127.0.0.1/socket")
        self.refused: list[Handler] | None = None

    def step(self, call: Any) -> Any:
        self.count += 1
        return call(7.0)

    def check_channel(self, topic: str, params: Any) -> None:
        self.checked = (topic, params)

    def check(self, handler: Handler) -> None:
        if self.refused is not None:
            self.refused.append(handler)
            raise InvalidHandler(handler.name, "it cannot run here")


class Client(ClientFace[Any, Any]):
    _channel_type = ChannelFace


class Room(ChannelFace[Any, Any]):
    def __init__(self) -> None:
        self.steps = Steps()
        self.core = ClientProtocol("ws://127.0.0.1/socket").channel("room:1")
        super().__init__(self.core, "the client", self.steps)


def handle(message: Any) -> None: ...


def test_it_shows_what_the_core_knows() -> None:
    room = Room()
    assert (room.topic, room.state, room.client) == ("room:1", ChannelState.IDLE, "the client")
    assert (room.response, room.last_seen) == (None, None)
    assert repr(room) == repr(room.core)
    with pytest.raises(pickle.PicklingError, match="the channel of topic 'room:1' cannot be pickled"):
        pickle.dumps(room)


@pytest.mark.parametrize("decorated", [False, True])
def test_a_handler_is_registered_with_all_that_is_said_of_it(decorated: bool) -> None:
    room = Room()
    with ThreadPoolExecutor(1) as pool:
        if decorated:
            assert room.on("n", payload=int, concurrency=2, executor=pool)(handle) is handle
            (handler,) = room.off("n")
        else:
            handler = room.add(handle, "n", payload=int, concurrency=2, executor=pool)
            assert room.off(handler) == (handler,)
    assert (handler.function, handler.event, handler.payload_type) == (handle, "n", int)
    assert (handler.concurrency, handler.executor) == (2, pool)
    assert room.steps.count == 2
    with pytest.raises(NotRegistered):
        room.off(handle)


def test_a_handler_that_cannot_run_here_is_not_kept() -> None:
    room = Room()
    room.steps.refused = []
    with pytest.raises(InvalidHandler, match="it cannot run here"):
        room.add(handle, "n")
    assert [handler.function for handler in room.steps.refused] == [handle]
    with pytest.raises(NotRegistered):
        room.off("n")


def test_presence_is_tracked_by_the_events_that_are_named() -> None:
    room = Room()
    with pytest.raises(InvalidState):
        _ = room.present
    presence = room.track_presence(state="who", diff="change")
    assert (presence.state_event, presence.diff_event, room.present) == ("who", "change", {})


def test_a_leave_may_be_begun_and_not_waited_for() -> None:
    room = Room()
    room.core.join(0.0)
    room.begin_leave()
    assert (room.state, room.steps.count) == (ChannelState.CLOSED, 1)


def test_a_client_makes_channels_with_all_that_is_said_of_them() -> None:
    steps: Any = Steps()
    client = Client(steps)
    channel = client.channel(
        "room:1", {"a": 1}, bound=Bound(7, Drop.OLDEST), resume=Resume(by="id", param="since", start=3)
    )
    assert (channel.topic, channel.client, channel.last_seen) == ("room:1", client, 3)
    core = steps.proto.channels["room:1"]
    assert (core.context, client.channels["room:1"]) == (channel, channel)
    assert (core.inbox.bound, steps.checked, steps.count) == (Bound(7, Drop.OLDEST), ("room:1", {"a": 1}), 1)
    steps.proto.connect(0.0)
    steps.proto.commands()[0].link.opened(None, 0.0)
    core.join(0.0)
    (join,) = steps.proto.commands()
    assert json.loads(join.data)[4] == {"a": 1, "since": 3}


def test_a_client_shows_what_its_core_knows() -> None:
    steps: Any = Steps()
    client = Client(steps)
    assert client.router is steps.proto.router
    assert (client.state, dict(client.channels)) == (SocketState.IDLE, {})
    assert repr(client) == "Client('ws://127.0.0.1/socket/websocket', idle)"
    unjoined = steps.proto.unjoined.context
    assert (type(unjoined), unjoined.client) == (ChannelFace, client)
