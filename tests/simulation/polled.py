"""Long polling between a client and its server: for `polling_rules.py`.

What one side says travels in HTTP requests and their answers, which wait in two streams until they are delivered. Each
request has a connection of its own, so that one may overtake another, and each may be lost, or answered by something
that is no server of Phoenix. `Site` is the server, with a session for each that was opened; to the rest of the
simulation a session is a `Connection`. `PollingWorld` is a `World` whose client may poll, and what must hold of that.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Any, ClassVar, Final, NamedTuple

import msgspec
from model import World
from network import SECRET, Connection, Outcome, Service, Setup

from phx_proto.commands import AbortTransport, Command, PauseSending, ResumeSending, SendRequest
from phx_proto.errors import ConnectError
from phx_proto.link import Link
from phx_proto.longpoll import PollingLink
from phx_proto.server.events import Abort, Close, Send
from phx_proto.server.longpoll import NDJSON, PollRequest, Polls, PollSession, _frames
from phx_proto.states import SocketState

#: Messages in a POST that a server takes, and bytes of several in one that we send.
_MOST: Final = 100
_LARGEST: Final = 2**20

#: Seconds after which a server may end a session that is not polled.
_FORGOTTEN_AFTER: Final = 15.0


@dataclass(slots=True, eq=False)
class Asked:
    """A request under way: the number of its exchange, and where it belongs to."""

    number: int
    link: Link
    request: PollRequest


class Answered(NamedTuple):
    """An answer under way; without a status the connection was lost instead."""

    asked: Asked
    status: int | None
    body: bytes


class Site:
    """The server, and the network before it.

    Attributes:
        asked: Requests that have not reached it.
        answered: What has not reached the client.
        openings: What the next ones that open a session get: `"refuse"` or `"crash"`; when none is left, a session.
        connections: The sessions it has opened, and other connections.
    """

    def __init__(self, service: Callable[[], Service], now: Callable[[], float], connections: list[Connection]) -> None:
        self.asked: deque[Asked] = deque()
        self.answered: deque[Answered] = deque()
        self.openings: deque[str] = deque()
        self.connections = connections
        self.now = now
        self.polls = Polls()
        self._service = service
        self._at_work: dict[PollRequest, Asked] = {}
        self._sessions = 0

    def deliver(self, limit: int) -> bool:
        """Let some requests reach the server; tells whether there were any."""
        some = [self.asked.popleft() for _ in range(min(limit, len(self.asked)))]
        for asked in some:
            self._at_work[asked.request] = asked
            self.take(asked.request)
        return bool(some)

    def take(self, request: PollRequest) -> None:
        """A request reaches the server, perhaps for the second time."""
        self.polls.request(request, self.now())
        self.work()

    def work(self) -> None:
        """Do what can be done now."""
        while self.polls.openings or self.polls.expired:
            for request in self._taken(self.polls.openings):
                self._open(request)
            for session in self._taken(self.polls.expired):
                for connection in self.polled:
                    if connection.session is session:
                        connection.server_ends(None)
                        connection.service.protocol.closed(None, "")
        for connection in self.polled:
            connection.serve()
        for answer in self._taken(self.polls.answers):
            asked = self._at_work.pop(answer.request, None)
            if asked is not None:
                self.answered.append(Answered(asked, answer.status, answer.body))

    def tick(self) -> None:
        """Do what is due."""
        self.polls.timers.fire(self.now())
        self.work()

    def lose(self, lost: Asked) -> None:
        """Neither this request nor its answer arrives; if the server has it, it notices."""
        self.asked = deque(one for one in self.asked if one is not lost)
        self.answered = deque(one for one in self.answered if one.asked is not lost)
        if self._at_work.pop(lost.request, None) is not None:
            for connection in self.polled:
                connection.session.forget(lost.request)

    def restart(self) -> None:
        """The server knows no session any more."""
        for connection in self.polled:
            connection.server_ends(None)
            connection.service.protocol.closed(None, "")
        self.polls = Polls()
        self._at_work.clear()

    @property
    def polled(self) -> "list[PolledConnection]":
        """The sessions that are not over."""
        return [one for one in self.connections if isinstance(one, PolledConnection) and not one.server_over]

    def _open(self, request: PollRequest) -> None:
        how = self.openings.popleft() if self.openings else "open"
        if how == "open":
            self._sessions += 1
            session = self.polls.open(request, f"{SECRET}.{self._sessions:06}", self.now())
            asked = self._at_work.get(request)
            self.connections.append(PolledConnection(asked.link if asked else None, self._service(), session, self))
        else:
            getattr(self.polls, how)(request)

    @staticmethod
    def _taken(items: list[Any]) -> list[Any]:
        taken = items[:]
        items.clear()
        return taken


class PolledConnection(Connection):
    """One session. The client takes part in it from when it has the session's token."""

    def __init__(self, link: Any, service: Service, session: PollSession, site: Site) -> None:
        super().__init__(link, service, client_over=True)
        self.session = session
        self._site = site

    def serve(self) -> None:
        """Let the service work, on one message after the other, and answer what can be answered."""
        self._put()
        protocol, now = self.service.protocol, self._site.now()
        while protocol.ready and (frame := self.session.take(now)) is not None:
            protocol.receive(frame, now)
            self._put()
        self.session.flush()

    def send(self, frame: str | bytes) -> None:
        """A frame for the client, from the service or made up."""
        self.log.append(frame)
        self.session.put(frame)

    def server_ends(self, code: int | None) -> None:
        """The session is over; nobody is told."""
        self.server_over = True
        self.session.end()

    def client_ends(self, code: int | None = None) -> None:
        """The client polls no more."""
        self.client_over = True

    def cut(self) -> None:
        """The requests that are under way are lost, and the client sees it."""
        site = self._site
        lost = [one for one in (*site.asked, *(each.asked for each in site.answered)) if one.link is self.link]
        for asked in lost:
            site.lose(asked)
            site.answered.append(Answered(asked, None, b""))

    def deliver_to_server(self, limit: int, now: float) -> bool:
        """Nothing comes but in requests."""
        return False

    def read_by_client(self, limit: int) -> tuple[list[str | bytes], Any]:
        """Likewise."""
        return [], None

    def _put(self) -> None:
        self.service.work()
        for command in self.service.protocol.commands():
            match command:
                case Send(data):
                    self.send(data)
                case Close() | Abort():
                    self.server_ends(None)


