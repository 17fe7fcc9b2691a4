"""The tables of states, and what every call and every input does in every state of the socket."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from conversation import Conversation

from phx_proto import client_socket
from phx_proto.errors import CertificateError, ConnectError, ConnectionClosedByClient, InvalidState
from phx_proto.handlers.router import Router
from phx_proto.link import Link
from phx_proto.states import CHANNEL, SOCKET, ChannelInput, ChannelState, SocketInput, SocketState

# ---- the tables themselves ------------------------------------------------------------------------------------------

SOCKET_MOVES = """
    idle       connect    resolving
    idle       drain    draining
    idle       end      closed
    resolving  reconnect  resolving
    resolving  dial     opening
    resolving  lost     waiting
    resolving  drain    draining
    resolving  end      closed
    opening    reconnect  resolving
    opening    opened   open
    opening    lost     waiting
    opening    drain    draining
    opening    end      closed
    open       reconnect  resolving
    open       lost     waiting
    open       drain    draining
    open       close    closing
    open       end      closed
    waiting    retry      resolving
    waiting    reconnect  resolving
    waiting    drain    draining
    waiting    end      closed
    draining   lost     draining
    draining   close    closing
    draining   end      closed
    closing    end      closed
"""

CHANNEL_MOVES = """
    idle     join   pending
    idle     end    closed
    pending  send   joining
    pending  fail   errored
    pending  lost   pending
    pending  move   pending
    pending  leave  leaving
    pending  end    closed
    joining  ok     joined
    joining  fail   errored
    joining  lost   pending
    joining  move   pending
    joining  leave  leaving
    joining  end    closed
    joined   fail   errored
    joined   lost   pending
    joined   leave  leaving
    joined   end    closed
    errored  retry  pending
    errored  lost   pending
    errored  leave  leaving
    errored  end    closed
    leaving  end    closed
