"""The same as in `conversation_rules.py` over long polling, from the beginning or where a WebSocket fails.

To what may happen there it adds what may happen to HTTP requests: they are lost, with or without the server's having
them; overtake each other; reach the server twice; get an invalid answer; and never end.
"""

from collections.abc import Sequence
from typing import Final

from conversation_rules import PICK, THEN, Conversation
from network import Setup
from player import rule
from polled import Asked, PollingWorld

from phx_proto.server.longpoll import PollRequest

#: What may come instead of an answer; `None` if nothing does. The last two look like one, so that
#: what they stand for is lost unnoticed.
GARBAGE: Final[Sequence[tuple[int | None, bytes]]] = (
    (None, b""),
    (None, b""),
    (200, b""),
    (200, b"<html>"),
    (200, b"[]"),
    (200, b'{"status":"200"}'),
    (200, b'{"status":200,"token":"a\\r\\nb"}'),
    (200, b'{"status":403}'),
    (200, b'{"status":408}'),
    (200, b'{"status":410}'),
    (200, b'{"status":500}'),
    (302, b""),
    (400, b""),
    (403, b"no"),
    (413, b""),
    (429, b""),
    (500, b"{}"),
    (503, b'{"status":200}'),
    (200, b'{"status":204}'),
    (200, b'{"status":200,"messages":["junk",7,null]}'),
)


class Polling(Conversation):
    """Everything that may happen."""

    world: PollingWorld

    begin = rule(**Conversation.begin.choices, transport=("longpoll", "longpoll", "websocket"), fallback=(2.0,))(
        Conversation.begin.act
    )

    def make_world(self, setup: Setup) -> PollingWorld:
        return PollingWorld(setup)

    @rule(lambda self: self.world.under_way, pick=PICK, answer=GARBAGE, then=THEN)
    def fail_request(self, pick: int, answer: tuple[int | None, bytes], then: str) -> None:
        self.world.lossy |= answer in GARBAGE[-2:]
        self.world.fail(self.asked(pick), answer)
        self.then(then)

    @rule(lambda self: self.world.under_way, pick=PICK)
    def progress(self, pick: int) -> None:
        self.world.progress(self.asked(pick))

    @rule(lambda self: self.world.site.asked, pick=PICK)
    def repeat_request(self, pick: int) -> None:
        """A proxy sends a request twice, and has no use for the second answer."""
        asked = self.world.site.asked[pick % len(self.world.site.asked)].request
        self.world.lossy = True
        self.world.site.take(PollRequest(asked.method, asked.token, asked.content_type, asked.body))

    @rule(lambda self: self.world.site.asked or self.world.site.answered)
    def overtake(self) -> None:
        self.world.site.asked.rotate(1)
        self.world.site.answered.rotate(1)

    @rule(how=("refuse", "refuse", "crash"))
    def prepare_opening(self, how: str) -> None:
        """What the next opening of a session gets."""
        self.world.site.openings.append(how)

    @rule()
    def restart(self) -> None:
        self.world.site.restart()

    @rule()
    def speak_of_old_requests(self) -> None:
        self.world.speak_of_old_requests()

    @rule(lambda self: self.lively, pick=PICK, times=(3, 3, 30, 105), size=(0, 0, 0, 100_000), then=THEN)
    def burst(self, pick: int, times: int, size: int, then: str) -> None:
        """Much is sent at once."""
        life = self.life(pick)
        for _ in range(3 if size else times):
            self.world.cast(life, "echo", {"a": "x" * size})
        self.then(then)

    def asked(self, pick: int) -> Asked:
        under_way = list(self.world.under_way.values())
        return under_way[pick % len(under_way)]
