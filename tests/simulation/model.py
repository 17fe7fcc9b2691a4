"""The world of `conversation_rules.py`: what an application, an adapter, a network and a server can do to a client.

Each method is a small step, and gives the client the inputs that follow from it. What must hold of it all is in
`contract.py`.
"""

import gc
from collections.abc import Callable
from math import inf
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any, Final

from contract import Call, Life, Watched
from network import Connection, Service, give_params

from phx_proto.channel import Channel
from phx_proto.connection import Connection as CoreConnection
from phx_proto.inbox import Tap
from phx_proto.message import Message
from phx_proto.presence import PRESENCE_DIFF
from phx_proto.queues import Bound
from phx_proto.states import ChannelState, SocketState
from phx_proto.timers import Timer

GIVEN: Final = give_params()


class World(Watched):
    """A client in its network, where time passes and frames travel only as they are told to."""

    # ---- what the application does -----------------------------------------------------------------------------------

    def new_channel(self, topic: str, params: Any, *, tapped: bool, bound: Bound | None) -> Life | None:
        """Make a channel, which works where the topic is free."""
        taken = any(life.topic == topic and not life.over for life in self.lives)
        outcome = self.tell("proto", 0, "channel", topic, params, bound=bound, refused=taken or self.ending)
        if outcome.error is not None:
            return None
        tap = Tap(_put) if tapped else None
        life = Life(len(self.lives), outcome.result, tap, bound)
        self.lives.append(life)
        if self.setup.presence:
            self.tell("channel", life.number, "track_presence")
        if tap is not None:
            self.tell("channel", life.number, "attach", tap)
        return life

    def join(self, life: Life, timeout: float | None) -> None:
        fresh = life.channel.state is ChannelState.IDLE
        life.asked |= fresh
        self.tell("channel", life.number, "join", self.now, timeout=timeout, refused=not fresh)

    def leave(self, life: Life, timeout: float) -> None:
        """Nothing that comes later is to be delivered."""
        if life.left is None:
            life.left = self.read_so_far
        draining = life.channel.state is ChannelState.LEAVING  # perhaps by the client itself, which has time
        outcome = self.tell("channel", life.number, "leave", self.now, timeout=timeout)
        assert life.over
        if draining and self.drained:
            self.calls[outcome.result].deadline = inf

    def push(self, life: Life, event: str, payload: Any, timeout: float) -> None:
        refused = self._refuses(life, payload)
        self.tell("channel", life.number, "push", event, payload, self.now, timeout=timeout, refused=refused)

    def cast(self, life: Life, event: str, payload: Any) -> None:
        self.casts += 1
        self.tell("channel", life.number, "cast", event, payload, self.now, refused=self._refuses(life, payload))

    def ping(self, timeout: float) -> None:
        connection = self.connection
        refused = connection is None or connection.closing
        self.tell("proto", 0, "ping", self.now, timeout=timeout, refused=refused)

    def cancel(self, call: Call) -> None:
        """Give a call up; from here on it has ended."""
        if call.life is None:
            self.tell("proto", 0, "cancel_ping", call.ref)
        else:
            self.tell("channel", call.life.number, "cancel", call.ref, self.now)
        assert self.ended[call.ref] == 1, "a call goes on although it was cancelled"

    def _refuses(self, life: Life, payload: Any) -> bool | None:
        """Whether a channel refuses a push: it must, must not, or may for the pushes that wait already."""
        if not life.asked or life.over or (isinstance(payload, bytes) and self.setup.vsn == 1):
            return True
        return False if life.channel.state is ChannelState.JOINED else None

    # ---- what the adapter does ---------------------------------------------------------------------------------------

    def take(self, limit: int) -> bool:
        """Take a batch of deliveries and look at them; tells whether there was one."""
        while self.runnable:
            queue = self.runnable[0]
            (life,) = [life for life in self.lives if life.channel is queue.channel]
            messages = self.tell("adapter", 0, "take", self.client.queues.index(queue), limit).result
            for message in messages:
                self.look_at(life, queue, message)
            if messages:
                return True
            self.runnable.pop(0)
        return False

    def handle(self) -> bool:
        """Report the oldest batch as handled."""
        if not self.client.hands:
            return False
        self.tell("adapter", 0, "handle", self.now)
        return True

    def read(self) -> bool:
        """What came through taps is read at last."""
        if not self.client.unread:
            return False
        self.tell("adapter", 0, "read", self.now)
        return True

    def answer(self, value: Any = GIVEN) -> bool:
        """Answer the oldest question, with an error perhaps; the client may have forgotten it."""
        if not self.questions:
            return False
        call = "resolve_failed" if isinstance(value, Exception) else "resolved"
        self.tell("proto", 0, call, self.questions.pop(0), value, self.now)
        return True

    def open(self) -> bool:
        """The attempt succeeds."""
        if self.attempt is None:
            return False
        link, self.attempt = self.attempt, None
        service = self.new_service(polled=False)
        self._allowed = False
        self.connections.append(Connection(link, service))
        self.joins.clear()
        self.heard_at = self.now
        self.tell("link", link.number, "opened", "phoenix", self.now)
        return True

    def new_service(self, *, polled: bool) -> Service:
        presence = self.tracker if self.setup.presence else None
        return Service(
            self.setup.vsn, lambda: next(self.numbers), self.answers, self.now, presence=presence, polled=polled
        )

    def give_up_attempt(self, call: str, *arguments: Any) -> None:
        """The attempt is `refused`, or has `failed`."""
        assert self.attempt is not None
        link, self.attempt = self.attempt, None
        self.tell("link", link.number, call, *arguments, self.now)

    def speak_of_old_links(self) -> None:
        """What is told to a link that is over changes nothing."""
        over = [link for number, link in self.client.links.items() if not link.current]
        for link in over[-2:]:
            for call, *arguments in (("receive", "junk"), ("closed", 1000, ""), ("opened", None), ("progressed",)):
                outcome = self.tell("link", link.number, call, *arguments, self.now)
                assert not outcome.commands, "a link that is over is heard"
                assert not outcome.events, "a link that is over is heard"

    # ---- who is present ----------------------------------------------------------------------------------------------

    def change_presence(self, topic: str, who: str, how: str) -> None:
        """Somebody comes, changes or goes, and the server tells all who have the topic."""
        if how == "untrack":
            diff = self.tracker.untrack(topic, who, who)
        else:
            known = self.tracker.find(topic, who, who) is not None
            _, diff = getattr(self.tracker, "update" if known else "track")(topic, who, who, {"at": self.now})
        if diff is not None:
            for connection in self.served:
                connection.service.protocol.broadcast(topic, PRESENCE_DIFF, diff)
                connection.serve()

    # ---- the network -------------------------------------------------------------------------------------------------

    @property
    def served(self) -> list[Connection]:
        """Those on which a server still takes part, the newest last."""
        return [one for one in self.connections if not one.server_over]

    def deliver_to_client(self, limit: int) -> bool:
        """One read of the client."""
        connection = self.connection
        if connection is None:
            return False
        frames, end = connection.read_by_client(limit)
        if frames:
            self.receive(connection.link, frames)
        if end is not None:
            connection.client_over = True
            # Over those frames the client may have dropped the link; then it is told this in vain.
            self.tell("link", connection.link.number, "closed", end.code, end.reason, self.now)
        return bool(frames) or end is not None

    def deliver_to_servers(self, limit: int) -> bool:
        """One read of every server."""
        return sum(one.deliver_to_server(limit, self.now) for one in self.served) > 0

    def flow(self, *, well_behaved: bool = False) -> None:
        """Let everything that is under way arrive and be handled, until all is quiet."""
        for _ in range(1000):
            if well_behaved:
                for connection in self.served:
                    connection.service.behave()
                    connection.serve()
            busy = self.answer() + self.open() + self.deliver_to_servers(100) + self.deliver_to_client(100)
            if not busy + self.take(100) + self.handle() + self.read():
                return
        raise AssertionError("client and server talk without end")

    # ---- time --------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what is due, on both sides."""
        for _ in range(100):
            due = self.client.proto.next_timeout()
            if due is None or due > self.now:
                break
            self.tell("proto", 0, "handle_timeout", self.now)
            due = self.client.proto.next_timeout()
            assert due is None or due >= self.now or due == -inf, "the next timeout is in the past"
        else:
            raise AssertionError("timers set each other anew without end")
        self.check_deadlines()
        for connection in self.served:
            connection.service.protocol.handle_timeout(self.now)
            connection.serve()

    def next_due(self) -> float:
        """When something is due next, by itself."""
        due = self.client.proto.next_timeout()
        return inf if due is None else due

    def pass_time(self, seconds: float, between: Callable[[], None] = lambda: None) -> None:
        """Let time pass from one timeout to the next, and something happen at each."""
        end = self.now + seconds
        for _ in range(1000):
            between()
            due = self.next_due()
            if due > end:
                break
            self.now = max(self.now, due)
            self.tick()
        else:
            raise AssertionError("timers set each other anew without end")
        self.now = end
        self.tick()
        between()

    # ---- the end -----------------------------------------------------------------------------------------------------

    def settle(self, seconds: float = 120.0) -> None:
        """With a healthy network and a server that behaves, all comes to what was asked for."""
        if self.state is SocketState.IDLE:
            self.tell("proto", 0, "connect", self.now)
        self.pass_time(seconds, lambda: self.flow(well_behaved=True))
        wanted = {life.topic: life.channel for life in self.lives if life.asked and not life.over}
        joined = {topic: channel.join_ref for topic, channel in wanted.items() if channel.state is ChannelState.JOINED}
        assert joined.keys() == wanted.keys(), "a channel is not joined at last"
        served = self.served[-1].service.joined if self.served else {}
        assert joined == served, "client and server do not agree on what is joined"
        for topic, channel in wanted.items() if self.setup.presence else ():
            assert channel.present == self.tracker.state(topic), "client and server do not agree on who is present"

    def end(self, how: str) -> None:
        """`close`, `disconnect` or `abort`."""
        self.drained |= how == "close"
        self.tell("proto", 0, how, self.now)

    def check_end(self) -> None:
        """A client that was told to end has ended, and is the same if it is told the same again."""
        assert self.state is SocketState.CLOSED, "the client does not end"
        while self.take(100) or self.handle() or self.read():
            pass
        self.check()
        held = [one for one in reachable(self.client.proto) if isinstance(one, _FORGOTTEN) and not _cancelled(one)]
        assert held == [self.client.proto.unjoined], f"the client still holds {held}"
        if self.setup.again:
            assert self.client.played_again().outputs == self.client.outputs, "the same inputs gave other outputs"


def reachable(root: object) -> list[object]:
    """All that an object holds, and what that holds; not what belongs to a module."""
    found = {id(root): root}
    waiting = [root]
    while waiting:
        for one in gc.get_referents(waiting.pop()):
            if id(one) not in found and not isinstance(one, _SHARED):
                found[id(one)] = one
                waiting.append(one)
    return list(found.values())


def _cancelled(one: object) -> bool:
    return isinstance(one, Timer) and one.action is None


#: What a client that has ended holds no longer.
_FORGOTTEN: Final = (Channel, CoreConnection, Message, Timer)

_SHARED: Final = (type, ModuleType, FunctionType, BuiltinFunctionType, str, bytes, int, float)


def _put(item: Any) -> None:
    """What a tap of an adapter does; nobody calls it."""