"""


def moves(text: str) -> dict[tuple[str, str], str]:
    return {(state, by): to for state, by, to in (line.split() for line in text.strip().splitlines())}


def in_words(table: Mapping[tuple[Any, Any], Any]) -> dict[tuple[str, str], str]:
    return {(state.value, by.value): to.value for (state, by), to in table.items()}


@pytest.mark.parametrize("by", SocketInput)
@pytest.mark.parametrize("state", SocketState)
def test_a_socket_moves_as_the_table_says(state: SocketState, by: SocketInput) -> None:
    pair = (state.value, by.value)
    assert in_words(SOCKET).get(pair) == moves(SOCKET_MOVES).get(pair)


@pytest.mark.parametrize("by", ChannelInput)
@pytest.mark.parametrize("state", ChannelState)
def test_a_channel_moves_as_the_table_says(state: ChannelState, by: ChannelInput) -> None:
    pair = (state.value, by.value)
    assert in_words(CHANNEL).get(pair) == moves(CHANNEL_MOVES).get(pair)


@pytest.mark.parametrize(
    ("table", "first", "states"),
    [(SOCKET, SocketState.IDLE, SocketState), (CHANNEL, ChannelState.IDLE, ChannelState)],
    ids=["socket", "channel"],
)
def test_every_state_is_reached_and_leads_to_closed(table: Mapping[Any, Any], first: Any, states: Any) -> None:
    def reachable(start: Any) -> set[Any]:
        reached, new = {start}, {start}
        while new:
            new = {to for (state, _), to in table.items() if state in new} - reached
            reached |= new
        return reached

    assert reachable(first) == set(states)
    assert all(states.CLOSED in reachable(state) for state in states)


@pytest.mark.parametrize("table", [SOCKET, CHANNEL], ids=["socket", "channel"])
def test_closed_is_final(table: Mapping[Any, Any]) -> None:
    assert not [pair for pair in table if pair[0].value == "closed"]


# ---- every call and every input in every state ----------------------------------------------------------------------

IDLE, RESOLVING, OPENING, OPEN, WAITING, DRAINING, CLOSING, CLOSED = SocketState


def idle() -> Conversation:
    router = Router()
    router.add(lambda message: None, "*")
    return Conversation(router=router)


def opening() -> Conversation:
    talk = idle()
    talk.proto.connect(talk.now)
    return talk


def resolving() -> Conversation:
    talk = Conversation(params=dict)
    talk.proto.connect(talk.now)
    return talk


def open_() -> Conversation:
    return idle().connect()


def waiting() -> Conversation:
    talk = open_()
    talk.drop()
    return talk


def draining() -> Conversation:
    talk = open_()
    talk.joined()
    talk.serve("room:1", "tick")
    talk.proto.close(talk.now)
    return talk


def closing() -> Conversation:
    talk = open_()
    talk.proto.disconnect(talk.now)
    return talk


def closed() -> Conversation:
    talk = idle()
    talk.proto.abort(talk.now)
    return talk


MAKE: dict[SocketState, Callable[[], Conversation]] = dict(
    zip(SocketState, [idle, resolving, opening, open_, waiting, draining, closing, closed], strict=True)
)


def link(talk: Conversation) -> Link:
    """The link that counts, or one that does not."""
    socket = talk.proto._sockets.first
    return socket.current_link or Link(socket, 0)


def time_out(talk: Conversation) -> None:
    deadline = talk.proto.next_timeout()
    talk.proto.handle_timeout(talk.now if deadline is None else deadline)


def request(talk: Conversation) -> int:
    talk.commands()
    return talk.questions[0].request if talk.questions else 7


CALLS: dict[str, Callable[[Conversation], object]] = {
    "connect": lambda talk: talk.proto.connect(talk.now),
    "disconnect": lambda talk: talk.proto.disconnect(talk.now),
    "close": lambda talk: talk.proto.close(talk.now),
    "abort": lambda talk: talk.proto.abort(talk.now),
    "reconnect": lambda talk: talk.proto.reconnect(talk.now),
    "ping": lambda talk: talk.ping(),
    "channel": lambda talk: talk.channel("room:2"),
    "opened": lambda talk: link(talk).opened(None, talk.now),
    "refused with 403": lambda talk: link(talk).refused(403, {}, b"", talk.now),
    "refused with 503": lambda talk: link(talk).refused(503, {}, b"", talk.now),
    "failed": lambda talk: link(talk).failed(ConnectError("no route to host"), talk.now),
    "failed on the certificate": lambda talk: link(talk).failed(CertificateError("it has expired"), talk.now),
    "closed": lambda talk: link(talk).closed(1001, "", talk.now),
    "received": lambda talk: link(talk).receive_all(["{not json"], talk.now),
    "progressed": lambda talk: link(talk).progressed(talk.now),
    "resolved": lambda talk: talk.proto.resolved(request(talk), {}, talk.now),
    "resolve failed": lambda talk: talk.proto.resolve_failed(request(talk), OSError(), talk.now),
    "handled": lambda talk: talk.deliveries(),
    "timeout": time_out,
}

X, C = InvalidState, ConnectionClosedByClient
#: By call: what comes of it in each state; the order of the columns is that of the states.
#                               idle     resolving  opening   open      waiting   draining  closing   closed
OUTCOMES: dict[str, list[Any]] = {
    "connect":                   [OPENING, X,         X,        X,        X,        X,        X,        X],
    "disconnect":                [CLOSED,  CLOSED,    CLOSED,   CLOSING,  CLOSED,   CLOSING,  CLOSING,  CLOSED],
    "close":                     [CLOSED,  CLOSED,    CLOSED,   CLOSING,  CLOSED,   DRAINING, CLOSING,  CLOSED],
    "abort":                     [CLOSED,  CLOSED,    CLOSED,   CLOSED,   CLOSED,   CLOSED,   CLOSED,   CLOSED],
    "reconnect":                 [X,       RESOLVING, OPENING,  OPENING,  OPENING,  X,        X,        X],
    "ping":                      [X,       X,         X,        OPEN,     X,        DRAINING, X,        X],
    "channel":                   [IDLE,    RESOLVING, OPENING,  OPEN,     WAITING,  C,        C,        C],
    "opened":                    [IDLE,    RESOLVING, OPEN,     OPEN,     WAITING,  DRAINING, CLOSING,  CLOSED],
    "refused with 403":          [IDLE,    RESOLVING, CLOSED,   WAITING,  WAITING,  DRAINING, CLOSED,   CLOSED],
    "refused with 503":          [IDLE,    RESOLVING, WAITING,  WAITING,  WAITING,  DRAINING, CLOSED,   CLOSED],
    "failed":                    [IDLE,    RESOLVING, WAITING,  WAITING,  WAITING,  DRAINING, CLOSED,   CLOSED],
    "failed on the certificate": [IDLE,    RESOLVING, CLOSED,   WAITING,  WAITING,  DRAINING, CLOSED,   CLOSED],
    "closed":                    [IDLE,    RESOLVING, WAITING,  WAITING,  WAITING,  DRAINING, CLOSED,   CLOSED],
    "received":                  [IDLE,    RESOLVING, OPENING,  OPEN,     WAITING,  DRAINING, CLOSING,  CLOSED],
    "progressed":                [IDLE,    RESOLVING, OPENING,  OPEN,     WAITING,  DRAINING, CLOSING,  CLOSED],
    "resolved":                  [IDLE,    OPENING,   OPENING,  OPEN,     WAITING,  DRAINING, CLOSING,  CLOSED],
    "resolve failed":            [IDLE,    WAITING,   OPENING,  OPEN,     WAITING,  DRAINING, CLOSING,  CLOSED],
    "handled":                   [IDLE,    RESOLVING, OPENING,  OPEN,     WAITING,  DRAINING, CLOSING,  CLOSED],
    "timeout":                   [IDLE,    WAITING,   WAITING,  OPEN,     OPENING,  CLOSED,   CLOSED,   CLOSED],
}  # fmt: skip


ROWS = [
    pytest.param(state, call, outcome, id=f"{call} while {state.value}")
    for call, outcomes in OUTCOMES.items()
    for state, outcome in zip(SocketState, outcomes, strict=True)
]


@pytest.mark.parametrize(("state", "call", "outcome"), ROWS)
def test_each_call_and_input_leads_where_it_should(state: SocketState, call: str, outcome: Any) -> None:
    talk = MAKE[state]()
    assert talk.proto.state is state
    if isinstance(outcome, SocketState):
        CALLS[call](talk)
        assert talk.proto.state is outcome
        return
    talk.commands(), talk.events(), talk.sent()
    deadline = talk.proto.next_timeout()
    with pytest.raises(outcome) as caught:
        CALLS[call](talk)
    told = {"code": None, "reason": "the client was closed"} if outcome is C else {"call": call, "state": state.value}
    assert vars(caught.value).items() >= told.items()
    assert (talk.proto.state, talk.proto.next_timeout()) == (state, deadline)
    assert (talk.commands(), talk.events(), talk.sent()) == ([], [], [])


def test_every_call_of_the_table_is_tried() -> None:
    assert CALLS.keys() == OUTCOMES.keys()


def test_every_pair_of_the_socket_table_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Recorded(dict[Any, Any]):
        def __getitem__(self, pair: Any) -> Any:
            used.add(pair)
            return super().__getitem__(pair)

    used: set[Any] = set()
    monkeypatch.setattr(client_socket, "SOCKET", Recorded(SOCKET))
    for call, outcomes in OUTCOMES.items():
        for state, outcome in zip(SocketState, outcomes, strict=True):
            if isinstance(outcome, SocketState):
                CALLS[call](MAKE[state]())
    assert used == set(SOCKET)
