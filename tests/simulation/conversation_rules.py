"""A client and a server over a network that delays and cuts: whatever happens, in any order, the core's contract holds.

Each rule is one thing that an application, an adapter, a network or a server may do. `model.py` is the world in which
they do it, on the connections of `network.py`, and `contract.py` what must hold of it. A run ends well: the client is
closed, after the network has become healthy and all has settled, or in the midst of it all.
"""

from collections.abc import Sequence
from typing import Any, Final

from contract import START, Life
from model import World
from network import SECRET, Connection, Setup, give_params
from player import Machine, rule

from phx_proto.errors import ConnectError
from phx_proto.message import PHX_REPLY
from phx_proto.options import JoinPolicy, Refusal, ServerClose
from phx_proto.queues import Bound, Drop
from phx_proto.states import SocketState

TOPICS: Final = ("room:a", "room:b", "room:c", "room:a", "other")
PARAMS: Final[Sequence[Any]] = (None, {"token": SECRET}, give_params)
BOUNDS: Final = (None, None, None, Bound(2, Drop.OLDEST), Bound(2, Drop.NEWEST))
EVENTS: Final = (
    *("echo", "deny", "twice", "noisy", "flood", "later", "slow", "never", "crash", "stop", "noisy", "echo", "flood"),
)
PAYLOADS: Final[Sequence[Any]] = ({"a": 1}, [1, "b"], None, b"\x00bytes", {"c": {}})
TIMEOUTS: Final = (10.0, 10.0, 0.0, 1.0, 40.0)
SECONDS: Final = (0.001, 0.2, 0.2, 1.0, 1.0, 3.0, 10.0, 31.0, 75.0)
POLICIES: Final = (
    JoinPolicy(),
    JoinPolicy(),
    JoinPolicy(refusal=Refusal.RETRY, server_close=ServerClose.REJOIN),
    JoinPolicy(refusal=Refusal.FINAL, timeout=3.0),
)
ANSWERS: Final[Sequence[Any]] = ({"token": SECRET}, None, RuntimeError(SECRET), float("inf"))
#: What arrives at once: nothing, what the client says, what the server says, or all that they have to say.
THEN: Final = ("", "to server", "to client", "flow", "flow")
BOTH: Final = (False, True)
FEW: Final = range(1, 8)
PICK: Final = range(6)
JUNK: Final = (
    "",
    "junk",
    b"",
    b"\x09\x01",
    "[1,2,3]",
    f'["{SECRET}",{{"x":"{SECRET}"}}]',
    '[null,null,"room:a","phx_reply",{}]',
    '[null,"999999","room:a","phx_reply",{"status":"ok","response":{}}]',
    '["old",null,"room:a","news",{"n":-1}]',
    '["old","old","room:a","phx_close",{}]',
    '["old","old","room:b","phx_error",{}]',
    '["old","1","room:a","phx_join",{}]',
    '[null,null,"nowhere","news",{"n":-1}]',
    '{"topic":"nowhere","event":"news","payload":{"n":-1},"ref":null}',
    '{"topic":"room:a","event":"phx_error","payload":{},"ref":"old"}',
)


