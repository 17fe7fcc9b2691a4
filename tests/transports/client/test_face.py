"""A channel as the application sees it, as far as nothing waits: each of its words is a step of the client's driver."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from phx_proto.client import ClientProtocol
from phx_proto.errors import InvalidHandler, InvalidState, NotRegistered
from phx_proto.handlers.handler import Handler
from phx_proto.states import ChannelState
from phx_transports.client.face import ChannelFace


class Steps:
    """What the channel needs of a driver."""

    def __init__(self) -> None:
        self.count = 0
        self.refused: list[Handler] | None = None

    def step(self, call: Any) -> Any:
        self.count += 1
        return call(7.0)

    def check(self, handler: Handler) -> None:
        if self.refused is not None:
            self.refused.append(handler)
            raise InvalidHandler(handler.name, "it cannot run here")


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