class PollingWorld(World):
    """A world whose client may poll.

    Attributes:
        site: Where to.
        opening: The attempt under way, if it is one to poll.
        under_way: Requests that the client waits for, by the numbers of their exchanges.
        lossy: Whether something was lost that the client cannot know of.
    """

    may_wait: ClassVar[bool] = True

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.site = Site(
            lambda: self.new_service(polled=True),
            lambda: self.now,
            self.connections,
        )
        self.opening: Link | None = None
        self.under_way: dict[int, Asked] = {}
        self.lossy = False
        self._over: dict[int, Asked] = {}
        self._full = False
        self._polled_at = 0.0

    # ---- what the client does ----------------------------------------------------------------------------------------

    def tell(self, target: str, number: int, call: str, *arguments: Any, **options: Any) -> Outcome:
        outcome = super().tell(target, number, call, *arguments, **options)
        connection = self.connection
        if isinstance(connection, PolledConnection):
            connection.closing |= self.state is SocketState.CLOSING
        return outcome

    def carry_out(self, command: Command) -> None:
        match command:
            case SendRequest():
                self._ask(command)
            case PauseSending() | ResumeSending():
                assert self._full is isinstance(command, ResumeSending), "callers are told the same twice"
                self._full = not self._full
            case AbortTransport(link) if isinstance(link, PollingLink):
                self._abort(link)
            case _:
                super().carry_out(command)

    def _ask(self, command: SendRequest) -> None:
        link, headers = command.link, dict(command.headers)
        token = headers.get("x-phoenix-longpoll-token")
        request = PollRequest(command.method, token, headers.get("content-type", ""), command.body)
        asked = Asked(self.client.exchanges.index(command.exchange), link, request)
        if token is None:
            assert self.attempt is None, "two attempts at once"
            assert self.opening is None, "two attempts at once"
            assert self.connection is None, "an attempt beside a connection"
            assert link.number == max(self.client.links), "a link is opened twice"
            self.opening = link
        else:
            connection = self.connection
            assert isinstance(connection, PolledConnection), "a request without a session"
            assert connection.link is link, "a request of an old session"
            assert token == connection.session.token, "a request with another token"
            same = [one for one in self.under_way.values() if one.link is link and one.request.method == command.method]
            assert not same, "two requests of a kind at once"
            if command.method == "POST":
                self._post(link, request)
            else:
                self._polled_at = self.now
        self.under_way[asked.number] = asked
        self.site.asked.append(asked)

    def _post(self, link: Link, request: PollRequest) -> None:
        frames = _frames(request)
        if request.content_type == NDJSON:
            assert len(frames) == len(request.body.split(b"\n")) <= _MOST, "the server drops what is over that"
            assert not request.body.endswith(b"\n"), "an empty line kills the session"
        assert len(frames) == 1 or len(request.body) < 1.4 * _LARGEST, "a large body"
        for frame in frames:
            self.sends(link, frame)

    def _abort(self, link: Link) -> None:
        for number in [number for number, asked in self.under_way.items() if asked.link is link]:
            self._over[number] = self.under_way.pop(number)
        self._full = False
        if link is self.opening:
            self.opening = None
            return
        connection = self.connection
        assert connection is not None, "an end without a connection"
        assert connection.link is link, "the end of another connection"
        connection.client_ends()

    # ---- what comes to it --------------------------------------------------------------------------------------------

    def deliver_to_servers(self, limit: int) -> bool:
        return super().deliver_to_servers(limit) + self.site.deliver(limit) > 0

    def deliver_to_client(self, limit: int) -> bool:
        done = super().deliver_to_client(limit)
        for _ in range(min(limit, len(self.site.answered))):
            done = True
            self.arrive(self.site.answered.popleft())
        return done

    def arrive(self, answer: Answered) -> None:
        """An answer, or the loss of it, comes to the client."""
        asked, status, body = answer
        live = self.under_way.pop(asked.number, None) is not None

        def tell() -> None:
            if status is None:
                outcome = self.tell("exchange", asked.number, "failed", ConnectError("it is cut"), self.now)
            else:
                outcome = self.tell("exchange", asked.number, "answered", status, {}, body, self.now)
            assert live or not (outcome.commands or outcome.events), "a request that is over is heard"

        if live and asked.link is self.opening:
            for connection in self.connections:  # perhaps the server knows it no more
                if isinstance(connection, PolledConnection) and connection.session.token.encode() in body:
                    connection.client_over = False
                    self.opening = None
                    self.joins.clear()
            tell()
            self.opening = None if self.opening is asked.link else self.opening
        elif live and asked.request.method == "GET" and (frames := _messages(status, body)):
            self.hear(frames, tell)
        else:
            tell()

    def fail(self, asked: Asked, answer: tuple[int | None, bytes]) -> None:
        """Something else arrives instead of an answer."""
        self.site.lose(asked)
        self.arrive(Answered(asked, *answer))

    def progress(self, asked: Asked) -> None:
        """A part of an answer arrives."""
        self.tell("exchange", asked.number, "progressed", self.now)

    def speak_of_old_requests(self) -> None:
        """What comes of a request that was dropped changes nothing."""
        for asked in list(self._over.values())[-2:]:
            self.arrive(Answered(asked, 200, b'{"status":200,"messages":["junk"]}'))
            self.arrive(Answered(asked, None, b""))

    # ---- time, and what must hold ------------------------------------------------------------------------------------

    @property
    def served(self) -> list[Connection]:
        return sorted(super().served, key=lambda connection: not connection.client_over)  # the client's last

    def tick(self) -> None:
        super().tick()
        self.site.tick()

    def next_due(self) -> float:
        due = self.site.polls.timers.next()
        return min(super().next_due(), inf if due is None else due)

    def check(self) -> None:
        super().check()
        connection = self.connection
        if isinstance(connection, PolledConnection) and self.state is SocketState.OPEN:
            link: Any = connection.link
            methods = {asked.request.method for asked in self.under_way.values() if asked.link is link}
            assert "GET" in methods or link._pace.pending or link._overdue.pending, "nothing polls"
            assert "POST" in methods or not link._queue, "what was sent is not posted"

    def check_deadlines(self) -> None:
        super().check_deadlines()
        connection = self.connection
        if isinstance(connection, PolledConnection) and not connection.closing:
            methods = {asked.request.method for asked in self.under_way.values() if asked.link is connection.link}
            assert "GET" in methods or self.now < self._polled_at + _FORGOTTEN_AFTER, "the session is left to end"

    def settle(self, seconds: float = 60.0) -> None:
        self.site.openings.clear()
        if self.lossy and not self.ending and self.state is not SocketState.IDLE:
            self.tell("proto", 0, "reconnect", self.now)
        super().settle(seconds)


def _messages(status: int | None, body: bytes) -> list[str | bytes]:
    """The messages in the answer to a poll."""
    try:
        answer = msgspec.json.decode(body) if status == 200 else {}
    except msgspec.DecodeError:
        return []
    if not isinstance(answer, dict) or answer.get("status") not in (200, 204):
        return []
    return [one if isinstance(one, str) else msgspec.json.encode(one).decode() for one in answer.get("messages", ())]
