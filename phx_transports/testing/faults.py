"""Faults set by a test, at the server's end of a real connection: between the network and the application's sockets.

What clients send passes through here before the server gets it. It all runs on the server's loop; a test sets `Faults`
from any thread.
"""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any

from phx_proto.checks import check_count
from phx_proto.formats import V1Server, V2Server
from phx_proto.message import HEARTBEAT, PHOENIX_TOPIC

from ..server.handshake import RefuseConnect, refuse
from ..server.http import HttpRequest
from ..server.wire import ServerWire, WireEvents
from ..websocket.cutter import Received
from .transcript import Side, decoded
from .wiretap import Wiretap


class Faults:
    """The faults; none by default. May be changed at any time, also from another thread.

    Attributes:
        delay: Seconds by which messages from clients are delayed. The end of a connection is not: what is still delayed
            then is lost. A client that closes leaves its topics first, and so waits for what it sent on them.
        heartbeats: Whether heartbeats reach the server; if not, they get no answer.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.heartbeats = True
        self._frames_left: int | None = None
        self.refusals: deque[RefuseConnect] = deque()  # of the next handshakes

    def swallow_heartbeats(self) -> None:
        """Drop all heartbeats, like a server that hangs."""
        self.heartbeats = False

    def cut_after(self, frames: int) -> None:
        """Let so many more frames through, of all clients together, then end the connection of the last one; once.

        Raises:
            ValueError: It is less than one.
        """
        check_count("frames", frames)
        self._frames_left = frames

    def refuse(
        self, status: int = 503, body: str | bytes = b"", headers: Mapping[str, str] | None = None, *, times: int = 1
    ) -> None:
        """Answer so many of the next handshakes with an HTTP error: a status from 400 to 599, its body and headers."""
        self.refusals.extend([RefuseConnect(status, body, headers)] * times)

    # ---- for the wires -----------------------------------------------------------------------------------------------

    def passing(self, messages: list[Received]) -> tuple[list[Received], bool]:
        """The messages of one read that get through, and whether the connection is cut after them."""
        passed = [message for message in messages if self.heartbeats or not _is_heartbeat(message)]
        left = self._frames_left
        if left is None:
            return passed, False
        if left > len(passed):
            self._frames_left = left - len(passed)
            return passed, False
        self._frames_left = None
        return passed[:left], True


class FaultyWire(ServerWire):
    """A connection with faults: input passes through here before the driver gets it."""

    def __init__(self, *args: Any, faults: Faults, tap: Wiretap, **options: Any) -> None:
        super().__init__(*args, **options)
        self._faults = faults
        self._tap = tap
        self._number = 0  # the wiretap's number for it, once it is open
        self._driver: WireEvents  # set when the handshake is over
        self._late: deque[asyncio.TimerHandle] = deque()

    # ---- from the server ---------------------------------------------------------------------------------------------

    def begin(self, events: WireEvents) -> None:
        self._number = self._tap.connected()
        self._driver = events
        super().begin(self)

    def put(self, data: str | bytes) -> None:
        self._tap.carried(self._number, Side.SERVER, data)
        super().put(data)

    def end(self, code: int, reason: str = "") -> None:
        self._tap.tell(self._number, Side.SERVER, f"closes the connection with {code}")
        super().end(code, reason)

    def drop(self) -> None:
        self._tap.tell(self._number, Side.SERVER, "drops the connection")
        super().drop()

    # ---- from the client ---------------------------------------------------------------------------------------------

    def requested(self, request: HttpRequest) -> None:
        if not self._faults.refusals:
            super().requested(request)
            return
        refused = self._faults.refusals.popleft()
        self._tap.tell(0, Side.SERVER, f"refuses a connection with HTTP/1.1 {refused.status}")
        refuse(request, refused)

    def received(self, messages: list[Received], /) -> None:
        passed, cut = self._faults.passing(messages)
        if not self._faults.delay and not self._late:
            self._pass(passed, cut)
            return
        due = self.loop.time() + self._faults.delay
        if self._late:
            due = max(due, self._late[-1].when())  # never before earlier messages
        self._late.append(self.loop.call_at(due, self._pass_next, passed, cut))

    def closed(self, code: int | None, reason: str, /) -> None:
        self._forget_late()
        words = f"is gone: {reason}" if code is None else f"closes the connection with {code}"
        self._tap.tell(self._number, Side.CLIENT, words)
        self._driver.closed(code, reason)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._forget_late()

    def _forget_late(self) -> None:
        while self._late:
            self._late.popleft().cancel()

    def _pass_next(self, messages: list[Received], cut: bool) -> None:
        self._late.popleft()
        self._pass(messages, cut)

    def _pass(self, messages: list[Received], cut: bool) -> None:
        for message in messages:
            self._tap.carried(self._number, Side.CLIENT, message)
        self._driver.received(messages)
        self.flush()
        if cut:
            self.drop()
            self._driver.closed(None, "the test cut the connection")


def _is_heartbeat(message: Received) -> bool:
    request = decoded(message, V2Server(), V1Server())
    return request is not None and bool((request.topic, request.event) == (PHOENIX_TOPIC, HEARTBEAT))