class Conversation(Machine):
    """Everything that may happen."""

    world: World

    @rule(
        vsn=(2, 2, 1),
        callables=BOTH,
        seed=(None, None, *range(10)),
        policy=POLICIES,
        topics=("", "a", "ab", "abc", "abc", "abc"),
        bound=BOUNDS,
        settled=BOTH,
        ending=("close", "disconnect", "abort"),
        in_bytes=(False, False, True),
        presence=BOTH,
        again=(False, False, False, True),
    )
    def begin(self, topics: str, bound: Bound | None, settled: bool, ending: str, **options: Any) -> None:
        """Many runs begin with some topics joined."""
        self.world = self.make_world(Setup(**options))
        self.settled = settled
        self.ending = ending
        for name in topics:
            bound = bound if name == "a" else None
            life = self.world.new_channel(f"room:{name}", None, tapped=name == "c", bound=bound)
            assert life is not None
            self.world.join(life, None)
        if topics:
            self.world.tell("proto", 0, "connect", START)
            self.world.flow()

    def make_world(self, setup: Setup) -> World:
        return World(setup)

    # ---- the application --------------------------------------------------------------------------------------------

    @rule(lambda self: self.world.state is SocketState.IDLE, timeout=(float("inf"), 30.0))
    def connect(self, timeout: float) -> None:
        self.world.tell("proto", 0, "connect", self.world.now, timeout=timeout)

    @rule(
        topic=TOPICS,
        params=PARAMS,
        tapped=BOTH,
        bound=BOUNDS,
        joins=(True, True, True, False),
        then=THEN,
    )
    def new_channel(self, topic: str, params: Any, tapped: bool, bound: Bound | None, joins: bool, then: str) -> None:
        life = self.world.new_channel(topic, params, tapped=tapped and bound is None, bound=bound)
        if life is not None and joins:
            self.world.join(life, None)
        self.then(then)

    @rule(lambda self: self.world.lives, pick=PICK, timeout=(None, *TIMEOUTS), then=THEN)
    def join(self, pick: int, timeout: float | None, then: str) -> None:
        self.world.join(self.life(pick), timeout)
        self.then(then)

    @rule(lambda self: self.lively, pick=PICK, timeout=TIMEOUTS, then=THEN)
    def leave(self, pick: int, timeout: float, then: str) -> None:
        self.world.leave(self.life(pick), timeout)
        self.then(then)

    @rule(lambda self: self.lively, pick=PICK, timeout=TIMEOUTS, bound=BOUNDS, then=THEN)
    def change_channels(self, pick: int, timeout: float, bound: Bound | None, then: str) -> None:
        """Leave a topic, and join it anew at once."""
        old = self.life(pick)
        self.world.leave(old, timeout)
        life = self.world.new_channel(old.topic, None, tapped=bound is None, bound=bound)
        if life is not None:
            self.world.join(life, None)
        self.then(then)

    @rule(lambda self: self.lively, pick=PICK, event=EVENTS, payload=PAYLOADS, timeout=TIMEOUTS, then=THEN)
    def push(self, pick: int, event: str, payload: Any, timeout: float, then: str) -> None:
        self.world.push(self.life(pick), event, payload, timeout)
        self.then(then)

    @rule(lambda self: self.lively, pick=PICK, event=EVENTS, payload=PAYLOADS, then=THEN)
    def cast(self, pick: int, event: str, payload: Any, then: str) -> None:
        self.world.cast(self.life(pick), event, payload)
        self.then(then)

    @rule(timeout=TIMEOUTS, then=THEN)
    def ping(self, timeout: float, then: str) -> None:
        self.world.ping(timeout)
        self.then(then)

    @rule(lambda self: self.world.calls, pick=PICK)
    def cancel(self, pick: int) -> None:
        calls = list(self.world.calls.values())
        self.world.cancel(calls[-1 - pick % len(calls)])

    @rule()
    def reconnect(self) -> None:
        idle = self.world.state is SocketState.IDLE
        self.world.tell("proto", 0, "reconnect", self.world.now, refused=idle or self.world.ending)

    @rule(how=(*("",) * 8, "close", "disconnect"))
    def end(self, how: str) -> None:
        """Seldom, for not much comes after it."""
        if how:
            self.world.end(how)

    # ---- the adapter ------------------------------------------------------------------------------------------------

    @rule(how=("take", "take", "handle", "read"), limit=FEW)
    def work(self, how: str, limit: int) -> None:
        """The handlers get on, but slowly."""
        world = self.world
        {
            "take": lambda: world.take(limit),
            "handle": world.handle,
            "read": world.read,
        }[how]()

    @rule(lambda self: self.world.questions, value=ANSWERS, then=THEN)
    def answer(self, value: Any, then: str) -> None:
        self.world.answer(value)
        self.then(then)

    @rule(lambda self: self.world.attempt, then=THEN)
    def open(self, then: str) -> None:
        self.world.open()
        self.then(then)

    @rule(lambda self: self.world.attempt, status=(None, None, 503, 429, 408, 500, 403, 404), then=THEN)
    def fail_attempt(self, status: int | None, then: str) -> None:
        """The server refuses the handshake, or is not even there."""
        if status is None:
            self.world.give_up_attempt("failed", ConnectError("no route"))
        else:
            self.world.give_up_attempt("refused", status, {"Retry-After": "2", "Set-Cookie": SECRET}, b"no")
        self.then(then)

    @rule()
    def speak_of_old_links(self) -> None:
        self.world.speak_of_old_links()

    # ---- time -------------------------------------------------------------------------------------------------------

    @rule(seconds=SECONDS, how=("live", "live", "stand still", "oversleep"))
    def pass_time(self, seconds: float, how: str) -> None:
        """Everything arrives meanwhile, or nothing; or the adapter comes late to its timer and to what arrives."""
        if how == "live":
            self.world.pass_time(seconds, self.world.flow)
        elif how == "stand still":
            before = self.world.connection
            self.world.pass_time(seconds)
            # A heartbeat within 30 s, 30 s more without an answer, and at most 10 s for which reading was paused.
            assert before is None or before.client_over or seconds <= 70, "a dead connection is kept"
        else:
            self.world.now += seconds

    @rule()
    def next_timeout(self) -> None:
        due = self.world.client.proto.next_timeout()
        if due is not None:
            self.world.now = max(self.world.now, due)
            self.world.tick()

    # ---- the network ------------------------------------------------------------------------------------------------

    @rule()
    def flow(self) -> None:
        self.world.flow()

    @rule(limit=FEW, to=("client", "client", "server"))
    def deliver(self, limit: int, to: str) -> None:
        if to == "client":
            self.world.deliver_to_client(limit)
        else:
            self.world.deliver_to_servers(limit)

    @rule(lambda self: self.is_served, how=("cut", "cut", "disconnect", "drain", "abort", 1000, 1001, 1009, 1011, 1012))
    def lose(self, how: str | int) -> None:
        """The network is cut, or the server ends the connection."""
        connection = self.served
        if how == "cut":
            connection.cut()
        elif isinstance(how, str):
            getattr(connection.service.protocol, how)()
        else:
            connection.server_ends(how)
            connection.service.protocol.closed(None, "")
        connection.serve()

    # ---- the server -------------------------------------------------------------------------------------------------

    @rule(answer=("accept", "refuse", "crash", "wait", "wait"))
    def prepare(self, answer: str) -> None:
        """What the next join gets."""
        self.world.answers.append(answer)

    @rule(
        lambda self: self.is_served and self.served.service.waiting,
        answer=("accept", "accept", "refuse", "crash"),
        then=THEN,
    )
    def answer_join(self, answer: str, then: str) -> None:
        self.served.service.answer_join(answer)
        self.served.serve()
        self.then(then)

    @rule(
        lambda self: self.is_served and (self.served.service.owed or self.served.service.unfinished),
        pick=PICK,
        then=THEN,
    )
    def catch_up(self, pick: int, then: str) -> None:
        """A reply that was put off is sent, or a message handled at last."""
        service = self.served.service
        if service.owed:
            service.pay(service.owed[pick % len(service.owed)])
        else:
            service.finish(service.unfinished[0])
        self.served.serve()
        self.then(then)

    @rule(
        lambda self: self.has_channels,
        pick=PICK,
        event=("news", "news", "noise"),
        times=FEW,
        then=THEN,
    )
    def server_pushes(self, pick: int, event: str, times: int, then: str) -> None:
        service = self.served.service
        for _ in range(times):
            service.push(service.channels[pick % len(service.channels)], event)
        self.served.serve()
        self.then(then)

    @rule(topic=TOPICS, who=("ann", "bob"), how=("track", "track", "untrack"), then=THEN)
    def change_presence(self, topic: str, who: str, how: str, then: str) -> None:
        if self.world.setup.presence:
            self.world.change_presence(topic, who, how)
        self.then(then)

    @rule(lambda self: self.has_channels, pick=PICK, times=range(5, 13), reads=range(1, 4))
    def overwhelm(self, pick: int, times: int, reads: int) -> None:
        """More comes than the handlers can take."""
        self.flood(pick, times, reads)

    @rule(lambda self: self.is_served, topic=TOPICS, event=("news", "news", "noise"), then=THEN)
    def server_broadcasts(self, topic: str, event: str, then: str) -> None:
        self.served.service.broadcast(topic, event)
        self.served.serve()
        self.then(then)

    @rule(
        lambda self: self.has_channels,
        pick=PICK,
        how=("crash", "crash", "stop"),
        then=THEN,
    )
    def server_ends_channel(self, pick: int, how: str, then: str) -> None:
        service = self.served.service
        channel = service.channels[pick % len(service.channels)]
        if service.waiting is None or service.waiting.channel is not channel:
            getattr(service.protocol, how)(channel)
        self.served.serve()
        self.then(then)

    @rule(lambda self: self.is_served and self.served.service.past, pick=PICK, then=THEN)
    def straggler(self, pick: int, then: str) -> None:
        """A message of some join comes late, when there is perhaps a newer one."""
        self.served.send(self.served.service.straggler(pick))
        self.then(then)

    @rule(lambda self: self.is_served, frame=JUNK, then=THEN)
    def junk(self, frame: str | bytes, then: str) -> None:
        self.served.send(frame)
        self.then(then)

    @rule(lambda self: self.is_served, pick=PICK, then=THEN)
    def reply_again(self, pick: int, then: str) -> None:
        """A second reply to something."""
        connection = self.served
        replies = [frame for frame in connection.log if _is_reply(frame)]
        if replies:
            connection.send(replies[-1 - pick % len(replies)])
        self.then(then)

    # ---- always -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.world.check()

    def finish(self) -> None:
        world = self.world
        if self.settled:
            world.tick()
            world.settle()
        elif self.is_served and self.served.service.channels:
            self.flood(pick=0, times=9, reads=1)
        world.end(self.ending)
        world.pass_time(20.0, world.flow if self.settled else self.read_slowly)
        world.check_end()

    # ---- picking ----------------------------------------------------------------------------------------------------

    @property
    def lively(self) -> bool:
        return any(not life.over for life in self.world.lives)

    def life(self, pick: int) -> Life:
        """One that lives, or one of all."""
        lives = [life for life in self.world.lives if not life.over]
        lives = self.world.lives if pick == 0 or not lives else lives
        return lives[-1 - pick % len(lives)]

    def flood(self, pick: int, times: int, reads: int) -> None:
        service = self.served.service
        for _ in range(times):
            service.push(service.channels[pick % len(service.channels)])
        self.served.serve()
        for _ in range(reads):
            self.world.deliver_to_client(times // 2 + 1)

    def read_slowly(self) -> None:
        self.world.deliver_to_client(3)

    def then(self, what: str) -> None:
        if what == "to server":
            self.world.deliver_to_servers(100)
        elif what == "to client":
            self.world.deliver_to_client(100)
        elif what == "flow":
            self.world.flow()

    @property
    def is_served(self) -> bool:
        return bool(self.world.served)

    @property
    def has_channels(self) -> bool:
        return self.is_served and bool(self.served.service.channels)

    @property
    def served(self) -> Connection:
        return self.world.served[-1]


def _is_reply(frame: str | bytes) -> bool:
    return PHX_REPLY in frame if isinstance(frame, str) else frame[:1] == b"\x01"
