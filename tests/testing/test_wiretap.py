"""The transcript of a test server's connections."""

import json

import pytest

from phx_proto.errors import HandshakeRefused
from phx_transports.server import ServerChannel
from phx_transports.testing import serve
from phx_transports.testing.transcript import Side
from phx_transports.testing.wiretap import KEPT, Wiretap
from phx_transports.threads import connect

JOIN = '["1","1","room:1","phx_join",{"token":"secret"}]'
OK = '["1","1","room:1","phx_reply",{"status":"ok","response":{}}]'


def told(tap: Wiretap) -> list[str]:
    return [str(entry)[11:] for entry in tap.transcript()]


@pytest.mark.parametrize(
    ("side", "frame", "words"),
    [
        (Side.CLIENT, JOIN, 'client  joins "room:1" {"token":"…"}'),
        (Side.CLIENT, '["1","2","room:1","phx_leave",{}]', 'client  leaves "room:1"'),
        (Side.CLIENT, '["1","2","room:1","shout",[1]]', 'client  pushes "shout" to "room:1" [1]'),
        (
            Side.CLIENT,
            '{"topic":"room:1","event":"shout","payload":1,"ref":"2"}',
            'client  pushes "shout" to "room:1" 1',
        ),
        (Side.CLIENT, '[null,["r"],"room:1",["e"],1]', """client  pushes "['e']" to "room:1" 1"""),
        (Side.CLIENT, "{", "client  sends what is no message (1 long)"),
        (Side.CLIENT, b"\x09", "client  sends what is no message (1 long)"),
        (Side.SERVER, '[null,null,"room:1","n",{}]', 'server  pushes "n" to "room:1" {}'),
        (Side.SERVER, '["1","1","room:1","phx_close",{}]', 'server  closes "room:1"'),
        (Side.SERVER, '["1","1","room:1","phx_error",{"reason":1}]', 'server  crashes "room:1" {"reason":1}'),
        (Side.SERVER, '[null,null,"room:1","n",1e999]', "server  sends what is no message (30 long)"),
        (Side.SERVER, OK, 'server  answers the request 1 on "room:1" with ok {}'),
    ],
)
def test_each_frame_is_told_in_words(side: Side, frame: str | bytes, words: str) -> None:
    tap = Wiretap()
    tap.carried(tap.connected(), side, frame)
    assert told(tap) == ["client  connects", words]


def test_a_reply_is_told_with_what_it_answers() -> None:
    tap = Wiretap()
    number = tap.connected()
    tap.carried(number, Side.CLIENT, JOIN)
    tap.carried(number, Side.SERVER, OK)
    assert told(tap)[-1] == 'server  answers the join of "room:1" with ok {}'


def test_the_latest_is_kept_of_a_flood() -> None:
    tap = Wiretap()
    for number in range(KEPT + 10):
        tap.carried(1, Side.SERVER, json.dumps([None, None, "room:1", "n", number]))
    lines = told(tap)
    assert len(lines) == KEPT
    assert lines[0].endswith(" 10")


def test_what_goes_wrong_is_told_too() -> None:
    with serve({"room:*": ServerChannel}) as server:
        server.faults.refuse(403)
        with pytest.raises(HandshakeRefused):
            connect(server.url, proxy=None)
        server.faults.cut_after(1)
        with connect(server.url, proxy=None) as client:
            client.join("room:1")
    lines = [str(entry)[11:] for entry in server.transcript]
    assert lines[:4] == [
        "server  refuses a connection with HTTP/1.1 403",
        "client  #1 connects",
        'client  #1 joins "room:1" {}',
        "server  #1 drops the connection",
    ]
    assert 'server  #2 answers the join of "room:1" with ok {}' in lines
