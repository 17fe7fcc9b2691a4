"""What cannot be registered at a server is refused where it is written, not when a client comes."""

import asyncio
from typing import Any

import pytest

from phx_proto.errors import InvalidHandler
from phx_transports.server import Server, ServerChannel, on


class Room(ServerChannel): ...


def shout_once(channel: ServerChannel, payload: Any) -> None: ...


def shout_twice(channel: ServerChannel, payload: Any) -> None: ...


def test_an_event_has_one_method_in_a_class_and_a_subclass_may_have_another() -> None:
    with pytest.raises(InvalidHandler, match=r"Twice\.second .*'shout'.*Twice\.first already"):

        class Twice(ServerChannel):
            @on("shout")
            def first(self, payload: Any) -> None: ...

            @on("shout")
            def second(self, payload: Any) -> None: ...

    class Base(ServerChannel):
        @on("shout")
        def first(self, payload: Any) -> str:
            return "base"

        again = first  # another name of the same function

    class Derived(Base):
        @on("shout")
        def other(self, payload: Any) -> str:
            return "derived"

    assert asyncio.run(Derived().handle("shout", {})) == "derived"


def test_an_event_has_one_function_of_a_topic() -> None:
    server = Server()
    server.on("shout", topic="room:*")(shout_once)
    server.on("shout", topic="other:*")(shout_twice)
    with pytest.raises(InvalidHandler, match=r"shout_twice .*'shout'.*shout_once already"):
        server.on("shout", topic="room:*")(shout_twice)


@pytest.mark.parametrize(
    ("pattern", "problem"), [("room:*:x", r"before its end"), ("**", "before its end"), ("", "empty"), (5, "string")]
)
def test_what_is_no_pattern_of_topics_is_refused(pattern: Any, problem: str) -> None:
    server = Server()
    with pytest.raises(InvalidHandler, match=f"Room .*{problem}"):
        server.channel(pattern)(Room)
    with pytest.raises(InvalidHandler, match=f"shout_once .*{problem}"):
        server.on("shout", topic=pattern)(shout_once)
